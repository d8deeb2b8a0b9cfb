//! The pack store: what its parts share.

use crate::{
    Error, ErrorKind, LiveBits, ReserveIds, cache::BlockCache, dedup::Hashes, distrust::Distrust,
    ids::Ids, index::Index, object::Objects, pins::Pins, writer::PackWriter,
};
use brick::Brick;
use format::{Node, pack::PackHeader};
use quick_cache::{OptionsBuilder, Weighter, sync::Cache};
use rustc_hash::{FxBuildHasher, FxHashMap};
use std::sync::Arc;
use sync::RwLock;
use types::{BLOCK_SIZE, Codec, Epoch, PackId, Pointer, StoreId};

/// Bounds of memory.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Decompressed blocks.
    pub block_cache_bytes: u64,
    /// Nodes of block maps.
    pub node_cache_bytes: u64,
    /// Headers of packs: three quarters for frame tables, a quarter for hashes of packs that dedup looks into.
    pub header_cache_bytes: u64,
    /// The index of hashes.
    pub index_bytes: u64,
}

/// What is in memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes of blocks.
    pub block_bytes: u64,
    /// Bytes of nodes.
    pub node_bytes: u64,
    /// Bytes of headers and hashes.
    pub header_bytes: u64,
    /// Bytes of the index.
    pub index_bytes: u64,
    /// Hashes in the index.
    pub index_entries: u64,
    /// Hashes with this many low zero bits are in the index.
    pub index_k: u32,
    /// Packs with blocks that are known to be damaged.
    pub damaged_packs: u64,
}

/// The packs of a store: reading, writing, collecting. Its verbs may be called from any thread.
pub struct PackStore {
    pub(crate) brick: Arc<dyn Brick>,
    pub(crate) id: StoreId,
    pub(crate) hash_key: [u8; 32],
    pub(crate) epoch: Epoch,
    pub(crate) ids: Ids,
    pub(crate) index: Index,
    pub(crate) pins: Pins,
    pub(crate) distrust: Distrust,
    pub(crate) blocks: BlockCache,
    pub(crate) nodes: Cache<Pointer, Arc<Node>, NodeWeight, FxBuildHasher>,
    pub(crate) headers: Cache<PackId, Arc<PackHeader>, HeaderWeight, FxBuildHasher>,
    pub(crate) hashes: Cache<PackId, Hashes, HashesWeight, FxBuildHasher>,
    /// Nodes whose packs are not put yet: they must be readable, whatever the cache drops.
    pub(crate) unput: RwLock<FxHashMap<Pointer, Arc<Node>>>,
    pub(crate) objects: Objects,
}

#[derive(Clone, Copy)]
pub(crate) struct NodeWeight;
#[derive(Clone, Copy)]
pub(crate) struct HeaderWeight;
#[derive(Clone, Copy)]
pub(crate) struct HashesWeight;

/// What a cache and the allocator add to an entry, about.
const OVERHEAD: u64 = 96;

impl Weighter<Pointer, Arc<Node>> for NodeWeight {
    fn weight(&self, _: &Pointer, _: &Arc<Node>) -> u64 {
        BLOCK_SIZE as u64 + OVERHEAD
    }
}

impl Weighter<PackId, Arc<PackHeader>> for HeaderWeight {
    fn weight(&self, _: &PackId, header: &Arc<PackHeader>) -> u64 {
        size_of::<PackHeader>() as u64 + size_of_val(&*header.frames) as u64 + OVERHEAD
    }
}

impl Weighter<PackId, Hashes> for HashesWeight {
    fn weight(&self, _: &PackId, hashes: &Hashes) -> u64 {
        size_of_val(&**hashes) as u64 + OVERHEAD
    }
}

/// Few shards if it is small: an entry must fit into a shard's part many times. Keys are ours, so that their hash
/// needs no secret; and what is dropped first is the same in every run of a simulation.
fn cache<K, V, W>(bytes: u64, entry: u64, weight: W) -> Cache<K, V, W, FxBuildHasher>
where
    K: Eq + std::hash::Hash + Clone,
    V: Clone,
    W: Weighter<K, V> + Clone,
{
    let entries = usize::try_from(bytes / entry).unwrap_or(usize::MAX).max(1);
    let options = OptionsBuilder::new()
        .shards((entries / 64).clamp(1, 32))
        .estimated_items_capacity(entries)
        .weight_capacity(bytes)
        .build()
        .expect("all that it asks for is given");
    Cache::with_options(options, weight, FxBuildHasher, Default::default())
}

impl PackStore {
    /// On `brick`, writing with `epoch`. Hashes are keyed with `hash_key`, a secret of the store.
    #[must_use]
    pub fn new(
        brick: Arc<dyn Brick>,
        store: StoreId,
        hash_key: [u8; 32],
        epoch: Epoch,
        reserve: ReserveIds,
        config: Config,
    ) -> Arc<Self> {
        let headers = config.header_cache_bytes;
        Arc::new(PackStore {
            brick,
            id: store,
            hash_key,
            epoch,
            ids: Ids::new(reserve),
            index: Index::new(config.index_bytes),
            pins: Pins::default(),
            distrust: Distrust::default(),
            blocks: BlockCache::new(config.block_cache_bytes),
            nodes: cache(config.node_cache_bytes, 4192, NodeWeight),
            headers: cache(headers / 4 * 3, 6000, HeaderWeight),
            hashes: cache(headers / 4, 16_480, HashesWeight),
            unput: RwLock::default(),
            objects: Objects::default(),
        })
    }

    /// Begins to write: a destage's blocks and nodes, frames compressed with `codec`. Without `dedup`
    /// blocks are neither hashed nor found by others.
    #[must_use]
    pub fn writer(self: &Arc<Self>, codec: Codec, dedup: bool) -> PackWriter {
        PackWriter::new(self, codec, dedup)
    }

    /// Gives memory back that is not used now, caches apart.
    pub fn trim(&self) {
        self.objects.trim();
    }

    /// What is in memory.
    #[must_use]
    pub fn usage(&self) -> Usage {
        let (index_entries, index_bytes, index_k) = self.index.usage();
        Usage {
            block_bytes: self.blocks.bytes(),
            node_bytes: self.nodes.weight(),
            header_bytes: self.headers.weight() + self.hashes.weight(),
            index_bytes,
            index_entries,
            index_k,
            damaged_packs: self.distrust.packs(),
        }
    }

    /// These blocks of `pack` cannot be read: they are not found by deduplication any more, so that writing
    /// the same again stores it again. Forgotten when all of the pack could be verified, or it goes.
    pub fn distrust(&self, pack: PackId, blocks: &LiveBits) {
        if self.distrust.add(pack, blocks) {
            tracing::warn!(%pack, blocks = blocks.count(), "damaged: no deduplication against these blocks");
        }
    }

    /// As [`distrust`](Self::distrust) if an error says that `blocks` cannot be read now.
    pub(crate) fn distrust_after(&self, error: &Error, pack: PackId, blocks: &LiveBits) {
        if matches!(error.kind(), ErrorKind::Damaged | ErrorKind::Io) {
            self.distrust(pack, blocks);
        }
    }

    /// The header of a pack, from the cache or the brick; `None` if `wait` is false and it would have to.
    pub(crate) fn header(
        &self,
        pack: PackId,
        wait: bool,
    ) -> Result<Option<Arc<PackHeader>>, Error> {
        if let Some(header) = self.headers.get(&pack) {
            return Ok(Some(header));
        }
        let loading = self.pins.lookup();
        let Some(header) = self.load_header(pack, wait)? else {
            return Ok(None);
        };
        let header = Arc::new(header);
        loading.publish(pack, || self.headers.insert(pack, Arc::clone(&header)));
        Ok(Some(header))
    }

    /// Reads and checks a header; what is being given up counts as given up.
    pub(crate) fn load_header(
        &self,
        pack: PackId,
        wait: bool,
    ) -> Result<Option<PackHeader>, Error> {
        const READING: &str = "reading the header";
        let malformed = |why| Error::damaged(READING, "not a sound header").with_source(why);
        let mut bytes = vec![0; format::pack::PAGE];
        if !self.fetch(pack, 0, &mut bytes, wait)? {
            return Ok(None);
        }
        let needed = PackHeader::needed(&bytes, pack, self.id)
            .map_err(|why| malformed(why).of_pack(pack))?;
        if needed > bytes.len() {
            let have = bytes.len();
            bytes.resize(needed, 0);
            if !self.fetch(pack, have as u64, &mut bytes[have..], wait)? {
                return Ok(None);
            }
        }
        let mut header = PackHeader::decode(&bytes, pack, self.id)
            .map_err(|why| malformed(why).of_pack(pack))?;
        if let Some(stays) = self.pins.dying(pack) {
            header.live.bits = header.live.bits.intersection(&stays);
        }
        Ok(Some(header))
    }

    /// Reads from an object; false if it would wait and must not.
    pub(crate) fn fetch(
        &self,
        pack: PackId,
        offset: u64,
        buf: &mut [u8],
        wait: bool,
    ) -> Result<bool, Error> {
        let done = if wait {
            self.brick.read(pack, offset, buf).map(|()| true)
        } else {
            self.brick.try_read(pack, offset, buf)
        };
        done.map_err(|e| Error::brick("reading", e).of_pack(pack))
    }
}
