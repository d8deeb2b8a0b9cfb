//! What the tests of the whole program and `cargo xtask demo` share: a daemon, a guest, the image
//! that it boots, and the tools around them.
//!
//! The tests proper are in `tests/`. Everything here runs real programs; nothing here knows how
//! Holdfast works inside.
//!
//! **Invariant:** whatever is started or made here goes away when its owner is dropped, when the
//! process is interrupted ([`cleanup`]), and at the latest when the process dies.

pub mod api;
pub mod apt;
pub mod cleanup;
pub mod console;
pub mod daemon;
pub mod database;
pub mod disk;
pub mod guest;
pub mod image;
pub mod paths;
pub mod process;
pub mod qemu;
pub mod qmp;
pub mod recipe;
pub mod stopwatch;
pub mod toolbox;
pub mod tools;
pub mod torture;
pub mod vhost;
