//! Disk modes: keeping and discarding what machines wrote, on request and when they are powered off.

use super::{
    control::Daemon,
    convert,
    power::{Guest, Seen},
    upkeep::Stop,
};
use api_types::{
    Apart, ApiError, Decision, ErrorCode, EventKind, ModeControl, Power, PowerOff, Volume,
};
use catalog::VolumeRecord;
use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    thread::JoinHandle,
    time::Duration,
};
use types::{DiskMode, VolumeId};

type Result<T> = std::result::Result<T, ApiError>;

/// How often it is looked who has left.
const ROUND: Duration = Duration::from_millis(250);
/// A machine that has just ended is waited for so long: its departure is noticed a moment later.
const PATIENCE: Duration = Duration::from_secs(3);

/// Starts the thread; it ends soon after `stop` says so.
pub(crate) fn start(daemon: Arc<Daemon>, stop: Arc<Stop>) -> std::io::Result<JoinHandle<()>> {
    env::spawn("power", move || {
        while !stop.0.load(Relaxed) {
            let guests: Vec<(VolumeId, Guest)> = daemon.vhost.look();
            daemon.power.look(&guests);
            for id in daemon.power.due() {
                // Those who leave because the daemon ends are not powered off.
                if !stop.0.load(Relaxed) {
                    daemon.power_off_unasked(id);
                }
            }
            std::thread::sleep(ROUND);
        }
    })
}

impl Daemon {
    /// What of a volume is kept apart, for people.
    pub(crate) fn apart(&self, record: &VolumeRecord, connections: u64) -> Result<Option<Apart>> {
        let base = self.store.base(record).map_err(convert::api_error)?;
        let Some(base) = base else { return Ok(None) };
        let (seen, off_at) = self.power.of(record.id);
        let power = match seen {
            _ if connections > 0 => Power::On,
            Some(Seen::Left(_)) => Power::Leaving,
            Some(Seen::Off) => Power::Off,
            None => Power::Unknown,
        };
        let clock = &self.env.clock;
        let off_at = off_at.filter(|_| power == Power::Leaving);
        let off_at = off_at.map(|at| clock.now() + at.saturating_sub(clock.monotonic()));
        Ok(Some(Apart {
            base: base.snapshot.name.to_string(),
            since_ms: base.snapshot.created_ms,
            changed: base.changed,
            power,
            off_at_ms: off_at.map(|at| at.as_millis() as u64),
        }))
    }

    /// Gives a volume another mode.
    pub(crate) fn set_mode(&self, record: &VolumeRecord, mode: DiskMode) -> Result<VolumeRecord> {
        if mode != record.mode {
            self.refuse_in_use(&record.name, "given another mode")?;
        }
        let set = self.store.set_mode(&record.name, mode);
        set.map_err(convert::api_error)
    }

    pub(crate) fn clients(&self, record: &VolumeRecord) -> u64 {
        self.connections_of(&record.name) + self.vhost.guests(record.id)
    }

    fn commit(&self, record: &VolumeRecord) -> Result<VolumeRecord> {
        let kept = self.store.commit_changes(&record.name);
        self.note_removal();
        kept.map_err(convert::api_error)
    }

    /// Nobody has seen what is discarded after it was looked that nobody has it open.
    fn discard(&self, record: &VolumeRecord) -> Result<VolumeRecord> {
        let opens = self.store.opens(record.id);
        self.refuse_in_use(&record.name, "set back")?;
        let discarded = self.vhost.without_guest(record.id, || {
            let discarded = self.store.discard_changes(&record.name, opens);
            discarded.map_err(convert::api_error)
        });
        self.note_removal();
        discarded
    }

    /// Gives clients that are leaving so much time.
    pub(crate) fn wait_for_departure(&self, record: &VolumeRecord, patience: Duration) {
        self.wait_while(patience, || self.clients(record) > 0);
    }

    /// Waits as long as something is so, but no longer than `patience`.
    pub(crate) fn wait_while(&self, patience: Duration, is_so: impl Fn() -> bool) {
        let clock = &self.env.clock;
        let end = clock.monotonic() + patience;
        while is_so() && clock.monotonic() < end {
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Who used the volume has left for long enough.
    fn power_off_unasked(&self, id: VolumeId) {
        let record = self.store.catalog().volume(id).ok().flatten();
        let Some(record) = record.filter(|record| record.trashed.is_none()) else {
            return self.power.forget(id);
        };
        if self.clients(&record) > 0 {
            return;
        }
        let done = match record.mode {
            DiskMode::Nonpersistent => self.discard(&record).map(drop),
            DiskMode::Persistent | DiskMode::Undoable => Ok(()),
        };
        let message = match (done, record.mode) {
            (Ok(()), DiskMode::Persistent) => return self.power.off(id),
            (Ok(()), DiskMode::Undoable) => {
                "the last client has left: what was written waits for 'volume commit' or 'volume discard'"
            }
            (Ok(()), DiskMode::Nonpersistent) => {
                "the last client has left: what was written is discarded"
            }
            // Somebody has come.
            (Err(e), _) if e.code == ErrorCode::InUse => return,
            (Err(error), _) => {
                tracing::error!(volume = %record.name, %error, "what was written cannot be discarded");
                return self.power.postpone(id);
            }
        };
        self.power.off(id);
        tracing::info!(volume = %record.name, "{message}");
        self.publish(
            EventKind::VolumePoweredOff,
            record.name.to_string(),
            message,
        );
    }
}

impl ModeControl for Daemon {
    fn commit_volume(&self, name: &str) -> Result<Volume> {
        let record = self.find(name)?;
        self.describe(self.commit(&record)?)
    }

    fn discard_volume(&self, name: &str) -> Result<Volume> {
        let record = self.find(name)?;
        self.describe(self.discard(&record)?)
    }

    fn power_off(&self, name: &str, request: &PowerOff) -> Result<Volume> {
        let record = self.find(name)?;
        let decision = decided(&record, request.decision)?;
        self.wait_for_departure(&record, PATIENCE);
        self.refuse_in_use(&record.name, "powered off")?;
        let done = match decision {
            Decision::Commit => self.commit(&record)?,
            Decision::Discard => self.discard(&record)?,
            Decision::Keep => record,
        };
        self.power.off(done.id);
        self.describe(done)
    }
}

/// What becomes of what was written.
fn decided(record: &VolumeRecord, asked: Option<Decision>) -> Result<Decision> {
    let refused = |why: &str| {
        let message = format!("'{}' is {}: {why}", record.name, record.mode);
        ApiError::new(ErrorCode::Refused, message)
    };
    match (record.mode, asked) {
        (DiskMode::Persistent, Some(Decision::Commit | Decision::Discard)) => Err(refused(
            "what was written to it stays, there is nothing to decide",
        )),
        (DiskMode::Persistent, _) => Ok(Decision::Keep),
        (DiskMode::Nonpersistent, None | Some(Decision::Discard)) => Ok(Decision::Discard),
        (DiskMode::Nonpersistent, Some(_)) => {
            let error = refused("what was written to it vanishes");
            Err(error.hint("keep it with 'holdfast volume commit' before"))
        }
        (DiskMode::Undoable, asked) => Ok(asked.unwrap_or(Decision::Keep)),
    }
}
