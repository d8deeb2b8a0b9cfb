//! Volumes and snapshots as vhost-user-blk devices, each with a socket of its own.
//!
//! What is served is noted in the catalog. [`Vhost::follow`] makes of a volume's notes the servers that there are: after
//! a start, and after everything that may have changed them.

use super::{control::Daemon, convert, power::Guest};
use api_types::{ApiError, ErrorCode, ServeVhost, VhostDevice, VhostGuest, VhostStatus};
use catalog::VolumeRecord;
use env::Env;
use front_vhost::{Options, Server, Stats, Workers};
use parking_lot::Mutex;
use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use types::{Name, SnapshotId, VolumeId, VolumeRef};
use volume::Store;

type Result<T> = std::result::Result<T, ApiError>;

/// Who may use a socket: owner and group.
const MODE: u32 = 0o660;
/// Bytes of a socket's path, at most, less the one that is added while it is made.
const PATH_MAX: usize = 106;
/// Queues that a device may have.
const QUEUES: std::ops::RangeInclusive<u16> = 1..=256;
/// Requests that were taken have so long to finish when a device is no longer served.
const PATIENCE: Duration = Duration::from_secs(3);

/// What is served.
pub(crate) struct Vhost {
    env: Env,
    store: Arc<Store>,
    workers: Workers,
    directory: PathBuf,
    /// Of a device of which nobody said how many it has.
    queues: u16,
    poll: Duration,
    /// Held by who changes what is served.
    changing: Mutex<()>,
    devices: Mutex<Devices>,
}

#[derive(Default)]
struct Devices {
    served: BTreeMap<Key, Device>,
    /// Of those that are served no longer.
    past: Stats,
}

/// A volume, or a snapshot of it, whatever it is called.
type Key = (VolumeId, Option<SnapshotId>);

/// What is to be served.
#[derive(Clone, PartialEq, Eq)]
struct Wanted {
    name: VolumeRef,
    queues: u16,
}

struct Device {
    wanted: Wanted,
    socket: PathBuf,
    /// Or why there is none.
    server: std::result::Result<Arc<Server>, String>,
}

impl Device {
    fn guest(&self) -> Option<front_vhost::GuestInfo> {
        self.server.as_ref().ok()?.guest()
    }

    fn describe(&self) -> VhostDevice {
        let stats = self.server.as_ref().map(|server| server.stats());
        let stats = stats.unwrap_or_default();
        VhostDevice {
            name: self.wanted.name.to_string(),
            socket: self.socket.display().to_string(),
            queues: self.wanted.queues,
            error: self.server.as_ref().err().cloned(),
            guest: self.guest().map(|guest| VhostGuest {
                pid: guest.pid,
                since_ms: guest.since.as_millis() as u64,
                queues: guest.queues as u64,
            }),
            requests: stats.requests(),
            errors: stats.errors,
            resumed: stats.resumed,
            bytes_read: stats.bytes_read,
            bytes_written: stats.bytes_written,
        }
    }
}

/// Figures of all devices.
pub(crate) struct Figures {
    /// Devices that are served.
    pub(crate) devices: u64,
    /// Devices that should be and are not.
    pub(crate) failed: u64,
    /// Guests that are connected.
    pub(crate) guests: u64,
    /// What was done since the start.
    pub(crate) stats: Stats,
}

impl Vhost {
    /// Nothing is served yet.
    pub(crate) fn new(
        env: Env,
        store: &Arc<Store>,
        directory: PathBuf,
        config: &super::config::Vhost,
    ) -> Self {
        Vhost {
            env,
            store: Arc::clone(store),
            workers: Workers::new(config.threads),
            directory,
            queues: config.queues.clamp(*QUEUES.start(), *QUEUES.end()),
            poll: Duration::from_micros(config.poll_us),
            changing: Mutex::new(()),
            devices: Mutex::default(),
        }
    }

    /// Serves everything that is noted. What cannot be served is told to the log and in the status.
    pub(crate) fn start(&self) {
        let _changing = self.changing.lock();
        let volumes = self.store.catalog().volumes().unwrap_or_else(|e| {
            tracing::error!(error = ?e, "cannot tell what is served over vhost-user");
            Vec::new()
        });
        for volume in volumes {
            if let Err(error) = self.follow_record(&volume) {
                tracing::error!(volume = %volume.name, %error, "cannot tell what of it is served over vhost-user");
            }
        }
    }

    /// Ends all servers; how many did not end in time.
    pub(crate) fn shutdown(&self, patience: Duration) -> usize {
        let _changing = self.changing.lock();
        let served = std::mem::take(&mut self.devices.lock().served);
        let servers: Vec<_> = served.into_values().filter_map(|d| d.server.ok()).collect();
        // All at once.
        for server in &servers {
            server.stop(Duration::ZERO);
        }
        let clock = &self.env.clock;
        let deadline = clock.monotonic() + patience;
        let stopped = |server: &&Arc<Server>| {
            let left = deadline.saturating_sub(clock.monotonic());
            !server.stop(left.max(Duration::from_millis(1)))
        };
        let left = servers.iter().filter(stopped).count();
        if left == 0 {
            self.workers.stop();
        }
        left
    }

    /// Serves what the catalog says of a volume and its snapshots, and nothing else of it.
    pub(crate) fn follow(&self, id: VolumeId) {
        let _changing = self.changing.lock();
        let followed = self.store.catalog().volume(id).map_err(volume::Error::from);
        let followed = followed
            .map_err(convert::api_error)
            .and_then(|record| match record {
                Some(record) => self.follow_record(&record),
                None => {
                    self.apply(id, &BTreeMap::new());
                    Ok(())
                }
            });
        if let Err(error) = followed {
            tracing::error!(volume = id.0, %error, "cannot tell what of it is served over vhost-user");
        }
    }

    fn follow_record(&self, record: &VolumeRecord) -> Result<()> {
        let mut wanted = BTreeMap::new();
        if record.trashed.is_none() && record.backend.file().is_none() {
            let snapshots = self.store.catalog().snapshots(record.id);
            let snapshots = snapshots.map_err(|e| convert::api_error(e.into()))?;
            let of_snapshots = snapshots
                .into_iter()
                .map(|s| (Some(s.id), Some(s.name), s.vhost_queues));
            let all = std::iter::once((None, None, record.vhost_queues)).chain(of_snapshots);
            for (id, snapshot, queues) in all.filter(|of| of.2 > 0) {
                let name = VolumeRef {
                    volume: record.name.clone(),
                    snapshot,
                };
                wanted.insert((record.id, id), Wanted { name, queues });
            }
        }
        self.apply(record.id, &wanted);
        Ok(())
    }

    /// Ends what of a volume is not wanted so, and starts what is.
    fn apply(&self, id: VolumeId, wanted: &BTreeMap<Key, Wanted>) {
        let stale = |key: &Key, device: &Device| {
            let same = wanted
                .get(key)
                .is_some_and(|wanted| *wanted == device.wanted);
            key.0 == id && !(same && device.server.is_ok())
        };
        let stale: Vec<(Key, Device)> = self
            .devices
            .lock()
            .served
            .extract_if(.., |key, device| stale(key, device))
            .collect();
        for (_, device) in stale {
            self.end(&device);
        }
        for (&key, wanted) in wanted {
            if !self.devices.lock().served.contains_key(&key) {
                let device = self.begin(key, wanted.clone());
                self.devices.lock().served.insert(key, device);
            }
        }
    }

    fn begin(&self, key: Key, wanted: Wanted) -> Device {
        let socket = socket_path(&self.directory, key, &wanted.name);
        let server = self.serve(&socket, key, &wanted);
        if let Err(error) = &server {
            tracing::error!(name = %wanted.name, error, "not served over vhost-user");
        }
        Device {
            wanted,
            socket,
            server,
        }
    }

    fn serve(
        &self,
        socket: &Path,
        key: Key,
        wanted: &Wanted,
    ) -> std::result::Result<Arc<Server>, String> {
        let device = self
            .store
            .device(&wanted.name)
            .map_err(|e| convert::api_error(e).message)?;
        let options = Options {
            queues: wanted.queues,
            serial: serial(key),
            poll: self.poll,
            ..Options::default()
        };
        let start = || -> io::Result<Server> {
            std::fs::create_dir_all(&self.directory)?;
            Server::start(&self.env, &self.workers, socket, MODE, device, options)
        };
        let server = start().map_err(|e| format!("cannot listen on {}: {e}", socket.display()))?;
        Ok(Arc::new(server))
    }

    fn end(&self, device: &Device) {
        let Ok(server) = &device.server else { return };
        if !server.stop(PATIENCE) {
            tracing::warn!(name = %device.wanted.name, "requests of a vhost-user guest are still under way; its server is left behind");
        }
        self.devices.lock().past.add(&server.stats());
    }

    /// Notes how something is served, and serves it so.
    pub(crate) fn set(&self, r: &VolumeRef, request: &ServeVhost) -> Result<VhostDevice> {
        let (key, noted) = self.find(r)?;
        let queues = match request.queues {
            Some(queues) if QUEUES.contains(&queues) => queues,
            Some(queues) => {
                let message = format!("a device has 1 to {} queues, not {queues}", QUEUES.end());
                return Err(ApiError::new(ErrorCode::Invalid, message));
            }
            None if noted > 0 => noted,
            None => self.queues,
        };
        if queues != noted {
            self.refuse_with_guest(key, "given other queues")?;
            self.store
                .set_vhost_queues(r, queues)
                .map_err(convert::api_error)?;
        }
        self.follow(key.0);
        let devices = self.devices.lock();
        let device = devices.served.get(&key).map(Device::describe);
        let device = device.ok_or_else(|| missing(r))?;
        match &device.error {
            None => Ok(device),
            Some(why) => Err(ApiError::new(ErrorCode::Internal, why.clone()).hint(
                "mend that, then repeat this; it is also tried again when the daemon starts",
            )),
        }
    }

    /// Notes that something is not served, and ends it.
    pub(crate) fn unset(&self, r: &VolumeRef, force: bool) -> Result<()> {
        let (key, noted) = self.find(r)?;
        if !force {
            self.refuse_with_guest(key, "taken from it")?;
        }
        if noted > 0 {
            self.store
                .set_vhost_queues(r, 0)
                .map_err(convert::api_error)?;
        }
        self.follow(key.0);
        Ok(())
    }

    /// Its key, and with how many queues it is to be served.
    fn find(&self, r: &VolumeRef) -> Result<(Key, u16)> {
        let volume = self.store.find(&r.volume).map_err(convert::api_error)?;
        super::files::refuse_for_file(&volume, "vhost-user-blk device")?;
        let Some(name) = &r.snapshot else {
            return Ok(((volume.id, None), volume.vhost_queues));
        };
        let snapshot = self.store.catalog().find_snapshot(volume.id, name);
        let snapshot = snapshot
            .map_err(|e| convert::api_error(e.into()))?
            .ok_or_else(|| missing(r))?;
        Ok(((volume.id, Some(snapshot.id)), snapshot.vhost_queues))
    }

    fn refuse_with_guest(&self, key: Key, to: &str) -> Result<()> {
        let devices = self.devices.lock();
        let Some(device) = devices
            .served
            .get(&key)
            .filter(|device| device.guest().is_some())
        else {
            return Ok(());
        };
        let message = format!("'{}' has a guest: it cannot be {to}", device.wanted.name);
        Err(ApiError::new(ErrorCode::InUse, message)
            .hint("shut the guest down first; 'holdfast vhost status' shows its process"))
    }

    /// Does something to a volume while no guest can come to it.
    pub(crate) fn without_guest<T>(
        &self,
        id: VolumeId,
        what: impl FnOnce() -> Result<T>,
    ) -> Result<T> {
        let _changing = self.changing.lock();
        let key = (id, None);
        let Some(device) = self.devices.lock().served.remove(&key) else {
            return what();
        };
        let came = |device: &Device| {
            let server = device.server.as_ref().ok();
            server.map_or(0, |server| server.stats().connections)
        };
        let before = came(&device);
        let nobody = device.guest().is_none();
        if nobody {
            self.end(&device);
        }
        if !nobody || came(&device) != before {
            let name = device.wanted.name.clone();
            let device = match nobody {
                true => self.begin(key, device.wanted),
                false => device,
            };
            self.devices.lock().served.insert(key, device);
            let message = format!("a guest has come to '{name}' meanwhile");
            return Err(ApiError::new(ErrorCode::InUse, message));
        }
        let done = what();
        let device = self.begin(key, device.wanted);
        self.devices.lock().served.insert(key, device);
        done
    }

    /// The guests of all volumes, and what they have written.
    pub(crate) fn look(&self) -> Vec<(VolumeId, Guest)> {
        let devices = self.devices.lock();
        let volumes = devices.served.iter().filter(|(key, _)| key.1.is_none());
        let looks = volumes.filter_map(|(key, device)| {
            let stats = device.server.as_ref().ok()?.stats();
            let guest = Guest {
                since: device.guest().map(|guest| guest.since),
                came: stats.connections,
                writes: stats.writes + stats.write_zeroes + stats.discards,
                writes_before: 0,
            };
            Some((key.0, guest))
        });
        looks.collect()
    }

    /// Guests of a volume.
    pub(crate) fn guests(&self, id: VolumeId) -> u64 {
        let devices = self.devices.lock();
        u64::from(
            devices
                .served
                .get(&(id, None))
                .is_some_and(|device| device.guest().is_some()),
        )
    }

    /// Guests of a volume's snapshots.
    pub(crate) fn guests_of_snapshots(&self, id: VolumeId) -> u64 {
        let devices = self.devices.lock();
        let of_volume = devices
            .served
            .iter()
            .filter(|(key, _)| key.0 == id && key.1.is_some());
        of_volume
            .filter(|(_, device)| device.guest().is_some())
            .count() as u64
    }

    /// Where something is served, if it is to be.
    pub(crate) fn socket(&self, volume: VolumeId, snapshot: Option<SnapshotId>) -> Option<String> {
        let devices = self.devices.lock();
        let device = devices.served.get(&(volume, snapshot))?;
        Some(device.socket.display().to_string())
    }

    /// How something is served, if it is to be.
    pub(crate) fn device(&self, r: &VolumeRef) -> Option<VhostDevice> {
        let devices = self.devices.lock();
        let mut served = devices.served.values();
        served
            .find(|device| device.wanted.name == *r)
            .map(Device::describe)
    }

    /// Tells a volume's guest that it has another size.
    pub(crate) fn resized(&self, id: VolumeId) {
        let server = self
            .devices
            .lock()
            .served
            .get(&(id, None))
            .and_then(|device| device.server.clone().ok());
        if let Some(server) = server {
            server.resized();
        }
    }

    /// For people.
    pub(crate) fn status(&self) -> VhostStatus {
        let devices = self.devices.lock();
        let mut devices: Vec<_> = devices.served.values().map(Device::describe).collect();
        devices.sort_by(|a, b| a.name.cmp(&b.name));
        VhostStatus {
            directory: self.directory.display().to_string(),
            devices,
        }
    }

    /// For metrics.
    pub(crate) fn figures(&self) -> Figures {
        let devices = self.devices.lock();
        let mut figures = Figures {
            devices: 0,
            failed: 0,
            guests: 0,
            stats: devices.past,
        };
        for device in devices.served.values() {
            match &device.server {
                Ok(server) => {
                    figures.devices += 1;
                    figures.guests += u64::from(server.guest().is_some());
                    figures.stats.add(&server.stats());
                }
                Err(_) => figures.failed += 1,
            }
        }
        figures
    }
}

impl Daemon {
    /// Whoever connects again to a snapshot's socket looks for it under its name.
    pub(super) fn refuse_rename(&self, name: &Name) -> Result<()> {
        self.refuse_in_use(name, "renamed")?;
        let id = self.store.find(name).map_err(convert::api_error)?.id;
        match self.vhost.guests_of_snapshots(id) {
            0 => Ok(()),
            count => Err(ApiError::new(
                ErrorCode::InUse,
                format!("{count} guest(s) have snapshots of '{name}' open: it cannot be renamed"),
            )
            .hint("shut them down first; 'holdfast vhost status' lists them")),
        }
    }
}

fn missing(r: &VolumeRef) -> ApiError {
    ApiError::new(ErrorCode::NotFound, format!("there is no '{r}'"))
}

/// By its name; by its numbers if that is too long for a socket. No name begins so.
fn socket_path(directory: &Path, (volume, snapshot): Key, name: &VolumeRef) -> PathBuf {
    let path = directory.join(format!("{name}.sock"));
    if path.as_os_str().len() <= PATH_MAX {
        return path;
    }
    let numbers = match snapshot {
        None => format!("_{}.sock", volume.0),
        Some(snapshot) => format!("_{}@{}.sock", volume.0, snapshot.0),
    };
    directory.join(numbers)
}

/// What a guest sees in `/dev/disk/by-id`: the same after a rename.
fn serial((volume, snapshot): Key) -> String {
    match snapshot {
        None => format!("holdfast-{}", volume.0),
        Some(snapshot) => format!("holdfast-{}-{}", volume.0, snapshot.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_name_gets_a_short_socket() {
        let directory = Path::new("/run/holdfast/vhost");
        let path = |name: &str| {
            let snapshot = name.contains('@').then_some(SnapshotId(4));
            socket_path(directory, (VolumeId(17), snapshot), &name.parse().unwrap())
        };
        assert_eq!(path("web"), directory.join("web.sock"));
        assert_eq!(path("web@daily"), directory.join("web@daily.sock"));
        let long = "x".repeat(100);
        assert_eq!(path(&long), directory.join("_17.sock"));
        assert_eq!(path(&format!("{long}@s")), directory.join("_17@4.sock"));
    }
}
