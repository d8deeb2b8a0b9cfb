//! Damage to the files of a store: named, contained, healed by writing again, and never data.
//!
//! Every pack and every journal segment is damaged in every way that files are damaged in, one at a time. What is
//! wrong then must be an error which says where and why; everything else must go on.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod buffer;
mod journal;
mod machine;
mod packs;
mod snapshots;
