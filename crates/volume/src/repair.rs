//! A way forward for a store whose journal is damaged: to what can be kept of it.
//!
//! 1. What [`journal::salvage`] can keep is written to a new journal, beside the damaged one.
//! 2. The two change places; the damaged one stays in the store's directory under another name.
//! 3. Opening the store finds what is missing in the history of volumes: what follows it is left out.
//!
//! What the write buffer has of a volume that may have lost something is not used, if it goes on top of what is lost.
//!
//! A crash before the exchange leaves the damaged journal as it was, one within it no journal and a new one that is
//! complete. So a repair can always be begun again.

use crate::{
    config::Config,
    error::Error,
    follow::Followed,
    open::{io, journal_config, lock_store, open_buffer, read_manifest},
    rebuild,
    recover::{Gap, owner_of},
    store::{Shared, Store},
    volume::State,
};
use catalog::{Catalog, Change, VolumeRecord};
use env::Env;
use journal::{Journal, Replayed, Salvaged};
use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::Arc,
};
use types::{Generation, JournalSeq, StoreId, VolumeId};

/// What is wrong with a journal, and what a repair does about it.
#[derive(Clone, Debug)]
pub struct JournalDamage {
    /// The first thing that is wrong.
    pub damage: String,
    /// Flushes that are kept.
    pub kept: u64,
    /// Volumes that are known to have lost flushes.
    pub cut: Vec<String>,
    /// Volumes whose last flushes may have been where nothing can be read. All others have lost nothing.
    pub unsure: Vec<String>,
    /// Where the damaged journal is after the repair.
    pub aside: PathBuf,
}

/// A volume or a snapshot that lacks flushes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LostFlushes {
    /// `volume`, `volume@snapshot` or `trash:ID`.
    pub owner: String,
    /// What is known of it.
    pub what: String,
}

impl Store {
    /// Looks at the journal of a store that nobody has open; if it is damaged, puts what can be kept in its
    /// place, unless `dry_run` says to change nothing. `None` if nothing is wrong with it.
    ///
    /// # Errors
    /// As [`open`](Self::open), but for damage to the journal.
    pub fn repair_journal(
        env: &Env,
        dir: &Path,
        config: &Config,
        dry_run: bool,
    ) -> Result<Option<JournalDamage>, Error> {
        let manifest = read_manifest(env, dir)?;
        let _lock = lock_store(env, dir)?;
        let paths = Paths::of(env, dir);
        let exists = |path: &Path| {
            env.files
                .exists(path)
                .map_err(io("cannot look for the journal"))
        };
        let (buffer, survivors) = open_buffer(env, &manifest, &mut config.clone())?;
        if buffer.is_new() {
            let _ = buffer.remove();
        }
        if !exists(&paths.journal)? {
            let records = rebuild::open_catalog(env, dir, manifest.id)?.volumes()?;
            if !dry_run {
                paths.put_in_place(env, exists(&paths.new)?)?;
                buffer.forget_journal();
            }
            return Ok(Some(paths.missing(&records)));
        }
        let reached = buffer.journal_end();
        let salvage = |replay: &mut dyn FnMut(Replayed) -> Result<(), journal::Error>| {
            journal::salvage(env, &paths.journal, manifest.id, reached, replay)
        };
        let Some(damaged) = salvage(&mut |_| Ok(()))? else {
            return Ok(None);
        };
        let catalog = rebuild::open_catalog(env, dir, manifest.id)?;
        let records = catalog.volumes()?;
        let missing_from = damaged.missing.map(|(from, _)| from);
        let mut followed = Followed::new(&records, missing_from);
        let mut kept = 0;
        let mut new = match dry_run {
            false => Some(paths.begin(env, manifest.id, config, &damaged)?),
            true => None,
        };
        salvage(&mut |replayed| {
            if !followed.takes(&replayed) {
                return Ok(());
            }
            kept += 1;
            new.as_mut().map_or(Ok(()), |new| keep(new, replayed))
        })?;
        drop(new);
        let (cut, unsure) = who_lost(&records, &damaged, &followed);
        if !dry_run {
            let survivors = survivors.iter().map(|s| (s.volume, s.generation)).collect();
            let mut doubtful = cut.iter().chain(&unsure);
            doubtful.try_for_each(|record| match is_unfounded(record, &followed, &survivors) {
                true => disown(&*catalog, record),
                false => Ok(()),
            })?;
            paths.exchange(env)?;
            // Who dies before this repairs once more.
            buffer.forget_journal();
        }
        let owners = |records: Vec<&VolumeRecord>| records.into_iter().map(owner_of).collect();
        Ok(Some(JournalDamage {
            damage: damaged.damage.to_string(),
            kept,
            cut: owners(cut),
            unsure: owners(unsure),
            aside: paths.aside,
        }))
    }

    /// As [`open`](Self::open), but volumes of which flushes are lost are at the last one that is there with all before
    /// it, and are named. That is durable: they can be opened as usual afterwards.
    ///
    /// # Errors
    /// As [`open`](Self::open), but for lost flushes.
    pub fn open_without_lost_flushes(
        env: &Env,
        dir: &Path,
        config: Config,
    ) -> Result<(Store, Vec<LostFlushes>), Error> {
        let mut lost = Vec::new();
        let store = Store::open_with(env, dir, config, &mut |gaps| {
            lost.extend(gaps.iter().flat_map(Gap::lost));
            Ok(())
        })?;
        Ok((store, lost))
    }
}

impl Gap {
    fn lost(&self) -> impl Iterator<Item = LostFlushes> + '_ {
        let what = self.what();
        let of = move |owner: String| LostFlushes {
            owner,
            what: what.clone(),
        };
        let snapshots = self.snapshots.iter();
        let snapshots = snapshots.map(|snapshot| format!("{}@{}", self.owner, snapshot.name));
        std::iter::once(self.owner.clone()).chain(snapshots).map(of)
    }
}

impl Shared {
    /// What the journal has of generations after a gap is old from now on, whatever comes later.
    pub(crate) fn skip(self: &Arc<Self>, gap: &Gap) -> Result<(), Error> {
        let Some(newest) = gap.found else {
            return Ok(());
        };
        let known = self.volumes.lock().get(&gap.volume).cloned();
        let volume = match known {
            Some(volume) => volume,
            // Also one that is in the trash.
            None => match self.catalog.volume(gap.volume)? {
                Some(record) => self.adopt(record, Vec::new())?,
                None => return Ok(()),
            },
        };
        volume.settle_frozen()?;
        let mut committed = volume.record.lock();
        let mut record = committed.record.clone();
        record.destaged = newest;
        volume.commit_record(&mut committed, record)?;
        let mut state = volume.state.write();
        *state = State::new(newest.next(), state.base.clone());
        drop(state);
        self.journal.destaged(gap.volume, newest);
        Ok(())
    }
}

/// Volumes that have lost flushes, and those that may have.
fn who_lost<'a>(
    records: &'a [VolumeRecord],
    damaged: &Salvaged,
    followed: &Followed,
) -> (Vec<&'a VolumeRecord>, Vec<&'a VolumeRecord>) {
    let (mut cut, mut unsure) = (Vec::new(), Vec::new());
    let end = damaged.missing.map(|(_, end)| end);
    for record in records {
        // What follows on all that was before it proves that nothing of that is missing.
        let proven = end.is_none() || followed.last(record.id) >= end;
        let torn = damaged.torn.get(&record.id);
        let torn = torn.is_some_and(|newest| !followed.in_packs(record.id, *newest));
        if followed.left_out(record.id).is_some() || (torn && !proven) {
            cut.push(record);
        } else if !proven && record.epoch >= damaged.since {
            unsure.push(record);
        }
    }
    (cut, unsure)
}

/// Whether what the write buffer has of a volume goes on top of a generation whose end may be missing: the last one that
/// is kept of the journal. All of a generation is written by one process: if anything of that one is in the buffer,
/// nothing of it and of later ones is missing.
fn is_unfounded(
    record: &VolumeRecord,
    followed: &Followed,
    survivors: &BTreeSet<(VolumeId, Generation)>,
) -> bool {
    followed.newest(record.id).is_some_and(|last| {
        let of = |generation| (record.id, generation);
        let mut later = survivors.range(of(last.next())..=of(Generation(u64::MAX)));
        later.next().is_some() && !survivors.contains(&of(last))
    })
}

/// Nobody wrote a volume under a new epoch: what the write buffer has of it does not count.
fn disown(catalog: &dyn Catalog, record: &VolumeRecord) -> Result<(), Error> {
    let mut record = record.clone();
    record.epoch = catalog.next_store_epoch()?;
    Ok(catalog.commit(&[Change::PutVolume(record)])?)
}

/// Waits for each, so that memory holds one.
fn keep(new: &mut Journal, replayed: Replayed) -> Result<(), journal::Error> {
    let ticket = new.submit(replayed.volume, replayed.epoch, replayed.batches)?;
    new.wait(ticket)
}

struct Paths {
    store: PathBuf,
    journal: PathBuf,
    new: PathBuf,
    aside: PathBuf,
}

impl Paths {
    fn of(env: &Env, dir: &Path) -> Self {
        let now = env.clock.now().as_millis();
        Paths {
            store: dir.to_owned(),
            journal: dir.join("journal"),
            new: dir.join("journal.new"),
            aside: dir.join(format!("journal.damaged-{now}")),
        }
    }

    /// A journal that is there only half.
    fn begin(
        &self,
        env: &Env,
        store: StoreId,
        config: &Config,
        damaged: &Salvaged,
    ) -> Result<Journal, Error> {
        let failed = "cannot make a new journal";
        if env.files.exists(&self.new).map_err(io(failed))? {
            for name in env.files.list(&self.new).map_err(io(failed))? {
                env.files.remove(&self.new.join(name)).map_err(io(failed))?;
            }
        }
        let mut config = journal_config(config);
        // Records lie as close as they did, but for one end of a segment.
        config.capacity_bytes += damaged.bytes + 2 * config.segment_bytes;
        let nothing = &mut |_| Ok(());
        let new = Journal::open(env, &self.new, store, config, JournalSeq(0), nothing);
        Ok(new?)
    }

    fn exchange(&self, env: &Env) -> Result<(), Error> {
        let failed = "cannot put the new journal in place";
        env.files.sync_dir(&self.new).map_err(io(failed))?;
        env.files.sync_dir(&self.store).map_err(io(failed))?;
        env.files
            .rename(&self.journal, &self.aside)
            .map_err(io(failed))?;
        env.files.sync_dir(&self.store).map_err(io(failed))?;
        self.put_in_place(env, true)
    }

    /// The new one, if it is there: it is complete then. Else an empty one.
    fn put_in_place(&self, env: &Env, complete: bool) -> Result<(), Error> {
        let failed = "cannot put the new journal in place";
        if complete {
            env.files
                .rename(&self.new, &self.journal)
                .map_err(io(failed))?;
        } else {
            env.files
                .create_dir_all(&self.journal)
                .map_err(io(failed))?;
        }
        env.files.sync_dir(&self.store).map_err(io(failed))
    }

    fn missing(&self, records: &[VolumeRecord]) -> JournalDamage {
        JournalDamage {
            damage: format!("{} is missing", self.journal.display()),
            kept: 0,
            cut: Vec::new(),
            unsure: records.iter().map(owner_of).collect(),
            aside: self.journal.clone(),
        }
    }
}
