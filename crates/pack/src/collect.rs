//! Giving up what nobody needs. The protocol is in the module `pins`.

use crate::{
    Error, ErrorKind, LiveBits, PackStore,
    build::{UNHASHED, without_dead},
    read::check,
};
use format::{
    block_hash, frame,
    pack::{FrameEntry, FrameKind, NewFrame, NewPack, PAGE, PackHeader},
};
use std::{ops::Range, sync::Arc};
use sync::thread::make_way;
use types::{BLOCK_SIZE, BlockHash, Codec, PackId};

const GIVING_UP: &str = "giving up blocks";
/// Bytes of a pack that are read before others are let by.
const READ_AT_ONCE: usize = 256 << 10;

/// How the space of blocks given up comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// Holes where whole pages of frames are dead. Cheap; needs a file system.
    Punch,
    /// A new object under the same id, its ordinals unchanged.
    Rewrite,
    /// No object. Where something turns out to be pinned, [`How::Punch`] instead.
    Drop,
}

/// A collection that is under way. One at a time; dropping it ends it.
pub struct Collection {
    pub(crate) store: Arc<PackStore>,
    limit: PackId,
}

impl PackStore {
    /// Begins a collection: what is referred to again from now on stays. Read the roots after this.
    ///
    /// # Errors
    /// [`ErrorKind::Busy`] if one is running; those of reserving ids.
    pub fn begin_collection(self: &Arc<Self>) -> Result<Collection, Error> {
        let next = self.ids.next()?;
        let limit = self.pins.begin(next);
        Ok(Collection {
            store: Arc::clone(self),
            limit: limit.ok_or(Error::new(ErrorKind::Busy, "beginning a collection"))?,
        })
    }

    fn forget_header(&self, pack: PackId) {
        self.headers.remove(&pack);
        self.hashes.remove(&pack);
    }
}

impl Drop for Collection {
    fn drop(&mut self) {
        self.store.pins.end();
    }
}

/// Ends the giving-up of a pack, however it went.
struct Dying<'a> {
    store: &'a PackStore,
    pack: PackId,
}

impl Drop for Dying<'_> {
    fn drop(&mut self) {
        let (store, pack) = (self.store, self.pack);
        store.pins.died(pack, || store.forget_header(pack));
    }
}

impl Collection {
    /// Packs from this on are not to be considered: writers may be at work on them.
    #[must_use]
    pub fn limit(&self) -> PackId {
        self.limit
    }

    /// Gives up all blocks of `pack` that are neither in `live` nor were referred to since the collection began.
    /// Answers how many bytes that freed, about.
    ///
    /// # Behavior
    /// What is given up reads as damaged from the beginning of this call on. With [`How::Punch`] it is durable
    /// when this returns; otherwise with the next sync of the brick, before which a crash brings back the
    /// pack as it was, whole.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`], [`ErrorKind::Damaged`] if the header (or, to rewrite, a frame) is not sound: nothing
    /// was given up then. [`ErrorKind::Busy`] if this pack is being given up by another call. Those of the brick.
    ///
    /// # Panics
    /// If `pack` is not below the [`limit`](Self::limit).
    pub fn give_up(&self, pack: PackId, live: &LiveBits, how: How) -> Result<u64, Error> {
        assert!(pack < self.limit, "pack {pack} is not to be considered");
        let store = &*self.store;
        let lookup = store.pins.lookup();
        let Some(header) = store.load_header(pack, true)? else {
            return Err(Error::new(ErrorKind::Io, GIVING_UP).of_pack(pack));
        };
        if how == How::Rewrite && !live.is_empty() {
            // Damage is found before anything is declared dead.
            store.read_payload(&header)?;
        }
        let forget = || store.forget_header(pack);
        let stays = store
            .pins
            .die(&lookup, pack, live, &header.live.bits, forget)
            .ok_or(Error::new(ErrorKind::Busy, GIVING_UP).of_pack(pack))?;
        let _dying = Dying { store, pack };
        match how {
            How::Drop if stays.is_empty() => store.drop_pack(&header),
            How::Rewrite => store.rewrite(&header, &stays),
            How::Punch | How::Drop => store.punch(&header, &stays),
        }
    }
}

impl PackStore {
    fn drop_pack(&self, header: &PackHeader) -> Result<u64, Error> {
        self.distrust.forget(header.pack);
        let removed = self.brick.remove(self.epoch, header.pack);
        removed.map_err(|e| Error::brick(GIVING_UP, e).of_pack(header.pack))?;
        let kept: u64 = dead_ranges(header, &header.live.bits)
            .iter()
            .map(inner)
            .sum();
        Ok(header.payload.end.next_multiple_of(PAGE as u64) - kept)
    }

    fn punch(&self, header: &PackHeader, stays: &LiveBits) -> Result<u64, Error> {
        if *stays == header.live.bits && !header.live.doubtful {
            return Ok(0);
        }
        let (at, mark) = header.live.next_mark(header.pack, stays);
        let holes = dead_ranges(header, stays);
        let before: u64 = dead_ranges(header, &header.live.bits)
            .iter()
            .map(inner)
            .sum();
        let after: u64 = holes.iter().map(inner).sum();
        self.brick
            .trim(self.epoch, header.pack, (at, &mark), &holes)
            .map_err(|e| Error::brick(GIVING_UP, e).of_pack(header.pack))?;
        Ok(after.saturating_sub(before))
    }

    fn rewrite(&self, header: &PackHeader, stays: &LiveBits) -> Result<u64, Error> {
        let payload = self.read_payload(header)?;
        let mut frames = Vec::with_capacity(header.frames.len());
        for entry in &header.frames {
            make_way();
            frames.push(rewritten(header, entry, &payload, stays)?);
        }
        let mut hashes = match self.read_hashes(header) {
            Err(error) if error.kind() == ErrorKind::Damaged => {
                self.hash_again(header, &payload)?
            }
            other => other?.to_vec(),
        };
        for (ordinal, hash) in (0_u16..).zip(&mut hashes) {
            if !stays.get(ordinal) {
                *hash = UNHASHED;
            }
        }
        let mut page = vec![0; PAGE];
        self.fetch(header.pack, 0, &mut page, true)?;
        let note = format::note::raw(&page, header.pack, self.id).map_err(|why| {
            let damaged = Error::damaged(GIVING_UP, "not a sound header");
            damaged.with_source(why).of_pack(header.pack)
        })?;
        let pack = NewPack {
            pack: header.pack,
            store: self.id,
            revision: header.live.revision.saturating_add(1),
            hashes: &hashes,
            live: Some(*stays),
            note,
        };
        let mut object = self.objects.take();
        object.set(|room| {
            pack.assemble_into(room, frames.len(), |number, place| {
                frames[number].copy_to(place)
            })
        });
        self.brick
            .put(self.epoch, header.pack, object.bytes())
            .map_err(|e| Error::brick(GIVING_UP, e).of_pack(header.pack))?;
        let punched: u64 = dead_ranges(header, &header.live.bits)
            .iter()
            .map(inner)
            .sum();
        let before = header.payload.end.next_multiple_of(PAGE as u64) - punched;
        let after = object.bytes().len() as u64;
        self.objects.give(object);
        Ok(before.saturating_sub(after))
    }

    /// What the hashes of the live blocks should be.
    fn hash_again(&self, header: &PackHeader, payload: &[u8]) -> Result<Vec<BlockHash>, Error> {
        let mut hashes = vec![UNHASHED; usize::from(header.blocks)];
        let data = header.frames.iter();
        let data = data.filter(|entry| entry.kind == FrameKind::Data);
        for entry in data.filter(|entry| !is_dead(entry, &header.live.bits)) {
            let mut plain = vec![0; entry.plain_len()];
            frame::decompress(entry.codec, &payload[within(header, entry)], &mut plain)
                .map_err(|why| Error::damaged(GIVING_UP, "not a sound frame").with_source(why))?;
            let (blocks, _) = plain.as_chunks::<BLOCK_SIZE>();
            for (ordinal, block) in entry.ordinals().zip(blocks) {
                if header.live.bits.get(ordinal) {
                    hashes[usize::from(ordinal)] = block_hash(&self.hash_key, block);
                }
            }
        }
        Ok(hashes)
    }

    /// All frames, those with live blocks verified.
    fn read_payload(&self, header: &PackHeader) -> Result<Vec<u8>, Error> {
        let mut payload = vec![0; (header.payload.end - header.payload.start) as usize];
        let mut at = header.payload.start;
        for piece in payload.chunks_mut(READ_AT_ONCE) {
            make_way();
            self.fetch(header.pack, at, piece, true)?;
            at += piece.len() as u64;
        }
        for (number, entry) in (0..).zip(&header.frames) {
            if !is_dead(entry, &header.live.bits) {
                let stored = &payload[within(header, entry)];
                check(header, number, entry, stored).map_err(|e| e.of_pack(header.pack))?;
            }
        }
        Ok(payload)
    }
}

fn within(header: &PackHeader, entry: &FrameEntry) -> Range<usize> {
    let range = entry.range();
    (range.start - header.payload.start) as usize..(range.end - header.payload.start) as usize
}

/// Whether no block of a frame is in `live`.
pub(crate) fn is_dead(entry: &FrameEntry, live: &LiveBits) -> bool {
    entry.stored_len == 0 || !entry.ordinals().any(|ordinal| live.get(ordinal))
}

/// Bytes of frames of which no block stays; neighbours together.
fn dead_ranges(header: &PackHeader, stays: &LiveBits) -> Vec<Range<u64>> {
    let mut ranges: Vec<Range<u64>> = Vec::new();
    for entry in header.frames.iter().filter(|entry| is_dead(entry, stays)) {
        match ranges.last_mut() {
            Some(last) if last.end == entry.range().start => last.end = entry.range().end,
            _ => ranges.push(entry.range()),
        }
    }
    ranges
}

/// Bytes of the whole pages in a range: what punching frees.
fn inner(range: &Range<u64>) -> u64 {
    let page = PAGE as u64;
    (range.end / page * page).saturating_sub(range.start.next_multiple_of(page))
}

/// A frame as it is, without its dead blocks, or empty.
fn rewritten(
    header: &PackHeader,
    entry: &FrameEntry,
    payload: &[u8],
    stays: &LiveBits,
) -> Result<NewFrame, Error> {
    let stored = &payload[within(header, entry)];
    let as_it_is = |stored: &[u8]| NewFrame {
        kind: entry.kind,
        blocks: entry.blocks,
        codec: entry.codec,
        stored: stored.to_vec(),
    };
    if is_dead(entry, stays) {
        return Ok(as_it_is(&[]));
    }
    let dies = |ordinal| header.live.bits.get(ordinal) && !stays.get(ordinal);
    if entry.kind == FrameKind::Node || !entry.ordinals().any(dies) {
        return Ok(as_it_is(stored));
    }
    let mut plain = vec![0; entry.plain_len()];
    frame::decompress(entry.codec, stored, &mut plain)
        .map_err(|why| Error::damaged(GIVING_UP, "not a sound frame").with_source(why))?;
    without_dead(&mut plain, |i| stays.get(entry.first + i as u16));
    // Zeroes compress, even where nothing did.
    let codec = match entry.codec {
        Codec::None => Codec::Lz4,
        other => other,
    };
    let (codec, stored) = frame::compress(codec, &plain);
    Ok(NewFrame {
        kind: entry.kind,
        blocks: entry.blocks,
        codec,
        stored,
    })
}
