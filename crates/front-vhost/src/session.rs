//! One connection of a front end: what it says of memory and rings, until it leaves (vhost-user, "Message types").

use crate::{
    config,
    disk::Disk,
    inflight::{self, Inflight},
    memory::{Broken, Log, Mapping, Memory, Region},
    queue::{self, End, Jobs, Queue, Running},
    ring::{Addresses, Ring},
};
use block::Durability;
use rustix::fs::{MemfdFlags, SealFlags};
use std::{
    fs::File,
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};
use vhost::vhost_user::{
    Backend, Error, GpuBackend, Result, VhostUserBackendReqHandlerMut, VhostUserProtocolFeatures,
    message::{
        VhostTransferStateDirection, VhostTransferStatePhase, VhostUserConfigFlags,
        VhostUserInflight, VhostUserLog, VhostUserMemoryRegion, VhostUserShMemConfig,
        VhostUserSharedMsg, VhostUserSingleMemoryRegion, VhostUserVirtioFeatures,
        VhostUserVringAddrFlags, VhostUserVringState,
    },
};
use virtio_bindings::{virtio_blk::VIRTIO_BLK_F_FLUSH, virtio_ring::VIRTIO_RING_F_EVENT_IDX};

/// What is known of a queue.
#[derive(Default)]
struct Vring {
    size: u16,
    /// The number of the next request to take, while it does not run.
    base: u16,
    addresses: Option<Addresses>,
    kick: Option<File>,
    call: Option<Arc<File>>,
    err: Option<Arc<File>>,
    enabled: bool,
    /// The guest broke it: it does not run until it is set up anew.
    broken: bool,
    running: Option<Running>,
}

/// The inflight region.
struct InflightRegion {
    mapping: Arc<Mapping>,
    queue_size: u16,
}

/// The state of a connection.
pub(crate) struct Session {
    disk: Arc<Disk>,
    jobs: Arc<Jobs>,
    /// How many queues run, for who asks.
    running: Arc<AtomicUsize>,
    features: u64,
    protocol: u64,
    memory: Memory,
    log: Option<Arc<Log>>,
    inflight: Option<InflightRegion>,
    vrings: Vec<Vring>,
}

impl Session {
    pub(crate) fn new(disk: Arc<Disk>, jobs: Arc<Jobs>, running: Arc<AtomicUsize>) -> Self {
        let vrings = (0..disk.options.queues).map(|_| Vring::default());
        Session {
            vrings: vrings.collect(),
            disk,
            jobs,
            running,
            features: 0,
            protocol: 0,
            memory: Memory::default(),
            log: None,
            inflight: None,
        }
    }

    pub(crate) const fn has(&self, feature: VhostUserProtocolFeatures) -> bool {
        self.protocol & feature.bits() != 0
    }

    fn vring(&mut self, index: u32) -> Result<&mut Vring> {
        let vring = self.vrings.get_mut(index as usize);
        vring.ok_or(Error::InvalidParam)
    }

    /// Ends all queues: when it returns, everything that was taken is answered.
    pub(crate) fn stop(&mut self) {
        (0..self.vrings.len()).for_each(|index| self.pause(index));
    }

    fn pause(&mut self, index: usize) {
        let vring = &mut self.vrings[index];
        if let Some(running) = vring.running.take() {
            let End { next, broken } = running.stop();
            vring.base = next;
            vring.broken |= broken;
            self.running.fetch_sub(1, Relaxed);
        }
    }

    /// Changes what queues rely on: those that run are stopped meanwhile.
    fn change<T>(&mut self, change: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        self.stop();
        let changed = change(self)?;
        (0..self.vrings.len()).for_each(|index| self.start_if_ready(index));
        Ok(changed)
    }

    /// Starts a queue once everything that it needs is there.
    fn start_if_ready(&mut self, index: usize) {
        let vring = &self.vrings[index];
        let negotiable = VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits();
        let enabled = vring.enabled || self.features & negotiable == 0;
        if !enabled || vring.broken || vring.running.is_some() {
            return;
        }
        let (Some(addresses), Some(kick)) = (vring.addresses, &vring.kick) else {
            return;
        };
        match self.start(index, addresses, kick) {
            Ok(running) => {
                self.vrings[index].running = Some(running);
                self.running.fetch_add(1, Relaxed);
            }
            Err(error) => {
                tracing::warn!(queue = index, %error, "a vhost-user queue does not start");
                self.disk.counters.broken_queues.fetch_add(1, Relaxed);
                queue::raise(vring.err.as_deref());
                self.vrings[index].broken = true;
            }
        }
    }

    fn start(&self, index: usize, addresses: Addresses, kick: &File) -> io::Result<Running> {
        let broken = |Broken(why)| io::Error::other(why);
        let vring = &self.vrings[index];
        let mut memory = self.memory.clone();
        if self.features & VhostUserVirtioFeatures::LOG_ALL.bits() != 0 {
            memory.set_log(self.log.clone());
        }
        let event_index = config::has(self.features, VIRTIO_RING_F_EVENT_IDX);
        let ring =
            Ring::new(Arc::new(memory), vring.size, addresses, event_index).map_err(broken)?;
        let inflight = self.inflight.as_ref().map(|region| {
            if vring.size > region.queue_size {
                return Err(Broken("the inflight region is of smaller queues"));
            }
            Inflight::new(region.mapping.clone(), index as u16, region.queue_size)
        });
        let inflight = inflight.transpose().map_err(broken)?;
        let (mut next, mut recovered) = (vring.base, Default::default());
        if let Some(inflight) = &inflight {
            recovered = inflight.recover(ring.used_index()).map_err(broken)?;
            if !recovered.again.is_empty() {
                // A front end that lost us cannot know how far we were. What we had taken is taken again first.
                next = ring.used_index();
            }
        }
        // A driver that cannot flush relies on what was written.
        let durability = match config::has(self.features, VIRTIO_BLK_F_FLUSH) {
            true => Durability::Volatile,
            false => Durability::Durable,
        };
        let (call, err) = (vring.call.clone(), vring.err.clone());
        let disk = self.disk.clone();
        let queue = Queue::new(index as u16, ring, inflight, disk, durability, call);
        Running::start(queue, next, recovered, kick, err, self.jobs.clone())
    }

    fn map(&self, region: &VhostUserMemoryRegion, file: File) -> Result<Region> {
        let mapping = Mapping::new(file, region.mmap_offset, region.memory_size);
        Ok(Region {
            guest: region.guest_phys_addr,
            user: region.user_addr,
            mapping: Arc::new(mapping.map_err(Error::ReqHandlerError)?),
        })
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.stop();
    }
}

fn refused(Broken(why): Broken) -> Error {
    Error::InvalidOperation(why)
}

/// What no disk needs.
const NOT_HERE: Error = Error::InvalidOperation("not of a disk");

impl VhostUserBackendReqHandlerMut for Session {
    fn set_owner(&mut self) -> Result<()> {
        Ok(())
    }

    fn reset_owner(&mut self) -> Result<()> {
        self.reset_device()
    }

    fn reset_device(&mut self) -> Result<()> {
        self.stop();
        for vring in &mut self.vrings {
            *vring = Vring::default();
        }
        Ok(())
    }

    fn get_features(&mut self) -> Result<u64> {
        Ok(config::features(&self.disk))
    }

    fn set_features(&mut self, features: u64) -> Result<()> {
        if features & !config::features(&self.disk) != 0 {
            return Err(Error::FeatureMismatch);
        }
        self.change(|session| {
            session.features = features;
            Ok(())
        })
    }

    fn set_mem_table(
        &mut self,
        regions: &[VhostUserMemoryRegion],
        files: Vec<File>,
        _postcopy: Option<bool>,
    ) -> Result<Option<Vec<u64>>> {
        let mut memory = Memory::default();
        for (region, file) in regions.iter().zip(files) {
            memory.add(self.map(region, file)?).map_err(refused)?;
        }
        self.change(|session| {
            session.memory = memory;
            Ok(None)
        })
    }

    fn set_vring_num(&mut self, index: u32, num: u32) -> Result<()> {
        let size = u16::try_from(num).map_err(|_| Error::InvalidParam)?;
        if !Ring::is_size(size) {
            return Err(Error::InvalidParam);
        }
        self.vring(index)?;
        self.change(|session| {
            session.vring(index)?.size = size;
            Ok(())
        })
    }

    fn set_vring_addr(
        &mut self,
        index: u32,
        flags: VhostUserVringAddrFlags,
        descriptors: u64,
        used: u64,
        available: u64,
        log: u64,
    ) -> Result<()> {
        let logged = flags.contains(VhostUserVringAddrFlags::VHOST_VRING_F_LOG);
        let addresses = Addresses {
            descriptors,
            available,
            used,
            log: logged.then_some(log),
        };
        self.vring(index)?;
        self.change(|session| {
            session.vring(index)?.addresses = Some(addresses);
            Ok(())
        })
    }

    fn set_vring_base(&mut self, index: u32, base: u32) -> Result<()> {
        let base = u16::try_from(base).map_err(|_| Error::InvalidParam)?;
        self.vring(index)?;
        self.change(|session| {
            let vring = session.vring(index)?;
            vring.base = base;
            vring.broken = false;
            Ok(())
        })
    }

    fn get_vring_base(&mut self, index: u32) -> Result<VhostUserVringState> {
        self.vring(index)?;
        self.pause(index as usize);
        let vring = self.vring(index)?;
        // It runs again when it is kicked anew.
        vring.kick = None;
        vring.call = None;
        vring.broken = false;
        Ok(VhostUserVringState::new(index, vring.base.into()))
    }

    fn set_vring_kick(&mut self, index: u8, fd: Option<File>) -> Result<()> {
        let kick = fd.ok_or(Error::InvalidOperation("a queue without kicks"))?;
        self.vring(index.into())?;
        self.pause(index.into());
        self.vring(index.into())?.kick = Some(kick);
        self.start_if_ready(index.into());
        Ok(())
    }

    fn set_vring_call(&mut self, index: u8, fd: Option<File>) -> Result<()> {
        let vring = self.vring(index.into())?;
        vring.call = fd.map(Arc::new);
        if let Some(running) = &vring.running {
            running.set_call(vring.call.clone());
        }
        Ok(())
    }

    fn set_vring_err(&mut self, index: u8, fd: Option<File>) -> Result<()> {
        self.vring(index.into())?;
        self.change(|session| {
            session.vring(index.into())?.err = fd.map(Arc::new);
            Ok(())
        })
    }

    fn get_protocol_features(&mut self) -> Result<VhostUserProtocolFeatures> {
        Ok(config::protocol_features())
    }

    fn set_protocol_features(&mut self, features: u64) -> Result<()> {
        if features & !config::protocol_features().bits() != 0 {
            return Err(Error::FeatureMismatch);
        }
        self.protocol = features;
        Ok(())
    }

    fn get_queue_num(&mut self) -> Result<u64> {
        Ok(self.vrings.len() as u64)
    }

    fn set_vring_enable(&mut self, index: u32, enable: bool) -> Result<()> {
        self.vring(index)?.enabled = enable;
        if enable {
            self.start_if_ready(index as usize);
        } else {
            self.pause(index as usize);
        }
        Ok(())
    }

    fn get_config(&mut self, offset: u32, size: u32, _: VhostUserConfigFlags) -> Result<Vec<u8>> {
        let space = config::space(&self.disk);
        let start = offset as usize;
        let part = space.get(start..start.saturating_add(size as usize));
        Ok(part.ok_or(Error::InvalidParam)?.to_vec())
    }

    fn set_config(&mut self, _: u32, _: &[u8], _: VhostUserConfigFlags) -> Result<()> {
        Err(Error::InvalidOperation(
            "nothing of the configuration can be set",
        ))
    }

    fn set_backend_req_fd(&mut self, _channel: Backend) {
        // The server takes this message itself. Who sends its first bytes one by one comes here, and goes without news.
    }

    fn set_gpu_socket(&mut self, _: GpuBackend) -> Result<()> {
        Err(NOT_HERE)
    }

    fn get_shared_object(&mut self, _: VhostUserSharedMsg) -> Result<File> {
        Err(NOT_HERE)
    }

    fn get_inflight_fd(&mut self, want: &VhostUserInflight) -> Result<(VhostUserInflight, File)> {
        if usize::from(want.num_queues) > self.vrings.len() || want.queue_size > Ring::SIZE_MAX {
            return Err(Error::InvalidParam);
        }
        let len = u64::from(want.num_queues) * inflight::queue_len(want.queue_size);
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let make = || -> io::Result<File> {
            let fd = rustix::fs::memfd_create("holdfast-inflight", flags)?;
            rustix::fs::ftruncate(&fd, len)?;
            rustix::fs::fcntl_add_seals(&fd, SealFlags::SHRINK | SealFlags::GROW)?;
            Ok(fd.into())
        };
        let file = make().map_err(Error::ReqHandlerError)?;
        let region = VhostUserInflight::new(len, 0, want.num_queues, want.queue_size);
        Ok((region, file))
    }

    fn set_inflight_fd(&mut self, region: &VhostUserInflight, file: File) -> Result<()> {
        let mapping = Mapping::new(file, region.mmap_offset, region.mmap_size);
        let mapping = Arc::new(mapping.map_err(Error::ReqHandlerError)?);
        self.change(|session| {
            session.inflight = Some(InflightRegion {
                mapping,
                queue_size: region.queue_size,
            });
            Ok(())
        })
    }

    fn get_max_mem_slots(&mut self) -> Result<u64> {
        Ok(Memory::REGIONS_MAX as u64)
    }

    fn add_mem_region(
        &mut self,
        region: &VhostUserSingleMemoryRegion,
        file: File,
        _postcopy: Option<bool>,
    ) -> Result<Option<u64>> {
        let mut memory = self.memory.clone();
        memory.add(self.map(region, file)?).map_err(refused)?;
        self.change(|session| {
            session.memory = memory;
            Ok(None)
        })
    }

    fn remove_mem_region(&mut self, region: &VhostUserSingleMemoryRegion) -> Result<()> {
        self.change(|session| {
            let gone = session
                .memory
                .remove(region.guest_phys_addr, region.memory_size);
            gone.then_some(()).ok_or(Error::InvalidParam)
        })
    }

    fn set_device_state_fd(
        &mut self,
        _: VhostTransferStateDirection,
        _: VhostTransferStatePhase,
        _: File,
    ) -> Result<Option<File>> {
        Err(NOT_HERE)
    }

    fn check_device_state(&mut self) -> Result<()> {
        Err(NOT_HERE)
    }

    fn get_shmem_config(&mut self) -> Result<VhostUserShMemConfig> {
        Err(NOT_HERE)
    }

    fn set_log_base(&mut self, log: &VhostUserLog, file: File) -> Result<()> {
        let mapping = Mapping::new(file, log.mmap_offset, log.mmap_size);
        let log = Arc::new(Log(mapping.map_err(Error::ReqHandlerError)?));
        self.change(|session| {
            session.log = Some(log);
            Ok(())
        })
    }
}
