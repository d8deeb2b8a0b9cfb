//! The API, to be called without a socket.

use crate::{Events, Jobs, router, shared::Shared};
use api_types::Control;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// The API without a connection.
pub struct Api(axum::Router<Shared>);

impl Api {
    /// All of it; to be made once.
    #[must_use]
    pub fn new() -> Self {
        Api(router::router())
    }

    /// What answers requests to this daemon, and what ends the streams among the answers.
    pub fn of(&self, control: Arc<dyn Control>) -> (axum::Router, CancellationToken) {
        let events = Events::new(Arc::new(env::RealClock::new()));
        let closing = CancellationToken::new();
        let router = self.0.clone().with_state(Shared {
            control,
            jobs: Jobs::new(events.clone()),
            events,
            closing: closing.clone(),
        });
        (router, closing)
    }
}

impl Default for Api {
    fn default() -> Self {
        Self::new()
    }
}
