//! Limits of a volume: requests and bytes a second, with bursts.
//!
//! ```text
//!  front end ── admit ──▶ Limited ── Limiter: one a volume, whoever uses it
//!      │                              buckets: a rate and what may exceed it
//!      │                              lines: reads, writes; the first of each waits for its tokens
//!      └── read, write … ──▶ the device below        ▲
//!                                              Timer: one thread for all, which sleeps while nobody waits
//! ```
//!
//! Nobody sleeps for a limit: a request that may not begin leaves a function behind, which is called when it may.
//! So no thread of a front end is held, and what is not limited (flushes) goes on beside it.
//!
//! **Invariants:** whatever is asked for, in any span of time no more is admitted than the rate gives, the burst, and
//! the end of one request that is larger than the burst. Whoever waits is admitted some time, or released.

mod bucket;
mod core;
mod device;
mod limiter;
mod timer;

pub use device::Limited;
pub use limiter::{Limiter, Throttled};
pub use timer::Timer;
