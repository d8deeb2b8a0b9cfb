//! Formats that QEMU reads for us, and exports of NBD servers.

use crate::{
    qemu::{convert, is_volume, patched, plain, text},
    support::{CancelAfter, World, from_path, sparse},
};
use image::{ErrorKind, Import, NbdUri, Source};
use std::{
    fs,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command},
    time::Duration,
};
use types::{ImageFormat, NoProgress};

const MIB: u64 = 1 << 20;

/// QEMU's name, ours, and the option that makes a fixed image.
const FORMATS: [(&str, ImageFormat, &str); 3] = [
    ("vhdx", ImageFormat::Vhdx, "subformat=fixed"),
    ("vpc", ImageFormat::Vhd, "subformat=fixed"),
    ("vdi", ImageFormat::Vdi, "static=on"),
];

fn made(world: &World, raw: &Path, name: &str, options: &[&str]) -> PathBuf {
    let image = world.path(name);
    convert(raw, &image, options);
    image
}

#[test]
fn vhdx_vhd_and_vdi_are_read_as_qemu_wrote_them() {
    let world = World::new();
    let raw = plain(&world);
    let empty = world.path("empty.raw");
    sparse(&empty, 3 * MIB + 512, &[]);
    for (format, _, fixed) in FORMATS {
        // Names in which QEMU could see options or a protocol.
        for (raw, name, options) in [
            (
                &raw,
                format!("{format},driver=raw.img"),
                &["-O", format][..],
            ),
            (
                &raw,
                format!("json:{{}}{format}"),
                &["-O", format, "-o", fixed],
            ),
            (&empty, format!("nbd:{format}"), &["-O", format]),
        ] {
            let image = made(&world, raw, &name, options);
            let volume = format!("{format}-{}", options.len() + raw.as_os_str().len());
            let record = world.import(&volume, &image).unwrap();
            let expect = fs::read(raw).unwrap();
            is_volume(&world, &volume, &expect);
            // VHD has a size by its geometry, unless it is told otherwise.
            assert!(
                record.size - expect.len() as u64 <= if format == "vpc" { MIB } else { 0 },
                "{}",
                record.size
            );
            world.store.remove_volume(&record.name).unwrap();
        }
    }
}

#[test]
fn what_of_an_image_is_missing_or_wrong_is_an_error_that_names_it() {
    let world = World::new();
    let raw = world.path("raw");
    sparse(&raw, 16 * MIB, &[MIB..3 * MIB, 15 * MIB..16 * MIB]);
    for (format, ours, fixed) in FORMATS {
        for options in [&["-O", format][..], &["-O", format, "-o", fixed]] {
            let image = made(&world, &raw, &format!("whole.{format}"), options);
            let bytes = fs::read(&image).unwrap();
            for len in [bytes.len() - 600, bytes.len() * 2 / 3, 200_000, 700, 66, 0] {
                let cut = world.path(&format!("cut.{format}"));
                fs::write(&cut, &bytes[..len]).unwrap();
                let request = Import {
                    format: Some(ours),
                    ..from_path("v", &cut)
                };
                let error = image::import(&world.store, &world.env, request, &NoProgress);
                let error = error
                    .err()
                    .unwrap_or_else(|| panic!("{format} {options:?} {len}"));
                assert!(error.to_string().contains(text(&cut)), "{error}");
                assert!(!error.to_string().contains('\n'), "{error}");
            }
        }
        let other = world.path("other");
        fs::write(&other, vec![7; 1 << 20]).unwrap();
        let request = Import {
            format: Some(ours),
            ..from_path("v", &other)
        };
        let error = image::import(&world.store, &world.env, request, &NoProgress).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
        assert!(error.to_string().contains(text(&other)), "{error}");
    }
    assert!(world.store.catalog().volumes().unwrap().is_empty());
}

#[test]
fn tables_that_lead_astray_leave_no_volume() {
    let world = World::new();
    let raw = world.path("raw");
    sparse(&raw, 12 * MIB, &[MIB..3 * MIB]);
    let vdi = made(&world, &raw, "a.vdi", &["-O", "vdi"]);
    let map = u64::from(u32::from_le_bytes(
        fs::read(&vdi).unwrap()[0x154..0x158].try_into().unwrap(),
    ));
    patched(&vdi, map + 4, &500_u32.to_le_bytes());
    let error = world.import("v", &vdi).unwrap_err().to_string();
    assert!(
        error.contains("a.vdi") && error.contains("block 500"),
        "{error}"
    );

    // The pointers of a VHDX have their offsets in their upper bits.
    let vhdx = made(&world, &raw, "a.vhdx", &["-O", "vhdx"]);
    let bytes = fs::read(&vhdx).unwrap();
    let first = ((8 * MIB) | 6).to_le_bytes();
    let bat = bytes
        .windows(8)
        .rposition(|window| window == first)
        .unwrap();
    patched(&vhdx, bat as u64, &((1 << 50) | 6_u64).to_le_bytes());
    let error = world.import("v", &vhdx).unwrap_err().to_string();
    assert!(error.contains("a.vhdx"), "{error}");

    let vhd = made(&world, &raw, "a.vhd", &["-O", "vpc"]);
    let len = fs::metadata(&vhd).unwrap().len();
    patched(&vhd, len - 512 + 60, &4_u32.to_be_bytes());
    let error = world.import("v", &vhd).unwrap_err().to_string();
    assert!(
        error.contains("a.vhd") && error.contains("differs from another"),
        "{error}"
    );
    assert!(world.store.catalog().volumes().unwrap().is_empty());
}

#[test]
fn an_import_through_qemu_can_be_cancelled_and_leaves_nobody() {
    let world = World::new();
    let raw = world.path("raw");
    sparse(&raw, 64 * MIB, &[MIB..60 * MIB]);
    let image = made(&world, &raw, "a.vdi", &["-O", "vdi"]);
    let cancel = CancelAfter::reports(3);
    let error =
        image::import(&world.store, &world.env, from_path("v", &image), &cancel).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Cancelled);
    assert!(world.store.catalog().volumes().unwrap().is_empty());
    let mine = format!("file.filename={}", text(&image));
    let left = fs::read_dir("/proc").unwrap().filter_map(|process| {
        let line = fs::read(process.ok()?.path().join("cmdline")).ok()?;
        String::from_utf8_lossy(&line).contains(&mine).then_some(())
    });
    assert_eq!(left.count(), 0);
}

/// A server of QEMU's, which a test started.
struct Server(Child);

impl Server {
    fn start(socket: &Path, format: &str, image: &Path) -> Self {
        let child = Command::new("qemu-nbd")
            .args([
                "--read-only",
                "--persistent",
                "--shared=4",
                "--export-name=disk",
            ])
            .args(["--format", format, "--socket", text(socket), text(image)])
            .spawn();
        // Its name is there a moment before it listens.
        while UnixStream::connect(socket).is_err() {
            std::thread::sleep(Duration::from_millis(5));
        }
        Server(child.unwrap())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It ends with the test in any case.
        let _ = (self.0.kill(), self.0.wait());
    }
}

#[test]
fn an_nbd_export_becomes_a_volume_with_holes() {
    let world = World::new();
    let raw = plain(&world);
    let qcow2 = made(&world, &raw, "a.qcow2", &["-O", "qcow2"]);
    let socket = world.path("a.sock");
    let _server = Server::start(&socket, "qcow2", &qcow2);
    let uri: NbdUri = format!("nbd+unix:///disk?socket={}", text(&socket))
        .parse()
        .unwrap();
    let seen = CancelAfter::never();
    let request = Import::new("v".parse().unwrap(), Source::Nbd(uri.clone()));
    let record = image::import(&world.store, &world.env, request, &seen).unwrap();
    let expect = fs::read(&raw).unwrap();
    is_volume(&world, "v", &expect);
    let blocks = expect
        .chunks(4096)
        .filter(|block| !types::is_zero(block))
        .count();
    assert_eq!(record.volume.mapped_blocks, blocks as u64);
    assert_eq!(seen.done.into_inner(), expect.len() as u64);

    let unknown = NbdUri {
        export: "none".to_owned(),
        ..uri.clone()
    };
    let request = Import::new("w".parse().unwrap(), Source::Nbd(unknown));
    let error = image::import(&world.store, &world.env, request, &NoProgress).unwrap_err();
    assert!(error.to_string().contains("no export 'none'"), "{error}");
    let request = Import {
        format: Some(ImageFormat::Qcow2),
        ..Import::new("w".parse().unwrap(), Source::Nbd(uri))
    };
    let error = image::import(&world.store, &world.env, request, &NoProgress).unwrap_err();
    assert!(
        error.to_string().contains("qemu-nbd --format=qcow2"),
        "{error}"
    );
}

#[test]
fn raw_is_not_guessed_for_an_nbd_export_either() {
    let world = World::new();
    let raw = plain(&world);
    let qcow2 = made(&world, &raw, "a.qcow2", &["-O", "qcow2"]);
    let socket = world.path("a.sock");
    let _server = Server::start(&socket, "raw", &qcow2);
    let uri: NbdUri = format!("nbd+unix:///disk?socket={}", text(&socket))
        .parse()
        .unwrap();
    let request = || Import::new("v".parse().unwrap(), Source::Nbd(uri.clone()));
    let error = image::import(&world.store, &world.env, request(), &NoProgress).unwrap_err();
    assert!(
        error.to_string().contains("looks like a qcow2 image"),
        "{error}"
    );
    let raw = Import {
        format: Some(ImageFormat::Raw),
        ..request()
    };
    image::import(&world.store, &world.env, raw, &NoProgress).unwrap();
    is_volume(&world, "v", &fs::read(&qcow2).unwrap());
}
