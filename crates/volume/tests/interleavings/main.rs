//! Whole stores whose threads go on in orders that a seed chooses: see `sync::model`.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod collecting;
mod filling;
mod managing;
mod world;
mod writing;
