//! Locks, atomics and threads of everything that several threads use, and hints to the processor.
//!
//! In a program these are `parking_lot`'s and `std`'s own types under another name, at no cost. With the feature
//! `shuttle` they are those of the model checker of that name: inside of `model::explore` the threads of a
//! test are run one at a time, and at every lock, atomic, wait and start of a thread a seed decides which of
//! them goes on. So orders of execution that take years to meet by chance are met in seconds, a deadlock or a lost
//! wake-up is seen as such, and what failed once fails again with the same seed.
//!
//! The feature is for tests alone: outside of `explore` its types panic. `cargo xtask test` builds
//! the crates once more with it, and runs the tests whose names contain `interleavings`.
//!
//! What the model does not have: memory orders weaker than sequential consistency, and threads inside of libraries.
//! Locks in libraries (caches, redb, the simulated disk) stay real; that is right as long as nothing of this
//! crate is called while one of them is held.

/// Whether threads are the model's: who waits for the system waits for all of them, and must let others go on
/// instead.
pub const IS_MODEL: bool = cfg!(feature = "shuttle");

#[cfg(feature = "shuttle")]
mod condvar;
#[cfg(feature = "shuttle")]
pub mod model;
mod near;

pub use near::bring_near;

#[cfg(not(feature = "shuttle"))]
pub use parking_lot::{Condvar, Mutex, MutexGuard, RwLock, WaitTimeoutResult};

#[cfg(feature = "shuttle")]
pub use condvar::{Condvar, WaitTimeoutResult};
#[cfg(feature = "shuttle")]
pub use shuttle_parking_lot::{Mutex, MutexGuard, RwLock};

/// Atomics.
pub mod atomic {
    #[cfg(feature = "shuttle")]
    use shuttle::sync::atomic as these;
    #[cfg(not(feature = "shuttle"))]
    use std::sync::atomic as these;

    pub use these::{AtomicBool, AtomicU8, AtomicU16, AtomicU32, AtomicU64, AtomicUsize, Ordering};
}

#[cfg(feature = "shuttle")]
pub use shuttle::thread_local;
#[cfg(not(feature = "shuttle"))]
pub use std::thread_local;

/// Threads; the engine starts them through `env`.
pub mod thread {
    #[cfg(feature = "shuttle")]
    use shuttle::thread as these;
    #[cfg(not(feature = "shuttle"))]
    use std::thread as these;

    pub use these::{Builder, JoinHandle, sleep, spawn, yield_now};

    /// Lets others have this processor first, if they want it. For work that nobody waits for, between pieces of some tens
    /// of microseconds: a kernel takes a processor from who computes at its ticks only, and those are up to 4 ms apart.
    pub fn make_way() {
        if !super::IS_MODEL {
            yield_now();
        }
    }
}
