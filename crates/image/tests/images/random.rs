//! Images that QEMU wrote into at random: they hold what QEMU says.

use crate::{
    qemu::{contents, io, is_volume, run, text},
    support::World,
};
use image::{Import, OtherFiles, Source};
use proptest::{prelude::*, test_runner::TestRunner};
use std::{
    fs,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};
use types::{NoProgress, SECTOR_SIZE};

const SECTORS: u64 = 16 << 11;

const KINDS: [(&str, &str); 7] = [
    ("qcow2", "cluster_size=512"),
    ("qcow2", "cluster_size=64k"),
    ("qcow2", "cluster_size=2M"),
    ("qcow2", "extended_l2=on,cluster_size=16k"),
    ("qcow2", "extended_l2=on,cluster_size=128k"),
    ("vmdk", "subformat=monolithicSparse"),
    ("vmdk", "subformat=twoGbMaxExtentSparse"),
];

#[derive(Clone, Debug)]
struct Case {
    format: &'static str,
    options: &'static str,
    /// What is written into the image, and before that into the one behind it, if there is one.
    commands: Vec<String>,
    behind: Option<Vec<String>>,
    /// Copied at the end with these options: compressed.
    copy: Option<&'static str>,
}

fn commands(format: &str) -> impl Strategy<Value = Vec<String>> + use<> {
    let zero = match format {
        "qcow2" => vec!["write -z", "write -z -u", "discard"],
        _ => vec!["write -P 0"],
    };
    let verb = prop_oneof![
        3 => (1..255u8).prop_map(|pattern| format!("write -P {pattern}")),
        1 => proptest::sample::select(zero).prop_map(str::to_owned),
    ];
    let len = prop_oneof![1..64u64, 64..4096u64];
    let command = (verb, 0..SECTORS, len).prop_map(|(verb, at, len)| {
        let len = len.min(SECTORS - at) * SECTOR_SIZE;
        format!("{verb} {} {len}", at * SECTOR_SIZE)
    });
    proptest::collection::vec(command, 1..16)
}

fn cases() -> impl Strategy<Value = Case> {
    proptest::sample::select(&KINDS).prop_flat_map(|(format, options)| {
        let copies: &[&str] = match format {
            "qcow2" => &["qcow2", "qcow2 -o compression_type=zstd,cluster_size=4k"],
            _ => &["vmdk -o subformat=streamOptimized"],
        };
        let behind = match format {
            "qcow2" => proptest::option::of(commands(format)).boxed(),
            _ => Just(None).boxed(),
        };
        let copy = proptest::option::weighted(0.3, proptest::sample::select(copies));
        (commands(format), behind, copy).prop_map(move |(commands, behind, copy)| Case {
            format,
            options,
            commands,
            behind,
            copy,
        })
    })
}

#[test]
fn images_that_were_written_at_random_hold_what_qemu_says() {
    let world = World::new();
    let count = AtomicU64::new(0);
    let mut runner = TestRunner::new(ProptestConfig::with_cases(24));
    runner
        .run(&cases(), |case| {
            check(&world, count.fetch_add(1, Relaxed), &case);
            Ok(())
        })
        .unwrap();
}

fn check(world: &World, number: u64, case: &Case) {
    let Case {
        format, options, ..
    } = *case;
    let (image, below) = (world.path(&format!("{number}")), world.path("below"));
    let size = (SECTORS * SECTOR_SIZE).to_string();
    let create = |more: &[&str], image: &str| {
        let options = ["create", "-q", "-f", format, "-o", options];
        run("qemu-img", &[&options, more, &[image, &size]].concat());
    };
    let lines = |commands: &[String], image| {
        let commands: Vec<&str> = commands.iter().map(String::as_str).collect();
        io(format, image, &commands);
    };
    let mut files = OtherFiles::default();
    if let Some(commands) = &case.behind {
        create(&[], text(&below));
        lines(commands, &below);
        create(&["-F", format, "-b", text(&below)], text(&image));
        files.backing.push(below.clone());
    } else {
        create(&[], text(&image));
    }
    lines(&case.commands, &image);
    let expect = contents(world, &image, format);
    let path = match case.copy {
        None => image,
        Some(to) => {
            files = OtherFiles::default();
            let copy = world.path(&format!("{number}-copy"));
            let compress = if format == "qcow2" { "-c -O" } else { "-O" };
            let how: Vec<&str> = compress.split(' ').chain(to.split(' ')).collect();
            let paths = [text(&image), text(&copy)];
            let convert = ["convert", "-f", format];
            run("qemu-img", &[&convert, &how[..], &paths].concat());
            copy
        }
    };
    let name = format!("v{number}");
    let request = Import {
        files,
        ..Import::new(name.parse().unwrap(), Source::Path(path.clone()))
    };
    image::import(&world.store, &world.env, request, &NoProgress).unwrap();
    is_volume(world, &name, &expect);
    if case.copy.is_some_and(|to| to.starts_with("vmdk")) {
        let (mut stream, name) = (fs::File::open(&path).unwrap(), format!("s{number}"));
        let request = Import::new(name.parse().unwrap(), Source::Reader(&mut stream));
        image::import(&world.store, &world.env, request, &NoProgress).unwrap();
        is_volume(world, &name, &expect);
    }
}
