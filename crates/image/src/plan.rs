//! How an export is cut into pieces.

use crate::error::{Error, ErrorKind};
use block::{BlockDevice, ExtentKind};
use std::ops::Range;

/// Bytes of a piece: few enough that several in memory are little.
const PIECE_BYTES: u64 = 4 << 20;
/// A hole of at least this ends a piece; a smaller one is read with what is around it.
const HOLE_MIN: u64 = 64 << 10;
/// Extents that are asked for at once.
const EXTENTS_MAX: usize = 1024;

/// A piece to be read: a hole if it has no runs.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Planned {
    pub(crate) range: Range<u64>,
    /// Where in the range there is data; the rest is small holes.
    pub(crate) runs: Vec<Range<usize>>,
}

/// Cuts a device into pieces.
pub(crate) struct Plan<'a> {
    pub(crate) device: &'a dyn BlockDevice,
    size: u64,
    /// Where the next piece begins.
    position: u64,
    /// Extents from `position` on, without gaps, the next one last: bytes, and whether there is data.
    extents: Vec<(u64, bool)>,
}

impl<'a> Plan<'a> {
    pub(crate) fn new(device: &'a dyn BlockDevice, size: u64) -> Self {
        Plan {
            device,
            size,
            position: 0,
            extents: Vec::new(),
        }
    }

    pub(crate) fn next(&mut self) -> Result<Option<Planned>, Error> {
        if self.position >= self.size {
            return Ok(None);
        }
        self.refill()?;
        let start = self.position;
        let mut runs: Vec<Range<usize>> = Vec::new();
        while let Some((len, data)) = self.extents.pop() {
            let room = PIECE_BYTES - (self.position - start);
            match (data, runs.last_mut()) {
                (false, None) => {
                    self.position += len;
                    break;
                }
                (false, Some(_)) if len >= HOLE_MIN.min(room) => {
                    self.extents.push((len, false));
                    break;
                }
                (false, Some(_)) => self.position += len,
                (true, last) => {
                    let take = len.min(room);
                    let at = (self.position - start) as usize;
                    let end = at + take as usize;
                    match last {
                        Some(run) if run.end == at => run.end = end,
                        _ => runs.push(at..end),
                    }
                    self.position += take;
                    if take < len {
                        self.extents.push((len - take, true));
                    }
                }
            }
            if self.position - start >= PIECE_BYTES {
                break;
            }
        }
        let range = start..self.position;
        Ok(Some(Planned { range, runs }))
    }

    fn refill(&mut self) -> Result<(), Error> {
        if !self.extents.is_empty() {
            return Ok(());
        }
        let rest = self.size - self.position;
        let extents = self.device.extents(self.position, rest, EXTENTS_MAX)?;
        let each = extents.iter().rev();
        self.extents = each
            .map(|extent| (extent.len, extent.kind == ExtentKind::Data))
            .collect();
        if self.extents.is_empty() {
            // A device that answers nothing would be asked for ever.
            let why = format!("the volume says nothing of byte {}", self.position);
            return Err(Error::new(ErrorKind::Damaged, why));
        }
        Ok(())
    }
}

#[cfg(test)]
#[expect(clippy::single_range_in_vec_init, reason = "lists of ranges")]
mod tests {
    use super::*;
    use block::{Durability, MemoryDevice};

    const KIB: u64 = 1 << 10;

    fn plan(size: u64, data: &[Range<u64>]) -> Vec<Planned> {
        let device = MemoryDevice::new(size as usize);
        for range in data {
            let bytes = vec![1; (range.end - range.start) as usize];
            device
                .write(range.start, &bytes, Durability::Volatile)
                .unwrap();
        }
        let mut plan = Plan::new(&device, size);
        std::iter::from_fn(|| plan.next().unwrap()).collect()
    }

    #[test]
    fn pieces_follow_each_other_and_small_holes_are_read_over() {
        let pieces = plan(
            1 << 20,
            &[64 * KIB..72 * KIB, 76 * KIB..80 * KIB, 512 * KIB..516 * KIB],
        );
        let expect = [
            (0..64, vec![]),
            (64..80, vec![0..8, 12..16]),
            (80..512, vec![]),
            (512..516, vec![0..4]),
            (516..1024, vec![]),
        ];
        let expect = expect.map(|(range, runs): (Range<u64>, Vec<Range<usize>>)| Planned {
            range: range.start * KIB..range.end * KIB,
            runs: runs.iter().map(|r| r.start << 10..r.end << 10).collect(),
        });
        assert_eq!(pieces, expect);
    }

    #[test]
    fn pieces_are_bounded() {
        let pieces = plan(10 << 20, &[0..9 << 20]);
        let lens: Vec<u64> = pieces
            .iter()
            .map(|p| (p.range.end - p.range.start) >> 20)
            .collect();
        assert_eq!(lens, [4, 4, 1, 1]);
        let many: Vec<_> = (0..1500).map(|i| i * 8 * KIB..i * 8 * KIB + 4096).collect();
        let pieces = plan(16 << 20, &many);
        let mut at = 0;
        for piece in &pieces {
            assert_eq!(piece.range.start, at);
            at = piece.range.end;
            assert!(piece.runs.is_empty() || piece.range.end - piece.range.start <= PIECE_BYTES);
        }
        assert_eq!(at, 16 << 20);
        assert_eq!(pieces.iter().map(|p| p.runs.len()).sum::<usize>(), 1500);
    }
}
