//! Every kind of file disk does what a block device must do.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should end")]

use block::{BlockDevice, Durability, ErrorKind, conformance};
use env::Env;
use file_disk::{Open, Place, create, open};
use std::{fs, path::Path, sync::Arc};
use types::{FileDriver, FileFormat};

fn how(format: FileFormat, driver: FileDriver) -> Open {
    Open {
        format,
        driver,
        read_only: false,
    }
}

fn place(root: &Path, path: &str) -> Place {
    Place {
        root: root.to_owned(),
        path: path.into(),
    }
}

/// The suite takes boxes.
struct Shared(Arc<dyn file_disk::Disk>);

macro_rules! forward {
    ($($verb:ident($($arg:ident: $type:ty),*) -> $out:ty;)*) => {
        $(fn $verb(&self, $($arg: $type),*) -> $out { self.0.$verb($($arg),*) })*
    };
}

impl BlockDevice for Shared {
    forward! {
        info() -> block::DeviceInfo;
        admit(demand: block::Demand, turn: block::Turn) -> bool;
        read(offset: u64, buf: &mut [u8]) -> Result<(), block::Error>;
        try_read(offset: u64, buf: &mut [u8]) -> Result<bool, block::Error>;
        write(offset: u64, data: &[u8], durability: Durability) -> Result<(), block::Error>;
        write_zeroes(offset: u64, len: u64, durability: Durability) -> Result<(), block::Error>;
        discard(offset: u64, len: u64, durability: Durability) -> Result<(), block::Error>;
        flush() -> Result<(), block::Error>;
        extents(offset: u64, len: u64, max: usize) -> Result<Vec<block::Extent>, block::Error>;
        prefetch(offset: u64, len: u64) -> Result<(), block::Error>;
    }
}

fn conforms(format: FileFormat, driver: FileDriver) {
    let dir = tempfile::tempdir().unwrap();
    let env = Env::real();
    let count = std::cell::Cell::new(0);
    conformance::writable(&|size| {
        count.set(count.get() + 1);
        let place = place(dir.path(), &format!("vm/disk{}", count.get()));
        create(&env, &place, size, how(format, driver)).unwrap();
        Box::new(Shared(
            open(&env, &place, how(format, driver), size).unwrap(),
        ))
    });
}

#[test]
fn raw_by_threads_conforms() {
    conforms(FileFormat::Raw, FileDriver::Threads);
}

#[test]
fn qcow2_conforms() {
    conforms(FileFormat::Qcow2, FileDriver::Threads);
}

#[test]
fn raw_by_io_uring_conforms() {
    conforms(FileFormat::Raw, FileDriver::IoUring);
}

#[test]
fn long_requests_go_in_pieces_and_come_back_whole() {
    let dir = tempfile::tempdir().unwrap();
    let env = Env::real();
    let place = place(dir.path(), "vm/disk0");
    let how = how(FileFormat::Raw, FileDriver::IoUring);
    create(&env, &place, 16 << 20, how).unwrap();
    let disk = open(&env, &place, how, 16 << 20).unwrap();
    let data: Vec<u8> = (0..9_000_001_u32).map(|n| ((n * 7) >> 3) as u8).collect();
    disk.write(12_345, &data, Durability::Durable).unwrap();
    let mut back = vec![0; data.len()];
    disk.read(12_345, &mut back).unwrap();
    assert!(back == data, "what came back differs");
    let bytes = fs::read(place.full()).unwrap();
    assert!(
        bytes[12_345..12_345 + data.len()] == data,
        "what is in the file differs"
    );
}

#[test]
fn who_only_reads_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let env = Env::real();
    let place = place(dir.path(), "vm/disk0");
    let writer = how(FileFormat::Raw, FileDriver::Threads);
    create(&env, &place, 1 << 20, writer).unwrap();
    let reader = Open {
        read_only: true,
        ..writer
    };
    let (one, two) = (
        open(&env, &place, reader, 1 << 20).unwrap(),
        open(&env, &place, reader, 1 << 20).unwrap(),
    );
    for disk in [&one, &two] {
        let refused = disk.write(0, b"x", Durability::Volatile).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::ReadOnly);
    }
    let in_use = open(&env, &place, writer, 1 << 20).err().unwrap();
    assert_eq!(in_use.kind(), file_disk::ErrorKind::InUse);
}
