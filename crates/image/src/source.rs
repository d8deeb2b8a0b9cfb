//! What an image is read from: files with holes, and streams.

use crate::error::Error;
use env::File;
use image_formats::StreamOptimized;
use std::{
    io::{self, Read},
    ops::Range,
    sync::Arc,
};
use types::{BLOCK_SIZE, size::format_size};

/// What was read: that many bytes from there.
pub(crate) struct Piece {
    /// A multiple of [`BLOCK_SIZE`], at or after the end of the piece before.
    pub(crate) start: u64,
    /// Not zero; a multiple of [`BLOCK_SIZE`] unless the image ends here.
    pub(crate) len: usize,
}

/// The bytes of an image in order, without some of its zeroes.
pub(crate) trait Input: Send {
    /// Reads on into `buffer`, which holds whole blocks; none at the end.
    fn next(&mut self, buffer: &mut [u8]) -> Result<Option<Piece>, Error>;
    /// Bytes of the image, as far as they are known: all of them at the end.
    fn len(&self) -> u64;
}

/// A file or a block device that is a raw image.
pub(crate) struct FileInput {
    file: Arc<dyn File>,
    shown: String,
    len: u64,
    /// Data that is not read yet.
    data: Range<u64>,
}

impl FileInput {
    pub(crate) fn new(file: Arc<dyn File>, source: &image_formats::Source) -> Self {
        FileInput {
            file,
            shown: source.shown().to_owned(),
            len: source.len(),
            data: 0..0,
        }
    }

    /// The next data, in whole blocks, after what was read already.
    fn find_data(&self) -> Result<Option<Range<u64>>, Error> {
        let block = BLOCK_SIZE as u64;
        let from = self.data.end;
        if from >= self.len {
            return Ok(None);
        }
        let cannot = |e| Error::io(format!("cannot look for holes in {}", self.shown), e);
        let Some(found) = self.file.next_data(from).map_err(cannot)? else {
            return Ok(None);
        };
        // Holes may begin and end within blocks; what lies between blocks of data reads as zeroes.
        let start = (found.start / block * block).max(from);
        let end = found.end.next_multiple_of(block).min(self.len);
        Ok((start < end).then_some(start..end))
    }
}

impl Input for FileInput {
    fn next(&mut self, buffer: &mut [u8]) -> Result<Option<Piece>, Error> {
        if self.data.is_empty() {
            let Some(data) = self.find_data()? else {
                return Ok(None);
            };
            self.data = data;
        }
        let start = self.data.start;
        let len = (self.data.end - start).min(buffer.len() as u64) as usize;
        self.file.read_at(start, &mut buffer[..len]).map_err(|e| {
            let what = match e.kind() {
                io::ErrorKind::UnexpectedEof => "was cut while it was read",
                _ => "cannot be read",
            };
            Error::io(format!("{} {what} at byte {start}", self.shown), e)
        })?;
        self.data.start += len as u64;
        Ok(Some(Piece { start, len }))
    }

    fn len(&self) -> u64 {
        self.len
    }
}

/// A file, from its beginning to its end.
pub(crate) struct SourceReader {
    source: image_formats::Source,
    position: u64,
}

impl SourceReader {
    pub(crate) const fn new(source: image_formats::Source) -> Self {
        let position = 0;
        SourceReader { source, position }
    }
}

impl Read for SourceReader {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let left = self.source.len().saturating_sub(self.position);
        let len = left.min(buf.len() as u64) as usize;
        let read = self.source.read_at(self.position, &mut buf[..len]);
        read.map_err(io::Error::other)?;
        self.position += len as u64;
        Ok(len)
    }
}

/// A stream, read to its end.
pub(crate) struct StreamInput<'a> {
    reader: &'a mut (dyn Read + Send),
    position: u64,
    len_max: u64,
}

impl<'a> StreamInput<'a> {
    /// A stream that must not be longer than `len_max` bytes.
    pub(crate) fn new(reader: &'a mut (dyn Read + Send), len_max: u64) -> Self {
        StreamInput {
            reader,
            position: 0,
            len_max,
        }
    }
}

impl Input for StreamInput<'_> {
    fn next(&mut self, buffer: &mut [u8]) -> Result<Option<Piece>, Error> {
        let start = self.position;
        let len = fill(self.reader, buffer)
            .map_err(|e| Error::io(format!("reading the stream failed after byte {start}"), e))?;
        self.position += len as u64;
        if self.position > self.len_max {
            return Err(Error::invalid(format!(
                "the stream is longer than the volume's {}; ask for a larger size",
                format_size(self.len_max)
            )));
        }
        Ok((len > 0).then_some(Piece { start, len }))
    }

    fn len(&self) -> u64 {
        self.position
    }
}

impl<R: Read + Send> Input for StreamOptimized<R> {
    fn next(&mut self, buffer: &mut [u8]) -> Result<Option<Piece>, Error> {
        let read = StreamOptimized::next(self, buffer)?;
        Ok(read.map(|(start, len)| Piece { start, len }))
    }

    fn len(&self) -> u64 {
        self.size()
    }
}

/// Reads until `buffer` is full or the stream ends.
pub(crate) fn fill(reader: &mut dyn Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match reader.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(filled)
}
