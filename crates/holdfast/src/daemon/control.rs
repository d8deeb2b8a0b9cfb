//! The daemon behind the API: the engine, the NBD server and upkeep in one place.

use super::{check, collect, connect, convert, diff, files, group, images, metrics, schedules};
use api_types::{
    ApiError, CheckReport, CheckRequest, CloneGroup, CollectReport, CollectRequest, Connect,
    Connection, ContentReader, ContentWriter, Control, CreateSnapshot, CreateVolume, DiffLine,
    ErrorCode, EventKind, ExportRequest, Group, ImportRequest, Imported, NbdStatus, Restore,
    ScrubStatus, ServeVhost, Snapshot, StoreInfo, StoreUsage, TrashEntry, UpdateVolume,
    VhostDevice, VhostStatus, Volume, VolumeUsage, Work,
};
use catalog::VolumeRecord;
use parking_lot::Mutex;
use std::{
    path::PathBuf,
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};
use types::{BLOCK_SIZE, Name, VolumeId, VolumeRef};
use volume::{Create, Source, Store, Update};

/// Clients that were ended a moment ago are still leaving, for so long at most.
pub(crate) const LEAVING: Duration = Duration::from_millis(500);

/// Everything that the API reaches.
pub(crate) struct Daemon {
    pub(crate) env: env::Env,
    pub(crate) store: Arc<Store>,
    pub(crate) files: Arc<super::files::Files>,
    pub(crate) nbd: front_nbd::Server,
    pub(crate) nbd_socket: PathBuf,
    /// Where the NBD server listens, for people.
    pub(crate) nbd_listen: Vec<String>,
    pub(crate) power: Arc<super::power::Power>,
    pub(crate) vhost: super::vhost::Vhost,
    pub(crate) started_ms: u64,
    pub(crate) growth_percent: u8,
    pub(crate) last_collect: Mutex<collect::Last>,
    pub(crate) last_collect_ms: AtomicU64,
    pub(crate) scrub: super::scrub::Scrub,
    pub(crate) fills: super::fills::Fills,
    pub(crate) schedules: schedules::Schedules,
    pub(crate) events: api_server::Events,
}

type Result<T> = std::result::Result<T, ApiError>;

impl Daemon {
    pub(crate) fn publish(&self, kind: EventKind, subject: String, message: &str) {
        self.events.publish(kind, subject, message);
    }

    /// Clients of a volume, its snapshots left out.
    pub(crate) fn connections_of(&self, name: &Name) -> u64 {
        let open = self.nbd.connections();
        open.iter()
            .filter(|c| c.export.as_deref() == Some(name.as_str()))
            .count() as u64
    }

    pub(crate) fn refuse_in_use(&self, name: &Name, to: &str) -> Result<()> {
        // Whoever wants something of what is not there will be told.
        let Ok(record) = self.store.find(name) else {
            return Ok(());
        };
        self.wait_for_departure(&record, LEAVING);
        match self.clients(&record) {
            0 => Ok(()),
            count => Err(ApiError::new(
                ErrorCode::InUse,
                format!(
                    "'{name}' is open on {count} connection(s): it cannot be {to} under its clients"
                ),
            )
            .hint("disconnect them first; 'holdfast nbd status' and 'holdfast vhost status' list them")),
        }
    }

    pub(crate) fn describe(&self, mut record: VolumeRecord) -> Result<Volume> {
        let file = record.backend.file().map(|file| {
            record.mapped_blocks = self.files.allocated(file) / BLOCK_SIZE as u64;
            self.files.info(file)
        });
        let snapshots = match record.backend.file() {
            Some(file) => self.files.snapshot_names(file).len() as u64,
            None => self.snapshot_count(record.id)?,
        };
        let connections = self.connections_of(&record.name) + self.vhost.guests(record.id);
        let dirty = self.store.dirty(record.id);
        let vhost = self.vhost.socket(record.id, None);
        let apart = self.apart(&record, connections)?;
        let zone = jiff::tz::TimeZone::system();
        let snapshot_policy = self.schedules.describe(&record, &zone);
        let source = record.source.as_ref();
        let importing = source.map(|source| self.fills.describe(record.id, source));
        Ok(Volume {
            snapshots,
            connections,
            vhost,
            dirty,
            file,
            apart,
            snapshot_policy,
            importing,
            ..convert::volume(record)
        })
    }

    fn snapshot_count(&self, id: VolumeId) -> Result<u64> {
        let snapshots = self.store.catalog().snapshots(id);
        Ok(snapshots.map_err(|e| convert::api_error(e.into()))?.len() as u64)
    }

    pub(crate) fn records(&self) -> Result<Vec<VolumeRecord>> {
        self.store
            .catalog()
            .volumes()
            .map_err(|e| convert::api_error(e.into()))
    }

    pub(crate) fn find(&self, name: &str) -> Result<VolumeRecord> {
        self.store
            .find(&convert::name(name)?)
            .map_err(convert::api_error)
    }

    /// Nobody has a volume open after this; who has it is cut off if `force` is set.
    pub(crate) fn cut_off(&self, name: &Name, force: bool) -> Result<()> {
        if !force {
            self.refuse_in_use(name, "removed")?;
        }
        for client in self.nbd.connections() {
            if client.export.as_deref() == Some(name.as_str()) {
                self.nbd.disconnect(client.id);
            }
        }
        Ok(())
    }

    /// Removes a volume of the trash for good, with its file if it is one.
    fn purge_record(&self, record: VolumeRecord) -> Result<TrashEntry> {
        if let Some(file) = record.backend.file() {
            self.files.remove(file)?;
        }
        let purged = self
            .store
            .purge_volume(record.id)
            .map_err(convert::api_error)?;
        let mut entry = convert::trash_entry(purged, 0);
        entry.until_ms = entry.removed_ms;
        Ok(entry)
    }

    fn trash_entry(&self, record: VolumeRecord) -> Result<TrashEntry> {
        let snapshots = self.snapshot_count(record.id)?;
        Ok(convert::trash_entry(record, snapshots))
    }
}

impl Control for Daemon {
    fn store(&self) -> Result<StoreInfo> {
        let records = self.records()?;
        let live: Vec<_> = records.iter().filter(|r| r.trashed.is_none()).collect();
        let settings = self
            .store
            .catalog()
            .settings()
            .map_err(|e| convert::api_error(e.into()))?;
        let (stats, usage, config) = (
            self.store.stats(),
            self.store.packs().usage(),
            self.store.config(),
        );
        let mut snapshots = 0;
        for record in &live {
            snapshots += self.snapshot_count(record.id)?;
        }
        let manifest = self.store.manifest();
        Ok(StoreInfo {
            id: manifest.id.to_string(),
            path: self.store.dir().display().to_string(),
            format: manifest.format,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            started_ms: self.started_ms,
            recovery_ms: stats.recovery.as_millis() as u64,
            scrub: self.scrub.status(),
            dedup: settings.defaults.dedup,
            codec: settings.defaults.codec,
            trash_keep_s: settings.trash_keep_s,
            volumes: live.len() as u64,
            snapshots,
            journal_used: stats.journal.used,
            journal_capacity: stats.journal.capacity,
            dirty: stats.pressure.dirty,
            dirty_budget: stats.pressure.dirty_limit,
            survives: stats.survives,
            shared_memory: stats.shared_memory,
            cache_budget: config.cache_bytes,
            index_entries: usage.index_entries,
            index_k: usage.index_k,
            index_budget: config.index_bytes,
            space: convert::space(stats.pressure.level),
            problems: stats.health.problems,
            last_error: stats.health.disk.last_error,
            collected_ms: Some(
                self.last_collect_ms
                    .load(std::sync::atomic::Ordering::Relaxed),
            )
            .filter(|&ms| ms != 0),
        })
    }

    fn usage(&self) -> Result<StoreUsage> {
        collect::usage(self)
    }

    fn collect(&self, request: &CollectRequest, work: Work<'_>) -> Result<CollectReport> {
        self.collect_now(request, work)
    }

    fn check(&self, request: &CheckRequest, work: Work<'_>) -> Result<CheckReport> {
        check::check(&self.store, request, work)
    }

    fn scrub(&self, work: Work<'_>) -> Result<ScrubStatus> {
        self.scrub.run(work)
    }

    fn scrub_status(&self) -> ScrubStatus {
        self.scrub.status()
    }

    fn stop_scrub(&self) -> ScrubStatus {
        self.scrub.stop()
    }

    fn volumes(&self) -> Result<Vec<Volume>> {
        let mut records = self.records()?;
        records.retain(|record| record.trashed.is_none());
        records.sort_by(|a, b| a.name.cmp(&b.name));
        records
            .into_iter()
            .map(|record| self.describe(record))
            .collect()
    }

    fn volume(&self, name: &str) -> Result<Volume> {
        self.describe(self.find(name)?)
    }

    fn create_volume(&self, request: &CreateVolume) -> Result<Volume> {
        if let Some(spec) = &request.file {
            return self.describe(self.create_file_volume(request, spec)?);
        }
        let source = match (&request.from, request.size) {
            (Some(from), size) => {
                let from = convert::reference(from)?;
                files::refuse_for_file(&self.find(from.volume.as_str())?, "clones")?;
                Source::Clone(from, size)
            }
            (None, Some(size)) => Source::Empty(size),
            (None, None) => {
                let error = ApiError::new(ErrorCode::Invalid, "a new volume needs a size");
                return Err(error.hint("give a size, or a volume or snapshot to clone"));
            }
        };
        let create = Create {
            dedup: request.dedup,
            codec: request.codec,
            read_only: request.read_only.unwrap_or(false),
            quota: request.quota.filter(|&bytes| bytes != 0),
            policy: schedules::read_change(&request.snapshot_policy)?,
            ..Create::new(convert::name(&request.name)?, source)
        };
        let created = self.store.create_volume(&create);
        self.fills.look();
        self.schedules.look();
        self.describe(created.map_err(convert::api_error)?)
    }

    fn update_volume(&self, name: &str, request: &UpdateVolume) -> Result<Volume> {
        let record = self.find(name)?;
        if let Some(mode) = request.mode {
            let alone = UpdateVolume {
                mode: Some(mode),
                ..UpdateVolume::default()
            };
            if *request != alone {
                let message = "a mode is changed by itself, or it is not all or nothing";
                return Err(ApiError::new(ErrorCode::Invalid, message));
            }
            return self.describe(self.set_mode(&record, mode)?);
        }
        if let Some(file) = record.backend.file() {
            return self.describe(self.update_file_volume(&record, file, request)?);
        }
        let name = convert::name(name)?;
        let update = Update {
            name: request.name.as_deref().map(convert::name).transpose()?,
            size: request.size,
            allow_data_loss: request.allow_data_loss,
            dedup: request.dedup,
            codec: request.codec,
            read_only: request.read_only,
            quota: request.quota,
            limits: request.limits.changes(),
            independent: request.independent,
            policy: schedules::read_change(&request.snapshot_policy)?,
        };
        if update.name.is_some() {
            self.refuse_rename(&name)?;
        }
        let size = self.store.find(&name).map_err(convert::api_error)?.size;
        if update.size.is_some_and(|new| new < size) {
            self.refuse_in_use(&name, "made smaller")?;
        }
        let updated = self.store.update_volume(&name, &update);
        let updated = updated.map_err(convert::api_error)?;
        if update.name.is_some() {
            self.vhost.follow(updated.id);
        }
        if updated.size != size {
            self.vhost.resized(updated.id);
        }
        if request.snapshot_policy != Default::default() {
            self.schedules.look();
        }
        self.describe(updated)
    }

    fn remove_volume(&self, name: &str, force: bool) -> Result<TrashEntry> {
        let record = self.find(name)?;
        self.cut_off(&record.name, force)?;
        // What is under way of an import ends with an error, which is none.
        self.fills.forget(record.id);
        let removed = self.store.remove_volume(&record.name);
        let removed = removed.map_err(|e| {
            self.fills.look();
            convert::api_error(e)
        })?;
        self.vhost.follow(removed.id);
        self.power.forget(removed.id);
        match removed.backend.file() {
            None => self.trash_entry(removed),
            Some(_) => self.purge_record(removed),
        }
    }

    fn volume_usage(&self, name: &VolumeRef) -> Result<VolumeUsage> {
        let record = self.find(name.volume.as_str())?;
        if let Some(file) = record.backend.file() {
            let taken = self.files.allocated(file);
            return Ok(VolumeUsage {
                name: name.to_string(),
                size: record.size,
                used: taken,
                stored: taken,
                unique: taken,
            });
        }
        collect::volume_usage(self, name)
    }

    fn connect(&self, name: &VolumeRef) -> Result<Connect> {
        self.content_len(name)?;
        let volume = self.find(name.volume.as_str())?;
        let read_only = name.snapshot.is_some() || volume.properties.read_only;
        // What was written to a raw file is the kernel's.
        let survives = match volume.backend.file() {
            Some(file) => file.format == types::FileFormat::Raw,
            None => self.store.stats().survives,
        };
        let guest = connect::Guest {
            read_only,
            survives,
        };
        let mut lines = connect::lines(name, &self.nbd_socket, guest);
        let served = self.vhost.device(name);
        lines.vhost = served.map(|device| connect::vhost_lines(&device, guest));
        Ok(lines)
    }

    fn snapshots(&self, volume: &str) -> Result<Vec<Snapshot>> {
        let name = convert::name(volume)?;
        let record = self.find(volume)?;
        if let Some(file) = record.backend.file() {
            return self.file_snapshots(&record, file);
        }
        let snapshots = self.store.snapshots(&name).map_err(convert::api_error)?;
        Ok(snapshots
            .into_iter()
            .map(|s| {
                let vhost = self.vhost.socket(s.volume, Some(s.id));
                convert::snapshot(s, &name, vhost)
            })
            .collect())
    }

    fn create_snapshot(&self, volume: &str, request: &CreateSnapshot) -> Result<Snapshot> {
        let record = self.find(volume)?;
        let (volume, name) = (convert::name(volume)?, convert::name(&request.name)?);
        if let Some(file) = record.backend.file() {
            return self.create_file_snapshot(&record, file, &name);
        }
        let snapshot = self
            .store
            .create_snapshot(&volume, &name)
            .map_err(convert::api_error)?;
        Ok(convert::snapshot(snapshot, &volume, None))
    }

    fn remove_snapshot(&self, volume: &str, snapshot: &str) -> Result<()> {
        let (volume, snapshot) = (convert::name(volume)?, convert::name(snapshot)?);
        let r = VolumeRef {
            volume: volume.clone(),
            snapshot: Some(snapshot.clone()),
        };
        let served = self.refuse_read(&r)?;
        let record = self.find(volume.as_str())?;
        if let Some(file) = record.backend.file() {
            return self.remove_file_snapshot(&record, file, &snapshot);
        }
        self.note_removal();
        self.store
            .remove_snapshot(&volume, &snapshot)
            .map_err(convert::api_error)?;
        if served {
            self.vhost.follow(record.id);
        }
        Ok(())
    }

    fn rollback(&self, volume: &str, snapshot: &str) -> Result<Volume> {
        let (volume, snapshot) = (convert::name(volume)?, convert::name(snapshot)?);
        let record = self.find(volume.as_str())?;
        self.refuse_in_use(&volume, "rolled back")?;
        if let Some(file) = record.backend.file() {
            return self.roll_back_file(&record, file, &snapshot);
        }
        self.note_removal();
        self.describe(
            self.store
                .rollback(&volume, &snapshot)
                .map_err(convert::api_error)?,
        )
    }

    fn create_group(&self, request: &Group) -> Result<Vec<Snapshot>> {
        group::create(self, request)
    }

    fn rollback_group(&self, request: &Group) -> Result<Vec<Volume>> {
        group::rollback(self, request)
    }

    fn clone_group(&self, request: &CloneGroup) -> Result<Vec<Volume>> {
        group::clone(self, request)
    }

    fn trash(&self) -> Result<Vec<TrashEntry>> {
        let records = self.store.trash().map_err(convert::api_error)?;
        records
            .into_iter()
            .map(|record| self.trash_entry(record))
            .collect()
    }

    fn restore(&self, id: u64, request: &Restore) -> Result<Volume> {
        let name = request.name.as_deref().map(convert::name).transpose()?;
        let restored = self.store.restore_volume(VolumeId(id), name);
        let restored = restored.map_err(convert::api_error)?;
        self.vhost.follow(restored.id);
        self.fills.look();
        self.schedules.look();
        self.describe(restored)
    }

    fn purge(&self, id: Option<u64>) -> Result<Vec<TrashEntry>> {
        let ids = match id {
            Some(id) => vec![id],
            None => self.trash()?.iter().map(|entry| entry.id).collect(),
        };
        let trash = self.store.trash().map_err(convert::api_error)?;
        let purge = |id| {
            if let Some(file) = trash
                .iter()
                .find(|record| record.id == VolumeId(id))
                .and_then(|record| record.backend.file())
            {
                self.files.remove(file)?;
            }
            let purged = self
                .store
                .purge_volume(VolumeId(id))
                .map_err(convert::api_error)?;
            self.note_removal();
            Ok(convert::trash_entry(purged, 0))
        };
        ids.into_iter().map(purge).collect()
    }

    fn import(&self, request: &ImportRequest, work: Work<'_>) -> Result<Imported> {
        self.imported(images::import(self, request, work)?)
    }

    fn import_stream(
        &self,
        request: &ImportRequest,
        content: ContentReader<'_>,
        work: Work<'_>,
    ) -> Result<Imported> {
        self.imported(images::import_stream(self, request, content, work)?)
    }

    fn pause_import(&self, name: &str, paused: bool) -> Result<Volume> {
        self.describe(self.pause_fill(name, paused)?)
    }

    fn export(&self, request: &ExportRequest, work: Work<'_>) -> Result<()> {
        images::export(self, request, work)
    }

    fn export_stream(
        &self,
        source: &VolumeRef,
        content: ContentWriter<'_>,
        work: Work<'_>,
    ) -> Result<()> {
        images::export_stream(self, source, content, work)
    }

    fn content_len(&self, source: &VolumeRef) -> Result<u64> {
        let record = self.find(source.volume.as_str())?;
        let Some(name) = &source.snapshot else {
            return Ok(record.size);
        };
        if let Some(file) = record.backend.file() {
            return Ok(self.file_snapshot(&record, file, name.as_str())?.size);
        }
        let snapshot = self.store.catalog().find_snapshot(record.id, name);
        let snapshot = snapshot.map_err(|e| convert::api_error(e.into()))?;
        let missing = || {
            ApiError::new(
                ErrorCode::NotFound,
                format!("there is no snapshot '{source}'"),
            )
        };
        Ok(snapshot.ok_or_else(missing)?.size)
    }

    fn diff(
        &self,
        from: &VolumeRef,
        to: &VolumeRef,
        each: &mut dyn FnMut(DiffLine) -> std::io::Result<()>,
    ) -> Result<()> {
        diff::diff(self, from, to, each)
    }

    fn vhost(&self) -> Result<VhostStatus> {
        Ok(self.vhost.status())
    }

    fn serve_vhost(&self, name: &VolumeRef, request: &ServeVhost) -> Result<VhostDevice> {
        self.vhost.set(name, request)
    }

    fn stop_vhost(&self, name: &VolumeRef, force: bool) -> Result<()> {
        self.vhost.unset(name, force)
    }

    fn nbd(&self) -> Result<NbdStatus> {
        let connections = self.nbd.connections().into_iter().map(|c| Connection {
            id: c.id,
            peer: c.peer,
            export: c.export.unwrap_or_default(),
            since_ms: c.since.as_millis() as u64,
            requests: c.requests,
            bytes_read: c.bytes_read,
            bytes_written: c.bytes_written,
        });
        Ok(NbdStatus {
            listen: self.nbd_listen.clone(),
            connections: connections.collect(),
        })
    }

    fn metrics(&self) -> String {
        metrics::encode(self)
    }
}

/// Bytes of so many blocks.
pub(crate) const fn bytes(blocks: u64) -> u64 {
    blocks * BLOCK_SIZE as u64
}
