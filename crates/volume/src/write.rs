//! The way of a write: into the head generation, and answered.

use crate::{
    budget::{Need, Waiter},
    error::{Error, ErrorKind},
    read::{Piece, pieces},
    volume::{State, Volume},
};
use std::{ops::Range, sync::Arc, time::Duration};
use types::{BLOCK_SIZE, Block};

/// Blocks that are set under one hold of the lock: readers wait for no more.
const BLOCKS_AT_ONCE: usize = 256;
/// What a zeroed range takes of the budget, about.
const RANGE: u64 = 64;

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
        let mut whole: Vec<(u64, Arc<Block>)> = Vec::with_capacity(data.len() / BLOCK_SIZE);
        for piece in pieces(offset, data.len()) {
            let bytes = &data[piece.of_request.clone()];
            if piece.is_whole() {
                // Copied once, straight to where it stays.
                let block: Arc<[u8]> = Arc::from(bytes);
                let block = block.try_into().expect("a whole piece is a block");
                whole.push((piece.index, block));
            } else {
                self.merge(&piece, end, |part| part.copy_from_slice(bytes))?;
            }
        }
        let mut whole = whole.into_iter();
        while whole.len() > 0 {
            self.change_head(end, |state| {
                for (index, block) in whole.by_ref().take(BLOCKS_AT_ONCE) {
                    state.head.insert(index, block);
                }
            })?;
        }
        Ok(())
    }

    /// Makes a range read as zeroes; range and permission were checked.
    pub(crate) fn zero(self: &Arc<Self>, offset: u64, len: u64) -> Result<(), Error> {
        self.zero_range(offset, len, offset + len)
    }

    /// Makes what was cut off read as zeroes: a range that is beyond the size already.
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
        self.admit(RANGE, Need::Memory)?;
        self.change_head(limit, |state| state.head.zero(blocks))
    }

    fn zero_piece(self: &Arc<Self>, piece: &Piece, limit: u64) -> Result<(), Error> {
        self.admit(BLOCK_SIZE as u64, Need::Space)?;
        self.merge(piece, limit, |part| part.fill(0))
    }

    /// Changes a part of a block: what it holds otherwise is looked up first, without holding the lock.
    fn merge(
        self: &Arc<Self>,
        piece: &Piece,
        end: u64,
        change: impl Fn(&mut [u8]),
    ) -> Result<(), Error> {
        let part = |block: &mut Block| change(&mut block[piece.within.clone()]);
        if self.change_head(end, |state| state.head.modify(piece.index, part))? {
            return Ok(());
        }
        loop {
            let (base, version) = self.base_block(piece.index)?;
            let mut block = base;
            part(Arc::make_mut(&mut block));
            let done = self.change_head(end, |state| {
                if state.head.modify(piece.index, part) {
                    return true;
                }
                let same = state.version == version;
                if same {
                    state.head.insert(piece.index, Arc::clone(&block));
                }
                same
            })?;
            if done {
                return Ok(());
            }
        }
    }

    /// Waits until the budget and the space allow for `bytes` more.
    fn admit(self: &Arc<Self>, bytes: u64, need: Need) -> Result<(), Error> {
        self.shared.budget.admit(bytes, need, self)
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
            self.shared.budget.charge(before, after);
            if state.dirty_since.is_none() && !state.head.is_empty() {
                state.dirty_since = Some(self.shared.env.clock.monotonic());
            }
            let threshold = self.shared.destage_threshold();
            (answer, after >= threshold && before < after)
        };
        if due {
            self.wake_destager();
        }
        Ok(answer)
    }
}
