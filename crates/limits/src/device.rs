//! A block device with limits.

use crate::limiter::Limiter;
use block::{BlockDevice, Demand, DeviceInfo, Durability, Error, Extent, Turn};
use std::sync::Arc;

/// A device as it is, except that requests are admitted at a limited rate.
pub struct Limited {
    device: Arc<dyn BlockDevice>,
    limiter: Arc<Limiter>,
}

impl Limited {
    /// Around a device. Others may use the same limiter: then the limits hold for all together.
    pub const fn new(device: Arc<dyn BlockDevice>, limiter: Arc<Limiter>) -> Self {
        Limited { device, limiter }
    }
}

impl BlockDevice for Limited {
    fn info(&self) -> DeviceInfo {
        self.device.info()
    }

    fn admit(&self, demand: Demand, turn: Turn) -> bool {
        self.limiter.admit(demand, turn)
    }

    fn read(&self, offset: u64, buf: &mut [u8]) -> Result<(), Error> {
        self.device.read(offset, buf)
    }

    fn try_read(&self, offset: u64, buf: &mut [u8]) -> Result<bool, Error> {
        self.device.try_read(offset, buf)
    }

    fn expect(&self, offsets: &[u64]) {
        self.device.expect(offsets);
    }

    fn write(&self, offset: u64, data: &[u8], durability: Durability) -> Result<(), Error> {
        self.device.write(offset, data, durability)
    }

    fn write_zeroes(&self, offset: u64, len: u64, durability: Durability) -> Result<(), Error> {
        self.device.write_zeroes(offset, len, durability)
    }

    fn discard(&self, offset: u64, len: u64, durability: Durability) -> Result<(), Error> {
        self.device.discard(offset, len, durability)
    }

    fn flush(&self) -> Result<(), Error> {
        self.device.flush()
    }

    fn extents(&self, offset: u64, len: u64, max: usize) -> Result<Vec<Extent>, Error> {
        self.device.extents(offset, len, max)
    }

    fn prefetch(&self, offset: u64, len: u64) -> Result<(), Error> {
        self.device.prefetch(offset, len)
    }
}
