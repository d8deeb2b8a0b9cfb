//! The server: its socket, its guest, its end.

use crate::{
    GuestInfo, Options, Stats, channel,
    disk::Disk,
    queue::{Job, Jobs},
    session::Session,
    stats::Counters,
    wakeup::Bell,
};
use block::BlockDevice;
use env::{Env, Pool, SocketFile};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    net::{SocketFlags, accept_with, sockopt},
};
use std::{
    io,
    net::Shutdown,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
    path::{Path, PathBuf},
    // What `vhost` drives is behind its lock, not ours.
    sync::{
        Arc, Mutex as StdMutex, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};
use sync::{Condvar, Mutex, thread::JoinHandle};
use vhost::vhost_user::{BackendReqHandler, Error, VhostUserProtocolFeatures};

/// Threads for requests that wait, of any number of servers.
#[derive(Clone)]
pub struct Workers(Arc<Jobs>);

impl Workers {
    /// At most so many threads, started as they are needed.
    #[must_use]
    pub fn new(threads_max: usize) -> Self {
        Workers(Arc::new(Pool::<Job>::new("vhost-worker", threads_max)))
    }

    /// Ends the threads, when all servers have been stopped.
    pub fn stop(&self) {
        self.0.stop();
    }
}

/// Serves one device on one socket, to one guest at a time. Dropping it ends it as [`stop`](Self::stop) does, without
/// patience.
pub struct Server {
    shared: Arc<Shared>,
    path: PathBuf,
    thread: Mutex<Option<JoinHandle<()>>>,
}

struct Shared {
    disk: Arc<Disk>,
    workers: Workers,
    stop: Bell,
    guest: Mutex<Option<Guest>>,
    ended: Mutex<bool>,
    has_ended: Condvar,
}

/// The guest that is connected.
struct Guest {
    info: GuestInfo,
    queues: Arc<AtomicUsize>,
    stream: UnixStream,
    /// Where it is told of changes, once it has said.
    channel: Option<OwnedFd>,
}

impl Server {
    /// Listens at `path`, for those whom `mode` allows to write, and serves who connects.
    ///
    /// # Behavior
    /// A socket that nobody listens at is replaced. The file is removed when the server ends.
    ///
    /// # Errors
    /// `AddrInUse` if somebody listens there or it is not a socket; or there is no thread to be had.
    pub fn start(
        env: &Env,
        workers: &Workers,
        path: &Path,
        mode: u32,
        device: Arc<dyn BlockDevice>,
        options: Options,
    ) -> io::Result<Self> {
        let (listener, file) = env::bind_unix(path, mode)?;
        rustix::io::ioctl_fionbio(&listener, true)?;
        let options = Options {
            queues: options.queues.clamp(1, Self::QUEUES_MAX),
            ..options
        };
        let disk = Disk {
            device,
            options,
            clock: env.clock.clone(),
            counters: Counters::default(),
        };
        let shared = Arc::new(Shared {
            disk: Arc::new(disk),
            workers: workers.clone(),
            stop: Bell::new()?,
            guest: Mutex::new(None),
            ended: Mutex::new(false),
            has_ended: Condvar::new(),
        });
        let serving = shared.clone();
        let thread = env::spawn("vhost-session", move || serving.run(&listener, file))?;
        Ok(Server {
            shared,
            path: path.to_owned(),
            thread: Mutex::new(Some(thread)),
        })
    }

    /// Queues of a device, at most.
    const QUEUES_MAX: u16 = 256;

    /// Where it listens.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Tells the guest that the device has another size now.
    ///
    /// # Behavior
    /// `false` if there is no guest, or it did not say how to be told: it sees the size when it connects.
    pub fn resized(&self) -> bool {
        let guest = self.shared.guest.lock();
        let Some(channel) = guest.as_ref().and_then(|guest| guest.channel.as_ref()) else {
            return false;
        };
        let told = channel::config_changed(channel);
        if let Err(error) = &told {
            tracing::warn!(%error, path = %self.path.display(), "a vhost-user guest is not told of its disk's new size");
        }
        told.is_ok()
    }

    /// The guest that is connected.
    #[must_use]
    pub fn guest(&self) -> Option<GuestInfo> {
        let guest = self.shared.guest.lock();
        guest.as_ref().map(|guest| GuestInfo {
            queues: guest.queues.load(Relaxed),
            ..guest.info.clone()
        })
    }

    /// What was done since the start.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.shared.disk.counters.snapshot()
    }

    /// Cuts the guest's connection, when what it asked for is done. `false` if there is none.
    pub fn disconnect(&self) -> bool {
        let guest = self.shared.guest.lock();
        let hung_up = guest
            .as_ref()
            .map(|guest| guest.stream.shutdown(Shutdown::Both));
        hung_up.is_some_and(|done| done.is_ok())
    }

    /// Ends: takes no more requests, lets those that were taken finish and be answered, closes. The guest finds whoever
    /// listens at the path next, and goes on there.
    ///
    /// # Behavior
    /// `false` if the device did not return within `patience`. Its thread is left behind.
    pub fn stop(&self, patience: Duration) -> bool {
        self.shared.stop.ring();
        // It may be waiting for the rest of a message.
        if let Some(guest) = &*self.shared.guest.lock() {
            // Who has left needs no cutting off.
            let _ = guest.stream.shutdown(Shutdown::Read);
        }
        if !self.shared.wait_for_end(patience) {
            return false;
        }
        if let Some(thread) = self.thread.lock().take() {
            // It says that it has ended as the last thing.
            let _ = thread.join();
        }
        true
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop(Duration::ZERO);
    }
}

/// Says that the server's thread has ended, however it did.
struct Ended<'a>(&'a Shared);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        *self.0.ended.lock() = true;
        self.0.has_ended.notify_all();
    }
}

impl Shared {
    fn wait_for_end(&self, patience: Duration) -> bool {
        let deadline = self.disk.clock.monotonic() + patience;
        let mut ended = self.ended.lock();
        while !*ended {
            let left = deadline.saturating_sub(self.disk.clock.monotonic());
            if left.is_zero() {
                return false;
            }
            self.has_ended.wait_for(&mut ended, left);
        }
        true
    }

    fn run(&self, listener: &OwnedFd, file: SocketFile) {
        let _ended = Ended(self);
        let mut id = 0;
        while let Some(stream) = self.accept(listener) {
            id += 1;
            if let Err(error) = self.serve(id, stream, listener) {
                tracing::warn!(%error, "a vhost-user connection ended badly");
            }
            self.guest.lock().take();
        }
        drop(file);
    }

    /// The next guest; none at the end.
    fn accept(&self, listener: &OwnedFd) -> Option<UnixStream> {
        loop {
            let [stop, ready] = wait([self.stop.fd().as_fd(), listener.as_fd()], None);
            if stop {
                return None;
            }
            if !ready {
                continue;
            }
            match accept_with(listener, SocketFlags::CLOEXEC) {
                Ok(stream) => return Some(stream.into()),
                Err(Errno::AGAIN | Errno::INTR | Errno::CONNABORTED) => {}
                Err(error) => {
                    tracing::warn!(%error, "a vhost-user connection cannot be accepted");
                    // Too many files are open, most likely: trying again at once would only burn time.
                    wait([self.stop.fd().as_fd()], Some(Duration::from_millis(100)));
                }
            }
        }
    }

    /// Serves a guest until it leaves or the server is stopped.
    fn serve(&self, id: u64, stream: UnixStream, listener: &OwnedFd) -> io::Result<()> {
        let queues = Arc::new(AtomicUsize::new(0));
        self.register(id, &stream, &queues)?;
        let session = Session::new(self.disk.clone(), self.workers.0.clone(), queues);
        let session = Arc::new(StdMutex::new(session));
        let mut handler = BackendReqHandler::from_stream(stream.try_clone()?, session.clone());
        loop {
            let fds = [self.stop.fd().as_fd(), stream.as_fd(), listener.as_fd()];
            let [stop, message, another] = wait(fds, None);
            if stop {
                return Ok(());
            }
            if message {
                match self.handle(&stream, &session, &mut handler) {
                    Ok(()) | Err(Error::SocketRetry(_)) => {}
                    Err(Error::Disconnected) => return Ok(()),
                    Err(error) => return Err(io::Error::other(error)),
                }
            } else if another {
                self.refuse_another(listener);
            }
        }
    }

    fn register(&self, id: u64, stream: &UnixStream, queues: &Arc<AtomicUsize>) -> io::Result<()> {
        let peer = sockopt::socket_peercred(stream).ok();
        let info = GuestInfo {
            id,
            pid: peer.map(|peer| peer.pid.as_raw_nonzero().get() as u32),
            since: self.disk.clock.now(),
            queues: 0,
        };
        tracing::debug!(pid = info.pid, "a vhost-user guest is connected");
        self.disk.counters.connections.fetch_add(1, Relaxed);
        *self.guest.lock() = Some(Guest {
            info,
            queues: queues.clone(),
            stream: stream.try_clone()?,
            channel: None,
        });
        Ok(())
    }

    fn handle(
        &self,
        stream: &UnixStream,
        session: &StdMutex<Session>,
        handler: &mut BackendReqHandler<StdMutex<Session>>,
    ) -> Result<(), Error> {
        if !channel::is_next(stream).map_err(Error::SocketBroken)? {
            return handler.handle_request();
        }
        let (allowed, may_answer) = {
            let session = session.lock().unwrap_or_else(PoisonError::into_inner);
            (
                session.has(VhostUserProtocolFeatures::BACKEND_REQ),
                session.has(VhostUserProtocolFeatures::REPLY_ACK),
            )
        };
        if !allowed {
            let feature = VhostUserProtocolFeatures::BACKEND_REQ;
            return Err(Error::InactiveOperation(feature));
        }
        let (channel, waits) = channel::take(stream).map_err(Error::ReqHandlerError)?;
        if let Some(guest) = &mut *self.guest.lock() {
            guest.channel = Some(channel);
        }
        if waits && may_answer {
            channel::acknowledge(stream).map_err(Error::SocketBroken)?;
        }
        Ok(())
    }

    /// A disk has one guest: two would destroy each other's file systems.
    fn refuse_another(&self, listener: &OwnedFd) {
        if accept_with(listener, SocketFlags::CLOEXEC).is_ok() {
            tracing::warn!("a second vhost-user guest is refused");
            let refused = &self.disk.counters.connections_refused;
            refused.fetch_add(1, Relaxed);
        }
    }
}

/// Waits until something is ready, or for so long; which of them are.
fn wait<const N: usize>(fds: [BorrowedFd<'_>; N], timeout: Option<Duration>) -> [bool; N] {
    let mut polled = fds.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN));
    let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
    match poll(&mut polled, timeout.as_ref()) {
        Ok(_) => polled.map(|fd| !fd.revents().is_empty()),
        // The caller comes back.
        Err(_) => [false; N],
    }
}
