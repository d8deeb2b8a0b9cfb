//! Images into a store of this machine and out of it.

mod export;
mod import;
mod model;
mod support;
