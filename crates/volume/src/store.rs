//! A store that is open: what its volumes share.

use crate::{
    ballast::Ballast,
    below::Below,
    budget::{Budget, Pressure},
    config::{Background, Config},
    error::{Error, ErrorKind},
    gate::Gate,
    health::{Ailments, Health},
    ids::Ids,
    manifest::Manifest,
    volume::{Base, Rooted, Volume},
    work::WorkQueue,
};
use catalog::{Catalog, VolumeRecord};
use env::{Env, Lock, Watch};
use gc::OwnedRoot;
use journal::Journal;
use limits::{Throttled, Timer};
use pack::PackStore;
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use sync::{
    Mutex, RwLock,
    atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    thread::JoinHandle,
};
use types::{Epoch, Name, Root, VolumeId, VolumeRef};
use write_buffer::WriteBuffer;

/// A store that is open to write: its only user on this host.
pub struct Store {
    pub(crate) shared: Arc<Shared>,
    pub(crate) threads: Mutex<Vec<JoinHandle<()>>>,
    pub(crate) recovery: Duration,
    /// Released last: fields are dropped in this order.
    pub(crate) _lock: Box<dyn Lock>,
}

/// What the store's volumes share.
pub(crate) struct Shared {
    pub(crate) env: Env,
    pub(crate) dir: PathBuf,
    pub(crate) manifest: Manifest,
    pub(crate) config: Config,
    pub(crate) epoch: Epoch,
    pub(crate) catalog: Arc<dyn Catalog>,
    pub(crate) ids: Ids,
    pub(crate) brick: Arc<dyn brick::Brick>,
    pub(crate) packs: Arc<PackStore>,
    pub(crate) journal: Journal,
    pub(crate) budget: Budget,
    pub(crate) buffer: WriteBuffer,
    pub(crate) ballast: Ballast,
    pub(crate) gate: Gate,
    pub(crate) ailments: Ailments,
    pub(crate) watch: Arc<Watch>,
    pub(crate) work: WorkQueue,
    /// The background is to end: destages give up.
    pub(crate) hurry: AtomicBool,
    /// Calls those whom limits hold back.
    pub(crate) timer: Arc<Timer>,
    /// Held while a volume is brought into use, so that there is never more than one of it.
    pub(crate) volumes: Mutex<BTreeMap<VolumeId, Arc<Volume>>>,
    /// Held shared by who carries a root from one place of the catalog to another, and exclusively by who
    /// lists all roots.
    pub(crate) roots: RwLock<()>,
    pub(crate) pins: Arc<RootPins>,
}

/// Roots that are in use outside of the catalog: by readers of snapshots.
#[derive(Default)]
pub(crate) struct RootPins {
    next: AtomicU64,
    roots: Mutex<BTreeMap<u64, OwnedRoot>>,
}

/// Keeps a root from collection until it is dropped.
pub(crate) struct RootPin {
    pins: Arc<RootPins>,
    key: u64,
}

impl RootPins {
    pub(crate) fn pin(self: &Arc<Self>, root: OwnedRoot) -> RootPin {
        let key = self.next.fetch_add(1, Relaxed);
        self.roots.lock().insert(key, root);
        RootPin {
            pins: Arc::clone(self),
            key,
        }
    }
}

impl Drop for RootPin {
    fn drop(&mut self) {
        self.pins.roots.lock().remove(&self.key);
    }
}

/// A root that is not collected before this is dropped.
pub struct PinnedRoot {
    /// The root.
    pub root: Root,
    /// Of the volume or snapshot, bytes.
    pub size: u64,
    /// What its holes are.
    pub(crate) below: Option<Below>,
    _pin: RootPin,
}

impl PinnedRoot {
    pub(crate) fn base(&self) -> Base {
        Base {
            root: self.root,
            below: self.below.clone(),
        }
    }
}

/// How a store stands.
#[derive(Clone, Debug)]
pub struct StoreStats {
    /// Dirty data and space.
    pub pressure: Pressure,
    /// The journal.
    pub journal: journal::Stats,
    /// What is wrong with it.
    pub health: Health,
    /// Whether what was written outlives the process: guests may go on over a crash of it.
    pub survives: bool,
    /// Bytes of shared memory that the write buffer takes.
    pub shared_memory: u64,
    /// How long recovery took.
    pub recovery: Duration,
    /// Volumes in use.
    pub open_volumes: usize,
}

impl Shared {
    pub(crate) fn sleep(&self, time: Duration) {
        if self.config.background != Background::Inline {
            sync::thread::sleep(time);
        }
    }

    /// A head of this size is destaged: less when the budget is shared by many volumes, or small.
    pub(crate) fn destage_threshold(&self) -> u64 {
        let (limit, fill) = (self.budget.limit_now(), self.budget.fill());
        let share = if fill < 0.5 {
            limit / 4
        } else if fill < 0.9 {
            limit / 16
        } else {
            // Writers are about to wait: whatever there is.
            1
        };
        self.config.destage_bytes.min(share.max(1))
    }

    /// A head of this size is frozen though it has to wait: the budget gets a generation back as a whole, and what it gets
    /// back in large pieces slows writers in jerks.
    pub(crate) const fn generation_max(&self) -> u64 {
        self.config.dirty_bytes / 8
    }

    pub(crate) fn update_space(&self) {
        let journal = self.journal.stats();
        let promised = journal.capacity.saturating_sub(journal.allocated);
        let mut space = self.brick.space();
        // The store's own part of what is kept counts once, whether it is free or held.
        if space
            .as_ref()
            .is_ok_and(|space| self.ballast.keep(space.free))
        {
            space = self.brick.space();
        }
        match space {
            Ok(space) => {
                self.ailments.space_is(space.free);
                self.budget.set_space(space, promised, self.ballast.held());
            }
            Err(e) => tracing::warn!(error = ?e, "cannot tell how much space is left"),
        }
    }

    pub(crate) fn now_ms(&self) -> u64 {
        self.env.clock.now().as_millis() as u64
    }

    pub(crate) fn open_volumes(&self) -> Vec<Arc<Volume>> {
        self.volumes.lock().values().cloned().collect()
    }

    pub(crate) fn find(&self, name: &Name) -> Result<VolumeRecord, Error> {
        let missing = || Error::new(ErrorKind::NotFound, format!("there is no volume '{name}'"));
        self.catalog.find(name)?.ok_or_else(missing)
    }

    /// The caller holds `roots`.
    pub(crate) fn pin(&self, rooted: Rooted, size: u64, owner: String) -> PinnedRoot {
        let Rooted { root, below, .. } = rooted;
        let size_blocks = blocks(size);
        let owned = OwnedRoot {
            root,
            size_blocks,
            owner,
        };
        PinnedRoot {
            root,
            size,
            below,
            _pin: self.pins.pin(owned),
        }
    }

    /// The volume in memory, brought there if need be.
    pub(crate) fn volume(self: &Arc<Self>, id: VolumeId) -> Result<Arc<Volume>, Error> {
        let mut volumes = self.volumes.lock();
        if let Some(volume) = volumes.get(&id) {
            return Ok(Arc::clone(volume));
        }
        let gone = || Error::new(ErrorKind::NotFound, "the volume is gone");
        let record = self
            .catalog
            .volume(id)?
            .filter(|r| r.trashed.is_none())
            .ok_or_else(gone)?;
        let volume = self.adopt(record, Vec::new())?;
        volumes.insert(id, Arc::clone(&volume));
        Ok(volume)
    }

    /// Takes the right to write a volume: from now on older holders are refused.
    pub(crate) fn adopt(
        self: &Arc<Self>,
        mut record: VolumeRecord,
        layers: Vec<crate::layer::Layer>,
    ) -> Result<Arc<Volume>, Error> {
        if record.epoch != self.epoch {
            record.epoch = self.epoch;
            self.catalog
                .commit(&[catalog::Change::PutVolume(record.clone())])?;
            record.version += 1;
        }
        self.journal.fence(record.id, self.epoch);
        Ok(Volume::new(Arc::clone(self), record, layers))
    }
}

impl Store {
    /// What the directory says about itself.
    #[must_use]
    pub fn manifest(&self) -> &Manifest {
        &self.shared.manifest
    }

    /// The store's directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.shared.dir
    }

    /// The packs, for collection, checking and metrics.
    #[must_use]
    pub fn packs(&self) -> &Arc<PackStore> {
        &self.shared.packs
    }

    /// The catalog, to read.
    #[must_use]
    pub fn catalog(&self) -> &Arc<dyn Catalog> {
        &self.shared.catalog
    }

    /// The budgets in force.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.shared.config
    }

    /// How it stands.
    #[must_use]
    pub fn stats(&self) -> StoreStats {
        StoreStats {
            pressure: self.shared.budget.pressure(),
            journal: self.shared.journal.stats(),
            health: self.shared.health(),
            survives: self.shared.buffer.survives(),
            shared_memory: self.shared.buffer.allocated(),
            recovery: self.recovery,
            open_volumes: self.shared.volumes.lock().len(),
        }
    }

    /// A volume by name.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`].
    pub fn find(&self, name: &Name) -> Result<VolumeRecord, Error> {
        self.shared.find(name)
    }

    /// Bytes of a volume that are not in packs yet; 0 if it is not in use.
    #[must_use]
    pub fn dirty(&self, id: VolumeId) -> u64 {
        let volume = self.shared.volumes.lock().get(&id).cloned();
        volume.map_or(0, |volume| volume.stats().dirty)
    }

    /// What limits did to the volumes in use that have some, or had.
    #[must_use]
    pub fn throttled(&self) -> Vec<(Name, Throttled)> {
        let volumes = self.shared.open_volumes().into_iter();
        let throttled = volumes.map(|volume| {
            let name = volume.name.lock().clone();
            (name, volume.limiter.throttled())
        });
        throttled
            .filter(|(_, throttled)| throttled.requests > 0)
            .collect()
    }

    /// Looks at the brick's free space again: what was freed is open to writers at once.
    pub fn update_space(&self) {
        self.shared.update_space();
    }

    /// The root and the size of a volume or snapshot, after destaging what it holds. In [`gc::Roots::roots`]
    /// it has one entry more meanwhile, of the same name.
    ///
    /// # Errors
    /// If there is none, or destaging fails.
    pub fn root_of(&self, r: &VolumeRef) -> Result<PinnedRoot, Error> {
        self.pinned_as(r, r.to_string())
    }

    /// The same, for somebody who looks into it: that is whose it is meanwhile.
    pub(crate) fn pinned(&self, r: &VolumeRef, who: &str) -> Result<PinnedRoot, Error> {
        self.pinned_as(r, format!("{who} {r}"))
    }

    fn pinned_as(&self, r: &VolumeRef, owner: String) -> Result<PinnedRoot, Error> {
        let _roots = self.shared.roots.read();
        let (rooted, size) = self.shared.rooted(r)?;
        Ok(self.shared.pin(rooted, size, owner))
    }

    /// Destages everything, for who looks at the packs.
    ///
    /// # Errors
    /// The first that destaging meets; every volume was tried.
    pub fn settle_all(&self) -> Result<(), Error> {
        self.for_all("destaging failed", |volume| volume.settle_now())
    }

    /// Makes all that was answered durable with as little work as can be: in the journal, and in packs what it has no
    /// room for. To be called before [`close`](Self::close) as well, while clients are served: little is left to it
    /// then.
    ///
    /// # Errors
    /// The first; every volume was tried.
    pub fn keep_all(&self) -> Result<(), Error> {
        self.for_all("what was not flushed is not durable", Volume::keep)
    }

    fn for_all(
        &self,
        failed: &str,
        what: impl Fn(&Arc<Volume>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let mut all = Ok(());
        for volume in self.shared.open_volumes() {
            if let Err(e) = what(&volume) {
                tracing::error!(volume = %volume.id, error = ?e, "{failed}");
                all = all.and(Err(e));
            }
        }
        all
    }

    /// Ends the background's work and makes all that was answered durable, flushed or not. What is not in packs is in
    /// the journal: who opens the store next goes on with it, wherever that is. Nothing that was flushed is lost if
    /// this fails or is never called.
    ///
    /// # Errors
    /// The first that making it durable meets. The write buffer stays then.
    pub fn close(&self) -> Result<(), Error> {
        self.end_background();
        // Most of it before, so that clients are served for as long as can be.
        let kept = self.keep_all();
        for volume in self.shared.open_volumes() {
            let _managing = volume.manage.lock();
            volume.state.write().closed = true;
            volume.limiter.close();
        }
        self.shared.timer.close();
        let kept = kept.and_then(|()| self.keep_all());
        if kept.is_ok() {
            self.forget_buffer();
        }
        kept
    }

    /// Ends the threads. A destage that is under way is given up: what it was to write is in memory, and the packs
    /// that it has put are not named yet.
    fn end_background(&self) {
        self.shared.hurry.store(true, Relaxed);
        self.shared.work.close();
        self.shared.budget.close();
        self.shared.buffer.close();
        for thread in self.threads.lock().drain(..) {
            if thread.join().is_err() {
                tracing::error!("a background thread had panicked");
            }
        }
        self.shared.hurry.store(false, Relaxed);
    }

    /// Nothing that is in the write buffer is needed any more.
    fn forget_buffer(&self) {
        if let Err(e) = self.shared.buffer.remove() {
            tracing::warn!(error = %e, "the write buffer cannot be removed");
        }
    }
}

impl gc::Roots for Store {
    fn roots(&self) -> Result<Vec<OwnedRoot>, gc::Error> {
        let _nobody_moves_roots = self.shared.roots.write();
        self.shared
            .all_roots()
            .map_err(|e| gc::Error::new(gc::ErrorKind::Io, "listing what must stay").with_source(e))
    }

    fn quiesce(&self) {
        self.shared.gate.quiesce();
    }

    fn has_volume(&self, id: VolumeId) -> Result<bool, gc::Error> {
        let found = self.shared.catalog.volume(id);
        let found = found.map_err(|e| {
            gc::Error::new(gc::ErrorKind::Io, "looking for a volume").with_source(e)
        })?;
        Ok(found.is_some())
    }
}

impl Shared {
    fn all_roots(&self) -> Result<Vec<OwnedRoot>, Error> {
        let mut roots: Vec<OwnedRoot> = self.pins.roots.lock().values().cloned().collect();
        for volume in self.catalog.volumes()? {
            let label = match volume.trashed {
                None => volume.name.to_string(),
                Some(_) => format!("trash:{}", volume.id),
            };
            for snapshot in self.catalog.snapshots(volume.id)? {
                // One that waits for its root is still in the layers above the volume's.
                let Some(root) = snapshot.root else { continue };
                let owner = format!("{label}@{}", snapshot.name);
                roots.push(OwnedRoot {
                    root,
                    size_blocks: blocks(snapshot.size),
                    owner,
                });
            }
            roots.push(OwnedRoot {
                root: volume.root,
                size_blocks: blocks(volume.size),
                owner: label,
            });
        }
        Ok(roots)
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        // Who drops without closing (a crash in a simulation) leaves what is dirty to the write buffer, if there is any.
        self.end_background();
        if self.shared.buffer.is_unused() {
            self.forget_buffer();
        }
        // Volumes and what they share refer to each other.
        for volume in std::mem::take(&mut *self.shared.volumes.lock()).into_values() {
            volume.limiter.close();
        }
    }
}

/// Blocks of so many bytes.
pub(crate) fn blocks(bytes: u64) -> u64 {
    bytes.div_ceil(types::BLOCK_SIZE as u64)
}
