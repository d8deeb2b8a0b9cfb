//! Several volumes at one instant: snapshots, and the way back.
//!
//! ```text
//!  lock all of all ─▶ freeze each ─▶ unlock ─▶ make each durable ─▶ one commit: all snapshots, or none
//! ```
//! While every volume's state is locked no write of any is under way, so that a write that was answered before another
//! one was asked for is never missing where the other one is there. A single snapshot is a group of one.
//!
//! Locks of a kind are taken in the order of the volumes' ids, all of one kind before the first of the next; see the
//! crate's second invariant.

use crate::{
    error::{Error, ErrorKind},
    flush::Logged,
    layer::Log,
    snapshot::{removal, rooted},
    store::{Shared, Store},
    volume::{Base, Committed, Rooted, State, Volume, Wanted},
};
use block::BlockDevice;
use catalog::{Change, SnapshotRecord, VolumeRecord};
use std::{
    collections::BTreeMap,
    sync::{Arc, OnceLock},
};
use sync::{MutexGuard, atomic::Ordering::Relaxed};
use types::{Generation, Name, SnapshotId, VolumeId, VolumeRef};

/// A volume that is about to have a snapshot of this name.
struct Subject<'a> {
    volume: Arc<Volume>,
    name: &'a Name,
}

/// What a freeze left: the state that a snapshot is of.
struct Frozen {
    generation: Generation,
    size: u64,
    mapped_blocks: u64,
    /// The root of that state, once there is one.
    root: Arc<OnceLock<Rooted>>,
}

impl Frozen {
    /// The state in packs, and its size in bytes.
    fn settled(self, volume: &Arc<Volume>) -> Result<(Rooted, u64), Error> {
        if self.root.get().is_none() {
            volume.settle(self.generation)?;
        }
        let lost = || Error::new(ErrorKind::Closed, "the volume changed meanwhile; try again");
        Ok((self.root.get().cloned().ok_or_else(lost)?, self.size))
    }
}

type Records<'a> = Vec<MutexGuard<'a, Committed>>;

/// What the commit of a snapshot does to its volume beside.
pub(crate) struct Along {
    /// What the record becomes.
    pub(crate) record: VolumeRecord,
    /// A snapshot that goes.
    pub(crate) removed: Option<SnapshotRecord>,
}

/// Why snapshots are taken.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Kind {
    /// They belong together.
    pub(crate) grouped: bool,
    /// Their volumes' policies ask for them.
    pub(crate) scheduled: bool,
}

/// Asked for each snapshot, under the lock of the volume's record.
pub(crate) type Beside<'a> =
    &'a dyn Fn(&VolumeRecord, &SnapshotRecord) -> Result<Option<Along>, Error>;

/// Nothing.
pub(crate) const NOTHING: Beside<'static> = &|_, _| Ok(None);

impl Store {
    /// Takes snapshots of several volumes at one instant: all of them, or none, whatever fails. Writers are not held
    /// up for longer than by one.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] if a volume is named twice, or one without a snapshot's name; else as
    /// [`create_snapshot`](Self::create_snapshot).
    pub fn create_group(&self, snapshots: &[VolumeRef]) -> Result<Vec<SnapshotRecord>, Error> {
        let all: Vec<&VolumeRef> = snapshots.iter().collect();
        let kind = Kind {
            grouped: true,
            ..Kind::default()
        };
        self.take_snapshots(&all, kind, NOTHING)?;
        snapshots.iter().map(|r| self.shared.snapshot(r)).collect()
    }

    /// Sets several volumes back to snapshots that were taken at one instant: all of them, or none.
    ///
    /// # Errors
    /// [`ErrorKind::Refused`] if they were not taken at one instant; else as [`rollback`](Self::rollback).
    pub fn rollback_group(&self, snapshots: &[VolumeRef]) -> Result<Vec<VolumeRecord>, Error> {
        let mut group = None;
        for r in snapshots {
            let snapshot = self.shared.snapshot(r)?;
            if snapshot.group.is_none() || *group.get_or_insert(snapshot.group) != snapshot.group {
                let message = format!(
                    "'{r}' was not taken together with the others; roll them back one by one if that is meant"
                );
                return Err(Error::new(ErrorKind::Refused, message));
            }
        }
        self.set_back(snapshots, None)?;
        let find = |r: &VolumeRef| self.shared.find(&r.volume);
        snapshots.iter().map(find).collect()
    }

    /// Opens snapshots, and volumes as they all are at one instant, to read: what is written later is not seen.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] if a volume is named twice; else as [`frozen_device`](Self::frozen_device).
    pub fn frozen_devices(&self, refs: &[VolumeRef]) -> Result<Vec<Arc<dyn BlockDevice>>, Error> {
        let _roots = self.shared.roots.read();
        let mut live: BTreeMap<VolumeId, Arc<Volume>> = BTreeMap::new();
        let mut ids = Vec::new();
        for r in refs {
            if r.snapshot.is_some() {
                ids.push(None);
                continue;
            }
            let record = self.shared.find(&r.volume)?;
            Shared::refuse_file(&record)?;
            let volume = self.shared.volume(record.id)?;
            if live.insert(record.id, volume).is_some() {
                let message = format!("'{r}' is named twice");
                return Err(Error::new(ErrorKind::Invalid, message));
            }
            ids.push(Some(record.id));
        }
        let mut now = BTreeMap::new();
        for ((id, volume), frozen) in live.iter().zip(freeze(live.values())?) {
            now.insert(*id, frozen.settled(volume)?);
        }
        let mut pin = |(r, id): (&VolumeRef, Option<VolumeId>)| {
            let now = id.and_then(|id| now.remove(&id));
            let (rooted, size) = now.map_or_else(|| self.shared.rooted(r), Ok)?;
            let pinned = self.shared.pin(rooted, size, format!("reader of {r}"));
            self.reader(r, Arc::new(pinned))
        };
        refs.iter().zip(ids).map(&mut pin).collect()
    }

    /// The volumes in the order in which they are locked, each with what it is named with.
    fn in_order<'a>(&self, refs: &[&'a VolumeRef]) -> Result<Vec<Subject<'a>>, Error> {
        let mut subjects: BTreeMap<VolumeId, Subject<'a>> = BTreeMap::new();
        for r in refs {
            let invalid = |what: &str| Error::new(ErrorKind::Invalid, format!("'{r}' {what}"));
            let name = r.snapshot.as_ref();
            let name = name.ok_or_else(|| invalid("names no snapshot: write volume@snapshot"))?;
            let record = self.shared.find(&r.volume)?;
            Shared::refuse_file(&record)?;
            let volume = self.shared.volume(record.id)?;
            if subjects
                .insert(volume.id, Subject { volume, name })
                .is_some()
            {
                return Err(invalid("is of a volume that is named twice"));
            }
        }
        Ok(subjects.into_values().collect())
    }

    /// Takes snapshots, all or none, and does what is to be done `beside`.
    pub(crate) fn take_snapshots(
        &self,
        refs: &[&VolumeRef],
        kind: Kind,
        beside: Beside<'_>,
    ) -> Result<(), Error> {
        // Until the roots that are carried over are in the catalog, nobody collects.
        let _roots = self.shared.roots.read();
        let subjects = self.in_order(refs)?;
        let _managing: Vec<_> = subjects.iter().map(|s| s.volume.manage.lock()).collect();
        for Subject { volume, name } in &subjects {
            if self
                .shared
                .catalog
                .find_snapshot(volume.id, name)?
                .is_some()
            {
                let volume = &*volume.name.lock();
                let message = format!("the snapshot '{volume}@{name}' exists already");
                return Err(Error::new(ErrorKind::Conflict, message));
            }
        }
        let catalog = &*self.shared.catalog;
        let first = (self.shared.ids).snapshots(catalog, subjects.len() as u64)?;
        let group = kind.grouped.then_some(SnapshotId(first));
        let frozen = freeze(subjects.iter().map(|s| &s.volume))?;
        let created_ms = self.shared.now_ms();
        make_durable(&subjects, &frozen)?;
        let records = subjects.iter().zip(&frozen).zip(first..);
        let records = records.map(|((subject, frozen), id)| SnapshotRecord {
            id: SnapshotId(id),
            version: 0,
            volume: subject.volume.id,
            name: subject.name.clone(),
            size: frozen.size,
            generation: frozen.generation,
            root: None,
            mapped_blocks: frozen.mapped_blocks,
            created_ms,
            vhost_queues: 0,
            group,
            scheduled: kind.scheduled,
            submits: 0,
        });
        self.commit_snapshots(&subjects, &frozen, records.collect(), beside)
    }

    /// Puts all into the catalog at once. Those whose generation is not in packs yet get their root when it is.
    fn commit_snapshots(
        &self,
        subjects: &[Subject<'_>],
        frozen: &[Frozen],
        mut snapshots: Vec<SnapshotRecord>,
        beside: Beside<'_>,
    ) -> Result<(), Error> {
        let mut committed: Records<'_> = subjects.iter().map(|s| s.volume.record.lock()).collect();
        for ((snapshot, frozen), subject) in snapshots.iter_mut().zip(frozen).zip(subjects) {
            if let Some(rooted) = frozen.root.get() {
                snapshot.root = Some(rooted.root);
                snapshot.mapped_blocks = rooted.mapped_blocks;
            } else {
                // Nothing of it is submitted after that was waited for.
                let state = subject.volume.state.read();
                let log = state.log_of(snapshot.generation);
                snapshot.submits = log.map_or(0, Log::submits);
            }
        }
        let mut changes: Vec<Change> = snapshots.iter().cloned().map(Change::PutSnapshot).collect();
        let besides = committed.iter().zip(&snapshots);
        let besides: Vec<Option<Along>> = besides
            .map(|(committed, snapshot)| beside(&committed.record, snapshot))
            .collect::<Result<_, _>>()?;
        for along in besides.iter().flatten() {
            changes.push(Change::PutVolume(along.record.clone()));
            changes.extend(along.removed.as_ref().map(removal));
        }
        self.shared.catalog.commit(&changes)?;
        for ((subject, committed), along) in subjects.iter().zip(&mut committed).zip(besides) {
            let Some(Along { record, removed }) = along else {
                continue;
            };
            subject.volume.replace_record(committed, record);
            removed.iter().for_each(|gone| committed.forget(gone));
        }
        for (committed, mut snapshot) in committed.iter_mut().zip(snapshots) {
            if snapshot.root.is_none() {
                snapshot.version = 1;
                let wanted = committed.wanted.entry(snapshot.generation).or_default();
                wanted.push(Wanted::Snapshot(snapshot));
            }
        }
        drop(committed);
        subjects.iter().for_each(|s| s.volume.wake_destager());
        Ok(())
    }

    /// Sets volumes back to snapshots, all or none; with `opens` only if each was opened so often.
    pub(crate) fn set_back(&self, refs: &[VolumeRef], opens: Option<u64>) -> Result<(), Error> {
        let all: Vec<&VolumeRef> = refs.iter().collect();
        let _roots = self.shared.roots.read();
        let subjects = self.in_order(&all)?;
        let _managing: Vec<_> = subjects.iter().map(|s| s.volume.manage.lock()).collect();
        let mut targets: BTreeMap<VolumeId, (Rooted, u64)> = BTreeMap::new();
        for r in refs {
            let id = self.shared.find(&r.volume)?.id;
            targets.insert(id, self.shared.rooted(r)?);
        }
        for Subject { volume, .. } in &subjects {
            volume.settle_frozen()?;
        }
        let _destaging: Vec<_> = subjects.iter().map(|s| s.volume.destage.lock()).collect();
        let mut committed: Records<'_> = subjects.iter().map(|s| s.volume.record.lock()).collect();
        let mut states: Vec<_> = subjects.iter().map(|s| s.volume.state.write()).collect();
        let mut records = Vec::new();
        for (((Subject { volume, .. }, committed), state), (rooted, size)) in subjects
            .iter()
            .zip(&committed)
            .zip(&states)
            .zip(targets.into_values())
        {
            state.check_open()?;
            // Under the lock that whoever opens it takes.
            if opens.is_some_and(|opens| volume.opens.load(Relaxed) != opens) {
                let message = "the volume was opened meanwhile";
                return Err(Error::new(ErrorKind::InUse, message));
            }
            let mut record = committed.record.clone();
            (record.root, record.mapped_blocks) = (rooted.root, rooted.mapped_blocks);
            record.size = size;
            // The journal's records of everything up to now become old with the same commit. A generation is left
            // out, so that later ones are not taken for what follows on a root of before, should the catalog be lost.
            record.destaged = state.head.number.next();
            records.push(record);
        }
        let changes: Vec<Change> = records.iter().cloned().map(Change::PutVolume).collect();
        self.shared.catalog.commit(&changes)?;
        for (((subject, committed), state), record) in subjects
            .iter()
            .zip(&mut committed)
            .zip(&mut states)
            .zip(records)
        {
            let (volume, last) = (&subject.volume, record.destaged);
            let base = Base {
                root: record.root,
                below: committed.below.clone(),
            };
            volume.replace_record(committed, record);
            let fresh = State {
                version: state.version + 1,
                ..State::new(last.next(), base)
            };
            let old = std::mem::replace(&mut **state, fresh);
            self.shared.budget.release(&volume.account, old.dirty());
            self.shared.journal.destaged(volume.id, last);
        }
        Ok(())
    }
}

/// Freezes all at one instant; they come in the order of their ids.
fn freeze<'a>(
    volumes: impl Iterator<Item = &'a Arc<Volume>> + Clone,
) -> Result<Vec<Frozen>, Error> {
    // Held from before the freeze, so that no root moves past a generation unseen.
    let mut committed: Records<'_> = volumes.clone().map(|v| v.record.lock()).collect();
    let mut states: Vec<_> = volumes.map(|v| v.state.write()).collect();
    states.iter().try_for_each(|state| state.check_open())?;
    let frozen = states
        .iter_mut()
        .zip(&mut committed)
        .map(|(state, committed)| {
            let generation = state.freeze();
            let root = Arc::new(OnceLock::new());
            if state.frozen.is_empty() {
                // It was made just now.
                let _ = root.set(rooted(committed));
            } else {
                let wanted = committed.wanted.entry(generation).or_default();
                wanted.push(Wanted::Root(Arc::clone(&root)));
            }
            Frozen {
                generation,
                size: committed.record.size,
                mapped_blocks: committed.record.mapped_blocks,
                root,
            }
        });
    Ok(frozen.collect())
}

/// Hands all to the journal before it waits for any, so that one sync may do.
fn make_durable(subjects: &[Subject<'_>], frozen: &[Frozen]) -> Result<(), Error> {
    let mut logged = Vec::new();
    for (Subject { volume, .. }, frozen) in subjects.iter().zip(frozen) {
        if frozen.root.get().is_some() {
            logged.push(Logged::Journal(None));
            continue;
        }
        let prepared = volume.prepare();
        logged.push(match volume.log(&mut volume.state.write(), prepared)? {
            // What was written since need not be destaged for it.
            Logged::Destage(_) => Logged::Destage(frozen.generation),
            journal => journal,
        });
    }
    let mut waits = subjects.iter().zip(logged);
    waits.try_for_each(|(subject, logged)| subject.volume.wait_logged(logged))
}
