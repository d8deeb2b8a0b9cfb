//! One thing after another, done to the store and to the model.

use crate::{
    BLOCKS, Dice,
    model::{Doubt, History, Model, fill},
    name,
};
use types::{BLOCK_SIZE, VolumeId, VolumeRef};
use volume::{Create, Error, Source, Store, Update};

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
pub(crate) fn step(store: &Store, model: &mut Model, dice: &mut Dice) -> Result<(), Error> {
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
