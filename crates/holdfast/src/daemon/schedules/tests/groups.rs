//! Volumes whose snapshots are taken together.

use super::*;
use catalog::{Backend, Change, ImageFile, SnapshotRecord};
use types::{FileDriver, FileFormat};

/// A volume with these policies.
fn member(world: &World, volume: &str, schedule: &str, group: &str) {
    let policy = PolicyChange {
        schedule: Some(schedule.to_owned()),
        group: Some(group.to_owned()),
        ..PolicyChange::default()
    };
    world.create(volume, &policy);
    world.schedules.look();
}

fn update(world: &World, volume: &str, update: &Update) {
    world.store().update_volume(&name(volume), update).unwrap();
    world.schedules.look();
}

fn group(text: &str) -> Update {
    Update {
        policy: PolicyChange {
            group: Some(text.to_owned()),
            ..PolicyChange::default()
        },
        ..Update::default()
    }
}

fn snapshots(world: &World, volume: &str) -> Vec<SnapshotRecord> {
    world.store().snapshots(&name(volume)).unwrap()
}

fn count(world: &World, volume: &str) -> usize {
    snapshots(world, volume).len()
}

/// The last snapshots of these were taken together, and have one name.
fn are_together(world: &World, volumes: &[&str]) {
    let last = |volume: &&str| snapshots(world, volume).pop().unwrap();
    let all: Vec<SnapshotRecord> = volumes.iter().map(last).collect();
    for one in &all {
        assert!(one.group.is_some() && one.scheduled, "{one:?}");
        let same = |one: &SnapshotRecord| (one.group, one.created_ms, one.name.clone());
        assert_eq!(same(one), same(&all[0]));
    }
}

fn last_error(world: &World, volume: &str) -> Option<String> {
    let record = world.store().find(&name(volume)).unwrap();
    let described = world.schedules.describe(&record, &TimeZone::UTC);
    described.unwrap().last_error
}

#[test]
fn those_of_a_group_and_a_schedule_are_taken_at_one_instant() {
    let mut world = World::new();
    for (volume, schedule, group) in [
        ("data", "@hourly", "db"),
        ("log", "@hourly", "db"),
        ("alone", "@hourly", "db"),
        ("other", "@hourly", "web"),
        ("none", "@hourly", ""),
        ("slow", "@daily", "db"),
    ] {
        member(&world, volume, schedule, group);
    }
    let independent = Update {
        independent: Some(true),
        ..Update::default()
    };
    update(&world, "alone", &independent);
    // A name that one of them has is the name of none.
    let taken = name("auto-2025-01-01T01:00:00");
    world.store().create_snapshot(&name("log"), &taken).unwrap();
    world.after(HOUR as i64);
    are_together(&world, &["data", "log"]);
    assert_eq!(count(&world, "data"), 1);
    for volume in ["alone", "other", "none"] {
        let all = snapshots(&world, volume);
        assert_eq!((all.len(), all[0].group), (1, None), "{volume}");
    }
    assert_eq!(count(&world, "slow"), 0);
    assert_eq!(world.schedules.figures().taken, 5);
    // What was missed is made up for once, together.
    world.restart_after(3 * DAY);
    world.after(0);
    world.after(60);
    assert_eq!((count(&world, "data"), count(&world, "log")), (2, 3));
    are_together(&world, &["data", "log"]);
    // One that leaves the group goes its own way.
    update(&world, "log", &group(""));
    world.after(HOUR as i64);
    assert_eq!(snapshots(&world, "log").pop().unwrap().group, None);
    assert_eq!(count(&world, "data"), 3);
}

#[test]
fn who_joins_comes_into_step_and_each_keeps_its_own_rules() {
    let world = World::new();
    member(&world, "a", "@every 10m", "g");
    world.after(240);
    member(&world, "b", "@every 10m", "g");
    let rules = Update {
        policy: PolicyChange {
            keep: Some("last:1".to_owned()),
            ..PolicyChange::default()
        },
        ..Update::default()
    };
    update(&world, "b", &rules);
    world.after(360);
    are_together(&world, &["a", "b"]);
    for minute in 1..=60 {
        world.after(60);
        assert_eq!(count(&world, "a"), 1 + minute / 10, "minute {minute}");
        assert_eq!(count(&world, "b"), 1);
    }
    are_together(&world, &["a", "b"]);
}

/// All or none: the others' last snapshots stay, and everybody is told of it.
#[test]
fn one_that_cannot_be_taken_is_taken_of_nobody_in_its_group() {
    let mut world = World::new();
    for volume in ["a", "b", "c"] {
        let of = if volume == "c" { "" } else { "g" };
        member(&world, volume, "@hourly", of);
        let rules = Update {
            policy: PolicyChange {
                keep: Some("last:1".to_owned()),
                ..PolicyChange::default()
            },
            ..Update::default()
        };
        update(&world, volume, &rules);
    }
    world.after(HOUR as i64);
    let before = snapshots(&world, "b");
    // It cannot be: nobody sets a schedule for such a volume.
    let set = |world: &mut World, backend: Backend| {
        let mut record = world.store().find(&name("a")).unwrap();
        record.backend = backend;
        let change = [Change::PutVolume(record)];
        world.store().catalog().commit(&change).unwrap();
        world.restart_after(0);
    };
    let file = ImageFile {
        root: None,
        path: "a/disk0".to_owned(),
        format: FileFormat::Raw,
        driver: FileDriver::Threads,
    };
    set(&mut world, Backend::File(file));
    world.after(HOUR as i64);
    world.after(HOUR as i64);
    assert_eq!(snapshots(&world, "b"), before);
    let error = last_error(&world, "b").unwrap();
    assert!(
        error.contains("because of one of them") && error.contains("'a'"),
        "{error}"
    );
    assert!(last_error(&world, "a").is_some());
    // It is nobody else's business.
    assert_eq!(last_error(&world, "c"), None);
    assert_eq!(world.schedules.figures().failed, 4);
    assert_eq!(world.count(EventKind::SnapshotFailed), 4);
    // Without it the others go on.
    update(&world, "b", &group("h"));
    world.after(HOUR as i64);
    assert_ne!(snapshots(&world, "b"), before);
    assert_eq!(last_error(&world, "b"), None);
    // And with it, when it can be taken again.
    set(&mut world, Backend::Store);
    update(&world, "b", &group("g"));
    world.after(HOUR as i64);
    are_together(&world, &["a", "b"]);
    assert_eq!(last_error(&world, "a"), None);
}
