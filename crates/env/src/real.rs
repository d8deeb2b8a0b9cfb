//! The machine that we are on.

#![expect(unsafe_code, reason = "fcntl and preadv2 with flags")]
#![expect(
    clippy::disallowed_methods,
    reason = "this is the door that the lint points to"
)]

use crate::{
    Clock, Driver, File, FileKind, Files, Lock, LockError, OpenOptions, Random, Space, below,
    image_lock, uring::UringFile,
};
use rustix::{
    fs::{FallocateFlags, FlockOperation, SeekFrom},
    io::Errno,
};
use std::{
    fs, io,
    io::{Read, Seek, Write},
    ops::Range,
    os::fd::AsRawFd,
    os::unix::fs::{DirBuilderExt, FileExt, FileTypeExt, MetadataExt, OpenOptionsExt},
    panic::resume_unwind,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};
use sync::thread::{Builder, JoinHandle};

/// Files that are synced at the same time: the kernel makes one flush of the device's cache do for many of them.
const SYNCS_TOGETHER: usize = 8;

/// More open files than this are of no use to a store: with packs of 4 MiB it is 64 GiB that are read at random.
const OPEN_MAX: u64 = 16 << 10;

/// Starts a named thread.
///
/// # Errors
/// The system has no more threads to give.
pub fn spawn<T: Send + 'static>(
    name: &str,
    body: impl FnOnce() -> T + Send + 'static,
) -> io::Result<JoinHandle<T>> {
    Builder::new()
        .name(name.to_owned())
        .stack_size(1 << 20)
        .spawn(body)
}

/// Time of this machine.
pub struct RealClock {
    start: Instant,
}

impl RealClock {
    /// Monotonic time begins now.
    #[must_use]
    pub fn new() -> Self {
        RealClock {
            start: Instant::now(),
        }
    }
}

impl Default for RealClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for RealClock {
    fn now(&self) -> Duration {
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default()
    }

    fn monotonic(&self) -> Duration {
        self.start.elapsed()
    }
}

/// Randomness of this machine's kernel.
pub struct RealRandom;

impl Random for RealRandom {
    fn fill(&self, bytes: &mut [u8]) {
        let mut filled = 0;
        while filled < bytes.len() {
            // SAFETY: the pointer and the length are those of the rest of `bytes`.
            let n = unsafe {
                libc::getrandom(bytes[filled..].as_mut_ptr().cast(), bytes.len() - filled, 0)
            };
            assert!(n >= 0, "getrandom cannot fail on the kernels we run on");
            filled += n as usize;
        }
    }
}

/// Files of this machine.
pub struct RealFiles;

impl Files for RealFiles {
    fn open(&self, path: &Path, options: OpenOptions) -> io::Result<Arc<dyn File>> {
        let claim = options.write
            && !options.create_new
            && matches!(self.kind(path), Ok(FileKind::BlockDevice));
        let open = |direct: bool| {
            let direct = if direct { libc::O_DIRECT } else { 0 };
            fs::OpenOptions::new()
                .read(true)
                .write(options.write)
                .create_new(options.create_new)
                .mode(0o600)
                .custom_flags(direct | if claim { libc::O_EXCL } else { 0 })
                .open(path)
        };
        let file = match open(options.direct) {
            // tmpfs and some FUSE file systems know no direct I/O: the page cache serves as well.
            Err(e) if options.direct && e.raw_os_error() == Some(libc::EINVAL) => {
                if options.create_new && path.exists() {
                    fs::remove_file(path)?;
                }
                open(false)?
            }
            other => other?,
        };
        Ok(Arc::new(RealFile(file)))
    }

    fn open_max(&self) -> usize {
        // The others are for connections.
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
        let half = limit.current.unwrap_or(u64::MAX) / 2;
        half.min(OPEN_MAX) as usize
    }

    fn open_below(
        &self,
        root: &Path,
        path: &Path,
        options: OpenOptions,
        driver: Driver,
    ) -> io::Result<Arc<dyn File>> {
        // Before a file is made that then cannot be used.
        let rings = match driver {
            Driver::Threads => None,
            Driver::IoUring => Some(UringFile::rings()?),
        };
        let file = RealFile(below::open(root, path, options)?);
        Ok(match rings {
            None => Arc::new(file),
            Some(rings) => Arc::new(UringFile::new(file, rings)),
        })
    }

    fn make_dir_below(&self, root: &Path, path: &Path) -> io::Result<()> {
        below::make_dir(root, path)
    }

    fn link_below(&self, from: (&Path, &Path), to: (&Path, &Path)) -> io::Result<()> {
        below::link(from, to)
    }

    fn remove_below(&self, root: &Path, path: &Path) -> io::Result<()> {
        below::remove(root, path, false)?;
        match path.parent().filter(|dir| !dir.as_os_str().is_empty()) {
            // Others may have files there.
            Some(dir) => match below::remove(root, dir, true) {
                Err(e) if e.kind() != io::ErrorKind::DirectoryNotEmpty => Err(e),
                _ => Ok(()),
            },
            None => Ok(()),
        }
    }

    fn sync_dir_below(&self, root: &Path, path: &Path) -> io::Result<()> {
        below::sync_dir(root, path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
    }

    fn list(&self, path: &Path) -> io::Result<Vec<PathBuf>> {
        fs::read_dir(path)?
            .map(|entry| Ok(PathBuf::from(entry?.file_name())))
            .collect()
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        path.try_exists()
    }

    fn is_link(&self, path: &Path) -> io::Result<bool> {
        Ok(fs::symlink_metadata(path)?.is_symlink())
    }

    fn kind(&self, path: &Path) -> io::Result<FileKind> {
        let kind = fs::metadata(path)?.file_type();
        Ok(if kind.is_file() {
            FileKind::Regular
        } else if kind.is_dir() {
            FileKind::Directory
        } else if kind.is_block_device() {
            FileKind::BlockDevice
        } else {
            FileKind::Other
        })
    }

    fn sync_data(&self, files: &[Arc<dyn File>]) -> io::Result<()> {
        let threads = files.len().min(SYNCS_TOGETHER);
        if threads < 2 {
            return files.iter().try_for_each(|file| file.sync_data());
        }
        let next = AtomicUsize::new(0);
        let work = || {
            while let Some(file) = files.get(next.fetch_add(1, Relaxed)) {
                file.sync_data()?;
            }
            Ok(())
        };
        crate::scope(|scope| {
            // Where there are no more threads, those that there are do it all.
            let others: Vec<_> = (1..threads)
                .map_while(|_| scope.spawn("sync", work).ok())
                .collect();
            let mut done = work();
            for other in others {
                let ended = other.join().unwrap_or_else(|panic| resume_unwind(panic));
                done = done.and(ended);
            }
            done
        })
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        fs::File::open(path)?.sync_all()
    }

    fn space(&self, path: &Path) -> io::Result<Space> {
        let stat = rustix::fs::statvfs(path)?;
        Ok(Space {
            total: stat.f_blocks * stat.f_frsize,
            free: stat.f_bavail * stat.f_frsize,
        })
    }

    fn lock(&self, path: &Path) -> Result<Box<dyn Lock>, LockError> {
        let mut file = fs::OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {
                // Over what was there: on a full file system a file that was cut could not grow again.
                file.rewind()?;
                write!(file, "{:<20}", std::process::id())?;
                Ok(Box::new(RealLock(file)))
            }
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let mut text = String::new();
                file.take(20).read_to_string(&mut text)?;
                Err(LockError::Held(text.trim().parse().unwrap_or(0)))
            }
            Err(e) => Err(LockError::Io(e.into())),
        }
    }
}

struct RealLock(#[expect(dead_code, reason = "holds the lock until it is dropped")] fs::File);

impl Lock for RealLock {}

pub(crate) struct RealFile(pub(crate) fs::File);

impl File for RealFile {
    fn len(&self) -> io::Result<u64> {
        let mut file = &self.0;
        let meta = file.metadata()?;
        // Block devices say their length only this way.
        if meta.is_file() {
            Ok(meta.len())
        } else {
            file.seek(io::SeekFrom::End(0))
        }
    }

    fn allocated(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.blocks() * 512)
    }

    fn modified(&self) -> io::Result<Duration> {
        let modified = self.0.metadata()?.modified()?;
        Ok(modified.duration_since(UNIX_EPOCH).unwrap_or_default())
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.0.read_exact_at(buf, offset)
    }

    fn try_read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<bool> {
        let part = libc::iovec {
            iov_base: buf.as_mut_ptr().cast(),
            iov_len: buf.len(),
        };
        // SAFETY: `part` describes `buf`, which outlives the call.
        let n = unsafe {
            libc::preadv2(
                self.0.as_raw_fd(),
                &raw const part,
                1,
                offset as i64,
                libc::RWF_NOWAIT,
            )
        };
        if n >= 0 && n as usize == buf.len() {
            return Ok(true);
        }
        let error = io::Error::last_os_error();
        match error.raw_os_error() {
            // Less than all: the rest is not in the page cache, or the file ends: the slow way tells.
            _ if n >= 0 => {}
            Some(libc::EAGAIN | libc::EOPNOTSUPP | libc::EINTR | libc::EINVAL) => {}
            _ => return Err(error),
        }
        // The disk may begin: many who come to wait for it then do so at the same time. A hint, which may fail.
        let len = std::num::NonZeroU64::new(buf.len() as u64);
        let _ = rustix::fs::fadvise(&self.0, offset, len, rustix::fs::Advice::WillNeed);
        Ok(false)
    }

    fn forget_cached(&self) -> io::Result<()> {
        let advice = rustix::fs::Advice::DontNeed;
        Ok(rustix::fs::fadvise(&self.0, 0, None, advice)?)
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write_all_at(data, offset)
    }

    fn write_durable_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut done = 0;
        while done < data.len() {
            let part = libc::iovec {
                iov_base: data[done..].as_ptr().cast_mut().cast(),
                iov_len: data.len() - done,
            };
            let at = (offset + done as u64) as i64;
            // SAFETY: `part` describes the rest of `data`, which outlives the call and is only read.
            let n = unsafe {
                libc::pwritev2(self.0.as_raw_fd(), &raw const part, 1, at, libc::RWF_DSYNC)
            };
            match n {
                0 => return Err(io::ErrorKind::WriteZero.into()),
                1.. => done += n as usize,
                _ => {
                    let error = io::Error::last_os_error();
                    if error.kind() != io::ErrorKind::Interrupted {
                        return Err(error);
                    }
                }
            }
        }
        Ok(())
    }

    fn lock_image(&self, write: bool) -> io::Result<()> {
        image_lock::lock(&self.0, write)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        match rustix::fs::fallocate(&self.0, FallocateFlags::empty(), 0, len) {
            Err(Errno::OPNOTSUPP) => crate::append_zeroes(self, len),
            done => Ok(done?),
        }
    }

    fn punch_hole(&self, offset: u64, len: u64) -> io::Result<()> {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        Ok(rustix::fs::fallocate(&self.0, flags, offset, len)?)
    }

    fn next_data(&self, offset: u64) -> io::Result<Option<Range<u64>>> {
        let len = self.len()?;
        let start = match rustix::fs::seek(&self.0, SeekFrom::Data(offset)) {
            Ok(start) => start,
            Err(Errno::NXIO) => return Ok(None),
            // Block devices and some file systems know no holes.
            Err(Errno::INVAL | Errno::OPNOTSUPP) => offset,
            Err(e) => return Err(e.into()),
        };
        let end = match rustix::fs::seek(&self.0, SeekFrom::Hole(start)) {
            Ok(end) => end,
            Err(Errno::INVAL | Errno::OPNOTSUPP) => len,
            // It was cut since.
            Err(Errno::NXIO) => return Ok(None),
            Err(e) => return Err(e.into()),
        };
        Ok((start < end).then_some(start..end))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{AlignedBuf, Env};

    #[test]
    fn a_file_keeps_what_is_written_and_gives_back_what_is_punched() {
        let dir = tempfile::tempdir().unwrap();
        let env = Env::real();
        let path = dir.path().join("f");
        let options = OpenOptions {
            write: true,
            create_new: true,
            direct: true,
        };
        let file = env.files.open(&path, options).unwrap();
        let mut data = AlignedBuf::zeroed(1 << 16);
        env.random.fill(&mut data);
        file.write_at(4096, &data).unwrap();
        file.sync_data().unwrap();
        env.files.sync_dir(dir.path()).unwrap();
        let mut back = AlignedBuf::zeroed(1 << 16);
        file.read_at(4096, &mut back).unwrap();
        assert_eq!(*back, *data);
        file.punch_hole(8192, 4096).unwrap();
        file.read_at(4096, &mut back).unwrap();
        assert!(back[4096..8192].iter().all(|&b| b == 0));
        assert_eq!(back[8192..], data[8192..]);
        assert!(env.files.open(&path, options).is_err());
        let (len, taken) = (file.len().unwrap(), file.allocated().unwrap());
        file.allocate(len + (1 << 20)).unwrap();
        assert_eq!(file.len().unwrap(), len + (1 << 20));
        assert!(file.allocated().unwrap() >= taken + (1 << 20));
        let past_the_end = file.read_at(1 << 21, &mut back).unwrap_err();
        assert_eq!(past_the_end.kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn a_file_says_where_its_data_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        let options = OpenOptions {
            write: true,
            create_new: true,
            direct: false,
        };
        let file = RealFiles.open(&path, options).unwrap();
        assert_eq!(file.next_data(0).unwrap(), None);
        file.set_len(4 << 20).unwrap();
        file.write_at(1 << 20, &[7; 1 << 16]).unwrap();
        let data = (1 << 20)..(1 << 20) + (1 << 16);
        // A file system that knows no holes says that all is data.
        let found = file.next_data(0).unwrap().unwrap();
        assert!(found.start <= data.start && found.end >= data.end);
        assert_eq!(file.next_data(4 << 20).unwrap(), None);
        assert_eq!(file.next_data(1 << 40).unwrap(), None);
    }

    #[test]
    fn what_is_at_a_path() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        assert!(RealFiles.kind(&path).is_err());
        fs::write(&path, "x").unwrap();
        assert_eq!(RealFiles.kind(&path).unwrap(), FileKind::Regular);
        assert_eq!(RealFiles.kind(dir.path()).unwrap(), FileKind::Directory);
        let null = RealFiles.kind(Path::new("/dev/null")).unwrap();
        assert_eq!(null, FileKind::Other);
    }

    #[test]
    fn many_files_are_synced_and_one_that_fails_is_told_of() {
        let dir = tempfile::tempdir().unwrap();
        let new = OpenOptions {
            write: true,
            create_new: true,
            direct: false,
        };
        let open = |n: usize| RealFiles.open(&dir.path().join(n.to_string()), new);
        let mut files: Vec<_> = (0..20).map(|n| open(n).unwrap()).collect();
        for file in &files {
            file.write_at(0, b"data").unwrap();
        }
        RealFiles.sync_data(&files).unwrap();
        // Nothing can make a pipe durable.
        let (_reader, writer) = io::pipe().unwrap();
        let pipe = fs::File::from(std::os::fd::OwnedFd::from(writer));
        files[11] = Arc::new(RealFile(pipe));
        RealFiles.sync_data(&files).unwrap_err();
    }

    #[test]
    fn a_small_file_is_replaced_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("small");
        for text in ["one", "two"] {
            RealFiles.write_atomic(&path, text.as_bytes()).unwrap();
            assert_eq!(RealFiles.read_all(&path).unwrap(), text.as_bytes());
        }
    }

    #[test]
    fn a_lock_says_who_holds_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let held = RealFiles.lock(&path).unwrap();
        let Err(LockError::Held(pid)) = RealFiles.lock(&path) else {
            panic!("locked twice")
        };
        assert_eq!(pid, std::process::id());
        drop(held);
        RealFiles.lock(&path).unwrap();
    }
}
