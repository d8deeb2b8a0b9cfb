//! Reading blocks and nodes.

use crate::{Error, ErrorKind, LiveBits, PackStore};
use format::{
    Node, frame,
    pack::{FrameEntry, FrameKind, PACK_BLOCKS, PackHeader},
};
use std::{cell::RefCell, sync::Arc};
use types::{BLOCK_SIZE, Block, Pointer};

/// How often a pack is looked at again if it was rewritten while it was read.
const ATTEMPTS: usize = 3;
const READING: &str = "reading";

sync::thread_local! {
    /// A frame as stored, or many of them; and one as it is read.
    pub(crate) static BUFFERS: RefCell<(Vec<u8>, Vec<u8>)> = const { RefCell::new((Vec::new(), Vec::new())) };
}

impl PackStore {
    /// A block. What does not come from the cache is verified.
    ///
    /// # Errors
    /// [`ErrorKind::Damaged`]: it is not what was written, is missing, or was given up.
    pub fn read(&self, p: Pointer) -> Result<Arc<Block>, Error> {
        let mut block = None;
        self.read_with(p, &mut |bytes| block = Some(arc_block(bytes)))?;
        block.ok_or_else(|| Error::new(ErrorKind::Io, READING).at(p))
    }

    /// As [`read`](Self::read): gives the block to `take` instead of keeping a copy.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn read_with(&self, p: Pointer, take: &mut dyn FnMut(&Block)) -> Result<(), Error> {
        match self.read_block(p, true, take)? {
            true => Ok(()),
            false => Err(Error::new(ErrorKind::Io, READING).at(p)),
        }
    }

    /// As [`read_with`](Self::read_with), or `false` if that would wait for storage.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn try_read_with(&self, p: Pointer, take: &mut dyn FnMut(&Block)) -> Result<bool, Error> {
        self.read_block(p, false, take)
    }

    /// What `f` makes of a block if it is in the cache, which waits for it: it should only copy.
    pub fn cached<T>(&self, p: Pointer, f: impl FnOnce(&Block) -> T) -> Option<T> {
        self.blocks.get(p, f)
    }

    /// These are about to be looked for in the cache, one by one. A hint, which makes that faster.
    pub fn expect(&self, pointers: &[Pointer]) {
        self.blocks.expect(pointers);
    }

    /// Keeps a copy of a block in the cache for its pointer.
    pub fn cache_block(&self, p: Pointer, block: &Block) {
        self.blocks.insert(p, block);
    }

    /// A block was written anew elsewhere: its room in the cache is for others, soon if it was read from there, now if
    /// it was not. It can be read as before.
    pub fn supersede_block(&self, p: Pointer) {
        self.blocks.supersede(p);
    }

    /// A node.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn node(&self, p: Pointer) -> Result<Arc<Node>, Error> {
        let node = self.read_node(p, true, true)?;
        node.ok_or_else(|| Error::new(ErrorKind::Io, READING).at(p))
    }

    /// As [`node`](Self::node), or `None` if that would wait for storage.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn try_node(&self, p: Pointer) -> Result<Option<Arc<Node>>, Error> {
        self.read_node(p, false, true)
    }

    /// As [`node`](Self::node), leaving the cache as it is: for walks over everything.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn node_uncached(&self, p: Pointer) -> Result<Arc<Node>, Error> {
        let node = self.read_node(p, true, false)?;
        node.ok_or_else(|| Error::new(ErrorKind::Io, READING).at(p))
    }

    fn read_block(
        &self,
        p: Pointer,
        wait: bool,
        take: &mut dyn FnMut(&Block),
    ) -> Result<bool, Error> {
        if self.blocks.get(p, &mut *take).is_some() {
            return Ok(true);
        }
        let read = self.with_frame(p, FrameKind::Data, wait, |header, entry, stored, plain| {
            plain.resize(entry.plain_len(), 0);
            frame::decompress(entry.codec, stored, plain)?;
            let (blocks, _) = plain.as_chunks::<BLOCK_SIZE>();
            for (ordinal, block) in entry.ordinals().zip(blocks) {
                if header.live.bits.get(ordinal) {
                    self.blocks.insert(Pointer::new(p.pack(), ordinal), block);
                }
            }
            // The frame is that of `p`, and `p` is live.
            let within = usize::from(p.ordinal() - entry.first);
            let wanted = blocks.get(within);
            take(wanted.ok_or(format::Malformed::new("frame", "the block is not in it"))?);
            Ok(())
        })?;
        Ok(read.is_some())
    }

    fn read_node(&self, p: Pointer, wait: bool, keep: bool) -> Result<Option<Arc<Node>>, Error> {
        let cached = if keep {
            self.nodes.get(&p)
        } else {
            self.nodes.peek(&p)
        };
        if let Some(node) = cached.or_else(|| self.unput.read().get(&p).cloned()) {
            return Ok(Some(node));
        }
        let read = self.with_frame(p, FrameKind::Node, wait, |_, entry, stored, _| {
            Node::decode(entry.codec, stored).map(Arc::new)
        })?;
        if let (true, Some(node)) = (keep, &read) {
            self.nodes.insert(p, Arc::clone(node));
        }
        Ok(read)
    }

    /// Calls `f` with the verified frame of a block. If it cannot be had as the cached header says, the pack
    /// may have been rewritten since: then the header is read again.
    fn with_frame<T>(
        &self,
        p: Pointer,
        kind: FrameKind,
        wait: bool,
        mut f: impl FnMut(&PackHeader, &FrameEntry, &[u8], &mut Vec<u8>) -> Result<T, format::Malformed>,
    ) -> Result<Option<T>, Error> {
        if p.is_lost() {
            let why = "it was lost with the node of the block map above it";
            return Err(Error::damaged(READING, why));
        }
        let mut attempt = 1;
        loop {
            let header = self.header(p.pack(), wait).map_err(|error| {
                let error = error.missing_is_damage();
                self.distrust_after(&error, p.pack(), &LiveBits::first(PACK_BLOCKS));
                error.at(p)
            })?;
            let Some(header) = header else {
                return Ok(None);
            };
            let result = BUFFERS.with(|buffers| {
                let (stored, plain) = &mut *buffers.borrow_mut();
                let entry = locate(&header, p, kind)?;
                if !self.stored(&header, p, wait, stored)? {
                    return Ok(None);
                }
                f(&header, entry, stored, plain)
                    .map(Some)
                    .map_err(|why| Error::damaged(READING, "not a sound frame").with_source(why))
            });
            match result {
                Err(error) if attempt < ATTEMPTS && self.was_stale(&header, wait)? => {
                    tracing::debug!(%error, "read again with a newer header");
                    attempt += 1;
                }
                other => {
                    return other.map_err(|error| {
                        let error = error.missing_is_damage();
                        let frame = header.frame_of(p.ordinal());
                        let blocks = frame.map(|(_, entry)| entry.ordinals().collect());
                        self.distrust_after(&error, p.pack(), &blocks.unwrap_or(LiveBits::NONE));
                        error.at(p)
                    });
                }
            }
        }
    }

    /// Reads the frame of a block as stored, and checks it.
    fn stored(
        &self,
        header: &PackHeader,
        p: Pointer,
        wait: bool,
        stored: &mut Vec<u8>,
    ) -> Result<bool, Error> {
        let Some((number, entry)) = header.frame_of(p.ordinal()) else {
            return Err(Error::damaged(READING, "there is no such block"));
        };
        stored.resize(entry.stored_len as usize, 0);
        if !self.fetch(p.pack(), u64::from(entry.offset), stored, wait)? {
            return Ok(false);
        }
        check(header, number, entry, stored).map(|()| true)
    }

    /// Whether a header is not that of the pack any more. If so it is not in the cache any more.
    fn was_stale(&self, header: &PackHeader, wait: bool) -> Result<bool, Error> {
        let fresh = match self.load_header(header.pack, wait) {
            Ok(Some(fresh)) => fresh,
            Ok(None) => return Ok(false),
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(error),
        };
        self.headers.remove(&header.pack);
        Ok(fresh != *header)
    }
}

/// The frame of a live block.
pub(crate) fn locate(
    header: &PackHeader,
    p: Pointer,
    kind: FrameKind,
) -> Result<&FrameEntry, Error> {
    let Some((_, entry)) = header.frame_of(p.ordinal()) else {
        return Err(Error::damaged(READING, "there is no such block"));
    };
    if !header.live.bits.get(p.ordinal()) || entry.stored_len == 0 {
        return Err(Error::damaged(READING, "it was given up"));
    }
    if entry.kind != kind {
        return Err(Error::damaged(
            READING,
            "a node where a block should be, or the reverse",
        ));
    }
    Ok(entry)
}

/// Whether a frame is what was written there.
pub(crate) fn check(
    header: &PackHeader,
    number: u32,
    entry: &FrameEntry,
    stored: &[u8],
) -> Result<(), Error> {
    if frame::checksum(header.pack, number, stored) == entry.crc {
        Ok(())
    } else {
        Err(Error::damaged(READING, "wrong checksum of its frame"))
    }
}

/// One allocation, one copy.
pub(crate) fn arc_block(bytes: &Block) -> Arc<Block> {
    let block: Arc<[u8]> = Arc::from(&bytes[..]);
    block.try_into().expect("a block has the length of a block")
}
