//! A guest's driver without a guest: libblkio's, on memory that it shares with a vhost-user-blk device.

use anyhow::{Context, Result, ensure};
use rustix::fs::{MemfdFlags, memfd_create};
use std::{fs::File, os::fd::AsRawFd, path::Path, sync::Arc};
use virtio_driver::{
    EventFd, QueueNotifier, VhostUser, VirtioBlkConfig, VirtioBlkFeatureFlags, VirtioBlkQueue,
    VirtioBlkReqBuf, VirtioBlkTransport, VirtioFeatureFlags,
};
use vm_memory::{FileOffset, mmap::MmapRegion};

/// A device, and the driver's queues and memory.
pub struct Driver {
    /// Its queues: one thread each may use them.
    pub queues: Vec<Queue>,
    transport: Box<VirtioBlkTransport>,
    memory: Memory,
}

/// Memory that the device reads from and writes to.
pub struct Memory(MmapRegion);

/// A part of it.
#[derive(Clone, Copy, Debug)]
pub struct Part {
    address: usize,
    len: usize,
}

impl Part {
    /// What of it follows its first bytes.
    ///
    /// # Errors
    /// There are not so many.
    pub fn at(self, at: usize) -> Result<Self> {
        ensure!(at <= self.len, "beyond a part of the driver's memory");
        Ok(Part {
            address: self.address + at,
            len: self.len - at,
        })
    }
}

/// A queue.
pub struct Queue {
    ring: VirtioBlkQueue<'static, usize>,
    kick: Box<dyn QueueNotifier>,
    done: Arc<EventFd>,
}

impl Driver {
    /// Connects to the device at `socket`, with memory of `len` bytes.
    ///
    /// # Errors
    /// Nobody listens, or the device refuses; or it has fewer queues.
    pub fn connect(socket: &Path, queues: usize, queue_size: u16, len: usize) -> Result<Self> {
        let features = VirtioFeatureFlags::VERSION_1
            | VirtioFeatureFlags::RING_EVENT_IDX
            | VirtioFeatureFlags::RING_INDIRECT_DESC;
        let path = socket.to_str().context("a path that is no text")?;
        let features = features.bits() | VirtioBlkFeatureFlags::all().bits();
        let transport = VhostUser::<VirtioBlkConfig, VirtioBlkReqBuf>::new(path, features);
        let transport = transport.with_context(|| format!("connecting to {path}"))?;
        let mut transport: Box<VirtioBlkTransport> = Box::new(transport);
        let rings = VirtioBlkQueue::setup_queues(&mut *transport, queues, queue_size)?;
        let file = File::from(memfd_create("driver", MemfdFlags::CLOEXEC)?);
        file.set_len(len as u64)?;
        let fd = file.as_raw_fd();
        let memory = Memory(MmapRegion::from_file(FileOffset::new(file, 0), len)?);
        transport.map_mem_region(memory.0.as_ptr() as usize, len, fd, 0)?;
        let queues = rings.into_iter().enumerate().map(|(index, mut ring)| {
            ring.set_used_notif_enabled(true);
            Queue {
                ring,
                kick: transport.get_submission_notifier(index),
                done: transport.get_completion_fd(index),
            }
        });
        Ok(Driver {
            queues: queues.collect(),
            transport,
            memory,
        })
    }

    /// Bytes of the device, as it says now.
    ///
    /// # Errors
    /// It does not answer.
    pub fn size(&self) -> Result<u64> {
        let sectors = self.transport.get_config()?.capacity.to_native();
        Ok(sectors * 512)
    }

    /// Whether the device says that it can only be read.
    #[must_use]
    pub fn read_only(&self) -> bool {
        let read_only = VirtioBlkFeatureFlags::RO.bits();
        self.transport.get_features() & read_only != 0
    }

    /// The queues, and the memory that their requests are about.
    pub fn parts(&mut self) -> (&mut [Queue], &Memory) {
        (&mut self.queues, &self.memory)
    }

    /// Reads, on the first queue.
    ///
    /// # Errors
    /// The device's.
    pub fn read(&mut self, offset: u64, len: usize) -> Result<Vec<u8>> {
        let part = self.memory.part(0, len)?;
        let queue = &mut self.queues[0];
        queue.read(offset, part, 0)?;
        queue.finish()?;
        Ok(self.memory.copy(part))
    }

    /// Writes, on the first queue.
    ///
    /// # Errors
    /// The device's.
    pub fn write(&mut self, offset: u64, data: &[u8]) -> Result<()> {
        let part = self.memory.part(0, data.len())?;
        self.memory.fill(part, data);
        let queue = &mut self.queues[0];
        queue.write(offset, part, 0)?;
        queue.finish()
    }

    /// Flushes, on the first queue.
    ///
    /// # Errors
    /// The device's.
    pub fn flush(&mut self) -> Result<()> {
        self.queues[0].flush(0)?;
        self.queues[0].finish()
    }
}

impl Memory {
    /// A part of it.
    ///
    /// # Errors
    /// It is not within.
    pub fn part(&self, at: usize, len: usize) -> Result<Part> {
        let end = at.checked_add(len);
        ensure!(
            end.is_some_and(|end| end <= self.0.size()),
            "beyond the driver's memory"
        );
        Ok(Part {
            address: self.0.as_ptr() as usize + at,
            len,
        })
    }

    /// What is in a part. No request of it is under way.
    #[must_use]
    #[expect(unsafe_code, reason = "it is shared with the device")]
    pub fn copy(&self, part: Part) -> Vec<u8> {
        // SAFETY: `part` made it, within the map; bytes may have any value.
        unsafe { std::slice::from_raw_parts(part.address as *const u8, part.len) }.to_vec()
    }

    /// Puts `data` into a part, as much of both as there is. No request of it is under way.
    #[expect(unsafe_code, reason = "it is shared with the device")]
    pub fn fill(&self, part: Part, data: &[u8]) {
        let len = part.len.min(data.len());
        // SAFETY: `part` made it, within the map, which `data` is not in.
        unsafe { std::ptr::copy_nonoverlapping(data.as_ptr(), part.address as *mut u8, len) }
    }
}

impl Queue {
    /// Queues a read into `part`. `context` comes back with the answer.
    ///
    /// # Errors
    /// The queue is full.
    #[expect(unsafe_code, reason = "the driver takes addresses")]
    pub fn read(&mut self, offset: u64, part: Part, context: usize) -> Result<()> {
        // SAFETY: `part` is within memory that the device has.
        Ok(unsafe {
            self.ring
                .read_raw(offset, part.address as *mut u8, part.len, context)
        }?)
    }

    /// Queues a write from `part`.
    ///
    /// # Errors
    /// The queue is full.
    #[expect(unsafe_code, reason = "the driver takes addresses")]
    pub fn write(&mut self, offset: u64, part: Part, context: usize) -> Result<()> {
        // SAFETY: as above.
        Ok(unsafe {
            self.ring
                .write_raw(offset, part.address as *const u8, part.len, context)
        }?)
    }

    /// Queues a flush.
    ///
    /// # Errors
    /// The queue is full.
    pub fn flush(&mut self, context: usize) -> Result<()> {
        Ok(self.ring.flush(context)?)
    }

    /// Tells the device of what was queued, if it wants to be told.
    ///
    /// # Errors
    /// It cannot be told.
    pub fn kick(&mut self) -> Result<()> {
        if self.ring.avail_notif_needed() {
            self.kick.notify()?;
        }
        Ok(())
    }

    /// Hands the contexts of what was answered to `take`; how many there were.
    ///
    /// # Errors
    /// A request failed.
    pub fn answers(&mut self, mut take: impl FnMut(usize)) -> Result<usize> {
        let mut count = 0;
        for done in self.ring.completions() {
            ensure!(done.ret == 0, "a request failed: {}", done.ret);
            take(done.context);
            count += 1;
        }
        Ok(count)
    }

    /// As [`answers`](Self::answers), and waits for the first as a guest does: until the device calls.
    ///
    /// # Errors
    /// As above.
    pub fn wait(&mut self, mut take: impl FnMut(usize)) -> Result<usize> {
        loop {
            let count = self.answers(&mut take)?;
            if count > 0 {
                return Ok(count);
            }
            match self.done.read() {
                // QEMU's devices change the descriptor that both have.
                Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {
                    rustix::io::ioctl_fionbio(&*self.done, false)?;
                }
                read => read.map(drop)?,
            }
        }
    }

    /// Has the one request that is queued done.
    fn finish(&mut self) -> Result<()> {
        self.kick()?;
        self.wait(|_| ()).map(drop)
    }
}
