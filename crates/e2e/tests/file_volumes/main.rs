//! Volumes that are plain files: what Ganeti's design for file-based storage promised, as far as it concerns one host.
//!
//! Tests are named after the promises: `f05_…` is the design's fifth; docs/testing.md lists them.

mod crashes;
mod guest;
mod host;
mod places;
mod promises;
mod snapshots;
