//! The catalog of one host: [redb](https://docs.rs/redb), an embedded copy-on-write B-tree, in one
//! file below [`env::File`], so that the simulator can sit beneath it.
//!
//! ```text
//! RedbCatalog ── commit: one write transaction a commit, rules checked at its end
//!      │      ── record: bytes of a record: version, postcard, CRC over key and value
//!      │      ── guard:  redb's errors and panics become a catalog::Error; the first bad one sticks
//!      └ redb ── backend: redb's storage on env::File
//! ```
//!
//! # Commits
//! Two-phase and immediate: the new tree is synced before the header points to it, so the tree that
//! the header points to is always whole. If it does not verify, that is damage and an error. redb's
//! one-phase commit would save a sync, but could not tell damage from a torn commit, and would go
//! back to the commit before: to roots behind which the journal was recycled already.
//!
//! redb's allocator state is not saved with each commit ("quick-repair"), which would make each
//! slower and the file larger: after a crash the tree is walked instead and its checksums verified,
//! a few milliseconds for 10,000 records. After a clean close [`RedbCatalog::open`] makes the same
//! walk, since redb verifies no checksum when it merely reads.
//!
//! # When it fails
//! After an I/O error nobody knows what is durable: every later call fails with
//! [`ErrorKind::Io`](catalog::ErrorKind::Io) until the catalog is opened anew. Running out of space
//! is different, because the file grows before anything is committed (see `backend`): that commit
//! is refused with [`ErrorKind::NoSpace`](catalog::ErrorKind::NoSpace), the database is opened
//! again, and the next call finds the last commit. Growing doubles the file: a store that keeps as
//! much space free as its catalog is large can always remove things.
//!
//! # What damage it cannot see
//! The header says in one bit, without a checksum, which of two commits is the newer. After a crash
//! nothing else does: if that bit is damaged, or the disk lost the header's last write, the catalog
//! is whole and one commit old. The counter of commits tells it from its copy (`catalog-copy`).

mod backend;
mod commit;
mod database;
mod fill;
mod guard;
mod record;
mod tables;
#[cfg(feature = "testing")]
pub mod testing;

pub use database::RedbCatalog;
