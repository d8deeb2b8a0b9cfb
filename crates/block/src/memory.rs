//! A device in memory: the reference that others are compared with, and a stand-in for tests.

use crate::{
    BlockDevice, Demand, DeviceInfo, Durability, Error, ErrorKind, Extent, ExtentKind, Turn,
    check_range,
};
use parking_lot::RwLock;

const BLOCK: usize = types::BLOCK_SIZE;

/// Bytes in memory, with a note of which blocks were written.
pub struct MemoryDevice {
    state: RwLock<State>,
    read_only: bool,
}

struct State {
    bytes: Vec<u8>,
    stored: Vec<bool>,
}

impl MemoryDevice {
    /// `size` bytes of zeroes.
    #[must_use]
    pub fn new(size: usize) -> Self {
        let state = State {
            bytes: vec![0; size],
            stored: vec![false; size.div_ceil(BLOCK)],
        };
        MemoryDevice {
            state: RwLock::new(state),
            read_only: false,
        }
    }

    /// These bytes, never to be changed.
    #[must_use]
    pub fn read_only(bytes: Vec<u8>) -> Self {
        let stored = bytes
            .chunks(BLOCK)
            .map(|block| !types::is_zero(block))
            .collect();
        MemoryDevice {
            state: RwLock::new(State { bytes, stored }),
            read_only: true,
        }
    }

    fn mutate(
        &self,
        operation: &'static str,
        offset: u64,
        len: u64,
        change: impl FnOnce(&mut State, usize, usize),
    ) -> Result<(), Error> {
        let mut state = self.state.write();
        check_range(operation, offset, len, state.bytes.len() as u64)?;
        if self.read_only {
            return Err(Error::new(ErrorKind::ReadOnly, operation));
        }
        change(&mut state, offset as usize, (offset + len) as usize);
        Ok(())
    }
}

impl BlockDevice for MemoryDevice {
    fn info(&self) -> DeviceInfo {
        DeviceInfo {
            size: self.state.read().bytes.len() as u64,
            read_only: self.read_only,
            block_size: BLOCK as u32,
        }
    }

    fn admit(&self, _: Demand, _: Turn) -> bool {
        true
    }

    fn read(&self, offset: u64, buf: &mut [u8]) -> Result<(), Error> {
        let state = self.state.read();
        check_range("read", offset, buf.len() as u64, state.bytes.len() as u64)?;
        let start = offset as usize;
        buf.copy_from_slice(&state.bytes[start..start + buf.len()]);
        Ok(())
    }

    fn try_read(&self, offset: u64, buf: &mut [u8]) -> Result<bool, Error> {
        self.read(offset, buf).map(|()| true)
    }

    fn write(&self, offset: u64, data: &[u8], _durability: Durability) -> Result<(), Error> {
        self.mutate("write", offset, data.len() as u64, |state, start, end| {
            state.bytes[start..end].copy_from_slice(data);
            if end > start {
                state.stored[start / BLOCK..end.div_ceil(BLOCK)].fill(true);
            }
        })
    }

    fn write_zeroes(&self, offset: u64, len: u64, _durability: Durability) -> Result<(), Error> {
        self.mutate("write zeroes", offset, len, |state, start, end| {
            state.bytes[start..end].fill(0);
            for block in start.div_ceil(BLOCK)..end / BLOCK {
                state.stored[block] = false;
            }
        })
    }

    fn discard(&self, offset: u64, len: u64, _durability: Durability) -> Result<(), Error> {
        self.mutate("discard", offset, len, |state, start, end| {
            for block in start.div_ceil(BLOCK)..end / BLOCK {
                state.bytes[block * BLOCK..(block + 1) * BLOCK].fill(0);
                state.stored[block] = false;
            }
        })
    }

    fn flush(&self) -> Result<(), Error> {
        Ok(())
    }

    fn extents(&self, offset: u64, len: u64, max: usize) -> Result<Vec<Extent>, Error> {
        let state = self.state.read();
        check_range("extents", offset, len, state.bytes.len() as u64)?;
        let mut extents: Vec<Extent> = Vec::new();
        let (mut at, end) = (offset, offset + len);
        while at < end {
            let block = at as usize / BLOCK;
            let next = ((block + 1) * BLOCK) as u64;
            let len = next.min(end) - at;
            let kind = if state.stored[block] {
                ExtentKind::Data
            } else {
                ExtentKind::Hole
            };
            match extents.last_mut() {
                Some(last) if last.kind == kind => last.len += len,
                _ => {
                    if extents.len() == max {
                        break;
                    }
                    extents.push(Extent { len, kind });
                }
            }
            at += len;
        }
        Ok(extents)
    }

    fn prefetch(&self, offset: u64, len: u64) -> Result<(), Error> {
        check_range(
            "prefetch",
            offset,
            len,
            self.state.read().bytes.len() as u64,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conforms() {
        crate::conformance::writable(&|size| Box::new(MemoryDevice::new(size as usize)));
    }
}
