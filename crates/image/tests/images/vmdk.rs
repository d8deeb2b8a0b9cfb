use crate::{
    qemu::{convert, is_volume, patched, plain, text},
    support::{World, from_path, noise, of, sparse},
};
use image::{ErrorKind, Import, Source};
use std::{
    fs,
    path::{Path, PathBuf},
};
use types::{ImageFormat, NoProgress};

const KINDS: [&str; 5] = [
    "monolithicSparse",
    "monolithicFlat",
    "twoGbMaxExtentSparse",
    "twoGbMaxExtentFlat",
    "streamOptimized",
];

fn made(world: &World, raw: &Path, kind: &str) -> PathBuf {
    let image = world.path(&format!("{kind}.vmdk"));
    let option = format!("subformat={kind}");
    convert(raw, &image, &["-O", "vmdk", "-o", &option]);
    image
}

fn stream(world: &World, name: &str, bytes: &[u8]) -> Result<(), image::Error> {
    let mut reader = bytes;
    let request = Import::new(name.parse().unwrap(), Source::Reader(&mut reader));
    image::import(&world.store, &world.env, request, &NoProgress).map(drop)
}

#[test]
fn every_kind_of_vmdk_is_read_as_qemu_wrote_it() {
    let world = World::new();
    let raw = plain(&world);
    let expect = fs::read(&raw).unwrap();
    for kind in KINDS {
        let image = made(&world, &raw, kind);
        world.import(kind, &image).unwrap();
        is_volume(&world, kind, &expect);
    }
    let image = fs::read(world.path("streamOptimized.vmdk")).unwrap();
    stream(&world, "stream", &image).unwrap();
    is_volume(&world, "stream", &expect);
    let sparse = fs::read(world.path("monolithicSparse.vmdk")).unwrap();
    let refused = stream(&world, "sparse", &sparse).unwrap_err();
    assert!(
        refused.to_string().contains("import it from a file"),
        "{refused}"
    );
}

#[test]
fn disks_of_several_files_are_put_together() {
    const GIB: u64 = 1 << 30;
    let world = World::new();
    let raw = world.path("large.raw");
    let edge = 2 * GIB - 4096..2 * GIB + 8192;
    sparse(
        &raw,
        5 * GIB,
        &[0..4096, edge.clone(), 5 * GIB - 512..5 * GIB],
    );
    for kind in KINDS {
        let image = made(&world, &raw, kind);
        let record = world.import(kind, &image).unwrap();
        assert_eq!((record.size, record.mapped_blocks), (5 * GIB, 5), "{kind}");
        let device = world.store.device(&of(kind)).unwrap();
        let mut bytes = vec![0; (edge.end - edge.start) as usize];
        device.read(edge.start, &mut bytes).unwrap();
        assert!(bytes == noise(edge.start, bytes.len()), "{kind}");
    }
}

#[test]
fn only_plain_files_beside_the_descriptor_are_opened() {
    let world = World::new();
    let image = world.path("x.vmdk");
    fs::write(world.dir.path().join("outside"), vec![1; 1 << 20]).unwrap();
    std::os::unix::fs::symlink("../outside", world.path("link")).unwrap();
    for name in [
        "/etc/passwd",
        "../outside",
        "link",
        "images/../../outside",
        "..",
        "",
    ] {
        let text = format!("# Disk DescriptorFile\nparentCID=ffffffff\nRW 8 FLAT \"{name}\" 0\n");
        fs::write(&image, text).unwrap();
        let refused = world.import("v", &image).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Invalid, "{name}: {refused}");
    }
    // Itself, as an extent, is a file like any other: no loop comes of it.
    let text = "# Disk DescriptorFile\nparentCID=ffffffff\nRW 8 SPARSE \"x.vmdk\"\n";
    fs::write(&image, text).unwrap();
    assert_eq!(
        world.import("v", &image).unwrap_err().kind(),
        ErrorKind::Invalid
    );
}

/// A thousand times the same file would be a large disk, and memory for a thousand directories.
#[test]
fn a_file_is_in_a_disk_once() {
    let world = World::new();
    made(&world, &plain(&world), "twoGbMaxExtentSparse");
    let image = world.path("x.vmdk");
    fs::write(world.path("flat"), vec![1; 8192]).unwrap();
    let import = |extents: &str| {
        let text = format!("# Disk DescriptorFile\nparentCID=ffffffff\n{extents}");
        fs::write(&image, text).unwrap();
        world.import("v", &image)
    };
    for extent in [
        "RW 16 FLAT \"flat\" 0\n",
        "RW 8 SPARSE \"twoGbMaxExtentSparse-s001.vmdk\"\n",
    ] {
        let refused = import(&extent.repeat(4096)).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Invalid);
        assert!(
            refused
                .to_string()
                .contains("more extents than it can hold"),
            "{refused}"
        );
    }
    import("RW 6 FLAT \"flat\" 10\nRW 10 FLAT \"flat\" 0\nRW 8176 ZERO\n").unwrap();
    is_volume(&world, "v", &[1; 8192]);
}

#[test]
fn damage_is_an_error_that_names_the_file() {
    type Damage = fn(&Path);
    fn cut(image: &Path, by: u64) {
        let file = fs::OpenOptions::new().write(true).open(image).unwrap();
        file.set_len(file.metadata().unwrap().len() - by).unwrap();
    }
    let damages: [(&str, &str, Damage); 10] = [
        ("monolithicSparse", "cut", |image| cut(image, 65536)),
        ("monolithicSparse", "too large", |image| {
            patched(image, 12, &[0xff; 8])
        }),
        ("monolithicSparse", "larger than its directory", |image| {
            patched(image, 12, &(1u64 << 32).to_le_bytes());
        }),
        ("monolithicSparse", "grains of a byte", |image| {
            patched(image, 20, &[0; 8])
        }),
        ("streamOptimized", "grains of 2 MiB", |image| {
            patched(image, 20, &4096u64.to_le_bytes())
        }),
        ("monolithicSparse", "as text", |image| {
            patched(image, 73, b"\n\n\n\n")
        }),
        ("streamOptimized", "cut", |image| cut(image, 65536)),
        ("streamOptimized", "a grain of another", |image| {
            patched(image, 65536, &[1, 2, 3])
        }),
        ("monolithicFlat", "the flat file is cut", |image| {
            cut(&image.with_file_name("monolithicFlat-flat.vmdk"), 4096);
        }),
        ("twoGbMaxExtentSparse", "a file is missing", |image| {
            fs::remove_file(image.with_file_name("twoGbMaxExtentSparse-s001.vmdk")).unwrap();
        }),
    ];
    for (kind, what, damage) in damages {
        let world = World::new();
        let image = made(&world, &plain(&world), kind);
        damage(&image);
        let refused = world.import("v", &image).unwrap_err();
        let expect = if what.contains("missing") {
            ErrorKind::NotFound
        } else {
            ErrorKind::Invalid
        };
        assert_eq!(refused.kind(), expect, "{what}: {refused}");
        let directory = text(image.parent().unwrap()).to_owned();
        assert!(
            refused.to_string().contains(&directory),
            "{what}: {refused}"
        );
        assert!(world.store.find(&"v".parse().unwrap()).is_err());
    }
}

#[test]
fn a_stream_that_is_damaged_leaves_nothing() {
    let world = World::new();
    let image = fs::read(made(&world, &plain(&world), "streamOptimized")).unwrap();
    // QEMU fills up with zeroes behind the last grain; what is cut of them is no loss.
    for cut in [100, 512, 70_000, image.len() / 2, image.len() - 65536] {
        let refused = stream(&world, "v", &image[..cut]).unwrap_err();
        assert!(refused.to_string().contains("the stream"), "{refused}");
        assert_eq!(refused.kind(), ErrorKind::Invalid, "{refused}");
    }
    // The same grains again.
    let mut twice = image.clone();
    let grains = image[65536..image.len() / 2].to_vec();
    twice.splice(65536..65536, grains);
    assert_eq!(
        stream(&world, "v", &twice).unwrap_err().kind(),
        ErrorKind::Invalid
    );
    // Grains for which there is no room.
    let mut wide = image.clone();
    wide[20..28].copy_from_slice(&4096u64.to_le_bytes());
    assert!(stream(&world, "v", &wide).is_err());
    // A descriptor behind the end of all numbers.
    let mut far = image.clone();
    far[28..36].copy_from_slice(&(u64::MAX >> 9).to_le_bytes());
    far[36..44].copy_from_slice(&2048u64.to_le_bytes());
    stream(&world, "far", &far).unwrap();
    let mut longer = image.clone();
    longer.push(1);
    assert!(stream(&world, "v", &longer).is_err());
    assert!(world.store.find(&"v".parse().unwrap()).is_err());
    stream(&world, "v", &image).unwrap();
}

/// QEMU writes no marker at the end, and only grains that compress have zeroes behind them. A stream that ended with another
/// one was taken to be cut.
#[test]
fn a_stream_without_an_end_is_whole_if_all_grains_are_there() {
    let world = World::new();
    let raw = world.path("x.raw");
    sparse(&raw, 1 << 20, &[0..192 << 10, (1 << 20) - 65536..1 << 20]);
    let image = fs::read(made(&world, &raw, "streamOptimized")).unwrap();
    stream(&world, "v", &image).unwrap();
    is_volume(&world, "v", &fs::read(&raw).unwrap());
    // A grain of noise with its marker: to the byte between two grains, and with an end behind it.
    let grain = (12 + 65536 + 11_usize).next_multiple_of(512);
    let cut = &image[..image.len() - grain];
    let ended = [cut, &[0; 512]].concat();
    for (bytes, what) in [(cut, "it was cut"), (&ended, "after 3 of 4 grains")] {
        let refused = stream(&world, "w", bytes).unwrap_err();
        assert!(refused.to_string().contains(what), "{refused}");
    }
}

#[test]
fn a_difference_to_another_disk_is_refused() {
    let world = World::new();
    let image = world.path("x.vmdk");
    fs::write(
        &image,
        "# Disk DescriptorFile\nparentCID=1234abcd\nRW 8 ZERO\n",
    )
    .unwrap();
    let request = Import {
        format: Some(ImageFormat::Vmdk),
        ..from_path("v", &image)
    };
    let refused = image::import(&world.store, &world.env, request, &NoProgress).unwrap_err();
    assert!(
        refused.to_string().contains("only the difference"),
        "{refused}"
    );
}
