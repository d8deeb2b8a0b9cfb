//! What the REST API speaks, and the trait behind it.
//!
//! The server ([`Control`]'s caller), the daemon (its implementer) and the command line (the client)
//! share these types, so that none can drift from the others. Sizes are bytes, times are
//! milliseconds since the Unix epoch, unless a name says otherwise.

mod check;
mod control;
mod error;
mod files;
mod jobs;
mod limits;
mod modes;
mod policy;
mod report;
mod scrub;
mod vhost;
mod volumes;

pub use check::{
    ByteRange, CheckReport, CheckRequest, DamagedPack, Lost, Older, Repair, RepairKind,
    RepairOutcome, Verdict,
};
pub use control::{ContentReader, ContentWriter, Control, Work};
pub use error::{ApiError, ErrorBody, ErrorCode};
pub use files::{
    Adopt, Convert, FileControl, FileInfo, FileSpec, Finding, Release, Released, Severity,
    VerifyReport,
};
pub use jobs::{Event, EventKind, Job, JobKind, JobState};
pub use limits::{Limit, Limits};
pub use modes::{Apart, Decision, ModeControl, Power, PowerOff};
pub use policy::{PolicyChange, SnapshotPolicy};
pub use report::{
    CollectReport, CollectRequest, Connection, NbdStatus, SpaceLevel, StoreInfo, StoreUsage,
};
pub use scrub::ScrubStatus;
pub use vhost::{ServeVhost, VhostDevice, VhostGuest, VhostStatus};
pub use volumes::{
    Backing, CloneGroup, CloneOf, Connect, ConnectVhost, CreateSnapshot, CreateVolume, DiffExtent,
    DiffLine, ExportRequest, Group, ImportRequest, Imported, Importing, Restore, Rollback,
    Snapshot, TrashEntry, UpdateVolume, Volume, VolumeUsage,
};
