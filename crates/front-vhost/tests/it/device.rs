//! A device in memory that can grow, wait and fail.

use block::{
    BlockDevice, Demand, DeviceInfo, Durability, Error, ErrorKind, Extent, MemoryDevice, Turn,
    check_range,
};
use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
};
use sync::{Condvar, Mutex};

/// A device that tests have in hand.
pub(crate) struct TestDevice {
    disk: MemoryDevice,
    size: AtomicU64,
    read_only: bool,
    /// Whether reads find nothing in memory.
    cold: AtomicBool,
    /// Whether who has to wait, waits.
    held: Mutex<bool>,
    let_go: Condvar,
    waiting: AtomicU64,
    pub(crate) flushes: AtomicU64,
    pub(crate) durable_writes: AtomicU64,
    /// What it was told to expect.
    pub(crate) expected: Mutex<Vec<u64>>,
}

impl TestDevice {
    pub(crate) const ROOM: usize = 64 << 20;

    pub(crate) fn new(size: u64) -> Arc<Self> {
        Arc::new(TestDevice {
            disk: MemoryDevice::new(Self::ROOM),
            size: size.into(),
            read_only: false,
            cold: false.into(),
            held: Mutex::new(false),
            let_go: Condvar::new(),
            waiting: 0.into(),
            flushes: 0.into(),
            durable_writes: 0.into(),
            expected: Mutex::default(),
        })
    }

    pub(crate) fn read_only(size: u64) -> Arc<Self> {
        let mut device = Self::new(size);
        Arc::get_mut(&mut device).unwrap().read_only = true;
        device
    }

    pub(crate) fn grow(&self, size: u64) {
        self.size.store(size, SeqCst);
    }

    /// From now on reads have to wait.
    pub(crate) fn chill(&self) {
        self.cold.store(true, SeqCst);
    }

    /// From now on who has to wait, waits until `release`.
    pub(crate) fn hold(&self) {
        self.chill();
        *self.held.lock() = true;
    }

    pub(crate) fn release(&self) {
        *self.held.lock() = false;
        self.let_go.notify_all();
    }

    /// Returns when so many wait.
    pub(crate) fn wait_for_waiting(&self, count: u64) {
        while self.waiting.load(SeqCst) < count {
            sync::thread::yield_now();
        }
    }

    fn wait(&self) {
        let mut held = self.held.lock();
        self.waiting.fetch_add(1, SeqCst);
        while *held {
            self.let_go.wait(&mut held);
        }
        self.waiting.fetch_sub(1, SeqCst);
    }

    fn check(&self, offset: u64, len: u64) -> Result<(), Error> {
        check_range("test", offset, len, self.size.load(SeqCst))
    }

    fn check_write(&self, offset: u64, len: u64, durability: Durability) -> Result<(), Error> {
        self.check(offset, len)?;
        if durability == Durability::Durable {
            self.durable_writes.fetch_add(1, SeqCst);
        }
        match self.read_only {
            true => Err(Error::new(ErrorKind::ReadOnly, "test")),
            false => Ok(()),
        }
    }
}

impl BlockDevice for TestDevice {
    fn info(&self) -> DeviceInfo {
        DeviceInfo {
            size: self.size.load(SeqCst),
            read_only: self.read_only,
            block_size: 4096,
        }
    }

    fn admit(&self, _: Demand, _: Turn) -> bool {
        true
    }

    fn read(&self, offset: u64, buf: &mut [u8]) -> Result<(), Error> {
        self.wait();
        self.check(offset, buf.len() as u64)?;
        self.disk.read(offset, buf)
    }

    fn try_read(&self, offset: u64, buf: &mut [u8]) -> Result<bool, Error> {
        if self.cold.load(SeqCst) {
            buf.fill(0xdd);
            return Ok(false);
        }
        self.check(offset, buf.len() as u64)?;
        self.disk.try_read(offset, buf)
    }

    fn expect(&self, offsets: &[u64]) {
        self.expected.lock().extend(offsets);
    }

    fn write(&self, offset: u64, data: &[u8], durability: Durability) -> Result<(), Error> {
        self.check_write(offset, data.len() as u64, durability)?;
        self.disk.write(offset, data, durability)
    }

    fn write_zeroes(&self, offset: u64, len: u64, durability: Durability) -> Result<(), Error> {
        self.check_write(offset, len, durability)?;
        self.disk.write_zeroes(offset, len, durability)
    }

    fn discard(&self, offset: u64, len: u64, durability: Durability) -> Result<(), Error> {
        self.check_write(offset, len, durability)?;
        self.disk.discard(offset, len, durability)
    }

    fn flush(&self) -> Result<(), Error> {
        self.wait();
        self.flushes.fetch_add(1, SeqCst);
        self.disk.flush()
    }

    fn extents(&self, offset: u64, len: u64, max: usize) -> Result<Vec<Extent>, Error> {
        self.disk.extents(offset, len, max)
    }

    fn prefetch(&self, offset: u64, len: u64) -> Result<(), Error> {
        self.disk.prefetch(offset, len)
    }
}
