//! Volumes are block devices as the seam has them.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use block::BlockDevice;
use sim::SimEnv;
use std::{
    path::Path,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};
use types::Codec;
use volume::{Background, Config, Create, InitOptions, Source, Store};

fn suite(env: &env::Env, dir: &Path, config: Config) {
    Store::init(env, dir, &InitOptions::default()).unwrap();
    let store = Store::open(env, dir, config).unwrap();
    let count = AtomicU64::new(0);
    block::conformance::writable(&|size| -> Box<dyn BlockDevice> {
        let number = count.fetch_add(1, Relaxed);
        let create = Create {
            dedup: Some(number.is_multiple_of(2)),
            codec: Some([Codec::None, Codec::Lz4, Codec::Zstd][number as usize % 3]),
            ..Create::new(format!("v{number}").parse().unwrap(), Source::Empty(size))
        };
        store.create_volume(&create).unwrap();
        let device = store.device(&create.name.into()).unwrap();
        Box::new(Shared(device))
    });
    store.close().unwrap();
}

/// The suite wants a box of its own.
struct Shared(std::sync::Arc<dyn BlockDevice>);

impl BlockDevice for Shared {
    fn info(&self) -> block::DeviceInfo {
        self.0.info()
    }
    fn admit(&self, demand: block::Demand, turn: block::Turn) -> bool {
        self.0.admit(demand, turn)
    }
    fn read(&self, offset: u64, buf: &mut [u8]) -> Result<(), block::Error> {
        self.0.read(offset, buf)
    }
    fn try_read(&self, offset: u64, buf: &mut [u8]) -> Result<bool, block::Error> {
        self.0.try_read(offset, buf)
    }
    fn write(&self, offset: u64, data: &[u8], d: block::Durability) -> Result<(), block::Error> {
        self.0.write(offset, data, d)
    }
    fn write_zeroes(
        &self,
        offset: u64,
        len: u64,
        d: block::Durability,
    ) -> Result<(), block::Error> {
        self.0.write_zeroes(offset, len, d)
    }
    fn discard(&self, offset: u64, len: u64, d: block::Durability) -> Result<(), block::Error> {
        self.0.discard(offset, len, d)
    }
    fn flush(&self) -> Result<(), block::Error> {
        self.0.flush()
    }
    fn extents(
        &self,
        offset: u64,
        len: u64,
        max: usize,
    ) -> Result<Vec<block::Extent>, block::Error> {
        self.0.extents(offset, len, max)
    }
    fn prefetch(&self, offset: u64, len: u64) -> Result<(), block::Error> {
        self.0.prefetch(offset, len)
    }
}

#[test]
fn in_simulation_with_everything_in_memory() {
    suite(&SimEnv::new(1).env(), Path::new("/store"), Config::small());
}

#[test]
fn in_simulation_with_every_write_destaged() {
    let config = Config {
        destage_bytes: 1,
        flush_destage_bytes: 0,
        ..Config::small()
    };
    suite(&SimEnv::new(2).env(), Path::new("/store"), config);
}

#[test]
fn on_real_files_with_threads() {
    let dir = tempfile::tempdir().unwrap();
    let config = Config {
        background: Background::Threads(2),
        destage_bytes: 1 << 16,
        ..Config::small()
    };
    suite(&env::Env::real(), &dir.path().join("store"), config);
}
