//! Connections whose clients want nothing at the moment.
//!
//! Most machines of a host do nothing most of the time. A thread for each of them would be memory that only waits: its
//! stack, and what its allocator keeps for it. So a connection that was idle for a while gives its thread up, one thread
//! looks after all of those, and whoever sends something gets a thread again, which takes some ten microseconds.

use crate::listener::Stop;
use rustix::{buffer::spare_capacity, event::epoll, io::Errno};
use std::{
    collections::HashMap,
    io,
    os::fd::{BorrowedFd, OwnedFd},
};
use sync::Mutex;

/// Connections woken at a time.
const TOGETHER: usize = 64;

/// The key of the descriptor that tells the end. Connections count up from 1.
const END: u64 = 0;

/// What waits here.
pub(crate) trait Idler: Send + 'static {
    /// Unlike those of all others.
    fn key(&self) -> u64;

    /// Where something comes, or the end, when it is to go on.
    fn socket(&self) -> BorrowedFd<'_>;
}

/// Those who wait.
pub(crate) struct Idle<T> {
    epoll: OwnedFd,
    end: Stop,
    waiting: Mutex<HashMap<u64, T>>,
}

impl<T: Idler> Idle<T> {
    /// # Errors
    /// The system has no file descriptor to give.
    pub(crate) fn new() -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let end = Stop::new()?;
        let data = epoll::EventData::new_u64(END);
        epoll::add(&epoll, &end, data, epoll::EventFlags::IN)?;
        Ok(Idle {
            epoll,
            end,
            waiting: Mutex::default(),
        })
    }

    /// Leaves `idler` here until something comes for it. It is given back if the system has no room for one more.
    pub(crate) fn leave(&self, idler: T) -> Result<(), T> {
        let key = idler.key();
        let mut waiting = self.waiting.lock();
        let data = epoll::EventData::new_u64(key);
        if epoll::add(&self.epoll, idler.socket(), data, epoll::EventFlags::IN).is_err() {
            return Err(idler);
        }
        waiting.insert(key, idler);
        Ok(())
    }

    /// Gives those to `wake` for whom something has come, until [`end`](Self::end).
    pub(crate) fn watch(&self, mut wake: impl FnMut(T)) {
        let mut events = Vec::with_capacity(TOGETHER);
        loop {
            events.clear();
            match epoll::wait(&self.epoll, spare_capacity(&mut events), None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => {
                    tracing::error!(%error, "idle NBD connections are not served any more");
                    return;
                }
            }
            for event in &events {
                let key = event.data.u64();
                if key == END {
                    return;
                }
                // Who left it there has let go of the lock by now.
                let Some(idler) = self.waiting.lock().remove(&key) else {
                    continue;
                };
                if let Err(error) = epoll::delete(&self.epoll, idler.socket()) {
                    tracing::warn!(%error, "an NBD connection goes on being watched");
                }
                wake(idler);
            }
        }
    }

    /// Nobody comes any more.
    pub(crate) fn end(&self) {
        if let Err(error) = self.end.raise() {
            tracing::warn!(%error, "the thread of idle NBD connections cannot be told to stop");
        }
    }
}
