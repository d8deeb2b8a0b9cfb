//! The way of a write: into the head generation, and answered.

use crate::{
    budget::{Need, Waiter},
    error::{Error, ErrorKind},
    layer::Found,
    read::{Piece, pieces},
    volume::{State, Volume},
};
use std::{ops::Range, sync::Arc, time::Duration};
use types::{BLOCK_SIZE, Block, BlockIndex, SharedBlock};
use write_buffer::{Place, RANGE_COST};

/// Blocks that are set under one hold of the lock: readers wait for no more.
const BLOCKS_AT_ONCE: usize = 256;

impl Waiter for Arc<Volume> {
    fn sleep(&self, time: Duration) {
        self.shared.sleep(time);
    }

    fn drain(&self) -> Result<bool, Error> {
        self.shared.drain()
    }
}

impl Volume {
    /// Writes `data` at `offset`; range and permission were checked.
    pub(crate) fn write(self: &Arc<Self>, offset: u64, data: &[u8]) -> Result<(), Error> {
        self.admit(data.len() as u64, Need::Space)?;
        let end = offset + data.len() as u64;
        let mut whole: Vec<Piece> = Vec::with_capacity(data.len() / BLOCK_SIZE);
        for piece in pieces(offset, data.len()) {
            if piece.is_whole() {
                whole.push(piece);
            } else {
                let bytes = &data[piece.of_request.clone()];
                let fresh = self.admit_to_quota(std::slice::from_ref(&piece))?;
                self.merge(&piece, end, fresh, |part| part.copy_from_slice(bytes))?;
            }
        }
        whole
            .chunks(BLOCKS_AT_ONCE)
            .try_for_each(|pieces| self.write_blocks(pieces, data, end))
    }

    /// Copies whole blocks once, straight to where they stay, and then makes them the volume's.
    fn write_blocks(
        self: &Arc<Self>,
        pieces: &[Piece],
        data: &[u8],
        end: u64,
    ) -> Result<(), Error> {
        let fresh = self.admit_to_quota(pieces)?;
        let mut new = self.shared.buffer.take(pieces.len())?;
        for (new, piece) in new.iter_mut().zip(pieces) {
            let bytes = &data[piece.of_request.clone()];
            new.fill(bytes.try_into().expect("a whole piece is a block"));
        }
        self.change_head(end, |state| {
            let known = state.head.fresh();
            for (new, piece) in new.into_iter().zip(pieces) {
                let block = new.publish(self.place(state, piece.index));
                state.head.insert(piece.index, block);
            }
            if let Some(fresh) = fresh {
                state.head.set_fresh(known + fresh);
            }
        })
    }

    /// Makes a range read as zeroes; range and permission were checked.
    pub(crate) fn zero(self: &Arc<Self>, offset: u64, len: u64) -> Result<(), Error> {
        self.zero_range(offset, len, offset + len)
    }

    /// Makes what is cut off or added read as zeroes: a range beyond the size.
    pub(crate) fn zero_beyond(self: &Arc<Self>, offset: u64, len: u64) -> Result<(), Error> {
        self.zero_range(offset, len, 0)
    }

    fn zero_range(self: &Arc<Self>, offset: u64, len: u64, limit: u64) -> Result<(), Error> {
        let block = BLOCK_SIZE as u64;
        let (start, end) = (
            offset.next_multiple_of(block),
            (offset + len) / block * block,
        );
        if start >= end {
            // Within one block, or two that are both touched in part.
            return pieces(offset, len as usize)
                .try_for_each(|piece| self.zero_piece(&piece, limit));
        }
        for (at, len) in [(offset, start - offset), (end, offset + len - end)] {
            pieces(at, len as usize).try_for_each(|piece| self.zero_piece(&piece, limit))?;
        }
        self.zero_blocks(start / block..end / block, limit)
    }

    /// Gives the whole blocks of a range back; the rest stays.
    pub(crate) fn discard(self: &Arc<Self>, offset: u64, len: u64) -> Result<(), Error> {
        let block = BLOCK_SIZE as u64;
        let (start, end) = (offset.div_ceil(block), (offset + len) / block);
        if start < end {
            self.zero_blocks(start..end, offset + len)
        } else {
            Ok(())
        }
    }

    fn zero_blocks(self: &Arc<Self>, blocks: Range<u64>, limit: u64) -> Result<(), Error> {
        self.admit(RANGE_COST, Need::Memory)?;
        let mut spare = self.shared.buffer.take(1)?;
        self.change_head(limit, |state| {
            let place = self.place(state, blocks.start);
            // The note first: what the range hides is given back.
            state
                .head
                .ranges()
                .push(spare.remove(0), place, blocks.end - blocks.start);
            state.head.zero(blocks);
        })
    }

    fn zero_piece(self: &Arc<Self>, piece: &Piece, limit: u64) -> Result<(), Error> {
        self.admit(BLOCK_SIZE as u64, Need::Space)?;
        self.merge(piece, limit, None, |part| part.fill(0))
    }

    /// Changes a part of a block: what it holds otherwise is looked up first, without holding the lock.
    fn merge(
        self: &Arc<Self>,
        piece: &Piece,
        end: u64,
        fresh: Option<u64>,
        change: impl Fn(&mut [u8]),
    ) -> Result<(), Error> {
        let mut new = self.shared.buffer.take(1)?;
        let mut below: Option<(SharedBlock, u64)> = None;
        loop {
            let done = self.change_head(end, |state| {
                let mut block: Block = match (state.head.find(piece.index), &below) {
                    (Found::Block(block), _) => *block.bytes(),
                    (Found::Zero, _) => [0; BLOCK_SIZE],
                    (Found::Absent, Some((block, version))) if *version == state.version => {
                        *block.bytes()
                    }
                    (Found::Absent, _) => return false,
                };
                change(&mut block[piece.within.clone()]);
                let mut new = new.remove(0);
                new.fill(&block);
                let block = new.publish(self.place(state, piece.index));
                let known = state.head.fresh();
                state.head.insert(piece.index, block);
                if let Some(fresh) = fresh {
                    state.head.set_fresh(known + fresh);
                }
                true
            })?;
            if done {
                return Ok(());
            }
            below = Some(self.base_block(piece.index)?);
        }
    }

    /// Where a block of the head is.
    fn place(&self, state: &State, index: u64) -> Place {
        Place {
            volume: self.id,
            generation: state.head.number,
            index: BlockIndex(index),
        }
    }

    /// Waits until the budget and the space allow for `bytes` more.
    fn admit(self: &Arc<Self>, bytes: u64, need: Need) -> Result<(), Error> {
        self.shared.budget.admit(&self.account, bytes, need, self)
    }

    /// Changes the head under the lock, keeps the accounts, and sees to it that it is destaged in time.
    /// Refuses what ends beyond the size: it may have shrunk since the request was checked.
    fn change_head<T>(
        self: &Arc<Self>,
        end: u64,
        change: impl FnOnce(&mut State) -> T,
    ) -> Result<T, Error> {
        let (answer, due) = {
            let mut state = self.state.write();
            state.check_open()?;
            if end > self.size() {
                let message = "beyond the end of the volume, which has shrunk";
                return Err(Error::new(ErrorKind::Invalid, message));
            }
            let before = state.head.cost();
            let answer = change(&mut state);
            let after = state.head.cost();
            self.shared.budget.charge(&self.account, before, after);
            if state.dirty_since.is_none() && !state.head.is_empty() {
                state.dirty_since = Some(self.shared.env.clock.monotonic());
            }
            let due = before < after && after >= self.shared.destage_threshold();
            if due && after >= self.shared.generation_max() {
                // Whoever destages is still at an older one.
                state.freeze();
            }
            (answer, due)
        };
        if due {
            self.wake_destager();
        }
        Ok(answer)
    }
}

#[cfg(test)]
mod tests {
    use crate::{Background, Config, testing};
    use block::Durability;
    use types::BLOCK_SIZE;

    #[test]
    fn the_budget_comes_back_in_small_pieces_however_long_a_destage_takes() {
        let config = Config {
            background: Background::Threads(1),
            ..Config::small()
        };
        let piece = config.dirty_bytes / 8;
        let (_store, device, volume) = testing::volume(config);
        // Nothing is destaged.
        let destaging = volume.destage.lock();
        for block in 0..4 * piece / BLOCK_SIZE as u64 {
            let data = [block as u8 | 1; BLOCK_SIZE];
            let offset = block * BLOCK_SIZE as u64;
            device.write(offset, &data, Durability::Volatile).unwrap();
        }
        let state = volume.state.read();
        assert!(state.frozen.len() >= 3, "{}", state.frozen.len());
        let most = state.layers().map(|layer| layer.cost()).max();
        assert!(most.unwrap() < piece + piece / 4, "{most:?}");
        drop((state, destaging));
    }
}
