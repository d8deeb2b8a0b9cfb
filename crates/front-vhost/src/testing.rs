//! What a guest, or its monitor, writes into memory, without either: for fuzzing.

use crate::{
    Options,
    disk::Disk,
    inflight::Inflight,
    memory::{Broken, Mapping, Memory, Region},
    queue::{Queue, serve_waiting},
    ring::{Addresses, Ring},
    stats::Counters,
};
use block::{BlockDevice, Durability};
use env::{Pool, RealClock};
use rustix::fs::{MemfdFlags, memfd_create};
use std::{fs::File, io, os::unix::fs::FileExt, sync::Arc};

/// Where the guest has its memory.
pub const GUEST: u64 = 0x1_0000;
/// Bytes of it, in two regions that follow each other.
pub const MEMORY: usize = 32 << 10;
/// Where the parts of its ring are, within it: descriptors, what is available, what is used.
pub const RING: [usize; 3] = [0, 0x1000, 0x1800];

fn share(bytes: &[u8]) -> io::Result<File> {
    let file = File::from(memfd_create("guest", MemfdFlags::CLOEXEC)?);
    file.set_len(bytes.len() as u64)?;
    file.write_all_at(bytes, 0)?;
    Ok(file)
}

/// Serves a ring of `size` entries in memory that begins with `bytes`, as far as it makes sense. What the memory is
/// afterwards, and what was wrong.
///
/// # Errors
/// There is no memory to be had.
pub fn serve_ring(
    device: Arc<dyn BlockDevice>,
    size: u16,
    bytes: &[u8],
) -> io::Result<(Vec<u8>, Result<(), &'static str>)> {
    let mut content = bytes[..bytes.len().min(MEMORY)].to_vec();
    content.resize(MEMORY, 0);
    let file = share(&content)?;
    let mut memory = Memory::default();
    let half = MEMORY as u64 / 2;
    for offset in [0, half] {
        let region = Region {
            guest: GUEST + offset,
            user: offset,
            mapping: Arc::new(Mapping::new(file.try_clone()?, offset, half)?),
        };
        let Ok(()) = memory.add(region) else {
            unreachable!("these do not overlap")
        };
    }
    let [descriptors, available, used] = RING.map(|at| at as u64);
    let at = Addresses {
        descriptors,
        available,
        used,
        log: None,
    };
    let disk = Disk {
        device,
        options: Options::default(),
        clock: Arc::new(RealClock::new()),
        counters: Counters::default(),
    };
    let served = Ring::new(Arc::new(memory), size, at, true).and_then(|ring| {
        let disk = Arc::new(disk);
        let queue = Queue::new(0, ring, None, disk, Durability::Volatile, None);
        serve_waiting(queue, Arc::new(Pool::new("fuzz", 1)))
    });
    file.read_exact_at(&mut content, 0)?;
    Ok((content, served.map_err(|Broken(why)| why)))
}

/// Puts an inflight region of these bytes right, for a queue of `size` entries whose used index is `used`, and says what
/// is to be done again; twice, as a process may die while it does so.
///
/// # Errors
/// There is no memory to be had.
pub fn recover_inflight(
    bytes: &[u8],
    size: u16,
    used: u16,
) -> io::Result<[Result<Vec<u16>, &'static str>; 2]> {
    let file = share(bytes)?;
    let mapping = Arc::new(Mapping::new(file, 0, bytes.len() as u64)?);
    let recover = || {
        let inflight = Inflight::new(mapping.clone(), 0, size)?;
        Ok(inflight.recover(used)?.again)
    };
    Ok([recover(), recover()].map(|again| again.map_err(|Broken(why)| why)))
}
