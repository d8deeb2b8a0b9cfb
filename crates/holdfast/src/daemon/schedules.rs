//! Who takes the snapshots that volumes' policies ask for, and removes those that have expired: one thread.
//!
//! What is due, what it is called and what is kept are functions of `schedule`; that a run is done is in the catalog, in one
//! commit with its snapshot. So there is nothing here that a restart could lose but what failed last, which is tried
//! again then as what was missed is.

mod round;

use super::{control::Daemon, upkeep::Stop};
use api_types::{ApiError, EventKind, SnapshotPolicy as Described};
use catalog::{SnapshotPolicy, VolumeRecord};
use env::Clock;
use jiff::tz::TimeZone;
use parking_lot::{Condvar, Mutex};
use schedule::{Keep, Pattern, Schedule, Turn};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, atomic::Ordering::Relaxed},
    thread::JoinHandle,
    time::Duration,
};
use types::{Name, NameError, VolumeId, VolumeRef};
use volume::Store;

/// Nobody waits longer than this for the thread to notice something.
const TICK: Duration = Duration::from_millis(100);
/// It looks at least so often: what could not be removed may be free now, and the time zone another one.
const ROUND_MS: u64 = 60_000;

/// What is known beside the catalog.
pub(crate) struct Schedules {
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// A policy was changed, or a volume has come back.
    look: bool,
    /// When something is due, milliseconds since the Unix epoch.
    next_ms: u64,
    /// The time of the last look, by which a clock that went back is told.
    seen_ms: u64,
    failing: BTreeMap<VolumeId, Failing>,
    /// Of these some that have expired may still be there.
    unpruned: BTreeSet<VolumeId>,
    figures: Figures,
}

/// How many, since the daemon started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Figures {
    pub(crate) taken: u64,
    pub(crate) removed: u64,
    /// Runs that made no snapshot, and removals that failed.
    pub(crate) failed: u64,
}

/// What went wrong last with a volume.
#[derive(Clone, Debug)]
struct Failing {
    error: String,
    at_ms: u64,
    /// Runs up to this moment were tried.
    done_ms: u64,
    /// A snapshot was not taken; or else one was not removed.
    taking: bool,
}

/// What a round works on.
pub(crate) struct Host<'a> {
    pub(crate) store: &'a Store,
    pub(crate) zone: TimeZone,
    /// Whether a snapshot has readers, or is served to such.
    pub(crate) in_use: &'a dyn Fn(&VolumeRef) -> bool,
    /// Is told what was done, and to what.
    pub(crate) tell: &'a dyn Fn(EventKind, String, String),
    pub(crate) stop: &'a Stop,
}

/// A policy whose texts were read.
struct Policy {
    schedule: Schedule,
    keep: Option<Keep>,
    pattern: Pattern,
}

impl Policy {
    fn read(policy: &SnapshotPolicy) -> Result<Self, String> {
        Ok(Policy {
            schedule: policy.schedule.parse()?,
            keep: unless_empty(&policy.keep).map(str::parse).transpose()?,
            pattern: pattern(policy)?,
        })
    }
}

fn unless_empty(text: &str) -> Option<&str> {
    Some(text).filter(|text| !text.is_empty())
}

fn pattern(policy: &SnapshotPolicy) -> Result<Pattern, String> {
    let pattern = unless_empty(&policy.pattern).map(str::parse);
    Ok(pattern.transpose()?.unwrap_or_default())
}

/// Checks a change of a policy.
pub(crate) fn read_change(
    change: &api_types::PolicyChange,
) -> Result<catalog::PolicyChange, ApiError> {
    let said = |text: &Option<String>| text.as_deref().and_then(unless_empty).map(str::to_owned);
    let check = || {
        let _: Option<Schedule> = said(&change.schedule).map(|s| s.parse()).transpose()?;
        let _: Option<Keep> = said(&change.keep).map(|s| s.parse()).transpose()?;
        let _: Option<Pattern> = said(&change.pattern).map(|s| s.parse()).transpose()?;
        let group: Option<Result<Name, NameError>> = said(&change.group).map(|s| s.parse());
        group.transpose().map_err(|e| e.to_string())?;
        Ok(())
    };
    check().map_err(|why: String| ApiError::new(api_types::ErrorCode::Invalid, why))?;
    Ok(catalog::PolicyChange {
        schedule: change.schedule.clone(),
        keep: change.keep.clone(),
        pattern: change.pattern.clone(),
        group: change.group.clone(),
    })
}

/// The policy of a volume that has a schedule and is not in the trash.
fn scheduled(record: &VolumeRecord) -> Option<&SnapshotPolicy> {
    let policy = record.policy.as_deref();
    policy.filter(|policy| !policy.schedule.is_empty() && record.trashed.is_none())
}

impl Schedules {
    pub(crate) fn new(clock: Arc<dyn Clock>) -> Self {
        Schedules {
            clock,
            state: Mutex::new(State {
                look: true,
                ..State::default()
            }),
            changed: Condvar::new(),
        }
    }

    /// A policy was changed, or a volume that may have one has come back.
    pub(crate) fn look(&self) {
        self.state.lock().look = true;
        self.changed.notify_all();
    }

    pub(crate) fn figures(&self) -> Figures {
        self.state.lock().figures
    }

    /// Whether the last thing that was tried with a volume has failed.
    pub(crate) fn is_failing(&self, id: VolumeId) -> bool {
        self.state.lock().failing.contains_key(&id)
    }

    /// A volume's policy for people.
    pub(crate) fn describe(&self, record: &VolumeRecord, zone: &TimeZone) -> Option<Described> {
        let policy = record.policy.as_deref()?;
        let failing = self.state.lock().failing.get(&record.id).cloned();
        let text = |text: &str| unless_empty(text).map(str::to_owned);
        let schedule: Option<Schedule> = policy.schedule.parse().ok();
        let done_ms = done(policy, failing.as_ref());
        let now_ms = self.now_ms();
        let next = schedule.and_then(|schedule| match schedule.turn(done_ms, now_ms, zone) {
            Turn::Wait(next) => Some(next),
            Turn::Run(_) => Some(now_ms),
            Turn::Back(from) => schedule.next(from, zone),
            Turn::Never => None,
        });
        Some(Described {
            schedule: text(&policy.schedule),
            keep: text(&policy.keep),
            pattern: pattern(policy).unwrap_or_default().to_string(),
            group: text(&policy.group),
            time_zone: zone.iana_name().unwrap_or("local").to_owned(),
            next_ms: next,
            last_ms: policy.last_ms,
            last_error: failing.as_ref().map(|failing| failing.error.clone()),
            failed_ms: failing.map(|failing| failing.at_ms),
        })
    }

    fn now_ms(&self) -> u64 {
        self.clock.now().as_millis() as u64
    }

    /// Whether a round is due.
    fn is_due(&self) -> bool {
        let now = self.now_ms();
        let state = self.state.lock();
        state.look || now >= state.next_ms || now < state.seen_ms
    }

    /// Something went wrong; that it still does is told once.
    fn failed(
        &self,
        host: &Host<'_>,
        record: &VolumeRecord,
        error: String,
        done_ms: u64,
        taking: bool,
    ) {
        let now = Failing {
            error: error.clone(),
            at_ms: self.now_ms(),
            done_ms,
            taking,
        };
        {
            let mut state = self.state.lock();
            let known = state.failing.get(&record.id);
            if known.is_some_and(|f| f.error == error && f.done_ms == done_ms) {
                return;
            }
            // That nothing can be removed is less than that nothing can be taken.
            if taking || known.is_none_or(|f| !f.taking) {
                state.failing.insert(record.id, now);
            }
            state.figures.failed += 1;
        }
        let what = match taking {
            true => "its scheduled snapshot was not taken",
            false => "what has expired of its scheduled snapshots cannot be removed",
        };
        tracing::error!(volume = %record.name, %error, "{what}");
        let message = format!("{what}: {error}");
        (host.tell)(EventKind::SnapshotFailed, record.name.to_string(), message);
    }
}

/// Runs of a policy are done up to this moment, well or not.
fn done(policy: &SnapshotPolicy, failing: Option<&Failing>) -> u64 {
    policy.done_ms.max(failing.map_or(0, |f| f.done_ms))
}

/// Starts the thread; it ends soon after `stop` says so.
pub(crate) fn start(daemon: Arc<Daemon>, stop: Arc<Stop>) -> std::io::Result<JoinHandle<()>> {
    env::spawn("schedule", move || {
        while !stop.0.load(Relaxed) {
            let schedules = &daemon.schedules;
            if schedules.is_due() {
                daemon.schedules.round(&Host {
                    store: &daemon.store,
                    zone: TimeZone::system(),
                    in_use: &|r| {
                        daemon.connections_of_snapshot(r) > 0 || daemon.vhost.device(r).is_some()
                    },
                    tell: &|kind, subject, message| {
                        if kind == EventKind::SnapshotRemoved {
                            daemon.note_removal();
                        }
                        daemon.publish(kind, subject, &message);
                    },
                    stop: &stop,
                });
            }
            let mut state = schedules.state.lock();
            if !state.look {
                schedules.changed.wait_for(&mut state, TICK);
            }
        }
    })
}

#[cfg(test)]
mod tests;
