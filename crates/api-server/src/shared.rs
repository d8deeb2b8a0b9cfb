//! What every handler has at hand.

use crate::{error::Failure, events::Events, jobs::Jobs};
use api_types::{ApiError, Control};
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// The daemon, its jobs and its events.
#[derive(Clone)]
pub(crate) struct Shared {
    /// What the verbs are done by.
    pub(crate) control: Arc<dyn Control>,
    /// Long work.
    pub(crate) jobs: Jobs,
    /// What happened.
    pub(crate) events: Events,
    /// Is set when the server ends: whoever waits for something stops waiting.
    pub(crate) closing: CancellationToken,
}

impl Shared {
    /// Calls a short verb on a thread that may block.
    pub(crate) async fn call<T: Send + 'static>(
        &self,
        verb: impl FnOnce(&dyn Control) -> Result<T, ApiError> + Send + 'static,
    ) -> Result<T, Failure> {
        let control = Arc::clone(&self.control);
        match tokio::task::spawn_blocking(move || verb(&*control)).await {
            Ok(outcome) => Ok(outcome?),
            Err(_) => Err(Failure::internal("the daemon met a fault in itself")),
        }
    }
}
