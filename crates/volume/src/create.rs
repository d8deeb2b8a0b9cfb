//! Making volumes, empty and as clones, and changing them.

use crate::{
    error::{Error, ErrorKind},
    store::Store,
    volume::{Rooted, Volume},
};
use catalog::{
    Backend, Change, ImageSource, PolicyChange, Properties, SnapshotRecord, VolumeRecord,
};
use std::sync::{Arc, atomic::Ordering::Relaxed};
use types::{
    Codec, Generation, Limits, Name, SECTOR_SIZE, VOLUME_SIZE_MAX, VOLUME_SIZE_MIN, VolumeId,
    VolumeRef, limits::LimitChange, size::format_size,
};

/// A volume to be.
#[derive(Clone, Debug)]
pub struct Create {
    /// Its name.
    pub name: Name,
    /// What it begins as.
    pub source: Source,
    /// Default: the origin's, or the store's.
    pub dedup: Option<bool>,
    /// Default: the origin's, or the store's.
    pub codec: Option<Codec>,
    /// Whether writes are refused.
    pub read_only: bool,
    /// Bytes that it may map; none: as many as it has.
    pub quota: Option<u64>,
    /// Queues of the vhost-user-blk device that it is served as; 0: it is not.
    pub vhost_queues: u16,
    /// What is chosen about its scheduled snapshots.
    pub policy: PolicyChange,
}

impl Create {
    /// Everything else by default: writable, without a quota, not served over vhost-user-blk, nothing scheduled.
    #[must_use]
    pub fn new(name: Name, source: Source) -> Self {
        Create {
            name,
            source,
            dedup: None,
            codec: None,
            read_only: false,
            quota: None,
            vhost_queues: 0,
            policy: PolicyChange::default(),
        }
    }
}

/// What a volume begins as.
#[derive(Clone, Debug)]
pub enum Source {
    /// That many bytes of nothing.
    Empty(u64),
    /// A snapshot, or a volume as it is now; grown to so many bytes.
    Clone(VolumeRef, Option<u64>),
    /// An image, and so many bytes. [`Store::fill`] brings it into the store.
    Image(Box<ImageSource>, u64),
}

/// Changes to a volume; what is absent stays.
#[derive(Clone, Debug, Default)]
pub struct Update {
    /// A new name.
    pub name: Option<Name>,
    /// A new size, bytes.
    pub size: Option<u64>,
    /// Whether the size may shrink.
    pub allow_data_loss: bool,
    /// Deduplicate what is written from now on.
    pub dedup: Option<bool>,
    /// Compress what is written from now on so.
    pub codec: Option<Codec>,
    /// Refuse writes.
    pub read_only: Option<bool>,
    /// Bytes that it may map; 0: no quota any more.
    pub quota: Option<u64>,
    /// How fast it may be used.
    pub limits: Vec<LimitChange>,
    /// Leave it out where snapshots of several volumes are taken.
    pub independent: Option<bool>,
    /// Its scheduled snapshots.
    pub policy: PolicyChange,
}

/// Checks a volume's size, bytes.
///
/// # Errors
/// [`ErrorKind::Invalid`] if no volume can have it.
pub fn check_size(size: u64) -> Result<(), Error> {
    let wrong = |why: String| Err(Error::new(ErrorKind::Invalid, why));
    if !(VOLUME_SIZE_MIN..=VOLUME_SIZE_MAX).contains(&size) {
        return wrong(format!(
            "a volume has {} to {}, not {}",
            format_size(VOLUME_SIZE_MIN),
            format_size(VOLUME_SIZE_MAX),
            format_size(size)
        ));
    }
    if !size.is_multiple_of(SECTOR_SIZE) {
        return wrong(format!(
            "a volume's size is a multiple of {SECTOR_SIZE} bytes, {size} is not"
        ));
    }
    Ok(())
}

impl Store {
    /// Makes a volume: O(1) in its size, and in its origin's.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`] if the name is taken, [`ErrorKind::NotFound`] if the origin is not there,
    /// [`ErrorKind::Invalid`] for an impossible size.
    pub fn create_volume(&self, create: &Create) -> Result<VolumeRecord, Error> {
        let _roots = self.shared.roots.read();
        self.insert(self.prepare(create)?)
    }

    /// Makes several volumes: all of them, or none.
    ///
    /// # Errors
    /// As [`create_volume`](Self::create_volume).
    pub fn create_volumes(&self, creates: &[Create]) -> Result<Vec<VolumeRecord>, Error> {
        let _roots = self.shared.roots.read();
        let records = creates.iter().map(|create| self.prepare(create));
        self.insert_all(records.collect::<Result<_, _>>()?, Vec::new())
    }

    /// The record of a volume to be. The caller holds `roots`, until it is in the catalog.
    fn prepare(&self, create: &Create) -> Result<VolumeRecord, Error> {
        self.check_free(&create.name)?;
        let (rooted, size, origin, base) = match &create.source {
            Source::Empty(size) => (
                Rooted::EMPTY,
                *size,
                None,
                self.shared.catalog.settings()?.defaults,
            ),
            Source::Image(image, size) => (
                self.rooted_in(image, *size)?,
                *size,
                None,
                self.shared.catalog.settings()?.defaults,
            ),
            Source::Clone(from, size) => {
                let properties = self.shared.find(&from.volume)?.properties;
                let (rooted, origin_size) = self.shared.rooted(from)?;
                let size = size.unwrap_or(origin_size);
                if size < origin_size {
                    let message = "a clone cannot be smaller than its origin; resize it afterwards";
                    return Err(Error::new(ErrorKind::Invalid, message));
                }
                (rooted, size, Some(from.to_string()), properties)
            }
        };
        let properties = Properties {
            dedup: create.dedup.unwrap_or(base.dedup),
            codec: create.codec.unwrap_or(base.codec),
            read_only: create.read_only,
        };
        let record = self.new_record(create.name.clone(), size, properties, rooted, origin)?;
        let mut policy = None;
        create.policy.apply(&mut policy, record.created_ms);
        Ok(VolumeRecord {
            quota: create.quota,
            vhost_queues: create.vhost_queues,
            policy,
            ..record
        })
    }

    /// Refuses a name that a volume has.
    pub(crate) fn check_free(&self, name: &Name) -> Result<(), Error> {
        if self.shared.catalog.find(name)?.is_some() {
            let message = format!("the volume '{name}' exists already; choose another name");
            return Err(Error::new(ErrorKind::Conflict, message));
        }
        Ok(())
    }

    /// The record of a new volume, which is not in the catalog yet.
    pub(crate) fn new_record(
        &self,
        name: Name,
        size: u64,
        properties: Properties,
        rooted: Rooted,
        origin: Option<String>,
    ) -> Result<VolumeRecord, Error> {
        check_size(size)?;
        Ok(VolumeRecord {
            id: VolumeId(self.shared.ids.volume(&*self.shared.catalog)?),
            version: 0,
            name,
            epoch: self.shared.epoch,
            size,
            root: rooted.root,
            destaged: Generation(0),
            mapped_blocks: rooted.mapped_blocks,
            properties,
            created_ms: self.shared.now_ms(),
            origin,
            trashed: None,
            quota: None,
            vhost_queues: 0,
            backend: Backend::Store,
            limits: Limits::NONE,
            source: rooted.below.map(|below| below.record()),
            mode: Default::default(),
            base: None,
            independent: false,
            policy: None,
        })
    }

    /// Puts a new volume into the catalog. The caller holds `roots`.
    pub(crate) fn insert(&self, record: VolumeRecord) -> Result<VolumeRecord, Error> {
        Ok(self.insert_all(vec![record], Vec::new())?.remove(0))
    }

    /// The same with several, and with snapshots of them: all, or nothing.
    pub(crate) fn insert_all(
        &self,
        mut records: Vec<VolumeRecord>,
        snapshots: Vec<SnapshotRecord>,
    ) -> Result<Vec<VolumeRecord>, Error> {
        let mut changes: Vec<Change> = records.iter().cloned().map(Change::PutVolume).collect();
        changes.extend(snapshots.into_iter().map(Change::PutSnapshot));
        self.shared.catalog.commit(&changes).map_err(|e| {
            if e.kind() == catalog::ErrorKind::Exists {
                let names: Vec<&str> = records.iter().map(|r| r.name.as_str()).collect();
                let message = format!("the volume '{}' exists already", names.join("' or '"));
                return Error::new(ErrorKind::Conflict, message).with_source(e);
            }
            e.into()
        })?;
        records.iter_mut().for_each(|record| record.version = 1);
        Ok(records)
    }

    /// Renames, resizes, changes properties: all or nothing.
    ///
    /// # Errors
    /// [`ErrorKind::Refused`] if it would shrink without `allow_data_loss`, or get another size than what it goes back to; else as
    /// [`create_volume`](Self::create_volume).
    pub fn update_volume(&self, name: &Name, update: &Update) -> Result<VolumeRecord, Error> {
        let volume = self.shared.volume(self.shared.find(name)?.id)?;
        let _managing = volume.manage.lock();
        volume.state.read().check_open()?;
        let old_size = volume.size();
        let size = update.size.unwrap_or(old_size);
        if let Some(new) = update.name.as_ref().filter(|new| *new != name) {
            self.check_free(new)?;
        }
        if size != old_size {
            check_size(size)?;
            // To go back to what it was would undo that, too.
            Self::refuse_mode(&volume.record.lock().record)?;
        }
        if size < old_size && !update.allow_data_loss {
            let message = format!(
                "shrinking '{name}' from {} to {} would cut data off; add --allow-data-loss if that is meant",
                format_size(old_size),
                format_size(size)
            );
            return Err(Error::new(ErrorKind::Refused, message));
        }
        if size < old_size
            && let Some(below) = &volume.record.lock().below
        {
            return Err(below.refuse(name, "it can be made smaller when that is done"));
        }
        let changed = volume
            .clear_for(size)
            .and_then(|()| volume.change_record(size, update));
        if changed.is_err() {
            volume.size.store(old_size, Relaxed);
        }
        changed
    }
}

impl Volume {
    /// What is cut off must not come back when the volume grows again, so nobody writes there from before it is zeroed.
    /// And it is zeroed once more then: the disk may have lost the one, and not the size. The caller puts the size back
    /// if it cannot commit it.
    fn clear_for(self: &Arc<Self>, size: u64) -> Result<(), Error> {
        let old_size = self.size();
        if size < old_size {
            let _nobody_writes = self.state.write();
            self.size.store(size, Relaxed);
        } else if size == old_size {
            return Ok(());
        }
        let start = size.min(old_size);
        self.zero_beyond(start, size.max(old_size) - start)?;
        self.flush()
    }

    fn change_record(&self, size: u64, update: &Update) -> Result<VolumeRecord, Error> {
        let mut committed = self.record.lock();
        let mut record = committed.record.clone();
        record.size = size;
        if let Some(name) = &update.name {
            record.name = name.clone();
        }
        let properties = &mut record.properties;
        properties.dedup = update.dedup.unwrap_or(properties.dedup);
        properties.codec = update.codec.unwrap_or(properties.codec);
        properties.read_only = update.read_only.unwrap_or(properties.read_only);
        record.quota = match update.quota {
            Some(0) => None,
            Some(bytes) => Some(bytes),
            None => record.quota,
        };
        for change in &update.limits {
            let changed = record.limits.change(change);
            changed.map_err(|why| Error::new(ErrorKind::Invalid, why))?;
        }
        record.independent = update.independent.unwrap_or(record.independent);
        update
            .policy
            .apply(&mut record.policy, self.shared.now_ms());
        self.commit_record(&mut committed, record)?;
        Ok(committed.record.clone())
    }
}
