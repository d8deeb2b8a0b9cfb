//! What random tests reach seldom: costs, hostile nodes, refusals.
#![allow(
    clippy::unwrap_used,
    clippy::single_range_in_vec_init,
    reason = "helpers of tests; lists of one range"
)]

mod store;

use blockmap::{
    BLOCKS_MAX, EXTENT_NODES_MAX, Error, Node, changes, extents, leaf, lookup, self_check, span,
    update, walk,
};
use std::{collections::HashSet, ops::Range};
use store::{Missing, Store};
use types::{BlockIndex, PackId, Pointer, Root};

fn apply(store: &Store, root: Root, zeroes: &[Range<u64>], blocks: &[u64]) -> (Root, usize) {
    let writes: Vec<_> = blocks
        .iter()
        .map(|&block| (BlockIndex(block), store.data()))
        .collect();
    let mut sink = store.sink();
    let updated = update(store, &mut sink, root, zeroes, &writes).unwrap();
    (updated.root, sink.publish().len())
}

#[test]
fn height_follows_the_last_block_both_ways() {
    let store = Store::default();
    let mut root = Root::EMPTY;
    for (block, height) in [(0, 1), (511, 1), (512, 2), (span(2), 3), (span(3), 4)] {
        root = apply(&store, root, &[], &[block]).0;
        assert_eq!(root.height, height, "with block {block}");
    }
    for (first, height) in [(span(3), 3), (span(2), 2), (512, 1), (0, 0)] {
        let (lower, written) = apply(&store, root, &[first..BLOCKS_MAX], &[]);
        assert_eq!(
            (lower.height, written),
            (height, 0),
            "without blocks from {first}"
        );
        root = lower;
        self_check(&store, root).unwrap();
    }
    assert_eq!(root, Root::EMPTY);
}

#[test]
fn one_block_costs_one_path() {
    let store = Store::default();
    let far = BLOCKS_MAX - 1;
    let (root, written) = apply(&store, Root::EMPTY, &[], &[0, 700, far]);
    assert_eq!(
        written,
        1 + 3 + 1 + 3,
        "the top, its two paths, and one more leaf"
    );
    store.reads.set(0);
    let (root, written) = apply(&store, root, &[], &[701]);
    assert_eq!((written, store.reads.get()), (4, 4));
    store.reads.set(0);
    lookup(&store, root, BlockIndex(701)).unwrap();
    assert_eq!(store.reads.get(), 4);
}

#[test]
fn zeroing_everything_reads_what_there_is_and_no_more() {
    let store = Store::default();
    let (root, written) = apply(&store, Root::EMPTY, &[], &[5, span(3) + 9, BLOCKS_MAX - 1]);
    store.reads.set(0);
    let mut sink = store.sink();
    let everything = 0..BLOCKS_MAX;
    let updated = update(&store, &mut sink, root, &[everything], &[]).unwrap();
    assert_eq!((updated.root, updated.unmapped), (Root::EMPTY, 3));
    assert!(sink.publish().is_empty());
    // The top, and then its first child as the top that it might have become.
    assert!(
        store.reads.get() <= written as u64 + 3,
        "{} reads",
        store.reads.get()
    );
}

#[test]
fn changing_nothing_writes_nothing() {
    let store = Store::default();
    let (root, _) = apply(&store, Root::EMPTY, &[], &[5, 6000]);
    let same = lookup(&store, root, BlockIndex(6000)).unwrap();
    let writes = [
        (BlockIndex(7), Pointer::HOLE),
        (BlockIndex(6000), same),
        (BlockIndex(u64::MAX), Pointer::HOLE),
    ];
    let mut sink = store.sink();
    let updated = update(
        &store,
        &mut sink,
        root,
        &[100..4000, 7000..u64::MAX],
        &writes,
    )
    .unwrap();
    assert_eq!(
        (updated.root, updated.mapped, updated.unmapped),
        (root, 0, 0)
    );
    assert!(sink.publish().is_empty());
    assert_eq!(
        apply(&store, Root::EMPTY, &[0..u64::MAX], &[]),
        (Root::EMPTY, 0)
    );
}

/// A clearing entry far behind the end of a new map once landed in its first leaf.
#[test]
fn holes_beyond_the_end_of_a_new_map_do_nothing() {
    let store = Store::default();
    let data = store.data();
    let writes = [
        (BlockIndex(488), data),
        (BlockIndex(512 + 488), Pointer::HOLE),
    ];
    let mut sink = store.sink();
    let updated = update(&store, &mut sink, Root::EMPTY, &[], &writes).unwrap();
    sink.publish();
    assert_eq!(updated.mapped, 1);
    assert_eq!(lookup(&store, updated.root, BlockIndex(488)), Ok(data));
}

#[test]
fn blocks_beyond_every_map_are_refused_before_anything_is_written() {
    let store = Store::default();
    let mut sink = store.sink();
    let writes = [
        (BlockIndex(1), store.data()),
        (BlockIndex(BLOCKS_MAX), store.data()),
    ];
    let refused = update(&store, &mut sink, Root::EMPTY, &[], &writes);
    assert_eq!(refused, Err(Error::TooFar(BlockIndex(BLOCKS_MAX))));
    assert!(sink.publish().is_empty());
    assert_eq!(
        lookup(&store, Root::EMPTY, BlockIndex(u64::MAX)),
        Ok(Pointer::HOLE)
    );
}

#[test]
#[should_panic(expected = "in order")]
fn unsorted_writes_are_a_broken_invariant() {
    let store = Store::default();
    let writes = [(BlockIndex(2), store.data()), (BlockIndex(2), store.data())];
    let _ = update(&store, &mut store.sink(), Root::EMPTY, &[], &writes);
}

#[test]
fn impossible_heights_are_refused() {
    let store = Store::default();
    let pointer = Pointer::new(PackId(1), 0);
    for height in [0, 5, 255] {
        let root = Root { pointer, height };
        assert_eq!(
            lookup(&store, root, BlockIndex(0)),
            Err(Error::Height(root))
        );
        assert_eq!(
            walk(&store, root, &mut |_, _| true),
            Err(Error::Height(root))
        );
    }
    let lost = Root { pointer, height: 1 };
    let error = Error::Read {
        pointer,
        source: Missing,
    };
    assert_eq!(leaf(&store, lost, BlockIndex(3)), Err(error));
}

#[test]
fn a_node_below_itself_leads_nowhere_far() {
    let store = Store::default();
    let pointer = Pointer::new(PackId(1), 0);
    let mut node = Node::new();
    (0..512).for_each(|slot| node.set(slot, pointer));
    store.plant(pointer, node);
    let root = Root { pointer, height: 4 };
    assert_eq!(lookup(&store, root, BlockIndex(12345)), Ok(pointer));
    let mut seen = HashSet::new();
    walk(&store, root, &mut |pointer, level| {
        seen.insert((pointer, level))
    })
    .unwrap();
    assert_eq!(seen.len(), 5, "once at each level");
    store.reads.set(0);
    let runs = extents(&store, root, 0..BLOCKS_MAX, usize::MAX).unwrap();
    // Four of the nodes were no leaves.
    assert_eq!(runs, [((EXTENT_NODES_MAX as u64 - 4) * 512, true)]);
    assert!(store.reads.get() < EXTENT_NODES_MAX as u64 + 10);
}

/// Found by fuzzing: leaves were counted, and here are none, but 512² nodes that are empty.
#[test]
fn what_is_mapped_and_what_changed_is_told_after_few_nodes_though_none_is_a_leaf() {
    let store = Store::default();
    let [top, middle, empty] = [1, 2, 3].map(|n| Pointer::new(PackId(n), 0));
    for (pointer, below) in [(top, middle), (middle, empty), (empty, Pointer::HOLE)] {
        let mut node = Node::new();
        (0..512).for_each(|slot| node.set(slot, below));
        store.plant(pointer, node);
    }
    let root = Root {
        pointer: top,
        height: 4,
    };
    let all = 0..BLOCKS_MAX;
    for changed in [false, true] {
        store.reads.set(0);
        let runs = match changed {
            false => extents(&store, root, all.clone(), 9),
            true => changes(&store, root, Root::EMPTY, all.clone(), 9),
        };
        assert!(
            matches!(runs.as_deref(), Ok([(len, false)]) if *len > 0),
            "{runs:?}"
        );
        let reads = store.reads.get();
        assert!(reads < EXTENT_NODES_MAX as u64 + 10, "{reads} reads");
    }
}

/// Found by fuzzing: what vanishes as a whole is counted, and one node that stands for all of a map was
/// read 512³ times.
#[test]
fn zeroing_a_map_that_is_one_node_reads_it_seldom() {
    let store = Store::default();
    let pointer = Pointer::new(PackId(1), 0);
    let mut node = Node::new();
    (0..512).for_each(|slot| node.set(slot, pointer));
    store.plant(pointer, node);
    let root = Root { pointer, height: 4 };
    for zeroes in [0..BLOCKS_MAX, 1..BLOCKS_MAX, 512..BLOCKS_MAX - 1] {
        store.reads.set(0);
        let mut sink = store.sink();
        let cleared = zeroes.end - zeroes.start;
        let updated = update(&store, &mut sink, root, &[zeroes], &[]).unwrap();
        assert_eq!(updated.unmapped, cleared);
        assert!(store.reads.get() < 10_000, "{} reads", store.reads.get());
    }
}

#[test]
fn self_check_knows_wrong_shapes() {
    let store = Store::default();
    let (good, _) = apply(&store, Root::EMPTY, &[], &[3]);
    let [tall, empty] = [10, 11].map(|n| Pointer::new(PackId(9), n));
    let mut node = Node::new();
    store.plant(empty, node.clone());
    node.set(0, good.pointer);
    store.plant(tall, node);
    for (pointer, height) in [(tall, 2), (empty, 1)] {
        let checked = self_check(&store, Root { pointer, height });
        assert!(matches!(checked, Err(Error::Shape { pointer: p, .. }) if p == pointer));
    }
}
