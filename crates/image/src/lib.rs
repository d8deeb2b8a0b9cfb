//! Images: raw files, block devices and streams, into volumes and out of them.
//!
//! ```text
//!  file, device, stream ─▶ scan ─▶ chunks of blocks ─▶ volume::Ingest     (import)
//!  frozen device ─▶ pieces, read ahead by threads ─▶ file, device, stream (export)
//! ```
//!
//! Both sides of an arrow run at once, with a few chunks of memory between them. Holes are neither
//! read nor written where the image is a file.
//!
//! **Invariant:** an import or an export that fails or is cancelled leaves no volume and no file. What
//! was written to a device or a stream cannot be taken back.
//!
//! Other formats are recognized and refused, with the command that makes a raw image of them: an image
//! that is taken for a disk by mistake is only noticed when a guest does not start.

mod error;
mod export;
mod foreign;
mod import;
mod plan;
mod scan;
mod source;
mod target;

pub use error::{Error, ErrorKind};
pub use export::{Exported, Target, export};
pub use import::{Import, Source, import};
