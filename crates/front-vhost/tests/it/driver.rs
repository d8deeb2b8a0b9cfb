//! A guest: libblkio's virtio-blk driver, on memory that it shares.

use block::BlockDevice;
use env::Env;
use front_vhost::{Options, Server, Workers};
use rustix::fs::{MemfdFlags, memfd_create};
use std::{fs::File, os::fd::AsRawFd, path::PathBuf, sync::Arc, time::Duration};
use virtio_driver::{
    VhostUser, VirtioBlkConfig, VirtioBlkFeatureFlags, VirtioBlkQueue, VirtioBlkReqBuf,
    VirtioBlkTransport, VirtioFeatureFlags, iovec,
};
use vm_memory::{FileOffset, mmap::MmapRegion};

/// A server in a directory of its own.
pub(crate) struct Host {
    pub(crate) server: Server,
    pub(crate) workers: Workers,
    _dir: tempfile::TempDir,
}

impl Host {
    pub(crate) fn new(device: Arc<dyn BlockDevice>, options: Options) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let workers = Workers::new(4);
        let path = dir.path().join("disk");
        let server = Server::start(&Env::real(), &workers, &path, 0o600, device, options).unwrap();
        Host {
            server,
            workers,
            _dir: dir,
        }
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.server.path().to_owned()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        assert!(self.server.stop(Duration::from_secs(20)), "it does not end");
        self.workers.stop();
    }
}

/// Memory that a guest shares.
pub(crate) struct Buffer {
    map: MmapRegion,
}

impl Buffer {
    pub(crate) fn new(len: usize) -> Self {
        let file = File::from(memfd_create("guest", MemfdFlags::CLOEXEC).unwrap());
        file.set_len(len as u64).unwrap();
        Self::of(file)
    }

    pub(crate) fn of(file: File) -> Self {
        let len = file.metadata().unwrap().len() as usize;
        Buffer {
            map: MmapRegion::from_file(FileOffset::new(file, 0), len).unwrap(),
        }
    }

    pub(crate) fn address(&self) -> usize {
        self.map.as_ptr() as usize
    }

    pub(crate) fn len(&self) -> usize {
        self.map.size()
    }

    pub(crate) fn file(&self) -> &File {
        self.map.file_offset().unwrap().file()
    }

    #[expect(unsafe_code, reason = "it is shared with the server")]
    #[expect(clippy::mut_from_ref, reason = "nobody else in the test has it")]
    pub(crate) fn bytes(&self) -> &mut [u8] {
        // SAFETY: mapped as long as we live; the server touches it only while a request is under way.
        unsafe { std::slice::from_raw_parts_mut(self.map.as_ptr(), self.map.size()) }
    }
}

/// A guest that is connected.
pub(crate) struct Guest {
    queues: Vec<VirtioBlkQueue<'static, usize>>,
    transport: Box<VirtioBlkTransport>,
    pub(crate) buffer: Buffer,
}

pub(crate) type Outcome = Result<(), i32>;

impl Guest {
    pub(crate) const QUEUE_SIZE: u16 = 64;

    pub(crate) fn connect(host: &Host, queues: usize) -> Self {
        let features = VirtioFeatureFlags::VERSION_1 | VirtioFeatureFlags::RING_EVENT_IDX;
        Self::with_features(host, queues, features, VirtioBlkFeatureFlags::all())
    }

    pub(crate) fn with_features(
        host: &Host,
        queues: usize,
        features: VirtioFeatureFlags,
        of_disk: VirtioBlkFeatureFlags,
    ) -> Self {
        let path = host.path();
        let transport = VhostUser::<VirtioBlkConfig, VirtioBlkReqBuf>::new(
            path.to_str().unwrap(),
            features.bits() | of_disk.bits(),
        );
        let mut transport: Box<VirtioBlkTransport> = Box::new(transport.unwrap());
        let queues = VirtioBlkQueue::setup_queues(&mut *transport, queues, Self::QUEUE_SIZE);
        let mut queues: Vec<VirtioBlkQueue<'static, usize>> = queues.unwrap();
        let buffer = Buffer::new(4 << 20);
        transport
            .map_mem_region(buffer.address(), buffer.len(), buffer.file().as_raw_fd(), 0)
            .unwrap();
        queues
            .iter_mut()
            .for_each(|queue| queue.set_used_notif_enabled(true));
        Guest {
            queues,
            transport,
            buffer,
        }
    }

    pub(crate) fn features(&self) -> VirtioBlkFeatureFlags {
        VirtioBlkFeatureFlags::from_bits_truncate(self.transport.get_features())
    }

    pub(crate) fn config(&self) -> VirtioBlkConfig {
        self.transport.get_config().unwrap()
    }

    /// Queues something, tells the device, and waits for as many answers as there are contexts.
    pub(crate) fn run(
        &mut self,
        queue: usize,
        fill: impl FnOnce(&mut VirtioBlkQueue<'static, usize>, &Buffer),
        answers: usize,
    ) -> Vec<(usize, Outcome)> {
        self.submit(queue, fill);
        self.answers(queue, answers)
    }

    pub(crate) fn submit(
        &mut self,
        queue: usize,
        fill: impl FnOnce(&mut VirtioBlkQueue<'static, usize>, &Buffer),
    ) {
        fill(&mut self.queues[queue], &self.buffer);
        if self.queues[queue].avail_notif_needed() {
            self.transport
                .get_submission_notifier(queue)
                .notify()
                .unwrap();
        }
    }

    pub(crate) fn answers(&mut self, queue: usize, count: usize) -> Vec<(usize, Outcome)> {
        let mut answers = Vec::new();
        loop {
            let outcome = |ret| if ret == 0 { Ok(()) } else { Err(ret) };
            let done = self.queues[queue].completions();
            answers.extend(done.map(|done| (done.context, outcome(done.ret))));
            if answers.len() >= count {
                return answers;
            }
            self.transport.get_completion_fd(queue).read().unwrap();
        }
    }

    pub(crate) fn write(&mut self, queue: usize, offset: u64, data: &[u8]) -> Outcome {
        self.buffer.bytes()[..data.len()].copy_from_slice(data);
        let fill = |q: &mut VirtioBlkQueue<'static, usize>, buffer: &Buffer| {
            q.write(offset, &buffer.bytes()[..data.len()], 0).unwrap();
        };
        self.run(queue, fill, 1)[0].1
    }

    pub(crate) fn read(&mut self, queue: usize, offset: u64, len: usize) -> Result<Vec<u8>, i32> {
        self.buffer.bytes()[..len].fill(0xee);
        let fill = |q: &mut VirtioBlkQueue<'static, usize>, buffer: &Buffer| {
            q.read(offset, &mut buffer.bytes()[..len], 0).unwrap();
        };
        self.run(queue, fill, 1)[0].1?;
        Ok(self.buffer.bytes()[..len].to_vec())
    }

    pub(crate) fn flush(&mut self, queue: usize) -> Outcome {
        self.run(queue, |q, _| q.flush(0).unwrap(), 1)[0].1
    }

    /// Reads into, or writes from, parts of the buffer: offsets and lengths.
    #[expect(unsafe_code, reason = "the driver takes addresses")]
    pub(crate) fn scattered(
        &mut self,
        queue: usize,
        offset: u64,
        parts: &[(usize, usize)],
        write: bool,
    ) -> Outcome {
        let address = self.buffer.address();
        let parts: Vec<iovec> = parts
            .iter()
            .map(|&(at, len)| iovec {
                iov_base: (address + at) as *mut _,
                iov_len: len,
            })
            .collect();
        let fill = |q: &mut VirtioBlkQueue<'static, usize>, _: &Buffer| {
            // SAFETY: all parts are in the buffer.
            unsafe {
                match write {
                    true => q.writev(offset, parts.as_ptr(), parts.len(), 0).unwrap(),
                    false => q.readv(offset, parts.as_ptr(), parts.len(), 0).unwrap(),
                }
            }
        };
        self.run(queue, fill, 1)[0].1
    }
}
