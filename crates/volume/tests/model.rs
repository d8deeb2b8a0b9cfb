//! Random histories of whole stores against a model in memory, with restarts, kills and power cuts.
//!
//! The model knows every state that a volume went through since its last flush: after a crash the
//! volume must be in exactly one of them, and snapshots must be what they were.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use sim::SimEnv;
use std::{collections::BTreeMap, path::Path};
use types::{BLOCK_SIZE, Name, VolumeId, VolumeRef};
use volume::{Config, Create, Error, InitOptions, Source, Store, Update};

/// Of a new volume: the fewest that one may have.
const BLOCKS: usize = 256;
const DIR: &str = "/store";

/// What each block holds: 0 is zeroes.
type Contents = Vec<u32>;

#[derive(Clone, Default)]
struct Model {
    volumes: BTreeMap<String, History>,
    trash: BTreeMap<VolumeId, (String, History)>,
    /// What an operation that failed in a crash may have done.
    doubt: Option<Doubt>,
}

#[derive(Clone)]
struct History {
    /// States since the last flush, the last one is now.
    states: Vec<Contents>,
    snapshots: BTreeMap<String, Contents>,
}

#[derive(Clone)]
enum Doubt {
    SnapshotMade(String, String, Contents),
    SnapshotGone(String, String),
    VolumeMade(String, Contents),
    VolumeTrashed(String, VolumeId),
    VolumeRestored(VolumeId),
    VolumePurged(VolumeId),
}

impl Model {
    fn trashed(&mut self, volume: &str, id: VolumeId) {
        let mut history = self.volumes.remove(volume).unwrap();
        history.flushed();
        self.trash.insert(id, (volume.to_owned(), history));
    }

    fn restored(&mut self, id: VolumeId) {
        let (volume, history) = self.trash.remove(&id).unwrap();
        self.volumes.insert(volume, history);
    }
}

impl History {
    fn new(contents: Contents) -> Self {
        History {
            states: vec![contents],
            snapshots: BTreeMap::new(),
        }
    }

    fn now(&self) -> &Contents {
        self.states.last().unwrap()
    }

    fn change(&mut self, change: impl FnOnce(&mut Contents)) {
        let mut next = self.now().clone();
        change(&mut next);
        self.states.push(next);
    }

    fn flushed(&mut self) {
        self.states = vec![self.now().clone()];
    }
}

struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % sides
    }

    fn pick<'a, T>(&mut self, from: &'a [T]) -> Option<&'a T> {
        if from.is_empty() {
            None
        } else {
            from.get(self.roll(from.len() as u64) as usize)
        }
    }
}

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

fn fill(tag: u32, block: &mut [u8]) {
    // Half of it compresses; few tags, so that blocks repeat.
    for (at, byte) in block.iter_mut().enumerate() {
        *byte = if tag == 0 || at > BLOCK_SIZE / 2 {
            0
        } else {
            (tag as usize * 31 + at * at) as u8
        };
    }
    if tag != 0 {
        block[..4].copy_from_slice(&tag.to_le_bytes());
    }
}

fn read_contents(store: &Store, r: &VolumeRef) -> Contents {
    let device = store.device(r).unwrap();
    let mut bytes = vec![0xee; device.info().size as usize];
    device.read(0, &mut bytes).unwrap();
    let mut expected = [0; BLOCK_SIZE];
    let tag_of = |block: &[u8]| {
        let tag = u32::from_le_bytes(block[..4].try_into().unwrap());
        fill(tag, &mut expected);
        assert!(block == expected, "{r}: a block is a mixture");
        tag
    };
    bytes.chunks(BLOCK_SIZE).map(tag_of).collect()
}

fn create(volume: &str, source: Source) -> Create {
    Create {
        name: name(volume),
        source,
        dedup: None,
        codec: None,
        read_only: false,
    }
}

/// One operation on the store and on the model; the error of the store, if it had one.
fn step(store: &Store, model: &mut Model, dice: &mut Dice) -> Result<(), Error> {
    let names: Vec<String> = model.volumes.keys().cloned().collect();
    let Some(volume) = dice.pick(&names).cloned() else {
        return make(store, model, &format!("v{}", dice.roll(1000)));
    };
    match dice.roll(100) {
        0..45 => write(store, model, dice, &volume),
        45..55 => zero(store, model, dice, &volume),
        55..67 => flush(store, model, &volume),
        67..77 => snapshot(store, model, &volume, &format!("s{}", dice.roll(10_000))),
        77..83 => remove_snapshot(store, model, dice, &volume),
        83..88 => rollback(store, model, dice, &volume),
        88..92 if names.len() < 4 => clone(store, model, dice, &volume),
        92..94 if names.len() < 4 => make(store, model, &format!("v{}", dice.roll(1000))),
        94..95 if names.len() > 1 => remove(store, model, &volume),
        95..96 => empty_trash(store, model, dice),
        96..97 => store.settle_all(),
        97..99 => resize(store, model, dice, &volume),
        _ => collect(store),
    }
}

fn make(store: &Store, model: &mut Model, volume: &str) -> Result<(), Error> {
    if model.volumes.contains_key(volume) {
        return Ok(());
    }
    model.doubt = Some(Doubt::VolumeMade(volume.to_owned(), vec![0; BLOCKS]));
    store.create_volume(&create(volume, Source::Empty((BLOCKS * BLOCK_SIZE) as u64)))?;
    model.doubt = None;
    model
        .volumes
        .insert(volume.to_owned(), History::new(vec![0; BLOCKS]));
    Ok(())
}

fn some_range(dice: &mut Dice, blocks: usize) -> (usize, usize) {
    let start = dice.roll(blocks as u64) as usize;
    let most = [1, 8, 64][dice.roll(3) as usize];
    let count = 1 + dice.roll(most) as usize;
    (start, count.min(blocks - start))
}

fn write(store: &Store, model: &mut Model, dice: &mut Dice, volume: &str) -> Result<(), Error> {
    let history = model.volumes.get_mut(volume).unwrap();
    let (start, count) = some_range(dice, history.now().len());
    let tags: Vec<u32> = (0..count).map(|_| dice.roll(40) as u32).collect();
    let mut bytes = vec![0; count * BLOCK_SIZE];
    for (tag, block) in tags.iter().zip(bytes.chunks_mut(BLOCK_SIZE)) {
        fill(*tag, block);
    }
    history.change(|c| c[start..start + count].copy_from_slice(&tags));
    let durable = dice.roll(8) == 0;
    let durability = if durable {
        block::Durability::Durable
    } else {
        block::Durability::Volatile
    };
    let device = store.device(&name(volume).into())?;
    device
        .write((start * BLOCK_SIZE) as u64, &bytes, durability)
        .map_err(failed)?;
    if durable {
        history.flushed();
    }
    Ok(())
}

fn failed(e: block::Error) -> Error {
    Error::new(volume::ErrorKind::Io, format!("{e:?}"))
}

fn zero(store: &Store, model: &mut Model, dice: &mut Dice, volume: &str) -> Result<(), Error> {
    let history = model.volumes.get_mut(volume).unwrap();
    let (start, count) = some_range(dice, history.now().len());
    history.change(|c| c[start..start + count].fill(0));
    let device = store.device(&name(volume).into())?;
    let (offset, len) = ((start * BLOCK_SIZE) as u64, (count * BLOCK_SIZE) as u64);
    let done = match dice.roll(2) {
        0 => device.write_zeroes(offset, len, block::Durability::Volatile),
        _ => device.discard(offset, len, block::Durability::Volatile),
    };
    done.map_err(failed)
}

fn flush(store: &Store, model: &mut Model, volume: &str) -> Result<(), Error> {
    store
        .device(&name(volume).into())?
        .flush()
        .map_err(failed)?;
    model.volumes.get_mut(volume).unwrap().flushed();
    Ok(())
}

fn snapshot(store: &Store, model: &mut Model, volume: &str, snap: &str) -> Result<(), Error> {
    let history = model.volumes.get_mut(volume).unwrap();
    if history.snapshots.contains_key(snap) {
        return Ok(());
    }
    let contents = history.now().clone();
    model.doubt = Some(Doubt::SnapshotMade(
        volume.to_owned(),
        snap.to_owned(),
        contents.clone(),
    ));
    store.create_snapshot(&name(volume), &name(snap))?;
    model.doubt = None;
    history.flushed();
    history.snapshots.insert(snap.to_owned(), contents);
    Ok(())
}

fn some_snapshot(model: &Model, dice: &mut Dice, volume: &str) -> Option<String> {
    let names: Vec<String> = model.volumes[volume].snapshots.keys().cloned().collect();
    dice.pick(&names).cloned()
}

fn remove_snapshot(
    store: &Store,
    model: &mut Model,
    dice: &mut Dice,
    volume: &str,
) -> Result<(), Error> {
    let Some(snap) = some_snapshot(model, dice, volume) else {
        return Ok(());
    };
    model.doubt = Some(Doubt::SnapshotGone(volume.to_owned(), snap.clone()));
    store.remove_snapshot(&name(volume), &name(&snap))?;
    model.doubt = None;
    model
        .volumes
        .get_mut(volume)
        .unwrap()
        .snapshots
        .remove(&snap);
    Ok(())
}

fn rollback(store: &Store, model: &mut Model, dice: &mut Dice, volume: &str) -> Result<(), Error> {
    let Some(snap) = some_snapshot(model, dice, volume) else {
        return Ok(());
    };
    let history = model.volumes.get_mut(volume).unwrap();
    let contents = history.snapshots[&snap].clone();
    history.change(|c| *c = contents);
    store.rollback(&name(volume), &name(&snap))?;
    history.flushed();
    Ok(())
}

fn clone(store: &Store, model: &mut Model, dice: &mut Dice, volume: &str) -> Result<(), Error> {
    let new = format!("c{}", dice.roll(1000));
    if model.volumes.contains_key(&new) {
        return Ok(());
    }
    let snap = some_snapshot(model, dice, volume);
    let history = model.volumes.get_mut(volume).unwrap();
    let contents = match &snap {
        Some(snap) => history.snapshots[snap].clone(),
        None => history.now().clone(),
    };
    let from = VolumeRef {
        volume: name(volume),
        snapshot: snap.as_deref().map(name),
    };
    model.doubt = Some(Doubt::VolumeMade(new.clone(), contents.clone()));
    store.create_volume(&create(&new, Source::Clone(from, None)))?;
    model.doubt = None;
    if snap.is_none() {
        history.flushed();
    }
    model.volumes.insert(new, History::new(contents));
    Ok(())
}

fn remove(store: &Store, model: &mut Model, volume: &str) -> Result<(), Error> {
    let id = store.find(&name(volume))?.id;
    model.doubt = Some(Doubt::VolumeTrashed(volume.to_owned(), id));
    assert_eq!(store.remove_volume(&name(volume))?.id, id);
    model.doubt = None;
    model.trashed(volume, id);
    Ok(())
}

fn empty_trash(store: &Store, model: &mut Model, dice: &mut Dice) -> Result<(), Error> {
    let ids: Vec<VolumeId> = model.trash.keys().copied().collect();
    let Some(&id) = dice.pick(&ids) else {
        return Ok(());
    };
    let taken = model.volumes.contains_key(&model.trash[&id].0);
    if taken || dice.roll(3) == 0 {
        model.doubt = Some(Doubt::VolumePurged(id));
        store.purge_volume(id)?;
        model.trash.remove(&id);
    } else {
        model.doubt = Some(Doubt::VolumeRestored(id));
        store.restore_volume(id, None)?;
        model.restored(id);
    }
    model.doubt = None;
    Ok(())
}

fn resize(store: &Store, model: &mut Model, dice: &mut Dice, volume: &str) -> Result<(), Error> {
    let history = model.volumes.get_mut(volume).unwrap();
    let old = history.now().len();
    let new = BLOCKS + dice.roll(BLOCKS as u64 / 2) as usize;
    let update = Update {
        size: Some((new * BLOCK_SIZE) as u64),
        allow_data_loss: true,
        ..Update::default()
    };
    if new < old {
        // First what is cut off is zeroed.
        history.change(|c| c[new..].fill(0));
        history.change(|c| c.truncate(new));
        store.update_volume(&name(volume), &update)?;
        history.flushed();
        return Ok(());
    }
    // The size is durable at once, whatever is not.
    let mut grown = history.states.clone();
    grown.iter_mut().for_each(|c| c.resize(new, 0));
    history.states.extend(grown.iter().cloned());
    store.update_volume(&name(volume), &update)?;
    history.states = grown;
    Ok(())
}

fn collect(store: &Store) -> Result<(), Error> {
    gc::collect(
        store.packs(),
        store,
        &gc::Options::default(),
        &types::NoProgress,
    )
    .map(|_| ())
    .map_err(|e| Error::new(volume::ErrorKind::Io, format!("{e:?}")))
}

/// The store is what the model says, in one of the ways that a crash leaves open.
fn verify(store: &Store, model: &mut Model, seed: u64) {
    let doubt = model.doubt.take();
    let known: Vec<String> = {
        let volumes = store.catalog().volumes().unwrap();
        volumes
            .iter()
            .filter(|v| v.trashed.is_none())
            .map(|v| v.name.to_string())
            .collect()
    };
    if let Some(Doubt::VolumeMade(volume, contents)) = &doubt
        && known.contains(volume)
    {
        model
            .volumes
            .insert(volume.clone(), History::new(contents.clone()));
    }
    let trash: Vec<VolumeId> = store.trash().unwrap().iter().map(|v| v.id).collect();
    match &doubt {
        Some(Doubt::VolumeTrashed(volume, id)) if trash.contains(id) => model.trashed(volume, *id),
        Some(Doubt::VolumeRestored(id)) if !trash.contains(id) => model.restored(*id),
        Some(Doubt::VolumePurged(id)) if !trash.contains(id) => {
            model.trash.remove(id);
        }
        _ => {}
    }
    assert!(
        trash.iter().eq(model.trash.keys()),
        "seed {seed}: {trash:?}"
    );
    let expected: Vec<&String> = model.volumes.keys().collect();
    assert_eq!(
        {
            let mut k: Vec<_> = known.iter().collect();
            k.sort();
            k
        },
        expected,
        "seed {seed}"
    );
    for (volume, history) in &mut model.volumes {
        let now = read_contents(store, &name(volume).into());
        assert!(
            history.states.contains(&now),
            "seed {seed}: '{volume}' is in none of its {} states since the last flush",
            history.states.len()
        );
        history.states = vec![now];
        let snapshots = store.snapshots(&name(volume)).unwrap();
        let there: Vec<String> = snapshots.iter().map(|s| s.name.to_string()).collect();
        match &doubt {
            Some(Doubt::SnapshotMade(v, s, contents)) if v == volume && there.contains(s) => {
                history.snapshots.insert(s.clone(), contents.clone());
            }
            Some(Doubt::SnapshotGone(v, s)) if v == volume && !there.contains(s) => {
                history.snapshots.remove(s);
            }
            _ => {}
        }
        assert_eq!(
            there.len(),
            history.snapshots.len(),
            "seed {seed}: snapshots of '{volume}'"
        );
        for (snap, contents) in &history.snapshots {
            let r = VolumeRef {
                volume: name(volume),
                snapshot: Some(name(snap)),
            };
            assert!(
                read_contents(store, &r) == *contents,
                "seed {seed}: '{r}' changed"
            );
        }
    }
}

fn config(seed: u64) -> Config {
    match seed % 3 {
        0 => Config::small(),
        1 => Config {
            destage_bytes: 64 << 10,
            ..Config::small()
        },
        _ => Config {
            destage_bytes: 256 << 10,
            flush_destage_bytes: 128 << 10,
            ..Config::small()
        },
    }
}

/// Says which seed it was, whatever panics.
struct Seed(u64);

impl Drop for Seed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("HOLDFAST_SEEDS={}..{} does it again", self.0, self.0 + 1);
        }
    }
}

fn history(seed: u64) {
    let _named = Seed(seed);
    let sim = SimEnv::new(seed);
    let dir = Path::new(DIR);
    Store::init(&sim.env(), dir, &InitOptions::default()).unwrap();
    let mut store = Store::open(&sim.env(), dir, config(seed)).unwrap();
    let mut model = Model::default();
    let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    for _round in 0..6 {
        let crash = dice.roll(4);
        if crash == 3 {
            sim.crash_after(1 + dice.roll(150));
        }
        for _ in 0..40 {
            if let Err(e) = step(&store, &mut model, &mut dice) {
                assert!(crash == 3, "seed {seed}: {e:?}");
                break;
            }
        }
        match crash {
            0 => store.close().unwrap(),
            1 => sim.kill(),
            _ => sim.power_cut(),
        }
        drop(store);
        if dice.roll(3) == 0 {
            // A second crash, during recovery, changes nothing.
            sim.crash_after(dice.roll(40));
            drop(Store::open(&sim.env(), dir, config(seed)));
            sim.power_cut();
        }
        store = Store::open(&sim.env(), dir, config(seed))
            .unwrap_or_else(|e| panic!("seed {seed}: {e:?}"));
        if crash == 0 {
            for history in model.volumes.values_mut() {
                history.flushed();
            }
        }
        verify(&store, &mut model, seed);
    }
}

/// More with `HOLDFAST_SEEDS=FIRST..LAST`; one that fails names its seed.
#[test]
fn random_histories_survive_restarts_kills_and_power_cuts() {
    let range = std::env::var("HOLDFAST_SEEDS").unwrap_or_else(|_| "0..80".to_owned());
    let (first, last) = range.split_once("..").expect("FIRST..LAST");
    for seed in first.parse().expect("a number")..last.parse().expect("a number") {
        history(seed);
    }
}
