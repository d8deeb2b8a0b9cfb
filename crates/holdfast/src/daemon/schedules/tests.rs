mod groups;

use super::*;
use sim::{Fault, Injection, SimEnv};
use std::{cell::RefCell, path::Path, sync::atomic::AtomicBool};
use types::Name;
use volume::{Config, Create, InitOptions, PolicyChange, Source, Update};

/// 2025-01-01 00:00:00 UTC.
const NEW_YEAR: u64 = 1_735_689_600;
const HOUR: u64 = 3600;
const DAY: u64 = 24 * HOUR;

/// A clock that is set by hand, also back; seconds.
struct Hand(Mutex<u64>);

impl Clock for Hand {
    fn now(&self) -> Duration {
        Duration::from_secs(*self.0.lock())
    }

    fn monotonic(&self) -> Duration {
        Duration::from_secs(1)
    }
}

/// A daemon's schedules on a simulated machine.
struct World {
    sim: SimEnv,
    clock: Arc<Hand>,
    store: Option<Store>,
    schedules: Schedules,
    /// Snapshots that have readers.
    busy: RefCell<BTreeSet<String>>,
    told: RefCell<Vec<(EventKind, String)>>,
}

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

impl World {
    /// With the volume `v`, at the beginning of a year.
    fn new() -> Self {
        let clock = Arc::new(Hand(Mutex::new(NEW_YEAR)));
        let mut world = World {
            sim: SimEnv::new(1),
            schedules: Schedules::new(clock.clone()),
            clock,
            store: None,
            busy: RefCell::default(),
            told: RefCell::default(),
        };
        Store::init(&world.env(), Path::new("/store"), &InitOptions::default()).unwrap();
        world.open();
        world.create("v", &PolicyChange::default());
        world
    }

    fn env(&self) -> env::Env {
        env::Env {
            clock: self.clock.clone(),
            ..self.sim.env()
        }
    }

    fn open(&mut self) {
        let store = Store::open(&self.env(), Path::new("/store"), Config::small());
        self.store = Some(store.unwrap());
        self.schedules = Schedules::new(self.clock.clone());
    }

    /// The daemon is killed, and started again so much later.
    fn restart_after(&mut self, seconds: u64) {
        self.sim.kill();
        self.store = None;
        *self.clock.0.lock() += seconds;
        self.open();
    }

    fn store(&self) -> &Store {
        self.store.as_ref().unwrap()
    }

    fn create(&self, volume: &str, policy: &PolicyChange) {
        let create = Create {
            policy: policy.clone(),
            ..Create::new(name(volume), Source::Empty(1 << 20))
        };
        self.store().create_volume(&create).unwrap();
    }

    /// As `volume set`, with schedule and rules; what is checked before is not checked.
    fn set(&self, schedule: &str, keep: &str) {
        let update = Update {
            policy: PolicyChange {
                schedule: Some(schedule.to_owned()),
                keep: Some(keep.to_owned()),
                ..PolicyChange::default()
            },
            ..Update::default()
        };
        self.store().update_volume(&name("v"), &update).unwrap();
        self.schedules.look();
    }

    fn snapshot(&self, snapshot: &str) {
        let taken = self.store().create_snapshot(&name("v"), &name(snapshot));
        taken.unwrap();
    }

    fn write(&self) {
        let device = self.store().device(&name("v").into()).unwrap();
        let how = block::Durability::Volatile;
        device.write(0, &[7; 4096], how).unwrap();
    }

    /// It is so much later, or earlier, and the thread looks if it would.
    fn after(&self, seconds: i64) {
        {
            let mut clock = self.clock.0.lock();
            *clock = clock.checked_add_signed(seconds).unwrap();
        }
        if self.schedules.is_due() {
            self.round();
        }
    }

    fn round(&self) {
        let stop = Stop(AtomicBool::new(false));
        self.schedules.round(&Host {
            store: self.store(),
            zone: TimeZone::UTC,
            in_use: &|r| self.busy.borrow().contains(&r.to_string()),
            tell: &|kind, subject, _| self.told.borrow_mut().push((kind, subject)),
            stop: &stop,
        });
    }

    fn names(&self) -> Vec<String> {
        let snapshots = self.store().snapshots(&name("v")).unwrap();
        snapshots.iter().map(|s| s.name.to_string()).collect()
    }

    fn described(&self) -> Described {
        let record = self.store().find(&name("v")).unwrap();
        self.schedules.describe(&record, &TimeZone::UTC).unwrap()
    }

    fn count(&self, kind: EventKind) -> usize {
        self.told
            .borrow()
            .iter()
            .filter(|(k, _)| *k == kind)
            .count()
    }
}

#[test]
fn snapshots_are_taken_named_and_removed_as_scheduled() {
    let world = World::new();
    world.set("@hourly", "hourly:2,daily:2");
    world.after(0);
    assert!(world.names().is_empty(), "it begins with the next hour");
    assert_eq!(world.described().next_ms, Some((NEW_YEAR + HOUR) * 1000));
    for _ in 0..6 * 25 {
        world.after(600);
    }
    let expected = [
        "auto-2025-01-01T23:00:00",
        "auto-2025-01-02T00:00:00",
        "auto-2025-01-02T01:00:00",
    ];
    assert_eq!(world.names(), expected);
    let described = world.described();
    assert_eq!(described.last_ms, Some((NEW_YEAR + DAY + HOUR) * 1000));
    assert_eq!(described.next_ms, Some((NEW_YEAR + DAY + 2 * HOUR) * 1000));
    assert_eq!((described.last_error, described.failed_ms), (None, None));
    let figures = Figures {
        taken: 25,
        removed: 22,
        failed: 0,
    };
    assert_eq!(world.schedules.figures(), figures);
    assert_eq!(world.count(EventKind::SnapshotCreated), 25);
    assert_eq!(world.count(EventKind::SnapshotRemoved), 22);
}

#[test]
fn a_restart_makes_up_for_what_was_missed_once() {
    let mut world = World::new();
    world.set("@hourly", "last:9");
    world.after(HOUR as i64);
    assert_eq!(world.names().len(), 1);
    // Nothing is due for somebody who was away for a moment only.
    world.restart_after(60);
    world.after(0);
    assert_eq!(world.names().len(), 1);
    world.restart_after(30 * DAY);
    for _ in 0..5 {
        world.after(1);
    }
    assert_eq!(world.names()[1..], ["auto-2025-01-31T01:01:01"]);
    // The clock is set on by a year.
    world.after(365 * DAY as i64);
    world.after(1);
    assert_eq!(world.names()[2..], ["auto-2026-01-31T01:01:05"]);
}

#[test]
fn a_clock_that_goes_back_makes_none_twice_and_removes_nothing() {
    let world = World::new();
    world.set("@hourly", "hourly:3");
    for _ in 0..3 {
        world.after(HOUR as i64);
    }
    let three = world.names();
    world.after(-(HOUR as i64) / 2);
    world.after(HOUR as i64 / 2);
    world.after(HOUR as i64 - 1);
    assert_eq!(world.names(), three);
    world.after(1);
    assert_eq!(world.names()[..2], three[1..]);
    // It was ten years ahead, and is right again.
    world.after(3650 * DAY as i64);
    world.after(-3650 * (DAY as i64));
    let four = world.names();
    assert_eq!(four.len(), 3);
    world.after(60);
    assert_eq!(world.names(), four);
    world.after(HOUR as i64 - 60);
    assert_eq!(world.names()[2], "auto-2025-01-01T05:00:00");
    assert_eq!(world.names()[..2], four[1..]);
}

#[test]
fn what_a_person_took_stays_whatever_it_is_called() {
    let world = World::new();
    world.set("@daily", "last:1");
    world.snapshot("auto-2025-01-01T00:00:00");
    world.snapshot("auto-2025-01-02T00:00:00");
    world.after(DAY as i64);
    world.after(DAY as i64);
    let expected = [
        "auto-2025-01-01T00:00:00",
        "auto-2025-01-02T00:00:00",
        "auto-2025-01-03T00:00:00",
    ];
    assert_eq!(world.names(), expected);
    // The second night's had to have another name.
    let told = world.told.borrow().clone();
    assert!(told.contains(&(
        EventKind::SnapshotRemoved,
        "v@auto-2025-01-02T00:00:00-2".to_owned()
    )));
    // In the place of a scheduled one: it is a person's then.
    world
        .store()
        .remove_snapshot(&name("v"), &name(expected[2]))
        .unwrap();
    world.snapshot(expected[2]);
    world.after(DAY as i64);
    world.after(DAY as i64);
    assert_eq!(world.names()[..3], expected);
    assert_eq!(world.names().len(), 4);
    // Nor does one of a person's count as the last.
    world.snapshot("mine");
    world.schedules.look();
    world.after(0);
    assert_eq!(world.names().len(), 5);
}

#[test]
fn what_is_in_use_goes_when_it_is_not() {
    let world = World::new();
    world.set("@daily", "last:1");
    world.after(DAY as i64);
    let first = world.names().remove(0);
    world.busy.borrow_mut().insert(format!("v@{first}"));
    world.after(DAY as i64);
    assert_eq!(world.names().len(), 2);
    world.after(3600);
    assert_eq!(world.names().len(), 2);
    world.busy.borrow_mut().clear();
    world.after(60);
    assert_eq!(world.names(), ["auto-2025-01-03T00:00:00"]);
    assert_eq!(world.described().last_error, None);
}

#[test]
fn a_failure_is_told_once_and_tried_again_at_the_next_run() {
    let world = World::new();
    world.set("@hourly", "");
    world.after(HOUR as i64);
    world.after(HOUR as i64);
    world.set("@hourly", "last:1");
    world.write();
    world.sim.inject(Injection {
        fault: Fault::SyncError,
        file: "journal/".to_owned(),
        skip: 0,
        times: 1,
    });
    world.after(HOUR as i64);
    // What has expired goes all the same.
    assert_eq!(world.names(), ["auto-2025-01-01T02:00:00"]);
    let failed = world.described();
    assert!(failed.last_error.is_some(), "{failed:?}");
    assert_eq!(failed.failed_ms, Some((NEW_YEAR + 3 * HOUR) * 1000));
    assert_eq!(failed.next_ms, Some((NEW_YEAR + 4 * HOUR) * 1000));
    for _ in 0..50 {
        world.after(60);
    }
    assert_eq!(world.count(EventKind::SnapshotFailed), 1);
    assert_eq!(world.schedules.figures().failed, 1);
    world.after(600);
    assert_eq!(world.names(), ["auto-2025-01-01T04:00:00"]);
    assert_eq!(world.described().last_error, None);
}

#[test]
fn a_policy_that_cannot_be_read_is_told_and_holds_up_no_other() {
    let world = World::new();
    world.set("@hurly", "last:1");
    let hourly = PolicyChange {
        schedule: Some("@hourly".to_owned()),
        ..PolicyChange::default()
    };
    world.create("w", &hourly);
    for _ in 0..3 {
        world.after(HOUR as i64);
    }
    assert_eq!(world.store().snapshots(&name("w")).unwrap().len(), 3);
    assert_eq!(world.count(EventKind::SnapshotFailed), 1);
    let described = world.described();
    assert!(
        described
            .last_error
            .is_some_and(|why| why.contains("'@hurly'"))
    );
    assert_eq!(described.next_ms, None);
}

#[test]
fn without_a_schedule_and_in_the_trash_nothing_is_done() {
    let world = World::new();
    world.set("@hourly", "");
    for _ in 0..3 {
        world.after(HOUR as i64);
    }
    world.set("", "last:1");
    world.after(DAY as i64);
    assert_eq!(world.names().len(), 3);
    world.set("@hourly", "last:2");
    world.after(0);
    assert_eq!(world.names().len(), 2);
    let kept = world.names();
    let id = world.store().remove_volume(&name("v")).unwrap().id;
    world.after(5 * HOUR as i64);
    world.store().restore_volume(id, None).unwrap();
    assert_eq!(world.names(), kept);
    world.schedules.look();
    world.after(0);
    assert_eq!(world.names().len(), 2);
    assert_eq!(world.names()[0], kept[1]);
}

#[test]
fn changes_are_checked_before_they_are_made() {
    let change = |schedule: &str, keep: &str, pattern: &str| api_types::PolicyChange {
        schedule: Some(schedule.to_owned()),
        keep: Some(keep.to_owned()),
        pattern: Some(pattern.to_owned()),
        group: Some(String::new()),
    };
    assert!(read_change(&change("", "", "")).is_ok());
    assert!(read_change(&change("@every 15m", "last:96", "q-%s")).is_ok());
    for wrong in [
        change("@often", "", ""),
        change("", "daily", ""),
        change("", "", "a b"),
        api_types::PolicyChange {
            group: Some("a b".to_owned()),
            ..change("", "", "")
        },
    ] {
        let error = read_change(&wrong).unwrap_err();
        assert_eq!(error.code, api_types::ErrorCode::Invalid);
        assert!(!error.message.contains('\n'), "{error}");
    }
}
