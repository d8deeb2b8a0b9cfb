//! [`env::Memory`] that lives as long as the machine has power.

use crate::world::World;
use env::{Memory, Region};
use parking_lot::Mutex;
use std::{io, sync::Arc};

/// More than any test needs.
const AVAILABLE: u64 = 1 << 40;

pub(crate) struct SimMemory(pub(crate) Arc<Mutex<World>>);

impl Memory for SimMemory {
    fn open(&self, name: &str, len: u64) -> io::Result<Arc<dyn Region>> {
        let mut world = self.0.lock();
        let region = world.memory.entry(name.to_owned());
        Ok(region.or_insert_with(|| env::heap_region(len)).clone())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.0.lock().memory.remove(name);
        Ok(())
    }

    fn available(&self) -> io::Result<u64> {
        Ok(AVAILABLE)
    }
}
