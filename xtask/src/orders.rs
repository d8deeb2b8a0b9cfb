//! The tests that choose the order in which threads go on: a second build of the crates that they are about, with
//! the model checker's locks, atomics and threads (the crate `sync`).

use crate::stage::cargo;
use std::process::Command;

/// The crates with such tests. What they use is built in the same way.
const PACKAGES: [&str; 7] = [
    "sync",
    "journal",
    "limits",
    "pack",
    "write-buffer",
    "volume",
    "front-nbd",
];
/// Only these tests run under the checker; with it all others would panic.
const TESTS: &str = "test(/interleavings/) | binary(interleavings)";

/// Only what holds such tests is built.
fn on_targets(command: &[&str]) -> Command {
    let mut cargo = cargo(command);
    for package in PACKAGES {
        cargo.args(["--package", package]);
    }
    cargo.args(["--features", "shuttle", "--lib", "--test", "interleavings"]);
    cargo
}

/// Runs them.
pub(crate) fn tests() -> Command {
    let mut nextest = on_targets(&["nextest", "run", "--cargo-quiet", "--no-input-handler"]);
    nextest.args(["--filterset", TESTS]);
    nextest
}

/// Lints what only this build has.
pub(crate) fn lints() -> Command {
    let mut clippy = on_targets(&["clippy", "--quiet", "--profile", "test"]);
    clippy.args(["--", "-D", "warnings"]);
    clippy
}
