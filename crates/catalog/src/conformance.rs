//! What every [`Catalog`] must do. An implementation's tests call [`suite`].

use crate::{
    Backend, Catalog, Change, ErrorKind, IdKind, ImageFile, ImageSource, Properties, Settings,
    SnapshotPolicy, SnapshotRecord, SourceFile, Step, Trashed, VolumeRecord,
};
use std::collections::HashSet;
use types::{
    Codec, DiskMode, Epoch, FileDriver, FileFormat, Generation, ImageFormat, Limits, Name, PackId,
    Pointer, Root, SnapshotId, VolumeId,
};

/// The whole suite. `make` gives an empty catalog each time.
///
/// # Panics
/// If the catalog does not conform.
pub fn suite(make: &dyn Fn() -> Box<dyn Catalog>) {
    let checks: [fn(&dyn Catalog); 17] = [
        an_empty_catalog_is_empty,
        settings_are_replaced_by_version,
        volumes_keep_every_field,
        volumes_are_replaced_by_version,
        names_of_volumes_are_unique,
        the_trash_gives_up_names,
        names_move_within_a_commit,
        snapshots_are_replaced_by_version,
        names_of_snapshots_are_unique_in_their_volume,
        snapshots_need_their_volume,
        a_volume_goes_after_its_snapshots,
        a_commit_is_all_or_nothing,
        an_older_epoch_is_refused,
        lists_are_in_order_of_id,
        ids_and_epochs_only_grow,
        racing_writers_lose_nothing,
        contents_are_everything_and_count_commits,
    ];
    for check in checks {
        check(&*make());
    }
}

fn name(text: &str) -> Name {
    text.parse().expect("a good name")
}

fn volume(id: u64, text: &str) -> VolumeRecord {
    VolumeRecord {
        id: VolumeId(id),
        version: 0,
        name: name(text),
        epoch: Epoch(1),
        size: 1 << 30,
        root: Root::EMPTY,
        destaged: Generation(0),
        mapped_blocks: 0,
        properties: Properties::default(),
        created_ms: 1,
        origin: None,
        trashed: None,
        quota: Some(1 << 30),
        vhost_queues: 300,
        backend: Backend::File(ImageFile {
            root: Some("/srv/images".to_owned()),
            path: "web/disk0".to_owned(),
            format: FileFormat::Qcow2,
            driver: FileDriver::IoUring,
        }),
        limits: Limits::NONE,
        source: Some(Box::new(ImageSource {
            path: "/srv/web.qcow2".to_owned(),
            format: Some(ImageFormat::Qcow2),
            backing: vec!["/srv/base.qcow2".to_owned()],
            data_file: Some("/srv/web.raw".to_owned()),
            files: vec![SourceFile {
                path: "/srv/web.qcow2".to_owned(),
                len: 1 << 20,
                modified_ns: u64::MAX,
            }],
            size: 1 << 30,
            filled: 1 << 20,
            stored: 1 << 19,
            paused: true,
        })),
        mode: DiskMode::Undoable,
        base: Some(SnapshotId(5)),
        independent: true,
        policy: Some(Box::new(SnapshotPolicy {
            schedule: "@daily".to_owned(),
            keep: "daily:7".to_owned(),
            pattern: "d-%F".to_owned(),
            done_ms: 5,
            last_ms: Some(4),
            group: "db".to_owned(),
        })),
    }
}

fn snapshot(volume: u64, id: u64, text: &str) -> SnapshotRecord {
    SnapshotRecord {
        id: SnapshotId(id),
        version: 0,
        volume: VolumeId(volume),
        name: name(text),
        size: 1 << 30,
        generation: Generation(1),
        root: None,
        mapped_blocks: 0,
        created_ms: 2,
        vhost_queues: 2,
        group: Some(SnapshotId(3)),
        scheduled: true,
        submits: 3,
    }
}

fn put(record: &VolumeRecord) -> Change {
    Change::PutVolume(record.clone())
}

fn put_snapshot(record: &SnapshotRecord) -> Change {
    Change::PutSnapshot(record.clone())
}

fn remove(id: u64, version: u64) -> Change {
    let id = VolumeId(id);
    Change::RemoveVolume { id, version }
}

fn remove_snapshot(volume: u64, id: u64, version: u64) -> Change {
    Change::RemoveSnapshot {
        volume: VolumeId(volume),
        id: SnapshotId(id),
        version,
    }
}

fn trashed(record: &VolumeRecord) -> VolumeRecord {
    VolumeRecord {
        trashed: Some(Trashed {
            at_ms: 5,
            until_ms: 9,
        }),
        ..record.clone()
    }
}

fn ok(catalog: &dyn Catalog, changes: &[Change]) {
    catalog.commit(changes).expect("a good commit");
}

/// Everything that is there, as seen through every way of looking.
fn look(catalog: &dyn Catalog) -> (Settings, Vec<VolumeRecord>, Vec<SnapshotRecord>) {
    let volumes = catalog.volumes().expect("volumes");
    let mut all = Vec::new();
    for volume in &volumes {
        assert_eq!(read(catalog, volume.id.0).as_ref(), Some(volume));
        if volume.trashed.is_none() {
            assert_eq!(find(catalog, volume.name.as_str()).as_ref(), Some(volume));
        }
        for snapshot in catalog.snapshots(volume.id).expect("snapshots") {
            let found = catalog.find_snapshot(volume.id, &snapshot.name);
            assert_eq!(found.expect("a look-up").as_ref(), Some(&snapshot));
            all.push(snapshot);
        }
    }
    (catalog.settings().expect("settings"), volumes, all)
}

fn refused(catalog: &dyn Catalog, kind: ErrorKind, changes: &[Change]) {
    let before = look(catalog);
    let error = catalog.commit(changes).expect_err("a commit to be refused");
    assert_eq!(error.kind(), kind, "{changes:?}: {error:?}");
    assert_eq!(look(catalog), before, "a refused commit changed something");
}

fn read(catalog: &dyn Catalog, id: u64) -> Option<VolumeRecord> {
    catalog.volume(VolumeId(id)).expect("a look-up by id")
}

fn find(catalog: &dyn Catalog, text: &str) -> Option<VolumeRecord> {
    catalog.find(&name(text)).expect("a look-up by name")
}

fn an_empty_catalog_is_empty(catalog: &dyn Catalog) {
    assert_eq!(look(catalog), (Settings::default(), vec![], vec![]));
    assert_eq!(read(catalog, 1), None);
    assert_eq!(find(catalog, "a"), None);
    assert_eq!(catalog.snapshots(VolumeId(1)).expect("snapshots"), vec![]);
    let found = catalog.find_snapshot(VolumeId(1), &name("a"));
    assert_eq!(found.expect("a look-up"), None);
    ok(catalog, &[]);
}

fn settings_are_replaced_by_version(catalog: &dyn Catalog) {
    let mut settings = Settings {
        version: 0,
        defaults: Properties {
            dedup: false,
            codec: Codec::Zstd,
            read_only: true,
        },
        trash_keep_s: 7,
    };
    let change = Change::PutSettings(settings.clone());
    ok(catalog, std::slice::from_ref(&change));
    settings.version = 1;
    assert_eq!(catalog.settings().expect("settings"), settings);
    refused(catalog, ErrorKind::Conflict, &[change]);
    settings.trash_keep_s = 8;
    ok(catalog, &[Change::PutSettings(settings.clone())]);
    settings.version = 2;
    assert_eq!(catalog.settings().expect("settings"), settings);
}

fn volumes_keep_every_field(catalog: &dyn Catalog) {
    let odd = VolumeRecord {
        name: name(&"x".repeat(Name::LEN_MAX)),
        epoch: Epoch(u64::MAX),
        size: types::VOLUME_SIZE_MAX,
        root: Root {
            pointer: Pointer::new(PackId(PackId::LIMIT - 1), 4095),
            height: 4,
        },
        destaged: Generation(u64::MAX),
        mapped_blocks: 1 << 34,
        properties: Properties {
            dedup: false,
            codec: Codec::None,
            read_only: true,
        },
        created_ms: u64::MAX,
        origin: Some("tämplate@v1".to_owned()),
        ..trashed(&volume(u64::MAX, "x"))
    };
    let odd_snapshot = SnapshotRecord {
        root: Some(odd.root),
        generation: Generation(u64::MAX),
        mapped_blocks: 3,
        ..snapshot(u64::MAX, u64::MAX, "s:1._-")
    };
    ok(catalog, &[put(&odd), put_snapshot(&odd_snapshot)]);
    let stored = VolumeRecord { version: 1, ..odd };
    assert_eq!(read(catalog, u64::MAX), Some(stored));
    let stored = SnapshotRecord {
        version: 1,
        ..odd_snapshot
    };
    let listed = catalog.snapshots(VolumeId(u64::MAX)).expect("snapshots");
    assert_eq!(listed, vec![stored]);
}

fn volumes_are_replaced_by_version(catalog: &dyn Catalog) {
    let mut a = volume(1, "a");
    let first = put(&a);
    refused(catalog, ErrorKind::Conflict, &[remove(1, 0)]);
    ok(catalog, std::slice::from_ref(&first));
    refused(catalog, ErrorKind::Conflict, &[first]);
    a.version = 1;
    assert_eq!(read(catalog, 1).as_ref(), Some(&a));
    a.size = 2 << 30;
    ok(catalog, &[put(&a)]);
    refused(catalog, ErrorKind::Conflict, &[put(&a)]);
    a.version = 2;
    assert_eq!(look(catalog).1, vec![a.clone()]);
    a.version = 3;
    refused(catalog, ErrorKind::Conflict, &[put(&a)]);
    let missing = VolumeRecord {
        version: 1,
        ..volume(2, "b")
    };
    refused(catalog, ErrorKind::Conflict, &[put(&missing)]);
    for wrong in [0, 1, 3] {
        refused(catalog, ErrorKind::Conflict, &[remove(1, wrong)]);
    }
    ok(catalog, &[remove(1, 2)]);
    assert_eq!((read(catalog, 1), find(catalog, "a")), (None, None));
    refused(catalog, ErrorKind::Conflict, &[remove(1, 2)]);
}

fn names_of_volumes_are_unique(catalog: &dyn Catalog) {
    ok(catalog, &[put(&volume(1, "a")), put(&volume(2, "b"))]);
    refused(catalog, ErrorKind::Exists, &[put(&volume(3, "a"))]);
    let both = [put(&volume(3, "c")), put(&volume(4, "c"))];
    refused(catalog, ErrorKind::Exists, &both);
    let renamed = VolumeRecord {
        version: 1,
        ..volume(2, "a")
    };
    refused(catalog, ErrorKind::Exists, &[put(&renamed)]);
    let renamed = VolumeRecord {
        version: 1,
        ..volume(2, "c")
    };
    ok(catalog, &[put(&renamed)]);
    assert_eq!(find(catalog, "b"), None);
    assert_eq!(find(catalog, "c").map(|v| v.id), Some(VolumeId(2)));
    ok(catalog, &[put(&volume(3, "b"))]);
}

fn the_trash_gives_up_names(catalog: &dyn Catalog) {
    ok(catalog, &[put(&volume(1, "a"))]);
    let old = find(catalog, "a").expect("a volume");
    ok(catalog, &[put(&trashed(&old))]);
    assert_eq!(find(catalog, "a"), None);
    ok(catalog, &[put(&volume(2, "a"))]);
    let old = read(catalog, 1).expect("in the trash");
    let restored = VolumeRecord {
        trashed: None,
        quota: Some(1 << 30),
        ..old.clone()
    };
    refused(catalog, ErrorKind::Exists, &[put(&restored)]);
    let second = find(catalog, "a").expect("the new one");
    ok(catalog, &[put(&trashed(&second))]);
    ok(catalog, &[put(&restored)]);
    assert_eq!(find(catalog, "a").map(|v| v.id), Some(VolumeId(1)));
    // What is in the trash has no name to take along when it goes.
    ok(catalog, &[remove(2, 2)]);
    assert_eq!(find(catalog, "a").map(|v| v.id), Some(VolumeId(1)));
}

fn names_move_within_a_commit(catalog: &dyn Catalog) {
    ok(catalog, &[put(&volume(1, "a")), put(&volume(2, "b"))]);
    let (a, b) = (
        VolumeRecord {
            version: 1,
            ..volume(1, "b")
        },
        VolumeRecord {
            version: 1,
            ..volume(2, "a")
        },
    );
    ok(catalog, &[put(&a), put(&b)]);
    assert_eq!(find(catalog, "a").map(|v| v.id), Some(VolumeId(2)));
    assert_eq!(find(catalog, "b").map(|v| v.id), Some(VolumeId(1)));
    // A successor may come before its predecessor has gone.
    ok(catalog, &[put(&volume(3, "a")), remove(2, 2)]);
    assert_eq!(find(catalog, "a").map(|v| v.id), Some(VolumeId(3)));
    let old = read(catalog, 1).expect("a volume");
    ok(catalog, &[put(&volume(4, "b")), put(&trashed(&old))]);
    assert_eq!(find(catalog, "b").map(|v| v.id), Some(VolumeId(4)));
    look(catalog);
}

fn snapshots_are_replaced_by_version(catalog: &dyn Catalog) {
    let mut s = snapshot(1, 10, "s");
    ok(catalog, &[put(&volume(1, "a")), put_snapshot(&s)]);
    refused(catalog, ErrorKind::Conflict, &[put_snapshot(&s)]);
    s.version = 1;
    s.root = Some(Root {
        pointer: Pointer::new(PackId(1), 0),
        height: 1,
    });
    ok(catalog, &[put_snapshot(&s)]);
    refused(catalog, ErrorKind::Conflict, &[put_snapshot(&s)]);
    s.version = 2;
    assert_eq!(look(catalog).2, vec![s.clone()]);
    let missing = SnapshotRecord {
        version: 1,
        ..snapshot(1, 11, "t")
    };
    refused(catalog, ErrorKind::Conflict, &[put_snapshot(&missing)]);
    for wrong in [0, 1, 3] {
        refused(
            catalog,
            ErrorKind::Conflict,
            &[remove_snapshot(1, 10, wrong)],
        );
    }
    refused(catalog, ErrorKind::Conflict, &[remove_snapshot(1, 11, 1)]);
    ok(catalog, &[remove_snapshot(1, 10, 2)]);
    assert_eq!(look(catalog).2, vec![]);
    let found = catalog.find_snapshot(VolumeId(1), &name("s"));
    assert_eq!(found.expect("a look-up"), None);
}

fn names_of_snapshots_are_unique_in_their_volume(catalog: &dyn Catalog) {
    let volumes = [put(&volume(1, "a")), put(&volume(2, "b"))];
    ok(catalog, &volumes);
    let (s, other) = (snapshot(1, 10, "s"), snapshot(2, 11, "s"));
    ok(catalog, &[put_snapshot(&s), put_snapshot(&other)]);
    let again = snapshot(1, 12, "s");
    refused(catalog, ErrorKind::Exists, &[put_snapshot(&again)]);
    let twins = [snapshot(1, 12, "t"), snapshot(1, 13, "t")];
    refused(catalog, ErrorKind::Exists, &twins.map(|t| put_snapshot(&t)));
    ok(catalog, &[put_snapshot(&snapshot(1, 12, "t"))]);
    let renamed = SnapshotRecord {
        version: 1,
        ..snapshot(1, 12, "s")
    };
    refused(catalog, ErrorKind::Exists, &[put_snapshot(&renamed)]);
    ok(
        catalog,
        &[put_snapshot(&renamed), remove_snapshot(1, 10, 1)],
    );
    let found = catalog.find_snapshot(VolumeId(1), &name("s"));
    assert_eq!(
        found.expect("a look-up").map(|s| s.id),
        Some(SnapshotId(12))
    );
    look(catalog);
}

fn snapshots_need_their_volume(catalog: &dyn Catalog) {
    let s = snapshot(1, 10, "s");
    refused(catalog, ErrorKind::Invalid, &[put_snapshot(&s)]);
    ok(catalog, &[put_snapshot(&s), put(&volume(1, "a"))]);
    ok(catalog, &[remove_snapshot(1, 10, 1)]);
    let both = [remove(1, 1), put_snapshot(&s)];
    refused(catalog, ErrorKind::Invalid, &both);
}

fn a_volume_goes_after_its_snapshots(catalog: &dyn Catalog) {
    let snapshots = [snapshot(1, 10, "s"), snapshot(1, 11, "t")];
    let neighbours = [snapshot(2, 12, "s")];
    ok(catalog, &[put(&volume(1, "a")), put(&volume(2, "b"))]);
    ok(catalog, &snapshots.each_ref().map(put_snapshot));
    ok(catalog, &neighbours.each_ref().map(put_snapshot));
    refused(catalog, ErrorKind::Invalid, &[remove(1, 1)]);
    let one = [remove_snapshot(1, 10, 1), remove(1, 1)];
    refused(catalog, ErrorKind::Invalid, &one);
    let all = [
        remove_snapshot(1, 10, 1),
        remove(1, 1),
        remove_snapshot(1, 11, 1),
    ];
    ok(catalog, &all);
    let (_, volumes, left) = look(catalog);
    assert_eq!((volumes.len(), left.len()), (1, 1));
    assert_eq!(catalog.snapshots(VolumeId(1)).expect("snapshots"), vec![]);
}

fn a_commit_is_all_or_nothing(catalog: &dyn Catalog) {
    ok(catalog, &[put(&volume(1, "a"))]);
    let good = [
        Change::PutSettings(Settings::default()),
        put(&volume(2, "b")),
        put_snapshot(&snapshot(1, 10, "s")),
    ];
    let bad = [
        (ErrorKind::Exists, put(&volume(3, "a"))),
        (ErrorKind::Conflict, put(&volume(1, "c"))),
        (ErrorKind::Conflict, remove(7, 1)),
        (ErrorKind::Invalid, put_snapshot(&snapshot(9, 11, "s"))),
        (ErrorKind::Exists, put_snapshot(&snapshot(1, 11, "s"))),
        // A record that another change is about already.
        (ErrorKind::Invalid, put(&volume(2, "d"))),
    ];
    for (kind, change) in bad {
        for at in 0..=good.len() {
            let mut changes = good.to_vec();
            changes.insert(at, change.clone());
            refused(catalog, kind, &changes);
        }
    }
    ok(catalog, &good);
}

fn an_older_epoch_is_refused(catalog: &dyn Catalog) {
    let at = |epoch, version| VolumeRecord {
        epoch: Epoch(epoch),
        version,
        ..volume(1, "a")
    };
    ok(catalog, &[put(&at(5, 0))]);
    ok(catalog, &[put(&at(5, 1))]);
    refused(catalog, ErrorKind::StaleEpoch, &[put(&at(4, 2))]);
    // Who was fenced must stop, not read again and try once more.
    refused(catalog, ErrorKind::StaleEpoch, &[put(&at(4, 1))]);
    ok(catalog, &[put(&at(6, 2))]);
    refused(catalog, ErrorKind::StaleEpoch, &[put(&at(5, 3))]);
    refused(catalog, ErrorKind::Conflict, &[put(&at(7, 2))]);
    assert_eq!(read(catalog, 1), Some(at(6, 3)));
}

fn lists_are_in_order_of_id(catalog: &dyn Catalog) {
    let ids = [300, 2, 256, 1, 1 << 40, 255];
    for id in ids {
        ok(
            catalog,
            &[put(&volume(id, &format!("v{}", 1000 - id % 1000)))],
        );
    }
    for id in ids {
        ok(
            catalog,
            &[put_snapshot(&snapshot(2, id, &format!("s{id}")))],
        );
    }
    let sorted = vec![1, 2, 255, 256, 300, 1 << 40];
    let (_, volumes, snapshots) = look(catalog);
    let volumes: Vec<_> = volumes.iter().map(|v| v.id.0).collect();
    assert_eq!(volumes, sorted);
    let snapshots: Vec<_> = snapshots.iter().map(|s| s.id.0).collect();
    assert_eq!(snapshots, sorted);
}

fn ids_and_epochs_only_grow(catalog: &dyn Catalog) {
    for kind in [IdKind::Pack, IdKind::Volume, IdKind::Snapshot] {
        let reserve = |count| catalog.reserve(kind, count).expect("ids");
        assert_eq!(reserve(1), 1..2, "{kind:?}");
        let mut end = 2;
        for count in [1, 0, 1000, 3] {
            let range = reserve(count);
            assert!(range.start >= end, "{kind:?}: {range:?} after {end}");
            assert_eq!(range.end - range.start, count);
            end = range.end;
        }
        let error = catalog.reserve(kind, u64::MAX).expect_err("too many ids");
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(reserve(1).start >= end);
    }
    let too_many = catalog.reserve(IdKind::Pack, PackId::LIMIT);
    assert_eq!(too_many.expect_err("ids").kind(), ErrorKind::Invalid);
    let epochs: Vec<_> = (0..3)
        .map(|_| catalog.next_store_epoch().expect("an epoch"))
        .collect();
    assert!(epochs[0] >= Epoch(1) && epochs.is_sorted_by(|a, b| a < b));
}

fn racing_writers_lose_nothing(catalog: &dyn Catalog) {
    const WRITERS: u64 = 4;
    const ROUNDS: u64 = 5;
    let race = || {
        let mut ids = Vec::new();
        for _ in 0..ROUNDS {
            ids.extend(catalog.reserve(IdKind::Pack, 3).expect("ids"));
            while !count_up(catalog) {}
        }
        ids
    };
    let ids: Vec<u64> = std::thread::scope(|scope| {
        let writers: Vec<_> = (0..WRITERS).map(|_| scope.spawn(race)).collect();
        let ids = writers.into_iter().map(|w| w.join().expect("a writer"));
        ids.flatten().collect()
    });
    let distinct: HashSet<_> = ids.iter().collect();
    assert_eq!(distinct.len() as u64, WRITERS * ROUNDS * 3);
    let settings = catalog.settings().expect("settings");
    assert_eq!(settings.version, WRITERS * ROUNDS);
    let counted = settings.trash_keep_s - Settings::default().trash_keep_s;
    assert_eq!(counted, WRITERS * ROUNDS);
}

/// Adds one to a number in the settings, unless somebody else was faster.
fn count_up(catalog: &dyn Catalog) -> bool {
    let mut settings = catalog.settings().expect("settings");
    settings.trash_keep_s += 1;
    match catalog.commit(&[Change::PutSettings(settings)]) {
        Ok(()) => true,
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::Conflict, "{error:?}");
            false
        }
    }
}

fn contents_are_everything_and_count_commits(catalog: &dyn Catalog) {
    let mut expected = catalog.contents().expect("contents");
    let mut take = |step: Step, done: &dyn Fn() -> bool| {
        assert!(done(), "{step:?}");
        expected.apply(&step).expect("a step that was taken");
        assert_eq!(catalog.contents().expect("contents"), expected);
    };
    let changes = vec![
        Change::PutSettings(Settings::default()),
        Change::PutVolume(volume(3, "a")),
        Change::PutSnapshot(snapshot(3, 7, "s")),
    ];
    take(Step::Commit(changes.clone()), &|| {
        catalog.commit(&changes).is_ok()
    });
    take(Step::Reserve(IdKind::Pack, 5), &|| {
        catalog.reserve(IdKind::Pack, 5).is_ok()
    });
    take(Step::Reserve(IdKind::Snapshot, 2), &|| {
        catalog.reserve(IdKind::Snapshot, 2).is_ok()
    });
    take(Step::Epoch, &|| catalog.next_store_epoch().is_ok());
    let refused = [Change::PutVolume(volume(3, "b"))];
    assert!(catalog.commit(&refused).is_err() && catalog.commit(&[]).is_ok());
    assert_eq!(catalog.contents().expect("contents"), expected);
}
