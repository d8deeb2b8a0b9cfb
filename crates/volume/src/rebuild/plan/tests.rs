//! What is decided from what is known.

use super::*;
use catalog::SnapshotRecord;
use types::{Codec, Pointer, Root, SnapshotId};

fn root(n: u64) -> Root {
    Root {
        pointer: Pointer::new(PackId(n), 0),
        height: 1,
    }
}

fn note(volume: u64, epoch: u64, generation: u64) -> RootNote {
    RootNote {
        volume: VolumeId(volume),
        name: format!("v{volume}").parse().unwrap(),
        epoch: Epoch(epoch),
        generation: Generation(generation),
        root: root(epoch * 100 + generation),
        size: 1 << 20,
        mapped_blocks: generation,
        dedup: true,
        codec: Codec::Lz4,
        read_only: false,
        partial: false,
    }
}

/// All of a generation, and of the one before.
const WHOLE: Logged = Logged {
    after: After::Journal,
    end: 1 << 20,
};

/// Notes, and the generations of which the journal has writes, none of them beyond the first MiB.
fn known_of(notes: &[RootNote], journal: &[(u64, &[u64])]) -> Known {
    let mut known = Known::default();
    for note in notes {
        known.epoch = known.epoch.max(note.epoch);
        known.last_pack = known.last_pack.max(note.root.pointer.pack().0);
        known
            .notes
            .entry(note.volume)
            .or_default()
            .push(note.clone());
    }
    for (volume, generations) in journal {
        let generations = generations
            .iter()
            .map(|&g| (Generation(g), WHOLE))
            .collect();
        known.journal.insert(VolumeId(*volume), generations);
    }
    known
}

/// A copy of epoch 5 with volume 1, generation 3 destaged, and a snapshot that waits for generation 4.
fn copy(complete: bool) -> Found {
    let mut contents = Contents {
        commit: 50,
        last_volume: 2,
        last_pack: 9000,
        epoch: Epoch(5),
        ..Contents::default()
    };
    let mut plan = Plan {
        contents: Contents::default(),
        from: String::new(),
        older: Vec::new(),
    };
    plan.bring_back(&[note(1, 5, 3)], &mut |_, _| Reach::Whole, 0);
    contents.volumes = plan.contents.volumes;
    let snapshot = SnapshotRecord {
        id: SnapshotId(1),
        version: 1,
        volume: VolumeId(1),
        name: "s".parse().unwrap(),
        size: 1 << 20,
        generation: Generation(4),
        root: None,
        mapped_blocks: 0,
        created_ms: 0,
        vhost_queues: 0,
        group: None,
        scheduled: false,
        submits: 0,
    };
    contents
        .snapshots
        .insert((VolumeId(1), SnapshotId(1)), snapshot);
    Found {
        contents: Some(contents),
        complete,
        last_commit: 50,
        damaged: Vec::new(),
    }
}

fn unless(unreadable: bool) -> Reach {
    if unreadable {
        Reach::Parts
    } else {
        Reach::Whole
    }
}

fn decide(found: Found, known: &Known) -> Plan {
    plan(found, known, &mut |_, _| Reach::Whole, 1000)
}

fn destaged(plan: &Plan, volume: u64) -> u64 {
    plan.contents.volumes[&VolumeId(volume)].destaged.0
}

fn snapshot(plan: &Plan) -> Option<Root> {
    let snapshot = plan.contents.snapshots.get(&(VolumeId(1), SnapshotId(1)));
    snapshot.expect("the snapshot is there").root
}

#[test]
fn a_complete_copy_is_taken_as_it_is() {
    // One destage may have been under way; it was not committed, or nobody was told.
    let known = known_of(&[note(1, 5, 3), note(1, 5, 4)], &[(1, &[4, 5])]);
    let expected = copy(true).contents.unwrap();
    let plan = decide(copy(true), &known);
    assert_eq!(plan.contents.volumes, expected.volumes);
    assert_eq!(plan.contents.snapshots, expected.snapshots);
    assert_eq!((plan.contents.commit, plan.contents.epoch), (51, Epoch(5)));
    assert_eq!(plan.contents.last_pack, 9000, "nothing is left out");
    assert!(plan.older.is_empty());
}

#[test]
fn a_copy_that_only_looks_complete_is_found_out() {
    let two_destages = [note(1, 5, 4), note(1, 5, 5)];
    let a_later_life = [note(1, 6, 4)];
    for notes in [&two_destages[..], &a_later_life] {
        let plan = decide(copy(true), &known_of(notes, &[]));
        assert_eq!(plan.older.len(), 1);
        assert_eq!(destaged(&plan, 1), notes.last().unwrap().generation.0);
        assert_eq!(snapshot(&plan), Some(notes[0].root));
        assert!(plan.contents.last_pack > 9000);
    }
    let a_later_pack = Known {
        last_pack: 9001,
        ..Known::default()
    };
    let unknown_volumes = [known_of(&[note(3, 5, 1)], &[]), known_of(&[], &[(3, &[1])])];
    for known in [a_later_pack].iter().chain(&unknown_volumes) {
        assert!(!decide(copy(true), known).older.is_empty());
    }
    // The same destage, tried twice.
    let plan = decide(copy(true), &known_of(&[note(1, 5, 4), note(1, 5, 4)], &[]));
    assert!(plan.older.is_empty());
}

#[test]
fn notes_of_former_lives_say_nothing() {
    // Generation 4 was noted, never committed, and written anew in the life that the copy knows.
    let plan = decide(copy(false), &known_of(&[note(1, 4, 4)], &[(1, &[4])]));
    assert_eq!((destaged(&plan, 1), snapshot(&plan)), (3, None));
}

#[test]
fn the_newest_map_that_can_be_read_is_taken_and_nothing_put_on_top_of_an_older_one() {
    let notes = [note(1, 5, 4), note(1, 5, 5)];
    let known = known_of(&notes, &[(1, &[5, 6])]);
    let mut unreadable = |found: Root, _| unless(found == root(505));
    let plan = plan(copy(false), &known, &mut unreadable, 0);
    let volume = &plan.contents.volumes[&VolumeId(1)];
    assert_eq!(volume.root, notes[0].root);
    assert!(volume.destaged.0 > 1 << 32, "the journal's records are old");
    assert!(plan.older.iter().any(|(owner, _)| owner == "v1"));
    assert_eq!(snapshot(&plan), Some(notes[0].root));
}

#[test]
fn a_journal_that_does_not_follow_is_left_out() {
    let follows = decide(copy(false), &known_of(&[], &[(1, &[2, 3, 4, 5])]));
    assert_eq!((destaged(&follows, 1), follows.older.len()), (3, 1));
    assert_eq!(snapshot(&follows), None, "the journal has it");
    let gap = decide(copy(false), &known_of(&[], &[(1, &[5, 6])]));
    assert!(destaged(&gap, 1) > 6);
    assert!(gap.contents.snapshots.is_empty(), "its map is not known");
    let owners: Vec<&str> = gap.older.iter().map(|(o, _)| o.as_str()).collect();
    assert_eq!(owners, ["", "v1", "v1@s"]);
}

#[test]
fn a_generation_of_which_the_journal_has_parts_is_not_led_on_from() {
    // What comes before 4, and before 5; generation 3 is in packs.
    let decide_after = |fourth, fifth| {
        let mut known = known_of(&[], &[(1, &[4, 5])]);
        let generations = known.journal.get_mut(&VolumeId(1)).unwrap();
        for (logged, after) in generations.values_mut().zip([fourth, fifth]) {
            logged.after = after;
        }
        decide(copy(false), &known)
    };
    for (fourth, fifth, follows) in [
        (After::Packs, After::Journal, true),
        (After::Journal, After::Journal, true),
        (After::Journal, After::Packs, false),
        (After::Journal, After::Same, false),
        (After::Same, After::Journal, false),
    ] {
        let plan = decide_after(fourth, fifth);
        let owners: Vec<&str> = plan.older.iter().map(|(o, _)| o.as_str()).collect();
        assert_eq!(destaged(&plan, 1) == 3, follows, "{fourth:?} {fifth:?}");
        assert_eq!(owners.contains(&"v1"), !follows, "{fourth:?} {fifth:?}");
    }
}

#[test]
fn a_volume_that_grew_after_the_copy_ends_is_as_large_as_its_writes() {
    let journal = |generation, end| {
        let mut known = known_of(&[], &[(1, &[4])]);
        let generations = known.journal.get_mut(&VolumeId(1)).unwrap();
        generations.insert(Generation(generation), Logged { end, ..WHOLE });
        known
    };
    let size = |plan: &Plan| plan.contents.volumes[&VolumeId(1)].size;
    let grown = decide(copy(false), &journal(5, 3 << 20));
    assert_eq!((destaged(&grown, 1), size(&grown)), (3, 3 << 20));
    assert!(
        grown
            .older
            .iter()
            .any(|(owner, what)| owner == "v1" && what.contains("3.00 MiB"))
    );
    let destaged_already = decide(copy(false), &journal(3, 3 << 20));
    assert_eq!(size(&destaged_already), 1 << 20);
    let does_not_follow = decide(copy(false), &journal(6, 3 << 20));
    assert_eq!(size(&does_not_follow), 1 << 20);
    let absurd = decide(copy(false), &journal(5, u64::MAX));
    assert_eq!(size(&absurd), VOLUME_SIZE_MAX);
    assert_eq!(size(&decide(copy(true), &journal(5, 3 << 20))), 1 << 20);
}

#[test]
fn commits_are_counted_on_from_the_last_that_any_copy_speaks_of() {
    for (contents, last_commit, expected) in [
        (None, 70, 71),
        (copy(false).contents, 70, 71),
        (copy(false).contents, 50, 51),
    ] {
        let found = Found {
            contents,
            last_commit,
            ..Found::default()
        };
        assert_eq!(decide(found, &Known::default()).contents.commit, expected);
    }
}

#[test]
fn volumes_that_the_copy_does_not_have_come_back_as_far_as_is_safe() {
    // 2 had been made when the copy ended, so it may have been removed; 3 was made later. 4 has the name of 1.
    let mut namesake = note(4, 5, 1);
    namesake.name = "v1".parse().unwrap();
    let notes = [note(2, 5, 1), note(3, 5, 1), namesake];
    let plan = decide(copy(false), &known_of(&notes, &[(9, &[1])]));
    let trashed = |id| plan.contents.volumes[&VolumeId(id)].trashed;
    let until = 1000 + plan.contents.settings.trash_keep_s * 1000;
    assert_eq!(trashed(2).map(|t| t.until_ms), Some(until));
    assert_eq!((trashed(1), trashed(3)), (None, None));
    assert!(trashed(4).is_some());
    assert_eq!(plan.contents.last_volume, 9);
    assert!(plan.older.iter().any(|(_, what)| what.contains("volume 9")));
    assert!(plan.contents.is_sound());
}

#[test]
fn notes_alone_make_a_catalog() {
    let notes = [note(1, 2, 7), note(1, 3, 8), note(2, 3, 1)];
    let none = Found::default();
    let plan = plan(
        none,
        &known_of(&notes, &[]),
        &mut |found, _| unless(found == root(301)),
        0,
    );
    assert_eq!(plan.contents.volumes.len(), 1);
    assert_eq!(plan.contents.volumes[&VolumeId(1)].root, notes[1].root);
    assert!(plan.older.iter().any(|(owner, _)| owner == "v2"));
    assert_eq!(plan.contents.epoch, Epoch(4), "nobody wrote under it");
    assert_eq!(plan.contents.volumes[&VolumeId(1)].epoch, Epoch(4));
    assert!(plan.contents.last_pack > 308 && plan.contents.is_sound());
    // Nothing at all: an empty catalog.
    let plan = decide(Found::default(), &Known::default());
    assert!(plan.contents.volumes.is_empty() && plan.contents.is_sound());
}
