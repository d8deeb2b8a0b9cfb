//! The block device behind a virtio device: what it says it is, and what its requests do.

use crate::{
    Options,
    memory::{Memory, Segment},
    request::{Kind, Range, Request, SECTOR},
    stats::{Counters, Tally},
};
use block::{BlockDevice, Durability, Error, check_range};
use env::Clock;
use std::{
    cell::RefCell,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};
use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_ID_BYTES, VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_OK, VIRTIO_BLK_S_UNSUPP,
    VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP,
};

/// Longer reads and writes are long work even from memory: they go where others run beside them.
const INLINE_MAX: u64 = 128 << 10;
/// Data of one request, at most. `config` tells drivers of less.
pub(crate) const DATA_MAX: u64 = 64 << 20;
/// Ranges of one discard, at most.
pub(crate) const RANGES_MAX: usize = 64;
/// Scattered data are copied together in pieces of this size …
const PIECE: usize = 1 << 20;
/// … unless what lies together is longer than this, on average.
const TOGETHER: u64 = 32 << 10;

thread_local! {
    /// Where scattered data are copied together: one a thread, and no longer than a piece.
    static BOUNCE: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// A device, and how it is shown.
pub(crate) struct Disk {
    pub(crate) device: Arc<dyn BlockDevice>,
    pub(crate) options: Options,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) counters: Counters,
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// Done; so many bytes of data were written to the guest.
    Done(u32),
    /// It failed.
    Failed,
    /// Nobody knows how to do it.
    Unsupported,
}

impl Answer {
    fn status(self) -> u8 {
        let status = match self {
            Answer::Done(_) => VIRTIO_BLK_S_OK,
            Answer::Failed => VIRTIO_BLK_S_IOERR,
            Answer::Unsupported => VIRTIO_BLK_S_UNSUPP,
        };
        status as u8
    }
}

impl Disk {
    pub(crate) fn read_only(&self) -> bool {
        self.options.read_only || self.device.info().read_only
    }

    /// Does a request and notes its status. The number of bytes written to the guest; without `wait`, none if it would
    /// have had to wait.
    pub(crate) fn serve(
        &self,
        memory: &Memory,
        request: &Request,
        durability: Durability,
        wait: bool,
        tally: &mut Tally,
    ) -> Option<u32> {
        let doing = AssertUnwindSafe(|| self.perform(memory, request, durability, wait));
        let outcome = catch_unwind(doing).unwrap_or_else(|_| {
            tracing::error!("a request of a vhost-user guest panicked");
            Ok(Some(Answer::Failed))
        });
        let answer = match outcome {
            Ok(answer) => answer?,
            Err(error) => {
                if error.kind() == block::ErrorKind::Io {
                    tracing::warn!(?error, "a request of a vhost-user guest failed");
                }
                Answer::Failed
            }
        };
        tally.count(request.header.kind, request.data_len(), answer);
        memory.write(request.status, |byte| byte.fill(answer.status()));
        Some(match answer {
            Answer::Done(written) => written + 1,
            Answer::Failed | Answer::Unsupported => 1,
        })
    }

    fn perform(
        &self,
        memory: &Memory,
        request: &Request,
        durability: Durability,
        wait: bool,
    ) -> Result<Option<Answer>, Error> {
        let durable = durability == Durability::Durable;
        let kind = request.header.kind;
        let changes = matches!(kind, Kind::Write | Kind::Discard | Kind::WriteZeroes);
        if changes && self.read_only() {
            return Ok(Some(Answer::Failed));
        }
        match kind {
            Kind::Flush | Kind::Write | Kind::Discard | Kind::WriteZeroes if durable && !wait => {
                Ok(None)
            }
            Kind::Read | Kind::Write => {
                let Some(offset) = self.check_data(request) else {
                    return Ok(Some(Answer::Failed));
                };
                if !wait && request.data_len() > INLINE_MAX {
                    return Ok(None);
                }
                if kind == Kind::Write {
                    self.write(memory, &request.data, offset, durability)?;
                    return Ok(Some(Answer::Done(0)));
                }
                let len = request.data_len() as u32;
                let read = self.read(memory, &request.data, offset, wait)?;
                Ok(read.then_some(Answer::Done(len)))
            }
            Kind::Flush if !wait => Ok(None),
            Kind::Flush => self.device.flush().map(|()| Some(Answer::Done(0))),
            Kind::Discard | Kind::WriteZeroes => self.clear(memory, request, durability).map(Some),
            Kind::Id => Ok(Some(self.identify(memory, &request.data))),
            Kind::Other => Ok(Some(Answer::Unsupported)),
        }
    }

    /// Where a read or write says that it begins.
    pub(crate) fn offset(request: &Request) -> Option<u64> {
        request.header.sector.checked_mul(SECTOR)
    }

    /// Where a read or write begins, if it may be done.
    fn check_data(&self, request: &Request) -> Option<u64> {
        let len = request.data_len();
        let offset = Self::offset(request)?;
        let possible = len.is_multiple_of(SECTOR) && len <= DATA_MAX;
        let size = self.device.info().size;
        (possible && check_range("data", offset, len, size).is_ok()).then_some(offset)
    }

    fn read(
        &self,
        memory: &Memory,
        data: &[Segment],
        offset: u64,
        wait: bool,
    ) -> Result<bool, Error> {
        let read = |at: u64, buf: &mut [u8]| match wait {
            true => self.device.read(at, buf).map(|()| true),
            false => self.device.try_read(at, buf),
        };
        for_each_part(data, |at, part| match part {
            [one] => memory.write(*one, |buf| read(offset + at, buf)),
            scattered => with_bounce(scattered, |buf| {
                let done = read(offset + at, buf)?;
                if done {
                    memory.scatter(scattered, buf);
                }
                Ok(done)
            }),
        })
    }

    fn write(
        &self,
        memory: &Memory,
        data: &[Segment],
        offset: u64,
        durability: Durability,
    ) -> Result<(), Error> {
        for_each_part(data, |at, part| {
            let at = offset + at;
            let written = match part {
                [one] => memory.read(*one, |buf| self.device.write(at, buf, durability)),
                scattered => with_bounce(scattered, |buf| {
                    memory.gather(scattered, buf);
                    self.device.write(at, buf, durability)
                }),
            };
            written.map(|()| true)
        })?;
        Ok(())
    }

    fn clear(
        &self,
        memory: &Memory,
        request: &Request,
        durability: Durability,
    ) -> Result<Answer, Error> {
        let mut bytes = [0; RANGES_MAX * Range::LEN];
        let len = request.data_len();
        if len == 0 || len > bytes.len() as u64 || !len.is_multiple_of(Range::LEN as u64) {
            return Ok(Answer::Failed);
        }
        let bytes = &mut bytes[..len as usize];
        memory.gather(&request.data, bytes);
        let (ranges, _) = bytes.as_chunks::<{ Range::LEN }>();
        let discard = request.header.kind == Kind::Discard;
        let allowed = if discard {
            0
        } else {
            VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP
        };
        if ranges
            .iter()
            .any(|&range| Range::decode(range).flags & !allowed != 0)
        {
            return Ok(Answer::Unsupported);
        }
        for &range in ranges {
            let range = Range::decode(range);
            let Some(offset) = range.sector.checked_mul(SECTOR) else {
                return Ok(Answer::Failed);
            };
            let len = u64::from(range.sectors) * SECTOR;
            if discard {
                self.device.discard(offset, len, durability)?;
            } else {
                self.device.write_zeroes(offset, len, durability)?;
            }
        }
        Ok(Answer::Done(0))
    }

    fn identify(&self, memory: &Memory, data: &[Segment]) -> Answer {
        let mut id = [0; VIRTIO_BLK_ID_BYTES as usize];
        for (to, from) in id.iter_mut().zip(self.options.serial.bytes()) {
            *to = from;
        }
        memory.scatter(data, &id);
        let room: usize = data.iter().map(|segment| segment.len()).sum();
        Answer::Done(room.min(id.len()) as u32)
    }
}

/// Cuts data into parts that are done with one call each: single segments, or scattered ones of a piece together.
/// Stops where `body` says `false`, and says so.
fn for_each_part(
    data: &[Segment],
    mut body: impl FnMut(u64, &[Segment]) -> Result<bool, Error>,
) -> Result<bool, Error> {
    let len: u64 = data.iter().map(|segment| segment.len() as u64).sum();
    let long = len / TOGETHER >= data.len() as u64;
    let (mut at, mut first) = (0, 0);
    while first < data.len() {
        let (mut last, mut part) = (first + 1, data[first].len());
        while !long && last < data.len() && part + data[last].len() <= PIECE {
            part += data[last].len();
            last += 1;
        }
        if !body(at, &data[first..last])? {
            return Ok(false);
        }
        at += part as u64;
        first = last;
    }
    Ok(true)
}

/// Lends a buffer that is as long as `segments`, with anything in it.
fn with_bounce<T>(segments: &[Segment], body: impl FnOnce(&mut [u8]) -> T) -> T {
    let len = segments.iter().map(|segment| segment.len()).sum();
    BOUNCE.with_borrow_mut(|bounce| {
        if bounce.len() < len {
            bounce.resize(len, 0);
        }
        body(&mut bounce[..len])
    })
}
