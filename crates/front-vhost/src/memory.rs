//! The guest's memory, as far as its virtual machine monitor shared it with us.
//!
//! Everything here is addressed by the guest and written by it while we look, so an address is resolved with all checks
//! each time, and what was read once is not read again to decide the same thing.
//!
//! # What protects the daemon
//! Whoever has a mapping of a file that is cut off dies of `SIGBUS` when it touches what is gone. The guest cannot do
//! that: the file is its monitor's, not its own. Against a monitor that has been taken over: a region must lie within
//! its file, the file must be a regular one, and where the file can be sealed against shrinking it is sealed before
//! it is mapped (QEMU's `memory-backend-memfd` does so by itself). Only a shared file in a file system, which knows no
//! seals (`memory-backend-file`), is left to the good conduct of the process that owns it.
#![expect(
    unsafe_code,
    reason = "bytes that a guest shares are reached by address"
)]

use rustix::fs::{FileType, SealFlags};
use std::{
    fs::File,
    io,
    ptr::NonNull,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
};
use vm_memory::{FileOffset, mmap::MmapRegion};

/// Why something that a guest said is not true. It ends the queue that it was said on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Broken(pub(crate) &'static str);

/// A file, or a part of one, in our address space.
pub(crate) struct Mapping {
    map: MmapRegion,
    /// Of what was asked for, within the map.
    start: usize,
    len: usize,
}

impl Mapping {
    /// Maps `len` bytes of `file` from `offset`, shared.
    ///
    /// # Errors
    /// The file is none, or ends before.
    pub(crate) fn new(file: File, offset: u64, len: u64) -> io::Result<Self> {
        let invalid = |what: &str| io::Error::new(io::ErrorKind::InvalidInput, what);
        // Where seals exist this holds for good; where they do not, the error says nothing that could be acted upon.
        let _ = rustix::fs::fcntl_add_seals(&file, SealFlags::SHRINK);
        let stat = rustix::fs::fstat(&file)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(invalid("shared memory is no regular file"));
        }
        let end = offset.checked_add(len).filter(|_| len > 0);
        if end.is_none_or(|end| end > stat.st_size as u64) {
            return Err(invalid("shared memory is longer than its file"));
        }
        // Huge pages are mapped whole: their size is the file's block size.
        let page = (stat.st_blksize as u64).next_power_of_two().max(4096);
        let start = offset % page;
        let map = MmapRegion::from_file(
            FileOffset::new(file, offset - start),
            usize::try_from(start + len).map_err(io::Error::other)?,
        );
        Ok(Mapping {
            map: map.map_err(io::Error::other)?,
            start: start as usize,
            len: len as usize,
        })
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Where `[at, at + len)` of it is, if it is within.
    pub(crate) fn at(&self, at: u64, len: u64) -> Option<NonNull<u8>> {
        let end = at.checked_add(len)?;
        if end > self.len as u64 {
            return None;
        }
        // SAFETY: within the map, which has `start + len` bytes.
        NonNull::new(unsafe { self.map.as_ptr().add(self.start + at as usize) })
    }
}

/// A part of the guest's memory.
#[derive(Clone)]
pub(crate) struct Region {
    /// Where the guest has it.
    pub(crate) guest: u64,
    /// Where its monitor has it: rings are told by this address.
    pub(crate) user: u64,
    pub(crate) mapping: Arc<Mapping>,
}

impl Region {
    fn len(&self) -> u64 {
        self.mapping.len() as u64
    }

    fn overlaps(&self, other: &Region) -> bool {
        let apart = |a: u64, a_len: u64, b: u64, b_len: u64| {
            a.saturating_add(a_len) <= b || b.saturating_add(b_len) <= a
        };
        !apart(self.guest, self.len(), other.guest, other.len())
    }
}

/// The guest's memory at some time. Whoever has it may use it, also when the monitor has told of another since.
#[derive(Clone, Default)]
pub(crate) struct Memory {
    regions: Vec<Region>,
    log: Option<Arc<Log>>,
}

/// Neighbouring bytes of one region.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Segment {
    region: u32,
    offset: u64,
    len: u64,
}

impl Segment {
    pub(crate) const fn len(&self) -> usize {
        self.len as usize
    }

    /// Cut in two; `at` is within it.
    pub(crate) const fn split_at(self, at: usize) -> (Segment, Segment) {
        assert!(at as u64 <= self.len, "beyond a segment");
        let at = at as u64;
        let first = Segment { len: at, ..self };
        let second = Segment {
            offset: self.offset + at,
            len: self.len - at,
            ..self
        };
        (first, second)
    }
}

impl Memory {
    /// As many regions as a guest may have.
    pub(crate) const REGIONS_MAX: usize = 509;

    /// With one region more.
    ///
    /// # Errors
    /// It overlaps another, or there are too many.
    pub(crate) fn add(&mut self, region: Region) -> Result<(), Broken> {
        if self.regions.len() >= Self::REGIONS_MAX {
            return Err(Broken("too many memory regions"));
        }
        if self.regions.iter().any(|other| other.overlaps(&region)) {
            return Err(Broken("memory regions overlap"));
        }
        self.regions.push(region);
        Ok(())
    }

    /// Without the region of that place; `false` if there is none.
    pub(crate) fn remove(&mut self, guest: u64, len: u64) -> bool {
        let before = self.regions.len();
        self.regions.retain(|r| r.guest != guest || r.len() != len);
        self.regions.len() < before
    }

    pub(crate) fn set_log(&mut self, log: Option<Arc<Log>>) {
        self.log = log;
    }

    /// Appends where `[guest, guest + len)` is; neighbours are joined.
    pub(crate) fn resolve(
        &self,
        mut guest: u64,
        mut len: u64,
        out: &mut Vec<Segment>,
    ) -> Result<(), Broken> {
        while len > 0 {
            let (region, offset, room) = self.find(guest).ok_or(OUTSIDE)?;
            let part = len.min(room);
            match out.last_mut() {
                Some(last) if last.region == region && last.offset + last.len == offset => {
                    last.len += part;
                }
                _ => out.push(Segment {
                    region,
                    offset,
                    len: part,
                }),
            }
            len -= part;
            // It cannot be followed by anything if it ends with the address space.
            guest = guest.wrapping_add(part);
        }
        Ok(())
    }

    /// The region that has `guest`, where in it, and how much of it follows.
    fn find(&self, guest: u64) -> Option<(u32, u64, u64)> {
        self.regions.iter().enumerate().find_map(|(at, region)| {
            let offset = guest.checked_sub(region.guest)?;
            let room = region.len().checked_sub(offset).filter(|&room| room > 0)?;
            Some((at as u32, offset, room))
        })
    }

    /// Where the monitor's address `user` is, with `len` bytes in one region behind it.
    pub(crate) fn ring(&self, user: u64, len: u64) -> Result<NonNull<u8>, Broken> {
        let place = |region: &Region| region.mapping.at(user.checked_sub(region.user)?, len);
        let found = self.regions.iter().find_map(place);
        found.ok_or(Broken("a ring lies outside of the guest's memory"))
    }

    fn place(&self, segment: Segment) -> NonNull<u8> {
        let region = &self.regions[segment.region as usize];
        let place = region.mapping.at(segment.offset, segment.len);
        place.expect("a segment lies within its region")
    }

    /// Lends a segment to be read. The guest may write to it meanwhile: whoever reads it must be content with any
    /// bytes, and not expect to find the same twice.
    pub(crate) fn read<T>(&self, segment: Segment, body: impl FnOnce(&[u8]) -> T) -> T {
        let place = self.place(segment);
        // SAFETY: `len` bytes of a mapping that lives as long as we do. The guest can change them, which devices must
        // put up with (see above, and `block::BlockDevice::write`): they are copied, hashed or compressed, in
        // code whose memory accesses do not depend on what they are.
        body(unsafe { std::slice::from_raw_parts(place.as_ptr(), segment.len()) })
    }

    /// Lends a segment to be written. The guest may look at it, and write to it, meanwhile.
    pub(crate) fn write<T>(&self, segment: Segment, body: impl FnOnce(&mut [u8]) -> T) -> T {
        let place = self.place(segment);
        // SAFETY: as above; nothing of ours is in this memory, so nobody relies on it but the guest.
        let done = body(unsafe { std::slice::from_raw_parts_mut(place.as_ptr(), segment.len()) });
        self.note_written(segment);
        done
    }

    /// Copies what is at `guest`.
    ///
    /// # Errors
    /// It is not all in memory.
    pub(crate) fn read_at(&self, guest: u64, out: &mut [u8]) -> Result<(), Broken> {
        let (mut at, mut rest) = (guest, out);
        while !rest.is_empty() {
            let (region, offset, room) = self.find(at).ok_or(OUTSIDE)?;
            let len = room.min(rest.len() as u64);
            let segment = Segment {
                region,
                offset,
                len,
            };
            let (part, later) = rest.split_at_mut(len as usize);
            self.read(segment, |bytes| part.copy_from_slice(bytes));
            rest = later;
            at = at.wrapping_add(len);
        }
        Ok(())
    }

    /// Copies from `segments` as much as there is of them and of `out`.
    pub(crate) fn gather(&self, segments: &[Segment], out: &mut [u8]) {
        let mut rest = out;
        for &segment in segments {
            let (part, later) = rest.split_at_mut(segment.len().min(rest.len()));
            self.read(segment.split_at(part.len()).0, |bytes| {
                part.copy_from_slice(bytes);
            });
            rest = later;
        }
    }

    /// Copies `data` to `segments`, as much as there is of both.
    pub(crate) fn scatter(&self, segments: &[Segment], data: &[u8]) {
        let mut rest = data;
        for &segment in segments {
            let (part, later) = rest.split_at(segment.len().min(rest.len()));
            self.write(segment.split_at(part.len()).0, |bytes| {
                bytes.copy_from_slice(part);
            });
            rest = later;
        }
    }

    fn note_written(&self, segment: Segment) {
        if self.log.is_some() {
            let guest = self.regions[segment.region as usize].guest + segment.offset;
            self.log_write(guest, segment.len);
        }
    }

    /// Notes for a migration that something was written at the guest's address.
    pub(crate) fn log_write(&self, guest: u64, len: u64) {
        if let Some(log) = &self.log {
            log.mark(guest, len);
        }
    }
}

const OUTSIDE: Broken = Broken("a buffer lies outside of the guest's memory");

/// Which pages of the guest were written since its monitor looked last: a bit each (vhost-user, "Migration").
pub(crate) struct Log(pub(crate) Mapping);

impl Log {
    const PAGE: u64 = 4096;

    fn mark(&self, guest: u64, len: u64) {
        if len == 0 {
            return;
        }
        let last = guest.saturating_add(len - 1) / Self::PAGE;
        for page in guest / Self::PAGE..=last {
            // Memory that the log does not cover is not to be migrated.
            let Some(byte) = self.0.at(page / 8, 1) else {
                return;
            };
            // SAFETY: one byte of a mapping; the monitor takes it with atomic operations too.
            let byte = unsafe { AtomicU8::from_ptr(byte.as_ptr()) };
            byte.fetch_or(1 << (page % 8), Ordering::Relaxed);
        }
    }
}
