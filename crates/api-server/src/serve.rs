//! Connections: accepted, bounded, and ended when the daemon ends.

use crate::{events::Events, jobs::Jobs, router, shared::Shared};
use api_types::Control;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{conn::auto, graceful::GracefulShutdown},
    service::TowerToHyperService,
};
use std::{io, sync::Arc, time::Duration};
use tokio::{
    net::{UnixListener, UnixStream},
    sync::Semaphore,
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

/// Clients at once; more wait in the socket's queue.
const CONNECTIONS_MAX: usize = 256;
/// A client has this long to send a request's head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// Jobs and requests have this long to finish when the server ends.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(3);

/// Serves the API until `shutdown` completes, then ends: no new connections, jobs cancelled, event
/// streams closed, and requests at work given a few seconds.
///
/// # Errors
/// None at present: a connection that cannot be accepted is logged and the next one awaited.
pub async fn serve(
    listener: UnixListener,
    control: Arc<dyn Control>,
    events: Events,
    shutdown: impl Future<Output = ()>,
) -> io::Result<()> {
    let shared = Shared {
        control,
        jobs: Jobs::new(events.clone()),
        events,
        closing: CancellationToken::new(),
    };
    let mut connections = Connections::new(&shared);
    tokio::select! {
        () = connections.accept_all(&listener) => {}
        () = shutdown => {}
    }
    drop(listener);
    shared.jobs.close();
    shared.closing.cancel();
    connections.end(&shared.jobs).await;
    Ok(())
}

struct Connections {
    service: TowerToHyperService<axum::Router>,
    graceful: GracefulShutdown,
    slots: Arc<Semaphore>,
    tasks: JoinSet<()>,
}

impl Connections {
    fn new(shared: &Shared) -> Self {
        Connections {
            service: TowerToHyperService::new(router::router().with_state(shared.clone())),
            graceful: GracefulShutdown::new(),
            slots: Arc::new(Semaphore::new(CONNECTIONS_MAX)),
            tasks: JoinSet::new(),
        }
    }

    async fn accept_all(&mut self, listener: &UnixListener) {
        // The semaphore is never closed: acquiring cannot fail.
        while let Ok(slot) = Arc::clone(&self.slots).acquire_owned().await {
            match listener.accept().await {
                Ok((stream, _)) => {
                    let connection = self.connection(stream);
                    self.tasks.spawn(async move {
                        connection.await;
                        drop(slot);
                    });
                }
                Err(e) => {
                    // Most likely there are no file descriptors left: some will be free again.
                    tracing::warn!(error = %e, "cannot accept a connection");
                    sleep(Duration::from_millis(100)).await;
                }
            }
            while self.tasks.try_join_next().is_some() {}
        }
    }

    fn connection(&self, stream: UnixStream) -> impl Future<Output = ()> + Send + 'static {
        let mut builder = auto::Builder::new(TokioExecutor::new()).http1_only();
        builder
            .http1()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT);
        let served = builder
            .serve_connection(TokioIo::new(stream), self.service.clone())
            .into_owned();
        let served = self.graceful.watch(served);
        async move {
            if let Err(e) = served.await {
                tracing::debug!(error = %e, "a connection broke");
            }
        }
    }

    async fn end(mut self, jobs: &Jobs) {
        let quiet = async {
            self.graceful.shutdown().await;
            jobs.idle().await;
        };
        if timeout(CLOSE_TIMEOUT, quiet).await.is_err() {
            tracing::warn!("requests or jobs did not end in time and are left behind");
        }
        self.tasks.shutdown().await;
    }
}
