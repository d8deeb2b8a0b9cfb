//! qcow2 images in place, with qemu-img and qemu-io as the oracle, and on machines that die.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should end")]

use block::{BlockDevice, Durability, ExtentKind};
use env::Env;
use file_disk::{Disk, Open, Place, create, open};
use std::{fs, path::Path, process::Command, sync::Arc};
use types::{FileDriver, FileFormat};

const HOW: Open = Open {
    format: FileFormat::Qcow2,
    driver: FileDriver::Threads,
    read_only: false,
};
const SIZE: u64 = 64 << 20;
const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

fn place(root: &Path) -> Place {
    Place {
        root: root.to_owned(),
        path: "disk0".into(),
    }
}

/// Runs one of QEMU's programs on the file; what it says, if it did well.
fn qemu(program: &str, arguments: &[&str], file: &Place) -> Result<String, String> {
    let ran = Command::new(program)
        .args(arguments)
        .arg(file.full())
        .output()
        .expect(program);
    let said =
        String::from_utf8_lossy(&ran.stdout).into_owned() + &String::from_utf8_lossy(&ran.stderr);
    if ran.status.success() && !said.contains("verification failed") {
        Ok(said)
    } else {
        Err(said)
    }
}

fn check(file: &Place) {
    let said = qemu("qemu-img", &["check", "-f", "qcow2"], file).unwrap();
    assert!(said.contains("No errors were found"), "{said}");
}

fn read(disk: &dyn BlockDevice, offset: u64, len: u64) -> Vec<u8> {
    let mut bytes = vec![0xaa; len as usize];
    disk.read(offset, &mut bytes).unwrap();
    bytes
}

fn fill(disk: &dyn BlockDevice, offset: u64, len: u64, byte: u8) {
    disk.write(offset, &vec![byte; len as usize], Durability::Volatile)
        .unwrap();
}

fn is(disk: &dyn BlockDevice, offset: u64, len: u64, byte: u8) {
    let read = read(disk, offset, len);
    assert!(
        read.iter().all(|&b| b == byte),
        "{:?} at {offset}",
        read.iter().find(|&&b| b != byte)
    );
}

#[test]
fn qemu_reads_what_was_written_and_the_other_way_round() {
    let dir = tempfile::tempdir().unwrap();
    let (env, place) = (Env::real(), place(dir.path()));
    create(&env, &place, SIZE, HOW).unwrap();
    check(&place);
    let disk = open(&env, &place, HOW, SIZE).unwrap();
    fill(&*disk, 100 * KIB, 3 * MIB, 1);
    fill(&*disk, 50 * MIB + 1, 5, 2);
    disk.discard(MIB, MIB, Durability::Durable).unwrap();
    drop(disk);
    check(&place);
    let commands = [
        "read -P 1 100k 924k",
        "read -P 0 1M 1M",
        "read -P 1 2M 1124k",
        "read -P 2 52428801 5",
        "read -P 0 52428806 100",
        "write -P 7 30M 1M",
    ];
    let mut arguments = vec!["-f", "qcow2"];
    arguments.extend(commands.iter().flat_map(|command| ["-c", command]));
    qemu("qemu-io", &arguments, &place).unwrap();
    let disk = open(&env, &place, HOW, SIZE).unwrap();
    is(&*disk, 30 * MIB, MIB, 7);
    is(&*disk, MIB, MIB, 0);
    let holes = disk.extents(MIB, MIB, 8).unwrap();
    assert_eq!((holes.len(), holes[0].kind), (1, ExtentKind::Hole));
}

#[test]
fn what_is_only_read_or_written_over_does_not_change_the_tables() {
    let dir = tempfile::tempdir().unwrap();
    let (env, place) = (Env::real(), place(dir.path()));
    create(&env, &place, SIZE, HOW).unwrap();
    let before = fs::read(place.full()).unwrap();
    let disk = open(&env, &place, HOW, SIZE).unwrap();
    is(&*disk, 0, MIB, 0);
    disk.flush().unwrap();
    drop(disk);
    assert!(fs::read(place.full()).unwrap() == before);
}

#[test]
fn compressed_clusters_are_read_and_written_over() {
    let dir = tempfile::tempdir().unwrap();
    let (env, place) = (Env::real(), place(dir.path()));
    let raw = dir.path().join("raw");
    let bytes: Vec<u8> = (0..4 * MIB).map(|n| (n / 1000) as u8).collect();
    fs::write(&raw, &bytes).unwrap();
    let convert = [
        "convert",
        "-c",
        "-f",
        "raw",
        "-O",
        "qcow2",
        raw.to_str().unwrap(),
    ];
    qemu("qemu-img", &convert, &place).unwrap();
    let disk = open(&env, &place, HOW, 4 * MIB).unwrap();
    assert!(read(&*disk, 0, 4 * MIB) == bytes);
    let mut model = bytes;
    for at in [0, 70 * KIB, 200 * KIB, MIB + 5, 3 * MIB] {
        fill(&*disk, at, 100 * KIB, 9);
        model[at as usize..(at + 100 * KIB) as usize].fill(9);
    }
    disk.write_zeroes(2 * MIB, 300 * KIB, Durability::Volatile)
        .unwrap();
    model[2 << 20..(2 << 20) + (300 << 10)].fill(0);
    assert!(read(&*disk, 0, 4 * MIB) == model);
    disk.flush().unwrap();
    drop(disk);
    // Clusters that were given up are free again.
    check(&place);
    let disk = open(&env, &place, HOW, 4 * MIB).unwrap();
    assert!(read(&*disk, 0, 4 * MIB) == model);
}

#[test]
fn snapshots_are_as_qemus() {
    let dir = tempfile::tempdir().unwrap();
    let (env, place) = (Env::real(), place(dir.path()));
    create(&env, &place, SIZE, HOW).unwrap();
    let disk = open(&env, &place, HOW, SIZE).unwrap();
    for round in 1..=3_u8 {
        fill(&*disk, 0, 2 * MIB, round);
        fill(&*disk, u64::from(round) * 10 * MIB, MIB, round);
        disk.create_snapshot(&format!("s{round}"), 1_700_000_000)
            .unwrap();
    }
    fill(&*disk, MIB / 2, MIB, 9);
    let view = |name: &str| Arc::clone(&disk).open_snapshot(name).unwrap();
    is(&*view("s1"), 0, 2 * MIB, 1);
    is(&*view("s2"), 0, 2 * MIB, 2);
    is(&*view("s2"), 30 * MIB, MIB, 0);
    is(&*disk, MIB / 2, MIB, 9);
    is(&*disk, 0, MIB / 2, 3);
    disk.remove_snapshot("s2").unwrap();
    is(&*view("s1"), 10 * MIB, MIB, 1);
    fill(&*disk, 10 * MIB, MIB, 8);
    disk.apply_snapshot("s1").unwrap();
    is(&*disk, 0, 2 * MIB, 1);
    is(&*disk, 20 * MIB, MIB, 0);
    fill(&*disk, 0, MIB, 7);
    is(&*view("s1"), 0, 2 * MIB, 1);
    is(&*view("s3"), 0, 2 * MIB, 3);
    let names: Vec<String> = disk
        .snapshots()
        .unwrap()
        .into_iter()
        .map(|s| s.name)
        .collect();
    assert_eq!(names, ["s1", "s3"]);
    drop(disk);
    check(&place);
    // QEMU goes on with them, and we with QEMU's.
    for arguments in [
        &["snapshot", "-a", "s3"][..],
        &["snapshot", "-c", "q"],
        &["snapshot", "-d", "s1"],
    ] {
        qemu("qemu-img", arguments, &place).unwrap();
    }
    let disk = open(&env, &place, HOW, SIZE).unwrap();
    is(&*disk, 0, 2 * MIB, 3);
    fill(&*disk, 0, MIB, 5);
    is(
        &*Arc::clone(&disk).open_snapshot("q").unwrap(),
        0,
        2 * MIB,
        3,
    );
    disk.remove_snapshot("q").unwrap();
    disk.resize(3 * SIZE).unwrap();
    is(&*disk, SIZE, SIZE, 0);
    fill(&*disk, 3 * SIZE - MIB, MIB, 6);
    drop(disk);
    check(&place);
    qemu(
        "qemu-io",
        &[
            "-f",
            "qcow2",
            "-c",
            "read -P 6 191M 1M",
            "-c",
            "read -P 5 0 1M",
        ],
        &place,
    )
    .unwrap();
}

#[test]
fn what_cannot_be_used_in_place_is_refused_and_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let (env, place) = (Env::real(), place(dir.path()));
    let refused = |why: &str| {
        let error = open(&env, &place, HOW, SIZE)
            .err()
            .map(|e| e.to_string())
            .unwrap_or_default();
        assert!(error.contains(why), "'{error}' does not say '{why}'");
        fs::remove_file(place.full()).unwrap();
    };
    let make = |options: &[&str]| {
        let mut create = Command::new("qemu-img");
        create
            .args(["create", "-q", "-f", "qcow2"])
            .args(options)
            .arg(place.full())
            .arg("64M");
        assert!(create.status().unwrap().success());
    };
    fs::write(dir.path().join("base"), vec![0; 1 << 20]).unwrap();
    let base = dir.path().join("base").display().to_string();
    make(&["-b", &base, "-F", "raw"]);
    refused("backing file");
    make(&["-o", "compat=0.10"]);
    refused("compat=1.1");
    make(&["-o", "refcount_bits=1"]);
    refused("16 bits");
    make(&["-o", &format!("data_file={base}")]);
    refused("another file");
    make(&["-o", "extended_l2=on"]);
    refused("extended L2");
    make(&[]);
    let mut bytes = fs::read(place.full()).unwrap();
    bytes[40..48].copy_from_slice(&12345_u64.to_be_bytes());
    fs::write(place.full(), bytes).unwrap();
    refused("does not begin with a cluster");
}

/// A number from a seed, as good as random here.
fn next(seed: &mut u64) -> u64 {
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    *seed
}

/// What the blocks of a disk may be: what was flushed last, and all that was written since.
struct Model(Vec<Vec<u8>>);

const DISK: u64 = 4 * MIB;
/// A write of a sector is done or not; one of more may be done in part.
const BLOCK: u64 = 512;

impl Model {
    /// What is found is what is there from now on.
    fn check(&mut self, disk: &dyn BlockDevice, seed: u64) {
        let all = read(disk, 0, DISK);
        let found = all.chunks(BLOCK as usize);
        for (index, (may, found)) in self.0.iter_mut().zip(found).enumerate() {
            let byte = found[0];
            assert!(
                found.iter().all(|&b| b == byte),
                "seed {seed}: sector {index} is torn"
            );
            assert!(
                may.contains(&byte),
                "seed {seed}: sector {index} is {byte}, not of {may:?}"
            );
            *may = vec![byte];
        }
    }

    fn flushed(&mut self) {
        for may in &mut self.0 {
            may.drain(..may.len() - 1);
        }
    }
}

/// One thing that a client or an administrator does; whether it was done.
fn act(disk: &dyn Disk, model: &mut Model, dice: &mut u64) -> bool {
    let blocks = model.0.len();
    let start = next(dice) as usize % blocks;
    let count = (1 + next(dice) as usize % 300).min(blocks - start);
    let (offset, len) = (start as u64 * BLOCK, count as u64 * BLOCK);
    let byte = match next(dice) % 10 {
        choice @ 0..=7 => {
            let byte = if choice < 6 {
                1 + (next(dice) % 255) as u8
            } else {
                0
            };
            for may in &mut model.0[start..start + count] {
                may.push(byte);
            }
            let data = vec![byte; len as usize];
            return match byte {
                0 => disk.write_zeroes(offset, len, Durability::Volatile).is_ok(),
                _ => disk.write(offset, &data, Durability::Volatile).is_ok(),
            };
        }
        8 => disk.flush().is_ok(),
        _ => {
            let name = format!("s{}", next(dice) % 3);
            disk.snapshots()
                .is_ok_and(|all| match all.iter().any(|s| s.name == name) {
                    true => disk.remove_snapshot(&name).is_ok(),
                    false => disk.create_snapshot(&name, 0).is_ok(),
                })
        }
    };
    if byte {
        model.flushed();
    }
    byte
}

/// A disk on a machine that dies again and again, in any I/O, also while it recovers.
fn lives(seed: u64, power: bool, image: Option<&[u8]>) {
    let mut dice = seed;
    let world = sim::SimEnv::new(seed);
    let place = place(Path::new("/"));
    create(&world.env(), &place, DISK, HOW).unwrap();
    let mut model = Model(vec![vec![0]; (DISK / BLOCK) as usize]);
    if let Some(image) = image {
        let options = env::OpenOptions {
            write: true,
            ..Default::default()
        };
        let file = world
            .env()
            .files
            .open(Path::new("/disk0"), options)
            .unwrap();
        file.set_len(0).unwrap();
        file.write_at(0, image).unwrap();
        file.sync_data().unwrap();
        model.0.fill(vec![255]);
    }
    for _ in 0..12 {
        let env = world.env();
        world.crash_after(next(&mut dice) % 150);
        if let Ok(disk) = open(&env, &place, HOW, DISK) {
            while act(&*disk, &mut model, &mut dice) {}
        }
        assert!(
            world.has_died(),
            "seed {seed}: something failed without a reason"
        );
        match power {
            true => world.power_cut(),
            false => world.kill(),
        }
        let disk =
            open(&world.env(), &place, HOW, DISK).unwrap_or_else(|e| panic!("seed {seed}: {e}"));
        model.check(&*disk, seed);
    }
}

#[test]
fn power_cuts_lose_nothing_that_was_flushed() {
    (1..40).for_each(|seed| lives(seed, true, None));
}

#[test]
fn kills_lose_nothing_that_was_flushed() {
    (100..140).for_each(|seed| lives(seed, false, None));
}

#[test]
fn clusters_that_are_given_up_are_not_used_before_that_is_durable() {
    let dir = tempfile::tempdir().unwrap();
    let (raw, place) = (dir.path().join("raw"), place(dir.path()));
    fs::write(&raw, vec![255; DISK as usize]).unwrap();
    let convert = [
        "convert",
        "-c",
        "-f",
        "raw",
        "-O",
        "qcow2",
        raw.to_str().unwrap(),
    ];
    qemu("qemu-img", &convert, &place).unwrap();
    let image = fs::read(place.full()).unwrap();
    (200..240).for_each(|seed| lives(seed, true, Some(&image)));
}
