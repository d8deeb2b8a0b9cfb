//! QEMU's own tools: what they say an image holds is what it holds.

use crate::support::{World, sparse};
use std::{
    fs,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    process::Command,
};

const MIB: u64 = 1 << 20;

/// Runs one of them; it must succeed.
pub(crate) fn run(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output();
    let output = output.unwrap_or_else(|e| panic!("{program} (package qemu-utils): {e}"));
    assert!(output.status.success(), "{program} {args:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

pub(crate) fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// `from`, a raw image, as another format.
pub(crate) fn convert(from: &Path, to: &Path, options: &[&str]) {
    let paths = [text(from), text(to)];
    run(
        "qemu-img",
        &[&["convert", "-f", "raw"], options, &paths].concat(),
    );
}

/// What an image of `format` holds, by qemu-img.
pub(crate) fn contents(world: &World, image: &Path, format: &str) -> Vec<u8> {
    let raw = world.path("by-qemu.raw");
    let paths = [text(image), text(&raw)];
    run(
        "qemu-img",
        &[&["convert", "-f", format, "-O", "raw"][..], &paths].concat(),
    );
    std::fs::read(&raw).unwrap()
}

/// Writes into an image, command by command.
pub(crate) fn io(format: &str, image: &Path, commands: &[&str]) {
    let mut args = vec!["-f", format];
    for command in commands {
        args.extend(["-c", command]);
    }
    run("qemu-io", &[&args[..], &[text(image)]].concat());
}

/// Whether a volume holds just that, and zeroes behind it.
pub(crate) fn is_volume(world: &World, name: &str, expect: &[u8]) {
    let found = world.contents(name);
    let first = found.iter().zip(expect).position(|(a, b)| a != b);
    assert_eq!(first, None, "'{name}' differs");
    assert!(found.len() >= expect.len(), "'{name}' is too short");
    assert!(types::is_zero(&found[expect.len()..]), "'{name}' goes on");
}

/// A raw image with holes, data that compresses and data that does not, and an end within a cluster.
pub(crate) fn plain(world: &World) -> PathBuf {
    let path = world.path("plain.raw");
    let data = [0..70_000, 3 * MIB + 512..4 * MIB, 9 * MIB..9 * MIB + 700];
    sparse(&path, 9 * MIB + 1536, &data);
    let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    let text = b"holdfast ".repeat(30_000);
    file.write_all_at(&text, 6 * MIB + 100).unwrap();
    path
}

/// Writes into a file as it is.
pub(crate) fn patched(image: &Path, at: u64, bytes: &[u8]) {
    let file = fs::OpenOptions::new().write(true).open(image).unwrap();
    file.write_all_at(bytes, at).unwrap();
}
