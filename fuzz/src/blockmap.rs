//! Block maps whose nodes point anywhere: at each other, at themselves, at nothing.
//!
//! Everything that goes through a map must end, having read no more nodes than it may; and what an
//! update makes must be found by a lookup. Then the same map lies in packs, and is marked and checked.

use crate::{alloc::bounded, input::Input};
use ::blockmap::{
    BLOCKS_MAX, EXTENT_NODES_MAX, FANOUT, Node, NodeSink, NodeSource, changes, diff, extents,
    for_each_mapped, lookup, lookup_run, update, walk,
};
use brick::{Brick, Error as BrickError, ErrorKind, PackStat, Space};
use format::pack::{FrameKind, NewFrame, NewPack};
use gc::{CheckOptions, OwnedRoot, Roots};
use pack::{Config, PackStore};
use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, HashSet},
    ops::{ControlFlow, Range},
    sync::Arc,
};
use types::{BlockIndex, Codec, Epoch, NoProgress, PackId, Pointer, Root, StoreId, VolumeId};

const NODES_MAX: usize = 6;
const SLOTS_MAX: usize = 8;
/// Nodes lie in packs from 1 on, data from here on.
const DATA: u64 = 1000;
const STORE: StoreId = StoreId([1; 16]);
/// A few nodes, their packs, and what walks remember.
const MEMORY_MAX: usize = 4 << 20;
/// Blocks of the ranges that are asked for.
const RANGE_MAX: u64 = 3000;

#[derive(Debug)]
struct Missing;

#[derive(Default)]
struct Map {
    nodes: RefCell<BTreeMap<Pointer, Arc<Node>>>,
    reads: Cell<usize>,
    written: Cell<u64>,
}

impl NodeSource for Map {
    type Error = Missing;
    fn node(&self, pointer: Pointer) -> Result<Arc<Node>, Missing> {
        assert!(!pointer.is_hole());
        self.reads.set(self.reads.get() + 1);
        self.nodes.borrow().get(&pointer).cloned().ok_or(Missing)
    }

    fn is_lost(&self, _: &Missing) -> bool {
        false
    }
}

struct Sink<'a>(&'a Map);

impl NodeSink for Sink<'_> {
    type Error = Missing;
    fn write_node(&mut self, node: &Node) -> Result<Pointer, Missing> {
        let number = self.0.written.get() + 1;
        self.0.written.set(number);
        let pointer = Pointer::new(PackId(DATA / 2 + number / 1000), (number % 1000) as u16);
        self.0
            .nodes
            .borrow_mut()
            .insert(pointer, Arc::new(node.clone()));
        Ok(pointer)
    }
}

impl Map {
    /// Nodes whose slots, one by one or all alike, point to nodes and data.
    fn new(input: &mut Input<'_>) -> Self {
        let map = Map::default();
        for number in 0..1 + input.below(NODES_MAX) {
            let mut node = Node::new();
            for _ in 0..input.below(SLOTS_MAX) {
                let (slot, pointer) = (input.below(FANOUT + 1), pointer(input));
                match slot {
                    FANOUT => (0..FANOUT).for_each(|slot| node.set(slot, pointer)),
                    slot => node.set(slot, pointer),
                }
            }
            map.nodes
                .borrow_mut()
                .insert(node_pointer(number), Arc::new(node));
        }
        map
    }

    /// Runs `body`, which may read so many nodes.
    fn within<T>(&self, reads: usize, what: &str, body: impl FnOnce() -> T) -> T {
        self.reads.set(0);
        let out = body();
        assert!(
            self.reads.get() <= reads,
            "{what}: {} reads, {reads} may be",
            self.reads.get()
        );
        out
    }
}

fn node_pointer(number: usize) -> Pointer {
    Pointer::new(PackId(1 + number as u64 / 3), (number % 3) as u16)
}

fn pointer(input: &mut Input<'_>) -> Pointer {
    match input.u8() {
        0 => Pointer::HOLE,
        n if n < 128 => node_pointer(usize::from(n) % (NODES_MAX + 1)),
        n => Pointer::new(PackId(DATA + u64::from(n % 4)), input.u16() % 4096),
    }
}

fn root(input: &mut Input<'_>) -> Root {
    Root {
        pointer: pointer(input),
        height: input.u8() % 6,
    }
}

fn range(input: &mut Input<'_>) -> Range<u64> {
    let start = input.number();
    start..start.saturating_add(input.number() % RANGE_MAX)
}

/// The nodes, two roots, and then what is asked.
pub fn run(data: &[u8]) {
    bounded(MEMORY_MAX, || {
        let mut input = Input::new(data);
        let map = Map::new(&mut input);
        let (a, b) = (root(&mut input), root(&mut input));
        let range = range(&mut input);
        ask(&map, a, b, &range);
        change(&map, a, &mut input);
        walk_all(&map, a);
        if input.u8().is_multiple_of(2) {
            in_packs(&map, &[a, b]);
        }
    });
}

/// Leaves that cover a range, and the nodes above them.
fn nodes_for(range: &Range<u64>) -> usize {
    4 * (2 + ((range.end - range.start) / FANOUT as u64) as usize)
}

fn ask(map: &Map, a: Root, b: Root, range: &Range<u64>) {
    let nodes = nodes_for(range);
    let one = map.within(4, "lookup", || lookup(map, a, BlockIndex(range.start)));
    let mut run = vec![Pointer::HOLE; (range.end - range.start) as usize];
    let all = map.within(nodes, "lookup_run", || {
        lookup_run(map, a, BlockIndex(range.start), &mut run)
    });
    if let (Ok(one), Ok(()), Some(first)) = (&one, &all, run.first()) {
        assert_eq!(one, first);
    }
    let found = map.within(nodes, "extents", || extents(map, a, range.clone(), 100));
    if let (Ok(found), Ok(())) = (found, all) {
        let mut at = 0;
        for (len, data) in found {
            let end = (at + len as usize).min(run.len());
            assert!(
                run[at.min(end)..end]
                    .iter()
                    .all(|pointer| pointer.is_hole() != data)
            );
            at = end;
        }
    }
    let mut mapped = Vec::new();
    let _ = map.within(nodes, "for_each_mapped", || {
        for_each_mapped(map, a, range.clone(), &mut |block, _| {
            mapped.push(block);
            ControlFlow::Continue(())
        })
    });
    assert!(mapped.is_sorted() && mapped.len() <= run.len());
    let _ = map.within(2 * nodes, "diff", || {
        diff(map, a, b, range.clone(), &mut |changed| {
            assert!(range.start <= changed.blocks.start && changed.blocks.end <= range.end);
            ControlFlow::Continue(())
        })
    });
    let changed = map.within(2 * nodes, "changes", || {
        changes(map, a, b, range.clone(), 100)
    });
    if let Ok(runs) = changed {
        let covered: u64 = runs.iter().map(|(len, _)| len).sum();
        assert!(covered <= range.end - range.start && (covered > 0 || range.is_empty()));
    }
    let everything = 0..BLOCKS_MAX;
    let reads = EXTENT_NODES_MAX + 8;
    let _ = map.within(reads, "changes of all", || {
        changes(map, a, b, everything.clone(), 50)
    });
    let far = map.within(reads, "extents of all", || extents(map, a, everything, 50));
    assert!(far.is_err() || far.is_ok_and(|runs| !runs.is_empty() && runs.len() <= 50));
}

fn change(map: &Map, root: Root, input: &mut Input<'_>) {
    let mut at = 0;
    let mut writes = Vec::new();
    for _ in 0..input.below(8) {
        at += 1 + input.number() % BLOCKS_MAX;
        writes.push((
            BlockIndex(at),
            Pointer::new(PackId(DATA), input.u16() % 4096),
        ));
    }
    let zeroes: Vec<_> = match input.u8() % 4 {
        0 => vec![],
        1 => vec![0..BLOCKS_MAX],
        _ => Some(range(input))
            .filter(|range| !range.is_empty())
            .into_iter()
            .collect(),
    };
    let cleared = zeroes
        .iter()
        .map(nodes_for)
        .sum::<usize>()
        .min(4 * NODES_MAX * FANOUT);
    let reads = 4 * (writes.len() + 2) + cleared;
    let mut sink = Sink(map);
    let updated = map.within(reads, "update", || {
        update(map, &mut sink, root, &zeroes, &writes)
    });
    if let Ok(updated) = updated {
        for (block, pointer) in writes {
            assert_eq!(
                lookup(map, updated.root, block).expect("a map that was just made"),
                pointer
            );
        }
    }
}

/// A walk that remembers ends, and sees each node at most once a level.
fn walk_all(map: &Map, root: Root) {
    let nodes = map.nodes.borrow().len();
    let mut seen = HashSet::new();
    let walked = map.within(4 * (nodes + 1), "walk", || {
        walk(map, root, &mut |pointer, level| {
            seen.insert((pointer, level))
        })
    });
    drop(walked);
    assert!(seen.len() <= 5 * (nodes + 1) * FANOUT);
}

/// Marks and checks the same nodes in real packs: the end of every walk that collection makes.
fn in_packs(map: &Map, roots: &[Root]) {
    let brick = Packs::new(&map.nodes.borrow());
    let config = Config {
        block_cache_bytes: 1 << 16,
        node_cache_bytes: 1 << 16,
        header_cache_bytes: 1 << 16,
        index_bytes: 1 << 16,
    };
    let reserve = Box::new(|n| Ok(2000..2000 + n));
    let store = PackStore::new(Arc::new(brick), STORE, [2; 32], Epoch(1), reserve, config);
    let owned = |root: &Root| OwnedRoot {
        root: *root,
        size_blocks: BLOCKS_MAX,
        owner: "hostile".into(),
    };
    let owned: Vec<_> = roots.iter().map(owned).collect();
    let marks = gc::mark(&store, &owned, &NoProgress);
    if let Ok(marks) = marks {
        assert!(marks.nodes() <= map.nodes.borrow().len() as u64);
    }
    let _ = gc::check(
        &store,
        &Fixed(owned),
        CheckOptions { deep: true },
        &NoProgress,
    );
}

struct Fixed(Vec<OwnedRoot>);

impl Roots for Fixed {
    fn roots(&self) -> Result<Vec<OwnedRoot>, gc::Error> {
        Ok(self.0.clone())
    }
    fn quiesce(&self) {}

    fn has_volume(&self, _: VolumeId) -> Result<bool, gc::Error> {
        Ok(true)
    }
}

/// Packs that are only read.
struct Packs(BTreeMap<PackId, Vec<u8>>);

impl Packs {
    fn new(nodes: &BTreeMap<Pointer, Arc<Node>>) -> Self {
        let mut frames: BTreeMap<PackId, Vec<NewFrame>> = BTreeMap::new();
        for (pointer, node) in nodes
            .iter()
            .filter(|(pointer, _)| pointer.pack().0 < DATA / 2)
        {
            let (codec, stored) = node.encode();
            let frame = NewFrame {
                kind: FrameKind::Node,
                blocks: 1,
                codec,
                stored,
            };
            frames.entry(pointer.pack()).or_default().push(frame);
        }
        let block = vec![0x44; types::BLOCK_SIZE];
        let data = NewFrame {
            kind: FrameKind::Data,
            blocks: 1,
            codec: Codec::None,
            stored: block,
        };
        frames.insert(PackId(DATA), vec![data]);
        let object = |pack, frames: &[NewFrame]| {
            NewPack {
                pack,
                store: STORE,
                revision: 0,
                hashes: &[],
                live: None,
                note: &[],
            }
            .assemble(frames)
        };
        Packs(
            frames
                .into_iter()
                .map(|(pack, frames)| (pack, object(pack, &frames)))
                .collect(),
        )
    }
}

impl Brick for Packs {
    fn put(&self, _: Epoch, pack: PackId, _: &[u8]) -> Result<(), BrickError> {
        Err(BrickError::new(ErrorKind::Io, "put", Some(pack)))
    }

    fn read(&self, pack: PackId, offset: u64, buf: &mut [u8]) -> Result<(), BrickError> {
        let missing = BrickError::new(ErrorKind::NotFound, "read", Some(pack));
        let start = usize::try_from(offset).map_err(|_| missing.clone())?;
        let object = self.0.get(&pack).ok_or(missing.clone())?;
        let end = start.checked_add(buf.len()).ok_or(missing.clone())?;
        buf.copy_from_slice(object.get(start..end).ok_or(missing)?);
        Ok(())
    }

    fn try_read(&self, pack: PackId, offset: u64, buf: &mut [u8]) -> Result<bool, BrickError> {
        self.read(pack, offset, buf).map(|()| true)
    }

    fn refresh(&self, _: PackId) -> Result<(), BrickError> {
        Ok(())
    }

    fn trim(
        &self,
        _: Epoch,
        pack: PackId,
        _: (u64, &[u8]),
        _: &[Range<u64>],
    ) -> Result<(), BrickError> {
        Err(BrickError::new(ErrorKind::Io, "trim", Some(pack)))
    }

    fn remove(&self, _: Epoch, pack: PackId) -> Result<(), BrickError> {
        Err(BrickError::new(ErrorKind::Io, "remove", Some(pack)))
    }

    fn sync(&self) -> Result<(), BrickError> {
        Ok(())
    }

    fn list(&self) -> Result<Vec<PackStat>, BrickError> {
        let stat = |(&pack, object): (&PackId, &Vec<u8>)| {
            let len = object.len() as u64;
            PackStat {
                pack,
                len,
                stored: len,
            }
        };
        Ok(self.0.iter().map(stat).collect())
    }

    fn space(&self) -> Result<Space, BrickError> {
        Ok(Space {
            total: 1 << 40,
            free: 1 << 39,
        })
    }
}

/// A map of two levels, and cycles of every height, with one slot and with all.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = vec![vec![
        1, 2, 0, 0, 2, 1, 0, 2, 1, 0, 0, 200, 5, 0, 1, 2, 1, 1, 0, 9, 2, 1, 3, 0, 0, 0,
    ]];
    for height in 0..6 {
        for zeroes in 0..3 {
            // One node, of which all slots point to itself.
            seeds.push(vec![
                0, 1, 0, 2, 7, 7, height, 7, 4, 0, 200, 0, zeroes, 0, 100, 0,
            ]);
            // Two nodes that point to each other, and to data.
            seeds.push(vec![
                1, 2, 5, 0, 1, 6, 0, 130, 1, 0, 1, 0, 2, 7, 1, height, 7, height, 0, 200, 1, 9, 1,
                0, zeroes, 0, 100, 0,
            ]);
        }
    }
    seeds
}
