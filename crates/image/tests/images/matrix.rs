//! Every format that is written, read again by QEMU and by us.

use crate::{
    qemu::{contents, is_volume, plain, run, text},
    served::{convert, serve, shape},
    support::{CancelAfter, World, from_path, of, sparse},
};
use image::{Convert, ErrorKind, Frozen};
use std::{fs, path::Path};
use types::{Compression, ImageFormat, ImageShape, NoProgress, Progress, Subformat};

const MIB: u64 = 1 << 20;

/// QEMU's name of the format, and the shape.
fn shapes() -> Vec<(&'static str, ImageShape)> {
    let mut shapes = vec![("qcow2", shape(ImageFormat::Qcow2))];
    for compress in [Compression::Zlib, Compression::Zstd] {
        let compress = Some(compress);
        shapes.push((
            "qcow2",
            ImageShape {
                compress,
                ..shape(ImageFormat::Qcow2)
            },
        ));
    }
    for (qemu, format) in [
        ("vmdk", ImageFormat::Vmdk),
        ("vhdx", ImageFormat::Vhdx),
        ("vpc", ImageFormat::Vhd),
        ("vdi", ImageFormat::Vdi),
    ] {
        shapes.push((qemu, shape(format)));
        for subformat in Subformat::ALL {
            let subformat = Some(subformat);
            let shape = ImageShape {
                subformat,
                ..shape(format)
            };
            shapes.extend(shape.check().is_ok().then_some((qemu, shape)));
        }
    }
    shapes
}

#[test]
fn every_format_comes_back_byte_by_byte_from_qemu_and_from_us() {
    let world = World::new();
    let raw = plain(&world);
    world.import("plain", &raw).unwrap();
    let empty = world.path("empty.raw");
    sparse(&empty, MIB + 512, &[]);
    world.import("empty", &empty).unwrap();
    let shapes = shapes();
    assert_eq!(shapes.len(), 3 + 6 + 3 * 3);
    for (volume, raw) in [("plain", &raw), ("empty", &empty)] {
        let expect = fs::read(raw).unwrap();
        let blocks = expect
            .chunks(4096)
            .filter(|block| !types::is_zero(block))
            .count() as u64;
        for (at, (qemu, shape)) in shapes.iter().enumerate() {
            let image = world.path(&format!("{volume},{at}.img"));
            convert(&world, volume, &image, false, *shape, &NoProgress)
                .unwrap_or_else(|e| panic!("{shape:?}: {e}"));
            assert!(
                contents(&world, &image, qemu) == expect,
                "{shape:?}: what QEMU reads differs"
            );
            let copy = format!("{volume}-{at}");
            let record = world
                .import(&copy, &image)
                .unwrap_or_else(|e| panic!("{shape:?}: {e}"));
            is_volume(&world, &copy, &expect);
            assert_eq!(
                (record.size, record.mapped_blocks),
                (expect.len() as u64, blocks),
                "{shape:?}"
            );
        }
    }
    let partial = world
        .images()
        .into_iter()
        .find(|name| name.contains("partial"));
    assert_eq!(partial, None);
}

#[test]
fn shapes_are_what_was_asked_for() {
    let world = World::new();
    world.import("v", &plain(&world)).unwrap();
    let info = |name: &str, format| {
        run(
            "qemu-img",
            &[
                "info",
                "--output=json",
                "-f",
                format,
                text(&world.path(name)),
            ],
        )
    };
    let zstd = ImageShape {
        compress: Some(Compression::Zstd),
        ..shape(ImageFormat::Qcow2)
    };
    convert(&world, "v", &world.path("z"), false, zstd, &NoProgress).unwrap();
    assert!(info("z", "qcow2").contains(r#""compression-type": "zstd""#));
    let flat = ImageShape {
        subformat: Some(Subformat::TwoGbMaxExtentFlat),
        ..shape(ImageFormat::Vmdk)
    };
    convert(
        &world,
        "v",
        &world.path("web.vmdk"),
        false,
        flat,
        &NoProgress,
    )
    .unwrap();
    assert!(info("web.vmdk", "vmdk").contains("twoGbMaxExtentFlat"));
    assert!(world.path("web-f001.vmdk").exists());
    let mode = |name: &str| {
        std::os::unix::fs::PermissionsExt::mode(
            &fs::metadata(world.path(name)).unwrap().permissions(),
        )
    };
    assert_eq!(
        (mode("web.vmdk") & 0o777, mode("web-f001.vmdk") & 0o777),
        (0o600, 0o600)
    );

    // None of its files is replaced unless that is allowed; then all of them are.
    fs::remove_file(world.path("web.vmdk")).unwrap();
    let error = convert(
        &world,
        "v",
        &world.path("web.vmdk"),
        false,
        flat,
        &NoProgress,
    )
    .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Exists);
    assert!(error.to_string().contains("web-f001.vmdk"), "{error}");
    assert!(!world.path("web.vmdk").exists());
    fs::write(world.path("web.vmdk"), "old").unwrap();
    convert(
        &world,
        "v",
        &world.path("web.vmdk"),
        true,
        flat,
        &NoProgress,
    )
    .unwrap();
    let expect = fs::read(world.path("plain.raw")).unwrap();
    assert!(contents(&world, &world.path("web.vmdk"), "vmdk") == expect);
}

#[test]
fn an_export_that_fails_or_is_cancelled_leaves_nothing_and_replaces_nothing() {
    let world = World::new();
    let raw = world.path("raw");
    sparse(&raw, 64 * MIB, &[0..60 * MIB]);
    world.import("v", &raw).unwrap();
    let image = world.path("a.qcow2");
    let qcow2 = shape(ImageFormat::Qcow2);
    let refused = |path: &Path, overwrite, shape, progress: &dyn Progress| {
        let error = convert(&world, "v", path, overwrite, shape, progress).unwrap_err();
        assert!(!error.to_string().contains('\n'), "{error}");
        (error.kind(), error.to_string())
    };
    let before = world.images();
    let cancelled = refused(&image, false, qcow2, &CancelAfter::reports(1));
    assert_eq!(cancelled.0, ErrorKind::Cancelled);
    let zstd = ImageShape {
        compress: Some(Compression::Zstd),
        ..shape(ImageFormat::Vdi)
    };
    assert_eq!(
        refused(&image, false, zstd, &NoProgress).0,
        ErrorKind::Invalid
    );
    assert_eq!(
        refused(world.store.dir(), true, qcow2, &NoProgress).0,
        ErrorKind::Invalid
    );
    let none = world.path("none").join("a.qcow2");
    assert_eq!(
        refused(&none, false, qcow2, &NoProgress).0,
        ErrorKind::NotFound
    );
    assert_eq!(world.images(), before);

    fs::write(&image, "mine").unwrap();
    assert_eq!(
        refused(&image, false, qcow2, &NoProgress).0,
        ErrorKind::Exists
    );
    assert_eq!(
        refused(&image, true, qcow2, &CancelAfter::reports(1)).0,
        ErrorKind::Cancelled
    );
    assert_eq!(fs::read(&image).unwrap(), b"mine");
    fs::create_dir(world.path("b.partial")).unwrap();
    let (kind, said) = refused(&world.path("b"), false, qcow2, &NoProgress);
    assert!(
        kind == ErrorKind::Exists && said.contains("rm -r"),
        "{said}"
    );
    assert!(world.path("b.partial").exists());

    // A server without the disk: what qemu-img says is told.
    let to = Convert {
        path: world.path("c"),
        overwrite: false,
        shape: qcow2,
    };
    let device = || {
        let device = world.store.frozen_device(&of("v"))?;
        let backing = None;
        Ok(Frozen { device, backing })
    };
    let gone = |_, bitmap, connection| serve(&world, None, bitmap, connection);
    let error = image::convert(
        device,
        &world.env,
        world.store.dir(),
        "v",
        to,
        &gone,
        &NoProgress,
    )
    .unwrap_err();
    assert!(error.to_string().contains("qemu-img says: "), "{error}");
    assert!(!world.path("c.partial").exists() && !world.path("c").exists());
}

#[test]
fn what_a_format_cannot_hold_is_said_by_qemu() {
    let world = World::new();
    let raw = world.path("raw");
    let far = 2 << 40;
    sparse(
        &raw,
        3 << 40,
        &[0..4096, far..far + 4096, (3 << 40) - 4096..3 << 40],
    );
    world.import("v", &raw).unwrap();
    let error = convert(
        &world,
        "v",
        &world.path("a"),
        false,
        shape(ImageFormat::Vhd),
        &NoProgress,
    )
    .unwrap_err();
    assert!(error.to_string().contains("2040 GiB"), "{error}");
    // Holes are not read: it takes no time.
    let seen = CancelAfter::never();
    convert(
        &world,
        "v",
        &world.path("b"),
        false,
        shape(ImageFormat::Vhdx),
        &seen,
    )
    .unwrap();
    assert_eq!(seen.done.into_inner(), 3 << 40);
    let request = image::Import {
        size: Some(4 << 40),
        ..from_path("w", &world.path("b"))
    };
    let record = image::import(&world.store, &world.env, request, &NoProgress)
        .unwrap()
        .volume;
    assert_eq!((record.size, record.mapped_blocks), (4 << 40, 3));
}
