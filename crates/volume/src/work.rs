//! Who destages in the background, and looks after time, space and the journal.

use crate::{config::Background, error::Error, health::Part, store::Shared, volume::Volume};
use std::{
    collections::VecDeque,
    sync::{Arc, Weak, atomic::Ordering::Relaxed},
    time::Duration,
};
use sync::{Condvar, Mutex, thread::JoinHandle};

/// How often somebody looks for what is due without being asked.
const TICK: Duration = Duration::from_millis(250);
/// After so many with nothing dirty, memory for writing is given back.
const TRIM_TICKS: u32 = 40;

/// Volumes with something to destage.
#[derive(Default)]
pub(crate) struct WorkQueue {
    queue: Mutex<Queue>,
    /// For destagers only: whoever is woken takes the volume.
    changed: Condvar,
    /// For those who wait for time to pass.
    closing: Condvar,
}

#[derive(Default)]
struct Queue {
    volumes: VecDeque<Arc<Volume>>,
    closed: bool,
}

impl WorkQueue {
    pub(crate) fn push(&self, volume: &Arc<Volume>) {
        if !volume.queued.swap(true, Relaxed) {
            self.queue.lock().volumes.push_back(Arc::clone(volume));
            self.changed.notify_one();
        }
    }

    pub(crate) fn close(&self) {
        self.queue.lock().closed = true;
        self.changed.notify_all();
        self.closing.notify_all();
    }

    /// The next volume; none after a tick without work. `Err` when closed.
    pub(crate) fn pop(&self) -> Result<Option<Arc<Volume>>, ()> {
        let mut queue = self.queue.lock();
        loop {
            if queue.closed {
                return Err(());
            }
            if let Some(volume) = queue.volumes.pop_front() {
                volume.queued.store(false, Relaxed);
                return Ok(Some(volume));
            }
            if self.changed.wait_for(&mut queue, TICK).timed_out() {
                return Ok(None);
            }
        }
    }

    fn wait_closed(&self, time: Duration) -> bool {
        let mut queue = self.queue.lock();
        if !queue.closed {
            self.closing.wait_for(&mut queue, time);
        }
        queue.closed
    }
}

/// Starts `count` destagers and one keeper. They end when the queue is closed or the store is gone.
pub(crate) fn start(shared: &Arc<Shared>, count: usize) -> Result<Vec<JoinHandle<()>>, Error> {
    // Threads have the priority of whoever starts them: those that put packs together not that of a check, should it be the
    // first that needs them.
    rayon::current_num_threads();
    let mut threads = Vec::new();
    for number in 0..count.max(1) {
        let shared = Arc::clone(shared);
        threads.push(spawn(&format!("destage-{number}"), move || {
            destager(&shared)
        })?);
    }
    let shared = Arc::downgrade(shared);
    let watched = Weak::clone(&shared);
    threads.push(spawn("keeper", move || keeper(&shared))?);
    threads.push(spawn("watch", move || watch(&watched))?);
    Ok(threads)
}

fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, Error> {
    env::spawn(name, body).map_err(|e| {
        Error::new(crate::ErrorKind::Io, "cannot start background threads").with_source(e)
    })
}

fn destager(shared: &Shared) {
    while let Ok(volume) = shared.work.pop() {
        let Some(volume) = volume else { continue };
        let part = Part::Destage(volume.id);
        if shared.waits(part) {
            continue;
        }
        shared.note(part, volume.destage_due(false));
        if volume.is_due() {
            shared.work.push(&volume);
        }
    }
}

/// Does no I/O, so that it says that a disk stalls while it does.
fn watch(shared: &Weak<Shared>) {
    while let Some(shared) = shared.upgrade() {
        if shared.work.wait_closed(TICK) {
            return;
        }
        shared.watch_disk();
    }
}

fn keeper(shared: &Weak<Shared>) {
    let mut clean_ticks = 0;
    loop {
        let Some(shared) = shared.upgrade() else {
            return;
        };
        if shared.work.wait_closed(TICK) {
            return;
        }
        shared.update_space();
        clean_ticks = if shared.budget.dirty() == 0 {
            clean_ticks + 1
        } else {
            0
        };
        if clean_ticks == TRIM_TICKS {
            shared.buffer.trim();
            shared.packs.trim();
        }
        for volume in shared.open_volumes() {
            if volume.is_due() {
                shared.work.push(&volume);
            }
        }
        shared.forget_ailments();
        if !shared.waits(Part::Segments) {
            let made = shared.journal.prepare();
            shared.note(Part::Segments, made.map_err(Error::from));
        }
        shared.relieve_journal();
    }
}

impl Volume {
    /// Whether destaging should do something about it.
    pub(crate) fn is_due(&self) -> bool {
        if self.shared.waits(Part::Destage(self.id)) {
            return false;
        }
        let state = self.state.read();
        let age = state
            .dirty_since
            .map(|since| self.shared.env.clock.monotonic() - since);
        !state.frozen.is_empty()
            || state.head.cost() >= self.shared.destage_threshold()
            || age.is_some_and(|age| age >= self.shared.config.destage_after)
    }
}

impl Shared {
    /// Has everything that is dirty destaged, for writers who wait for it. Answers whether others do it.
    pub(crate) fn drain(&self) -> Result<bool, Error> {
        let inline = self.config.background == Background::Inline;
        if !inline {
            self.check_hope()?;
        }
        for volume in self.open_volumes() {
            if inline {
                while volume.destage_due(true)? {}
            } else if volume.is_due() {
                self.work.push(&volume);
            }
        }
        Ok(!inline)
    }

    /// While the journal is more than half full, destages whoever keeps its oldest segment.
    pub(crate) fn relieve_journal(&self) {
        // One step a generation: bounded, whatever others write meanwhile.
        for _ in 0..64 {
            let stats = self.journal.stats();
            if stats.used * 2 <= stats.capacity {
                return;
            }
            let Some((volume, generation)) = self.journal.oldest() else {
                return;
            };
            let Some(volume) = self.volumes.lock().get(&volume).cloned() else {
                return;
            };
            let part = Part::Destage(volume.id);
            if self.waits(part) {
                return;
            }
            let last = volume.state.write().freeze();
            let settled = volume.settle(last.min(generation));
            if !self.note(part, settled.map(|()| true)) {
                return;
            }
        }
    }
}
