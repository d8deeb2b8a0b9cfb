//! What a queue's thread waits for.

use rustix::{
    event::{
        EventfdFlags,
        epoll::{self, CreateFlags, EventData, EventFlags},
        eventfd,
    },
    io::Errno,
};
use std::{io, os::fd::OwnedFd};

/// Something that a thread can be woken with, for good.
pub(crate) struct Bell(OwnedFd);

impl Bell {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Bell(eventfd(
            0,
            EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK,
        )?))
    }

    /// Nobody takes it back: who waits, or will, is woken.
    pub(crate) fn ring(&self) {
        // It fails only when it has been rung 2^64 times.
        let _ = rustix::io::write(&self.0, &1u64.to_ne_bytes());
    }

    pub(crate) const fn fd(&self) -> &OwnedFd {
        &self.0
    }
}

/// A guest's kicks, and a bell.
pub(crate) struct Wakeup {
    epoll: OwnedFd,
    /// Where kicks come from: what is waited for must stay open.
    _kick: OwnedFd,
}

impl Wakeup {
    /// # Errors
    /// `kick` cannot be waited for.
    pub(crate) fn new(bell: &Bell, kick: OwnedFd) -> io::Result<Self> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, bell.fd(), EventData::new_u64(0), EventFlags::IN)?;
        // Edges are enough, as the ring itself says what there is to do; so a kick need not be read, which would be a
        // system call more for each, and could block on what a client calls an eventfd.
        let edges = EventFlags::IN | EventFlags::ET;
        epoll::add(&epoll, &kick, EventData::new_u64(1), edges)?;
        Ok(Wakeup { epoll, _kick: kick })
    }

    /// Waits for a kick since the last time, or for the bell.
    pub(crate) fn wait(&self) {
        let mut events = [epoll::Event {
            flags: EventFlags::empty(),
            data: EventData::new_u64(0),
        }; 2];
        match epoll::wait(&self.epoll, &mut events, None) {
            // The caller looks for itself.
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => unreachable!("a valid epoll can be waited for: {error}"),
        }
    }
}
