//! Snapshots that an image has in it.

use crate::{
    qemu::{contents, io, is_volume, patched, run, text},
    support::{World, from_path},
};
use image::{ErrorKind, Import, Imported};
use std::{
    fs,
    path::{Path, PathBuf},
};
use types::{Cancel, NoProgress};
use volume::SnapshotRecord;

const MIB: u64 = 1 << 20;

fn import(world: &World, image: &Path, snapshots: bool) -> Result<Imported, image::Error> {
    let request = Import {
        snapshots,
        ..from_path("v", image)
    };
    image::import(&world.store, &world.env, request, &NoProgress)
}

fn snapshot(image: &Path, name: &str) {
    run("qemu-img", &["snapshot", "-c", name, text(image)]);
}

/// An image with these snapshots, each with one MiB more of data than the one before.
fn image_with(world: &World, options: &str, snapshots: &[&str]) -> PathBuf {
    let image = world.path("x.qcow2");
    let create = ["create", "-q", "-f", "qcow2", "-o", options];
    run("qemu-img", &[&create[..], &[text(&image), "16M"]].concat());
    for (number, name) in snapshots.iter().enumerate() {
        let write = format!("write -P {} {number}M 1M", number + 1);
        let over = format!("write -P {} 15M {}k", number + 101, number * 10 + 5);
        io("qcow2", &image, &[&write, &over]);
        snapshot(&image, name);
    }
    io("qcow2", &image, &["write -P 77 14M 64k", "write -z 0 300k"]);
    image
}

fn taken(world: &World) -> Vec<SnapshotRecord> {
    world.store.snapshots(&"v".parse().unwrap()).unwrap()
}

fn names(world: &World) -> Vec<String> {
    let snapshots = taken(world);
    snapshots.iter().map(|s| s.name.to_string()).collect()
}

/// What qemu-img says that a snapshot holds.
fn by_qemu(world: &World, image: &Path, id: usize) -> Vec<u8> {
    let (raw, id) = (world.path("by-qemu.raw"), format!("snapshot.id={id}"));
    run(
        "qemu-img",
        &["convert", "-l", &id, "-O", "raw", text(image), text(&raw)],
    );
    fs::read(&raw).unwrap()
}

#[test]
fn snapshots_of_an_image_become_snapshots_of_the_volume() {
    for options in [
        "compat=1.1",
        "compat=0.10",
        "extended_l2=on",
        "cluster_size=4k",
    ] {
        let world = World::new();
        let image = image_with(&world, options, &["clean", "app", "data"]);
        let imported = import(&world, &image, true).unwrap();
        assert!(imported.notes.is_empty(), "{:?}", imported.notes);
        is_volume(&world, "v", &contents(&world, &image, "qcow2"));
        assert_eq!(names(&world), ["clean", "app", "data"]);
        for (number, snapshot) in taken(&world).iter().enumerate() {
            let expect = by_qemu(&world, &image, number + 1);
            is_volume(&world, &format!("v@{}", snapshot.name), &expect);
            assert_eq!(snapshot.size, 16 * MIB);
            assert!(snapshot.created_ms > 1_600_000_000_000);
        }
        // They are snapshots like any other.
        let (volume, snapshot) = ("v".parse().unwrap(), "app".parse().unwrap());
        world.store.rollback(&volume, &snapshot).unwrap();
        is_volume(&world, "v", &by_qemu(&world, &image, 2));
        let oldest = "clean".parse().unwrap();
        world.store.remove_snapshot(&volume, &oldest).unwrap();
        is_volume(&world, "v@data", &by_qemu(&world, &image, 3));
    }
}

fn bytes_below(dir: &Path) -> u64 {
    let entries = fs::read_dir(dir).unwrap().map(Result::unwrap);
    let len = |entry: fs::DirEntry| match entry.metadata().unwrap() {
        of if of.is_dir() => bytes_below(&entry.path()),
        of => of.len(),
    };
    entries.map(len).sum()
}

#[test]
fn snapshots_take_what_differs() {
    let world = World::new();
    let image = world.path("x.qcow2");
    let source = world.path("x.raw");
    crate::support::sparse(&source, 32 * MIB, &[0..24 * MIB]);
    crate::qemu::convert(&source, &image, &["-O", "qcow2"]);
    for number in 0..8 {
        io(
            "qcow2",
            &image,
            &[&format!("write -P {number} {number}M 8k")],
        );
        snapshot(&image, &format!("s{number}"));
    }
    import(&world, &image, true).unwrap();
    let stored = bytes_below(&world.dir.path().join("store/brick"));
    assert_eq!(taken(&world).len(), 8);
    assert!(stored < 26 * MIB, "{stored} bytes for 24 MiB and 64 KiB");
    let bare = Import {
        snapshots: true,
        dedup: Some(false),
        ..from_path("w", &image)
    };
    let refused = image::import(&world.store, &world.env, bare, &NoProgress).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Invalid);
    assert!(refused.to_string().contains("--dedup"), "{refused}");
}

#[test]
fn names_become_valid_and_unique_and_the_oldest_comes_first() {
    let world = World::new();
    let given = [
        "before update",
        "..",
        "été",
        "before update",
        "x",
        "before-update-2",
    ];
    let image = image_with(&world, "cluster_size=64k", &given);
    // The third was taken long before all others.
    let offset = u64::from_be_bytes(fs::read(&image).unwrap()[64..72].try_into().unwrap());
    let entry =
        |name: &str, id: usize| (40 + 24 + name.len() + id.to_string().len()).next_multiple_of(8);
    let third = offset + (entry(given[0], 1) + entry(given[1], 2)) as u64;
    patched(&image, third + 16, &1000u32.to_be_bytes());
    import(&world, &image, true).unwrap();
    let expect = [
        "t-",
        "before-update",
        "2",
        "before-update-2",
        "x",
        "before-update-2-2",
    ];
    assert_eq!(names(&world), expect);
    assert_eq!(taken(&world)[0].created_ms / 1000, 1000);
    is_volume(&world, "v@t-", &by_qemu(&world, &image, 3));
    is_volume(&world, "v@before-update-2-2", &by_qemu(&world, &image, 6));
}

#[test]
fn a_snapshot_has_the_size_that_the_disk_had() {
    let world = World::new();
    let image = image_with(&world, "compat=1.1", &["small"]);
    run("qemu-img", &["resize", "-q", text(&image), "20M"]);
    io("qcow2", &image, &["write -P 9 18M 2M"]);
    snapshot(&image, "large");
    import(&world, &image, true).unwrap();
    let sizes: Vec<u64> = taken(&world).iter().map(|s| s.size).collect();
    assert_eq!(sizes, [16 * MIB, 20 * MIB]);
    // QEMU gives all snapshots the size of now.
    let small = by_qemu(&world, &image, 1);
    assert!(types::is_zero(&small[16 << 20..]));
    is_volume(&world, "v@small", &small[..16 << 20]);
    is_volume(&world, "v@large", &by_qemu(&world, &image, 2));
    is_volume(&world, "v", &contents(&world, &image, "qcow2"));
}

#[test]
fn what_is_left_out_is_told_and_damage_leaves_nothing() {
    let world = World::new();
    let image = image_with(&world, "compat=1.1", &["a", "b"]);
    let imported = import(&world, &image, false).unwrap();
    assert_eq!(
        imported.notes,
        ["2 snapshots in the image were left out; --snapshots imports them too"]
    );
    assert!(taken(&world).is_empty());
    let live = image::live(
        &world.env,
        &image,
        None,
        &Default::default(),
        None,
        &Cancel::never(),
    )
    .unwrap();
    assert_eq!(live.notes, imported.notes);
    let gone = world.store.remove_volume(&"v".parse().unwrap()).unwrap();
    world.store.purge_volume(gone.id).unwrap();
    // The L1 table of the second one is nowhere.
    let offset = u64::from_be_bytes(fs::read(&image).unwrap()[64..72].try_into().unwrap());
    patched(&image, offset + 72, &(1u64 << 40).to_be_bytes());
    let refused = import(&world, &image, true).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Invalid);
    assert!(refused.to_string().contains("at byte"), "{refused}");
    assert!(world.store.find(&"v".parse().unwrap()).is_err());
    import(&world, &image, false).unwrap();
    is_volume(&world, "v", &contents(&world, &image, "qcow2"));
}
