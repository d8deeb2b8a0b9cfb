//! A volume that is in use.

use crate::{
    below::Below,
    budget::Account,
    config::Background,
    error::{Error, ErrorKind},
    health::Part,
    layer::{Layer, Log},
    quota::UNLIMITED,
    store::Shared,
};
use catalog::{SnapshotRecord, VolumeRecord};
use journal::Ticket;
use limits::Limiter;
use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, OnceLock},
    time::Duration,
};
use sync::{
    Mutex, RwLock,
    atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
};
use types::{Epoch, Generation, Name, Root, VolumeId};

/// A volume's state in memory and the locks around it; see the crate's second invariant.
pub(crate) struct Volume {
    pub(crate) shared: Arc<Shared>,
    pub(crate) id: VolumeId,
    pub(crate) epoch: Epoch,
    /// Bytes; mirrors the record, except that who shrinks the volume lowers it first. It is lowered under
    /// `state`, so that who looks at it there does not change what is cut off.
    pub(crate) size: AtomicU64,
    /// Mirrors the record.
    pub(crate) read_only: AtomicBool,
    /// Mirrors the record: bytes, or none.
    pub(crate) quota: AtomicU64,
    /// What it has of the budget for dirty data.
    pub(crate) account: Account,
    /// Has the record's limits.
    pub(crate) limiter: Arc<Limiter>,
    /// Mirrors the record.
    pub(crate) mapped: AtomicU64,
    /// Mirrors the record, for whoever tells the log and must not wait for a commit.
    pub(crate) name: Mutex<Name>,
    /// How often it was opened by clients; counted under `state`, so that who holds that knows of all.
    pub(crate) opens: AtomicU64,
    /// Waits in the work queue.
    pub(crate) queued: AtomicBool,
    /// Held by who changes the volume for its administrator: one change at a time.
    pub(crate) manage: Mutex<()>,
    /// Held by who destages: generations in order, one at a time.
    pub(crate) destage: Mutex<()>,
    pub(crate) record: Mutex<Committed>,
    pub(crate) state: RwLock<State>,
}

/// What the catalog says, and what the next moves of the root must tell it.
pub(crate) struct Committed {
    pub(crate) record: VolumeRecord,
    /// What the record's root has holes for, if that is not nothing.
    pub(crate) below: Option<Below>,
    /// Who wants the root that holds exactly the generations up to the key.
    pub(crate) wanted: BTreeMap<Generation, Vec<Wanted>>,
}

/// Somebody who waits for a root.
pub(crate) enum Wanted {
    /// A snapshot, in the catalog already (its version tells) or not.
    Snapshot(SnapshotRecord),
    /// A clone.
    Root(Arc<OnceLock<Rooted>>),
}

/// A root, how many blocks it maps, and what its holes are.
#[derive(Clone, Debug)]
pub(crate) struct Rooted {
    pub(crate) root: Root,
    pub(crate) mapped_blocks: u64,
    pub(crate) below: Option<Below>,
}

impl Rooted {
    /// Of a volume that has nothing yet.
    pub(crate) const EMPTY: Rooted = Rooted {
        root: Root::EMPTY,
        mapped_blocks: 0,
        below: None,
    };
}

/// What reads and writes need.
pub(crate) struct State {
    pub(crate) head: Layer,
    /// Oldest first.
    pub(crate) frozen: VecDeque<Frozen>,
    /// The state below all layers.
    pub(crate) base: Base,
    /// The journal had all of the generation that was destaged last.
    pub(crate) destaged_whole: bool,
    /// Grows whenever a block could have moved: by a freeze, a destage, a rollback.
    pub(crate) version: u64,
    /// The last submit to the journal: a flush that finds nothing new waits for it.
    pub(crate) ticket: Option<Ticket>,
    /// Since when the head holds something; monotonic time.
    pub(crate) dirty_since: Option<Duration>,
    /// Removed, or the store is closing.
    pub(crate) closed: bool,
}

/// What is read where no layer knows better.
#[derive(Clone, Debug)]
pub(crate) struct Base {
    pub(crate) root: Root,
    /// What its holes are, if not zeroes.
    pub(crate) below: Option<Below>,
}

/// A layer that does not change any more.
pub(crate) struct Frozen {
    pub(crate) layer: Arc<Layer>,
    pub(crate) log: Log,
}

/// How a volume stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VolumeStats {
    /// Bytes that are not in packs yet.
    pub dirty: u64,
}

impl State {
    pub(crate) fn new(head: Generation, base: Base) -> Self {
        State {
            head: Layer::new(head),
            frozen: VecDeque::new(),
            base,
            destaged_whole: false,
            version: 0,
            ticket: None,
            dirty_since: None,
            closed: false,
        }
    }

    pub(crate) fn check_open(&self) -> Result<(), Error> {
        if self.closed {
            Err(Error::new(ErrorKind::Closed, "the volume is gone"))
        } else {
            Ok(())
        }
    }

    /// Closes the head, if it holds anything, and starts a new one: O(1). Answers the last
    /// generation that is not the head's.
    pub(crate) fn freeze(&mut self) -> Generation {
        if !self.head.is_empty() {
            let next = Layer::new(self.head.number.next());
            let mut layer = std::mem::replace(&mut self.head, next);
            let log = layer.take_log();
            self.frozen.push_back(Frozen {
                layer: Arc::new(layer),
                log,
            });
            self.version += 1;
            self.dirty_since = None;
        }
        Generation(self.head.number.0 - 1)
    }

    /// Layers from the newest to the oldest.
    pub(crate) fn layers(&self) -> impl DoubleEndedIterator<Item = &Layer> {
        self.frozen
            .iter()
            .map(|frozen| &*frozen.layer)
            .chain([&self.head])
            .rev()
    }

    pub(crate) fn dirty(&self) -> u64 {
        self.layers().map(Layer::cost).sum()
    }

    /// What the journal has not of a frozen generation.
    pub(crate) fn log_of(&self, generation: Generation) -> Option<&Log> {
        let mut frozen = self.frozen.iter();
        let frozen = frozen.find(|frozen| frozen.layer.number == generation);
        frozen.map(|frozen| &frozen.log)
    }
}

impl Volume {
    pub(crate) fn new(shared: Arc<Shared>, record: VolumeRecord, layers: Vec<Layer>) -> Arc<Self> {
        let last = layers.last().map_or(record.destaged, |layer| layer.number);
        let images = &shared.config.images;
        let source = record.source.as_deref();
        let below = source.map(|source| Below::new(source.clone(), images.clone()));
        let base = Base {
            root: record.root,
            below: below.clone(),
        };
        let mut state = State::new(last.next(), base);
        let account = Account::default();
        for mut layer in layers {
            shared.budget.charge(&account, 0, layer.cost());
            let log = layer.take_log();
            state.frozen.push_back(Frozen {
                layer: Arc::new(layer),
                log,
            });
        }
        Arc::new(Volume {
            id: record.id,
            epoch: record.epoch,
            size: AtomicU64::new(record.size),
            read_only: AtomicBool::new(record.properties.read_only),
            quota: AtomicU64::new(record.quota.unwrap_or(UNLIMITED)),
            account,
            limiter: Limiter::new(&shared.timer, &record.limits),
            mapped: AtomicU64::new(record.mapped_blocks),
            name: Mutex::new(record.name.clone()),
            opens: AtomicU64::new(0),
            queued: AtomicBool::new(false),
            manage: Mutex::new(()),
            destage: Mutex::new(()),
            record: Mutex::new(Committed {
                record,
                below,
                wanted: BTreeMap::new(),
            }),
            state: RwLock::new(state),
            shared,
        })
    }

    pub(crate) fn stats(&self) -> VolumeStats {
        VolumeStats {
            dirty: self.state.read().dirty(),
        }
    }

    pub(crate) fn size(&self) -> u64 {
        self.size.load(Relaxed)
    }

    /// Replaces the record by a changed one, in the catalog and here.
    pub(crate) fn commit_record(
        &self,
        committed: &mut Committed,
        record: VolumeRecord,
    ) -> Result<(), Error> {
        self.shared
            .catalog
            .commit(&[catalog::Change::PutVolume(record.clone())])?;
        self.replace_record(committed, record);
        Ok(())
    }

    /// Notes that the catalog has a changed record.
    pub(crate) fn replace_record(&self, committed: &mut Committed, record: VolumeRecord) {
        self.size.store(record.size, Relaxed);
        self.read_only.store(record.properties.read_only, Relaxed);
        let quota = record.quota.unwrap_or(UNLIMITED);
        self.quota.store(quota, Relaxed);
        if record.limits != committed.record.limits {
            self.limiter.set(&record.limits);
        }
        self.set_record(committed, record);
    }

    /// Notes what the catalog took of a move of the root.
    pub(crate) fn set_record(&self, committed: &mut Committed, mut record: VolumeRecord) {
        record.version += 1;
        self.name.lock().clone_from(&record.name);
        self.mapped.store(record.mapped_blocks, Relaxed);
        committed.record = record;
    }

    /// Asks for destaging, or does it, if nobody else would.
    pub(crate) fn wake_destager(self: &Arc<Self>) {
        match self.shared.config.background {
            Background::Threads(_) => self.shared.work.push(self),
            Background::Inline => {
                let done = self.destage_due(false);
                self.shared.note(Part::Destage(self.id), done);
            }
        }
    }
}
