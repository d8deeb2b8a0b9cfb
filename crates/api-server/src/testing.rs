//! A daemon in memory: volumes are names and bytes, long work goes on until it is let go.

mod answers;
mod api;
mod files;
mod modes;
mod reports;

pub use api::Api;

use answers::{broken, entry, importing, missing, vhost_device};
use api_types::{
    ApiError, CheckReport, CheckRequest, CloneGroup, CollectReport, CollectRequest, Connect,
    ContentReader, ContentWriter, Control, CreateSnapshot, CreateVolume, DiffExtent, DiffLine,
    ErrorCode, ExportRequest, Group, ImportRequest, Imported, Limits, NbdStatus, Restore,
    ScrubStatus, ServeVhost, Snapshot, StoreInfo, StoreUsage, TrashEntry, UpdateVolume,
    VhostDevice, VhostStatus, Volume, VolumeUsage, Work,
};
use parking_lot::{Condvar, Mutex};
use std::{collections::BTreeMap, io, time::Duration};
use types::{Codec, Name, VolumeRef};

/// Volumes in memory. A volume of the name `panic` panics when asked for; one called `filling…` is imported.
#[derive(Default)]
pub struct FakeControl {
    state: Mutex<State>,
    held: Mutex<bool>,
    released: Condvar,
    damaged: Mutex<bool>,
}

#[derive(Default)]
struct State {
    next: u64,
    volumes: BTreeMap<String, Held>,
    trash: BTreeMap<u64, Held>,
}

#[derive(Clone)]
struct Held {
    volume: Volume,
    data: Vec<u8>,
    snapshots: Vec<(Snapshot, Vec<u8>)>,
}

impl FakeControl {
    /// An empty store.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// From now on jobs go on until [`release`](Self::release), reporting 1 of 2.
    pub fn hold(&self) {
        *self.held.lock() = true;
    }

    /// Lets jobs end.
    pub fn release(&self) {
        *self.held.lock() = false;
        self.released.notify_all();
    }

    /// From now on a check finds damage.
    pub fn damage(&self) {
        *self.damaged.lock() = true;
    }

    /// The bytes of a volume, as far as they were written.
    pub fn data(&self, name: &str) -> Option<Vec<u8>> {
        self.state
            .lock()
            .volumes
            .get(name)
            .map(|held| held.data.clone())
    }

    fn pass(&self, work: Work<'_>) -> Result<(), ApiError> {
        let mut held = self.held.lock();
        while *held {
            work.report(1, 2)?;
            self.released.wait_for(&mut held, Duration::from_millis(2));
        }
        work.report(2, 2)?;
        Ok(())
    }

    fn add(&self, name: &str, size: u64, data: Vec<u8>) -> Result<Volume, ApiError> {
        name.parse::<Name>()
            .map_err(|e| ApiError::new(ErrorCode::Invalid, e.to_string()))?;
        let mut state = self.state.lock();
        if state.volumes.contains_key(name) {
            let message = format!("volume {name} exists");
            return Err(ApiError::new(ErrorCode::Conflict, message).hint("choose another name"));
        }
        state.next += 1;
        let volume = Volume {
            id: state.next,
            name: name.to_owned(),
            size,
            used: data.len() as u64,
            dedup: true,
            codec: Codec::Lz4,
            read_only: false,
            quota: None,
            limits: Limits::default(),
            origin: None,
            snapshots: 0,
            created_ms: 1_700_000_000_000,
            connections: 0,
            vhost: None,
            dirty: 0,
            mode: Default::default(),
            independent: false,
            snapshot_policy: None,
            apart: None,
            file: None,
            importing: name.starts_with("filling").then(importing),
        };
        let held = Held {
            volume: volume.clone(),
            data,
            snapshots: Vec::new(),
        };
        state.volumes.insert(name.to_owned(), held);
        Ok(volume)
    }

    fn with<T>(
        &self,
        name: &str,
        body: impl FnOnce(&mut Held) -> Result<T, ApiError>,
    ) -> Result<T, ApiError> {
        assert_ne!(name, "panic", "on purpose");
        match self.state.lock().volumes.get_mut(name) {
            Some(held) => body(held),
            None => Err(missing(&format!("volume {name}"))),
        }
    }

    fn source(&self, source: &VolumeRef) -> Result<(u64, Vec<u8>), ApiError> {
        self.with(source.volume.as_str(), |held| match &source.snapshot {
            None => Ok((held.volume.size, held.data.clone())),
            Some(name) => held
                .snapshots
                .iter()
                .find(|(snapshot, _)| snapshot.name == name.as_str())
                .map(|(snapshot, data)| (snapshot.size, data.clone()))
                .ok_or_else(|| missing(&format!("snapshot {source}"))),
        })
    }
}

impl Control for FakeControl {
    fn store(&self) -> Result<StoreInfo, ApiError> {
        let volumes = self.state.lock().volumes.len() as u64;
        Ok(reports::store(volumes, self.scrub_status()))
    }

    fn usage(&self) -> Result<StoreUsage, ApiError> {
        Ok(reports::usage())
    }

    fn collect(&self, request: &CollectRequest, work: Work<'_>) -> Result<CollectReport, ApiError> {
        self.pass(work)?;
        Ok(reports::collect(request))
    }

    fn check(&self, request: &CheckRequest, work: Work<'_>) -> Result<CheckReport, ApiError> {
        self.pass(work)?;
        Ok(reports::check(request, *self.damaged.lock()))
    }

    fn scrub(&self, work: Work<'_>) -> Result<ScrubStatus, ApiError> {
        self.pass(work)?;
        Ok(self.scrub_status())
    }

    fn scrub_status(&self) -> ScrubStatus {
        ScrubStatus {
            rate: 16 << 20,
            every_s: 7 * 24 * 3600,
            finished_ms: Some(1_700_000_000_000),
            bytes: 3 << 20,
            damaged: u64::from(*self.damaged.lock()),
            ..ScrubStatus::default()
        }
    }

    fn stop_scrub(&self) -> ScrubStatus {
        self.scrub_status()
    }

    fn volumes(&self) -> Result<Vec<Volume>, ApiError> {
        let state = self.state.lock();
        Ok(state
            .volumes
            .values()
            .map(|held| held.volume.clone())
            .collect())
    }

    fn volume(&self, name: &str) -> Result<Volume, ApiError> {
        self.with(name, |held| Ok(held.volume.clone()))
    }

    fn create_volume(&self, request: &CreateVolume) -> Result<Volume, ApiError> {
        let (size, data) = match &request.from {
            Some(from) => {
                let from: VolumeRef = from.parse().map_err(|e: types::NameError| {
                    ApiError::new(ErrorCode::Invalid, e.to_string())
                })?;
                self.source(&from)?
            }
            None => {
                let missing = || ApiError::new(ErrorCode::Invalid, "a new volume needs a size");
                (request.size.ok_or_else(missing)?, Vec::new())
            }
        };
        if size > types::VOLUME_SIZE_MAX {
            return Err(ApiError::new(ErrorCode::NoSpace, "the store is too small"));
        }
        self.add(&request.name, size, data)?;
        self.with(&request.name, |held| {
            held.volume.origin.clone_from(&request.from);
            held.volume.codec = request.codec.unwrap_or_default();
            held.volume.dedup = request.dedup.unwrap_or(true);
            held.volume.read_only = request.read_only.unwrap_or(false);
            held.volume.quota = request.quota.filter(|&bytes| bytes != 0);
            modes::set_policy(&mut held.volume, &request.snapshot_policy)?;
            Ok(held.volume.clone())
        })
    }

    fn update_volume(&self, name: &str, request: &UpdateVolume) -> Result<Volume, ApiError> {
        let volume = self.with(name, |held| {
            let volume = &mut held.volume;
            let size = request.size.unwrap_or(volume.size);
            if size < volume.size && !request.allow_data_loss {
                let error = ApiError::new(ErrorCode::Refused, "shrinking loses what is at the end");
                return Err(error.hint("repeat with --allow-data-loss if that is wanted"));
            }
            volume.size = size;
            volume.codec = request.codec.unwrap_or(volume.codec);
            volume.dedup = request.dedup.unwrap_or(volume.dedup);
            volume.read_only = request.read_only.unwrap_or(volume.read_only);
            volume.mode = request.mode.unwrap_or(volume.mode);
            volume.independent = request.independent.unwrap_or(volume.independent);
            volume.quota = request.quota.or(volume.quota).filter(|&bytes| bytes != 0);
            for (kind, limit) in request.limits.list() {
                *volume.limits.of(kind) = Some(limit).filter(|limit| limit.rate != Some(0));
            }
            if let Some(new) = &request.name {
                volume.name.clone_from(new);
            }
            modes::set_policy(volume, &request.snapshot_policy)?;
            Ok(volume.clone())
        })?;
        let mut state = self.state.lock();
        if let Some(held) = state.volumes.remove(name) {
            state.volumes.insert(volume.name.clone(), held);
        }
        Ok(volume)
    }

    fn remove_volume(&self, name: &str, force: bool) -> Result<TrashEntry, ApiError> {
        if name == "busy" && !force {
            let error = ApiError::new(ErrorCode::InUse, "volume busy is open by 1 client");
            return Err(error.hint("shut its machine down, or use --force"));
        }
        let held = self.with(name, |held| Ok(held.clone()))?;
        let mut state = self.state.lock();
        state.volumes.remove(name);
        state.trash.insert(held.volume.id, held.clone());
        Ok(entry(&held))
    }

    fn volume_usage(&self, name: &VolumeRef) -> Result<VolumeUsage, ApiError> {
        let (size, data) = self.source(name)?;
        Ok(VolumeUsage {
            name: name.to_string(),
            size,
            used: data.len() as u64,
            stored: data.len() as u64 / 2,
            unique: 0,
        })
    }

    fn connect(&self, name: &VolumeRef) -> Result<Connect, ApiError> {
        self.source(name)?;
        Ok(Connect {
            name: name.to_string(),
            uri: format!("nbd+unix:///{name}?socket=/fake/nbd.sock"),
            qemu: "-drive …".into(),
            libvirt: "<disk/>".into(),
            fio: "fio …".into(),
            nbdinfo: "nbdinfo …".into(),
            vhost: None,
        })
    }

    fn snapshots(&self, volume: &str) -> Result<Vec<Snapshot>, ApiError> {
        self.with(volume, |held| {
            Ok(held.snapshots.iter().map(|(s, _)| s.clone()).collect())
        })
    }

    fn create_snapshot(
        &self,
        volume: &str,
        request: &CreateSnapshot,
    ) -> Result<Snapshot, ApiError> {
        self.with(volume, |held| {
            if held.snapshots.iter().any(|(s, _)| s.name == request.name) {
                return Err(ApiError::new(ErrorCode::Conflict, "the snapshot exists"));
            }
            let snapshot = Snapshot {
                id: held.snapshots.len() as u64 + 1,
                volume: volume.to_owned(),
                name: request.name.clone(),
                size: held.volume.size,
                used: held.volume.used,
                created_ms: 1_700_000_000_000,
                group: None,
                vhost: None,
                scheduled: false,
            };
            held.snapshots.push((snapshot.clone(), held.data.clone()));
            held.volume.snapshots += 1;
            Ok(snapshot)
        })
    }

    fn remove_snapshot(&self, volume: &str, snapshot: &str) -> Result<(), ApiError> {
        self.with(volume, |held| {
            let before = held.snapshots.len();
            held.snapshots.retain(|(s, _)| s.name != snapshot);
            if held.snapshots.len() == before {
                return Err(missing(&format!("snapshot {volume}@{snapshot}")));
            }
            held.volume.snapshots -= 1;
            Ok(())
        })
    }

    fn rollback(&self, volume: &str, snapshot: &str) -> Result<Volume, ApiError> {
        self.with(volume, |held| {
            let found = held.snapshots.iter().find(|(s, _)| s.name == snapshot);
            let (_, data) =
                found.ok_or_else(|| missing(&format!("snapshot {volume}@{snapshot}")))?;
            held.data = data.clone();
            Ok(held.volume.clone())
        })
    }

    fn create_group(&self, request: &Group) -> Result<Vec<Snapshot>, ApiError> {
        let members = request.snapshots.iter().map(|r| {
            let (volume, name) = r.split_once('@').ok_or_else(|| missing(r))?;
            let name = name.to_owned();
            let taken = self.create_snapshot(volume, &CreateSnapshot { name })?;
            let group = Some(1);
            Ok(Snapshot { group, ..taken })
        });
        members.collect()
    }

    fn rollback_group(&self, request: &Group) -> Result<Vec<Volume>, ApiError> {
        let members = request.snapshots.iter().map(|r| {
            let (volume, name) = r.split_once('@').ok_or_else(|| missing(r))?;
            self.rollback(volume, name)
        });
        members.collect()
    }

    fn clone_group(&self, request: &CloneGroup) -> Result<Vec<Volume>, ApiError> {
        let clones = request.clones.iter().map(|clone| {
            self.create_volume(&CreateVolume {
                name: clone.name.clone(),
                from: Some(clone.from.clone()),
                ..Default::default()
            })
        });
        clones.collect()
    }

    fn trash(&self) -> Result<Vec<TrashEntry>, ApiError> {
        Ok(self.state.lock().trash.values().map(entry).collect())
    }

    fn restore(&self, id: u64, request: &Restore) -> Result<Volume, ApiError> {
        let mut state = self.state.lock();
        let Some(mut held) = state.trash.remove(&id) else {
            return Err(missing(&format!("trash entry {id}")));
        };
        if let Some(name) = &request.name {
            held.volume.name.clone_from(name);
        }
        state.volumes.insert(held.volume.name.clone(), held.clone());
        Ok(held.volume)
    }

    fn purge(&self, id: Option<u64>) -> Result<Vec<TrashEntry>, ApiError> {
        let mut state = self.state.lock();
        match id {
            None => Ok(std::mem::take(&mut state.trash)
                .values()
                .map(entry)
                .collect()),
            Some(id) => match state.trash.remove(&id) {
                Some(held) => Ok(vec![entry(&held)]),
                None => Err(missing(&format!("trash entry {id}"))),
            },
        }
    }

    fn import(&self, request: &ImportRequest, work: Work<'_>) -> Result<Imported, ApiError> {
        self.pass(work)?;
        let data = std::fs::read(&request.path)
            .map_err(|e| ApiError::new(ErrorCode::NotFound, format!("{}: {e}", request.path)))?;
        let size = request.size.unwrap_or(data.len() as u64);
        self.add(&request.name, size, data).map(imported)
    }

    fn pause_import(&self, volume: &str, paused: bool) -> Result<Volume, ApiError> {
        self.with(volume, |held| match &mut held.volume.importing {
            Some(importing) => {
                importing.paused = paused;
                Ok(held.volume.clone())
            }
            None => Err(ApiError::new(ErrorCode::Refused, "it is not imported")),
        })
    }

    fn import_stream(
        &self,
        request: &ImportRequest,
        content: ContentReader<'_>,
        work: Work<'_>,
    ) -> Result<Imported, ApiError> {
        if self.state.lock().volumes.contains_key(&request.name) {
            return self.add(&request.name, 0, Vec::new()).map(imported);
        }
        self.pass(work)?;
        // Of what is called `sink…` only the length is kept.
        let keep = !request.name.starts_with("sink");
        let (mut data, mut buf, mut len) = (Vec::new(), vec![0; 1 << 20], 0);
        loop {
            let n = content.read(&mut buf).map_err(broken)?;
            if n == 0 {
                break;
            }
            len += n as u64;
            if keep {
                data.extend_from_slice(&buf[..n]);
            }
            work.report(len, 0)?;
        }
        self.add(&request.name, request.size.unwrap_or(len), data)
            .map(imported)
    }

    fn export(&self, request: &ExportRequest, work: Work<'_>) -> Result<(), ApiError> {
        let source: VolumeRef = request
            .source
            .parse()
            .map_err(|e: types::NameError| ApiError::new(ErrorCode::Invalid, e.to_string()))?;
        let (_, data) = self.source(&source)?;
        self.pass(work)?;
        if !request.overwrite && std::path::Path::new(&request.path).exists() {
            let error = ApiError::new(ErrorCode::Refused, format!("{} exists", request.path));
            return Err(error.hint("choose another path, or use --force"));
        }
        std::fs::write(&request.path, data).map_err(broken)
    }

    fn export_stream(
        &self,
        source: &VolumeRef,
        content: ContentWriter<'_>,
        work: Work<'_>,
    ) -> Result<(), ApiError> {
        self.pass(work)?;
        let (size, data) = self.source(source)?;
        content.write_all(&data).map_err(broken)?;
        let (mut done, zeroes) = (data.len() as u64, vec![0; 1 << 20]);
        while done < size {
            let len = zeroes
                .len()
                .min(usize::try_from(size - done).unwrap_or(usize::MAX));
            content.write_all(&zeroes[..len]).map_err(broken)?;
            done += len as u64;
            work.report(done, size)?;
        }
        Ok(())
    }

    fn content_len(&self, source: &VolumeRef) -> Result<u64, ApiError> {
        Ok(self.source(source)?.0)
    }

    /// One extent for each byte of `to` that is not that of `from`.
    fn diff(
        &self,
        from: &VolumeRef,
        to: &VolumeRef,
        each: &mut dyn FnMut(DiffLine) -> io::Result<()>,
    ) -> Result<(), ApiError> {
        let broken = |e: io::Error| ApiError::new(ErrorCode::Cancelled, e.to_string());
        let bytes = |r: &VolumeRef| self.with(r.volume.as_str(), |held| Ok(held.data.clone()));
        let (a, b) = (bytes(from)?, bytes(to)?);
        each(DiffLine::Begin {
            from: from.to_string(),
            to: to.to_string(),
            from_size: a.len() as u64,
            to_size: b.len() as u64,
            block_size: 1,
        })
        .map_err(broken)?;
        let mut extents = 0;
        for (offset, (_, byte)) in a.iter().zip(&b).enumerate().filter(|(_, (a, b))| a != b) {
            extents += 1;
            each(DiffLine::Extent(DiffExtent {
                offset: offset as u64,
                length: 1,
                data: *byte != 0,
            }))
            .map_err(broken)?;
        }
        each(DiffLine::End {
            extents,
            data_bytes: extents,
            zero_bytes: 0,
        })
        .map_err(broken)
    }

    fn vhost(&self) -> Result<VhostStatus, ApiError> {
        let state = self.state.lock();
        let devices = state.volumes.values().filter_map(|held| {
            let socket = held.volume.vhost.clone()?;
            Some(vhost_device(&held.volume.name, socket, 4))
        });
        Ok(VhostStatus {
            directory: "/fake/vhost".into(),
            devices: devices.collect(),
        })
    }

    fn serve_vhost(&self, name: &VolumeRef, request: &ServeVhost) -> Result<VhostDevice, ApiError> {
        self.source(name)?;
        let socket = format!("/fake/vhost/{name}.sock");
        self.with(name.volume.as_str(), |held| {
            held.volume.vhost = Some(socket.clone());
            Ok(vhost_device(
                &name.to_string(),
                socket.clone(),
                request.queues.unwrap_or(4),
            ))
        })
    }

    fn stop_vhost(&self, name: &VolumeRef, force: bool) -> Result<(), ApiError> {
        if name.volume.as_str() == "busy" && !force {
            let error = ApiError::new(ErrorCode::InUse, "busy has a guest");
            return Err(error.hint("shut it down, or use --force"));
        }
        self.with(name.volume.as_str(), |held| {
            held.volume.vhost = None;
            Ok(())
        })
    }

    fn nbd(&self) -> Result<NbdStatus, ApiError> {
        Ok(NbdStatus {
            listen: vec!["unix:/fake/nbd.sock".into()],
            connections: Vec::new(),
        })
    }

    fn metrics(&self) -> String {
        "# TYPE fake gauge\nfake 1\n# EOF\n".into()
    }
}

fn imported(volume: Volume) -> Imported {
    Imported {
        volume,
        others: Vec::new(),
        saved: None,
        notes: Vec::new(),
    }
}
