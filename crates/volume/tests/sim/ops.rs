//! One thing after another, done to the store and to the model.

use crate::{
    BLOCKS,
    blocks::{Contents, bytes_of},
    images,
    model::{Doubt, History, Model},
    name,
};
use block::BlockDevice;
use sim::SimEnv;
use std::{cell::RefCell, collections::BTreeMap, sync::Arc, time::Duration};
use types::{BLOCK_SIZE, DiskMode, VolumeRef};
use volume::{Create, Error, ErrorKind, Source, Store, Update};

/// Longer than the trash keeps.
const TWO_DAYS: Duration = Duration::from_secs(2 * 86_400);

/// Something to do. Names that do not fit the model's state are not asked for.
#[derive(Clone, Debug)]
pub(crate) enum Op {
    Make(String),
    /// From the image of this number, while it is used.
    Import(String, u32),
    /// So many blocks of what it is imported from, at least, if it is.
    Fill(String, u64),
    /// At a block, these tags; durable when answered?
    Write(String, usize, Vec<u32>, bool),
    /// At a block, so many.
    Zero(String, usize, usize),
    Discard(String, usize, usize),
    Flush(String),
    Snapshot(String, String),
    /// Of all these at one instant, by this name.
    Group(Vec<String>, String),
    RemoveSnapshot(String, String),
    Rollback(String, String),
    Mode(String, Choice),
    /// Of a volume or a snapshot, under a new name.
    Clone(String, Option<String>, String),
    /// To so many blocks.
    Resize(String, usize),
    Remove(String),
    Restore(String),
    Purge(String),
    /// Two days pass, and the trash is emptied.
    Expire,
    Settle,
    Collect,
    /// Opens a snapshot, or a volume as it is now, to read until the end of this life.
    Hold(String, Option<String>),
}

/// What is done with what is kept apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Choice {
    /// From now on it is.
    Begin,
    Commit,
    Discard,
    /// Nothing is any more, if nothing was written.
    End,
}

/// Volumes that are open to clients, as they are until the daemon ends or the volume is taken from them.
pub(crate) type Clients = BTreeMap<String, Arc<dyn BlockDevice>>;

/// Where it is done.
pub(crate) struct Site<'a> {
    pub(crate) sim: &'a SimEnv,
    pub(crate) store: &'a Store,
    /// What is open to read, and what must be read there.
    pub(crate) held: &'a RefCell<Vec<(Arc<dyn BlockDevice>, Contents)>>,
    pub(crate) clients: &'a RefCell<Clients>,
}

impl Site<'_> {
    /// Does it; the error of the store, if it had one: then the model's doubts say what may have been done.
    pub(crate) fn apply(&self, op: &Op, model: &mut Model) -> Result<(), Error> {
        match op {
            Op::Make(volume) => self.make(model, volume),
            Op::Import(volume, number) => self.import(model, volume, *number),
            Op::Fill(volume, blocks) => self.fill(volume, *blocks),
            Op::Write(volume, at, tags, durable) => self.write(model, volume, *at, tags, *durable),
            Op::Zero(volume, at, count) => self.zero(model, volume, *at, *count, false),
            Op::Discard(volume, at, count) => self.zero(model, volume, *at, *count, true),
            Op::Flush(volume) => self.flush(model, volume),
            Op::Snapshot(volume, snap) => self.snapshot(model, volume, snap),
            Op::Group(volumes, snap) => self.group(model, volumes, snap),
            Op::RemoveSnapshot(volume, snap) => self.remove_snapshot(model, volume, snap),
            Op::Rollback(volume, snap) => self.rollback(model, volume, snap),
            Op::Mode(volume, Choice::Discard) => self.discard_changes(model, volume),
            Op::Mode(volume, choice) => self.move_base(model, volume, *choice),
            Op::Clone(volume, snap, new) => self.clone(model, volume, snap.as_deref(), new),
            Op::Resize(volume, blocks) => self.resize(model, volume, *blocks),
            Op::Remove(volume) => self.remove(model, volume),
            Op::Restore(volume) => self.restore(model, volume),
            Op::Purge(volume) => self.purge(model, volume),
            Op::Expire => self.expire(model),
            Op::Settle => self.told(self.store.settle_all()),
            Op::Collect => self.collect(),
            Op::Hold(volume, snap) => self.hold(model, volume, snap.as_deref()),
        }
    }

    /// Nobody is told of what a program does after its machine has died.
    fn told<T>(&self, done: Result<T, Error>) -> Result<T, Error> {
        match self.sim.has_died() {
            false => done,
            true => done.and(Err(died())),
        }
    }

    fn client(&self, volume: &str) -> Result<Arc<dyn BlockDevice>, Error> {
        let mut clients = self.clients.borrow_mut();
        if let Some(device) = clients.get(volume) {
            return Ok(Arc::clone(device));
        }
        let device = self.store.device(&name(volume).into())?;
        clients.insert(volume.to_owned(), Arc::clone(&device));
        Ok(device)
    }

    /// Nobody may have it open.
    fn disconnect(&self, volume: &str) {
        self.clients.borrow_mut().remove(volume);
    }

    fn made(
        &self,
        model: &mut Model,
        volume: &str,
        source: Source,
        contents: Contents,
    ) -> Result<(), Error> {
        model.doubt = Some(Doubt::VolumeMade(volume.to_owned(), contents.clone()));
        self.told(self.store.create_volume(&Create::new(name(volume), source)))?;
        model.doubt = None;
        model
            .volumes
            .insert(volume.to_owned(), History::new(contents));
        Ok(())
    }

    fn make(&self, model: &mut Model, volume: &str) -> Result<(), Error> {
        let empty = Source::Empty((BLOCKS * BLOCK_SIZE) as u64);
        self.made(model, volume, empty, vec![0; BLOCKS])
    }

    fn import(&self, model: &mut Model, volume: &str, number: u32) -> Result<(), Error> {
        let image = Source::Image(Box::new(images::source(number)), bytes(BLOCKS));
        let mut contents = images::contents(number);
        contents.resize(BLOCKS, 0);
        model.imports = true;
        self.made(model, volume, image, contents)
    }

    fn fill(&self, volume: &str, blocks: u64) -> Result<(), Error> {
        let id = self.store.find(&name(volume))?.id;
        let filled = self
            .store
            .fill(id, bytes(blocks as usize), &types::NoProgress);
        self.told(filled.map(drop))
    }

    fn write(
        &self,
        model: &mut Model,
        volume: &str,
        at: usize,
        tags: &[u32],
        durable: bool,
    ) -> Result<(), Error> {
        let history = history(model, volume);
        history.change(|c| c[at..at + tags.len()].copy_from_slice(tags));
        let durability = match durable {
            true => block::Durability::Durable,
            false => block::Durability::Volatile,
        };
        let device = self.client(volume)?;
        let written = device.write((at * BLOCK_SIZE) as u64, &bytes_of(tags), durability);
        self.told(written.map_err(failed))?;
        match durable {
            true => history.flushed(),
            false => history.answered(),
        }
        Ok(())
    }

    fn zero(
        &self,
        model: &mut Model,
        volume: &str,
        at: usize,
        count: usize,
        discard: bool,
    ) -> Result<(), Error> {
        let history = history(model, volume);
        history.change(|c| c[at..at + count].fill(0));
        let device = self.client(volume)?;
        let (offset, len) = ((at * BLOCK_SIZE) as u64, (count * BLOCK_SIZE) as u64);
        let done = match discard {
            true => device.discard(offset, len, block::Durability::Volatile),
            false => device.write_zeroes(offset, len, block::Durability::Volatile),
        };
        self.told(done.map_err(failed))?;
        history.answered();
        Ok(())
    }

    fn flush(&self, model: &mut Model, volume: &str) -> Result<(), Error> {
        let device = self.client(volume)?;
        self.told(device.flush().map_err(failed))?;
        history(model, volume).flushed();
        Ok(())
    }

    fn snapshot(&self, model: &mut Model, volume: &str, snap: &str) -> Result<(), Error> {
        let contents = history(model, volume).now().clone();
        model.doubt = Some(Doubt::SnapshotMade(
            volume.to_owned(),
            snap.to_owned(),
            contents.clone(),
        ));
        self.told(self.store.create_snapshot(&name(volume), &name(snap)))?;
        model.doubt = None;
        let history = history(model, volume);
        history.flushed();
        history.snapshots.insert(snap.to_owned(), contents);
        Ok(())
    }

    fn group(&self, model: &mut Model, volumes: &[String], snap: &str) -> Result<(), Error> {
        let made: Vec<(String, Contents)> = volumes
            .iter()
            .map(|volume| (volume.clone(), history(model, volume).now().clone()))
            .collect();
        model.doubt = Some(Doubt::GroupMade(snap.to_owned(), made.clone()));
        let of = |volume: &String| VolumeRef {
            volume: name(volume),
            snapshot: Some(name(snap)),
        };
        let refs: Vec<VolumeRef> = volumes.iter().map(of).collect();
        self.told(self.store.create_group(&refs))?;
        model.doubt = None;
        for (volume, contents) in made {
            let history = history(model, &volume);
            history.flushed();
            history.snapshots.insert(snap.to_owned(), contents);
        }
        Ok(())
    }

    fn remove_snapshot(&self, model: &mut Model, volume: &str, snap: &str) -> Result<(), Error> {
        model.doubt = Some(Doubt::SnapshotGone(volume.to_owned(), snap.to_owned()));
        self.told(self.store.remove_snapshot(&name(volume), &name(snap)))?;
        model.doubt = None;
        history(model, volume).snapshots.remove(snap);
        Ok(())
    }

    fn rollback(&self, model: &mut Model, volume: &str, snap: &str) -> Result<(), Error> {
        self.disconnect(volume);
        let history = history(model, volume);
        let contents = history.snapshots[snap].clone();
        history.change(|c| *c = contents);
        self.told(self.store.rollback(&name(volume), &name(snap)))?;
        history.flushed();
        Ok(())
    }

    fn discard_changes(&self, model: &mut Model, volume: &str) -> Result<(), Error> {
        self.disconnect(volume);
        let history = history(model, volume);
        let base = history.base.clone().expect("a base");
        history.change(|c| *c = base);
        let opens = self.store.opens(self.store.find(&name(volume))?.id);
        self.told(self.store.discard_changes(&name(volume), opens))?;
        history.flushed();
        Ok(())
    }

    fn move_base(&self, model: &mut Model, volume: &str, choice: Choice) -> Result<(), Error> {
        let (now, was) = {
            let history = history(model, volume);
            (history.now().clone(), history.base.clone())
        };
        let old = self.store.find(&name(volume))?.base;
        let base = (choice != Choice::End).then_some(now.clone());
        model.doubt = Some(Doubt::BaseMoved(volume.to_owned(), old, base.clone()));
        let done = match choice {
            Choice::Begin => self.store.set_mode(&name(volume), DiskMode::Undoable),
            Choice::End => self.store.set_mode(&name(volume), DiskMode::Persistent),
            _ => self.store.commit_changes(&name(volume)),
        };
        if choice == Choice::End {
            match self.told(done) {
                // It was written to, perhaps the same.
                Err(e) if e.kind() == ErrorKind::Refused => model.doubt = None,
                Err(e) => return Err(e),
                Ok(_) => {
                    model.doubt = None;
                    assert!(was.as_ref() == Some(&now), "'{volume}' had changed");
                    history(model, volume).base = None;
                }
            }
            return Ok(());
        }
        self.told(done)?;
        model.doubt = None;
        let history = history(model, volume);
        history.flushed();
        history.base = base;
        Ok(())
    }

    fn clone(
        &self,
        model: &mut Model,
        volume: &str,
        snap: Option<&str>,
        new: &str,
    ) -> Result<(), Error> {
        let origin = history(model, volume);
        let contents = match snap {
            Some(snap) => origin.snapshots[snap].clone(),
            None => origin.now().clone(),
        };
        let from = VolumeRef {
            volume: name(volume),
            snapshot: snap.map(name),
        };
        self.made(model, new, Source::Clone(from, None), contents)?;
        if snap.is_none() {
            history(model, volume).flushed();
        }
        Ok(())
    }

    fn resize(&self, model: &mut Model, volume: &str, blocks: usize) -> Result<(), Error> {
        self.disconnect(volume);
        let history = history(model, volume);
        let update = Update {
            size: Some((blocks * BLOCK_SIZE) as u64),
            allow_data_loss: true,
            ..Update::default()
        };
        let shrinks = blocks < history.blocks();
        if shrinks {
            // First what is cut off is zeroed, and that is flushed.
            history.change(|c| c[blocks..].fill(0));
            history.change(|c| c.truncate(blocks));
        } else {
            history.change_size(blocks);
        }
        self.told(self.store.update_volume(&name(volume), &update))?;
        match shrinks {
            true => history.flushed(),
            false => history.size_changed(),
        }
        Ok(())
    }

    fn remove(&self, model: &mut Model, volume: &str) -> Result<(), Error> {
        self.disconnect(volume);
        let id = self.store.find(&name(volume))?.id;
        model.doubt = Some(Doubt::VolumeTrashed(volume.to_owned(), id));
        self.told(self.store.remove_volume(&name(volume)))?;
        model.doubt = None;
        model.trashed(volume, id);
        Ok(())
    }

    fn restore(&self, model: &mut Model, volume: &str) -> Result<(), Error> {
        let id = model.in_trash(volume).expect("a volume in the trash");
        model.doubt = Some(Doubt::VolumeRestored(id));
        self.told(self.store.restore_volume(id, None))?;
        model.doubt = None;
        model.restored(id);
        Ok(())
    }

    fn purge(&self, model: &mut Model, volume: &str) -> Result<(), Error> {
        let id = model.in_trash(volume).expect("a volume in the trash");
        model.doubt = Some(Doubt::VolumesPurged);
        self.told(self.store.purge_volume(id))?;
        model.doubt = None;
        model.trash.remove(&id);
        Ok(())
    }

    fn expire(&self, model: &mut Model) -> Result<(), Error> {
        self.sim.advance(TWO_DAYS);
        model.doubt = Some(Doubt::VolumesPurged);
        self.told(self.store.purge_expired())?;
        model.doubt = None;
        model.trash.clear();
        Ok(())
    }

    /// Who reads is not surprised by it.
    fn collect(&self) -> Result<(), Error> {
        let options = gc::Options::default();
        let store = self.store;
        let collected = gc::collect(store.packs(), store, &options, &types::NoProgress);
        let failed = |e| Error::new(ErrorKind::Io, "collecting").with_source(e);
        self.told(collected.map(drop).map_err(failed))?;
        for (device, contents) in self.held.borrow().iter() {
            let mut bytes = vec![0xee; contents.len() * BLOCK_SIZE];
            match device.read(0, &mut bytes) {
                Ok(()) => assert!(bytes == bytes_of(contents), "a reader was surprised"),
                Err(e) => assert!(self.sim.struck() > 0, "a reader was surprised: {e:?}"),
            }
        }
        Ok(())
    }

    fn hold(&self, model: &mut Model, volume: &str, snap: Option<&str>) -> Result<(), Error> {
        let r = VolumeRef {
            volume: name(volume),
            snapshot: snap.map(name),
        };
        let device = self.told(self.store.frozen_device(&r))?;
        let history = history(model, volume);
        let contents = match snap {
            Some(snap) => history.snapshots[snap].clone(),
            None => history.now().clone(),
        };
        self.held.borrow_mut().push((device, contents));
        Ok(())
    }
}

fn bytes(blocks: usize) -> u64 {
    (blocks * BLOCK_SIZE) as u64
}

fn history<'a>(model: &'a mut Model, volume: &str) -> &'a mut History {
    model
        .volumes
        .get_mut(volume)
        .expect("a volume of the model")
}

fn failed(e: block::Error) -> Error {
    Error::new(ErrorKind::Io, "of the device").with_source(e)
}

/// What is done after the machine died is not done.
pub(crate) fn died() -> Error {
    Error::new(ErrorKind::Closed, "the machine has died")
}
