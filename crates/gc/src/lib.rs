//! Collection and check: what of a store is still needed, giving back what is not, and whether all
//! that is needed is there.
//!
//! ```text
//!  collect   begin_collection ─▶ roots ─▶ mark ─▶ plan ─▶ quiesce ─▶ give up, pack by pack
//!  check     begin_collection ─▶ roots ─▶ mark ─▶ verify every pack ─▶ who is hit?
//! ```
//!
//! Both mark from every root that the engine names ([`Roots`]). Why nothing that is needed can be
//! given up meanwhile is told in pack's module `pins`; what this crate adds is the order: roots are asked for
//! *after* the collection began, and nothing is given up before reads of older roots have ended.
//!
//! **Invariant:** a collection that meets damage while it marks gives nothing up: what a damaged node
//! would have reached is not known.
//!
//! Marking remembers 128 bytes for a pack of data and 512 for one with nodes: about 32 MiB for each
//! TiB stored.

mod check;
mod collect;
mod error;
mod mark;
mod plan;
mod repair;
mod scrub;

pub use check::{
    Afflicted, CheckOptions, CheckReport, DamagedPack, Extent, PackCounts, Verdict, check,
};
pub use collect::{Options, Report, Throttle, collect};
pub use error::{Error, ErrorKind};
pub use mark::{Marks, mark};
pub use plan::{Action, How, Plan, Thresholds, decide};
pub use repair::{Mend, Mended, repair};
pub use scrub::{Scrubbed, owners_of, scrub};

use types::{Root, VolumeId};

/// What must stay, as the engine knows it.
pub trait Roots {
    /// Every root that must stay: of volumes (those in the trash included), of snapshots, of readers that
    /// are open, and of states that only memory has. Called after the collection began: what becomes a root
    /// later was made from one of these, or of packs that are not considered.
    ///
    /// # Errors
    /// Whatever keeps the engine from knowing them all; nothing is given up then.
    fn roots(&self) -> Result<Vec<OwnedRoot>, Error>;
    /// Returns when every read that began before has ended: such a read may be of a root that was
    /// dropped before [`roots`](Self::roots) was asked.
    fn quiesce(&self);
    /// Whether there is such a volume, in the trash or not: root notes of others are of no use.
    ///
    /// # Errors
    /// Whatever keeps the engine from knowing.
    fn has_volume(&self, id: VolumeId) -> Result<bool, Error>;
}

/// A root and whose it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnedRoot {
    /// The map.
    pub root: Root,
    /// Blocks of the volume then.
    pub size_blocks: u64,
    /// For people: `volume` or `volume@snapshot`.
    pub owner: String,
}
