//! Images: files, block devices and streams, into volumes and out of them.
//!
//! ```text
//!  raw file, device, stream ─▶ scan ─▶ chunks of blocks ─▶ volume::Ingest        (import)
//!  NBD export: nbd_client::NbdDisk; vhdx, vhd, vdi: qemu::open ─▶ image_formats::Disk
//!  OVA, member by member ─▶ the same, a volume for each disk
//!  any other: image_formats::Disk ─▶ pieces, read ahead by threads ─▶ volume::Ingest
//!  any image_formats::Disk ─▶ volume::SourceDisk, read where the volume has nothing yet    (import of a volume in use)
//!  frozen device ─▶ pieces, read ahead by threads ─▶ file, device, stream        (export)
//!  frozen device ─▶ NBD server ─▶ qemu-img ─▶ file of any other format; qcow2 also as what differs from another
//!  frozen devices ─▶ the same, one after the other, into VMDK ─▶ OVA
//! ```
//!
//! Both sides of an arrow run at once, with a few chunks of memory between them. Holes are neither
//! read nor written where the image is a file.
//!
//! **Invariant:** an import or an export that fails or is cancelled leaves no volume and no file. What
//! was written to a device or a stream cannot be taken back.
//!
//! What an image is, its content says: raw is never guessed where a magic is known. An image that is taken for a disk by
//! mistake is only noticed when a guest does not start.

mod appliance;
mod backing;
mod convert;
mod error;
mod export;
mod import;
mod live;
mod noted;
mod open;
mod ova;
mod pieces;
mod plan;
mod progress;
mod scan;
mod snapshots;
mod source;
mod target;
mod unfinished;

pub use appliance::{ApplianceDisk, export_ova};
pub use backing::Backing;
pub use convert::{Convert, Frozen, Serve, convert};
pub use error::{Error, ErrorKind};
pub use export::{Exported, Target, export, export_device};
pub use import::{Import, Imported, OtherFiles, Source, import};
pub use live::{Live, images, live};
pub use nbd_client::Uri as NbdUri;
