//! Writing: blocks and nodes become packs.

use crate::{
    Error, MIN_RUN, PackStore,
    build::{Built, Open, UNHASHED},
    worth_taking,
};
use format::{Node, RootNote, block_hashes, pack::PACK_BLOCKS};
use rayon::prelude::*;
use rustc_hash::FxHashMap;
use std::{
    collections::{VecDeque, hash_map::Entry},
    sync::{Arc, mpsc},
};
use sync::thread::make_way;
use types::{BlockHash, Codec, PackId, Pointer, SharedBlock};

/// Full packs are compressed and put when there are so many, and at the end of each call.
const PUT_TOGETHER: usize = 16;
/// Blocks that are hashed before others are let by; fewer are hashed where we are.
const HASHED_AT_ONCE: usize = 64;

/// What was written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WriteStats {
    /// Blocks asked for.
    pub blocks_in: u64,
    /// Of these, those that were there already.
    pub blocks_deduped: u64,
    /// Bytes of the objects put.
    pub bytes_stored: u64,
    /// Objects put.
    pub packs: u64,
    /// Nodes.
    pub nodes: u64,
}

/// Protects packs and hits from collection while it lives.
struct Registration {
    store: Arc<PackStore>,
    id: u64,
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.store.pins.unregister(self.id);
    }
}

/// Writes the blocks and nodes of one destage. Nothing is durable before [`finish`](Self::finish).
///
/// Blocks go to packs of up to 1024, in the order given, four to a frame. Nodes go to the same pack if it is
/// the first, so that a small destage is one object, and to packs of their own otherwise, so that walking
/// over a map reads few objects.
pub struct PackWriter {
    registration: Arc<Registration>,
    codec: Codec,
    dedup: bool,
    data: Option<Open>,
    nodes: Option<Open>,
    full: Vec<Open>,
    /// Whether packs besides the open one were begun for blocks.
    many: bool,
    mine: FxHashMap<BlockHash, Pointer>,
    note: Vec<u8>,
    stats: WriteStats,
}

/// What a [`PackWriter`] wrote, durable. Drop it after the root that uses it is committed.
pub struct Written {
    /// How much.
    pub stats: WriteStats,
    _registration: Arc<Registration>,
}

impl PackWriter {
    pub(crate) fn new(store: &Arc<PackStore>, codec: Codec, dedup: bool) -> Self {
        PackWriter {
            registration: Arc::new(Registration {
                store: Arc::clone(store),
                id: store.pins.register(),
            }),
            codec,
            dedup,
            data: None,
            nodes: None,
            full: Vec::new(),
            many: false,
            mine: FxHashMap::default(),
            note: Vec::new(),
            stats: WriteStats::default(),
        }
    }

    /// Writes blocks that follow each other in a volume, none of them zero. Answers their pointers, in order;
    /// they can be read when the writer is finished.
    ///
    /// # Errors
    /// Those of the brick, and of reserving ids. The writer is of no use afterwards: drop it.
    pub fn write_blocks(&mut self, blocks: &[SharedBlock]) -> Result<Vec<Pointer>, Error> {
        let indexes: Vec<u64> = (0..).take(blocks.len()).collect();
        self.write_scattered(&indexes, blocks)
    }

    /// As [`write_blocks`](Self::write_blocks), of blocks that are at `indexes` of a volume, in ascending order. Only what
    /// follows each other there shares a frame: nobody who reads the one wants the other.
    ///
    /// # Errors
    /// As [`write_blocks`](Self::write_blocks).
    pub fn write_scattered(
        &mut self,
        indexes: &[u64],
        blocks: &[SharedBlock],
    ) -> Result<Vec<Pointer>, Error> {
        let mut pointers = Vec::with_capacity(blocks.len());
        self.stats.blocks_in += blocks.len() as u64;
        let segments = indexes.chunks(PACK_BLOCKS).zip(blocks.chunks(PACK_BLOCKS));
        for (indexes, segment) in segments {
            if self.dedup {
                self.write_deduplicated(indexes, segment, &mut pointers)?;
            } else {
                for (index, block) in indexes.iter().zip(segment) {
                    pointers.push(self.store_block(*index, block, UNHASHED)?);
                }
            }
            if self.full.len() >= PUT_TOGETHER {
                self.put_full()?;
            }
        }
        self.put_full()?;
        Ok(pointers)
    }

    /// Bytes of all that was written and is not a duplicate: compressed, but for what does not fill a pack yet.
    #[must_use]
    pub fn stored(&self) -> u64 {
        let open = [&self.data, &self.nodes].into_iter().flatten();
        self.stats.bytes_stored + open.map(Open::bytes).sum::<u64>()
    }

    /// Writes a node; it can be read at once.
    ///
    /// # Errors
    /// As [`write_blocks`](Self::write_blocks).
    pub fn write_node(&mut self, node: &Node) -> Result<Pointer, Error> {
        let with_data = !self.many && self.nodes.is_none();
        let place = match &mut self.data {
            Some(data) if with_data && !data.is_full() => data,
            _ => {
                self.retire_nodes();
                if self.nodes.is_none() {
                    self.nodes = Some(Open::new(self.take_id()?));
                }
                self.nodes.as_mut().expect("opened just now")
            }
        };
        make_way();
        let pointer = place.node(node);
        let node = Arc::new(node.clone());
        let store = &self.registration.store;
        store.unput.write().insert(pointer, Arc::clone(&node));
        store.nodes.insert(pointer, node);
        self.stats.nodes += 1;
        if self.full.len() >= PUT_TOGETHER {
            self.put_full()?;
        }
        Ok(pointer)
    }

    /// What is to be known of the root that all this leads to, should the catalog be lost. It goes into the last
    /// pack, whose nodes or data it is about, or into one of its own.
    pub fn note(&mut self, note: &RootNote) {
        self.note = note.encode();
    }

    /// Puts what is left and makes everything durable, also what others put that this refers to.
    ///
    /// # Errors
    /// As [`write_blocks`](Self::write_blocks).
    pub fn finish(mut self) -> Result<Written, Error> {
        let note = std::mem::take(&mut self.note);
        if !note.is_empty() {
            if self.nodes.is_none() && self.data.is_none() {
                self.nodes = Some(Open::new(self.take_id()?));
            }
            let last = self.nodes.as_mut().or(self.data.as_mut());
            last.expect("opened just now").note = note;
        }
        let left = [self.data.take(), self.nodes.take()];
        self.full.extend(left.into_iter().flatten());
        self.put_full()?;
        let brick = &self.registration.store.brick;
        brick.sync().map_err(|e| Error::brick("syncing", e))?;
        Ok(Written {
            stats: self.stats,
            _registration: Arc::clone(&self.registration),
        })
    }

    fn write_deduplicated(
        &mut self,
        indexes: &[u64],
        segment: &[SharedBlock],
        pointers: &mut Vec<Pointer>,
    ) -> Result<(), Error> {
        let hashes = self.hash(segment);
        let hits = self.find(&hashes)?;
        for (((index, block), hash), hit) in indexes.iter().zip(segment).zip(hashes).zip(hits) {
            // Found by this writer before, or just now among the blocks before this one.
            let known = hit.or_else(|| self.mine.get(&hash).copied());
            if let Some(pointer) = known {
                self.stats.blocks_deduped += 1;
                pointers.push(pointer);
                continue;
            }
            let pointer = self.store_block(*index, block, hash)?;
            if let Entry::Vacant(place) = self.mine.entry(hash) {
                place.insert(pointer);
            }
            pointers.push(pointer);
        }
        Ok(())
    }

    fn hash(&self, blocks: &[SharedBlock]) -> Vec<BlockHash> {
        let key = &self.registration.store.hash_key;
        let hash = |blocks: &[SharedBlock]| {
            let blocks: Vec<_> = blocks.iter().map(|block| block.bytes()).collect();
            block_hashes(key, &blocks)
        };
        if blocks.len() < HASHED_AT_ONCE {
            return hash(blocks);
        }
        let few = blocks.par_chunks(HASHED_AT_ONCE);
        few.flat_map_iter(|few| {
            make_way();
            hash(few)
        })
        .collect()
    }

    /// Duplicates in packs that others put, pinned.
    fn find(&self, hashes: &[BlockHash]) -> Result<Vec<Option<Pointer>>, Error> {
        let store = &self.registration.store;
        let lookup = store.pins.lookup();
        let mut hits = store.find_duplicates(hashes)?;
        let taken = worth_taking(&hits, MIN_RUN);
        for (hit, taken) in hits.iter_mut().zip(taken) {
            *hit = hit.filter(|_| taken);
        }
        let wanted: Vec<Pointer> = hits.iter().flatten().copied().collect();
        let granted = store.pins.pin(self.registration.id, &lookup, &wanted);
        for (hit, granted) in hits.iter_mut().filter(|hit| hit.is_some()).zip(granted) {
            *hit = hit.filter(|_| granted);
        }
        Ok(hits)
    }

    fn store_block(
        &mut self,
        index: u64,
        block: &SharedBlock,
        hash: BlockHash,
    ) -> Result<Pointer, Error> {
        if let Some(full) = self.data.take_if(|data| data.is_full()) {
            self.full.push(full);
            self.many = true;
        }
        if self.data.is_none() {
            self.data = Some(Open::new(self.take_id()?));
        }
        let data = self.data.as_mut().expect("opened just now");
        Ok(data.block(index, block, hash))
    }

    fn retire_nodes(&mut self) {
        let full = self.nodes.take_if(|nodes| nodes.is_full());
        self.full.extend(full);
    }

    fn take_id(&self) -> Result<PackId, Error> {
        let store = &self.registration.store;
        let next = store.ids.next()?;
        store.pins.will_take(self.registration.id, next);
        store.ids.take()
    }

    /// Compresses full packs on all cores, and puts them, in order, from this thread.
    fn put_full(&mut self) -> Result<(), Error> {
        let full = std::mem::take(&mut self.full);
        let (store, codec) = (Arc::clone(&self.registration.store), self.codec);
        let build = |open: &Open| open.build(store.id, codec, store.objects.take());
        if let [open] = &full[..] {
            return self.put(open, build(open));
        }
        rayon::in_place_scope(|scope| {
            let mut later = full.iter();
            let mut begin = || {
                let open = later.next()?;
                let (send, receive) = mpsc::sync_channel(1);
                // Nobody waits any more after an error.
                scope.spawn(move |_| drop(send.send(build(open))));
                Some(receive)
            };
            // Not all at once: each takes memory for a whole pack.
            let together = rayon::current_num_threads() + 1;
            let mut building: VecDeque<_> = (0..together).map_while(|_| begin()).collect();
            for open in &full {
                let receive = building.pop_front().expect("one for each pack");
                let built = receive.recv();
                building.extend(begin());
                self.put(open, built.expect("a build that panics takes us with it"))?;
            }
            Ok(())
        })
    }

    fn put(&mut self, open: &Open, built: Built) -> Result<(), Error> {
        make_way();
        let store = &self.registration.store;
        let object = built.object.bytes();
        let put = store.brick.put(store.epoch, built.pack, object);
        put.map_err(|e| Error::brick("putting", e).of_pack(built.pack))?;
        self.stats.packs += 1;
        self.stats.bytes_stored += object.len() as u64;
        store.objects.give(built.object);
        store.forget_unput(open);
        for (ordinal, hash) in (0_u16..).zip(&built.hashes) {
            if *hash != UNHASHED {
                let pointer = Pointer::new(built.pack, ordinal);
                store.index.insert(hash.prefix(), pointer);
            }
        }
        Ok(())
    }
}

impl PackStore {
    /// The nodes of a pack are read from the brick from now on, or not at all.
    fn forget_unput(&self, open: &Open) {
        let mut nodes = open.nodes().peekable();
        if nodes.peek().is_some() {
            let mut unput = self.unput.write();
            for pointer in nodes {
                unput.remove(&pointer);
            }
        }
    }
}

impl Drop for PackWriter {
    fn drop(&mut self) {
        let store = &self.registration.store;
        for open in self.data.iter().chain(&self.nodes).chain(&self.full) {
            store.forget_unput(open);
        }
    }
}
