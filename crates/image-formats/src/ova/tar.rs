//! A tar file, member by member (POSIX.1-2024, "ustar Interchange Format" and "pax"; GNU's long names and numbers).

use super::manifest::Digests;
use crate::error::{Error, shorten};
use std::io::{self, Read};

const BLOCK: usize = 512;
const NAME_MAX: usize = 1024;
/// Of what stands in front of a member: its long name, its pax header.
const EXTENSION_MAX: u64 = 64 << 10;
/// Behind the end there may be zeroes.
const PADDING_MAX: u64 = 64 << 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    File,
    Directory,
    /// A link, a device.
    Other,
}

/// What the header of a member says.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Member {
    /// Without `./` in front.
    pub(super) name: String,
    pub(super) kind: Kind,
}

pub(super) struct Tar<R> {
    reader: R,
    shown: String,
    /// Bytes that were read.
    position: u64,
    /// Of the member: where its header begins, what it is called, bytes that are not read yet, and what fills its last block.
    member_at: u64,
    member: String,
    left: u64,
    padding: u64,
    digests: Option<Digests>,
    ended: bool,
}

struct Header {
    name: String,
    kind: u8,
    len: u64,
}

/// What a pax header, or GNU's, says of the member behind it.
#[derive(Default)]
struct Extension {
    name: Option<String>,
    len: Option<u64>,
}

impl<R: Read> Tar<R> {
    pub(super) fn new(reader: R, shown: &str) -> Self {
        Tar {
            reader,
            shown: shown.to_owned(),
            position: 0,
            member_at: 0,
            member: String::new(),
            left: 0,
            padding: 0,
            digests: None,
            ended: false,
        }
    }

    /// The next member; none at the end. What is left of the one before is skipped.
    pub(super) fn next(&mut self) -> Result<Option<Member>, Error> {
        let mut extension = Extension::default();
        loop {
            self.finish_member()?;
            if self.ended {
                return Ok(None);
            }
            let Some(header) = self.read_header()? else {
                self.ended = true;
                return Ok(None);
            };
            (self.left, self.padding) = (header.len, padding(header.len));
            match header.kind {
                b'x' => {
                    let text = self.read_all(EXTENSION_MAX)?;
                    pax(&text, &mut extension).map_err(|what| self.damaged(what))?;
                }
                b'L' => {
                    let text = self.read_all(EXTENSION_MAX)?;
                    extension.name = Some(text_of(&text));
                }
                // Of all members together, and names of links.
                b'g' | b'K' => {}
                kind => {
                    let len = extension.len.unwrap_or(header.len);
                    let name = extension.name.take().unwrap_or(header.name);
                    let name = name.trim_start_matches("./").to_owned();
                    self.member.clone_from(&name);
                    if name.len() > NAME_MAX {
                        return Err(self.damaged("its name is too long"));
                    }
                    let kind = match kind {
                        0 | b'0' if !name.ends_with('/') => Kind::File,
                        0 | b'0' | b'5' => Kind::Directory,
                        _ => Kind::Other,
                    };
                    (self.left, self.padding) = (len, padding(len));
                    return Ok(Some(Member { name, kind }));
                }
            }
        }
    }

    /// From now on, until the end of the member.
    pub(super) fn digest(&mut self, digests: Digests) {
        self.digests = Some(digests);
    }

    /// Reads the rest of a member; answers the digests of what was read since they were asked for.
    pub(super) fn finish_member(&mut self) -> Result<Option<Digests>, Error> {
        let mut buffer = [0; 16 << 10];
        while self.left > 0 {
            self.read_member(&mut buffer).map_err(|e| self.broken(e))?;
        }
        let padding = buffer.get_mut(..self.padding as usize).unwrap_or_default();
        self.padding = 0;
        let read = self.reader.read_exact(padding);
        read.map_err(|e| self.broken(e))?;
        self.position += padding.len() as u64;
        Ok(self.digests.take())
    }

    /// All of a member, which has at most `max` bytes.
    pub(super) fn read_all(&mut self, max: u64) -> Result<Vec<u8>, Error> {
        if self.left > max {
            let what = format!("it has {} bytes, over {max}", self.left);
            return Err(self.damaged(&what));
        }
        let mut bytes = Vec::new();
        while self.left > 0 {
            let at = bytes.len();
            bytes.resize(at + self.left.min(64 << 10) as usize, 0);
            let room = bytes.get_mut(at..).unwrap_or_default();
            let read = self.read_member(room).map_err(|e| self.broken(e))?;
            bytes.truncate(at + read);
        }
        Ok(bytes)
    }

    /// As [`Read::read`], of the member.
    pub(super) fn read_member(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let len = self.left.min(buf.len() as u64) as usize;
        let room = buf.get_mut(..len).unwrap_or_default();
        if room.is_empty() {
            return Ok(0);
        }
        let read = loop {
            match self.reader.read(room) {
                Ok(0) => {
                    let cut = "the archive ends here: it was cut";
                    return Err(io::Error::new(io::ErrorKind::UnexpectedEof, cut));
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                read => break read?,
            }
        };
        (self.position, self.left) = (self.position + read as u64, self.left - read as u64);
        if let Some(digests) = &mut self.digests {
            digests.update(buf.get(..read).unwrap_or_default());
        }
        Ok(read)
    }

    /// Reads what follows the last member: zeroes.
    pub(super) fn end(&mut self) -> Result<(), Error> {
        let mut buffer = vec![0; 64 << 10];
        let end = self.position.saturating_add(PADDING_MAX);
        while self.position < end {
            let read = match self.reader.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                read => read.map_err(|e| self.broken(e))?,
            };
            if !types::is_zero(buffer.get(..read).unwrap_or_default()) {
                break;
            }
            self.position += read as u64;
        }
        Err(self.of_all(&format!(
            "something follows its end, at byte {}",
            self.position
        )))
    }

    /// What is wrong with the member.
    pub(super) fn damaged(&self, what: &str) -> Error {
        Error::invalid(format!("{}: {what}", self.shown_member()))
    }

    /// What is wrong with the whole.
    pub(super) fn of_all(&self, what: &str) -> Error {
        Error::invalid(format!("{}: {what}", self.shown))
    }

    pub(super) fn shown_member(&self) -> String {
        let (shown, member, at) = (&self.shown, shorten(&self.member), self.member_at);
        format!("{shown}, {member} at byte {at}")
    }

    fn broken(&self, e: io::Error) -> Error {
        match e.kind() {
            io::ErrorKind::UnexpectedEof => self.damaged(&format!(
                "the archive ends at byte {}, within it: it was cut",
                self.position
            )),
            _ => Error::io(format!("{} cannot be read", self.shown_member()), e),
        }
    }

    fn read_header(&mut self) -> Result<Option<Header>, Error> {
        self.member_at = self.position;
        self.member = "a header".into();
        let mut block = [0; BLOCK];
        let mut filled = 0;
        while let Some(room) = block.get_mut(filled..).filter(|room| !room.is_empty()) {
            match self.reader.read(room) {
                Ok(0) if filled == 0 => return Ok(None),
                Ok(0) => return Err(self.broken(io::ErrorKind::UnexpectedEof.into())),
                Ok(read) => filled += read,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(self.broken(e)),
            }
        }
        self.position += BLOCK as u64;
        if types::is_zero(&block) {
            return Ok(None);
        }
        let header = Header::decode(&block).map_err(|what| self.damaged(what))?;
        Ok(Some(header))
    }
}

/// What fills the last block.
const fn padding(len: u64) -> u64 {
    (BLOCK as u64 - len % BLOCK as u64) % BLOCK as u64
}

impl Header {
    fn decode(block: &[u8; BLOCK]) -> Result<Self, &'static str> {
        let field = |from: usize, len: usize| block.get(from..from + len).unwrap_or_default();
        let sum: u64 = block.iter().map(|byte| u64::from(*byte)).sum();
        let own: u64 = field(148, 8).iter().map(|byte| u64::from(*byte)).sum();
        // The checksum is of a header that has spaces in its place.
        if number(field(148, 8)) != Some(sum - own + 8 * u64::from(b' ')) {
            return Err("the checksum of the header is wrong");
        }
        let mut name = text_of(field(0, 100));
        let prefix = text_of(field(345, 155));
        if field(257, 6) == b"ustar\0" && !prefix.is_empty() {
            name = format!("{prefix}/{name}");
        }
        Ok(Header {
            name,
            kind: *field(156, 1).first().unwrap_or(&0),
            len: number(field(124, 12)).ok_or("its length makes no sense")?,
        })
    }
}

/// Octal digits, or GNU's: a bit, and a big-endian number.
fn number(field: &[u8]) -> Option<u64> {
    if let Some((0x80, rest)) = field.split_first() {
        return rest.iter().try_fold(0u64, |number, byte| {
            number.checked_mul(256)?.checked_add(u64::from(*byte))
        });
    }
    let text = text_of(field);
    match text.trim() {
        "" => Some(0),
        digits => u64::from_str_radix(digits, 8).ok(),
    }
}

/// Up to the first zero.
fn text_of(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0);
    let text = bytes.get(..end.unwrap_or(bytes.len()));
    String::from_utf8_lossy(text.unwrap_or_default()).into_owned()
}

/// Records `LENGTH KEY=VALUE\n`; the length is of all of it.
fn pax(text: &[u8], extension: &mut Extension) -> Result<(), &'static str> {
    const BAD: &str = "its pax header makes no sense";
    let mut rest = text;
    while !rest.is_empty() {
        let space = rest.iter().position(|byte| *byte == b' ').ok_or(BAD)?;
        let digits = std::str::from_utf8(rest.get(..space).unwrap_or_default());
        let len: usize = digits.ok().and_then(|len| len.parse().ok()).ok_or(BAD)?;
        let record = rest.get(space + 1..len).ok_or(BAD)?;
        let record = record.strip_suffix(b"\n").ok_or(BAD)?;
        let equals = record.iter().position(|byte| *byte == b'=').ok_or(BAD)?;
        let (key, value) = record.split_at(equals);
        let value = String::from_utf8_lossy(value.get(1..).unwrap_or_default());
        match key {
            b"path" => extension.name = Some(value.into_owned()),
            b"size" => extension.len = Some(value.parse().map_err(|_| BAD)?),
            _ => {}
        }
        rest = rest.get(len..).unwrap_or_default();
    }
    Ok(())
}
