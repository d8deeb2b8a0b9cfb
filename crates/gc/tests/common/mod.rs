//! A small engine in memory: a brick that can crash and rot, and volumes that are nothing but roots.
#![allow(
    unreachable_pub,
    dead_code,
    clippy::unwrap_used,
    reason = "helpers; each test program uses a part of them"
)]

mod brick;

pub use brick::MemBrick;

use gc::{Error, Options, OwnedRoot, Report, Roots};
use pack::{Config, PackStore, PackWriter, Written};
use parking_lot::Mutex;
use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};
use types::{
    BLOCK_SIZE, BlockIndex, Codec, Epoch, NoProgress, Pointer, Root, SharedBlock, StoreId, VolumeId,
};

pub const SIZE_BLOCKS: u64 = 1 << 20;

/// A block that is like no other and compresses by half.
pub fn block(n: u64) -> SharedBlock {
    let mut bytes = [7; BLOCK_SIZE];
    let mut x = n.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    for word in bytes[..BLOCK_SIZE / 2].as_chunks_mut::<8>().0 {
        x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(n);
        *word = x.to_le_bytes();
    }
    Arc::new(bytes)
}

/// What a root should read as: contents by block.
pub type Contents = BTreeMap<u64, u64>;

struct Nodes<'a>(&'a PackStore);
impl blockmap::NodeSource for Nodes<'_> {
    type Error = pack::Error;
    fn node(&self, pointer: Pointer) -> Result<Arc<blockmap::Node>, pack::Error> {
        self.0.node(pointer)
    }
    fn is_lost(&self, error: &pack::Error) -> bool {
        error.kind() == pack::ErrorKind::Damaged
    }
}

struct Sink<'a>(&'a mut PackWriter);
impl blockmap::NodeSink for Sink<'_> {
    type Error = pack::Error;
    fn write_node(&mut self, node: &blockmap::Node) -> Result<Pointer, pack::Error> {
        self.0.write_node(node)
    }
}

/// A machine with a store. The catalog (`roots`, `ids`) is always durable.
pub struct Machine {
    pub brick: Arc<MemBrick>,
    pub store: Arc<PackStore>,
    ids: Arc<AtomicU64>,
    pub roots: Mutex<BTreeMap<String, (Root, Contents)>>,
    /// Volumes that root notes may be about.
    pub volumes: Mutex<BTreeSet<VolumeId>>,
    /// What happens while a collection runs, right after it asked for the roots, and just before it sweeps.
    pub when_asked: Mutex<Option<Hook>>,
    pub when_quiet: Mutex<Option<Hook>>,
}

pub type Hook = Box<dyn FnOnce(&Machine) + Send>;

fn open(brick: &Arc<MemBrick>, ids: &Arc<AtomicU64>) -> Arc<PackStore> {
    let config = Config {
        block_cache_bytes: 1 << 16,
        node_cache_bytes: 1 << 16,
        header_cache_bytes: 1 << 18,
        index_bytes: 1 << 20,
    };
    let ids = Arc::clone(ids);
    let reserve = move |n| {
        let first = ids.fetch_add(n, Ordering::SeqCst);
        Ok(first..first + n)
    };
    let brick = Arc::clone(brick);
    PackStore::new(
        brick,
        StoreId([1; 16]),
        [2; 32],
        Epoch(1),
        Box::new(reserve),
        config,
    )
}

impl Machine {
    pub fn new() -> Self {
        let brick = Arc::new(MemBrick::default());
        let ids = Arc::new(AtomicU64::new(1));
        Machine {
            store: open(&brick, &ids),
            brick,
            ids,
            roots: Mutex::default(),
            volumes: Mutex::default(),
            when_asked: Mutex::default(),
            when_quiet: Mutex::default(),
        }
    }

    /// The machine dies and comes back; which unsynced changes are kept, `seed` says.
    pub fn crash(&mut self, seed: u64) {
        self.brick.crash(seed);
        self.reopen();
    }

    /// A new process, its caches empty.
    pub fn reopen(&mut self) {
        self.store = open(&self.brick, &self.ids);
        self.store.rebuild_index(&NoProgress).unwrap();
    }

    /// Writes packs and nodes for changed blocks; the root is the caller's to commit while `Written` lives.
    pub fn destage(
        &self,
        root: Root,
        zeroes: &[Range<u64>],
        writes: &Contents,
    ) -> Result<(Root, Written), pack::Error> {
        let mut writer = self.store.writer(Codec::Lz4, true);
        let blocks: Vec<_> = writes.values().map(|&n| block(n)).collect();
        let pointers = writer.write_blocks(&blocks)?;
        let changes: Vec<_> = writes
            .keys()
            .map(|&at| BlockIndex(at))
            .zip(pointers)
            .collect();
        let mut sink = Sink(&mut writer);
        let updated = blockmap::update(&Nodes(&self.store), &mut sink, root, zeroes, &changes);
        let root = updated.map_err(|e| match e {
            blockmap::Error::Read { source, .. } | blockmap::Error::Write(source) => source,
            other => panic!("{other}"),
        })?;
        Ok((root.root, writer.finish()?))
    }

    /// Changes a volume, which is made if need be.
    pub fn write(&self, volume: &str, zeroes: &[Range<u64>], writes: &Contents) {
        self.try_write(volume, zeroes, writes).unwrap();
    }

    pub fn try_write(
        &self,
        volume: &str,
        zeroes: &[Range<u64>],
        writes: &Contents,
    ) -> Result<(), pack::Error> {
        let (root, mut contents) = self.roots.lock().get(volume).cloned().unwrap_or_default();
        let (root, written) = self.destage(root, zeroes, writes)?;
        contents.retain(|at, _| !zeroes.iter().any(|zeroes| zeroes.contains(at)));
        contents.extend(writes);
        self.roots
            .lock()
            .insert(volume.to_owned(), (root, contents));
        drop(written);
        Ok(())
    }

    /// Contents `first..` at the blocks of `range`.
    pub fn fill(&self, volume: &str, range: Range<u64>, first: u64) {
        let writes = range.clone().zip(first..).collect();
        self.write(volume, &[], &writes);
    }

    pub fn clone_root(&self, from: &str, to: &str) {
        let state = self.roots.lock().get(from).cloned().unwrap_or_default();
        self.roots.lock().insert(to.to_owned(), state);
    }

    pub fn remove(&self, name: &str) {
        self.roots.lock().remove(name);
    }

    pub fn collect(&self) -> Result<Report, Error> {
        gc::collect(&self.store, self, &Options::default(), &NoProgress)
    }

    pub fn check(&self) -> gc::CheckReport {
        let options = gc::CheckOptions { deep: true };
        gc::check(&self.store, self, options, &NoProgress).unwrap()
    }

    /// Everything that any root holds reads as it was written.
    pub fn verify(&self) {
        for (name, (root, contents)) in &*self.roots.lock() {
            let shape = blockmap::self_check(&Nodes(&self.store), *root).unwrap();
            assert_eq!(shape.mapped, contents.len() as u64, "{name}");
            for (&at, &n) in contents {
                let pointer = blockmap::lookup(&Nodes(&self.store), *root, BlockIndex(at)).unwrap();
                assert!(
                    self.store.read(pointer).unwrap()[..] == block(n)[..],
                    "{name} block {at}"
                );
            }
        }
    }

    pub fn pointer(&self, name: &str, at: u64) -> Pointer {
        let root = self.roots.lock().get(name).unwrap().0;
        blockmap::lookup(&Nodes(&self.store), root, BlockIndex(at)).unwrap()
    }
}

impl Roots for Machine {
    fn roots(&self) -> Result<Vec<OwnedRoot>, Error> {
        let roots = self.roots.lock().clone().into_iter();
        let roots = roots.map(|(owner, (root, _))| OwnedRoot {
            root,
            size_blocks: SIZE_BLOCKS,
            owner,
        });
        let roots = roots.collect();
        if let Some(hook) = self.when_asked.lock().take() {
            hook(self);
        }
        Ok(roots)
    }

    fn quiesce(&self) {
        if let Some(hook) = self.when_quiet.lock().take() {
            hook(self);
        }
    }

    fn has_volume(&self, id: VolumeId) -> Result<bool, Error> {
        Ok(self.volumes.lock().contains(&id))
    }
}
