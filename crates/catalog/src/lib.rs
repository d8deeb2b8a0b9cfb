//! The catalog seam: the small mutable state of a store. Names, sizes, roots, epochs.
//!
//! Few verbs, modelled on an ordered key-value store with compare-and-swap, so that an embedded
//! database and etcd serve alike. Every record has a version; a change says which version it was
//! made from and is refused if that is no longer the current one.

pub mod conformance;
mod contents;
mod memory;
mod policy;

pub use contents::{Contents, Step};
pub use memory::MemoryCatalog;
pub use policy::{PolicyChange, SnapshotPolicy};

use serde::{Deserialize, Serialize};
use std::{error::Error as StdError, fmt, ops::Range, sync::Arc};
use types::{
    Codec, DiskMode, Epoch, FileDriver, FileFormat, Generation, ImageFormat, Limits, Name, Pointer,
    Root, SnapshotId, VolumeId,
};

/// A store's catalog.
///
/// # Behavior
/// Calls block. [`commit`](Self::commit) is atomic and durable when it returns; reads see the
/// last commit.
pub trait Catalog: Send + Sync {
    /// The store-wide record; the default, at version 0, until somebody puts one.
    fn settings(&self) -> Result<Settings, Error>;
    /// A volume by id, in the trash or not.
    fn volume(&self, id: VolumeId) -> Result<Option<VolumeRecord>, Error>;
    /// A volume by name; those in the trash have given up theirs.
    fn find(&self, name: &Name) -> Result<Option<VolumeRecord>, Error>;
    /// Every volume, in order of id, those in the trash included.
    fn volumes(&self) -> Result<Vec<VolumeRecord>, Error>;
    /// The snapshots of a volume, oldest first (in order of id).
    fn snapshots(&self, volume: VolumeId) -> Result<Vec<SnapshotRecord>, Error>;
    /// One snapshot by name.
    fn find_snapshot(&self, volume: VolumeId, name: &Name)
    -> Result<Option<SnapshotRecord>, Error>;
    /// Everything, as of the last commit.
    fn contents(&self) -> Result<Contents, Error>;
    /// Applies all changes or none.
    ///
    /// # Behavior
    /// What must hold (names unique, a snapshot's volume there) must hold after the commit: the
    /// order of the changes does not matter, and two volumes can swap their names. A record is
    /// named by at most one change.
    ///
    /// # Errors
    /// [`ErrorKind::StaleEpoch`] if a volume's epoch in the catalog is higher than the change's,
    /// whatever else is wrong with it; [`ErrorKind::Conflict`] if a record is not at the version
    /// that its change was made from, [`ErrorKind::Exists`] if a name is taken,
    /// [`ErrorKind::Invalid`] if a change refers to what is not there, a volume is removed before
    /// its snapshots, or a record is named twice. Nothing is changed then.
    fn commit(&self, changes: &[Change]) -> Result<(), Error>;
    /// Hands out `count` ids of a kind that nobody got before or will get again, each range above
    /// all before it.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] if so many are not left (of packs there are
    /// [`PackId::LIMIT`](types::PackId::LIMIT)).
    fn reserve(&self, kind: IdKind, count: u64) -> Result<Range<u64>, Error>;
    /// A new epoch of the whole store, higher than all before: who opens the store to write takes one.
    fn next_store_epoch(&self) -> Result<Epoch, Error>;
}

/// What [`Catalog::reserve`] counts. All begin at 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum IdKind {
    /// [`types::PackId`].
    Pack,
    /// [`VolumeId`].
    Volume,
    /// [`SnapshotId`].
    Snapshot,
}

/// One change of a commit. A record's `version` says what it was made from: 0, it must not exist
/// yet; else the stored version, which then grows by one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(
    clippy::large_enum_variant,
    reason = "a commit has few of them, and they live as long as it"
)]
pub enum Change {
    /// Makes or replaces the store-wide record.
    PutSettings(Settings),
    /// Makes or replaces a volume.
    PutVolume(VolumeRecord),
    /// Forgets a volume, which must have no snapshots left after the commit.
    RemoveVolume {
        /// Which.
        id: VolumeId,
        /// Its version.
        version: u64,
    },
    /// Makes or replaces a snapshot; its volume must exist.
    PutSnapshot(SnapshotRecord),
    /// Forgets a snapshot.
    RemoveSnapshot {
        /// Of which volume.
        volume: VolumeId,
        /// Which.
        id: SnapshotId,
        /// Its version.
        version: u64,
    },
}

/// Which record a [`Change`] is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RecordId {
    /// The store-wide record.
    Settings,
    /// A volume.
    Volume(VolumeId),
    /// A snapshot of a volume.
    Snapshot(VolumeId, SnapshotId),
}

impl Change {
    /// The record that this is about.
    #[must_use]
    pub const fn record(&self) -> RecordId {
        match self {
            Change::PutSettings(_) => RecordId::Settings,
            Change::PutVolume(VolumeRecord { id, .. }) | Change::RemoveVolume { id, .. } => {
                RecordId::Volume(*id)
            }
            Change::PutSnapshot(SnapshotRecord { volume, id, .. })
            | Change::RemoveSnapshot { volume, id, .. } => RecordId::Snapshot(*volume, *id),
        }
    }
}

/// Store-wide state that can change while the store is open.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// Of this record.
    pub version: u64,
    /// For volumes that do not say.
    pub defaults: Properties,
    /// How long removed volumes stay in the trash, seconds.
    pub trash_keep_s: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            version: 0,
            defaults: Properties::default(),
            trash_keep_s: 24 * 3600,
        }
    }
}

/// What an administrator chooses for a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Properties {
    /// Look for blocks that the store has already.
    pub dedup: bool,
    /// How new blocks are compressed.
    pub codec: Codec,
    /// Refuse writes.
    pub read_only: bool,
}

impl Default for Properties {
    fn default() -> Self {
        Properties {
            dedup: true,
            codec: Codec::Lz4,
            read_only: false,
        }
    }
}

/// A volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeRecord {
    /// Its id.
    pub id: VolumeId,
    /// Of this record.
    pub version: u64,
    /// Unique among the volumes that are not in the trash.
    pub name: Name,
    /// The writer's.
    pub epoch: Epoch,
    /// Bytes.
    pub size: u64,
    /// The state after `destaged`.
    pub root: Root,
    /// The last generation that `root` holds: the journal's records of it and of those before are old.
    pub destaged: Generation,
    /// Blocks that `root` maps.
    pub mapped_blocks: u64,
    /// Its properties.
    pub properties: Properties,
    /// When it was made, milliseconds since the Unix epoch.
    pub created_ms: u64,
    /// What it was cloned from, for people: `volume@snapshot` at that time.
    pub origin: Option<String>,
    /// If it is in the trash.
    pub trashed: Option<Trashed>,
    /// Bytes that it may map; none: as many as it has.
    pub quota: Option<u64>,
    /// Queues of the vhost-user-blk device that it is served as; 0: it is not.
    pub vhost_queues: u16,
    /// Where its data are.
    pub backend: Backend,
    /// How fast it may be used.
    pub limits: Limits,
    /// The image that it is still being imported from: what `root` has holes for is read there.
    pub source: Option<Box<ImageSource>>,
    /// What becomes of what is written to it.
    pub mode: DiskMode,
    /// The snapshot that it goes back to; none if it is persistent.
    pub base: Option<SnapshotId>,
    /// Left out where snapshots of several volumes are taken.
    pub independent: bool,
    /// Its scheduled snapshots, if anything is chosen about them.
    pub policy: Option<Box<SnapshotPolicy>>,
}

/// An image that a volume is filled from while it is used, and how far that is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageSource {
    /// The image; empty if it is not known any more.
    pub path: String,
    /// What it is.
    pub format: Option<ImageFormat>,
    /// The images behind it, each the one behind the one before.
    pub backing: Vec<String>,
    /// The file that its data are in, if that is another.
    pub data_file: Option<String>,
    /// Every file that it is read from, as they were in the beginning: others are not read in their place.
    pub files: Vec<SourceFile>,
    /// Bytes of the disk that it describes.
    pub size: u64,
    /// The bytes up to which all that it has is in the store: whole blocks.
    pub filled: u64,
    /// Bytes that it took in the store: without zeroes, duplicates, and what compression took off.
    pub stored: u64,
    /// Nothing more of it is brought into the store for the time being.
    pub paused: bool,
}

/// A file that an image is read from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceFile {
    /// Its absolute path.
    pub path: String,
    /// Bytes.
    pub len: u64,
    /// When it was changed last, nanoseconds since the Unix epoch.
    pub modified_ns: u64,
}

/// Where a volume's data are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Backend {
    /// In the store: what `root` maps.
    #[default]
    Store,
    /// In an image file that is used in place; `root` is empty.
    File(ImageFile),
}

/// An image file that is a volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageFile {
    /// The directory that it lies below; none: the store's own for image files.
    pub root: Option<String>,
    /// The path below that.
    pub path: String,
    /// What is in it.
    pub format: FileFormat,
    /// How it is read and written.
    pub driver: FileDriver,
}

impl Backend {
    /// The image file, if it is one.
    #[must_use]
    pub const fn file(&self) -> Option<&ImageFile> {
        match self {
            Backend::Store => None,
            Backend::File(file) => Some(file),
        }
    }
}

impl VolumeRecord {
    /// Whether the parts make sense: what their own decoders do not check.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        root_is_sound(self.root) && self.limits.is_sound()
    }
}

impl SnapshotRecord {
    /// Whether the parts make sense: what their own decoders do not check.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.root.is_none_or(root_is_sound)
    }
}

fn root_is_sound(root: Root) -> bool {
    root.height <= 4 && Pointer::from_raw(root.pointer.to_raw()).is_some()
}

/// When a volume was put into the trash and leaves it for good; milliseconds since the Unix epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trashed {
    /// Removed at.
    pub at_ms: u64,
    /// Kept until.
    pub until_ms: u64,
}

/// A snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotRecord {
    /// Its id.
    pub id: SnapshotId,
    /// Of this record.
    pub version: u64,
    /// Whose.
    pub volume: VolumeId,
    /// Unique among the volume's snapshots.
    pub name: Name,
    /// The volume's size then, bytes.
    pub size: u64,
    /// The state after this generation of the volume.
    pub generation: Generation,
    /// That state; none while the generation is not destaged (the journal has it).
    pub root: Option<Root>,
    /// Blocks that the root maps.
    pub mapped_blocks: u64,
    /// When it was taken, milliseconds since the Unix epoch.
    pub created_ms: u64,
    /// As a volume's.
    pub vhost_queues: u16,
    /// If it was taken together with others, at one instant: the first of them.
    pub group: Option<SnapshotId>,
    /// It was taken by its volume's policy, which may remove it: no person chose it.
    pub scheduled: bool,
    /// While there is no root: how many submits to the journal have something of the generation. Where the journal has
    /// fewer, a part of that state is lost.
    pub submits: u64,
}

/// What the caller must do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// Read again and decide anew: somebody changed the record.
    Conflict,
    /// Choose another name.
    Exists,
    /// Stop writing: somebody newer owns the volume.
    StaleEpoch,
    /// Correct the change: it refers to what is not there.
    Invalid,
    /// Free space.
    NoSpace,
    /// Stop: the catalog is damaged or of an unknown format.
    Corrupt,
    /// Use a newer program: the catalog's format is newer.
    NewerFormat,
    /// Stop: reading or writing failed.
    Io,
}

/// An error of a catalog.
#[derive(Clone)]
pub struct Error {
    kind: ErrorKind,
    operation: &'static str,
    source: Option<Arc<dyn StdError + Send + Sync>>,
}

impl Error {
    /// An error of an operation.
    #[must_use]
    pub const fn new(kind: ErrorKind, operation: &'static str) -> Self {
        Error {
            kind,
            operation,
            source: None,
        }
    }

    /// With its cause.
    #[must_use]
    pub fn with_source(mut self, source: impl StdError + Send + Sync + 'static) -> Self {
        self.source = Some(Arc::new(source));
        self
    }

    /// What to do about it.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        self.kind
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.kind {
            ErrorKind::Conflict => "changed by somebody else meanwhile",
            ErrorKind::Exists => "the name is taken",
            ErrorKind::StaleEpoch => "a newer writer owns the volume",
            ErrorKind::Invalid => "refers to what does not exist",
            ErrorKind::NoSpace => "no space left for the catalog",
            ErrorKind::Corrupt => "the catalog is damaged",
            ErrorKind::NewerFormat => "the catalog has a newer format: use a newer holdfast",
            ErrorKind::Io => "input/output error",
        };
        write!(f, "catalog {}: {what}", self.operation)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")?;
        self.source
            .as_ref()
            .map_or(Ok(()), |cause| write!(f, ": {cause}"))
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|e| e as _)
    }
}
