//! How a disk is cut into pieces that are read ahead, on threads, and delivered in order.

use crate::error::{Error, ErrorKind};
use image_formats::{Disk, Run};
use std::ops::Range;
use types::BLOCK_SIZE;

/// Bytes of a piece: few enough that several in memory are little.
const PIECE_BYTES: u64 = 4 << 20;
/// A hole of at least this ends a piece; a smaller one is read with what is around it.
const HOLE_MIN: u64 = 64 << 10;

/// A piece to be read: a hole if it has no runs.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Planned {
    pub(crate) range: Range<u64>,
    /// Where in the range there is data; the rest is small holes.
    pub(crate) runs: Vec<Range<usize>>,
}

/// Cuts a disk into pieces.
pub(crate) struct Plan<'a> {
    pub(crate) disk: &'a dyn Disk,
    size: u64,
    /// Where the next piece begins.
    position: u64,
    /// What is from `position` on, without gaps, the next one last.
    runs: Vec<Run>,
}

impl<'a> Plan<'a> {
    pub(crate) fn new(disk: &'a dyn Disk) -> Self {
        Plan {
            disk,
            size: disk.size(),
            position: 0,
            runs: Vec::new(),
        }
    }

    pub(crate) fn next(&mut self) -> Result<Option<Planned>, Error> {
        if self.position >= self.size {
            return Ok(None);
        }
        self.refill()?;
        let start = self.position;
        let mut runs: Vec<Range<usize>> = Vec::new();
        while let Some(Run { len, data }) = self.runs.pop() {
            let room = PIECE_BYTES - (self.position - start);
            match (data, runs.last_mut()) {
                (false, None) => {
                    self.position += len;
                    break;
                }
                (false, Some(_)) if len >= HOLE_MIN.min(room) => {
                    self.runs.push(Run { len, data });
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
                        let len = len - take;
                        self.runs.push(Run { len, data });
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
        if !self.runs.is_empty() {
            return Ok(());
        }
        let runs = self.disk.runs(self.position)?;
        let rest = self.size - self.position;
        let said = runs
            .iter()
            .try_fold(0u64, |sum, run| sum.checked_add(run.len));
        if said.is_none_or(|said| said == 0 || said > rest) {
            // A disk that answers nothing would be asked for ever.
            let why = format!("what it says of byte {} makes no sense", self.position);
            return Err(Error::new(ErrorKind::Damaged, why));
        }
        self.runs = whole(&runs, rest, BLOCK_SIZE as u64);
        self.runs.reverse();
        Ok(())
    }
}

/// Runs that end with units of `unit` bytes, or with the disk, `rest` bytes from their beginning: data takes what it touches. What is
/// behind the last unit of which all is known is asked for again.
pub(crate) fn whole(runs: &[Run], rest: u64, unit: u64) -> Vec<Run> {
    let mut whole: Vec<Run> = Vec::new();
    let (mut at, mut done) = (0, 0);
    let mut push = |until: u64, data: bool, done: &mut u64| {
        let len = until.saturating_sub(*done);
        match whole.last_mut() {
            _ if len == 0 => {}
            Some(last) if last.data == data => last.len += len,
            _ => whole.push(Run { len, data }),
        }
        *done = until.max(*done);
    };
    for run in runs {
        let end = at + run.len;
        let known = if end == rest { end } else { end / unit * unit };
        if run.data {
            push(at / unit * unit, false, &mut done);
            push(end.next_multiple_of(unit).min(rest), true, &mut done);
        } else {
            push(known, false, &mut done);
        }
        at = end;
    }
    if done == 0 {
        push(unit.min(rest), true, &mut done);
    }
    whole
}

#[cfg(test)]
#[expect(clippy::single_range_in_vec_init, reason = "lists of ranges")]
mod tests {
    use super::*;
    use crate::pieces::VolumeDisk;
    use block::{BlockDevice, Durability, MemoryDevice};

    const KIB: u64 = 1 << 10;

    fn plan(size: u64, data: &[Range<u64>]) -> Vec<Planned> {
        let device = MemoryDevice::new(size as usize);
        for range in data {
            let bytes = vec![1; (range.end - range.start) as usize];
            device
                .write(range.start, &bytes, Durability::Volatile)
                .unwrap();
        }
        let disk = VolumeDisk::new(&device);
        let mut plan = Plan::new(&disk);
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
    fn data_takes_the_blocks_that_it_touches() {
        let run = |len, data| Run { len, data };
        let cases = [
            // A hole within a block is none.
            (
                vec![run(512, true), run(512, false), run(7168, true)],
                8192,
                vec![run(8192, true)],
            ),
            (
                vec![run(8192 + 512, false), run(512, true), run(8192, false)],
                17408,
                vec![run(8192, false), run(4096, true), run(5120, false)],
            ),
            // More is to come: the rest of a block is not known yet.
            (vec![run(5000, false)], 1 << 20, vec![run(4096, false)]),
            (vec![run(5000, true)], 1 << 20, vec![run(8192, true)]),
            (vec![run(512, false)], 1 << 20, vec![run(4096, true)]),
            // The disk ends.
            (vec![run(5000, true)], 5000, vec![run(5000, true)]),
            (vec![run(100, false)], 100, vec![run(100, false)]),
        ];
        for (runs, rest, expect) in cases {
            assert_eq!(whole(&runs, rest, 4096), expect, "{runs:?}");
        }
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
