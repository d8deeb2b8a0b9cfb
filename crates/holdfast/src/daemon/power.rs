//! Which machines are powered off.
//!
//! ```text
//!            who wrote leaves by itself         the grace time passes
//!  unknown ──────────────────────────▶ leaving ──────────────────────▶ off
//!     ▲  ▲                               │ ▲                            │
//!     │  └──── a client is cut off ──────┘ └── who wrote leaves ────────┘
//!  the daemon starts
//! ```
//! A daemon sees clients come and leave, and no machine. Taking a machine that runs for one that is powered off would give
//! its disk another content under its eyes, so that only a client counts that wrote and then left by itself, followed by a
//! time without any. One that lost the daemon may come again at any time: QEMU does so with the next request that it
//! has. And of the machines of a host that was started anew none runs.

use block::Departure;
use env::{Clock, Env};
use parking_lot::Mutex;
use std::{collections::BTreeMap, path::Path, sync::Arc, time::Duration};
use types::{DiskMode, VolumeId};
use volume::Store;

/// Where the store notes under which start of the host it was served.
const NOTE: &str = "boot-id";
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// What is known of the machines.
pub(crate) struct Power {
    clock: Arc<dyn Clock>,
    /// Who left may come again for so long; none: nobody is powered off but on request.
    grace: Option<Duration>,
    seen: Mutex<BTreeMap<VolumeId, Seen>>,
    guests: Mutex<BTreeMap<VolumeId, Guest>>,
}

/// What was seen of a volume's machine last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    /// Who wrote has left, at this time of the monotonic clock.
    Left(Duration),
    /// It was powered off.
    Off,
}

/// A look at a volume's guest over vhost-user-blk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Guest {
    /// Since when it is there; none: it is not.
    pub(crate) since: Option<Duration>,
    /// Guests that have come, this one included.
    pub(crate) came: u64,
    /// Requests that changed something, of this guest and of those before it.
    pub(crate) writes: u64,
    /// Of those before it.
    pub(crate) writes_before: u64,
}

impl Power {
    pub(crate) fn new(clock: Arc<dyn Clock>, grace: Option<Duration>) -> Self {
        Power {
            clock,
            grace,
            seen: Mutex::default(),
            guests: Mutex::default(),
        }
    }

    /// What was seen of a volume's machine, and when it counts as powered off if nobody comes; time of the monotonic clock.
    pub(crate) fn of(&self, id: VolumeId) -> (Option<Seen>, Option<Duration>) {
        let seen = self.seen.lock().get(&id).copied();
        let off_at = match (seen, self.grace) {
            (Some(Seen::Left(at)), Some(grace)) => Some(at + grace),
            _ => None,
        };
        (seen, off_at)
    }

    /// A client has left.
    pub(crate) fn left(&self, id: VolumeId, how: Departure) {
        let now = Seen::Left(self.clock.monotonic());
        let mut seen = self.seen.lock();
        if !how.by_itself {
            // It does not know why, and comes again.
            seen.remove(&id);
        } else if how.wrote || matches!(seen.get(&id), Some(Seen::Left(_))) {
            seen.insert(id, now);
        }
    }

    /// A machine is powered off.
    pub(crate) fn off(&self, id: VolumeId) {
        self.seen.lock().insert(id, Seen::Off);
    }

    /// A volume is gone.
    pub(crate) fn forget(&self, id: VolumeId) {
        self.seen.lock().remove(&id);
    }

    /// Looks again after the time that who left has.
    pub(crate) fn postpone(&self, id: VolumeId) {
        let now = self.clock.monotonic();
        self.seen.lock().insert(id, Seen::Left(now));
    }

    /// Volumes that nobody who left has come back to in time.
    pub(crate) fn due(&self) -> Vec<VolumeId> {
        let Some(grace) = self.grace else {
            return Vec::new();
        };
        let now = self.clock.monotonic();
        let due = |seen: &Seen| matches!(seen, Seen::Left(at) if *at + grace <= now);
        let seen = self.seen.lock();
        let due = seen.iter().filter(|(_, seen)| due(seen));
        due.map(|(id, _)| *id).collect()
    }

    /// Compares the guests that there are with those of the last look.
    pub(crate) fn look(&self, now: &[(VolumeId, Guest)]) {
        let mut guests = self.guests.lock();
        let mut before = std::mem::take(&mut *guests);
        for &(id, mut guest) in now {
            let mut old = before.remove(&id).unwrap_or_default();
            // Another server counts anew.
            let other = guest.came < old.came || guest.writes < old.writes;
            if other && old.since.is_some() {
                self.left(id, CUT_OFF);
            }
            if other {
                old = Guest::default();
            }
            let same = guest.since == old.since && guest.came == old.came;
            // Perhaps one that came and left between two looks.
            if !same && (old.since.is_some() || guest.since.is_none()) {
                let how = Departure {
                    by_itself: true,
                    wrote: guest.writes > old.writes_before,
                };
                self.left(id, how);
            }
            guest.writes_before = match guest.since {
                Some(_) if same => old.writes_before,
                Some(_) => old.writes,
                None => guest.writes,
            };
            guests.insert(id, guest);
        }
        for (id, _) in before.into_iter().filter(|(_, old)| old.since.is_some()) {
            self.left(id, CUT_OFF);
        }
    }
}

/// Not the guest's own doing.
const CUT_OFF: Departure = Departure {
    by_itself: false,
    wrote: false,
};

/// Powers off all machines if the host was started anew since the store was served. To be called before anybody is served: who dies
/// here does it again.
pub(crate) fn after_host(env: &Env, store: &Store, power: &Power) {
    let now = match std::fs::read_to_string(BOOT_ID) {
        Ok(now) => now,
        Err(error) => {
            tracing::warn!(%error, "cannot tell whether the host was started anew");
            return;
        }
    };
    let path = store.dir().join(NOTE);
    match read(env, &path) {
        Some(before) if before == now => return,
        Some(_) => discard_all(store, power),
        // Nobody knows.
        None => {}
    }
    if let Err(error) = env.files.write_atomic(&path, now.as_bytes()) {
        tracing::error!(%error, "cannot note under which start of the host the store is served");
    }
}

fn read(env: &Env, path: &Path) -> Option<String> {
    let bytes = env.files.read_all(path).ok()?;
    String::from_utf8(bytes).ok()
}

fn discard_all(store: &Store, power: &Power) {
    let volumes = store.catalog().volumes().unwrap_or_else(|e| {
        tracing::error!(error = ?e, "cannot tell which volumes are nonpersistent");
        Vec::new()
    });
    let live = volumes.into_iter().filter(|v| v.trashed.is_none());
    for volume in live.filter(|v| v.mode != DiskMode::Persistent) {
        power.off(volume.id);
        if volume.mode != DiskMode::Nonpersistent {
            continue;
        }
        match store.discard_changes(&volume.name, store.opens(volume.id)) {
            Ok(_) => {
                tracing::info!(volume = %volume.name, "the host was started anew: what was written is discarded");
            }
            Err(e) => {
                tracing::error!(volume = %volume.name, error = ?e, "what was written cannot be discarded");
            }
        }
    }
}

#[cfg(test)]
mod tests;
