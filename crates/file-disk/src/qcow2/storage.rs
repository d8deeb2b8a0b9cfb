//! The file under imago, which reads and writes the tables of an image in the order that it likes best.
//!
//! imago (0.2.6) writes its tables without a sync between them, enters a new L2 table into the L1 table before its reference count is
//! on the disk, and uses clusters again as soon as they are freed. So a crash could leave a table that points to what is not there yet. Here that is mended:
//!
//! - a table that the image refers to is written after all data and tables before it were synced (see [`Order`]);
//! - freed clusters are not used again before the image is closed: imago asks us to settle writes before it frees, and we
//!   refuse, upon which it leaves the clusters alone;
//! - the image is marked dirty while that lasts, and the counts are made anew when it was not closed.
//!
//! **Invariant:** nothing but this file is opened: imago's ways to open others end in an error.

#![expect(unsafe_code, reason = "the trait has unsafe functions")]

use super::meta::{HEADER_LEN, Meta, OFFSET, be64, patched, read, read_table};
use env::File;
use imago::{
    Storage,
    io_buffers::{IoVector, IoVectorMut},
    storage::drivers::CommonStorageHelper,
};
use parking_lot::Mutex;
use std::{
    collections::HashSet,
    fmt, io,
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::AcqRel},
    },
};

/// What must be on the disk before what.
pub(crate) struct Order {
    l1: Range<u64>,
    /// L2 tables that the L1 table refers to, by offset.
    l2: Mutex<HashSet<u64>>,
    /// Something was written since the last sync that a table may refer to.
    unsynced: AtomicBool,
    /// Clusters were given up that the counts still have.
    leaked: AtomicBool,
}

impl Order {
    pub(crate) fn new(file: &dyn File, meta: &Meta) -> io::Result<Self> {
        let l1 = read_table(file, meta.l1_offset, meta.l1_entries as usize)?;
        let l2 = l1
            .iter()
            .map(|entry| entry & OFFSET)
            .filter(|&offset| offset != 0);
        Ok(Order {
            l1: meta.l1_offset..meta.l1_offset + u64::from(meta.l1_entries) * 8,
            l2: Mutex::new(l2.collect()),
            unsynced: AtomicBool::new(false),
            leaked: AtomicBool::new(false),
        })
    }

    /// Data were written that a table is about to refer to.
    pub(crate) fn wrote(&self) {
        self.unsynced
            .store(true, std::sync::atomic::Ordering::Release);
    }

    pub(crate) fn has_leaked(&self) -> bool {
        self.leaked.load(std::sync::atomic::Ordering::Acquire)
    }

    fn before(&self, file: &dyn File, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let in_l1 = self.l1.contains(&offset);
        let referred = offset < HEADER_LEN as u64 || in_l1 || self.l2.lock().contains(&offset);
        if referred && self.unsynced.swap(false, AcqRel) {
            file.sync_data().inspect_err(|_| self.wrote())?;
        }
        if in_l1 {
            let entries = (0..bytes.len() / 8).map(|index| be64(bytes, index * 8) & OFFSET);
            self.l2.lock().extend(entries.filter(|&offset| offset != 0));
        }
        Ok(())
    }
}

/// An image's file, as imago sees it.
pub(crate) struct ImageStorage {
    pub(crate) file: Arc<dyn File>,
    /// What the header is to say; none while there is none yet.
    view: Option<Meta>,
    order: Option<Arc<Order>>,
    helper: CommonStorageHelper,
}

impl ImageStorage {
    pub(crate) fn new(file: Arc<dyn File>, view: Option<Meta>, order: Option<Arc<Order>>) -> Self {
        ImageStorage {
            file,
            view,
            order,
            helper: CommonStorageHelper::default(),
        }
    }
}

impl fmt::Debug for ImageStorage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an image file")
    }
}

impl fmt::Display for ImageStorage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an image file")
    }
}

impl Storage for ImageStorage {
    fn size(&self) -> io::Result<u64> {
        self.file.len()
    }

    unsafe fn pure_readv(&self, bufv: IoVectorMut<'_>, offset: u64) -> io::Result<()> {
        let mut at = offset;
        for mut part in bufv.into_inner() {
            read(&*self.file, at, &mut part)?;
            if at < HEADER_LEN as u64
                && let Some(view) = &self.view
            {
                let mut header = [0; HEADER_LEN];
                read(&*self.file, 0, &mut header)?;
                patched(&mut header, view);
                let shown = &header[at as usize..];
                let len = shown.len().min(part.len());
                part[..len].copy_from_slice(&shown[..len]);
            }
            at += part.len() as u64;
        }
        Ok(())
    }

    unsafe fn pure_writev(&self, bufv: IoVector<'_>, offset: u64) -> io::Result<()> {
        let mut at = offset;
        for part in bufv.into_inner() {
            if let Some(order) = &self.order {
                order.before(&*self.file, at, &part)?;
            }
            self.file.write_at(at, &part)?;
            if let Some(order) = &self.order {
                order.wrote();
            }
            at += part.len() as u64;
        }
        Ok(())
    }

    unsafe fn pure_write_zeroes(&self, offset: u64, length: u64) -> io::Result<()> {
        crate::raw::make_zero(&*self.file, offset, length)
    }

    unsafe fn pure_write_allocated_zeroes(&self, offset: u64, length: u64) -> io::Result<()> {
        crate::raw::make_zero(&*self.file, offset, length)
    }

    fn flush(&self) -> io::Result<()> {
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn settle_writes(&self) -> io::Result<()> {
        if let Some(order) = &self.order {
            order
                .leaked
                .store(true, std::sync::atomic::Ordering::Release);
        }
        Err(io::Error::other(
            "clusters are used again when the image is closed",
        ))
    }

    unsafe fn invalidate_cache(&self) -> io::Result<()> {
        Ok(())
    }

    fn get_storage_helper(&self) -> &CommonStorageHelper {
        &self.helper
    }

    fn resize(&self, new_size: u64, _: imago::storage::PreallocateMode) -> io::Result<()> {
        self.file.set_len(new_size)
    }
}
