//! Who protects what from collection.
//!
//! Collection marks what every root reaches and then gives the rest up, while volumes go on writing.
//! A block that no root reached when it was marked may be reached again: a writer finds that it is about to
//! store the same contents, and refers to it. The protocol:
//!
//! 1. A **writer** registers before it takes its first pack id, and stays registered until what it
//!    [`Written`](crate::Written) is dropped, after the root that uses it is committed.
//! 2. **Begin**: the limit is the lowest of the next pack id and the first ids of registered writers. Packs from
//!    the limit on are not considered. What registered writers have hit so far counts as *touched*; from now on
//!    every hit does, until the collection ends: its writer may be done and its root committed after the roots
//!    were read for marking.
//! 3. A writer **looks up** a segment: it notes the time, reads headers (which may be cached), finds hits,
//!    and *pins* them all under one lock. There a hit is refused if the pack is being given up without that
//!    block, or if it was given up in any way since the time noted: the header seen may be of before.
//! 4. **Give up**: under the same lock, what is pinned or touched is added to what was marked, and the rest is dead
//!    from then on. So a hit either pins first, and the block stays, or comes later, and is refused. Then the
//!    mark is made durable, then holes are punched; last, cached headers are dropped and the pack's giving-up
//!    is entered with its time, in one step.
//! 5. A header that was loaded is cached only if its pack was not given up since its loading began.
//!
//! Times of give-ups are forgotten when no look-up is left that began before them.

use format::live::LiveBits;
use rustc_hash::FxHashMap;
use std::collections::{BTreeMap, VecDeque};
use sync::Mutex;
use types::{PackId, Pointer};

/// The state of the protocol.
#[derive(Default)]
pub(crate) struct Pins(Mutex<State>);

type Blocks = FxHashMap<PackId, LiveBits>;

#[derive(Default)]
struct State {
    next_writer: u64,
    writers: FxHashMap<u64, Writer>,
    collecting: bool,
    touched: Blocks,
    dying: Blocks,
    now: u64,
    given_up: VecDeque<(u64, PackId)>,
    lookups: BTreeMap<u64, usize>,
}

#[derive(Default)]
struct Writer {
    first: Option<PackId>,
    hits: Blocks,
}

/// The time at which a look-up, or the loading of a header, began.
pub(crate) struct Lookup<'a> {
    pins: &'a Pins,
    began: u64,
}

impl Pins {
    /// A writer begins.
    pub(crate) fn register(&self) -> u64 {
        let mut state = self.0.lock();
        state.next_writer += 1;
        let id = state.next_writer;
        state.writers.insert(id, Writer::default());
        id
    }

    /// Before a writer takes an id: it may get `next` or a later one.
    pub(crate) fn will_take(&self, writer: u64, next: PackId) {
        if let Some(writer) = self.0.lock().writers.get_mut(&writer) {
            writer.first.get_or_insert(next);
        }
    }

    /// A writer's root is committed, or it has failed.
    pub(crate) fn unregister(&self, writer: u64) {
        self.0.lock().writers.remove(&writer);
    }

    /// Begins a collection. `next` was the next pack id at some moment before. `None` if one runs.
    pub(crate) fn begin(&self, next: PackId) -> Option<PackId> {
        let mut state = self.0.lock();
        if state.collecting {
            return None;
        }
        state.collecting = true;
        let mut touched = Blocks::default();
        let mut limit = next;
        for writer in state.writers.values() {
            limit = writer.first.map_or(limit, |first| first.min(limit));
            for (&pack, hits) in &writer.hits {
                let all = touched.entry(pack).or_default();
                *all = all.union(hits);
            }
        }
        state.touched = touched;
        Some(limit)
    }

    /// Ends the collection.
    pub(crate) fn end(&self) {
        let mut state = self.0.lock();
        state.collecting = false;
        state.touched = Blocks::default();
    }

    /// Notes the time.
    pub(crate) fn lookup(&self) -> Lookup<'_> {
        let mut state = self.0.lock();
        let began = state.now;
        *state.lookups.entry(began).or_default() += 1;
        Lookup { pins: self, began }
    }

    /// Pins what `writer` is going to refer to, all at once; answers for each whether that was granted.
    pub(crate) fn pin(&self, writer: u64, lookup: &Lookup<'_>, hits: &[Pointer]) -> Vec<bool> {
        let mut state = self.0.lock();
        hits.iter()
            .map(|&hit| state.pin(writer, lookup.began, hit))
            .collect()
    }

    /// Declares everything of `pack` dead that is neither in `live` nor pinned or touched, and answers what
    /// stays of `current`; calls `forget` in the same step. `None` if somebody is giving up this pack, or did
    /// since `lookup` began, after which `current` was read.
    pub(crate) fn die(
        &self,
        lookup: &Lookup<'_>,
        pack: PackId,
        live: &LiveBits,
        current: &LiveBits,
        forget: impl FnOnce(),
    ) -> Option<LiveBits> {
        let mut state = self.0.lock();
        if state.dying.contains_key(&pack) || state.changed_since(lookup.began, pack) {
            return None;
        }
        let mut stays = *live;
        let hits = state.writers.values().map(|writer| &writer.hits);
        for blocks in hits.chain([&state.touched]) {
            stays = blocks.get(&pack).map_or(stays, |hits| stays.union(hits));
        }
        stays = stays.intersection(current);
        state.dying.insert(pack, stays);
        forget();
        Some(stays)
    }

    /// The giving-up of `pack` is over; calls `forget` in the same step.
    pub(crate) fn died(&self, pack: PackId, forget: impl FnOnce()) {
        let mut state = self.0.lock();
        state.dying.remove(&pack);
        state.now += 1;
        if !state.lookups.is_empty() {
            let now = state.now;
            state.given_up.push_back((now, pack));
        }
        forget();
    }

    /// What stays of `pack`, if it is being given up.
    pub(crate) fn dying(&self, pack: PackId) -> Option<LiveBits> {
        self.0.lock().dying.get(&pack).copied()
    }
}

impl State {
    fn pin(&mut self, writer: u64, began: u64, hit: Pointer) -> bool {
        let (pack, ordinal) = (hit.pack(), hit.ordinal());
        let dead = self
            .dying
            .get(&pack)
            .is_some_and(|stays| !stays.get(ordinal));
        if dead || self.changed_since(began, pack) {
            return false;
        }
        let Some(writer) = self.writers.get_mut(&writer) else {
            return false;
        };
        writer.hits.entry(pack).or_default().insert(ordinal);
        if self.collecting {
            self.touched.entry(pack).or_default().insert(ordinal);
        }
        true
    }

    fn changed_since(&self, began: u64, pack: PackId) -> bool {
        let newest_first = self.given_up.iter().rev();
        newest_first
            .take_while(|(time, _)| *time > began)
            .any(|(_, changed)| *changed == pack)
    }
}

impl Lookup<'_> {
    /// Calls `publish` unless what was read of `pack` since this began may be of before it was given up.
    pub(crate) fn publish(&self, pack: PackId, publish: impl FnOnce()) {
        let state = self.pins.0.lock();
        if !state.dying.contains_key(&pack) && !state.changed_since(self.began, pack) {
            publish();
        }
    }
}

impl Drop for Lookup<'_> {
    fn drop(&mut self) {
        let mut state = self.pins.0.lock();
        if let Some(count) = state.lookups.get_mut(&self.began) {
            *count -= 1;
            if *count == 0 {
                state.lookups.remove(&self.began);
            }
        }
        let oldest = state.lookups.keys().next().copied().unwrap_or(u64::MAX);
        while state
            .given_up
            .front()
            .is_some_and(|(time, _)| *time <= oldest)
        {
            state.given_up.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PACK: PackId = PackId(5);

    fn at(ordinal: u16) -> Pointer {
        Pointer::new(PACK, ordinal)
    }

    #[test]
    fn the_limit_is_below_what_any_writer_in_flight_has() {
        let pins = Pins::default();
        let (idle, busy) = (pins.register(), pins.register());
        pins.will_take(busy, PackId(7));
        pins.will_take(busy, PackId(9));
        assert_eq!(pins.begin(PackId(12)), Some(PackId(7)));
        assert_eq!(pins.begin(PackId(12)), None);
        pins.end();
        pins.unregister(busy);
        assert_eq!(pins.begin(PackId(12)), Some(PackId(12)));
        pins.unregister(idle);
    }

    #[test]
    fn what_was_hit_stays_until_the_collection_ends_though_its_writer_is_gone() {
        let pins = Pins::default();
        let (before, after) = (pins.register(), pins.register());
        assert_eq!(pins.pin(before, &pins.lookup(), &[at(1)]), [true]);
        pins.begin(PackId(9)).unwrap();
        assert_eq!(pins.pin(after, &pins.lookup(), &[at(2)]), [true]);
        pins.unregister(before);
        pins.unregister(after);
        let current = LiveBits::first(10);
        let stays = pins
            .die(&pins.lookup(), PACK, &LiveBits::NONE, &current, || ())
            .unwrap();
        assert_eq!(stays, [1, 2].into_iter().collect());
        pins.died(PACK, || ());
        pins.end();
        let stays = pins
            .die(&pins.lookup(), PACK, &LiveBits::NONE, &current, || ())
            .unwrap();
        assert!(stays.is_empty());
    }

    #[test]
    fn a_header_read_before_a_give_up_is_good_for_nothing_after_it() {
        let pins = Pins::default();
        let writer = pins.register();
        pins.begin(PackId(9)).unwrap();
        let early = pins.lookup();
        let live: LiveBits = [3].into_iter().collect();
        pins.die(&pins.lookup(), PACK, &live, &LiveBits::first(10), || ())
            .unwrap();
        assert_eq!(pins.pin(writer, &early, &[at(1), at(3)]), [false, true]);
        early.publish(PACK, || panic!("cached while it is given up"));
        pins.died(PACK, || ());
        assert_eq!(pins.pin(writer, &early, &[at(1), at(3)]), [false, false]);
        early.publish(PACK, || panic!("cached what is of before"));
        let late = pins.lookup();
        assert_eq!(pins.pin(writer, &late, &[at(3)]), [true]);
        drop(early);
        assert!(pins.0.lock().given_up.is_empty());
    }
}
