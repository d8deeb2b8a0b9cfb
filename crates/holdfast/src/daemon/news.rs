//! Tells who listens when the store fills, fails or stalls, and when that is over.
//!
//! In a thread of its own that does no I/O: upkeep waits for the disk like everybody else.

use super::{control::Daemon, upkeep::Stop};
use api_types::EventKind;
use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    thread::JoinHandle,
    time::Duration,
};
use volume::SpaceLevel;

/// How often it looks.
const ROUND: Duration = Duration::from_millis(500);

/// What was told last.
struct Told {
    level: SpaceLevel,
    problems: Vec<String>,
}

/// Starts the thread; it ends soon after `stop` says so.
pub(crate) fn start(daemon: Arc<Daemon>, stop: Arc<Stop>) -> std::io::Result<JoinHandle<()>> {
    env::spawn("news", move || {
        let mut told = Told {
            level: SpaceLevel::Ample,
            problems: Vec::new(),
        };
        while !stop.0.load(Relaxed) {
            told.look(&daemon);
            std::thread::sleep(ROUND);
        }
    })
}

impl Told {
    fn look(&mut self, daemon: &Daemon) {
        let stats = daemon.store.stats();
        let pressure = stats.pressure;
        if pressure.level != self.level {
            self.level = pressure.level;
            let message = space(self.level);
            tracing::warn!(free = pressure.free, total = pressure.total, "{message}");
            daemon.publish(EventKind::Space, String::new(), message);
        }
        let problems = stats.health.problems;
        if problems != self.problems {
            // The log has been told where it happened.
            for new in problems.iter().filter(|new| !self.problems.contains(new)) {
                daemon.publish(EventKind::Health, String::new(), new);
            }
            if problems.is_empty() {
                daemon.publish(
                    EventKind::Health,
                    String::new(),
                    "the store is healthy again",
                );
            }
            self.problems = problems;
        }
    }
}

fn space(level: SpaceLevel) -> &'static str {
    match level {
        SpaceLevel::Ample => "less than 70 % of the store's file system is taken",
        SpaceLevel::Filling => "70 % of the store's file system is taken",
        SpaceLevel::Scarce => {
            "85 % of the store's file system is taken: remove volumes or add space"
        }
        SpaceLevel::Full => {
            "the store's file system is full, or writers are about to be refused: remove volumes and collect, or add space"
        }
    }
}
