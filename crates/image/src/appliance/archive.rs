//! The tar file of an appliance: descriptor, manifest, disks.
//!
//! The first two say what the disks are, and are written last, into places that were left for them: a disk need not be there any
//! more when the next one comes.

use super::descriptor::{Disk, descriptor};
use crate::{error::Error, target::cannot};
use sha2::{Digest, Sha256};
use std::{
    fs::File,
    io::{self, BufReader, BufWriter, Read, Seek},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    time::Duration,
};
use tar::{Builder, Header};
use types::Cancelled;

/// Bytes that are read and written at once.
const PART: usize = 1 << 20;
/// What a tar file is made of.
const BLOCK: u64 = 512;

/// What members are called, and the machine.
pub(super) struct Names {
    /// The machine.
    pub(super) machine: String,
    /// What all members' names begin with.
    stem: String,
}

impl Names {
    /// Of an archive at `path`. A member's name has nothing that a reference in the descriptor has to quote.
    pub(super) fn of(path: &Path) -> Self {
        const STEM_MAX: usize = 64;
        let name = path.file_stem().unwrap_or_default().to_string_lossy();
        // No XML has these, however they are written.
        let forbidden = |c: char| c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}');
        let machine = name.replace(forbidden, "-");
        let kept = |c: char| match c {
            'a'..='z' | 'A'..='Z' | '0'..='9' | '.' | '_' | '-' => c,
            _ => '-',
        };
        Names {
            stem: machine.chars().map(kept).take(STEM_MAX).collect(),
            machine,
        }
    }

    fn descriptor(&self) -> String {
        format!("{}.ovf", self.stem)
    }

    fn manifest(&self) -> String {
        format!("{}.mf", self.stem)
    }

    /// Of the disk of that number.
    pub(super) fn disk(&self, number: usize) -> String {
        format!("{}-disk{number}.vmdk", self.stem)
    }
}

/// One that is being written.
pub(super) struct Archive {
    tar: Builder<BufWriter<File>>,
    path: PathBuf,
    names: Names,
    made: Duration,
    descriptor: Place,
    manifest: Place,
    disks: Vec<Disk>,
    digests: Vec<String>,
}

/// Where a member's bytes are to be.
struct Place {
    start: u64,
    len: usize,
}

impl Archive {
    /// Begins one at `path`, of a machine with disks of so many bytes, at the time `made`.
    pub(super) fn create(
        path: &Path,
        names: Names,
        capacities: &[u64],
        made: Duration,
    ) -> Result<Self, Error> {
        let file = File::create_new(path).map_err(cannot("create", path))?;
        let disks = capacities.iter().enumerate();
        let disks: Vec<Disk> = disks
            .map(|(at, capacity)| Disk {
                member: names.disk(at + 1),
                // More than it will be, so that there is room for it.
                member_len: u64::MAX,
                capacity: *capacity,
            })
            .collect();
        let mut archive = Archive {
            tar: Builder::new(BufWriter::with_capacity(PART, file)),
            path: path.to_owned(),
            made,
            descriptor: Place { start: 0, len: 0 },
            manifest: Place { start: 0, len: 0 },
            digests: vec![digest_of(b""); disks.len()],
            names,
            disks,
        };
        let text = descriptor(&archive.names.machine, &archive.disks);
        archive.descriptor = archive.leave_room(&archive.names.descriptor(), text.len())?;
        let text = archive.manifest_text(&text);
        archive.manifest = archive.leave_room(&archive.names.manifest(), text.len())?;
        Ok(archive)
    }

    fn leave_room(&mut self, name: &str, len: usize) -> Result<Place, Error> {
        let zeroes = io::repeat(0).take(len as u64);
        self.append(name, len as u64, zeroes)
            .map_err(cannot("write", &self.path))?;
        let end = self.tar.get_mut().stream_position();
        let end = end.map_err(cannot("write", &self.path))?;
        let start = end - (len as u64).next_multiple_of(BLOCK);
        Ok(Place { start, len })
    }

    fn append(&mut self, name: &str, len: u64, content: impl Read) -> io::Result<()> {
        let mut header = Header::new_ustar();
        header.set_mode(0o644);
        header.set_mtime(self.made.as_secs());
        header.set_size(len);
        self.tar.append_data(&mut header, name, content)
    }

    /// Appends the file of the disk of that number, counted from 0.
    pub(super) fn append_disk(
        &mut self,
        at: usize,
        file: &Path,
        watch: &dyn Fn() -> Result<(), Cancelled>,
    ) -> Result<(), Error> {
        let opened = File::open(file).map_err(cannot("open", file))?;
        let len = opened.metadata().map_err(cannot("look at", file))?.len();
        let mut content = Watched {
            reader: BufReader::with_capacity(PART, opened),
            digest: Sha256::new(),
            watch,
        };
        let name = self.disks[at].member.clone();
        let appended = self.append(&name, len, &mut content);
        watch()?;
        appended.map_err(cannot("write", &self.path))?;
        self.disks[at].member_len = len;
        self.digests[at] = hex(&content.digest.finalize());
        Ok(())
    }

    /// Ends it, and writes what says what is in it.
    pub(super) fn finish(self) -> Result<(), Error> {
        let mut text = descriptor(&self.names.machine, &self.disks);
        // Behind the last element there may be space.
        text.resize(self.descriptor.len, b' ');
        let manifest = self.manifest_text(&text);
        let ended = self.tar.into_inner().and_then(|writer| {
            let file = writer.into_inner()?;
            file.write_all_at(&text, self.descriptor.start)?;
            file.write_all_at(&manifest, self.manifest.start)
        });
        ended.map_err(cannot("write", &self.path))
    }

    /// A line for each member; its length does not depend on digests.
    fn manifest_text(&self, descriptor: &[u8]) -> Vec<u8> {
        let members = self.disks.iter().map(|disk| disk.member.clone());
        let members = std::iter::once(self.names.descriptor()).chain(members);
        let digests = std::iter::once(digest_of(descriptor)).chain(self.digests.iter().cloned());
        let lines = members.zip(digests);
        let lines = lines.map(|(member, digest)| format!("SHA256({member})= {digest}\n"));
        lines.collect::<String>().into_bytes()
    }
}

fn digest_of(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What is read, with its digest; whoever watches may end it.
struct Watched<'a> {
    reader: BufReader<File>,
    digest: Sha256,
    watch: &'a dyn Fn() -> Result<(), Cancelled>,
}

impl Read for Watched<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        (self.watch)().map_err(io::Error::other)?;
        let read = self.reader.read(buf)?;
        self.digest.update(&buf[..read]);
        Ok(read)
    }
}
