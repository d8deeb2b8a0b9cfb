//! A disk in a qcow2 image.
//!
//! imago finds clusters and gives new ones; data are read and written here, straight in the file. What is zeroed or discarded becomes a hole in
//! the file, within its cluster, so that no table changes. [`storage`] says what keeps the tables in order, [`counts`] how reference counts are mended,
//! [`snapshots`] how the image's own snapshots are made.

mod counts;
mod meta;
mod snapshots;
mod storage;

pub(crate) use meta::Meta;
pub use snapshots::Snapshot;

use crate::{
    Disk, Error as FileError, ErrorKind as FileErrorKind,
    error::of_device,
    raw::{push, push_extents, whole_blocks},
};
use block::{
    BlockDevice, DeviceInfo, Durability, Error, ErrorKind, Extent, ExtentKind, check_range,
};
use counts::recount;
use env::File;
use imago::{
    DenyImplicitOpenGate, FormatAccess, FormatCreateBuilder, FormatDriverBuilder, Mapping,
    qcow2::Qcow2,
};
use parking_lot::{Mutex, RwLock};
use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
};
use storage::{ImageStorage, Order};
use types::BLOCK_SIZE;

/// Zeroes that are written at once where a cluster is shared, bytes.
const ZEROES: &[u8] = &[0; 64 << 10];

/// A qcow2 image in use.
pub struct Qcow2Disk {
    file: Arc<dyn File>,
    read_only: bool,
    /// None after it could not be opened again.
    image: RwLock<Option<Image>>,
    /// Held by who changes tables.
    changing: Mutex<()>,
    /// The image says that it is dirty.
    dirty: AtomicBool,
    /// Tables changed since the last flush.
    changed: AtomicBool,
    /// A sync failed.
    failed: AtomicBool,
    /// Bytes of the disk at most, if the image has more: it was to grow when somebody died.
    limit: AtomicU64,
}

struct Image {
    access: FormatAccess<ImageStorage>,
    order: Arc<Order>,
    size: u64,
}

/// One of its snapshots, to be read.
struct View {
    /// Keeps the image and its locks.
    disk: Arc<Qcow2Disk>,
    access: FormatAccess<ImageStorage>,
    size: u64,
}

/// The snapshots of an image that somebody may be using.
pub(crate) fn list_snapshots(file: &dyn File) -> io::Result<Vec<Snapshot>> {
    snapshots::list(file, &Meta::read(file)?)
}

/// Makes an empty image in an empty file.
pub(crate) fn create(file: &Arc<dyn File>, size: u64) -> io::Result<()> {
    let storage = ImageStorage::new(Arc::clone(file), None, None);
    Qcow2::<ImageStorage>::create_builder(storage)
        .size(size)
        .create()
}

fn access(storage: ImageStorage, write: bool) -> io::Result<FormatAccess<ImageStorage>> {
    let image = Qcow2::<ImageStorage>::builder(storage)
        .write(write)
        .backing(None)
        .data_file(None)
        .open(DenyImplicitOpenGate::default())?;
    Ok(FormatAccess::new(image))
}

impl Image {
    /// Brings an image into order if it was not closed, and opens it.
    fn open(file: &Arc<dyn File>, read_only: bool) -> io::Result<Image> {
        let mut meta = Meta::read(&**file)?;
        if !read_only && meta.dirty {
            let snapshots = snapshots::list(&**file, &meta)?;
            meta = recount(&**file, &meta, &snapshots, None)?;
        }
        if !read_only && (meta.dirty || meta.autoclear) {
            meta::set_dirty(&**file, false)?;
        }
        let order = Arc::new(Order::new(&**file, &meta)?);
        let storage = ImageStorage::new(Arc::clone(file), Some(meta), Some(Arc::clone(&order)));
        Ok(Image {
            access: access(storage, !read_only)?,
            order,
            size: meta.size,
        })
    }
}

fn read_from(
    access: &FormatAccess<ImageStorage>,
    file: &dyn File,
    mut offset: u64,
    mut buf: &mut [u8],
) -> io::Result<()> {
    while !buf.is_empty() {
        let (mapping, len) = access.get_mapping(offset, buf.len() as u64)?;
        let len = match len {
            0 => buf.len(),
            len => buf.len().min(len as usize),
        };
        let (part, rest) = buf.split_at_mut(len);
        match mapping {
            Mapping::Raw { offset: at, .. } => meta::read(file, at, part)?,
            Mapping::Zero { .. } | Mapping::Eof { .. } => part.fill(0),
            // Compressed.
            _ => access.read(part, offset)?,
        }
        offset += len as u64;
        buf = rest;
    }
    Ok(())
}

fn extents_of(
    access: &FormatAccess<ImageStorage>,
    file: &dyn File,
    offset: u64,
    len: u64,
    max: usize,
) -> io::Result<Vec<Extent>> {
    let mut extents = Vec::new();
    let (mut at, end) = (offset, offset + len);
    while at < end && extents.len() <= max {
        let (mapping, len) = access.get_mapping(at, end - at)?;
        let len = if len == 0 { end - at } else { len };
        match mapping {
            Mapping::Raw { offset, .. } => {
                // A hole in the file is one of the disk. All of the mapping: what was found is of this length.
                push_extents(file, &mut extents, offset, len, usize::MAX - 1)?;
            }
            Mapping::Zero { .. } | Mapping::Eof { .. } => push(&mut extents, ExtentKind::Hole, len),
            _ => push(&mut extents, ExtentKind::Data, len),
        }
        at += len;
    }
    extents.truncate(max);
    Ok(extents)
}

fn closed() -> io::Error {
    io::Error::other("the image could not be opened again; look in the log")
}

impl Qcow2Disk {
    /// Opens the image that a file is.
    pub(crate) fn open(file: Arc<dyn File>, read_only: bool, limit: u64) -> io::Result<Self> {
        let image = Image::open(&file, read_only)?;
        Ok(Qcow2Disk {
            file,
            read_only,
            image: RwLock::new(Some(image)),
            changing: Mutex::new(()),
            dirty: AtomicBool::new(false),
            changed: AtomicBool::new(false),
            failed: AtomicBool::new(false),
            limit: AtomicU64::new(limit),
        })
    }

    fn with<T>(&self, body: impl FnOnce(&Image) -> io::Result<T>) -> io::Result<T> {
        body(self.image.read().as_ref().ok_or_else(closed)?)
    }

    fn size(&self) -> u64 {
        let size = self.image.read().as_ref().map_or(0, |image| image.size);
        size.min(self.limit.load(Relaxed))
    }

    fn check_change(&self, operation: &'static str, offset: u64, len: u64) -> Result<(), Error> {
        check_range(operation, offset, len, self.size())?;
        if self.read_only {
            return Err(Error::new(ErrorKind::ReadOnly, operation));
        }
        if self.failed.load(Relaxed) {
            return Err(of_device(operation, lost()));
        }
        Ok(())
    }

    /// Says in the image that its counts are not to be relied on until it is closed. The caller holds `changing`.
    fn about_to_change(&self) -> io::Result<()> {
        if !self.dirty.load(Relaxed) {
            meta::set_dirty(&*self.file, true)?;
            self.dirty.store(true, Relaxed);
        }
        self.changed.store(true, Relaxed);
        Ok(())
    }

    fn put(&self, image: &Image, mut offset: u64, mut data: &[u8]) -> io::Result<()> {
        while !data.is_empty() {
            let (mapping, len) = image.access.get_mapping(offset, data.len() as u64)?;
            let written = match mapping {
                Mapping::Raw {
                    offset: at,
                    writable: true,
                    ..
                } => {
                    let len = data.len().min(len as usize);
                    self.file.write_at(at, &data[..len])?;
                    len
                }
                _ => self.put_new(image, offset, data)?,
            };
            offset += written as u64;
            data = &data[written..];
        }
        Ok(())
    }

    /// Writes into clusters that are new, or new to this disk.
    fn put_new(&self, image: &Image, offset: u64, data: &[u8]) -> io::Result<usize> {
        let _changing = self.changing.lock();
        self.about_to_change()?;
        let mapping = image
            .access
            .prepare_data_mapping(offset, data.len() as u64, true)?;
        let len = data.len().min(mapping.length() as usize);
        self.file.write_at(mapping.offset(), &data[..len])?;
        image.order.wrote();
        image.access.commit_data_mapping(mapping)?;
        Ok(len)
    }

    fn zero(&self, image: &Image, offset: u64, len: u64) -> io::Result<()> {
        let (mut at, end) = (offset, offset + len);
        while at < end {
            let (mapping, len) = image.access.get_mapping(at, end - at)?;
            let len = if len == 0 {
                end - at
            } else {
                len.min(end - at)
            };
            match mapping {
                Mapping::Raw {
                    offset,
                    writable: true,
                    ..
                } => {
                    crate::raw::make_zero(&*self.file, offset, len)?;
                }
                Mapping::Zero { .. } | Mapping::Eof { .. } => {}
                // Shared with a snapshot, or compressed.
                _ => {
                    let mut done = 0;
                    while done < len {
                        let step = (len - done).min(ZEROES.len() as u64);
                        self.put(image, at + done, &ZEROES[..step as usize])?;
                        done += step;
                    }
                    // They are its own now.
                    self.zero(image, at, len)?;
                }
            }
            at += len;
        }
        Ok(())
    }

    fn change(
        &self,
        operation: &'static str,
        durability: Durability,
        body: impl FnOnce(&Image) -> io::Result<()>,
    ) -> Result<(), Error> {
        self.with(body).map_err(|e| of_device(operation, e))?;
        match durability {
            Durability::Volatile => Ok(()),
            Durability::Durable => self.flush(),
        }
    }

    fn flush_image(&self, image: &Image) -> io::Result<()> {
        if self.changed.load(Relaxed) {
            let _changing = self.changing.lock();
            self.changed.store(false, Relaxed);
            image.access.flush()?;
        }
        self.file.sync_data()
    }

    /// Does something to the image while nobody uses it; `body` answers with it in order.
    fn offline(&self, body: impl FnOnce(&dyn File, &Meta) -> io::Result<()>) -> io::Result<()> {
        let mut guard = self.image.write();
        self.flush_image(guard.as_ref().ok_or_else(closed)?)?;
        *guard = None;
        let done = (|| {
            meta::set_dirty(&*self.file, true)?;
            body(&*self.file, &Meta::read(&*self.file)?)?;
            meta::set_dirty(&*self.file, false)
        })();
        self.dirty.store(false, Relaxed);
        *guard = Some(Image::open(&self.file, self.read_only)?);
        done
    }

    fn close(&self) -> io::Result<()> {
        let Some(image) = self.image.write().take() else {
            return Ok(());
        };
        if !self.dirty.load(Relaxed) || self.failed.load(Relaxed) {
            return Ok(());
        }
        self.flush_image(&image)?;
        let leaked = image.order.has_leaked();
        drop(image);
        if leaked {
            let meta = Meta::read(&*self.file)?;
            let snapshots = snapshots::list(&*self.file, &meta)?;
            recount(&*self.file, &meta, &snapshots, None)?;
        }
        meta::set_dirty(&*self.file, false)
    }
}

fn lost() -> io::Error {
    io::Error::other(
        "an earlier flush failed: what it should have kept may be lost; reopen the volume",
    )
}

impl Drop for Qcow2Disk {
    fn drop(&mut self) {
        // If it fails the image stays dirty, and is brought into order by who opens it next.
        if !self.read_only {
            let _ = self.close();
        }
    }
}

fn file_error(e: io::Error) -> FileError {
    let kind = match e.kind() {
        io::ErrorKind::InvalidData => FileErrorKind::Damaged,
        io::ErrorKind::StorageFull => FileErrorKind::NoSpace,
        io::ErrorKind::Unsupported => FileErrorKind::Invalid,
        _ => FileErrorKind::Io,
    };
    FileError::new(kind, format!("the qcow2 image: {e}"))
}

impl Disk for Qcow2Disk {
    fn resize(&self, size: u64) -> Result<(), FileError> {
        if size < self.size() {
            let why = "a qcow2 image is not made smaller in place; 'volume convert' to the store and back does it";
            return Err(FileError::new(FileErrorKind::Invalid, why));
        }
        self.offline(|file, meta| snapshots::resize(file, meta, size).map(|_| ()))
            .map_err(file_error)?;
        self.limit.store(size, Relaxed);
        Ok(())
    }

    fn snapshots(&self) -> Result<Vec<Snapshot>, FileError> {
        let listed = Meta::read(&*self.file).and_then(|meta| snapshots::list(&*self.file, &meta));
        listed.map_err(file_error)
    }

    fn create_snapshot(&self, name: &str, now_s: u32) -> Result<(), FileError> {
        self.offline(|file, meta| snapshots::create(file, meta, name, now_s).map(|_| ()))
            .map_err(file_error)
    }

    fn remove_snapshot(&self, name: &str) -> Result<(), FileError> {
        self.offline(|file, meta| snapshots::remove(file, meta, name).map(|_| ()))
            .map_err(file_error)
    }

    fn apply_snapshot(&self, name: &str) -> Result<(), FileError> {
        let snapshot = self.snapshot(name)?;
        self.offline(|file, meta| snapshots::apply(file, meta, &snapshot).map(|_| ()))
            .map_err(file_error)?;
        self.limit.store(snapshot.size, Relaxed);
        Ok(())
    }

    fn open_snapshot(self: Arc<Self>, name: &str) -> Result<Arc<dyn BlockDevice>, FileError> {
        let snapshot = self.snapshot(name)?;
        let meta = Meta::read(&*self.file).map_err(file_error)?;
        let storage = ImageStorage::new(Arc::clone(&self.file), Some(snapshot.view(&meta)), None);
        Ok(Arc::new(View {
            access: access(storage, false).map_err(file_error)?,
            disk: self,
            size: snapshot.size,
        }))
    }
}

impl Qcow2Disk {
    fn snapshot(&self, name: &str) -> Result<Snapshot, FileError> {
        let missing = || {
            FileError::new(
                FileErrorKind::NotFound,
                format!("there is no snapshot '{name}'"),
            )
        };
        let all = self.snapshots()?;
        all.into_iter()
            .find(|snapshot| snapshot.name == name)
            .ok_or_else(missing)
    }
}

impl BlockDevice for Qcow2Disk {
    fn info(&self) -> DeviceInfo {
        DeviceInfo {
            size: self.size(),
            read_only: self.read_only,
            block_size: BLOCK_SIZE as u32,
        }
    }

    fn admit(&self, _: block::Demand, _: block::Turn) -> bool {
        true
    }

    fn read(&self, offset: u64, buf: &mut [u8]) -> Result<(), Error> {
        check_range("read", offset, buf.len() as u64, self.size())?;
        self.with(|image| read_from(&image.access, &*self.file, offset, buf))
            .map_err(|e| of_device("read", e))
    }

    fn try_read(&self, offset: u64, buf: &mut [u8]) -> Result<bool, Error> {
        // Nobody tells whether the tables are in memory.
        check_range("read", offset, buf.len() as u64, self.size())?;
        Ok(false)
    }

    fn write(&self, offset: u64, data: &[u8], durability: Durability) -> Result<(), Error> {
        self.check_change("write", offset, data.len() as u64)?;
        self.change("write", durability, |image| self.put(image, offset, data))
    }

    fn write_zeroes(&self, offset: u64, len: u64, durability: Durability) -> Result<(), Error> {
        self.check_change("write zeroes", offset, len)?;
        self.change("write zeroes", durability, |image| {
            self.zero(image, offset, len)
        })
    }

    fn discard(&self, offset: u64, len: u64, durability: Durability) -> Result<(), Error> {
        self.check_change("discard", offset, len)?;
        let (offset, len) = whole_blocks(offset, len);
        self.change("discard", durability, |image| self.zero(image, offset, len))
    }

    fn flush(&self) -> Result<(), Error> {
        if self.read_only {
            return Ok(());
        }
        if self.failed.load(Relaxed) {
            return Err(of_device("flush", lost()));
        }
        self.with(|image| self.flush_image(image)).map_err(|e| {
            self.failed.store(true, Relaxed);
            of_device("flush", e)
        })
    }

    fn extents(&self, offset: u64, len: u64, max: usize) -> Result<Vec<Extent>, Error> {
        check_range("block status", offset, len, self.size())?;
        self.with(|image| extents_of(&image.access, &*self.file, offset, len, max))
            .map_err(|e| of_device("block status", e))
    }

    fn prefetch(&self, offset: u64, len: u64) -> Result<(), Error> {
        check_range("prefetch", offset, len, self.size())
    }
}

impl BlockDevice for View {
    fn info(&self) -> DeviceInfo {
        DeviceInfo {
            size: self.size,
            read_only: true,
            block_size: BLOCK_SIZE as u32,
        }
    }

    fn admit(&self, _: block::Demand, _: block::Turn) -> bool {
        true
    }

    fn read(&self, offset: u64, buf: &mut [u8]) -> Result<(), Error> {
        check_range("read", offset, buf.len() as u64, self.size)?;
        read_from(&self.access, &*self.disk.file, offset, buf).map_err(|e| of_device("read", e))
    }

    fn try_read(&self, offset: u64, buf: &mut [u8]) -> Result<bool, Error> {
        check_range("read", offset, buf.len() as u64, self.size)?;
        Ok(false)
    }

    fn write(&self, _: u64, _: &[u8], _: Durability) -> Result<(), Error> {
        Err(Error::new(ErrorKind::ReadOnly, "write"))
    }

    fn write_zeroes(&self, _: u64, _: u64, _: Durability) -> Result<(), Error> {
        Err(Error::new(ErrorKind::ReadOnly, "write zeroes"))
    }

    fn discard(&self, _: u64, _: u64, _: Durability) -> Result<(), Error> {
        Err(Error::new(ErrorKind::ReadOnly, "discard"))
    }

    fn flush(&self) -> Result<(), Error> {
        Ok(())
    }

    fn extents(&self, offset: u64, len: u64, max: usize) -> Result<Vec<Extent>, Error> {
        check_range("block status", offset, len, self.size)?;
        extents_of(&self.access, &*self.disk.file, offset, len, max)
            .map_err(|e| of_device("block status", e))
    }

    fn prefetch(&self, offset: u64, len: u64) -> Result<(), Error> {
        check_range("prefetch", offset, len, self.size)
    }
}
