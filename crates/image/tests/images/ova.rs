//! Machines in tar files.

use crate::{
    qemu::{convert, is_volume, run, text},
    support::{Meanwhile, World, noise, sparse},
};
use image::{ErrorKind, Import, Imported, Source};
use sha1::{Digest, Sha1};
use sha2::{Sha256, Sha512};
use std::{fmt::Write as _, fs, io::Write as _, path::PathBuf};
use types::NoProgress;

const MIB: u64 = 1 << 20;

/// What an archive is made of, in order.
type Members = Vec<(String, Vec<u8>)>;

/// A member as POSIX has it.
fn member(name: &str, kind: u8, bytes: &[u8]) -> Vec<u8> {
    let mut header = [0; 512];
    header[..name.len()].copy_from_slice(name.as_bytes());
    header[100..108].copy_from_slice(b"0000644\0");
    let len = format!("{:011o}\0", bytes.len());
    header[124..136].copy_from_slice(len.as_bytes());
    header[148..156].fill(b' ');
    header[156] = kind;
    header[257..265].copy_from_slice(b"ustar\x0000");
    let sum: u64 = header.iter().map(|byte| u64::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let mut all = header.to_vec();
    all.extend_from_slice(bytes);
    all.resize(all.len().next_multiple_of(512), 0);
    all
}

fn archive(members: &Members) -> Vec<u8> {
    let mut all: Vec<u8> = members
        .iter()
        .flat_map(|(name, bytes)| member(name, b'0', bytes))
        .collect();
    all.extend_from_slice(&[0; 1024]);
    all
}

/// A descriptor of disks: their files, each with more attributes of the file, and their capacities in MiB.
fn descriptor(disks: &[(&str, &str, u64)]) -> Vec<u8> {
    let (mut files, mut entries) = (String::new(), String::new());
    for (number, (href, more, capacity)) in disks.iter().enumerate() {
        let file = if href.is_empty() {
            String::new()
        } else {
            writeln!(files, "<File ovf:id='f{number}' ovf:href='{href}' {more}/>").unwrap();
            format!("ovf:fileRef='f{number}'")
        };
        writeln!(
            entries,
            "<Disk ovf:diskId='d{number}' {file} ovf:capacity='{capacity}' ovf:capacityAllocationUnits='byte * 2^20'/>"
        )
        .unwrap();
    }
    format!(
        "<?xml version='1.0' encoding='UTF-8'?>\n\
         <Envelope xmlns='http://schemas.dmtf.org/ovf/envelope/1' xmlns:ovf='http://schemas.dmtf.org/ovf/envelope/1'>\n\
         <References>\n{files}</References>\n<DiskSection><Info>Disks</Info>\n{entries}</DiskSection>\n\
         <VirtualSystem ovf:id='vm'><Info>A machine</Info></VirtualSystem>\n</Envelope>\n"
    )
    .into_bytes()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Lines for all members, with one algorithm after the other.
fn manifest(members: &Members) -> (String, Vec<u8>) {
    let lines = members.iter().zip(0..).map(|((name, bytes), number)| {
        let (algorithm, digest) = match number % 3 {
            0 => ("SHA256", hex(&Sha256::digest(bytes))),
            1 => ("SHA1", hex(&Sha1::digest(bytes))),
            _ => ("SHA512", hex(&Sha512::digest(bytes))),
        };
        format!("{algorithm}({name})= {digest}\n")
    });
    ("vm.mf".into(), lines.collect::<String>().into_bytes())
}

/// Two disks as QEMU writes them, and what is on them.
struct Disks {
    vmdk: [Vec<u8>; 2],
    raw: [Vec<u8>; 2],
}

fn disks(world: &World) -> Disks {
    let made = [(8 * MIB, 0..3 * MIB), (6 * MIB, 4 * MIB..6 * MIB)].map(|(len, data)| {
        let (raw, vmdk) = (world.path("disk.raw"), world.path("disk.vmdk"));
        sparse(&raw, len, &[data, 65536 * 60..65536 * 60 + 700]);
        convert(
            &raw,
            &vmdk,
            &["-O", "vmdk", "-o", "subformat=streamOptimized"],
        );
        (fs::read(vmdk).unwrap(), fs::read(raw).unwrap())
    });
    let [(first, first_raw), (second, second_raw)] = made;
    Disks {
        vmdk: [first, second],
        raw: [first_raw, second_raw],
    }
}

/// A machine with both: descriptor, disks.
fn machine(disks: &Disks) -> Members {
    let list = [("one.vmdk", "", 8), ("two.vmdk", "", 6)];
    vec![
        ("vm.ovf".into(), descriptor(&list)),
        ("one.vmdk".into(), disks.vmdk[0].clone()),
        ("two.vmdk".into(), disks.vmdk[1].clone()),
    ]
}

fn stream(world: &World, bytes: &[u8], disk: Option<usize>) -> Result<Imported, image::Error> {
    let mut reader = bytes;
    let request = Import {
        disk,
        ..Import::new("v".parse().unwrap(), Source::Reader(&mut reader))
    };
    let imported = image::import(&world.store, &world.env, request, &NoProgress);
    if imported.is_ok() {
        assert!(reader.is_empty(), "{} bytes are left", reader.len());
    }
    imported
}

fn file(world: &World, bytes: &[u8]) -> Result<Imported, image::Error> {
    let path: PathBuf = world.path("vm.ova");
    fs::write(&path, bytes).unwrap();
    let request = Import::new("v".parse().unwrap(), Source::Path(path));
    image::import(&world.store, &world.env, request, &NoProgress)
}

/// Of the names that volumes of an import of `v` could have, those that there are.
fn names(world: &World) -> Vec<&str> {
    let mut names = vec!["v", "v-1", "v-2", "v-3"];
    names.retain(|name| world.store.find(&name.parse().unwrap()).is_ok());
    names
}

/// It is refused from a file and from a stream, leaves nothing, and says this.
fn refused(world: &World, bytes: &[u8], what: &str) {
    for (refused, shown) in [
        (file(world, bytes), "vm.ova"),
        (stream(world, bytes, None), "the stream"),
    ] {
        let refused = refused.expect_err(what);
        let said = refused.to_string();
        assert_eq!(refused.kind(), ErrorKind::Invalid, "{said}");
        assert!(said.contains(what) && said.contains(shown), "{said}");
        assert!(said.lines().count() == 1 && said.len() < 500, "{said}");
        assert!(names(world).is_empty(), "{what}: {:?}", names(world));
    }
}

#[test]
fn each_disk_of_an_ova_becomes_a_volume() {
    let world = World::new();
    let disks = disks(&world);
    let mut first = machine(&disks);
    first.insert(1, manifest(&first));
    let mut last = machine(&disks);
    last.push(("notes.txt".into(), noise(1, 3000)));
    last.push(manifest(&last));
    for members in [first, last] {
        let bytes = archive(&members);
        for from_file in [true, false] {
            let imported = match from_file {
                true => file(&world, &bytes).unwrap(),
                false => stream(&world, &bytes, None).unwrap(),
            };
            assert!(imported.notes.is_empty(), "{:?}", imported.notes);
            assert_eq!(imported.volume.name.as_str(), "v-1");
            assert_eq!(imported.others[0].name.as_str(), "v-2");
            assert_eq!(names(&world), ["v-1", "v-2"]);
            is_volume(&world, "v-1", &disks.raw[0]);
            is_volume(&world, "v-2", &disks.raw[1]);
            for name in ["v-1", "v-2"] {
                let gone = world.store.remove_volume(&name.parse().unwrap()).unwrap();
                world.store.purge_volume(gone.id).unwrap();
            }
        }
        let one = stream(&world, &bytes, Some(2)).unwrap();
        assert_eq!((one.volume.name.as_str(), one.others.len()), ("v", 0));
        is_volume(&world, "v", &disks.raw[1]);
        let gone = world.store.remove_volume(&"v".parse().unwrap()).unwrap();
        world.store.purge_volume(gone.id).unwrap();
        for wrong in [0, 3] {
            let refused = stream(&world, &bytes, Some(wrong)).unwrap_err();
            assert!(refused.to_string().contains("it has 2"), "{refused}");
        }
    }
}

#[test]
fn archives_of_every_tar_are_read() {
    let world = World::new();
    let disks = disks(&world);
    let long = format!("{}.vmdk", "long-".repeat(40));
    for format in ["ustar", "gnu", "posix"] {
        let name = if format == "ustar" { "one.vmdk" } else { &long };
        let dir = world.path(format);
        fs::create_dir(&dir).unwrap();
        let list = descriptor(&[(name, "ovf:size='1'", 9)]);
        fs::write(dir.join("vm.ovf"), list).unwrap();
        fs::write(dir.join(name), &disks.vmdk[0]).unwrap();
        let path = world.path("packed.ova");
        let option = format!("--format={format}");
        let how = ["-cf", text(&path), &option, "-C", text(&dir), "./vm.ovf"];
        run("tar", &[&how[..], &[&format!("./{name}")]].concat());
        let mut reader = fs::File::open(&path).unwrap();
        let request = Import::new(format.parse().unwrap(), Source::Reader(&mut reader));
        let imported = image::import(&world.store, &world.env, request, &NoProgress).unwrap();
        // As large as the descriptor says, which is more than what is stored.
        assert_eq!(imported.volume.size, 9 * MIB);
        assert!(imported.notes[0].contains("no manifest"));
        is_volume(&world, format, &disks.raw[0]);
    }
}

#[test]
fn disks_that_are_compressed_raw_or_empty_are_read() {
    let world = World::new();
    let disks = disks(&world);
    let level = flate2::Compression::fast();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), level);
    gzip.write_all(&disks.vmdk[0]).unwrap();
    let list = [
        ("one.vmdk.gz", "ovf:compression='gzip'", 8),
        ("two.img", "ovf:compression='identity'", 6),
        ("", "", 5),
    ];
    let mut members = vec![
        ("vm.ovf".into(), descriptor(&list)),
        ("one.vmdk.gz".into(), gzip.finish().unwrap()),
        ("two.img".into(), disks.raw[1].clone()),
    ];
    members.push(manifest(&members));
    members.push(("vm.cert".into(), b"-----BEGIN CERTIFICATE-----".to_vec()));
    let imported = file(&world, &archive(&members)).unwrap();
    assert_eq!(imported.notes.len(), 1);
    assert!(imported.notes[0].contains("certificate was not checked"));
    is_volume(&world, "v-1", &disks.raw[0]);
    is_volume(&world, "v-2", &disks.raw[1]);
    is_volume(&world, "v-3", &[0; 5 << 20]);
}

/// Also without a manifest, which would tell.
#[test]
fn an_ova_that_is_changed_while_it_is_read_leaves_nothing() {
    let world = World::new();
    let path = world.path("vm.ova");
    fs::write(&path, archive(&machine(&disks(&world)))).unwrap();
    let file = fs::OpenOptions::new().append(true).open(&path).unwrap();
    let progress = Meanwhile(|| (&file).write_all(&[0]).unwrap());
    let request = Import::new("v".parse().unwrap(), Source::Path(path));
    let refused = image::import(&world.store, &world.env, request, &progress).unwrap_err();
    let text = refused.to_string();
    assert!(
        text.ends_with("vm.ova was changed after the import began"),
        "{text}"
    );
    assert_eq!(names(&world), Vec::<&str>::new());
}

#[test]
fn what_is_not_what_the_manifest_says_leaves_nothing() {
    let world = World::new();
    let disks = disks(&world);
    let good = machine(&disks);
    for at in [1, 3] {
        for changed in 0..3 {
            let mut members = good.clone();
            // Behind the last grain there is room.
            let last = members[changed].1.len() - 1;
            members[changed].1[last] ^= if changed == 0 { b'\n' ^ b' ' } else { 0 };
            let mut lies = manifest(&good);
            if changed > 0 {
                let line = format!("({})= ", good[changed].0);
                let text = String::from_utf8(lies.1).unwrap();
                let digit = text.find(&line).unwrap() + line.len();
                let other = if text.as_bytes()[digit] == b'0' {
                    "1"
                } else {
                    "0"
                };
                lies.1 = [&text[..digit], other, &text[digit + 1..]]
                    .concat()
                    .into_bytes();
            }
            members.insert(at, lies);
            refused(&world, &archive(&members), "its digest is not the one");
        }
    }
    let mut lacks = good.clone();
    lacks.push(manifest(&good[..2].to_vec()));
    refused(&world, &archive(&lacks), "the manifest lacks \"two.vmdk\"");
    let mut more = good.clone();
    more.push(("x".into(), vec![1]));
    let listed = manifest(&more);
    more[3] = listed;
    refused(&world, &archive(&more), "\"x\" is missing");
    let mut bad = good.clone();
    bad.push(("vm.mf".into(), b"MD5(vm.ovf)= 00".to_vec()));
    refused(&world, &archive(&bad), "digests that are not known");
}

#[test]
fn archives_that_make_no_sense_leave_nothing() {
    let world = World::new();
    let disks = disks(&world);
    let good = machine(&disks);
    let with = |change: &dyn Fn(&mut Members)| {
        let mut members = good.clone();
        change(&mut members);
        archive(&members)
    };
    let list = |disks: &[(&str, &str, u64)]| {
        let descriptor = descriptor(disks);
        with(&|m| m[0].1.clone_from(&descriptor))
    };
    refused(&world, &with(&|m| m.swap(0, 1)), "not with the descriptor");
    refused(&world, &with(&|m| drop(m.pop())), "\"two.vmdk\" is missing");
    refused(
        &world,
        &with(&|m| m.push(m[1].clone())),
        "two members of that name",
    );
    refused(
        &world,
        &with(&|m| m.push(("other.ovf".into(), Vec::new()))),
        "two descriptors",
    );
    refused(
        &world,
        &with(&|m| m[0].1 = vec![b' '; 5 << 20]),
        "over 4194304",
    );
    let bomb =
        "<!DOCTYPE x [<!ENTITY a '0123456789'><!ENTITY b '&a;&a;&a;'>]><Envelope>&b;</Envelope>";
    refused(
        &world,
        &with(&|m| m[0].1 = bomb.into()),
        "document type is not allowed",
    );
    let two = ("two.vmdk", "", 6);
    refused(
        &world,
        &list(&[("one.vmdk", "ovf:chunkSize='1000'", 8), two]),
        "cut into chunks",
    );
    refused(
        &world,
        &list(&[("one.vmdk", "ovf:compression='bzip2'", 8), two]),
        "compressed with \"bzip2\"",
    );
    refused(
        &world,
        &list(&[("one.vmdk", "", 7), two]),
        "descriptor says 7.00 MiB",
    );
    refused(
        &world,
        &list(&[("one.vmdk", "", 8), ("one.vmdk", "", 8)]),
        "the file of another",
    );
    refused(
        &world,
        &list(&[("one.vmdk", "ovf:compression='gzip'", 8), two]),
        "\"one.vmdk\" at byte 1536",
    );
    // Names that lead elsewhere are only names.
    for name in [
        "/etc/passwd",
        "../../etc/passwd",
        "https://images.example/x.vmdk",
    ] {
        refused(&world, &list(&[(name, "", 8), two]), "is missing");
    }
    let link = [
        archive(&vec![good[0].clone()])[..1536].to_vec(),
        member("one.vmdk", b'2', b""),
    ];
    refused(
        &world,
        &[&link.concat()[..], &[0; 1024]].concat(),
        "no file, but a link",
    );
    let bytes = archive(&good);
    for cut in [
        700,
        1000,
        1536 + 100,
        1536 + 512 + 70_000,
        bytes.len() - 70_000,
    ] {
        refused(&world, &bytes[..cut], "was cut");
    }
    let mut checksum = bytes.clone();
    checksum[1536] ^= 1;
    refused(&world, &checksum, "checksum of the header is wrong");
    let mut behind = bytes.clone();
    behind.push(1);
    refused(&world, &behind, "something follows its end");
    // A disk behind the end is none: what was read on there was taken for it, and left the volume empty.
    let (last, end) = (member("two.vmdk", b'0', &disks.vmdk[1]), [0; 1024]);
    let before = bytes.len() - last.len() - end.len();
    let late = [&bytes[..before], &end, &last, &end].concat();
    refused(&world, &late, "something follows its end");
    file(&world, &bytes).unwrap();
}

#[test]
fn a_name_that_is_taken_or_too_long_is_refused() {
    let world = World::new();
    let disks = disks(&world);
    let bytes = archive(&machine(&disks));
    stream(&world, &bytes, Some(2)).unwrap();
    let taken = file(&world, &bytes).unwrap_err();
    assert_eq!(taken.kind(), ErrorKind::Exists, "{taken}");
    let mut reader = &bytes[..];
    let long = "x".repeat(127).parse().unwrap();
    let request = Import::new(long, Source::Reader(&mut reader));
    let refused = image::import(&world.store, &world.env, request, &NoProgress).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Invalid, "{refused}");
    assert_eq!(names(&world), ["v"]);
}
