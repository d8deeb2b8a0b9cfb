//! Long work: a bounded number at once, each on a thread of its own, each with a place in a bounded table.
//!
//! ```text
//!  begin ─▶ running ─┬─ work returns ───────────▶ done
//!                    ├─ work fails or panics ───▶ failed
//!                    └─ cancel, then work fails ▶ cancelled
//! ```

use crate::events::Events;
use api_types::{ApiError, ErrorCode, EventKind, Job, JobKind, JobState};
use parking_lot::Mutex;
use serde_json::Value;
use std::{
    collections::BTreeMap,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use types::{Cancel, Cancelled, Progress, size::format_size};

/// Jobs at work at once; more are turned away.
const RUNNING_MAX: usize = 8;
/// Ended jobs that are remembered.
const ENDED_KEPT: usize = 200;
/// Those who watch a job are woken for progress at most this often.
const NOTICE_INTERVAL_MS: u64 = 100;
/// More than can be stored.
const NOT_TOLD: u64 = u64::MAX;

/// The table of jobs. Clones are handles to the same one.
#[derive(Clone)]
pub struct Jobs(Arc<Inner>);

struct Inner {
    events: Events,
    table: Mutex<Table>,
    running: watch::Sender<usize>,
    closing: CancellationToken,
}

#[derive(Default)]
struct Table {
    newest: u64,
    entries: BTreeMap<u64, Arc<Entry>>,
}

/// One job. It is what its work reports to.
pub(crate) struct Entry {
    id: u64,
    kind: JobKind,
    subject: String,
    started_ms: u64,
    done: AtomicU64,
    total: AtomicU64,
    /// Bytes stored; [`NOT_TOLD`] until somebody says so.
    stored: AtomicU64,
    noticed_ms: AtomicU64,
    events: Events,
    cancel: CancellationToken,
    end: Mutex<Option<End>>,
    changed: watch::Sender<()>,
}

struct End {
    state: JobState,
    at_ms: u64,
    outcome: Result<Value, ApiError>,
}

impl Jobs {
    /// An empty table, whose jobs tell `events` of their begin and end.
    #[must_use]
    pub fn new(events: Events) -> Self {
        Jobs(Arc::new(Inner {
            events,
            table: Mutex::default(),
            running: watch::Sender::new(0),
            closing: CancellationToken::new(),
        }))
    }

    /// Begins a job. `work` runs on a thread of its own; what it returns is the job's result.
    pub(crate) fn begin(
        &self,
        kind: JobKind,
        subject: &str,
        work: impl FnOnce(&Entry) -> Result<Value, ApiError> + Send + 'static,
    ) -> Result<Arc<Entry>, ApiError> {
        let entry = self.admit(kind, subject)?;
        let jobs = self.clone();
        let held = Arc::clone(&entry);
        let body = move || {
            if matches!(kind, JobKind::Collect | JobKind::Check) {
                env::give_way();
            }
            let outcome = catch_unwind(AssertUnwindSafe(|| work(&held))).unwrap_or_else(|_| {
                let error = ApiError::new(ErrorCode::Internal, "the job panicked");
                Err(error.hint("look in the daemon's log"))
            });
            jobs.finish(&held, outcome);
        };
        if let Err(e) = env::spawn(&format!("job-{}", entry.id), body) {
            let error = ApiError::new(ErrorCode::Unavailable, format!("no thread for a job: {e}"));
            self.finish(&entry, Err(error.clone()));
            return Err(error);
        }
        Ok(entry)
    }

    fn admit(&self, kind: JobKind, subject: &str) -> Result<Arc<Entry>, ApiError> {
        let mut table = self.0.table.lock();
        let refuse = |message: String, hint: &str| {
            Err(ApiError::new(ErrorCode::Unavailable, message).hint(hint))
        };
        if self.0.closing.is_cancelled() {
            return refuse("the daemon is ending".into(), "try again when it is back");
        }
        if *self.0.running.borrow() >= RUNNING_MAX {
            return refuse(
                format!("{RUNNING_MAX} jobs are running, which is as many as may"),
                "wait for one to end, or cancel one: holdfast job ls",
            );
        }
        table.newest += 1;
        let entry = Arc::new(Entry {
            id: table.newest,
            kind,
            subject: subject.to_owned(),
            started_ms: self.0.events.now_ms(),
            done: AtomicU64::new(0),
            total: AtomicU64::new(0),
            stored: AtomicU64::new(NOT_TOLD),
            noticed_ms: AtomicU64::new(0),
            events: self.0.events.clone(),
            cancel: self.0.closing.child_token(),
            end: Mutex::new(None),
            changed: watch::Sender::new(()),
        });
        table.entries.insert(entry.id, Arc::clone(&entry));
        self.0.running.send_modify(|running| *running += 1);
        drop(table);
        let message = format!("{} of {subject} began", entry.verb());
        self.0
            .events
            .publish(EventKind::JobStarted, entry.id.to_string(), message);
        Ok(entry)
    }

    fn finish(&self, entry: &Entry, outcome: Result<Value, ApiError>) {
        let state = entry.end_with(outcome, self.0.events.now_ms());
        self.0.events.publish(
            EventKind::JobEnded,
            entry.id.to_string(),
            entry.last_words(state),
        );
        let mut table = self.0.table.lock();
        self.0.running.send_modify(|running| *running -= 1);
        let ended = table.entries.values().filter(|e| e.end.lock().is_some());
        let surplus = ended.count().saturating_sub(ENDED_KEPT);
        for _ in 0..surplus {
            let oldest = table.entries.values().find(|e| e.end.lock().is_some());
            if let Some(id) = oldest.map(|e| e.id) {
                table.entries.remove(&id);
            }
        }
    }

    /// All jobs that are remembered, oldest first.
    pub(crate) fn list(&self) -> Vec<Job> {
        let table = self.0.table.lock();
        table.entries.values().map(|entry| entry.job()).collect()
    }

    /// One job.
    pub(crate) fn get(&self, id: u64) -> Result<Arc<Entry>, ApiError> {
        let found = self.0.table.lock().entries.get(&id).cloned();
        found.ok_or_else(|| {
            ApiError::new(ErrorCode::NotFound, format!("there is no job {id}"))
                .hint("list them: holdfast job ls")
        })
    }

    /// Asks every job to stop, and refuses new ones.
    pub(crate) fn close(&self) {
        // Under the lock, so that no job is admitted afterwards.
        let _table = self.0.table.lock();
        self.0.closing.cancel();
    }

    /// Waits until no job runs.
    pub(crate) async fn idle(&self) {
        let mut running = self.0.running.subscribe();
        // The sender lives in `self`, so this cannot fail.
        let _ = running.wait_for(|&running| running == 0).await;
    }
}

impl Entry {
    /// Its number.
    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    /// How it is now.
    pub(crate) fn job(&self) -> Job {
        let end = self.end.lock();
        let end = end.as_ref();
        Job {
            id: self.id,
            kind: self.kind,
            subject: self.subject.clone(),
            state: end.map_or(JobState::Running, |end| end.state),
            done: self.done.load(Ordering::Relaxed),
            total: self.total.load(Ordering::Relaxed),
            saved: self.saved(),
            started_ms: self.started_ms,
            ended_ms: end.map(|end| end.at_ms),
            error: end.and_then(|end| end.outcome.as_ref().err().cloned()),
            result: end
                .and_then(|end| end.outcome.as_ref().ok())
                .filter(|value| !value.is_null())
                .cloned(),
        }
    }

    /// Of what is finished the bytes that took no storage, if that is known.
    pub(crate) fn saved(&self) -> Option<u64> {
        let stored = self.stored.load(Ordering::Relaxed);
        let done = self.done.load(Ordering::Relaxed);
        (stored != NOT_TOLD).then(|| done.saturating_sub(stored))
    }

    /// Asks it to stop; it does when it next reports.
    ///
    /// # Errors
    /// `Conflict` if it has ended.
    pub(crate) fn cancel(&self) -> Result<(), ApiError> {
        if self.end.lock().is_some() {
            let message = format!("job {} has ended", self.id);
            return Err(ApiError::new(ErrorCode::Conflict, message));
        }
        self.cancel.cancel();
        Ok(())
    }

    /// Is set when the job shall stop.
    pub(crate) fn cancelled(&self) -> &CancellationToken {
        &self.cancel
    }

    /// Changes with progress, now and then, and at the end.
    pub(crate) fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// Waits for its end; returns what came of it.
    pub(crate) async fn outcome(&self) -> Result<Value, ApiError> {
        let mut changes = self.changes();
        loop {
            if let Some(end) = &*self.end.lock() {
                return end.outcome.clone();
            }
            // The sender lives in `self`, so this cannot fail.
            let _ = changes.changed().await;
        }
    }

    fn end_with(&self, outcome: Result<Value, ApiError>, at_ms: u64) -> JobState {
        // Whatever an interrupted job says about why, the reason is that somebody wanted it so.
        let (state, outcome) = match outcome {
            Ok(value) => (JobState::Done, Ok(value)),
            Err(e) if e.code == ErrorCode::Cancelled || self.cancel.is_cancelled() => {
                (JobState::Cancelled, Err(Cancelled.into()))
            }
            Err(e) => (JobState::Failed, Err(e)),
        };
        *self.end.lock() = Some(End {
            state,
            at_ms,
            outcome,
        });
        self.changed.send_replace(());
        state
    }

    fn verb(&self) -> &'static str {
        match self.kind {
            JobKind::Import => "import",
            JobKind::Export => "export",
            JobKind::Collect => "collection",
            JobKind::Check => "check",
            JobKind::Scrub => "scrub",
            JobKind::Convert => "conversion",
        }
    }

    fn last_words(&self, state: JobState) -> String {
        let (verb, subject) = (self.verb(), &self.subject);
        match (state, &*self.end.lock()) {
            (
                JobState::Failed,
                Some(End {
                    outcome: Err(e), ..
                }),
            ) => {
                format!("{verb} of {subject} failed: {e}")
            }
            (JobState::Cancelled, _) => format!("{verb} of {subject} was cancelled"),
            _ => match self.saved() {
                None => format!("{verb} of {subject} is done"),
                Some(saved) => format!(
                    "{verb} of {subject} is done: {} of {} saved",
                    format_size(saved),
                    format_size(self.done.load(Ordering::Relaxed))
                ),
            },
        }
    }
}

impl Progress for Entry {
    fn report(&self, done: u64, total: u64) -> Result<(), Cancelled> {
        self.done.store(done, Ordering::Relaxed);
        self.total.store(total, Ordering::Relaxed);
        let elapsed = self.events.clock().monotonic().as_millis();
        let now_ms = u64::try_from(elapsed).unwrap_or(u64::MAX);
        let noticed_ms = self.noticed_ms.load(Ordering::Relaxed);
        if now_ms >= noticed_ms + NOTICE_INTERVAL_MS || done == total {
            self.noticed_ms.store(now_ms, Ordering::Relaxed);
            self.changed.send_replace(());
        }
        if self.cancel.is_cancelled() {
            return Err(Cancelled);
        }
        Ok(())
    }

    fn stored(&self, bytes: u64) {
        self.stored.store(bytes, Ordering::Relaxed);
    }

    fn cancellation(&self) -> Cancel {
        let asked = self.cancel.clone();
        Cancel::new(move || asked.is_cancelled())
    }
}

#[cfg(test)]
mod tests;
