//! Who fills volumes that are imported while they are used: one thread, a part of each in turn.
//!
//! It steps back while guests are at work: a piece of the image, then as long nothing. What fails is tried again; meanwhile the volume is
//! read from its image, or that is what fails.

use super::{control::Daemon, convert, upkeep::Stop};
use api_types::{ApiError, EventKind, Importing};
use catalog::VolumeRecord;
use parking_lot::{Condvar, Mutex};
use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering::Relaxed},
    thread::JoinHandle,
    time::Duration,
};
use types::{Cancelled, Progress, VolumeId};
use volume::{ErrorKind, Filled, ImageSource};

/// Bytes of data of one turn, at most: the catalog has a commit for each.
const TURN: u64 = 64 << 20;
/// Nor does a turn take longer than this at the rate that was asked for, seconds.
const TURN_S: u64 = 2;
/// Progress is told of at least so often, bytes of data.
const PIECE: u64 = 4 << 20;
/// What failed is tried again after so long.
const RETRY: Duration = Duration::from_secs(5);
/// Nobody waits longer than this for the thread to notice something.
const TICK: Duration = Duration::from_millis(100);
/// How much of a rate the last turn is.
const RECENT: f64 = 0.3;

/// Volumes that are filled.
pub(crate) struct Fills {
    /// Bytes in a second, at most.
    rate: Option<u64>,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// There may be others than are known.
    look: bool,
    filling: BTreeMap<VolumeId, Filling>,
}

/// How it goes with one.
#[derive(Clone, Default)]
struct Filling {
    /// Bytes in a second, lately.
    rate: f64,
    error: Option<String>,
    /// Not before.
    retry: Duration,
    paused: bool,
}

impl Fills {
    /// Of so many bytes in a second, at most.
    pub(crate) fn new(rate: Option<u64>) -> Self {
        Fills {
            rate: rate.map(|rate| rate.max(1)),
            state: Mutex::default(),
            changed: Condvar::new(),
        }
    }

    /// Volumes that are imported may have been made, or have come back.
    pub(crate) fn look(&self) {
        self.state.lock().look = true;
        self.changed.notify_all();
    }

    /// How far a volume is.
    pub(crate) fn describe(&self, id: VolumeId, source: &ImageSource) -> Importing {
        let filling = self.state.lock().filling.get(&id).cloned();
        let filling = filling.unwrap_or_default();
        let left = source.size.saturating_sub(source.filled);
        Importing {
            path: source.path.clone(),
            format: source.format.unwrap_or(types::ImageFormat::Raw),
            done: source.filled,
            total: source.size,
            saved: source.filled.saturating_sub(source.stored),
            rate: filling.rate as u64,
            left_s: (filling.rate >= 1.0).then(|| (left as f64 / filling.rate) as u64),
            paused: source.paused,
            error: filling.error,
        }
    }

    /// A volume's import was paused, or is to go on.
    pub(crate) fn pause(&self, id: VolumeId, paused: bool) {
        let filling = Filling {
            paused,
            ..Filling::default()
        };
        self.state.lock().filling.insert(id, filling);
        self.changed.notify_all();
    }

    /// A volume was removed.
    pub(crate) fn forget(&self, id: VolumeId) {
        self.state.lock().filling.remove(&id);
    }

    /// Whether a volume is one to be filled now.
    fn is_wanted(&self, id: VolumeId) -> bool {
        let state = self.state.lock();
        state.filling.get(&id).is_some_and(|f| !f.paused)
    }

    /// Notes how it goes with a volume that is still to be filled now.
    fn note<T>(&self, id: VolumeId, how: impl FnOnce(&mut Filling) -> T) -> Option<T> {
        let mut state = self.state.lock();
        let filling = state.filling.get_mut(&id).filter(|f| !f.paused);
        filling.map(how)
    }
}

/// Starts the thread; it ends soon after `stop` says so.
pub(crate) fn start(daemon: Arc<Daemon>, stop: Arc<Stop>) -> std::io::Result<JoinHandle<()>> {
    daemon.fills.look();
    env::spawn("fill", move || {
        while !stop.0.load(Relaxed) {
            if std::mem::take(&mut daemon.fills.state.lock().look) {
                daemon.find_filling();
            }
            let due = daemon.due();
            for &id in &due {
                daemon.fill(id, &stop);
            }
            let mut state = daemon.fills.state.lock();
            if due.is_empty() && !state.look {
                daemon.fills.changed.wait_for(&mut state, TICK);
            }
        }
    })
}

fn is_filling(record: &VolumeRecord) -> bool {
    record.source.is_some() && record.trashed.is_none()
}

impl Daemon {
    fn find_filling(&self) {
        let Ok(records) = self.records() else {
            // The catalog has failed: a restart looks again.
            return;
        };
        let mut state = self.fills.state.lock();
        for record in records.iter().filter(|record| is_filling(record)) {
            let paused = record.source.as_ref().is_some_and(|source| source.paused);
            let filling = Filling {
                paused,
                ..Filling::default()
            };
            state.filling.entry(record.id).or_insert(filling);
        }
    }

    /// Volumes that are imported, by name.
    pub(crate) fn importing(&self) -> Vec<(String, Importing)> {
        let filling: Vec<VolumeId> = self.fills.state.lock().filling.keys().copied().collect();
        let record = |id| self.store.catalog().volume(id).ok().flatten();
        let records = filling.into_iter().filter_map(record);
        records
            .filter(is_filling)
            .filter_map(|record| {
                let source = record.source.as_deref()?;
                let importing = self.fills.describe(record.id, source);
                Some((record.name.to_string(), importing))
            })
            .collect()
    }

    /// Has the import of a volume wait, or go on.
    pub(crate) fn pause_fill(&self, name: &str, paused: bool) -> Result<VolumeRecord, ApiError> {
        let record = self.store.pause_import(&convert::name(name)?, paused);
        let record = record.map_err(convert::api_error)?;
        self.fills.pause(record.id, paused);
        Ok(record)
    }

    fn due(&self) -> Vec<VolumeId> {
        let now = self.env.clock.monotonic();
        let state = self.fills.state.lock();
        let due = state.filling.iter();
        let due = due.filter(|(_, f)| f.retry <= now && !f.paused);
        due.map(|(&id, _)| id).collect()
    }

    /// One turn of one volume.
    fn fill(&self, id: VolumeId, stop: &Stop) {
        let record = self.store.catalog().volume(id);
        let Ok(Some(record)) = record.map(|found| found.filter(is_filling)) else {
            self.fills.state.lock().filling.remove(&id);
            return;
        };
        let before = record.source.as_ref().map_or(0, |source| source.filled);
        let began = self.env.clock.monotonic();
        let pace = Pace {
            daemon: self,
            id,
            stop,
            last: Mutex::new(Last {
                at: began,
                done: before,
                requests: self.requests(),
            }),
        };
        let rate = self.fills.rate;
        let turn = rate.map_or(TURN, |rate| TURN.min(rate.saturating_mul(TURN_S)));
        match self.store.fill(id, turn, &pace) {
            Ok(filled) => self.filled(&record, filled, before, began),
            Err(e) if e.kind() == ErrorKind::Cancelled => {}
            // It was removed meanwhile; or the store is closing.
            Err(e) if matches!(e.kind(), ErrorKind::Closed | ErrorKind::NotFound) => {
                self.put_off(&record, None);
            }
            Err(e) => self.put_off(&record, Some(convert::api_error(e).message)),
        }
    }

    fn filled(&self, record: &VolumeRecord, filled: Filled, before: u64, began: Duration) {
        let took = self.env.clock.monotonic() - began;
        let rate = filled.done.saturating_sub(before) as f64 / took.as_secs_f64().max(1e-3);
        let recovered = self.fills.note(record.id, |filling| {
            filling.rate = match filling.rate {
                0.0 => rate,
                old => old * (1.0 - RECENT) + rate * RECENT,
            };
            filling.error.take().is_some()
        });
        if recovered == Some(true) {
            self.publish(
                EventKind::Health,
                record.name.to_string(),
                "its import goes on",
            );
            // It may not have been served without its image.
            self.vhost.follow(record.id);
        }
        if filled.is_finished() {
            self.fills.forget(record.id);
            let message = "its import is done: the image is not needed any more";
            self.publish(EventKind::VolumeUpdated, record.name.to_string(), message);
        }
    }

    /// Not now; and why, if it is to be told.
    fn put_off(&self, record: &VolumeRecord, error: Option<String>) {
        let retry = self.env.clock.monotonic() + RETRY;
        let new = self.fills.note(record.id, |filling| {
            filling.retry = retry;
            filling.rate = 0.0;
            let new = error.clone().filter(|_| filling.error != error);
            filling.error = error;
            new
        });
        if let Some(error) = new.flatten() {
            tracing::error!(volume = %record.name, %error, "the import does not go on");
            let message = format!("its import does not go on: {error}");
            self.publish(EventKind::Health, record.name.to_string(), &message);
        }
    }

    /// How many requests guests have had answered.
    fn requests(&self) -> u64 {
        let nbd = self.nbd.stats();
        nbd.reads + nbd.writes + nbd.flushes + self.vhost.figures().stats.requests()
    }
}

/// Keeps to the rate, and takes no more than half of the time while guests are at work.
struct Pace<'a> {
    daemon: &'a Daemon,
    id: VolumeId,
    stop: &'a Stop,
    last: Mutex<Last>,
}

/// How it was when it was last told of progress.
struct Last {
    at: Duration,
    done: u64,
    requests: u64,
}

impl Pace<'_> {
    /// The daemon ends, or the volume is not to be filled any more.
    fn check(&self) -> Result<(), Cancelled> {
        self.stop.report(0, 0)?;
        match self.daemon.fills.is_wanted(self.id) {
            true => Ok(()),
            false => Err(Cancelled),
        }
    }
}

impl Progress for Pace<'_> {
    fn report(&self, done: u64, _: u64) -> Result<(), Cancelled> {
        let clock = &self.daemon.env.clock;
        let mut last = self.last.lock();
        let requests = self.daemon.requests();
        let took = clock.monotonic() - last.at;
        let mut pause = match requests == last.requests {
            true => Duration::ZERO,
            false => took.min(TICK),
        };
        if let Some(rate) = self.daemon.fills.rate {
            // What is more than that are zeroes, which were not read.
            let bytes = done.saturating_sub(last.done).min(PIECE);
            let due = Duration::from_secs_f64(bytes as f64 / rate as f64);
            pause = pause.max(due.saturating_sub(took));
        }
        while !pause.is_zero() {
            self.check()?;
            let slice = pause.min(TICK);
            std::thread::sleep(slice);
            pause -= slice;
        }
        *last = Last {
            at: clock.monotonic(),
            done,
            requests,
        };
        self.check()
    }

    fn stored(&self, _: u64) {}
}
