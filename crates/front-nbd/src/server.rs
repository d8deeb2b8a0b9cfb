//! The server: its listeners, its connections, its end.

use crate::{
    Config, ConnectionInfo, Stats,
    budget::Budget,
    buffer::Recycler,
    connection::{Connection, Workers},
    execute::Session,
    handshake,
    idle::{Idle, Idler},
    listener::{self, Stop},
    outbox::{Commons, Outbox},
    reader::{Done, Reader},
    socket::Socket,
    stats::Counters,
};
use block::{Departure, Exports, Lines};
use env::{Env, Shares, SocketFile, Vigil};
use std::{
    collections::HashMap,
    io,
    net::SocketAddr,
    os::fd::{BorrowedFd, OwnedFd},
    path::Path,
    sync::{Arc, OnceLock},
    time::Duration,
};
use sync::{Condvar, Mutex, thread::JoinHandle};

/// Serves exports to NBD clients. Dropping it ends it as [`shutdown`](Self::shutdown) does, without patience.
pub struct Server {
    shared: Arc<Shared>,
    stop: Arc<Stop>,
    listeners: Mutex<Vec<Listener>>,
    /// Looks after those that are idle.
    watch: Mutex<Option<JoinHandle<()>>>,
}

struct Listener {
    thread: JoinHandle<()>,
    _file: Option<SocketFile>,
}

struct Shared {
    exports: Arc<dyn Exports>,
    config: Config,
    env: Env,
    workers: Arc<Workers>,
    commons: Arc<Commons>,
    connections: Mutex<Connections>,
    idle: Idle<Registered>,
    one_ended: Condvar,
    /// Threads that read for an export: several connections get no more of the processors than one.
    shares: Shares,
}

#[derive(Default)]
struct Connections {
    live: HashMap<u64, Arc<Connection>>,
    next_id: u64,
    /// Of connections that ended, and refused ones.
    past: Stats,
    stopping: bool,
}

impl Server {
    /// A server without listeners.
    ///
    /// # Errors
    /// The system has no file descriptor or no thread to give.
    pub fn start(exports: Arc<dyn Exports>, env: Env, config: Config) -> io::Result<Self> {
        let commons = Commons {
            budget: Budget::new(config.in_flight_bytes),
            recycler: Recycler::default(),
        };
        let shared = Arc::new(Shared {
            exports,
            workers: Arc::new(Workers::new("nbd-worker", config.workers)),
            config,
            env,
            commons: Arc::new(commons),
            connections: Mutex::default(),
            idle: Idle::new()?,
            one_ended: Condvar::new(),
            shares: Shares::default(),
        });
        let stop = Arc::new(Stop::new()?);
        let watched = Arc::clone(&shared);
        let watch = env::spawn("nbd-idle", move || watched.idle.watch(Registered::go_on))?;
        Ok(Server {
            shared,
            stop,
            listeners: Mutex::default(),
            watch: Mutex::new(Some(watch)),
        })
    }

    /// Listens at a path for those whom `mode` allows to write.
    ///
    /// # Behavior
    /// A socket that nobody listens at is replaced. The file is removed when the server ends.
    ///
    /// # Errors
    /// `AddrInUse` if somebody listens there or it is not a socket.
    pub fn listen_unix(&self, path: &Path, mode: u32) -> io::Result<()> {
        let (fd, file) = env::bind_unix(path, mode)?;
        self.accept_from(fd, Some(file))
    }

    /// Listens at a loopback address; returns it with the port that it got.
    ///
    /// # Errors
    /// The address is another's, or in use.
    pub fn listen_tcp(&self, address: SocketAddr) -> io::Result<SocketAddr> {
        let (fd, address) = listener::bind_tcp(address)?;
        self.accept_from(fd, None)?;
        Ok(address)
    }

    /// Accepts connections from a socket that listens already (socket activation).
    ///
    /// # Errors
    /// The system has no more threads to give.
    pub fn adopt(&self, listener: OwnedFd) -> io::Result<()> {
        self.accept_from(listener, None)
    }

    /// Serves a client that is connected already.
    ///
    /// # Errors
    /// There are too many connections, the server is ending, or there is no thread to be had.
    pub fn serve_stream(&self, stream: OwnedFd) -> io::Result<()> {
        self.shared.serve(stream)
    }

    /// The connections there are, oldest first.
    #[must_use]
    pub fn connections(&self) -> Vec<ConnectionInfo> {
        let live = self.shared.live();
        let mut infos: Vec<_> = live.iter().map(|c| c.info()).collect();
        infos.sort_unstable_by_key(|info| info.id);
        infos
    }

    /// What was done since the start.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let connections = self.shared.connections.lock();
        let mut stats = connections.past;
        for connection in connections.live.values() {
            stats.add(&connection.counters.snapshot());
        }
        stats
    }

    /// Cuts a connection. `false` if there is none of that number.
    pub fn disconnect(&self, id: u64) -> bool {
        let connection = self.shared.connections.lock().live.get(&id).cloned();
        if let Some(connection) = &connection {
            connection.outbox.fail(&io::Error::other("disconnected"));
        }
        connection.is_some()
    }

    /// Ends: accepts no more, lets requests that were received finish and their replies be sent, closes.
    ///
    /// # Behavior
    /// What is not finished after `patience` is cut off. The number of connections that even then did not
    /// end, because their device does not return, is the result.
    pub fn shutdown(&self, patience: Duration) -> usize {
        self.shared.connections.lock().stopping = true;
        if let Err(error) = self.stop.raise() {
            tracing::warn!(%error, "NBD listeners cannot be told to stop");
        }
        for listener in self.listeners.lock().drain(..) {
            // It does not panic.
            let _ = listener.thread.join();
        }
        for connection in self.shared.live() {
            connection.drain();
        }
        self.shared.wait_for_end(patience);
        for connection in self.shared.live() {
            connection.outbox.fail(&io::Error::other("shutdown"));
        }
        let left = self.shared.wait_for_end(Self::LAST_GRACE);
        self.shared.idle.end();
        if let Some(watch) = self.watch.lock().take() {
            // It does not panic.
            let _ = watch.join();
        }
        if left == 0 {
            self.shared.workers.stop();
        }
        left
    }

    /// What a cut connection gets to end its threads.
    const LAST_GRACE: Duration = Duration::from_secs(1);

    fn accept_from(&self, fd: OwnedFd, file: Option<SocketFile>) -> io::Result<()> {
        let (shared, stop) = (self.shared.clone(), self.stop.clone());
        let thread = env::spawn("nbd-listener", move || {
            listener::accept_until(&stop, &fd, |stream| {
                if let Err(error) = shared.serve(stream) {
                    tracing::warn!(%error, "an NBD connection is refused");
                }
            });
        })?;
        let listener = Listener {
            thread,
            _file: file,
        };
        self.listeners.lock().push(listener);
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shutdown(Duration::ZERO);
    }
}

impl Shared {
    fn live(&self) -> Vec<Arc<Connection>> {
        self.connections.lock().live.values().cloned().collect()
    }

    /// Waits until no connection is left; how many there are after `patience`.
    fn wait_for_end(&self, patience: Duration) -> usize {
        let deadline = self.env.clock.monotonic() + patience;
        let mut connections = self.connections.lock();
        loop {
            let left = deadline.saturating_sub(self.env.clock.monotonic());
            if connections.live.is_empty() || left.is_zero() {
                return connections.live.len();
            }
            self.one_ended.wait_for(&mut connections, left);
        }
    }

    fn serve(self: &Arc<Self>, stream: OwnedFd) -> io::Result<()> {
        let connection = self.admit(Socket::new(stream)?)?;
        let guard = Registered {
            shared: self.clone(),
            connection,
        };
        guard.spawn()
    }

    fn admit(&self, socket: Socket) -> io::Result<Arc<Connection>> {
        let peer = socket.peer();
        let outbox = Outbox::new(
            socket,
            self.commons.clone(),
            self.config.send_timeout,
            self.config.in_flight_bytes_per_connection,
            self.config.reserved_bytes_per_connection,
        );
        let mut connections = self.connections.lock();
        let mut full = connections.live.len() >= self.config.connections_max;
        // Who has been in the handshake for longest makes room: silent clients keep nobody out.
        let half_open = || {
            let live = connections.live.values();
            let old = self
                .env
                .clock
                .now()
                .saturating_sub(self.config.handshake_grace);
            live.filter(|c| c.session.get().is_none() && !c.is_draining() && c.since <= old)
                .min_by_key(|c| c.id)
        };
        if full && let Some(oldest) = half_open() {
            oldest.drain();
            full = false;
        }
        if full || connections.stopping {
            connections.past.connections_refused += 1;
            return Err(io::Error::other(if full {
                "too many connections"
            } else {
                "the server is ending"
            }));
        }
        connections.next_id += 1;
        let connection = Arc::new(Connection {
            id: connections.next_id,
            peer,
            since: self.env.clock.now(),
            outbox: Arc::new(outbox),
            counters: Counters::default(),
            session: OnceLock::new(),
            lines: OnceLock::new(),
            draining: false.into(),
        });
        connections.live.insert(connection.id, connection.clone());
        Ok(connection)
    }
}

/// A connection that is in the server's list as long as this lives, whatever its thread does.
struct Registered {
    shared: Arc<Shared>,
    connection: Arc<Connection>,
}

impl Idler for Registered {
    fn key(&self) -> u64 {
        self.connection.id
    }

    fn socket(&self) -> BorrowedFd<'_> {
        self.connection.outbox.socket.as_fd()
    }
}

impl Registered {
    /// Without a thread, it is dropped.
    fn spawn(self) -> io::Result<()> {
        env::spawn("nbd-connection", move || self.serve()).map(drop)
    }

    /// It was idle, and something has come.
    fn go_on(self) {
        if let Err(error) = self.spawn() {
            tracing::warn!(%error, "an idle NBD connection is cut: there is no thread for it");
        }
    }

    fn serve(self) {
        let shared = Arc::clone(&self.shared);
        let mut waits = self;
        while matches!(waits.converse(), Done::Idle) {
            match shared.idle.leave(waits) {
                Ok(()) => return,
                Err(back) => waits = back,
            }
        }
    }

    /// From the handshake on, or from where it was when it became idle.
    fn converse(&self) -> Done {
        let (connection, shared) = (&self.connection, &self.shared);
        let clock = &*shared.env.clock;
        let Some(session) = connection.session.get().or_else(|| self.begin()) else {
            return Done::Gone;
        };
        let _share = shared.shares.join(session.owner);
        let lines = connection.lines.get_or_init(|| {
            let workers = shared.workers.clone();
            Lines::new(session.device.clone(), move |job| workers.submit(job))
        });
        let mut reader = Reader::new(
            connection,
            session,
            &shared.workers,
            lines,
            clock,
            Vigil::new(shared.config.poll),
        );
        let done = reader.run().unwrap_or_else(|error| {
            connection.outbox.fail(&error);
            Done::Gone
        });
        if matches!(done, Done::Gone) {
            connection.abandon();
        }
        done
    }

    /// The handshake. `None`: there is nothing to be served.
    fn begin(&self) -> Option<&Session> {
        let (connection, shared) = (&self.connection, &self.shared);
        let (socket, clock) = (&connection.outbox.socket, &*shared.env.clock);
        let negotiated = handshake::negotiate(socket, &*shared.exports, &shared.config, clock);
        let negotiated = negotiated.and_then(|session| {
            socket.set_idle(shared.config.idle_after)?;
            Ok(session)
        });
        let session = negotiated
            .inspect_err(|error| {
                tracing::debug!(%error, peer = connection.peer, "an NBD handshake failed");
            })
            .ok()??;
        let session = connection.session.get_or_init(|| session);
        tracing::debug!(
            export = session.export,
            peer = connection.peer,
            "an NBD client is connected"
        );
        Some(session)
    }

    /// Says that a client is gone, if it had anything open.
    fn tell(&self) {
        let connection = &self.connection;
        let Some(session) = connection.session.get() else {
            return;
        };
        let stats = connection.counters.snapshot();
        let how = Departure {
            by_itself: !connection.is_draining() && !connection.outbox.was_cut(),
            wrote: stats.writes + stats.trims + stats.write_zeroes > 0,
        };
        self.shared.exports.left(&session.export, how);
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.connection.outbox.finish(|| self.connection.abandon());
        self.tell();
        let mut connections = self.shared.connections.lock();
        connections.live.remove(&self.connection.id);
        let stats = self.connection.counters.snapshot();
        connections.past.add(&stats);
        drop(connections);
        self.shared.one_ended.notify_all();
    }
}
