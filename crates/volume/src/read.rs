//! The way of a read: head, frozen generations, block map, packs.

use crate::{
    error::Error,
    layer::Found,
    nodes::{Nodes, NodesNow, NotNow},
    store::Shared,
    volume::{Base, State, Volume},
};
use std::{ops::Range, sync::Arc};
use sync::bring_near;
use types::{BLOCK_SIZE, Block, BlockIndex, Pointer, SharedBlock};

/// Requests of at most so many blocks …
const SHORT: usize = 32;
/// … may have so many of them decompressed by [`Volume::try_read`], on the caller's thread; others go where they are read in
/// one piece.
const INLINE_MISSES_MAX: usize = 8;

/// The part of one block that a request covers.
pub(crate) struct Piece {
    pub(crate) index: u64,
    /// Bytes of the block.
    pub(crate) within: Range<usize>,
    /// The same bytes of the request.
    pub(crate) of_request: Range<usize>,
}

impl Piece {
    pub(crate) fn is_whole(&self) -> bool {
        self.within.len() == BLOCK_SIZE
    }
}

/// Cuts a request into the blocks that it touches.
pub(crate) fn pieces(offset: u64, len: usize) -> impl Iterator<Item = Piece> {
    let mut at = 0;
    std::iter::from_fn(move || {
        if at >= len {
            return None;
        }
        let position = offset + at as u64;
        let start = (position % BLOCK_SIZE as u64) as usize;
        let take = (BLOCK_SIZE - start).min(len - at);
        let piece = Piece {
            index: position / BLOCK_SIZE as u64,
            within: start..start + take,
            of_request: at..at + take,
        };
        at += take;
        Some(piece)
    })
}

/// Fills what the layers know; answers what is below them and the pieces that are still missing.
fn fill_from_layers(state: &State, offset: u64, buf: &mut [u8]) -> (Base, Vec<Piece>) {
    let mut missing = Vec::new();
    'pieces: for piece in pieces(offset, buf.len()) {
        for layer in state.layers() {
            let out = &mut buf[piece.of_request.clone()];
            match layer.find(piece.index) {
                Found::Block(block) => out.copy_from_slice(&block[piece.within.clone()]),
                Found::Zero => out.fill(0),
                Found::Absent => continue,
            }
            continue 'pieces;
        }
        missing.push(piece);
    }
    (state.base.clone(), missing)
}

impl Volume {
    /// Fills `buf` from `offset`; the range was checked.
    pub(crate) fn read(&self, offset: u64, buf: &mut [u8]) -> Result<(), Error> {
        let _pass = self.shared.gate.enter();
        let (base, missing) = {
            let state = self.state.read();
            state.check_open()?;
            fill_from_layers(&state, offset, buf)
        };
        self.shared.read_pieces(&base, &missing, buf)
    }

    /// As [`read`](Self::read) if that needs no waiting.
    pub(crate) fn try_read(&self, offset: u64, buf: &mut [u8]) -> Result<bool, Error> {
        let _pass = self.shared.gate.enter();
        let (base, missing) = {
            let state = self.state.read();
            state.check_open()?;
            fill_from_layers(&state, offset, buf)
        };
        self.shared.try_read_pieces(&base, &missing, buf)
    }

    /// Reads at these offsets are about to be tried.
    pub(crate) fn expect(&self, offsets: &[u64]) {
        let _pass = self.shared.gate.enter();
        let base = self.state.read().base.clone();
        self.shared.expect(&base, offsets);
    }

    /// A block as the layers and what is below them say, and the state's version at that time.
    pub(crate) fn base_block(&self, index: u64) -> Result<(SharedBlock, u64), Error> {
        let _pass = self.shared.gate.enter();
        let (base, version) = {
            let state = self.state.read();
            for layer in state.layers() {
                match layer.find(index) {
                    Found::Block(block) => return Ok((Arc::clone(block), state.version)),
                    Found::Zero => return Ok((Arc::new([0; BLOCK_SIZE]), state.version)),
                    Found::Absent => {}
                }
            }
            (state.base.clone(), state.version)
        };
        Ok((self.shared.stored_block(&base, index)?, version))
    }
}

impl Shared {
    /// Fills pieces of `buf` from what `base` has.
    pub(crate) fn read_pieces(
        &self,
        base: &Base,
        missing: &[Piece],
        buf: &mut [u8],
    ) -> Result<(), Error> {
        let mut rest = missing;
        while let Some(first) = rest.first() {
            let run = run_length(rest);
            let (now, later) = rest.split_at(run);
            rest = later;
            if run > 1 {
                let out = now[0].of_request.start..now[run - 1].of_request.end;
                if self.read_run(base, first.index, &mut buf[out]).is_ok() {
                    continue;
                }
            }
            // One by one: that tells which one it is that cannot be read.
            for piece in now {
                self.read_piece(base, piece, &mut buf[piece.of_request.clone()])?;
            }
        }
        Ok(())
    }

    /// Whole blocks that follow each other, from `first` on.
    fn read_run(&self, base: &Base, first: u64, out: &mut [u8]) -> Result<(), Error> {
        let mut pointers = vec![Pointer::HOLE; out.len() / BLOCK_SIZE];
        let nodes = Nodes(&self.packs);
        blockmap::lookup_run(&nodes, base.root, BlockIndex(first), &mut pointers)?;
        self.packs.read_run(&pointers, out)?;
        match &base.below {
            None => Ok(()),
            Some(below) => below.fill_holes(first, &pointers, out),
        }
    }

    fn read_piece(&self, base: &Base, piece: &Piece, out: &mut [u8]) -> Result<(), Error> {
        let mut read = || {
            match blockmap::lookup(&Nodes(&self.packs), base.root, BlockIndex(piece.index))? {
                Pointer::HOLE => match &base.below {
                    None => out.fill(0),
                    Some(below) => below.read(piece.index, piece.within.start, out)?,
                },
                pointer => self.packs.read_with(pointer, &mut |block| {
                    out.copy_from_slice(&block[piece.within.clone()]);
                })?,
            }
            Ok(())
        };
        read().map_err(|e: Error| e.at_block(piece.index))
    }

    /// The block that `base` has at `index`.
    fn stored_block(&self, base: &Base, index: u64) -> Result<Arc<Block>, Error> {
        let mut block = [0; BLOCK_SIZE];
        let whole = Piece {
            index,
            within: 0..BLOCK_SIZE,
            of_request: 0..BLOCK_SIZE,
        };
        self.read_piece(base, &whole, &mut block)?;
        Ok(Arc::new(block))
    }

    /// Brings near what reads of what `base` has at these offsets will look at. Whatever is wrong, they will say.
    pub(crate) fn expect(&self, base: &Base, offsets: &[u64]) {
        let place = |offset: &u64| {
            let index = BlockIndex(offset / BLOCK_SIZE as u64);
            let leaf = blockmap::leaf(&NodesNow(&self.packs), base.root, index).ok()??;
            let slot = (index.0 % blockmap::FANOUT as u64) as usize;
            bring_near(&leaf.as_slice()[slot]);
            Some((leaf, slot))
        };
        let places: Vec<_> = offsets.iter().filter_map(place).collect();
        let pointers: Vec<_> = places.iter().map(|(leaf, slot)| leaf.get(*slot)).collect();
        self.packs.expect(&pointers);
    }

    /// As [`read_pieces`](Self::read_pieces) if that needs no waiting.
    pub(crate) fn try_read_pieces(
        &self,
        base: &Base,
        missing: &[Piece],
        buf: &mut [u8],
    ) -> Result<bool, Error> {
        let mut leaf: Option<(u64, Option<Arc<format::Node>>)> = None;
        let mut misses_left = if missing.len() > SHORT {
            0
        } else {
            INLINE_MISSES_MAX
        };
        for piece in missing {
            let number = piece.index / blockmap::FANOUT as u64;
            if leaf.as_ref().is_none_or(|&(known, _)| known != number) {
                match blockmap::leaf(&NodesNow(&self.packs), base.root, BlockIndex(piece.index)) {
                    Ok(node) => leaf = Some((number, node)),
                    Err(e) => {
                        let waits = would_wait(e).map(|()| false);
                        return waits.map_err(|e| e.at_block(piece.index));
                    }
                }
            }
            let slot = (piece.index % blockmap::FANOUT as u64) as usize;
            let node = leaf.as_ref().and_then(|(_, node)| node.as_ref());
            let pointer = node.map_or(Pointer::HOLE, |node| node.get(slot));
            let out = &mut buf[piece.of_request.clone()];
            if pointer.is_hole() {
                let below = base.below.as_ref();
                if below.is_some_and(|below| below.has(piece.index)) {
                    return Ok(false);
                }
                out.fill(0);
                continue;
            }
            let mut copy = |block: &Block| out.copy_from_slice(&block[piece.within.clone()]);
            if self.packs.cached(pointer, &mut copy).is_some() {
                continue;
            }
            if misses_left == 0 {
                return Ok(false);
            }
            misses_left -= 1;
            let read = self.packs.try_read_with(pointer, &mut copy);
            if !read.map_err(|e| Error::from(e).at_block(piece.index))? {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

fn would_wait(error: blockmap::Error<NotNow>) -> Result<(), Error> {
    match error {
        blockmap::Error::Read {
            source: NotNow::WouldWait,
            ..
        } => Ok(()),
        blockmap::Error::Read {
            pointer,
            source: NotNow::Failed(source),
        } => Err(blockmap::Error::Read { pointer, source }.into()),
        blockmap::Error::Height(root) => Err(blockmap::Error::Height(root).into()),
        other => Err(Error::new(
            crate::ErrorKind::Damaged,
            format!("block map: {other:?}"),
        )),
    }
}

/// How many pieces from the first are whole neighbouring blocks; 1 if the first is not whole.
fn run_length(pieces: &[Piece]) -> usize {
    let Some(first) = pieces.first().filter(|piece| piece.is_whole()) else {
        return 1;
    };
    let neighbours =
        |(at, piece): &(usize, &Piece)| piece.is_whole() && piece.index == first.index + *at as u64;
    pieces.iter().enumerate().take_while(neighbours).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_cut_at_blocks() {
        let all = |offset, len| {
            pieces(offset, len)
                .map(|p| (p.index, p.within, p.of_request))
                .collect::<Vec<_>>()
        };
        assert_eq!(all(4096, 4096), [(1, 0..4096, 0..4096)]);
        assert_eq!(
            all(4000, 200),
            [(0, 4000..4096, 0..96), (1, 0..104, 96..200)]
        );
        assert_eq!(all(10, 0), []);
    }

    #[test]
    fn runs_are_whole_neighbours() {
        let of = |offset, len| run_length(&pieces(offset, len).collect::<Vec<_>>());
        assert_eq!(of(0, 12288), 3);
        assert_eq!(of(512, 12288), 1);
        assert_eq!(of(0, 8192 + 512), 2);
        let mut gap: Vec<Piece> = pieces(0, 12288).collect();
        gap.remove(1);
        assert_eq!(run_length(&gap), 1);
    }
}
