//! Disks as those of one machine, out and in again.

use crate::{
    qemu::{contents, plain, run, text},
    served::serve,
    support::{CancelAfter, World, of, sparse},
};
use image::{ApplianceDisk, Error, ErrorKind, Import, Source};
use sha2::{Digest, Sha256};
use std::{fs, path::Path};
use types::{NoProgress, Progress};

const MIB: u64 = 1 << 20;

fn export(
    world: &World,
    names: &[&str],
    path: &Path,
    overwrite: bool,
    progress: &dyn Progress,
) -> Result<(), Error> {
    let refs: Vec<_> = names.iter().map(|name| of(name)).collect();
    let disks = || {
        let devices = world.store.frozen_devices(&refs)?.into_iter();
        let disks = names
            .iter()
            .zip(devices)
            .map(|(name, device)| ApplianceDisk {
                shown: (*name).to_owned(),
                device,
            });
        Ok(disks.collect())
    };
    let serve = |device, bitmap, connection| serve(world, Some(device), bitmap, connection);
    let (path, store) = (path.to_owned(), world.store.dir());
    image::export_ova(disks, &world.env, store, path, overwrite, &serve, progress)
}

/// Three disks: with holes and an odd end, with nothing, with much.
fn machine(world: &World) -> [&'static str; 3] {
    world.import("root", &plain(world)).unwrap();
    for (name, len, data) in [
        ("empty", 2 * MIB, vec![]),
        (
            "data",
            40 * MIB + 512,
            vec![0..20 * MIB, 39 * MIB..40 * MIB + 512],
        ),
    ] {
        let raw = world.path("raw");
        sparse(&raw, len, &data);
        world.import(name, &raw).unwrap();
    }
    ["root", "empty", "data"]
}

#[test]
fn an_appliance_has_the_disks_of_its_machine_and_is_imported_again() {
    let world = World::new();
    let names = machine(&world);
    let ova = world.path("web.ova");
    let seen = CancelAfter::never();
    export(&world, &names, &ova, false, &seen).unwrap();
    let total: u64 = names
        .iter()
        .map(|name| world.contents(name).len() as u64)
        .sum();
    assert_eq!(
        (seen.done.into_inner(), seen.total.into_inner()),
        (total, total)
    );

    // What others find in it.
    let members = run("tar", &["tf", text(&ova)]);
    let disks = ["web-disk1.vmdk", "web-disk2.vmdk", "web-disk3.vmdk"];
    let expected = [&["web.ovf", "web.mf"], &disks[..]].concat();
    assert_eq!(members.lines().collect::<Vec<_>>(), expected);
    let unpacked = world.path("unpacked");
    fs::create_dir(&unpacked).unwrap();
    run("tar", &["xf", text(&ova), "-C", text(&unpacked)]);
    let manifest = fs::read_to_string(unpacked.join("web.mf")).unwrap();
    let lines: Vec<String> = ["web.ovf"]
        .iter()
        .chain(&disks)
        .map(|member| {
            let digest = Sha256::digest(fs::read(unpacked.join(member)).unwrap());
            let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
            format!("SHA256({member})= {digest}")
        })
        .collect();
    assert_eq!(manifest.lines().collect::<Vec<_>>(), lines);
    let descriptor = fs::read_to_string(unpacked.join("web.ovf")).unwrap();
    for (disk, name) in disks.iter().zip(names) {
        let disk = unpacked.join(disk);
        let info = run("qemu-img", &["info", "-f", "vmdk", text(&disk)]);
        assert!(info.contains("create type: streamOptimized"), "{info}");
        assert!(
            contents(&world, &disk, "vmdk") == world.contents(name),
            "{name}"
        );
        let len = fs::metadata(&disk).unwrap().len();
        assert!(
            descriptor.contains(&format!("ovf:size=\"{len}\"")),
            "{descriptor}"
        );
    }

    // What we do.
    let request = Import::new("again".parse().unwrap(), Source::Path(ova));
    let imported = image::import(&world.store, &world.env, request, &NoProgress).unwrap();
    assert_eq!(imported.notes, Vec::<String>::new());
    let volumes = std::iter::once(&imported.volume).chain(&imported.others);
    for (volume, name) in volumes.zip(names) {
        let expect = world.contents(name);
        assert_eq!(volume.size, expect.len() as u64);
        assert!(world.contents(volume.name.as_str()) == expect, "{name}");
    }
    assert_eq!(imported.others.len(), 2);
}

/// Names with what has a meaning in XML, in archives or in references; and as many disks as there can be.
#[test]
fn a_machine_is_called_as_its_file_is() {
    let world = World::new();
    let names: Vec<String> = (0..15).map(|number| format!("d{number}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let raw = world.path("raw");
    for (name, number) in names.iter().zip(1..) {
        sparse(&raw, MIB, &[number * 4096..number * 8192]);
        world.import(name, &raw).unwrap();
    }
    let long = "n".repeat(150);
    for (file, machine, stem) in [
        (
            "a b & <c> \"d\" 'é.ova",
            "a b &amp; &lt;c&gt; &quot;d&quot; ",
            "a-b----c---d----",
        ),
        ("none", "none", "none"),
        // What no XML can have.
        ("a\u{1}b\nc.ova", "a-b-c", "a-b-c"),
        (&*long, &*long, &long[..64]),
    ] {
        let ova = world.path(file);
        export(&world, &names, &ova, false, &NoProgress).unwrap();
        let members = run("tar", &["tf", text(&ova)]);
        assert_eq!(members.lines().count(), 17);
        assert!(
            members.starts_with(&format!("{stem}.ovf\n{stem}.mf\n")),
            "{members}"
        );
        let descriptor = run("tar", &["xfO", text(&ova), &format!("{stem}.ovf")]);
        assert!(
            descriptor.contains(&format!("ovf:id=\"{machine}")),
            "{descriptor}"
        );
        let request = Import::new("again".parse().unwrap(), Source::Path(ova));
        let imported = image::import(&world.store, &world.env, request, &NoProgress).unwrap();
        let again = std::iter::once(imported.volume).chain(imported.others);
        for (volume, name) in again.zip(&names) {
            assert!(world.contents(volume.name.as_str()) == world.contents(name));
            world.store.remove_volume(&volume.name).unwrap();
        }
        // No two disks are at one place, and none is where the controller is.
        let place = |line: &str| {
            let rest = line.trim().strip_prefix("<rasd:AddressOnParent>")?;
            rest.strip_suffix("</rasd:AddressOnParent>")?.parse().ok()
        };
        let places: Vec<u32> = descriptor.lines().filter_map(place).collect();
        assert_eq!(places, (0..16).filter(|at| *at != 7).collect::<Vec<_>>());
    }
}

#[test]
fn what_is_no_appliance_is_refused_and_what_fails_leaves_nothing() {
    let world = World::new();
    let names = machine(&world);
    let ova = world.path("web.ova");
    fs::write(&ova, "mine").unwrap();
    let before = world.images();
    let refused = |names: &[&str], overwrite, progress: &dyn Progress| {
        let error = export(&world, names, &ova, overwrite, progress).unwrap_err();
        assert!(!error.to_string().contains('\n'), "{error}");
        assert_eq!(world.images(), before);
        assert_eq!(fs::read(&ova).unwrap(), b"mine");
        error.kind()
    };
    assert_eq!(refused(&names, false, &NoProgress), ErrorKind::Exists);
    assert_eq!(refused(&[], true, &NoProgress), ErrorKind::Invalid);
    assert_eq!(
        refused(&["root@s"; 16], true, &NoProgress),
        ErrorKind::NotFound
    );
    let snapshot = ("root".parse().unwrap(), "s".parse().unwrap());
    world
        .store
        .create_snapshot(&snapshot.0, &snapshot.1)
        .unwrap();
    assert_eq!(
        refused(&["root@s"; 16], true, &NoProgress),
        ErrorKind::Invalid
    );
    assert_eq!(
        refused(&["root", "root"], true, &NoProgress),
        ErrorKind::Invalid
    );
    let seen = CancelAfter::never();
    export(&world, &names, &world.path("all.ova"), false, &seen).unwrap();
    fs::remove_file(world.path("all.ova")).unwrap();
    // At any report: while a disk is written, packed, and at the end.
    let reports = seen.seen.into_inner();
    for at in (0..reports)
        .step_by(1 + reports as usize / 12)
        .chain([reports - 1])
    {
        let cancelled = CancelAfter::reports(at);
        match export(&world, &names, &world.path("cut.ova"), false, &cancelled) {
            Err(error) => assert_eq!(error.kind(), ErrorKind::Cancelled),
            // It was quicker this time.
            Ok(()) => fs::remove_file(world.path("cut.ova")).unwrap(),
        }
        assert_eq!(world.images(), before);
    }
}
