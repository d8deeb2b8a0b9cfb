//! What happened, kept in a ring and told to whoever listens.
//!
//! Listeners have a place in the sequence, not a queue: a slow one costs nothing and is told how many
//! events it missed.

use api_types::{Event, EventKind};
use env::Clock;
use parking_lot::Mutex;
use std::{collections::VecDeque, sync::Arc};
use tokio::sync::watch;

/// Events that are kept for listeners that come or come back later.
const EVENTS_KEPT: usize = 1024;

/// The event log of the daemon. Clones are handles to the same one.
#[derive(Clone)]
pub struct Events(Arc<Inner>);

struct Inner {
    clock: Arc<dyn Clock>,
    ring: Mutex<VecDeque<Event>>,
    /// The last event's number; 0 before the first.
    newest: watch::Sender<u64>,
}

/// Events after some place in the sequence.
pub(crate) struct Batch {
    /// How many had left the ring before they were asked for.
    pub(crate) missed: u64,
    /// The rest, in order.
    pub(crate) events: Vec<Event>,
}

impl Events {
    /// An empty log.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Events(Arc::new(Inner {
            clock,
            ring: Mutex::new(VecDeque::new()),
            newest: watch::Sender::new(0),
        }))
    }

    /// Adds an event and wakes those who listen. Never waits for them.
    pub fn publish(&self, kind: EventKind, subject: impl Into<String>, message: impl Into<String>) {
        let mut ring = self.0.ring.lock();
        let seq = *self.0.newest.borrow() + 1;
        if ring.len() == EVENTS_KEPT {
            ring.pop_front();
        }
        ring.push_back(Event {
            seq,
            at_ms: self.now_ms(),
            kind,
            subject: subject.into(),
            message: message.into(),
        });
        self.0.newest.send_replace(seq);
    }

    /// The clock that events are dated by.
    pub(crate) fn clock(&self) -> &dyn Clock {
        &*self.0.clock
    }

    /// Milliseconds since the Unix epoch.
    pub(crate) fn now_ms(&self) -> u64 {
        u64::try_from(self.0.clock.now().as_millis()).unwrap_or(u64::MAX)
    }

    /// Changes with each event, to its number.
    pub(crate) fn newest(&self) -> watch::Receiver<u64> {
        self.0.newest.subscribe()
    }

    /// What came after event `seq`. A number that was never given comes from an earlier life of the
    /// daemon: everything is new to that listener.
    pub(crate) fn after(&self, seq: u64) -> Batch {
        let ring = self.0.ring.lock();
        let newest = *self.0.newest.borrow();
        let seq = if seq > newest { 0 } else { seq };
        let oldest = newest + 1 - ring.len() as u64;
        let missed = oldest.saturating_sub(seq + 1);
        let skip = usize::try_from((seq + 1).saturating_sub(oldest)).unwrap_or(usize::MAX);
        Batch {
            missed,
            events: ring.iter().skip(skip).cloned().collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(count: usize) -> Events {
        let events = Events::new(Arc::new(env::RealClock::new()));
        for i in 0..count {
            events.publish(EventKind::Space, i.to_string(), "");
        }
        events
    }

    #[test]
    fn listeners_resume_where_they_were() {
        let events = log(5);
        let batch = events.after(3);
        assert_eq!(batch.missed, 0);
        assert_eq!(
            batch.events.iter().map(|e| e.seq).collect::<Vec<_>>(),
            [4, 5]
        );
        assert!(events.after(5).events.is_empty());
        assert!(log(0).after(0).events.is_empty());
    }

    #[test]
    fn the_ring_is_bounded_and_tells_what_is_gone() {
        let events = log(EVENTS_KEPT + 10);
        let batch = events.after(4);
        assert_eq!(batch.missed, 6);
        assert_eq!(batch.events.len(), EVENTS_KEPT);
        assert_eq!(batch.events[0].seq, 11);
        assert_eq!(events.after(10).missed, 0);
    }

    #[test]
    fn a_place_from_before_a_restart_is_the_beginning() {
        assert_eq!(log(3).after(900).events.len(), 3);
    }
}
