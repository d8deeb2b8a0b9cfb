//! Packs: building, reading, caching, deduplication, and the protocol of collection.
//!
//! [`PackStore`] stands between volumes and a [`brick::Brick`]. It knows blocks, nodes and pointers, and
//! nothing of volumes. Start with [`PackWriter`] for how blocks become packs, and with the module `pins`
//! for who protects what from collection.

mod build;
mod cache;
mod check;
mod collect;
mod dedup;
mod distrust;
mod error;
mod ids;
mod index;
mod object;
mod pins;
mod read;
mod repair;
mod run;
mod store;
mod writer;

pub use check::{Damage, PackInfo, PackReport};
pub use collect::{Collection, How};
pub use dedup::{MIN_RUN, worth_taking};
pub use error::{Error, ErrorKind};
pub use format::live::LiveBits;
pub use format::pack::{FrameEntry, FrameKind};
pub use ids::ReserveIds;
pub use index::Index;
pub use store::{Config, PackStore, Usage};
pub use writer::{PackWriter, WriteStats, Written};

#[cfg(test)]
mod tests;
