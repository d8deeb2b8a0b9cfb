//! Reading many blocks at once.

use crate::{
    Error, PackStore,
    read::{BUFFERS, check, locate},
};
use format::{
    frame,
    pack::{FrameEntry, FrameKind, PackHeader},
};
use types::{BLOCK_SIZE, Pointer};

/// Runs longer than this leave the block cache as it is: who reads so much at once rarely comes back,
/// and what comes back is in the page cache. What guests read ahead is not more.
const CACHED_RUN_MAX: usize = 32;
/// One read of the brick is at most this, and skips at most this much that is not wanted.
const READ_MAX: u64 = 1 << 20;
const GAP_MAX: u64 = 16 << 10;

/// A block to be read: its pointer, and its place in the output.
type Wanted = (Pointer, usize);

impl PackStore {
    /// Reads the blocks of `pointers` into `out`; holes are zeroes.
    ///
    /// # Behavior
    /// Frames are decompressed once, and neighbouring frames of a pack read at once.
    ///
    /// # Panics
    /// If `out` is not 4096 bytes for each pointer.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn read_run(&self, pointers: &[Pointer], out: &mut [u8]) -> Result<(), Error> {
        assert_eq!(
            out.len(),
            pointers.len() * BLOCK_SIZE,
            "a block for each pointer"
        );
        let mut wanted: Vec<Wanted> = Vec::new();
        let (blocks, _) = out.as_chunks_mut::<BLOCK_SIZE>();
        for (i, (&p, block)) in pointers.iter().zip(blocks).enumerate() {
            if p.is_hole() {
                block.fill(0);
            } else if self.blocks.get(p, |cached| *block = *cached).is_none() {
                wanted.push((p, i));
            }
        }
        wanted.sort_unstable();
        let keep = pointers.len() <= CACHED_RUN_MAX;
        for of_pack in wanted.chunk_by(|a, b| a.0.pack() == b.0.pack()) {
            self.read_from_pack(of_pack, out, keep)?;
        }
        Ok(())
    }

    fn read_from_pack(&self, wanted: &[Wanted], out: &mut [u8], keep: bool) -> Result<(), Error> {
        let pack = wanted[0].0.pack();
        // Without a header each block tells what is wrong.
        let header = self.header(pack, true).unwrap_or_default();
        let spans = header.as_deref().and_then(|header| spans(header, wanted));
        for span in spans.unwrap_or_else(|| vec![wanted]) {
            let done = header
                .as_deref()
                .is_some_and(|header| self.read_span(header, span, out, keep).is_ok());
            if done {
                continue;
            }
            // One by one: tells which one is damaged, and copes with packs rewritten meanwhile.
            for &(p, i) in span {
                let out = &mut out[i * BLOCK_SIZE..(i + 1) * BLOCK_SIZE];
                self.read_with(p, &mut |block| out.copy_from_slice(block))?;
            }
        }
        Ok(())
    }

    /// One read of the brick.
    fn read_span(
        &self,
        header: &PackHeader,
        span: &[Wanted],
        out: &mut [u8],
        keep: bool,
    ) -> Result<(), Error> {
        let range = range_of(header, span).ok_or(Error::damaged("reading", "no such block"))?;
        BUFFERS.with(|buffers| {
            let (stored, plain) = &mut *buffers.borrow_mut();
            let len = (range.end - range.start) as usize;
            if stored.len() < len {
                stored.resize(len, 0);
            }
            self.fetch(header.pack, range.start, &mut stored[..len], true)?;
            let mut rest = span;
            while let Some((number, entry)) = first_frame(header, rest) {
                let inside = |wanted: &&Wanted| wanted.0.ordinal() < entry.ordinals().end;
                let (of_frame, later) = rest.split_at(rest.iter().take_while(inside).count());
                rest = later;
                for (p, _) in of_frame {
                    locate(header, *p, FrameKind::Data)?;
                }
                let at = (entry.range().start - range.start) as usize;
                let bytes = &stored[at..at + entry.stored_len as usize];
                check(header, number, entry, bytes)?;
                decompress(entry, bytes, of_frame, plain, out)
                    .map_err(|why| Error::damaged("reading", UNSOUND).with_source(why))?;
            }
            Ok::<_, Error>(())
        })?;
        if keep {
            for &(p, i) in span {
                let (blocks, _) = out.as_chunks::<BLOCK_SIZE>();
                self.blocks.insert(p, &blocks[i]);
            }
        }
        Ok(())
    }
}

const UNSOUND: &str = "not a sound frame";

/// Brings blocks of one frame to their places: with no copy between if they are all of it, and follow each other.
fn decompress(
    entry: &FrameEntry,
    stored: &[u8],
    wanted: &[Wanted],
    plain: &mut Vec<u8>,
    out: &mut [u8],
) -> Result<(), format::Malformed> {
    let first = wanted[0].1;
    let in_order = |(n, wanted): (usize, &Wanted)| {
        usize::from(wanted.0.ordinal() - entry.first) == n && wanted.1 == first + n
    };
    if wanted.len() == usize::from(entry.blocks) && wanted.iter().enumerate().all(in_order) {
        let out = &mut out[first * BLOCK_SIZE..][..entry.plain_len()];
        return frame::decompress(entry.codec, stored, out);
    }
    plain.resize(entry.plain_len(), 0);
    frame::decompress(entry.codec, stored, plain)?;
    let (blocks, _) = plain.as_chunks::<BLOCK_SIZE>();
    let (places, _) = out.as_chunks_mut::<BLOCK_SIZE>();
    for &(p, i) in wanted {
        places[i] = blocks[usize::from(p.ordinal() - entry.first)];
    }
    Ok(())
}

/// The frame of the first block of `span`, with its number.
fn first_frame<'a>(header: &'a PackHeader, span: &[Wanted]) -> Option<(u32, &'a FrameEntry)> {
    header.frame_of(span.first()?.0.ordinal())
}

/// From the first frame to the last.
fn range_of(header: &PackHeader, span: &[Wanted]) -> Option<std::ops::Range<u64>> {
    let (_, first) = header.frame_of(span.first()?.0.ordinal())?;
    let (_, last) = header.frame_of(span.last()?.0.ordinal())?;
    Some(first.range().start..last.range().end)
}

/// Cuts into parts that one read each is good for. `None` if a block does not exist.
fn spans<'a>(header: &PackHeader, wanted: &'a [Wanted]) -> Option<Vec<&'a [Wanted]>> {
    let mut spans = Vec::new();
    let mut begin = 0;
    let mut last = range_of(header, &wanted[..1])?;
    let mut start = last.start;
    for i in 1..wanted.len() {
        let range = range_of(header, &wanted[i..=i])?;
        if range.start > last.end + GAP_MAX || range.end > start + READ_MAX {
            spans.push(&wanted[begin..i]);
            (begin, start) = (i, range.start);
        }
        last = range;
    }
    spans.push(&wanted[begin..]);
    Some(spans)
}
