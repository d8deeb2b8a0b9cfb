use crate::{
    qemu::{contents, convert, io, is_volume, patched, plain, run, text},
    support::{World, from_path, noise},
};
use image::{ErrorKind, Import, OtherFiles};
use std::{fs, os::unix::fs::FileExt, path::Path};
use types::NoProgress;

/// Imports with other files; the first error is the test's.
fn import_with(
    world: &World,
    path: &Path,
    backing: &[&Path],
    data: Option<&Path>,
) -> Result<(), image::Error> {
    let files = OtherFiles {
        backing: backing.iter().map(|path| path.to_path_buf()).collect(),
        data: data.map(Path::to_path_buf),
    };
    let request = Import {
        files,
        ..from_path("v", path)
    };
    image::import(&world.store, &world.env, request, &NoProgress).map(drop)
}

#[test]
fn every_kind_of_qcow2_is_read_as_qemu_wrote_it() {
    let kinds: [(&str, &[&str]); 12] = [
        ("plain", &[]),
        ("old", &["-o", "compat=0.10"]),
        ("small", &["-o", "cluster_size=512"]),
        ("large", &["-o", "cluster_size=2M"]),
        ("zlib", &["-c"]),
        ("zstd", &["-c", "-o", "compression_type=zstd"]),
        ("zlib-small", &["-c", "-o", "cluster_size=4k"]),
        (
            "zstd-large",
            &["-c", "-o", "compression_type=zstd,cluster_size=2M"],
        ),
        ("parts", &["-o", "extended_l2=on"]),
        ("parts-large", &["-o", "extended_l2=on,cluster_size=2M"]),
        ("metadata", &["-o", "preallocation=metadata"]),
        (
            "wide",
            &["-S", "0", "-o", "refcount_bits=64,lazy_refcounts=on"],
        ),
    ];
    let world = World::new();
    let raw = plain(&world);
    let expect = fs::read(&raw).unwrap();
    for (name, options) in kinds {
        let image = world.path(&format!("{name}.qcow2"));
        convert(&raw, &image, &[&["-O", "qcow2"], options].concat());
        world.import(name, &image).unwrap();
        is_volume(&world, name, &expect);
    }
}

#[test]
fn what_was_written_zeroed_and_discarded_is_read() {
    for options in ["compat=1.1", "extended_l2=on", "compat=0.10"] {
        let world = World::new();
        let image = world.path("x.qcow2");
        let create = ["create", "-q", "-f", "qcow2", "-o", options];
        run("qemu-img", &[&create[..], &[text(&image), "64M"]].concat());
        let mut commands = vec![
            "write -P 1 0 1M",
            "write -P 2 333k 3k",
            "write -P 3 63M 1M",
            "discard 128k 64k",
        ];
        if options != "compat=0.10" {
            commands.extend(["write -z 512k 200k", "write -z -u 30M 4M"]);
        }
        io("qcow2", &image, &commands);
        world.import("v", &image).unwrap();
        is_volume(&world, "v", &contents(&world, &image, "qcow2"));
    }
}

#[test]
fn images_behind_each_other_are_read_if_they_are_named() {
    let world = World::new();
    let base = plain(&world);
    let (middle, top) = (world.path("middle.qcow2"), world.path("top.qcow2"));
    let behind = |format, base: &Path, image: &Path, size| {
        let args = [
            "create",
            "-q",
            "-f",
            "qcow2",
            "-F",
            format,
            "-b",
            text(base),
            text(image),
            size,
        ];
        run("qemu-img", &args);
    };
    behind("raw", &base, &middle, "12M");
    behind("qcow2", &middle, &top, "20M");
    io(
        "qcow2",
        &middle,
        &["write -P 5 3M 100k", "write -P 6 10M 1M"],
    );
    io(
        "qcow2",
        &top,
        &["write -P 7 0 1k", "write -z 3M 64k", "write -P 8 19M 1M"],
    );
    let refused = import_with(&world, &top, &[], None).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Invalid);
    assert!(
        refused.to_string().contains("is not opened by itself"),
        "{refused}"
    );
    assert!(import_with(&world, &top, &[&middle], None).is_err());
    assert!(import_with(&world, &top, &[&middle, &base, &base], None).is_err());
    assert!(import_with(&world, &base, &[&base], None).is_err());
    import_with(&world, &top, &[&middle, &base], None).unwrap();
    is_volume(&world, "v", &contents(&world, &top, "qcow2"));
}

#[test]
fn a_data_file_is_read_if_it_is_named() {
    let world = World::new();
    let raw = plain(&world);
    let (image, data) = (world.path("x.qcow2"), world.path("x.data"));
    let option = format!("data_file={}", text(&data));
    convert(&raw, &image, &["-O", "qcow2", "-o", &option]);
    let refused = import_with(&world, &image, &[], None).unwrap_err();
    assert!(refused.to_string().contains("has its data in"), "{refused}");
    import_with(&world, &image, &[], Some(&data)).unwrap();
    is_volume(&world, "v", &fs::read(&raw).unwrap());
}

/// Whatever a header says, nothing but the file is opened: neither a secret behind it nor a pipe that would wait for ever.
#[test]
fn names_in_an_image_are_not_followed() {
    let world = World::new();
    let image = world.path("x.qcow2");
    for name in [
        "/etc/passwd",
        "json:{\"driver\":\"file\",\"filename\":\"/etc/passwd\"}",
        "nbd://127.0.0.1/x",
        "x.qcow2",
    ] {
        run(
            "qemu-img",
            &[
                "create",
                "-q",
                "-u",
                "-f",
                "qcow2",
                "-F",
                "raw",
                "-b",
                name,
                text(&image),
                "2M",
            ],
        );
        let refused = world.import("v", &image).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Invalid);
        assert!(
            refused.to_string().contains("not opened by itself"),
            "{refused}"
        );
        assert_eq!(refused.to_string().lines().count(), 1);
    }
}

/// What the byte-swapped number at `at` is.
fn number(image: &Path, at: u64) -> u64 {
    let mut bytes = [0; 8];
    fs::File::open(image)
        .unwrap()
        .read_exact_at(&mut bytes, at)
        .unwrap();
    u64::from_be_bytes(bytes)
}

#[test]
fn damage_is_an_error_that_says_where() {
    type Damage = fn(&Path);
    let damages: [(&str, Damage); 9] = [
        ("cut in the data", |image| {
            let file = fs::OpenOptions::new().write(true).open(image).unwrap();
            file.set_len(file.metadata().unwrap().len() - 3 * 65536)
                .unwrap();
        }),
        ("cut in the header", |image| {
            fs::OpenOptions::new()
                .write(true)
                .open(image)
                .unwrap()
                .set_len(40)
                .unwrap();
        }),
        ("a table of tables beyond the end", |image| {
            patched(image, 40, &(1u64 << 40).to_be_bytes())
        }),
        ("a size that the tables do not have", |image| {
            patched(image, 24, &(1u64 << 45).to_be_bytes())
        }),
        ("clusters of no known size", |image| {
            patched(image, 20, &40u32.to_be_bytes())
        }),
        ("an unknown feature", |image| {
            patched(image, 72, &(1u64 << 40).to_be_bytes())
        }),
        ("an L2 table that is the header", |image| {
            let l1 = number(image, 40);
            patched(image, l1, &512u64.to_be_bytes());
        }),
        ("clusters that are all one", |image| {
            let l2 = number(image, number(image, 40)) & 0x00ff_ffff_ffff_fe00;
            let cluster = number(image, l2).to_be_bytes();
            patched(image, l2, &cluster.repeat(150));
        }),
        ("snapshots without end", |image| {
            patched(image, 60, &u32::MAX.to_be_bytes());
        }),
    ];
    for (what, damage) in damages {
        let world = World::new();
        let image = world.path("x.qcow2");
        convert(&plain(&world), &image, &["-O", "qcow2"]);
        damage(&image);
        let refused = world.import("v", &image).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Invalid, "{what}: {refused}");
        let said = refused.to_string();
        assert!(
            said.contains(text(&image)) && said.contains("at byte"),
            "{what}: {said}"
        );
        assert!(world.store.find(&"v".parse().unwrap()).is_err());
    }
}

/// Clusters that compress well are many in a sector. Once each was counted as half of one, and the image refused as one whose
/// clusters overlap.
#[test]
fn what_compresses_to_almost_nothing_is_read() {
    let world = World::new();
    let (raw, image) = (world.path("x.raw"), world.path("x.qcow2"));
    fs::write(&raw, vec![1; 4 << 20]).unwrap();
    for (name, options) in [
        ("zlib", "cluster_size=4k"),
        ("zstd", "cluster_size=4k,compression_type=zstd"),
        ("large", "cluster_size=2M,compression_type=zstd"),
    ] {
        convert(&raw, &image, &["-O", "qcow2", "-c", "-o", options]);
        world.import(name, &image).unwrap();
        is_volume(&world, name, &[1; 4 << 20]);
    }
}

/// A disk of 64 TiB with a hole of 64 KiB after each zeroed cluster, of one table again and again: an hour's work from a file
/// of 2 MiB.
#[test]
fn one_table_for_all_of_a_disk_is_refused() {
    let world = World::new();
    let image = world.path("x.qcow2");
    let create = ["create", "-q", "-f", "qcow2", text(&image), "64T"];
    run("qemu-img", &create);
    io("qcow2", &image, &["write -z 0 512M"]);
    let l1 = number(&image, 40);
    let l2 = number(&image, l1);
    patched(&image, l1, &l2.to_be_bytes().repeat(1 << 17));
    let table = [1u64.to_be_bytes(), 0u64.to_be_bytes()].concat();
    let l2 = l2 & 0x00ff_ffff_ffff_fe00;
    patched(&image, l2, &table.repeat(4096));
    let refused = world.import("v", &image).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Invalid);
    assert!(refused.to_string().contains("tables overlap"), "{refused}");
}

#[test]
fn a_damaged_compressed_cluster_is_an_error() {
    for options in [
        &["-O", "qcow2", "-c"][..],
        &["-O", "qcow2", "-c", "-o", "compression_type=zstd"],
    ] {
        let world = World::new();
        let image = world.path("x.qcow2");
        convert(&plain(&world), &image, options);
        let l2 = number(&image, number(&image, 40)) & 0x00ff_ffff_ffff_fe00;
        let compressed = (0..1000u64)
            .map(|i| number(&image, l2 + i * 8))
            .find(|entry| entry >> 62 & 1 == 1);
        let offset = compressed.unwrap() & ((1 << 54) - 1);
        patched(&image, offset, &noise(9, 200));
        let refused = world.import("v", &image).unwrap_err();
        assert!(
            refused.to_string().contains("a compressed cluster"),
            "{refused}"
        );
    }
}
