//! Memory that outlives the process.

#![expect(
    unsafe_code,
    reason = "mapping a file has no safe interface: others could change it"
)]

use crate::AlignedBuf;
use rustix::{
    fs::{FallocateFlags, Mode, OFlags},
    io::Errno,
    mm::{MapFlags, ProtFlags},
};
use std::{fs, io, ops::Range, os::fd::OwnedFd, path::PathBuf, ptr::NonNull, sync::Arc};

/// Memory of the machine that has names: what a process stored there is found by the next one, until the power
/// goes.
pub trait Memory: Send + Sync {
    /// Opens the region `name`, of `len` bytes, or more if it was larger: zeroes where nothing was ever stored. Made
    /// if missing, readable by this user only.
    ///
    /// # Errors
    /// `Unsupported` where memory does not outlive the process.
    fn open(&self, name: &str, len: u64) -> io::Result<Arc<dyn Region>>;
    /// Forgets a region; who has it open keeps it.
    fn remove(&self, name: &str) -> io::Result<()>;
    /// Bytes that regions may still take.
    fn available(&self) -> io::Result<u64>;
}

/// A region of such memory.
pub trait Region: Send + Sync {
    /// Where it is. The address stays for the region's life; what it points to is for its users to share.
    fn bytes(&self) -> NonNull<[u8]>;
    /// Takes memory for a range. What was not reserved must not be touched.
    ///
    /// # Errors
    /// `StorageFull` if there is none; nothing of the range can be relied upon then.
    fn reserve(&self, range: Range<u64>) -> io::Result<()>;
    /// Gives memory back: the range is not reserved any more, and zeroes when it is again.
    fn release(&self, range: Range<u64>) -> io::Result<()>;
}

/// Where Linux keeps shared memory.
const SHM: &str = "/dev/shm";
/// What statfs says of a file system in memory.
const TMPFS_MAGIC: i64 = 0x0102_1994;

/// Memory of this machine: files of a tmpfs.
pub struct RealMemory;

impl RealMemory {
    fn path(name: &str) -> PathBuf {
        PathBuf::from(SHM).join(format!("holdfast-{name}"))
    }
}

impl Memory for RealMemory {
    fn open(&self, name: &str, len: u64) -> io::Result<Arc<dyn Region>> {
        let stat = rustix::fs::statfs(SHM)?;
        if stat.f_type != TMPFS_MAGIC {
            let message = format!("{SHM} is not in memory");
            return Err(io::Error::new(io::ErrorKind::Unsupported, message));
        }
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::open(Self::path(name), flags, Mode::RUSR | Mode::WUSR)?;
        let stat = rustix::fs::fstat(&file)?;
        if stat.st_uid != rustix::process::geteuid().as_raw() {
            let message = format!("{} belongs to somebody else", Self::path(name).display());
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, message));
        }
        let there = stat.st_size as u64;
        if there < len {
            rustix::fs::ftruncate(&file, len)?;
        }
        Mapped::new(file, there.max(len)).map(|region| Arc::new(region) as Arc<dyn Region>)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        match fs::remove_file(Self::path(name)) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }

    fn available(&self) -> io::Result<u64> {
        let stat = rustix::fs::statvfs(SHM)?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }
}

struct Mapped {
    file: OwnedFd,
    bytes: NonNull<[u8]>,
}

// SAFETY: the mapping is not tied to a thread; `bytes` is an address, and what is done with it is its user's concern.
unsafe impl Send for Mapped {}
// SAFETY: as above.
unsafe impl Sync for Mapped {}

impl Mapped {
    fn new(file: OwnedFd, len: u64) -> io::Result<Self> {
        let len = usize::try_from(len).map_err(io::Error::other)?;
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping, at an address that the kernel chooses, replaces nothing.
        let start = unsafe {
            rustix::mm::mmap(
                std::ptr::null_mut(),
                len,
                access,
                MapFlags::SHARED,
                &file,
                0,
            )
        }?;
        let start = NonNull::new(start.cast::<u8>()).ok_or(Errno::NOMEM)?;
        Ok(Mapped {
            file,
            bytes: NonNull::slice_from_raw_parts(start, len),
        })
    }
}

impl Region for Mapped {
    fn bytes(&self) -> NonNull<[u8]> {
        self.bytes
    }

    fn reserve(&self, range: Range<u64>) -> io::Result<()> {
        let len = range.end - range.start;
        Ok(rustix::fs::fallocate(
            &self.file,
            FallocateFlags::KEEP_SIZE,
            range.start,
            len,
        )?)
    }

    fn release(&self, range: Range<u64>) -> io::Result<()> {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        let len = range.end - range.start;
        Ok(rustix::fs::fallocate(&self.file, flags, range.start, len)?)
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        // SAFETY: mapped by `new`, unmapped once; who used the address held the region.
        let _ = unsafe { rustix::mm::munmap(self.bytes.as_ptr().cast(), self.bytes.len()) };
    }
}

/// A region on the heap, for who simulates [`Memory`].
#[must_use]
pub fn heap_region(len: u64) -> Arc<dyn Region> {
    Arc::new(Heap(AlignedBuf::zeroed(len as usize)))
}

/// A copy of what a region holds, on the heap. For who simulates [`Memory`], and sees to it that nobody writes
/// meanwhile.
#[must_use]
pub fn heap_copy(region: &dyn Region) -> Arc<dyn Region> {
    let from = region.bytes();
    let mut copy = AlignedBuf::zeroed(from.len());
    // SAFETY: the region lives through the call, all of a simulated one is reserved, and nobody writes to it.
    let bytes = unsafe { from.as_ref() };
    for (from, to) in bytes.chunks(PAGE).zip(copy.chunks_mut(PAGE)) {
        // Most of it was never used, and takes no memory as long as it is not touched.
        if *from != ZEROES[..from.len()] {
            to[..from.len()].copy_from_slice(from);
        }
    }
    Arc::new(Heap(copy))
}

const PAGE: usize = 4096;
static ZEROES: [u8; PAGE] = [0; PAGE];

struct Heap(AlignedBuf);

impl Region for Heap {
    fn bytes(&self) -> NonNull<[u8]> {
        self.0.as_non_null()
    }

    fn reserve(&self, _range: Range<u64>) -> io::Result<()> {
        Ok(())
    }

    fn release(&self, range: Range<u64>) -> io::Result<()> {
        let bytes = self.0.as_non_null();
        let (start, len) = (range.start as usize, (range.end - range.start) as usize);
        assert!(start + len <= bytes.len(), "beyond the region");
        // SAFETY: in bounds, as just checked; who releases a range says that nobody uses it.
        unsafe { bytes.as_ptr().cast::<u8>().add(start).write_bytes(0, len) };
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A name that no other run has.
    fn name(of: &str) -> String {
        format!("test-{}-{of}", std::process::id())
    }

    #[test]
    fn a_region_is_found_again_with_what_was_stored() {
        let name = name("again");
        let first = RealMemory.open(&name, 1 << 20).unwrap();
        first.reserve(0..8192).unwrap();
        let at = |region: &dyn Region, n: usize| {
            // SAFETY: in bounds and reserved.
            unsafe { region.bytes().as_ptr().cast::<u8>().add(n) }
        };
        // SAFETY: nobody else uses the region.
        unsafe { at(&*first, 4096).write(7) };
        drop(first);
        let second = RealMemory.open(&name, 1 << 16).unwrap();
        assert_eq!(second.bytes().len(), 1 << 20);
        // SAFETY: as above.
        assert_eq!(unsafe { at(&*second, 4096).read() }, 7);
        second.release(4096..8192).unwrap();
        second.reserve(4096..8192).unwrap();
        // SAFETY: as above.
        assert_eq!(unsafe { at(&*second, 4096).read() }, 0);
        RealMemory.remove(&name).unwrap();
        RealMemory.remove(&name).unwrap();
        let third = RealMemory.open(&name, 4096).unwrap();
        assert_eq!(third.bytes().len(), 4096);
        RealMemory.remove(&name).unwrap();
    }
}
