//! What the daemon does unasked: emptying the trash in time, collecting, rebuilding the index, giving back memory.

use super::control::Daemon;
use crate::allocator;
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::JoinHandle,
    time::Duration,
};
use types::{Cancelled, Progress};

/// How often the trash, the garbage and what the allocator keeps are looked at.
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

    fn stored(&self, _: u64) {}
}

/// Starts the thread; it ends soon after `stop` says so.
pub(crate) fn start(daemon: Arc<Daemon>, stop: Arc<Stop>) -> std::io::Result<JoinHandle<()>> {
    env::spawn("upkeep", move || {
        env::give_way();
        if let Err(e) = daemon.store.packs().rebuild_index(&*stop) {
            tracing::warn!(error = ?e, "the deduplication index could not be rebuilt in full");
        }
        while !stop.0.load(Relaxed) {
            round(&daemon, &stop);
            allocator::give_back();
            let mut slept = Duration::ZERO;
            while slept < ROUND && !stop.0.load(Relaxed) {
                std::thread::sleep(Duration::from_millis(100));
                slept += Duration::from_millis(100);
            }
        }
    })
}

fn round(daemon: &Daemon, stop: &Stop) {
    match daemon.store.purge_expired() {
        Ok(purged) => {
            for volume in purged {
                // A removal that was cut off left it.
                if let Some(file) = volume.backend.file()
                    && let Err(e) = daemon.files.remove(file)
                {
                    tracing::warn!(volume = %volume.name, error = %e, "its file stays");
                }
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
    let now = daemon.store.stats().pressure.level;
    if daemon.collection_is_due(now) {
        let request = api_types::CollectRequest::default();
        match daemon.collect_now(&request, stop) {
            Ok(report) => tracing::info!(freed = report.bytes_freed, "collected garbage"),
            Err(e) if e.code == api_types::ErrorCode::Cancelled => {}
            Err(e) => tracing::warn!(error = %e, "garbage collection failed"),
        }
    }
}
