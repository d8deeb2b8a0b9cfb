//! What a store suffers from: told when it begins and when it ends, and tried again ever less often meanwhile.

use crate::{
    error::{Error, ErrorKind},
    store::Shared,
};
use env::DiskHealth;
use std::{collections::BTreeMap, time::Duration};
use sync::Mutex;
use types::VolumeId;

/// What failed is tried again after so long, and after twice as long each time.
const RETRY_FIRST: Duration = Duration::from_millis(500);
/// Not less often than this.
const RETRY_MAX: Duration = Duration::from_secs(30);
/// Nor than this, if it waits for space: writers wait for it.
const RETRY_SPACE_MAX: Duration = Duration::from_secs(2);
/// Writers wait so long for a disk that refuses to destage before they are told.
const PATIENCE: Duration = Duration::from_secs(30);
/// Lines of failed requests that are logged in each [`LINES_EVERY`].
const LINES_MAX: u32 = 10;
const LINES_EVERY: Duration = Duration::from_secs(10);

/// What can fail in the background.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Part {
    /// Destaging a volume.
    Destage(VolumeId),
    /// Writing the journal. It does not recover.
    Journal,
    /// Making segments of the journal before they are needed.
    Segments,
}

/// How a store is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// What is wrong, a line each: what, why, what to do.
    pub problems: Vec<String>,
    /// What is known of the disks.
    pub disk: DiskHealth,
}

impl Health {
    /// Whether nothing is wrong.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.problems.is_empty()
    }
}

struct Ailment {
    since: Duration,
    kind: ErrorKind,
    message: String,
    delay: Duration,
    /// When it is tried again; zero once there is more space than it found.
    next: Duration,
    /// Bytes that were free when it failed.
    free: u64,
}

/// What fails now.
#[derive(Default)]
pub(crate) struct Ailments {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    sick: BTreeMap<Part, Ailment>,
    /// When a destage last did anything.
    drained: Duration,
    stalled: bool,
    /// Of failed requests: when the count began, lines since, and those of them that were not written.
    lines: (Duration, u32, u32),
}

impl Ailments {
    /// Whether `part` failed and is to be left alone for now.
    pub(crate) fn waits(&self, part: Part, now: Duration) -> bool {
        let state = self.state.lock();
        state.sick.get(&part).is_some_and(|sick| now < sick.next)
    }

    fn well(&self, part: Part, now: Duration, drained: bool) {
        let mut state = self.state.lock();
        if drained {
            state.drained = now;
        }
        if let Some(sick) = state.sick.remove(&part) {
            let after_s = (now.saturating_sub(sick.since)).as_secs();
            tracing::info!(?part, after_s, "works again");
        }
    }

    fn sick(&self, part: Part, now: Duration, error: &Error, free: u64) {
        let mut state = self.state.lock();
        let old = state.sick.get(&part);
        let message = part.message(error);
        // Each attempt has its own pack, and so its own words.
        if old.is_none_or(|old| old.kind != error.kind()) {
            tracing::error!(error = ?error, "{message}");
        }
        let max = if error.kind() == ErrorKind::NoSpace {
            RETRY_SPACE_MAX
        } else {
            RETRY_MAX
        };
        let delay = old.map_or(RETRY_FIRST, |old| old.delay * 2).min(max);
        let ailment = Ailment {
            since: old.map_or(now, |old| old.since),
            kind: error.kind(),
            message,
            delay,
            next: now + delay,
            free,
        };
        state.sick.insert(part, ailment);
    }

    /// So many bytes are free: what failed for want of space is tried at once if they were less then.
    pub(crate) fn space_is(&self, free: u64) {
        for sick in self.state.lock().sick.values_mut() {
            if sick.kind == ErrorKind::NoSpace && free > sick.free {
                sick.next = Duration::ZERO;
            }
        }
    }

    /// Why who waits for room in memory waits in vain, if so: nothing was destaged since destaging began to fail,
    /// for want of space, or for long, and no space came since.
    fn hopeless(&self, now: Duration) -> Option<Error> {
        let state = self.state.lock();
        let mut destaging = state.sick.iter().filter(|(part, sick)| {
            let lasts = now.saturating_sub(sick.since) >= PATIENCE;
            matches!(part, Part::Destage(_))
                && state.drained <= sick.since
                && !sick.next.is_zero()
                && (lasts || sick.kind == ErrorKind::NoSpace)
        });
        let (_, sick) = destaging.next()?;
        Some(Error::new(sick.kind, sick.message.clone()))
    }

    /// Whether a line about a failed request is to be written, and how many were not before it.
    fn may_log(&self, now: Duration) -> Option<u32> {
        let mut state = self.state.lock();
        let (began, count, left_out) = &mut state.lines;
        if now.saturating_sub(*began) >= LINES_EVERY {
            (*began, *count) = (now, 0);
        }
        *count += 1;
        if *count > LINES_MAX {
            *left_out += 1;
            return None;
        }
        Some(std::mem::take(left_out))
    }
}

impl Part {
    fn message(self, error: &Error) -> String {
        let advice = match error.kind() {
            ErrorKind::NoSpace => "remove volumes or snapshots and collect, or add space",
            ErrorKind::Damaged => "run 'holdfast check'",
            _ => "look at the disk (dmesg), then restart the daemon",
        };
        match self {
            Part::Destage(volume) => {
                format!("volume {volume} cannot be destaged: {error}; {advice}")
            }
            Part::Journal => {
                format!("{error}; flushes go straight into packs, which is slow: {advice}")
            }
            Part::Segments => format!("no segment of the journal can be made: {error}; {advice}"),
        }
    }
}

impl Shared {
    fn now(&self) -> Duration {
        self.env.clock.monotonic()
    }

    /// Whether `part` failed and is to be left alone for now.
    pub(crate) fn waits(&self, part: Part) -> bool {
        self.ailments.waits(part, self.now())
    }

    /// Notes how `part` went; answers whether it did anything.
    pub(crate) fn note(&self, part: Part, done: Result<bool, Error>) -> bool {
        match done {
            Ok(did) => {
                let drained = did && matches!(part, Part::Destage(_));
                self.ailments.well(part, self.now(), drained);
                did
            }
            Err(e) => {
                // A volume that was removed meanwhile has nothing to destage.
                if e.kind() != ErrorKind::Closed {
                    self.update_space();
                    let free = self.budget.space.free();
                    self.ailments.sick(part, self.now(), &e, free);
                }
                false
            }
        }
    }

    /// See [`Ailments::hopeless`].
    pub(crate) fn check_hope(&self) -> Result<(), Error> {
        self.ailments.hopeless(self.now()).map_or(Ok(()), Err)
    }

    /// See [`Ailments::may_log`].
    pub(crate) fn may_log(&self) -> Option<u32> {
        self.ailments.may_log(self.now())
    }

    /// Looks whether a disk stalls, and says so once.
    pub(crate) fn watch_disk(&self) {
        let stalled = self.watch.health().stalled;
        let mut state = self.ailments.state.lock();
        if stalled.is_some() != state.stalled {
            state.stalled = stalled.is_some();
            match stalled {
                Some((what, _)) => tracing::warn!("{}", stall(&what)),
                None => tracing::warn!("the disk goes on"),
            }
        }
    }

    pub(crate) fn health(&self) -> Health {
        let disk = self.watch.health();
        let stalled = disk.stalled.iter().map(|(what, _)| stall(what));
        let state = self.ailments.state.lock();
        let sick = state.sick.values().map(|sick| sick.message.clone());
        Health {
            problems: stalled.chain(sick).collect(),
            disk,
        }
    }

    /// Volumes that are not in use any more suffer from nothing.
    pub(crate) fn forget_ailments(&self) {
        let open: Vec<VolumeId> = self.volumes.lock().keys().copied().collect();
        let mut state = self.ailments.state.lock();
        state.sick.retain(|part, _| match part {
            Part::Destage(volume) => open.contains(volume),
            Part::Journal | Part::Segments => true,
        });
    }
}

fn stall(what: &str) -> String {
    format!("the disk stalls: {what} takes more than 5 s; look at the disk (dmesg)")
}

#[cfg(test)]
mod tests {
    use super::*;

    const DESTAGE: Part = Part::Destage(VolumeId(1));

    fn at(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn error(kind: ErrorKind) -> Error {
        Error::new(kind, "it fails")
    }

    #[test]
    fn what_fails_is_tried_ever_less_often() {
        let ailments = Ailments::default();
        let mut now = at(0);
        let mut waited = Vec::new();
        for _ in 0..9 {
            ailments.sick(DESTAGE, now, &error(ErrorKind::Io), 0);
            let began = now;
            while ailments.waits(DESTAGE, now) {
                now += at(500);
            }
            waited.push((now - began).as_millis());
        }
        assert_eq!(waited[..4], [500, 1000, 2000, 4000]);
        assert_eq!(waited[7..], [30_000, 30_000]);
        ailments.well(DESTAGE, now, true);
        assert!(!ailments.waits(DESTAGE, now));
        for _ in 0..9 {
            ailments.sick(DESTAGE, now, &error(ErrorKind::NoSpace), 0);
        }
        assert!(!ailments.waits(DESTAGE, now + RETRY_SPACE_MAX));
    }

    #[test]
    fn writers_wait_in_vain_for_space_at_once_and_for_a_disk_after_a_while() {
        let ailments = Ailments::default();
        ailments.well(DESTAGE, at(1), true);
        ailments.sick(DESTAGE, at(2), &error(ErrorKind::Io), 0);
        assert!(ailments.hopeless(at(3)).is_none());
        assert!(ailments.hopeless(at(2) + PATIENCE).is_some());
        // Another volume drains.
        ailments.well(Part::Destage(VolumeId(2)), at(3), true);
        assert!(ailments.hopeless(at(2) + PATIENCE).is_none());
        ailments.sick(
            Part::Destage(VolumeId(2)),
            at(4),
            &error(ErrorKind::NoSpace),
            0,
        );
        let hopeless = ailments.hopeless(at(5)).map(|e| e.kind());
        assert_eq!(hopeless, Some(ErrorKind::NoSpace));
    }

    #[test]
    fn who_waits_for_space_has_hope_again_when_some_came() {
        let ailments = Ailments::default();
        let fails = |now| ailments.sick(DESTAGE, now, &error(ErrorKind::NoSpace), 100);
        let is_hopeless = |now| ailments.hopeless(now).is_some();
        fails(at(1));
        ailments.space_is(100);
        assert!(is_hopeless(at(2)) && ailments.waits(DESTAGE, at(2)));
        ailments.space_is(101);
        assert!(!is_hopeless(at(2)) && !ailments.waits(DESTAGE, at(2)));
        // However long it was sick, until it was tried.
        assert!(!is_hopeless(at(2) + PATIENCE));
        fails(at(3));
        assert!(is_hopeless(at(4)) && ailments.waits(DESTAGE, at(4)));
    }

    #[test]
    fn failed_requests_do_not_flood_the_log() {
        let ailments = Ailments::default();
        let written = (0..1000).filter(|&ms| ailments.may_log(at(ms)).is_some());
        assert_eq!(written.count(), LINES_MAX as usize);
        assert_eq!(ailments.may_log(at(20_000)), Some(990));
    }
}
