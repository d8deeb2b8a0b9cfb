//! The REST API on a unix socket.
//!
//! It turns requests into calls of [`Control`](api_types::Control) and knows nothing of what is behind it. It adds what every
//! front end to a daemon needs: [jobs](Jobs) for work that takes long, an [event stream](Events), a
//! bound on everything a client can ask for, one shape of errors, and a description of itself
//! ([`openapi`]) that is made from the very routes that answer.
//!
//! ```text
//!  accept ─ connection ─ router ─┬─ short verbs: a blocking thread, then an event
//!                                ├─ long verbs: a job on a thread of its own
//!                                └─ content: a job, joined to the connection by a bounded channel
//! ```
//!
//! **Invariant:** no call of `Control` runs on a thread of the runtime.

mod error;
mod events;
mod input;
mod jobs;
mod router;
mod routes;
mod serve;
mod shared;
mod stream;
#[cfg(feature = "testing")]
pub mod testing;

pub use events::Events;
pub use jobs::Jobs;
pub use router::openapi;
pub use serve::serve;
