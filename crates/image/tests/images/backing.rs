//! Clones as images over the one of what they come from.

use crate::{
    qemu::{contents, plain, run, text},
    served::{convert, convert_upon, shape},
    support::{CancelAfter, World, noise, of, sparse},
};
use block::{BlockDevice, Durability::Volatile};
use image::{Convert, ErrorKind, Import, OtherFiles, Source};
use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};
use types::{Compression, ImageFormat, ImageShape, NoProgress, Progress};
use volume::{Create, Update};

const MIB: u64 = 1 << 20;
const CLUSTER: u64 = 64 << 10;

/// Compressed, or not.
const COMPRESSIONS: [Option<Compression>; 3] =
    [None, Some(Compression::Zlib), Some(Compression::Zstd)];

fn snapshot(world: &World, r: &str) {
    let (volume, name) = r.split_once('@').unwrap();
    let (volume, name) = (volume.parse().unwrap(), name.parse().unwrap());
    world.store.create_snapshot(&volume, &name).unwrap();
}

fn clone(world: &World, of_it: &str, name: &str, size: Option<u64>) -> Arc<dyn BlockDevice> {
    let source = volume::Source::Clone(of(of_it), size);
    let create = Create::new(name.parse().unwrap(), source);
    world.store.create_volume(&create).unwrap();
    world.store.device(&of(name)).unwrap()
}

fn resize(world: &World, name: &str, size: u64) {
    let update = Update {
        size: Some(size),
        allow_data_loss: true,
        ..Update::default()
    };
    let name = name.parse().unwrap();
    world.store.update_volume(&name, &update).unwrap();
}

fn qcow2(compress: Option<Compression>) -> ImageShape {
    ImageShape {
        compress,
        ..shape(ImageFormat::Qcow2)
    }
}

fn to(path: &Path, shape: ImageShape) -> Convert {
    Convert {
        path: path.to_owned(),
        overwrite: false,
        shape,
    }
}

/// Bytes that an image holds by itself.
fn held(image: &Path) -> u64 {
    let map = run(
        "qemu-img",
        &["map", "--output=json", "-f", "qcow2", text(image)],
    );
    let field = |line: &str, name: &str| {
        let rest = line.split_once(&format!("\"{name}\": ")).unwrap().1;
        let digits = rest.split(|c: char| !c.is_ascii_digit()).next();
        digits.unwrap().parse::<u64>().unwrap()
    };
    let own = map
        .lines()
        .filter(|line| line.contains("\"present\": true"));
    let own = own.filter(|line| field(line, "depth") == 0);
    own.map(|line| field(line, "length")).sum()
}

/// `debian@golden`, with an image of it in each of three ways.
fn golden(world: &World) -> [PathBuf; 3] {
    world.import("debian", &plain(world)).unwrap();
    snapshot(world, "debian@golden");
    let images = ["golden.raw", "golden.qcow2", "golden,z.qcow2"].map(|name| world.path(name));
    world.export("debian@golden", &images[0]).unwrap();
    for (image, compress) in images[1..].iter().zip([None, Some(Compression::Zstd)]) {
        convert(
            world,
            "debian@golden",
            image,
            false,
            qcow2(compress),
            &NoProgress,
        )
        .unwrap();
    }
    images
}

/// Clones that differ from it in all ways that there are, with the bytes of all clusters that differ.
fn clones(world: &World) -> Vec<(&'static str, u64)> {
    let golden = "debian@golden";
    clone(world, golden, "same", None);
    let changed = clone(world, golden, "changed", None);
    // Parts of blocks, across clusters, at the very end.
    changed.write(1000, &noise(1, 700), Volatile).unwrap();
    changed
        .write(5 * CLUSTER - 4096, &noise(2, 8192), Volatile)
        .unwrap();
    changed
        .write(9 * MIB + 1024, &noise(3, 512), Volatile)
        .unwrap();
    // Zeroes over data, in whole clusters and less, written as such and as bytes.
    changed
        .discard(3 * MIB + 4096, 3 * CLUSTER, Volatile)
        .unwrap();
    changed
        .write_zeroes(3 * MIB + 500_000, 5000, Volatile)
        .unwrap();
    changed
        .write(6 * MIB + 100, &[0; 70_000], Volatile)
        .unwrap();
    // What was zeroes remains zeroes.
    changed.write_zeroes(7 * MIB, MIB, Volatile).unwrap();
    let grown = clone(world, golden, "grown", Some(20 * MIB + 512));
    // Behind the end, in the cluster that has the end in it and far away.
    grown
        .write(9 * MIB + 5000, &noise(4, 5000), Volatile)
        .unwrap();
    grown.write(20 * MIB, &noise(5, 512), Volatile).unwrap();
    clone(world, golden, "only-grown", Some(30 * MIB));
    clone(world, golden, "shrunk", None);
    resize(world, "shrunk", 3 * MIB + 100 * 512);
    // Cut within a block; what was behind does not come back, here or there.
    clone(world, golden, "cut", None);
    resize(world, "cut", 3 * MIB + 101 * 512);
    resize(world, "cut", 12 * MIB);
    let raw = world.path("other.raw");
    sparse(&raw, 10 * MIB, &[2 * MIB..4 * MIB]);
    world.import("other", &raw).unwrap();
    vec![
        ("same", 0),
        ("changed", (1 + 2 + 4 + 1 + 2) * CLUSTER + 1536),
        ("grown", CLUSTER + 512),
        ("only-grown", 0),
        ("shrunk", u64::MAX),
        ("cut", u64::MAX),
        ("other", u64::MAX),
        ("debian@golden", 0),
    ]
}

#[test]
fn a_clone_is_what_its_image_and_the_one_behind_it_hold() {
    let world = World::new();
    let behind = golden(&world);
    let before = behind.clone().map(|image| fs::read(image).unwrap());
    fs::create_dir(world.path("clones")).unwrap();
    for (name, differs) in clones(&world) {
        let expect = world.contents(name);
        for (at, behind) in behind.iter().enumerate() {
            for (compress, directory) in COMPRESSIONS.into_iter().zip(["", "clones", "."]) {
                let what = format!("{name} upon {}, {compress:?}", behind.display());
                let image = world.path(directory).join(format!("{name}-{at}.qcow2"));
                let _ = fs::remove_file(&image);
                let to = to(&image, qcow2(compress));
                convert_upon(&world, name, "debian@golden", behind, to, &NoProgress)
                    .unwrap_or_else(|e| panic!("{what}: {e}"));
                assert!(contents(&world, &image, "qcow2") == expect, "{what}");
                run("qemu-img", &["check", "-q", text(&image)]);
                if differs != u64::MAX && compress.is_none() {
                    assert_eq!(held(&image), differs, "{what}");
                }
                let request = Import {
                    files: OtherFiles {
                        backing: vec![behind.clone()],
                        data: None,
                    },
                    ..Import::new("again".parse().unwrap(), Source::Path(image))
                };
                image::import(&world.store, &world.env, request, &NoProgress)
                    .unwrap_or_else(|e| panic!("{what}: {e}"));
                assert!(world.contents("again") == expect, "{what}");
                world
                    .store
                    .remove_volume(&"again".parse().unwrap())
                    .unwrap();
            }
        }
    }
    assert!(before == behind.map(|image| fs::read(image).unwrap()));
}

#[test]
fn the_image_behind_is_named_as_seen_from_the_one_before() {
    let world = World::new();
    let [raw, base, _] = golden(&world);
    let named = |image: &Path| {
        let info = run("qemu-img", &["info", "-f", "qcow2", text(image)]);
        let line = |key: &str| {
            let found = info.lines().find_map(|line| line.strip_prefix(key));
            found.unwrap_or_default().trim().to_owned()
        };
        (line("backing file: "), line("backing file format: "))
    };
    clone(&world, "debian@golden", "web", None)
        .write(0, &noise(7, 4096), Volatile)
        .unwrap();
    let image = world.path("web.qcow2");
    let upon = |behind: &Path, image: &Path| {
        let to = to(image, qcow2(None));
        convert_upon(&world, "web", "debian@golden", behind, to, &NoProgress).unwrap();
    };
    upon(&raw, &image);
    let (name, format) = named(&image);
    assert!(
        name.starts_with("golden.raw") && format == "raw",
        "{name} {format}"
    );
    // All of it can be moved.
    fs::rename(
        world.dir.path().join("images"),
        world.dir.path().join("moved"),
    )
    .unwrap();
    let moved = world.dir.path().join("moved");
    fs::create_dir(world.path("")).unwrap();
    let expect = world.contents("web");
    assert!(contents(&world, &moved.join("web.qcow2"), "qcow2") == expect);
    // Through a link, too, and out of a directory that is only called so.
    std::os::unix::fs::symlink(&moved, world.path("link")).unwrap();
    let deep = world.path("a:b");
    fs::create_dir(&deep).unwrap();
    let base = world.path("link").join(base.file_name().unwrap());
    upon(&base, &deep.join("web.qcow2"));
    assert!(contents(&world, &deep.join("web.qcow2"), "qcow2") == expect);
    let (name, format) = named(&deep.join("web.qcow2"));
    assert!(
        name.starts_with("../../moved/golden.qcow2") && format == "qcow2",
        "{name} {format}"
    );
    // A clone of the clone, upon its image.
    snapshot(&world, "web@s");
    let web2 = clone(&world, "web@s", "web2", None);
    web2.write(5 * MIB, &noise(8, 100_000), Volatile).unwrap();
    web2.discard(0, CLUSTER, Volatile).unwrap();
    let image = world.path("web2.qcow2");
    let shape = qcow2(Some(Compression::Zlib));
    let behind = moved.join("web.qcow2");
    convert_upon(
        &world,
        "web2",
        "web@s",
        &behind,
        to(&image, shape),
        &NoProgress,
    )
    .unwrap();
    assert!(contents(&world, &image, "qcow2") == world.contents("web2"));
}

#[test]
fn what_cannot_stand_behind_is_refused_and_nothing_is_left() {
    let world = World::new();
    let [raw, base, _] = golden(&world);
    clone(&world, "debian@golden", "web", None)
        .write(0, &noise(7, 4 << 20), Volatile)
        .unwrap();
    let small = world.path("small.raw");
    sparse(&small, 9 * MIB, &[]);
    let vdi = world.path("base.vdi");
    convert(
        &world,
        "debian@golden",
        &vdi,
        false,
        shape(ImageFormat::Vdi),
        &NoProgress,
    )
    .unwrap();
    let before = world.images();
    let image = world.path("web.qcow2");
    let refused = |behind: &Path, image: &Path, shape, progress: &dyn Progress| {
        let mut to = to(image, shape);
        to.overwrite = true;
        let refused = convert_upon(&world, "web", "debian@golden", behind, to, progress);
        let error = refused.unwrap_err();
        assert!(!error.to_string().contains('\n'), "{error}");
        (error.kind(), error.to_string())
    };
    for (behind, kind, why) in [
        (world.path("none"), ErrorKind::NotFound, "none"),
        (small, ErrorKind::Invalid, "9437184 bytes"),
        (vdi, ErrorKind::Invalid, "a vdi image"),
        (
            world.dir.path().to_owned(),
            ErrorKind::Invalid,
            "a directory",
        ),
    ] {
        let (found, said) = refused(&behind, &image, qcow2(None), &NoProgress);
        assert!(found == kind && said.contains(why), "{said}");
    }
    let (_, said) = refused(&base, &base, qcow2(None), &NoProgress);
    assert!(said.contains("behind itself"), "{said}");
    let (_, said) = refused(&raw, &image, shape(ImageFormat::Vmdk), &NoProgress);
    assert!(said.contains("qcow2 can"), "{said}");
    for reports in [0, 1] {
        let cancelled = CancelAfter::reports(reports);
        assert_eq!(
            refused(&raw, &image, qcow2(None), &cancelled).0,
            ErrorKind::Cancelled
        );
    }
    assert_eq!(world.images(), before);
}

/// Whatever is written where: the two images together are the volume.
#[test]
fn anything_that_is_written_comes_out() {
    let mut seed = 0;
    let mut next = move |below: u64| {
        seed += 1;
        let bytes = noise(seed, 8).try_into().unwrap();
        u64::from_le_bytes(bytes) % below
    };
    for round in 0..8 {
        let world = World::new();
        let size = (MIB + next(3 * MIB)) / 512 * 512;
        let create = Create::new("a".parse().unwrap(), volume::Source::Empty(size));
        world.store.create_volume(&create).unwrap();
        let mut scribble = |device: &dyn BlockDevice| {
            let size = device.info().size;
            for _ in 0..20 {
                let at = next(size);
                let len = (1 + next(200_000)).min(size - at);
                match next(4) {
                    0 => device.discard(at, len, Volatile),
                    1 => device.write_zeroes(at, len, Volatile),
                    _ => device.write(at, &noise(at, len as usize), Volatile),
                }
                .unwrap();
            }
            next(2) == 0
        };
        scribble(&*world.store.device(&of("a")).unwrap());
        snapshot(&world, "a@s");
        let (raw, image) = (world.path("a.raw"), world.path("b.qcow2"));
        world.export("a@s", &raw).unwrap();
        let grown = size + 512 * (round % 3) * 977;
        let compress = scribble(&*clone(&world, "a@s", "b", Some(grown)));
        let shape = qcow2(compress.then_some(Compression::Zstd));
        convert_upon(&world, "b", "a@s", &raw, to(&image, shape), &NoProgress).unwrap();
        assert!(
            contents(&world, &image, "qcow2") == world.contents("b"),
            "round {round}"
        );
    }
}
