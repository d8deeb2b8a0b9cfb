//! The server against a client of its own, over socket pairs.

#![expect(clippy::unwrap_used, reason = "these are tests")]

mod client;
mod handshake;
mod idle;
mod limits;
mod server;
mod throttle;
mod transmission;

use block::{
    Bitmap, BlockDevice, Demand, Departure, DeviceInfo, Durability, Error, ErrorKind, Exports,
    Extent, MemoryDevice, Run, Turn, check_range,
};
use front_nbd::{Config, Server};
use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};
use sync::{Condvar, Mutex};

const SIZE: u64 = 64 << 20;

/// Devices by name.
#[derive(Default)]
struct Named(BTreeMap<String, Arc<dyn BlockDevice>>);

impl Exports for Named {
    fn list(&self) -> Vec<String> {
        self.0.keys().cloned().collect()
    }

    fn open(&self, name: &str) -> Result<Arc<dyn BlockDevice>, Error> {
        let device = self.0.get(name).cloned();
        device.ok_or(Error::new(ErrorKind::Gone, "open"))
    }

    fn bitmaps(&self, name: &str) -> Vec<String> {
        let days = ["sunday", "monday"].map(str::to_owned);
        days.into_iter().filter(|_| name == "disk").collect()
    }

    fn bitmap(&self, name: &str, point: &str) -> Result<Arc<dyn Bitmap>, Error> {
        let known = self.bitmaps(name).iter().any(|known| known == point);
        let many = point.parse().is_ok_and(|number: u32| number < 100);
        match known || many {
            true => Ok(Arc::new(Stripes)),
            false => Err(Error::new(ErrorKind::Gone, "bitmap")),
        }
    }

    fn left(&self, _: &str, _: Departure) {}
}

/// Every second 64 KiB have changed, from the second on.
struct Stripes;

impl Bitmap for Stripes {
    fn changed(&self, offset: u64, len: u64, max: usize) -> Result<Vec<Run>, Error> {
        check_range("bitmap", offset, len, SIZE)?;
        let (mut at, end, mut runs) = (offset, offset + len, Vec::new());
        while at < end && runs.len() < max {
            let next = (((at >> 16) + 1) << 16).min(end);
            let changed = at >> 16 & 1 == 1;
            runs.push(Run {
                len: next - at,
                changed,
            });
            at = next;
        }
        Ok(runs)
    }
}

/// `disk` (64 MiB of memory), `disk@monday` (read-only), `gate` (see [`Gate`]).
struct World {
    server: Server,
    gate: Arc<Gate>,
}

fn world() -> World {
    world_with(Config::default())
}

fn world_with(config: Config) -> World {
    let gate = Arc::new(Gate::new());
    let mut named = Named::default();
    let mut add = |name: &str, device: Arc<dyn BlockDevice>| {
        named.0.insert(name.to_owned(), device);
    };
    add("disk", Arc::new(MemoryDevice::new(SIZE as usize)));
    add(
        "disk@monday",
        Arc::new(MemoryDevice::read_only(vec![7; 1 << 20])),
    );
    add("gate", gate.clone());
    let server = Server::start(Arc::new(named), env::Env::real(), config).unwrap();
    World { server, gate }
}

/// A device that has only its first MiB in memory: reads behind that and flushes wait until it is
/// opened. Reads of the last MiB fail.
struct Gate {
    memory: MemoryDevice,
    open: Mutex<bool>,
    opened: Condvar,
    waiting: AtomicU64,
    flushes: AtomicU64,
    durable_writes: AtomicU64,
}

impl Gate {
    fn new() -> Self {
        Gate {
            memory: MemoryDevice::new(SIZE as usize),
            open: Mutex::new(false),
            opened: Condvar::new(),
            waiting: AtomicU64::new(0),
            flushes: AtomicU64::new(0),
            durable_writes: AtomicU64::new(0),
        }
    }

    fn open(&self) {
        *self.open.lock() = true;
        self.opened.notify_all();
    }

    fn pass(&self) {
        self.waiting.fetch_add(1, Ordering::SeqCst);
        let mut open = self.open.lock();
        while !*open {
            self.opened.wait(&mut open);
        }
    }

    /// Waits until so many calls came to the gate.
    fn wait_for(&self, count: u64) {
        while self.waiting.load(Ordering::SeqCst) < count {
            std::thread::yield_now();
        }
    }
}

impl BlockDevice for Gate {
    fn info(&self) -> DeviceInfo {
        self.memory.info()
    }

    fn admit(&self, _: Demand, _: Turn) -> bool {
        true
    }

    fn read(&self, offset: u64, buf: &mut [u8]) -> Result<(), Error> {
        self.pass();
        if offset + buf.len() as u64 > SIZE - (1 << 20) {
            return Err(Error::new(ErrorKind::Io, "read"));
        }
        self.memory.read(offset, buf)
    }

    fn try_read(&self, offset: u64, buf: &mut [u8]) -> Result<bool, Error> {
        let near = offset < 1 << 20;
        Ok(near && self.memory.try_read(offset, buf)?)
    }

    fn write(&self, offset: u64, data: &[u8], durability: Durability) -> Result<(), Error> {
        if durability == Durability::Durable {
            self.durable_writes.fetch_add(1, Ordering::SeqCst);
        }
        self.memory.write(offset, data, durability)
    }

    fn write_zeroes(&self, offset: u64, len: u64, durability: Durability) -> Result<(), Error> {
        self.memory.write_zeroes(offset, len, durability)
    }

    fn discard(&self, _: u64, _: u64, _: Durability) -> Result<(), Error> {
        panic!("a bug in the device")
    }

    fn flush(&self) -> Result<(), Error> {
        self.pass();
        self.flushes.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }

    fn extents(&self, offset: u64, len: u64, max: usize) -> Result<Vec<Extent>, Error> {
        self.memory.extents(offset, len, max)
    }

    fn prefetch(&self, _: u64, _: u64) -> Result<(), Error> {
        Err(Error::new(ErrorKind::Gone, "prefetch"))
    }
}
