//! Fuzz targets: hostile bytes for every decoder, and for what stands behind them.
//!
//! Each module is a target: `run` takes the fuzzer's bytes and panics if a promise is broken, `seeds`
//! makes the inputs to begin with from the real encoders. More than "no panic" is asked: what decodes
//! must encode to the same, everything ends, and memory is bounded ([`alloc::bounded`]).

pub mod alloc;
pub mod blockmap;
pub mod catalog_copy;
pub mod catalog_file;
pub mod catalog_record;
pub mod frame;
pub mod image;
pub mod image_formats;
pub mod input;
pub mod journal_record;
pub mod journal_recovery;
pub mod nbd_session;
pub mod nbd_wire;
pub mod pack;
pub mod rest;
pub mod text;
pub mod vhost_inflight;
pub mod vhost_ring;
pub mod write_buffer;

use std::{fs, path::Path, process::exit};

/// Called once by each target. With `FUZZ_SEEDS` set to a directory it writes the target's seeds there, each
/// under its checksum, and ends the process.
pub fn start(seeds: fn() -> Vec<Vec<u8>>) {
    let Some(dir) = std::env::var_os("FUZZ_SEEDS") else {
        return;
    };
    for seed in seeds() {
        let path = Path::new(&dir).join(format!("seed-{:08x}", crc32c::crc32c(&seed)));
        if let Err(error) = fs::write(&path, seed) {
            eprintln!("{}: {error}", path.display());
            exit(1);
        }
    }
    exit(0);
}
