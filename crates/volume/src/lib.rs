//! Volumes: where writes wait in memory, become durable, and turn into packs.
//!
//! ```text
//!  write ─▶ head generation ──freeze──▶ frozen generations ──destage──▶ packs, block map, catalog
//!               │  flush                     │  flush                      (the root moves)
//!               └──────────▶ journal ◀───────┘
//!  read  ─▶ head ─▶ frozen, newest first ─▶ block map of the root ─▶ packs
//!                                                    └─ a hole ─▶ the image that it is imported from, if it is still
//! ```
//!
//! A [`Store`] owns a directory and everything in it. A volume that is in use is a `Volume` behind the
//! [`BlockDevice`](block::BlockDevice) that [`Store::device`] hands out; the others are records of the
//! catalog and cost nothing.
//!
//! **Invariant:** a root moves in the catalog only under the volume's `record` lock, after what it
//! refers to is durable, and together with the number of the generation that it holds. So the journal's
//! records of that generation and of those before are old from the same moment on.
//!
//! **Invariant:** the order in which locks are taken is `roots`, `manage`, `destage`, `record`, `state`; then
//! `volumes`, which nobody holds while taking one of those. Who takes several of a kind, of a group of volumes, takes them in the order of
//! ids, all of one kind before the next. `manage`, `destage` and `record` are held across I/O;
//! `state` is across the commit of a rollback only, and `volumes` across the commit that a volume's first use after
//! opening the store takes its epoch with. Budget, gate, work queue, pins and names have locks of their own under
//! which nothing else is taken. Journal, catalog and packs may be called under any of them: they call nobody back,
//! except that packs reserve ids in the catalog.

mod ballast;
mod below;
mod bitmap;
mod budget;
mod config;
mod create;
mod destage;
mod device;
mod diff;
mod error;
mod fill;
mod flush;
mod follow;
mod foreign;
mod gate;
mod group;
mod health;
mod ids;
mod ingest;
#[cfg(all(test, feature = "shuttle"))]
mod interleavings;
mod layer;
mod manage;
mod manifest;
mod modes;
mod nodes;
mod open;
mod policy;
mod quota;
mod ranges;
mod read;
mod rebuild;
mod recover;
mod repair;
mod snapshot;
mod space;
mod store;
#[cfg(test)]
mod testing;
mod trash;
mod vhost;
mod volume;
mod work;
mod write;

pub use below::{Images, SourceDisk};
pub use bitmap::Difference;
pub use budget::Pressure;
pub use catalog::{
    ImageSource, PolicyChange, Properties, Settings, SnapshotPolicy, SnapshotRecord, SourceFile,
    VolumeRecord,
};
pub use config::{Background, Config};
pub use create::{Create, Source, Update, check_size};
pub use diff::{Diff, DiffExtent};
pub use error::{Error, ErrorKind};
pub use fill::Filled;
pub use health::Health;
pub use ingest::Ingest;
pub use manifest::{FORMAT_VERSION, Manifest};
pub use modes::Base;
pub use open::InitOptions;
pub use policy::Scheduled;
pub use rebuild::Rebuilt;
pub use repair::{JournalDamage, LostFlushes};
pub use space::SpaceLevel;
pub use store::{PinnedRoot, Store, StoreStats};
pub use volume::VolumeStats;
