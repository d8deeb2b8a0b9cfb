//! Requests of a virtio block device, out of chains of descriptors (VirtIO 1.3, 5.2.6).

use crate::{
    memory::{Broken, Memory, Segment},
    ring::{Descriptor, Ring},
};
use block::{Access, Demand};
use virtio_bindings::{
    virtio_blk::{
        VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_FLUSH, VIRTIO_BLK_T_GET_ID, VIRTIO_BLK_T_IN,
        VIRTIO_BLK_T_OUT, VIRTIO_BLK_T_WRITE_ZEROES,
    },
    virtio_ring::{VRING_DESC_F_INDIRECT, VRING_DESC_F_NEXT, VRING_DESC_F_WRITE},
};

/// Bytes of a sector, whatever the device's block size: positions are counted in them.
pub(crate) const SECTOR: u64 = 512;
/// Descriptors of one chain, at most: as many as QEMU allows.
const CHAIN_MAX: usize = 1024;

/// What is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Kind {
    Read,
    Write,
    Flush,
    Id,
    Discard,
    WriteZeroes,
    /// Nothing that this device does.
    #[default]
    Other,
}

/// The first bytes of a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) kind: Kind,
    pub(crate) sector: u64,
}

impl Header {
    pub(crate) const LEN: usize = 16;

    pub(crate) fn decode(bytes: [u8; Self::LEN]) -> Self {
        let value = u128::from_le_bytes(bytes);
        let kind = match value as u32 {
            VIRTIO_BLK_T_IN => Kind::Read,
            VIRTIO_BLK_T_OUT => Kind::Write,
            VIRTIO_BLK_T_FLUSH => Kind::Flush,
            VIRTIO_BLK_T_GET_ID => Kind::Id,
            VIRTIO_BLK_T_DISCARD => Kind::Discard,
            VIRTIO_BLK_T_WRITE_ZEROES => Kind::WriteZeroes,
            _ => Kind::Other,
        };
        Header {
            kind,
            sector: (value >> 64) as u64,
        }
    }
}

/// One range of a discard or of zeroes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Range {
    pub(crate) sector: u64,
    pub(crate) sectors: u32,
    pub(crate) flags: u32,
}

impl Range {
    pub(crate) const LEN: usize = 16;

    pub(crate) fn decode(bytes: [u8; Self::LEN]) -> Self {
        let value = u128::from_le_bytes(bytes);
        Range {
            sector: value as u64,
            sectors: (value >> 64) as u32,
            flags: (value >> 96) as u32,
        }
    }
}

/// A request: what is asked for, and where its data and its answer go.
#[derive(Clone, Debug, Default)]
pub(crate) struct Request {
    pub(crate) header: Header,
    /// What to write from, or to read to, without header and status.
    pub(crate) data: Vec<Segment>,
    /// Where the data's last byte is followed by the answer: one byte.
    pub(crate) status: Segment,
}

impl Request {
    pub(crate) fn data_len(&self) -> u64 {
        self.data.iter().map(|segment| segment.len() as u64).sum()
    }

    /// What limits count of it, if anything.
    pub(crate) fn demand(&self) -> Option<Demand> {
        let (access, bytes) = match self.header.kind {
            Kind::Read => (Access::Read, self.data_len()),
            Kind::Write => (Access::Write, self.data_len()),
            Kind::Discard | Kind::WriteZeroes => (Access::Write, 0),
            Kind::Flush | Kind::Id | Kind::Other => return None,
        };
        Some(Demand { access, bytes })
    }
}

/// Chains become requests here. Keeps its memory from one to the next.
#[derive(Default)]
pub(crate) struct Parser {
    readable: Vec<Segment>,
    writable: Vec<Segment>,
}

impl Parser {
    /// Makes `request` that of the chain that begins with `head`.
    ///
    /// # Errors
    /// The chain is none, or too short for a request: there is not even a place for an error.
    pub(crate) fn parse(
        &mut self,
        ring: &Ring,
        head: u16,
        request: &mut Request,
    ) -> Result<(), Broken> {
        self.readable.clear();
        self.writable.clear();
        self.walk(ring, head)?;
        let memory = ring.memory();
        let header = self.take_header(memory)?;
        let status = self.take_status()?;
        let data = match header.kind {
            Kind::Read | Kind::Id => &mut self.writable,
            _ => &mut self.readable,
        };
        std::mem::swap(data, &mut request.data);
        request.header = header;
        request.status = status;
        Ok(())
    }

    fn walk(&mut self, ring: &Ring, head: u16) -> Result<(), Broken> {
        let mut table = Table::Ring(ring);
        let mut next = head;
        for _ in 0..=CHAIN_MAX {
            let descriptor = table.get(next)?;
            let flags = u32::from(descriptor.flags);
            if flags & VRING_DESC_F_INDIRECT != 0 {
                table = table.indirect(ring.memory(), &descriptor)?;
                next = 0;
                continue;
            }
            self.add(ring.memory(), &descriptor)?;
            if flags & VRING_DESC_F_NEXT == 0 {
                return Ok(());
            }
            next = descriptor.next;
        }
        Err(Broken("a chain of descriptors does not end"))
    }

    fn add(&mut self, memory: &Memory, descriptor: &Descriptor) -> Result<(), Broken> {
        let writable = u32::from(descriptor.flags) & VRING_DESC_F_WRITE != 0;
        if descriptor.len == 0 {
            return Err(Broken("a descriptor of nothing"));
        }
        if !writable && !self.writable.is_empty() {
            return Err(Broken("what the device reads follows what it writes"));
        }
        let segments = match writable {
            true => &mut self.writable,
            false => &mut self.readable,
        };
        memory.resolve(descriptor.address, descriptor.len.into(), segments)
    }

    /// Devices must not rely on where a driver cuts a request.
    fn take_header(&mut self, memory: &Memory) -> Result<Header, Broken> {
        let mut bytes = [0; Header::LEN];
        let mut left = bytes.len();
        memory.gather(&self.readable, &mut bytes);
        let mut whole = 0;
        for segment in &mut self.readable {
            if segment.len() > left {
                *segment = segment.split_at(left).1;
                left = 0;
                break;
            }
            left -= segment.len();
            whole += 1;
        }
        if left > 0 {
            return Err(Broken("a request without a header"));
        }
        self.readable.drain(..whole);
        Ok(Header::decode(bytes))
    }

    fn take_status(&mut self) -> Result<Segment, Broken> {
        let last = self.writable.pop();
        let last = last.ok_or(Broken("a request without a place for its answer"))?;
        let (data, status) = last.split_at(last.len() - 1);
        if data.len() > 0 {
            self.writable.push(data);
        }
        Ok(status)
    }
}

/// Where descriptors are looked up.
enum Table<'a> {
    Ring(&'a Ring),
    Indirect {
        memory: &'a Memory,
        address: u64,
        len: u32,
    },
}

impl<'a> Table<'a> {
    fn get(&self, index: u16) -> Result<Descriptor, Broken> {
        let beyond = Broken("a descriptor beyond its table");
        match *self {
            Table::Ring(ring) => ring.descriptor(index).ok_or(beyond),
            Table::Indirect {
                memory,
                address,
                len,
            } => {
                let at = u64::from(index) * Descriptor::SIZE as u64;
                if at + Descriptor::SIZE as u64 > len.into() {
                    return Err(beyond);
                }
                // No address that fits into memory overflows here; what wraps is not in memory.
                let mut bytes = [0; Descriptor::SIZE];
                memory.read_at(address.wrapping_add(at), &mut bytes)?;
                Ok(Descriptor::decode(bytes))
            }
        }
    }

    fn indirect(&self, memory: &'a Memory, descriptor: &Descriptor) -> Result<Self, Broken> {
        let flags = u32::from(descriptor.flags);
        if matches!(self, Table::Indirect { .. }) {
            return Err(Broken("a table of descriptors within another"));
        }
        if flags & VRING_DESC_F_NEXT != 0
            || !(descriptor.len as usize).is_multiple_of(Descriptor::SIZE)
        {
            return Err(Broken("a table of descriptors that cannot be one"));
        }
        Ok(Table::Indirect {
            memory,
            address: descriptor.address,
            len: descriptor.len,
        })
    }
}
