//! A store of a few volumes whose contents are known, and hands that damage its files.

use block::{BlockDevice, Durability};
use env::{Files, OpenOptions};
use sim::SimEnv;
use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::Arc,
};
use types::{BLOCK_SIZE, Block, Name, NoProgress};
use volume::{Config, Create, InitOptions, Source, Store};

pub(crate) const DIR: &str = "/store";
/// Two leaves of the block map.
pub(crate) const BLOCKS: u64 = 1024;

/// What is done to a file.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Damage {
    /// One bit, so many percent into the file.
    Flip(u64),
    /// A bit of one of the first bytes.
    FlipHeader(u64),
    /// So many percent are left.
    Cut(u64),
    Delete,
    /// It and another exchange their names.
    Swap,
    /// Another has its bytes, in place of its own.
    Overwrite,
    /// It is there under a second name.
    Copy,
    /// Zeroes from here on, percent, as a file system leaves them that lost what it was told.
    Zero(u64),
}

/// Who takes every second one takes each kind.
pub(crate) const ALL: [Damage; 19] = [
    Damage::FlipHeader(3),
    Damage::FlipHeader(130),
    Damage::FlipHeader(17),
    Damage::Flip(10),
    Damage::FlipHeader(60),
    Damage::Flip(35),
    Damage::Flip(50),
    Damage::Flip(80),
    Damage::Swap,
    Damage::Flip(99),
    Damage::Delete,
    Damage::Cut(0),
    Damage::Cut(60),
    Damage::Cut(1),
    Damage::Overwrite,
    Damage::Cut(99),
    Damage::Copy,
    Damage::Zero(0),
    Damage::Zero(50),
];

/// Blocks of a volume, shown as ranges.
#[derive(Clone, Default, PartialEq, Eq)]
pub(crate) struct Blocks(pub(crate) BTreeSet<u64>);

impl std::fmt::Debug for Blocks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let all: Vec<u64> = self.0.iter().copied().collect();
        let runs = all.chunk_by(|a, b| a + 1 == *b);
        f.debug_list()
            .entries(runs.map(|run| run[0]..run[0] + run.len() as u64))
            .finish()
    }
}

/// What volumes and snapshots should read as: a tag for each block, 0 for zeroes.
pub(crate) type Contents = BTreeMap<String, Vec<u64>>;

pub(crate) struct Machine {
    pub(crate) sim: SimEnv,
    pub(crate) store: Store,
    pub(crate) contents: Contents,
}

/// Noise of its own for each tag.
pub(crate) fn block(tag: u64) -> Block {
    let mut bytes = [0; BLOCK_SIZE];
    let mut state = tag.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    for word in bytes.as_chunks_mut::<8>().0.iter_mut().filter(|_| tag != 0) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        *word = state.to_le_bytes();
    }
    bytes
}

pub(crate) fn name(text: &str) -> Name {
    text.parse().unwrap()
}

impl Machine {
    pub(crate) fn config() -> Config {
        Config {
            journal_bytes: 8 << 20,
            dirty_bytes: 64 << 20,
            destage_bytes: 32 << 20,
            ..Config::small()
        }
    }

    /// An empty store.
    pub(crate) fn new(seed: u64) -> Self {
        let sim = SimEnv::new(seed);
        Store::init(&sim.env(), Path::new(DIR), &InitOptions::default()).unwrap();
        let store = Machine::open(&sim).unwrap();
        Machine {
            sim,
            store,
            contents: Contents::new(),
        }
    }

    pub(crate) fn open(sim: &SimEnv) -> Result<Store, volume::Error> {
        Store::open(&sim.env(), Path::new(DIR), Machine::config())
    }

    pub(crate) fn create(&mut self, volume: &str, source: Source) {
        let contents = match &source {
            Source::Clone(origin, _) => self.contents[&origin.to_string()].clone(),
            Source::Empty(_) | Source::Image(..) => vec![0; BLOCKS as usize],
        };
        let create = Create::new(name(volume), source);
        self.store.create_volume(&create).unwrap();
        self.contents.insert(volume.to_owned(), contents);
    }

    pub(crate) fn snapshot(&mut self, volume: &str, snapshot: &str) {
        self.store
            .create_snapshot(&name(volume), &name(snapshot))
            .unwrap();
        let contents = self.contents[volume].clone();
        self.contents
            .insert(format!("{volume}@{snapshot}"), contents);
    }

    pub(crate) fn device(&self, of: &str) -> Arc<dyn BlockDevice> {
        self.store.device(&of.parse().unwrap()).unwrap()
    }

    /// Writes `tag`, `tag + 1` … to blocks from `first` on.
    pub(crate) fn write(&mut self, volume: &str, first: u64, tags: impl IntoIterator<Item = u64>) {
        let device = self.device(volume);
        for (index, tag) in (first..).zip(tags) {
            let offset = index * BLOCK_SIZE as u64;
            device
                .write(offset, &block(tag), Durability::Volatile)
                .unwrap();
            self.contents.get_mut(volume).unwrap()[index as usize] = tag;
        }
    }

    /// Nothing is in memory afterwards.
    pub(crate) fn restart(&mut self) {
        self.store.settle_all().unwrap();
        self.store.close().unwrap();
        self.crash();
    }

    /// As a process that is killed.
    pub(crate) fn crash(&mut self) {
        self.sim.kill();
        self.store = Machine::open(&self.sim).unwrap();
    }

    pub(crate) fn files(&self) -> Arc<dyn Files> {
        Arc::clone(&self.sim.env().files)
    }

    /// Blocks of a volume or snapshot that are errors; all others are as they should be.
    pub(crate) fn lost(&self, of: &str) -> Blocks {
        let device = self.device(of);
        let mut lost = Blocks::default();
        for (index, tag) in (0..).zip(&self.contents[of]) {
            let mut read = [1; BLOCK_SIZE];
            match device.read(index * BLOCK_SIZE as u64, &mut read) {
                Ok(()) => assert!(read == block(*tag), "{of}: block {index} is wrong"),
                Err(error) => {
                    let start = index * BLOCK_SIZE as u64;
                    let (text, end) = (format!("{error:?}"), start + BLOCK_SIZE as u64);
                    assert!(
                        text.contains(&format!("bytes {start}..{end} ")),
                        "{of}: {text}"
                    );
                    let gone = text.contains("lost with the node of the block map above it");
                    assert!(gone || text.contains("pack 00000000"), "{of}: {text}");
                    assert_eq!(error.kind(), block::ErrorKind::Io);
                    lost.0.insert(index);
                }
            }
        }
        lost
    }

    /// What a check says is lost, by owner, in blocks.
    pub(crate) fn checked(&self) -> BTreeMap<String, Blocks> {
        let options = gc::CheckOptions { deep: true };
        let report = gc::check(self.store.packs(), &self.store, options, &NoProgress).unwrap();
        let blocks = |extent: &gc::Extent| {
            let block = BLOCK_SIZE as u64;
            extent.offset / block..(extent.offset + extent.len) / block
        };
        let of = |hit: &gc::Afflicted| {
            assert!(!hit.more);
            let blocks: BTreeSet<u64> = hit.extents.iter().flat_map(blocks).collect();
            assert_eq!(hit.bytes, (blocks.len() * BLOCK_SIZE) as u64);
            (hit.owner.clone(), Blocks(blocks))
        };
        report.afflicted.iter().map(of).collect()
    }
}

/// A bit changes in the journal's only block with this tag.
pub(crate) fn rot(machine: &Machine, tag: u64) {
    let files = machine.files();
    let tagged = block(tag);
    let mut rotten = 0;
    for path in files_of(&*files, &Path::new(DIR).join("journal"), ".seg") {
        let bytes = files.read_all(&path).unwrap();
        let blocks = bytes.chunks(BLOCK_SIZE);
        for (at, _) in (0..).zip(blocks).filter(|(_, bytes)| *bytes == tagged) {
            let offset = at * BLOCK_SIZE as u64;
            machine.sim.flip_bit(&path, offset).unwrap();
            rotten += 1;
        }
    }
    assert_eq!(rotten, 1, "blocks with tag {tag}");
}

/// What the first blocks of a volume or snapshot say.
pub(crate) fn tags<const N: usize>(store: &Store, of: &str) -> [u64; N] {
    let device = store.device(&of.parse().unwrap()).unwrap();
    let mut read = vec![0; N * BLOCK_SIZE];
    device.read(0, &mut read).unwrap();
    let mut blocks = read.chunks(BLOCK_SIZE);
    let tag = |bytes: &[u8]| (0..10).find(|tag| block(*tag) == *bytes).unwrap();
    std::array::from_fn(|_| tag(blocks.next().unwrap()))
}

/// The files in a directory whose names end so, in order.
pub(crate) fn files_of(files: &dyn Files, dir: &Path, end: &str) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = Vec::new();
    for name in files.list(dir).unwrap() {
        let path = dir.join(name);
        if path.to_str().unwrap().ends_with(end) {
            found.push(path);
        } else if files.list(&path).is_ok() {
            found.extend(files_of(files, &path, end));
        }
    }
    found.sort();
    found
}

fn put(files: &dyn Files, path: &Path, bytes: &[u8]) {
    let options = OpenOptions {
        write: true,
        create_new: true,
        direct: false,
    };
    if files.exists(path).unwrap() {
        files.remove(path).unwrap();
    }
    let file = files.open(path, options).unwrap();
    file.write_at(0, bytes).unwrap();
}

/// Damages a file; `other` is another of its kind, `spare` a name that such a file could have.
pub(crate) fn damage(files: &dyn Files, how: Damage, path: &Path, other: &Path, spare: &Path) {
    let mut bytes = files.read_all(path).unwrap();
    let len = bytes.len() as u64;
    let at = |percent: u64| (len * percent / 100).min(len - 1) as usize;
    match how {
        Damage::Flip(percent) => bytes[at(percent)] ^= 0x20,
        Damage::FlipHeader(byte) => bytes[byte as usize] ^= 4,
        Damage::Cut(percent) => bytes.truncate(at(percent)),
        Damage::Zero(percent) => bytes[at(percent)..].fill(0),
        Damage::Delete => return files.remove(path).unwrap(),
        Damage::Copy => return put(files, spare, &bytes),
        Damage::Overwrite => return put(files, path, &files.read_all(other).unwrap()),
        Damage::Swap => {
            let others = files.read_all(other).unwrap();
            put(files, other, &bytes);
            bytes = others;
        }
    }
    put(files, path, &bytes);
}
