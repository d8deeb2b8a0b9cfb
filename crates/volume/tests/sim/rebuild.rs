//! Stores whose catalog is lost, damaged or old between two lives, and made anew from what else there is.

use crate::{
    BLOCKS, DIR, Dice, Replay,
    blocks::{Contents, bytes_of, tag_of},
    machine::Machine,
    model::{End, Model},
    name,
    random::{any_op, config},
    range_from,
};
use block::Durability;
use env::OpenOptions;
use sim::SimEnv;
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};
use types::{BLOCK_SIZE, VolumeRef};
use volume::{Config, Create, Error, ErrorKind, InitOptions, Rebuilt, Source, Store};

fn dir() -> &'static Path {
    Path::new(DIR)
}

fn catalog() -> PathBuf {
    dir().join("catalog.redb")
}

fn bytes(sim: &SimEnv, path: &Path) -> Vec<u8> {
    sim.env().files.read_all(path).unwrap()
}

/// Replaces a file, durably.
fn put(sim: &SimEnv, path: &Path, bytes: Option<&[u8]>) {
    let files = sim.env().files;
    files.remove(path).unwrap();
    if let Some(bytes) = bytes {
        let options = OpenOptions {
            write: true,
            create_new: true,
            direct: false,
        };
        let file = files.open(path, options).unwrap();
        file.write_at(0, bytes).unwrap();
        file.sync_data().unwrap();
    }
    files.sync_dir(path.parent().unwrap()).unwrap();
}

fn copies(sim: &SimEnv) -> Vec<PathBuf> {
    let dir = dir().join("catalog-copy");
    let mut names = sim.env().files.list(&dir).unwrap();
    names.retain(|name| name.extension().is_some_and(|e| e == "copy"));
    names.sort();
    names.iter().map(|name| dir.join(name)).collect()
}

/// Spoils a file: it is gone, cut short, of the past, or some of its sectors are not what they were.
fn spoil(sim: &SimEnv, dice: &mut Dice, path: &Path, old: Option<&[u8]>) {
    let mut bytes = bytes(sim, path);
    match (dice.roll(4), old) {
        (0, _) => return put(sim, path, None),
        (1, _) => bytes.truncate(dice.roll(bytes.len() as u64) as usize),
        (2, Some(old)) => bytes = old.to_vec(),
        _ => {
            let (first, every) = (dice.roll(64) as usize, 1 + dice.roll(32) as usize);
            for sector in bytes.chunks_mut(512).skip(first).step_by(every) {
                let at = dice.roll(sector.len() as u64) as usize;
                sector[at] ^= 1 << dice.roll(8);
            }
        }
    }
    put(sim, path, Some(&bytes));
}

fn open(sim: &SimEnv, config: &Config) -> Result<Store, Error> {
    Store::open(&sim.env(), dir(), config.clone())
}

fn rebuild(sim: &SimEnv, config: &Config) -> Option<Rebuilt> {
    Store::rebuild_catalog(&sim.env(), dir(), config, false).unwrap()
}

/// Makes the catalog anew, if the store is refused. Answers what was made, and how the store was left.
pub(crate) fn repair(machine: &mut Machine, dice: &mut Dice, end: End) -> (Option<Rebuilt>, End) {
    let refused = match machine.open() {
        Ok(()) => {
            machine.crash(End::Killed);
            return (None, end.and_then(End::Killed));
        }
        Err(refused) => refused,
    };
    assert_eq!(refused.kind(), ErrorKind::Damaged, "{refused:?}");
    let line = refused.to_string();
    assert!(line.ends_with("holdfast check /store --repair"), "{line}");
    let config = machine.config.clone();
    let planned = Store::rebuild_catalog(&machine.sim.env(), dir(), &config, true).unwrap();
    assert!(planned.is_some());
    machine.open().expect_err("a dry run changes nothing");
    let mut end = end;
    if dice.roll(2) == 0 {
        machine.sim.crash_after(1 + dice.roll(60));
        let _ = Store::rebuild_catalog(&machine.sim.env(), dir(), &config, false);
        machine.crash(End::PowerCut);
        end = end.and_then(End::PowerCut);
    }
    let rebuilt = rebuild(&machine.sim, &config);
    assert!(rebuild(&machine.sim, &config).is_none(), "it is sound now");
    // The one that died may have come to its end.
    (rebuilt.or(planned), end)
}

/// Ends a life, perhaps in the middle of something.
fn live(machine: &mut Machine, dice: &mut Dice, ops: usize, dies: bool) -> End {
    let end = [End::Closed, End::Killed, End::PowerCut][dice.roll(3) as usize];
    let dies = dies && end == End::PowerCut && dice.roll(2) == 0;
    if dies {
        machine.sim.crash_after(1 + dice.roll(300));
    }
    for _ in 0..ops {
        let op = any_op(&machine.model, dice);
        if let Err(e) = machine.apply(&op) {
            assert!(dies, "{op:?}: {e:?}");
            break;
        }
    }
    match end {
        End::Closed => machine.close().unwrap(),
        end => machine.crash(end),
    }
    end
}

/// What a rebuild says of a snapshot.
const UNFILLED: &str = "removed: it was still being imported where the copy ends";

/// Lives with crashes anywhere; between them the catalog is lost. Its copy knows everything.
pub(crate) fn lost_catalogs(seed: u64, imports: bool) {
    let mut machine = Machine::new(seed, config(seed));
    machine.model.imports = imports;
    let mut dice = Dice::of_seed(seed);
    let mut old: Option<Vec<u8>> = None;
    for _ in 0..5 {
        let end = live(&mut machine, &mut dice, 25, true);
        let now = bytes(&machine.sim, &catalog());
        spoil(&machine.sim, &mut dice, &catalog(), old.as_deref());
        old = Some(now);
        let (rebuilt, left) = repair(&mut machine, &mut dice, end);
        if let Some(rebuilt) = rebuilt {
            // A crash while the copy was written looks like damage to its end. Had the end of an import been committed
            // then, nothing would be known of what its snapshots lack.
            let older = &rebuilt.older;
            let unfilled = older.iter().filter(|(_, what)| what == UNFILLED);
            let unfilled: Vec<VolumeRef> = unfilled.map(|(of, _)| of.parse().unwrap()).collect();
            let torn =
                end == End::PowerCut && older.len() == 1 + unfilled.len() && older[0].0.is_empty();
            for snapshot in unfilled {
                let history = machine.model.volumes.get_mut(snapshot.volume.as_str());
                let name = snapshot.snapshot.unwrap();
                history.unwrap().snapshots.remove(name.as_str()).unwrap();
            }
            let complete = rebuilt.older.is_empty() && rebuilt.from.contains("complete");
            assert!(complete || torn, "{rebuilt:?}");
        }
        machine.recover(left, &[]);
    }
}

/// Other seeds with `HOLDFAST_SEEDS=FIRST..LAST`.
#[test]
fn a_lost_catalog_is_made_anew_from_its_copy_and_nothing_is_missing() {
    const TEST: &str = "rebuild::a_lost_catalog_is_made_anew_from_its_copy_and_nothing_is_missing";
    for seed in range_from("HOLDFAST_SEEDS", 0..20) {
        let _replay = Replay::new("HOLDFAST_SEEDS", &format!("{seed}..{}", seed + 1), TEST);
        lost_catalogs(seed, false);
    }
}

/// Every state that a volume or a snapshot of a name ever had; zeroes at the end left out, as sizes may be larger.
#[derive(Default)]
struct Ever(BTreeMap<String, Vec<Contents>>);

fn trimmed(contents: &Contents) -> Contents {
    let len = contents.iter().rposition(|tag| *tag != 0);
    contents[..len.map_or(0, |last| last + 1)].to_vec()
}

impl Ever {
    fn note(&mut self, model: &Model) {
        for (volume, history) in &model.volumes {
            let states = history.allowed(End::PowerCut).iter().map(trimmed);
            self.0.entry(volume.clone()).or_default().extend(states);
            for (snapshot, contents) in &history.snapshots {
                let states = self.0.entry(format!("{volume}@{snapshot}")).or_default();
                states.push(trimmed(contents));
            }
        }
        self.0.values_mut().for_each(|states| {
            states.sort_unstable();
            states.dedup();
        });
    }

    fn has(&self, r: &VolumeRef, contents: &Contents) -> bool {
        let states = self.0.get(&r.to_string());
        states.is_some_and(|states| states.binary_search(contents).is_ok())
    }
}

/// Catalog and copies are damaged. What comes back is what was, at some time; never a mixture, nothing invented.
pub(crate) fn lost_copies(seed: u64, imports: bool) -> usize {
    let mut machine = Machine::new(seed, config(seed));
    machine.model.imports = imports;
    let mut dice = Dice::of_seed(seed);
    let mut ever = Ever::default();
    let mut end = End::Closed;
    for life in 0..1 + dice.roll(2) {
        if life > 0 {
            machine.recover(end, &[]);
        }
        for _ in 0..4 {
            for _ in 0..10 {
                let op = any_op(&machine.model, &mut dice);
                machine.must(&op);
                ever.note(&machine.model);
            }
        }
        end = live(&mut machine, &mut dice, 0, false);
    }
    put(&machine.sim, &catalog(), None);
    for copy in copies(&machine.sim) {
        spoil(&machine.sim, &mut dice, &copy, None);
    }
    let (rebuilt, _) = repair(&mut machine, &mut dice, end);
    let rebuilt = rebuilt.expect("the catalog is gone");
    let said = rebuilt.older.iter();
    let unreadable: Vec<&String> = said
        .filter(|(_, what)| what.contains("cannot be read"))
        .map(|(owner, _)| owner)
        .collect();
    let (env, config) = (machine.sim.env(), machine.config.clone());
    let (store, lost) = Store::open_without_lost_flushes(&env, dir(), config).unwrap();
    // A copy that ends between two steps looks complete.
    let looked_complete = rebuilt.from.contains("complete");
    assert!(lost.is_empty() || looked_complete, "{lost:?} {rebuilt:?}");
    let mut checked = 0;
    for volume in store.catalog().volumes().unwrap() {
        let snapshots = match volume.trashed {
            Some(_) => continue,
            None => store.snapshots(&volume.name).unwrap().into_iter(),
        };
        for snapshot in snapshots.map(|s| Some(s.name)).chain([None]) {
            let r = VolumeRef {
                volume: volume.name.clone(),
                snapshot,
            };
            if !unreadable.contains(&&r.to_string()) {
                let contents = contents(&store, &r.to_string());
                assert!(ever.has(&r, &contents), "{r}: {rebuilt:?}");
                checked += 1;
            }
        }
    }
    checked
}

/// Other seeds with `HOLDFAST_SEEDS=FIRST..LAST`.
#[test]
fn without_a_whole_copy_volumes_are_what_they_were_and_never_a_mixture() {
    const TEST: &str =
        "rebuild::without_a_whole_copy_volumes_are_what_they_were_and_never_a_mixture";
    let seeds = range_from("HOLDFAST_SEEDS", 0..60);
    let (mut checked, all) = (0, seeds.end - seeds.start);
    for seed in seeds {
        let _replay = Replay::new("HOLDFAST_SEEDS", &format!("{seed}..{}", seed + 1), TEST);
        checked += lost_copies(seed, false);
    }
    assert!(
        checked as u64 > all || all < 10,
        "{checked} volumes and snapshots came back"
    );
}

/// A clone had grown after the copy ends, and was written to in its new part: that its journal says so was not looked
/// at, so those writes were cut off while later ones stayed.
#[test]
fn seed_11_a_clone_that_grew_was_cut_off() {
    lost_copies(11, false);
}

/// The copy's beginning was lost, its later steps were not. The new catalog counted its commits from one, so that the
/// steps of the old one seemed to follow on it: it was refused as older than its copy.
#[test]
fn seed_1645_steps_of_a_lost_copy_followed_on_the_new_catalog() {
    lost_copies(1645, false);
}

/// The copy was cut off just between two steps, so that it seemed to be complete, although packs had volumes that it
/// never heard of: the journal did not follow on what it had.
#[test]
fn seed_40_a_copy_without_its_last_steps_seemed_complete() {
    lost_copies(40, false);
}

/// The same, before a volume was removed and collected: that it could not be read any more was not said.
#[test]
fn seed_1704_a_removed_volume_came_back_without_its_blocks() {
    lost_copies(1704, false);
}

/// A generation was flushed in part, destaged, and its pack collected after a rollback: its note was gone. The journal
/// had that part and the next generation, and no number was missing between them, so both were put upon an older root.
#[test]
fn seed_3665_parts_of_a_generation_were_taken_for_all_of_it() {
    lost_copies(3665, false);
}

/// The same with no copy at all.
#[test]
fn seed_3236_parts_of_a_generation_were_taken_for_all_of_it() {
    lost_copies(3236, false);
}

/// A volume was cut off, then rolled back to what it was before, and the rollback was lost: it came back as before, but
/// cut off.
#[test]
fn seed_3756_a_volume_that_was_set_back_was_cut_off() {
    lost_copies(3756, false);
}

/// The same, and no note is of the generation that it was set back to, but of its root.
#[test]
fn seed_3858_a_volume_that_was_set_back_was_cut_off() {
    lost_copies(3858, false);
}

fn make(store: &Store, volume: &str) {
    let create = Create::new(name(volume), Source::Empty((BLOCKS * BLOCK_SIZE) as u64));
    store.create_volume(&create).unwrap();
}

fn write(store: &Store, volume: &str, at: usize, tag: u32) {
    let block = bytes_of(&[tag]);
    let device = store.device(&name(volume).into()).unwrap();
    let offset = (at * BLOCK_SIZE) as u64;
    device.write(offset, &block, Durability::Durable).unwrap();
}

fn contents(store: &Store, r: &str) -> Contents {
    let device = store.device(&r.parse().unwrap()).unwrap();
    let mut bytes = vec![0xee; device.info().size as usize];
    device.read(0, &mut bytes).unwrap();
    let tag = |block| tag_of(block).unwrap_or_else(|| panic!("{r}: a mixture"));
    trimmed(&bytes.chunks(BLOCK_SIZE).map(tag).collect())
}

/// A store with a volume of two destages, a snapshot, and a flush that is only in the journal.
fn sample(sim: &SimEnv) -> Store {
    Store::init(&sim.env(), dir(), &InitOptions::default()).unwrap();
    let store = open(sim, &Config::small()).unwrap();
    make(&store, "a");
    make(&store, "b");
    write(&store, "a", 0, 1);
    write(&store, "b", 0, 9);
    store.settle_all().unwrap();
    write(&store, "a", 1, 2);
    store.create_snapshot(&name("a"), &name("s")).unwrap();
    store.settle_all().unwrap();
    write(&store, "a", 2, 3);
    store
}

#[test]
fn notes_alone_give_volumes_back_with_their_names() {
    let sim = SimEnv::new(1);
    drop(sample(&sim));
    sim.power_cut();
    put(&sim, &catalog(), None);
    copies(&sim).iter().for_each(|copy| put(&sim, copy, None));
    let rebuilt = rebuild(&sim, &Config::small()).unwrap();
    assert_eq!((rebuilt.volumes, rebuilt.snapshots), (2, 0));
    assert_eq!(rebuilt.from, "notes in packs alone");
    let [(owner, what)] = &rebuilt.older[..] else {
        panic!("{rebuilt:?}")
    };
    assert!(owner.is_empty() && what.contains("snapshots"), "{what}");
    let store = open(&sim, &Config::small()).unwrap();
    assert_eq!(contents(&store, "a"), [1, 2, 3], "packs, then the journal");
    assert_eq!(contents(&store, "b"), [9]);
    // Nothing that is there is overwritten by what is new.
    make(&store, "c");
    write(&store, "c", 0, 7);
    store.settle_all().unwrap();
    assert_eq!(contents(&store, "a"), [1, 2, 3]);
    drop(store);
    let store = open(&sim, &Config::small()).unwrap();
    assert_eq!(contents(&store, "c"), [7]);
}

/// The copy ends before the last destage and the snapshot that waited for it: the packs' notes have both.
#[test]
fn notes_lead_on_from_where_a_damaged_copy_ends() {
    let sim = SimEnv::new(1);
    let store = sample(&sim);
    let records = store.catalog().contents().unwrap();
    store.create_snapshot(&name("a"), &name("t")).unwrap();
    let copy = copies(&sim).pop().unwrap();
    let known = bytes(&sim, &copy).len();
    store.settle_all().unwrap();
    write(&store, "a", 3, 4);
    drop(store);
    sim.power_cut();
    put(&sim, &catalog(), None);
    let mut damaged = bytes(&sim, &copy);
    damaged[known - 3] ^= 0x40;
    put(&sim, &copy, Some(&damaged));
    let rebuilt = rebuild(&sim, &Config::small()).unwrap();
    assert_eq!((rebuilt.volumes, rebuilt.snapshots), (2, 2), "{rebuilt:?}");
    assert_eq!(rebuilt.older.len(), 1, "{rebuilt:?}");
    let store = open(&sim, &Config::small()).unwrap();
    assert_eq!(contents(&store, "a"), [1, 2, 3, 4]);
    assert_eq!(contents(&store, "a@s"), [1, 2]);
    assert_eq!(contents(&store, "a@t"), [1, 2, 3]);
    let after = store.catalog().contents().unwrap();
    assert!(after.commit > records.commit && after.epoch > records.epoch);
    assert!(after.last_pack > records.last_pack);
}

/// An older catalog that is whole would hide what was destaged since, behind a journal that was used again.
#[test]
fn an_older_catalog_is_told_and_refused() {
    let sim = SimEnv::new(1);
    let store = sample(&sim);
    store.close().unwrap();
    drop(store);
    let old = bytes(&sim, &catalog());
    let store = open(&sim, &Config::small()).unwrap();
    write(&store, "a", 5, 6);
    store.close().unwrap();
    drop(store);
    let new = bytes(&sim, &catalog());
    put(&sim, &catalog(), Some(&old));
    let refused = open(&sim, &Config::small()).err().unwrap();
    assert!(
        refused.to_string().contains("is older than its copy"),
        "{refused}"
    );
    let rebuilt = rebuild(&sim, &Config::small()).unwrap();
    let kept = rebuilt.kept.expect("the old one");
    assert_eq!(bytes(&sim, &kept).len(), old.len());
    let store = open(&sim, &Config::small()).unwrap();
    assert_eq!(contents(&store, "a"), [1, 2, 3, 0, 0, 6]);
    drop(store);
    // The right one was not lost after all, but time has gone on: it is old now.
    put(&sim, &catalog(), Some(&new));
    let refused = open(&sim, &Config::small()).err().unwrap();
    assert_eq!(refused.kind(), ErrorKind::Damaged);
}

/// A rollback is a root that no destage made. Without the copy the volume goes back to before it; what was written
/// after it is not put on top of that.
#[test]
fn what_follows_a_rollback_is_not_mixed_with_what_was_before() {
    let sim = SimEnv::new(1);
    let store = sample(&sim);
    store.rollback(&name("a"), &name("s")).unwrap();
    assert_eq!(contents(&store, "a"), [1, 2]);
    write(&store, "a", 4, 5);
    drop(store);
    sim.power_cut();
    put(&sim, &catalog(), None);
    let saved: Vec<_> = copies(&sim)
        .into_iter()
        .map(|c| (bytes(&sim, &c), c))
        .collect();
    saved.iter().for_each(|(_, copy)| put(&sim, copy, None));
    let rebuilt = rebuild(&sim, &Config::small()).unwrap();
    let owners: Vec<&str> = rebuilt.older.iter().map(|(o, _)| o.as_str()).collect();
    assert_eq!(owners, ["", "a"], "{rebuilt:?}");
    let store = open(&sim, &Config::small()).unwrap();
    assert_eq!(
        contents(&store, "a"),
        [1, 2],
        "as it was after the last destage"
    );
}
