//! What the daemon does unasked: emptying the trash in time, collecting, rebuilding the index, watching space.

use super::control::Daemon;
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::JoinHandle,
    time::Duration,
};
use types::{Cancelled, Progress};
use volume::SpaceLevel;

/// How often the trash, the garbage and the space are looked at.
const ROUND: Duration = Duration::from_secs(5);

/// Asked to end by the daemon's end.
pub(crate) struct Stop(pub(crate) AtomicBool);

impl Progress for Stop {
    fn report(&self, _done: u64, _total: u64) -> Result<(), Cancelled> {
        if self.0.load(Relaxed) {
            Err(Cancelled)
        } else {
            Ok(())
        }
    }
}

/// Starts the thread; it ends soon after `stop` says so.
pub(crate) fn start(daemon: Arc<Daemon>, stop: Arc<Stop>) -> std::io::Result<JoinHandle<()>> {
    env::spawn("upkeep", move || {
        if let Err(e) = daemon.store.packs().rebuild_index(&*stop) {
            tracing::warn!(error = ?e, "the deduplication index could not be rebuilt in full");
        }
        let mut level = SpaceLevel::Ample;
        while !stop.0.load(Relaxed) {
            round(&daemon, &stop, &mut level);
            let mut slept = Duration::ZERO;
            while slept < ROUND && !stop.0.load(Relaxed) {
                std::thread::sleep(Duration::from_millis(100));
                slept += Duration::from_millis(100);
            }
        }
    })
}

fn round(daemon: &Daemon, stop: &Stop, level: &mut SpaceLevel) {
    match daemon.store.purge_expired() {
        Ok(purged) => {
            for volume in purged {
                daemon.note_removal();
                let subject = volume.name.to_string();
                daemon.publish(
                    api_types::EventKind::VolumePurged,
                    subject,
                    "its time in the trash was over",
                );
            }
        }
        Err(e) => tracing::error!(error = ?e, "the trash could not be emptied"),
    }
    let pressure = daemon.store.stats().pressure;
    let now = pressure.level;
    if now != *level {
        let message = match now {
            SpaceLevel::Ample => "less than 70 % of the store's file system is taken",
            SpaceLevel::Filling => "70 % of the store's file system is taken",
            SpaceLevel::Scarce => {
                "85 % of the store's file system is taken: remove volumes or add space"
            }
            SpaceLevel::Full => {
                "the store's file system is full, or writers are about to be refused: remove volumes and collect, or add space"
            }
        };
        tracing::warn!(free = pressure.free, total = pressure.total, "{message}");
        daemon.publish(api_types::EventKind::Space, String::new(), message);
        *level = now;
    }
    if daemon.collection_is_due(now) {
        let request = api_types::CollectRequest::default();
        match daemon.collect_now(&request, stop) {
            Ok(report) => tracing::info!(freed = report.bytes_freed, "collected garbage"),
            Err(e) if e.code == api_types::ErrorCode::Cancelled => {}
            Err(e) => tracing::warn!(error = %e, "garbage collection failed"),
        }
    }
}
