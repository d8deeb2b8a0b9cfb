//! A store on a simulated disk, and blocks that say what they are.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use block::BlockDevice;
use sim::SimEnv;
use std::{path::Path, sync::Arc};
use types::{BLOCK_SIZE, Name};
use volume::{Config, Create, InitOptions, Source, Store};

pub(crate) const DIR: &str = "/store";
pub(crate) const MIB: u64 = 1 << 20;
pub(crate) const BLOCK: u64 = BLOCK_SIZE as u64;

pub(crate) fn open(sim: &SimEnv, config: &Config) -> Store {
    Store::open(&sim.env(), Path::new(DIR), config.clone()).unwrap()
}

pub(crate) fn new(sim: &SimEnv, config: &Config) -> Store {
    Store::init(&sim.env(), Path::new(DIR), &InitOptions::default()).unwrap();
    open(sim, config)
}

pub(crate) fn name(text: &str) -> Name {
    text.parse().unwrap()
}

pub(crate) fn make(store: &Store, volume: &str, size: u64) -> Arc<dyn BlockDevice> {
    let create = Create::new(name(volume), Source::Empty(size));
    store.create_volume(&create).unwrap();
    device(store, volume)
}

pub(crate) fn device(store: &Store, volume: &str) -> Arc<dyn BlockDevice> {
    store.device(&name(volume).into()).unwrap()
}

/// A block of noise that says which it is.
pub(crate) fn block(tag: u32) -> Vec<u8> {
    let mut state = u64::from(tag) << 32 | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    let mut block: Vec<u8> = (0..BLOCK_SIZE).map(|_| next()).collect();
    block[..4].copy_from_slice(&tag.to_le_bytes());
    block
}

/// The tag of block `index`, which is whole.
pub(crate) fn tag(device: &dyn BlockDevice, index: u64) -> u32 {
    let mut bytes = vec![0; BLOCK_SIZE];
    device.read(index * BLOCK, &mut bytes).unwrap();
    let tag = u32::from_le_bytes(bytes[..4].try_into().unwrap());
    let whole = if tag == 0 {
        vec![0; BLOCK_SIZE]
    } else {
        block(tag)
    };
    assert!(bytes == whole, "block {index} is not what was ever written");
    tag
}

/// Bytes that the disk has in use.
pub(crate) fn used(sim: &SimEnv) -> u64 {
    let before = sim.env().files.space(Path::new(DIR)).unwrap();
    before.total - before.free
}

pub(crate) fn collect(store: &Store) -> Result<(), gc::Error> {
    let options = gc::Options::default();
    let collect = || gc::collect(store.packs(), store, &options, &types::NoProgress);
    let full = |e: &gc::Error| e.kind() == gc::ErrorKind::NoSpace;
    store.freeing(full, collect)?;
    store.update_space();
    Ok(())
}

/// Removes a volume for good, and gives its space back.
pub(crate) fn remove(store: &Store, volume: &str) {
    let id = store.remove_volume(&name(volume)).unwrap().id;
    store.purge_volume(id).unwrap();
    collect(store).unwrap();
}
