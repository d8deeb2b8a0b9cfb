//! What people and files write: names, sizes, `store.toml`.

use crate::alloc::bounded;
use std::fmt::Display;
use types::{
    Codec, Name, StoreId, VolumeRef,
    size::{format_size, parse_size},
};
use volume::Manifest;

/// Every parser sees the same bytes.
pub fn run(data: &[u8]) {
    // TOML becomes a tree of tables before it is looked at: some hundred bytes for each entry.
    bounded(1024 * data.len() + (64 << 10), || {
        manifest(data);
        if let Ok(text) = std::str::from_utf8(data) {
            names(text);
            sizes(text);
        }
    });
}

fn manifest(data: &[u8]) {
    match Manifest::parse(data) {
        Ok(manifest) => {
            let again = Manifest::parse(manifest.to_toml().as_bytes());
            assert_eq!(again.expect("our own text"), manifest);
        }
        Err(error) => one_line(&error),
    }
}

fn one_line(error: &impl Display) {
    let shown = error.to_string();
    assert!(
        shown.len() < 1000 && !shown.contains(char::is_control),
        "{shown:?}"
    );
}

fn names(text: &str) {
    match text.parse::<Name>() {
        Ok(name) => {
            assert_eq!(name.as_str(), text);
            assert!(text.len() <= Name::LEN_MAX && text.is_ascii());
        }
        Err(error) => one_line(&error),
    }
    match text.parse::<VolumeRef>() {
        Ok(name) => assert_eq!(name.to_string(), text),
        Err(error) => one_line(&error),
    }
    match text.parse::<Codec>() {
        Ok(codec) => assert_eq!(codec.to_string(), text),
        Err(error) => one_line(&error),
    }
}

fn sizes(text: &str) {
    match parse_size(text) {
        Ok(bytes) => {
            let shown = format_size(bytes);
            let again = parse_size(&shown);
            // Three or four digits are shown.
            let near = |back: u64| back.abs_diff(bytes) <= bytes / 100 + 1;
            assert!(
                again.clone().is_ok_and(near) || bytes > u64::MAX / 2,
                "{bytes} {shown} {again:?}"
            );
        }
        Err(error) => one_line(&error),
    }
}

/// What is good, and what nearly is.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    let manifest = Manifest {
        format: 1,
        id: StoreId([7; 16]),
        hash_key: [9; 32],
        created_ms: 1_700_000_000_000,
    };
    let good = manifest.to_toml();
    let mut seeds = vec![
        good.replace("format = 1", "format = 2"),
        good.replace("07", "zz"),
        good,
    ];
    let texts = [
        "web-1.root",
        "web@daily",
        "vm_3:disk0",
        "a@b@c",
        "lz4",
        "zstd",
        "none",
        "512",
        "4K",
        "1.5G",
        "2TiB",
        " 10 M ",
        "64T",
        "1e3",
        "16384P",
        "18446744073709551615",
        "-1",
        "4 K K",
        "\u{e9}",
        "a\n",
    ];
    seeds.extend(texts.map(str::to_owned));
    seeds.into_iter().map(String::into_bytes).collect()
}
