//! Images into a store of this machine and out of it.

#![expect(
    clippy::unwrap_used,
    clippy::single_range_in_vec_init,
    reason = "helpers of tests; lists of ranges"
)]

mod appliance;
mod backing;
mod device;
mod export;
mod foreign;
mod import;
mod matrix;
mod model;
mod ova;
mod qcow2;
mod qemu;
mod random;
mod served;
mod snapshots;
mod support;
mod vmdk;
