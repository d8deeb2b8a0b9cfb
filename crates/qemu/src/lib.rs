//! What QEMU's programs do for us: formats that we do not read ourselves are read through `qemu-nbd`,
//! and all but raw images are written by `qemu-img`.
//!
//! ```text
//!  image ─▶ qemu-nbd, a child of ours ─▶ unix socket in a directory of our own ─▶ nbd_client::NbdDisk
//!  NBD export of ours ─▶ a pair of sockets ─▶ qemu-img, a child of ours ─▶ image
//! ```
//!
//! **Invariant:** QEMU opens the named file in the named format and nothing else: names go to it as options, in which nothing is taken
//! for a protocol, and it is only let at formats without others behind them.
//!
//! **Invariant:** a program of QEMU's that dies, hangs or complains is an error that names the image; none is left behind.

mod program;
mod reader;
mod vhdx;
mod whole;
mod writer;

pub use reader::open;
pub use writer::{Conversion, Failed};
