//! Readers of disk image formats: from the bytes of a file to the bytes of the disk that it describes.
//!
//! ```text
//!  Source (a file, a part of one) ─▶ qcow2, VMDK, raw ─▶ Disk: size · runs · read
//!  a stream ─▶ stream-optimized VMDK ─▶ grains in order
//!  a stream ─▶ OVA ─▶ streams, one for each disk
//! ```
//!
//! **Invariant:** nothing outside the files that the caller opened is read, whatever names an image has in it.
//!
//! **Invariant:** an image is hostile: an error that names the file and the offset, never a panic, an endless loop, or memory
//! sized by the image alone.

mod detect;
mod disk;
mod error;
mod inflate;
mod ova;
mod placed;
mod qcow2;
mod raw;
mod source;
mod stream;
mod tables;
mod vmdk;

pub use detect::{Detected, Foreign, HEAD_LEN, by_head, detect};
pub use disk::{Disk, Run};
pub use error::{Error, ErrorKind};
pub use ova::{Ova, OvfDisk, OvfFile};
pub use qcow2::{Files, InternalSnapshot, Qcow2};
pub use raw::RawDisk;
pub use source::Source;
pub use vmdk::{Beside, GRAIN_MAX, StreamOptimized, vmdk};
