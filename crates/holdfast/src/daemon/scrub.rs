//! The scrub: one pack after the other, slowly, over as many starts of the daemon as it takes.
//!
//! Where it is, is kept in `scrub.toml` in the store, written every few seconds. What is lost of that is looked at
//! again, and a file that cannot be read begins a new round: it is nothing but a place in a list.

use super::{control::Daemon, upkeep::Stop};
use api_types::{ApiError, EventKind, ScrubStatus, Work};
use pack::LiveBits;
use parking_lot::{Condvar, Mutex};
use serde::{Deserialize, Serialize};
use std::{
    path::PathBuf,
    sync::{Arc, atomic::Ordering::Relaxed},
    thread::JoinHandle,
    time::Duration,
};
use types::{NoProgress, PackId, size::format_size};

/// Nobody waits longer than this for a scrub to notice something.
const TICK: Duration = Duration::from_millis(100);
/// The place is written down so often.
const SAVE_EVERY: Duration = Duration::from_secs(10);
/// Owners are looked for when so many damaged packs were found, or so long after the first of them.
const OWNERS_PACKS: usize = 16;
const OWNERS_AFTER: Duration = Duration::from_secs(60);

/// When and how fast.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settings {
    /// Bytes in a second, at most.
    pub(crate) rate: u64,
    /// From one round to the next; none by itself if `None`.
    pub(crate) every: Option<Duration>,
}

/// What outlives the daemon.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Round {
    started_ms: u64,
    finished_ms: u64,
    /// The last pack that was looked at.
    position: u64,
    packs: u64,
    bytes: u64,
    damaged: u64,
    /// It has not ended: it goes on when the daemon starts.
    under_way: bool,
}

#[derive(Default)]
struct State {
    round: Round,
    total: u64,
    running: bool,
    asked: bool,
    stop: bool,
    bytes_total: u64,
    damaged_total: u64,
}

/// The scrub of a store.
pub(crate) struct Scrub {
    env: env::Env,
    path: PathBuf,
    settings: Settings,
    /// Before the first round: when the store was made.
    made_ms: u64,
    state: Mutex<State>,
    changed: Condvar,
}

/// A pack to be told about.
type Found = (PackId, LiveBits, String);

impl Scrub {
    pub(crate) fn new(env: env::Env, store: &volume::Store, settings: Settings) -> Self {
        let path = store.dir().join("scrub.toml");
        let text = env.files.read_all(&path).unwrap_or_default();
        let round = std::str::from_utf8(&text).ok();
        let round: Option<Round> = round.and_then(|text| toml::from_str(text).ok());
        let state = State {
            round: round.unwrap_or_default(),
            ..State::default()
        };
        Scrub {
            env,
            path,
            settings,
            made_ms: store.manifest().created_ms,
            state: Mutex::new(state),
            changed: Condvar::new(),
        }
    }

    pub(crate) fn status(&self) -> ScrubStatus {
        let state = self.state.lock();
        let round = &state.round;
        let some = |ms: u64| Some(ms).filter(|ms| *ms != 0);
        ScrubStatus {
            running: state.running,
            rate: self.settings.rate,
            every_s: self.settings.every.map_or(0, |every| every.as_secs()),
            position: match round.position {
                0 => String::new(),
                position => PackId(position).to_string(),
            },
            packs_done: round.packs,
            packs_total: state.total.max(round.packs),
            bytes: round.bytes,
            damaged: round.damaged,
            started_ms: some(round.started_ms),
            finished_ms: some(round.finished_ms),
            bytes_total: state.bytes_total,
            damaged_total: state.damaged_total,
        }
    }

    /// Asks for a round and waits for its end.
    pub(crate) fn run(&self, work: Work<'_>) -> Result<ScrubStatus, ApiError> {
        {
            let mut state = self.state.lock();
            state.asked = !state.running;
            state.stop = false;
        }
        self.changed.notify_all();
        loop {
            let (waits, done, total) = {
                let mut state = self.state.lock();
                if state.asked || state.running {
                    self.changed.wait_for(&mut state, TICK);
                }
                (state.asked || state.running, state.round.packs, state.total)
            };
            work.report(done, total.max(done))?;
            if !waits {
                return Ok(self.status());
            }
        }
    }

    /// Stops the round that is under way.
    pub(crate) fn stop(&self) -> ScrubStatus {
        {
            let mut state = self.state.lock();
            (state.stop, state.asked) = (true, false);
            state.round.under_way = false;
            while state.running {
                self.changed.wait_for(&mut state, TICK);
            }
        }
        self.save();
        self.status()
    }

    fn save(&self) {
        let round = self.state.lock().round.clone();
        let text = toml::to_string(&round).unwrap_or_default();
        if let Err(e) = self.env.files.write_atomic(&self.path, text.as_bytes()) {
            tracing::warn!(error = %e, "the scrub's place could not be written down");
        }
    }

    /// Whether a round begins now; then it is under way.
    fn begins(&self) -> bool {
        let now = self.env.clock.now().as_millis() as u64;
        let mut state = self.state.lock();
        let round = &state.round;
        let last = round.started_ms.max(round.finished_ms).max(self.made_ms);
        let every = self.settings.every.map(|every| every.as_millis() as u64);
        let due = every.is_some_and(|every| now >= last.saturating_add(every));
        if !state.asked && !state.round.under_way && !due {
            return false;
        }
        (state.running, state.asked, state.stop) = (true, false, false);
        let round = &mut state.round;
        if round.position == 0 {
            *round = Round {
                started_ms: now,
                finished_ms: round.finished_ms,
                ..Round::default()
            };
        }
        round.under_way = true;
        true
    }

    fn must_stop(&self, stop: &Stop) -> bool {
        stop.0.load(Relaxed) || self.state.lock().stop
    }

    /// So long that what was read keeps to the rate.
    fn hold_back(&self, bytes: u64, stop: &Stop) {
        let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(self.settings.rate.max(1));
        let mut left = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        while !left.is_zero() && !self.must_stop(stop) {
            let slice = left.min(TICK);
            std::thread::sleep(slice);
            left -= slice;
        }
    }

    /// One pack more. Answers whether the place should be written down.
    fn advance(&self, pack: PackId, found: &gc::Scrubbed) {
        let mut state = self.state.lock();
        let damaged = u64::from(found.damaged.is_some());
        state.bytes_total += found.bytes;
        state.damaged_total += damaged;
        let round = &mut state.round;
        round.position = pack.0;
        round.packs += 1;
        round.bytes += found.bytes;
        round.damaged += damaged;
    }

    /// The round is over: at its end, or because somebody ended it.
    fn ended(&self, finished: bool) {
        {
            let mut state = self.state.lock();
            if finished {
                state.round.finished_ms = self.env.clock.now().as_millis() as u64;
                state.round.position = 0;
                state.round.under_way = false;
            }
        }
        self.save();
        self.state.lock().running = false;
        self.changed.notify_all();
    }
}

/// Starts the thread; it ends soon after `stop` says so.
pub(crate) fn start(daemon: Arc<Daemon>, stop: Arc<Stop>) -> std::io::Result<JoinHandle<()>> {
    env::spawn("scrub", move || {
        env::give_way();
        while !stop.0.load(Relaxed) {
            if daemon.scrub.begins() {
                let finished = round(&daemon, &stop);
                daemon.scrub.ended(finished);
            }
            let mut state = daemon.scrub.state.lock();
            daemon.scrub.changed.wait_for(&mut state, TICK);
        }
    })
}

/// Answers whether all packs were looked at.
fn round(daemon: &Daemon, stop: &Stop) -> bool {
    let (scrub, packs) = (&daemon.scrub, daemon.store.packs());
    let list = match packs.list() {
        Ok(list) => list,
        Err(e) => {
            tracing::error!(error = ?e, "the scrub could not list packs");
            return true;
        }
    };
    let position = {
        let mut state = scrub.state.lock();
        let done = list
            .iter()
            .filter(|stat| stat.pack.0 <= state.round.position);
        state.round.packs = done.count() as u64;
        state.total = list.len() as u64;
        state.round.position
    };
    let clock = &daemon.env.clock;
    let (mut saved, mut first_found) = (clock.monotonic(), None);
    let mut found: Vec<Found> = Vec::new();
    for stat in list.iter().filter(|stat| stat.pack.0 > position) {
        if scrub.must_stop(stop) {
            tell(daemon, &mut found);
            return false;
        }
        let scrubbed = match gc::scrub(packs, stat.pack) {
            Ok(scrubbed) => scrubbed,
            Err(e) => {
                tracing::warn!(pack = %stat.pack, error = ?e, "a pack could not be scrubbed");
                gc::Scrubbed::default()
            }
        };
        scrub.advance(stat.pack, &scrubbed);
        let (bytes, now) = (scrubbed.bytes, clock.monotonic());
        if let Some((blocks, why)) = scrubbed.damaged {
            found.push((stat.pack, blocks, why));
            first_found.get_or_insert(now);
        }
        let old = first_found.is_some_and(|first| now - first >= OWNERS_AFTER);
        if found.len() >= OWNERS_PACKS || old {
            tell(daemon, &mut found);
            first_found = None;
        }
        if now - saved >= SAVE_EVERY {
            scrub.save();
            saved = now;
        }
        scrub.hold_back(bytes, stop);
    }
    tell(daemon, &mut found);
    true
}

/// Says of damaged packs whose they are, in the log and as events.
fn tell(daemon: &Daemon, found: &mut Vec<Found>) {
    for (pack, blocks, why) in found.drain(..) {
        let bad = [(pack, blocks)];
        let owners = gc::owners_of(daemon.store.packs(), &*daemon.store, &bad, &NoProgress);
        let owners = match owners {
            Ok(owners) if owners.is_empty() => "nothing needs it".to_owned(),
            Ok(owners) => {
                let hit = |owner: &gc::Afflicted| {
                    format!("{} ({})", owner.owner, format_size(owner.bytes))
                };
                let all: Vec<String> = owners.iter().map(hit).collect();
                format!("it hits {}", all.join(", "))
            }
            Err(e) => format!("whose it is could not be found out ({e})"),
        };
        tracing::error!(%pack, blocks = blocks.count(), %owners, error = %why, "the scrub found damage");
        let message = format!("pack {pack} is damaged ({why}): {owners}; see 'holdfast check'");
        daemon.publish(EventKind::Damage, "store".to_owned(), &message);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_read_back_and_nonsense_begins_anew() {
        let round = Round {
            started_ms: 5,
            position: 1 << 40,
            under_way: true,
            ..Round::default()
        };
        let text = toml::to_string(&round).unwrap();
        assert_eq!(toml::from_str::<Round>(&text).unwrap(), round);
        assert!(toml::from_str::<Round>("position = -1").is_err());
        assert!(toml::from_str::<Round>("place = 1").is_err());
    }
}
