//! Journal segments.

use crate::machine::{ALL, BLOCKS, DIR, Damage, Machine, block, damage, files_of, name};
use std::path::{Path, PathBuf};
use types::BLOCK_SIZE;
use volume::{ErrorKind, LostFlushes, Source, Store, Update};

/// Flushes so many times, a volume in turn; each writes its number to every block of a few.
const FLUSHES: u64 = 14;
/// Blocks that each flush writes: a segment has room for some flushes.
const WRITTEN: u64 = 60;

/// Two volumes with nothing in packs; all is in the journal, and durable.
fn machine() -> Machine {
    let mut machine = Machine::new(11);
    for volume in ["a", "b"] {
        machine.create(volume, Source::Empty(BLOCKS * BLOCK_SIZE as u64));
    }
    for n in 1..=FLUSHES {
        let volume = if n % 2 == 0 { "a" } else { "b" };
        machine.write(volume, 0, (0..WRITTEN).map(|_| n));
        machine.device(volume).flush().unwrap();
    }
    machine.sim.power_cut();
    machine
}

fn segments(machine: &Machine) -> Vec<PathBuf> {
    files_of(&*machine.files(), &Path::new(DIR).join("journal"), ".seg")
}

/// Which flush a volume is at: all its blocks say so.
fn flush_of(store: &Store, of: &str) -> u64 {
    let device = store.device(&of.parse().unwrap()).unwrap();
    let mut bytes = vec![0; (WRITTEN as usize) * BLOCK_SIZE];
    device.read(0, &mut bytes).unwrap();
    let (first, _) = bytes.split_at(BLOCK_SIZE);
    assert!(
        bytes.chunks(BLOCK_SIZE).all(|other| other == first),
        "{of} is a mixture"
    );
    (0..=FLUSHES).find(|n| block(*n) == *first).unwrap()
}

/// Damages segment `n` of a new machine. `None` if there are not so many.
fn damaged(n: usize, how: Damage) -> Option<Machine> {
    let machine = machine();
    let segments = segments(&machine);
    let path = segments.get(n)?;
    let other = &segments[(n + 1) % segments.len()];
    let spare = Path::new(DIR).join("journal/00000077.seg");
    damage(&*machine.files(), how, path, other, &spare);
    Some(machine)
}

fn for_all(mut attack: impl FnMut(&mut Machine, usize, Damage)) {
    let mut cases = 0;
    for how in ALL.into_iter().step_by(2) {
        for n in 0.. {
            let Some(mut machine) = damaged(n, how) else {
                break;
            };
            attack(&mut machine, n, how);
            cases += 1;
        }
    }
    assert!(cases >= ALL.len() * 2, "{cases} cases");
}

pub(crate) fn repair(machine: &Machine, dry_run: bool) -> Option<volume::JournalDamage> {
    let (env, dir) = (machine.sim.env(), Path::new(DIR));
    Store::repair_journal(&env, dir, &Machine::config(), dry_run).unwrap()
}

pub(crate) fn open_anyhow(machine: &Machine) -> (Store, Vec<LostFlushes>) {
    let (env, dir) = (machine.sim.env(), Path::new(DIR));
    Store::open_without_lost_flushes(&env, dir, Machine::config()).unwrap()
}

/// What `a`, `a@s` and `b` were at last.
const LAST: [u64; 2] = [FLUSHES, FLUSHES - 1];

fn flushes(store: &Store) -> [u64; 2] {
    ["a", "b"].map(|of| flush_of(store, of))
}

#[test]
fn a_damaged_journal_is_an_error_or_all_of_it_is_there_but_the_last_commit() {
    let (mut whole, mut refused, mut short) = (0, 0, 0);
    for_all(|machine, n, how| match Machine::open(&machine.sim) {
        Ok(store) => match flushes(&store) {
            LAST => whole += 1,
            // The last commit may look torn, and the last segments as if they had never been.
            _ => {
                assert!(n + 2 >= segments(machine).len(), "segment {n}, {how:?}");
                short += 1;
            }
        },
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::Damaged, "{error:?}");
            let text = error.to_string();
            let says = ["journal: recovery: ", "flushes are lost: "];
            assert!(says.iter().any(|says| text.starts_with(says)), "{text}");
            refused += 1;
        }
    });
    assert!(whole > 2 && refused > 15, "{whole} {refused} {short}");
}

#[test]
fn a_repair_keeps_what_is_readable_and_names_who_lost_flushes() {
    let (mut kept_all, mut kept_more, mut named_at_last) = (0, 0, 0);
    for_all(|machine, n, how| {
        let case = format!("segment {n}, {how:?}");
        let refused = Machine::open(&machine.sim).err();
        machine.sim.kill();
        let before = machine.files().list(Path::new(DIR)).unwrap();
        let plan = repair(machine, true);
        assert_eq!(
            machine.files().list(Path::new(DIR)).unwrap(),
            before,
            "{case}"
        );
        let done = repair(machine, false);
        let (plan, done) = match (plan, done) {
            (Some(plan), Some(done)) => (plan, done),
            (None, None) => {
                // Nothing is wrong with it, or nothing that its segments could tell.
                let (store, lost) = open_anyhow(machine);
                assert_eq!(lost.is_empty(), refused.is_none(), "{case}: {refused:?}");
                let [a, b] = flushes(&store);
                assert!(a <= LAST[0] && b <= LAST[1]);
                return;
            }
            other => panic!("{case}: {other:?}"),
        };
        assert!(
            refused.is_some(),
            "{case}: repaired without need: {}",
            plan.damage
        );
        assert_eq!((plan.damage, plan.kept), (done.damage, done.kept), "{case}");
        assert!(machine.files().exists(&done.aside).unwrap());
        let (store, lost) = open_anyhow(machine);
        let now = flushes(&store);
        let [a, b] = now;
        // Of each volume the first so many flushes, each of them whole, and as many as was said.
        assert_eq!(a / 2 + b.div_ceil(2), done.kept, "{case}");
        assert_eq!(lost, [], "{case}");
        // Who lost flushes is said, and who is said to have lost some has.
        for (volume, (now, last)) in ["a", "b"].into_iter().zip(now.into_iter().zip(LAST)) {
            let named = |owners: &[String]| owners.iter().any(|owner| owner == volume);
            let (cut, unsure) = (named(&done.cut), named(&done.unsure));
            assert!(now == last || cut || unsure, "{case}: {volume} at {now}");
            assert!(!cut || now < last, "{case}: {volume} at {now}");
            named_at_last += usize::from(cut);
        }
        kept_more += usize::from(a.abs_diff(b) > 1);
        kept_all += usize::from(now == LAST);
        // And the store is as any other from now on.
        drop(store);
        machine.sim.power_cut();
        let store = Machine::open(&machine.sim).unwrap_or_else(|e| panic!("{case}: {e:?}"));
        assert_eq!(flushes(&store), [a, b], "{case}");
        store.settle_all().unwrap();
        store.create_snapshot(&name("b"), &name("new")).unwrap();
    });
    // A header that is lost costs nothing, and neither does a second copy.
    assert!(kept_all > 4, "{kept_all}");
    // What one volume lost is not lost to the other.
    assert!(
        kept_more > 2 && named_at_last > 4,
        "{kept_more} {named_at_last}"
    );
}

#[test]
fn a_repair_that_dies_anywhere_can_be_begun_again() {
    for die_after in 0.. {
        let machine = damaged(1, Damage::Flip(50)).unwrap();
        machine.sim.crash_after(die_after);
        let (env, dir) = (machine.sim.env(), Path::new(DIR));
        let first = Store::repair_journal(&env, dir, &Machine::config(), false);
        machine.sim.power_cut();
        repair(&machine, false);
        let (store, _) = open_anyhow(&machine);
        let [a, b] = flushes(&store);
        assert!(a.max(b) > 2, "after {die_after}: {a} {b}");
        if let Ok(Some(done)) = first {
            assert_eq!(a / 2 + b.div_ceil(2), done.kept);
            assert!(die_after > 20);
            return;
        }
    }
}

#[test]
fn a_journal_without_what_a_snapshot_needs_is_damaged_though_its_segments_are_sound() {
    let mut found = 0;
    for die_after in 1..80 {
        if found == 3 {
            break;
        }
        let machine = machine();
        let sim = &machine.sim;
        let store = Machine::open(sim).unwrap();
        sim.crash_after(die_after);
        let _ = store.create_snapshot(&name("a"), &name("s"));
        drop(store);
        sim.power_cut();
        for path in segments(&machine) {
            machine.files().remove(&path).unwrap();
        }
        let Err(refused) = Machine::open(sim) else {
            sim.kill();
            continue;
        };
        found += 1;
        assert_eq!(refused.kind(), ErrorKind::Damaged);
        assert!(
            refused.to_string().contains("the snapshot 's' needs it"),
            "{refused}"
        );
        sim.kill();
        assert!(repair(&machine, true).is_none());
        let (store, lost) = open_anyhow(&machine);
        assert_eq!([flush_of(&store, "a"), flush_of(&store, "a@s")], [0, 0]);
        let owners: Vec<_> = lost.iter().map(|lost| lost.owner.as_str()).collect();
        assert_eq!(owners, ["a", "a@s"]);
        drop(store);
        sim.kill();
        drop(Machine::open(sim).unwrap());
    }
    assert!(found > 0);
}

#[test]
fn a_journal_that_is_missing_is_damaged_and_an_empty_one_takes_its_place() {
    let machine = machine();
    let journal = Path::new(DIR).join("journal");
    machine
        .files()
        .rename(&journal, Path::new("/elsewhere"))
        .unwrap();
    let refused = Machine::open(&machine.sim).err().unwrap();
    assert_eq!(refused.kind(), ErrorKind::Damaged, "{refused}");
    machine.sim.kill();
    assert!(
        repair(&machine, true)
            .unwrap()
            .damage
            .ends_with("is missing")
    );
    assert!(!machine.files().exists(&journal).unwrap());
    repair(&machine, false).unwrap();
    let (store, _) = open_anyhow(&machine);
    assert_eq!(flushes(&store), [0, 0]);
}

/// A generation that no flush is left of, between those that are in packs and later ones.
#[test]
fn a_gap_after_what_is_in_packs_is_damage_and_what_follows_it_never_comes_back() {
    let mut machine = Machine::new(12);
    machine.create("a", Source::Empty(BLOCKS * BLOCK_SIZE as u64));
    let flush = |machine: &mut Machine, n: u64| {
        machine.write("a", 0, (0..WRITTEN).map(|_| n));
        machine.device("a").flush().unwrap();
    };
    flush(&mut machine, 1);
    // As if the catalog of before were put back beside the journal of now.
    let catalog = Path::new(DIR).join("catalog.redb");
    machine.sim.power_cut();
    let before = machine.files().read_all(&catalog).unwrap();
    machine.store = Machine::open(&machine.sim).unwrap();
    machine.store.settle_all().unwrap();
    for n in 2..=5 {
        flush(&mut machine, n);
    }
    machine.sim.power_cut();
    put_back(&machine, &catalog, &before);
    // Its copy would tell.
    let copy = Path::new(DIR).join("catalog-copy");
    for name in machine.files().list(&copy).unwrap() {
        machine.files().remove(&copy.join(name)).unwrap();
    }
    let refused = Machine::open(&machine.sim).err();
    let refused = refused.expect("a gap is no history");
    assert_eq!(refused.kind(), ErrorKind::Damaged);
    machine.sim.kill();
    repair(&machine, false);
    let (store, _) = open_anyhow(&machine);
    let now = flush_of(&store, "a");
    assert!(now <= 1, "{now}");
    // What is written now has other numbers than what is left in the journal.
    let device = store.device(&"a".parse().unwrap()).unwrap();
    device
        .write(0, &block(9), block::Durability::Durable)
        .unwrap();
    drop((device, store));
    machine.sim.power_cut();
    let store = Machine::open(&machine.sim).unwrap();
    let mut read = [0; 2 * BLOCK_SIZE];
    store
        .device(&"a".parse().unwrap())
        .unwrap()
        .read(0, &mut read)
        .unwrap();
    assert!(read[..BLOCK_SIZE] == block(9) && read[BLOCK_SIZE..] == block(now));
}

/// The last flush is lost, as if the power had gone during it, and the size that was committed after it is not.
#[test]
fn what_was_cut_off_does_not_come_back_though_the_flush_that_zeroed_it_is_lost() {
    let mut machine = Machine::new(13);
    machine.create("a", Source::Empty(BLOCKS * BLOCK_SIZE as u64));
    let (small, beyond) = (256, 300);
    machine.write("a", beyond, [1]);
    machine.store.settle_all().unwrap();
    let resize = |store: &Store, blocks: u64| {
        let update = Update {
            size: Some(blocks * BLOCK_SIZE as u64),
            allow_data_loss: true,
            ..Update::default()
        };
        store.update_volume(&name("a"), &update).unwrap();
    };
    resize(&machine.store, small);
    machine.sim.power_cut();
    for path in segments(&machine) {
        machine.files().remove(&path).unwrap();
    }
    let store = Machine::open(&machine.sim).unwrap();
    resize(&store, BLOCKS);
    let device = store.device(&"a".parse().unwrap()).unwrap();
    let mut read = [1; BLOCK_SIZE];
    device.read(beyond * BLOCK_SIZE as u64, &mut read).unwrap();
    assert!(read == block(0));
}

fn put_back(machine: &Machine, path: &Path, bytes: &[u8]) {
    let options = env::OpenOptions {
        write: true,
        ..env::OpenOptions::default()
    };
    let file = machine.files().open(path, options).unwrap();
    file.write_at(0, bytes).unwrap();
    file.set_len(bytes.len() as u64).unwrap();
}
