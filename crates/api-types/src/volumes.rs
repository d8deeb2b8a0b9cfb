//! Volumes, snapshots, trash, images.

use crate::{Apart, FileInfo, FileSpec, Limits, PolicyChange, SnapshotPolicy};
use serde::{Deserialize, Serialize};
use types::{Codec, Compression, DiskMode, ImageFormat, Subformat};
use utoipa::ToSchema;

/// A volume.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Volume {
    /// Its number in the store; never used again.
    pub id: u64,
    /// Its name.
    pub name: String,
    /// Virtual size, bytes.
    pub size: u64,
    /// Bytes that it maps (written and not discarded), however they are stored and shared. Lags behind
    /// writes by the data that is still in memory.
    pub used: u64,
    /// Whether new blocks are looked for among those that the store has.
    pub dedup: bool,
    /// How new blocks are compressed.
    #[schema(value_type = String, example = "lz4")]
    pub codec: Codec,
    /// Whether writes are refused.
    pub read_only: bool,
    /// Bytes that it may map; absent: as many as it has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quota: Option<u64>,
    /// How fast it may be used, by all its clients together.
    #[serde(default)]
    pub limits: Limits,
    /// What it was cloned from, `volume@snapshot` at that time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<String>,
    /// Snapshots that it has.
    pub snapshots: u64,
    /// When it was made.
    pub created_ms: u64,
    /// Clients that have it open: NBD connections, and its guest over vhost-user-blk.
    pub connections: u64,
    /// Socket that it is served at over vhost-user-blk; absent: it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vhost: Option<String>,
    /// Bytes written that are in memory only or in the journal, not in packs yet.
    pub dirty: u64,
    /// The image file that it is; absent: its data are in the store.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<FileInfo>,
    /// What becomes of what is written to it when its machine is powered off: `persistent`, `nonpersistent` or `undoable`.
    #[schema(value_type = String, example = "persistent")]
    pub mode: DiskMode,
    /// Whether it is left out where snapshots of several volumes are taken, set back or cloned.
    pub independent: bool,
    /// Its scheduled snapshots; absent: nothing is chosen about them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot_policy: Option<SnapshotPolicy>,
    /// What is written to it and kept apart; absent: nothing, as it is persistent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub apart: Option<Apart>,
    /// The image that it is still being imported from; absent: all of it is in the store.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub importing: Option<Importing>,
}

/// How far the import of a volume is that is used meanwhile.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Importing {
    /// The image, on the daemon's host. It must stay as it is until all of it is in the store.
    pub path: String,
    /// What it is.
    #[schema(value_type = String, example = "qcow2")]
    pub format: ImageFormat,
    /// Bytes of the image's disk that are in the store, or are zeroes.
    pub done: u64,
    /// Bytes of the image's disk.
    pub total: u64,
    /// Bytes of what is done that took no room in the store: zeroes, what was there already, and what compression took off.
    #[serde(default)]
    pub saved: u64,
    /// Bytes in a second, lately; 0: not known, or it does not go on.
    pub rate: u64,
    /// Seconds that are left at that rate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub left_s: Option<u64>,
    /// Whether nothing more is brought into the store until somebody says so.
    #[serde(default)]
    pub paused: bool,
    /// Why it does not go on; it is tried again. What is not in the store yet cannot be read if the image cannot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// Makes a volume, empty or as a clone.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateVolume {
    /// Its name.
    pub name: String,
    /// Bytes; a multiple of 512. Needed unless cloned.
    #[serde(default)]
    pub size: Option<u64>,
    /// Clone of `volume@snapshot`, or of `volume` as it is now.
    #[serde(default)]
    pub from: Option<String>,
    /// Default: the store's, or the origin's.
    #[serde(default)]
    pub dedup: Option<bool>,
    /// Default: the store's, or the origin's.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    pub codec: Option<Codec>,
    /// Default: false.
    #[serde(default)]
    pub read_only: Option<bool>,
    /// See [`Volume::quota`]. A clone does not inherit it.
    #[serde(default)]
    pub quota: Option<u64>,
    /// Its scheduled snapshots. A clone does not inherit them.
    #[serde(default)]
    pub snapshot_policy: PolicyChange,
    /// It is to be a plain file; absent: its data are in the store.
    #[serde(default)]
    pub file: Option<FileSpec>,
}

/// Changes a volume; what is absent stays.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct UpdateVolume {
    /// A new name.
    #[serde(default)]
    pub name: Option<String>,
    /// A new size, bytes.
    #[serde(default)]
    pub size: Option<u64>,
    /// Whether `size` may be smaller than now.
    #[serde(default)]
    pub allow_data_loss: bool,
    /// See [`Volume::dedup`].
    #[serde(default)]
    pub dedup: Option<bool>,
    /// See [`Volume::codec`].
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    pub codec: Option<Codec>,
    /// See [`Volume::read_only`].
    #[serde(default)]
    pub read_only: Option<bool>,
    /// See [`Volume::quota`]; 0: none any more.
    #[serde(default)]
    pub quota: Option<u64>,
    /// See [`Volume::limits`]. In force at once, also for requests that wait already.
    #[serde(default)]
    pub limits: Limits,
    /// See [`Volume::mode`]; by itself, while no client has the volume open.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    pub mode: Option<DiskMode>,
    /// See [`Volume::independent`].
    #[serde(default)]
    pub independent: Option<bool>,
    /// Its scheduled snapshots.
    #[serde(default)]
    pub snapshot_policy: PolicyChange,
}

/// A snapshot.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Snapshot {
    /// Its number in the store.
    pub id: u64,
    /// Its volume's name.
    pub volume: String,
    /// Its name.
    pub name: String,
    /// The volume's size then, bytes.
    pub size: u64,
    /// Bytes that it maps.
    pub used: u64,
    /// When it was taken.
    pub created_ms: u64,
    /// See [`Volume::vhost`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vhost: Option<String>,
    /// If it was taken together with others, at one instant: a number that they share.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<u64>,
    /// Whether it was taken by the volume's policy, which may remove it.
    #[serde(default)]
    pub scheduled: bool,
}

/// Snapshots of several volumes that belong together. Those of independent volumes are left out.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Group {
    /// `volume@snapshot`, one of each volume.
    pub snapshots: Vec<String>,
}

/// Makes volumes that begin as snapshots: all of them, or none; of independent volumes none.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CloneGroup {
    /// Each of them.
    pub clones: Vec<CloneOf>,
}

/// A volume that begins as a snapshot.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CloneOf {
    /// `volume@snapshot`.
    pub from: String,
    /// The new volume's name.
    pub name: String,
}

/// Takes a snapshot.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateSnapshot {
    /// Its name.
    pub name: String,
}

/// Sets a volume back to a snapshot.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Rollback {
    /// The snapshot's name.
    pub snapshot: String,
}

/// What a volume and its snapshots take.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct VolumeUsage {
    /// `volume` or `volume@snapshot`.
    pub name: String,
    /// Virtual size, bytes.
    pub size: u64,
    /// Bytes mapped.
    pub used: u64,
    /// Stored bytes, compressed, of the blocks that it maps, each block once; shared with others or not.
    pub stored: u64,
    /// Stored bytes that nothing else refers to: what removing it would free.
    pub unique: u64,
}

/// A removed volume that can still be restored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct TrashEntry {
    /// The volume's number, which names it in the trash.
    pub id: u64,
    /// The name that it had.
    pub name: String,
    /// Virtual size, bytes.
    pub size: u64,
    /// Bytes mapped.
    pub used: u64,
    /// Snapshots that it has.
    pub snapshots: u64,
    /// When it was removed.
    pub removed_ms: u64,
    /// When it will be gone for good. As `removed_ms` if it was a plain file, which has no trash.
    pub until_ms: u64,
}

/// Brings a volume back from the trash.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Restore {
    /// A new name, if its old one is taken.
    #[serde(default)]
    pub name: Option<String>,
}

/// Makes a volume from an image that the daemon can read.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ImportRequest {
    /// The volume's name; it must not exist.
    pub name: String,
    /// Absolute path of a file or a block device on the daemon's host; or an NBD URI (`nbd://`, `nbd+unix://`).
    pub path: String,
    /// Virtual size, bytes, if larger than the image.
    #[serde(default)]
    pub size: Option<u64>,
    /// Default: the store's.
    #[serde(default)]
    pub dedup: Option<bool>,
    /// Default: the store's.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    pub codec: Option<Codec>,
    /// What the image is: raw, qcow2, vmdk, vhdx, vhd, vdi or ova. Default: what its content says.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    pub format: Option<ImageFormat>,
    /// Absolute paths of the images behind it, each the one behind the one before. Without them, an image that is only a
    /// difference is refused: what it calls them is never opened.
    #[serde(default)]
    pub backing: Vec<String>,
    /// Absolute path of the file that a qcow2 image has its data in, if that is another.
    #[serde(default)]
    pub data_file: Option<String>,
    /// The volume is there at once, and is filled in the background: see [`Volume::importing`]. Not for what is sent.
    #[serde(default)]
    pub live: bool,
    /// The snapshots that a qcow2 image has in it become snapshots of the volume. Not together with `live`.
    #[serde(default)]
    pub snapshots: bool,
    /// Of an OVA only this disk, counted from 1. Default: all of them, called `NAME-1` and so on if there are several.
    #[serde(default)]
    pub disk: Option<usize>,
}

/// What an import made.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Imported {
    /// The volume, or the one of the first disk.
    #[serde(flatten)]
    pub volume: Volume,
    /// Those of the other disks of an OVA.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub others: Vec<Volume>,
    /// Bytes of what was read that took no storage: zeroes, duplicates, and what compression took off. Absent: nothing was read yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub saved: Option<u64>,
    /// What whoever asked should know, for instance how many snapshots of the image were left out: a sentence each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

/// Writes a volume or a snapshot, or several as the disks of a machine, into an image on the daemon's host.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ExportRequest {
    /// `volume` (as it is when the work begins) or `volume@snapshot`.
    pub source: String,
    /// The further disks of an OVA, in order. Those that are volumes are all as they are at one instant, but for plain files.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub others: Vec<String>,
    /// Absolute path of a file; for a raw image also of a block device that is large enough.
    pub path: String,
    /// Whether a file that exists may be replaced.
    #[serde(default)]
    pub overwrite: bool,
    /// raw (the default; with `backing` qcow2), qcow2, vmdk, vhdx, vhd, vdi or ova.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    pub format: Option<ImageFormat>,
    /// The qcow2 image holds only what differs from a snapshot, whose own image stands behind it. Default: it holds all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backing: Option<Backing>,
    /// zlib or zstd: how a qcow2 image is compressed. Default: it is not.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    pub compress: Option<Compression>,
    /// Of vmdk: monolithicSparse (the default), monolithicFlat, twoGbMaxExtentSparse, twoGbMaxExtentFlat or streamOptimized; of vhdx, vhd
    /// and vdi: dynamic (the default) or fixed.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    pub subformat: Option<Subformat>,
}

/// What stands behind an image that holds only a difference.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Backing {
    /// `volume@snapshot`: what the image is the difference from.
    pub snapshot: String,
    /// Absolute path of a raw or qcow2 image of it, as it was exported before. The new image names it as seen from its own place.
    pub file: String,
}

/// A line of what differs between two states: one that begins, the extents in order, and one that ends. Without the
/// last one something is missing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum DiffLine {
    /// What is compared.
    Begin {
        /// The earlier state, `volume@snapshot` or `volume`.
        from: String,
        /// The later one.
        to: String,
        /// Size of the earlier one, bytes.
        from_size: u64,
        /// Size of the later one, bytes. Where the earlier one is longer it is cut off.
        to_size: u64,
        /// Bytes of a block: extents are of whole ones, but at the very end.
        block_size: u64,
    },
    /// Bytes that may differ. Extents do not overlap; those that touch differ in kind.
    Extent(DiffExtent),
    /// All that there is.
    End {
        /// How many extents there were.
        extents: u64,
        /// Bytes of those that hold data now.
        data_bytes: u64,
        /// Bytes of those that read as zeroes now.
        zero_bytes: u64,
    },
}

/// Bytes that may differ between two states.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct DiffExtent {
    /// Where it begins.
    pub offset: u64,
    /// Bytes.
    pub length: u64,
    /// Whether the later state has data there; if not, it reads as zeroes.
    pub data: bool,
}

/// How clients reach a volume.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Connect {
    /// `volume` or `volume@snapshot`.
    pub name: String,
    /// `nbd+unix:///NAME?socket=PATH`.
    pub uri: String,
    /// QEMU's options.
    pub qemu: String,
    /// libvirt's `<disk>` element.
    pub libvirt: String,
    /// A fio command line.
    pub fio: String,
    /// An nbdinfo command line.
    pub nbdinfo: String,
    /// How guests reach it over vhost-user-blk; absent: it is not served so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vhost: Option<ConnectVhost>,
}

/// How guests reach a volume over vhost-user-blk.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ConnectVhost {
    /// The unix socket.
    pub socket: String,
    /// QEMU's options, for a guest of 4 GiB.
    pub qemu: String,
    /// libvirt's `<disk>` element, and what the domain needs beside it.
    pub libvirt: String,
}
