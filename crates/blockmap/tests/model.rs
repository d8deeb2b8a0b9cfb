//! The map against a `BTreeMap`, with every old root kept and checked again at the end.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod store;

use blockmap::{
    BLOCKS_MAX, Changed, Updated, changes, diff, extents, for_each_mapped, lookup, lookup_run,
};
use blockmap::{self_check, span, update, walk};
use proptest::prelude::*;
use std::{
    collections::{BTreeMap, BTreeSet},
    ops::{ControlFlow, Range},
};
use store::Store;
use types::{BlockIndex, Pointer, Root};

type Model = BTreeMap<u64, Pointer>;

/// One update: ranges that become holes, then blocks that get data (or a hole).
#[derive(Clone, Debug)]
struct Batch {
    zeroes: Vec<Range<u64>>,
    writes: BTreeMap<u64, bool>,
    /// Go on from this earlier state (a rollback) and not from the last.
    from: Option<prop::sample::Index>,
}

/// Blocks near the seams of the tree are likelier than others, and often the same ones.
fn block() -> impl Strategy<Value = u64> {
    prop_oneof![
        4 => 0..40u64,
        2 => 500..530u64,
        2 => (span(2) - 3)..(span(2) + 3),
        1 => (span(3) - 3)..(span(3) + 3),
        1 => (0..8u64).prop_map(|n| n * span(2) + n),
        1 => (BLOCKS_MAX - 600)..BLOCKS_MAX,
        1 => 0..BLOCKS_MAX,
    ]
}

fn disjoint(points: Vec<u64>) -> Vec<Range<u64>> {
    let points: BTreeSet<u64> = points.into_iter().collect();
    let points: Vec<u64> = points.into_iter().collect();
    let pairs = points.chunks_exact(2);
    pairs
        .filter_map(|pair| Some(*pair.first()?..*pair.get(1)?))
        .collect()
}

fn batch() -> impl Strategy<Value = Batch> {
    let zeroes = prop::collection::vec(block(), 0..6).prop_map(disjoint);
    let writes = prop::collection::btree_map(block(), prop::bool::weighted(0.8), 0..20);
    let from = prop::option::weighted(0.2, any::<prop::sample::Index>());
    (zeroes, writes, from).prop_map(|(zeroes, writes, from)| Batch {
        zeroes,
        writes,
        from,
    })
}

fn apply_to_model(model: &mut Model, batch: &Batch, writes: &[(BlockIndex, Pointer)]) {
    for zeroes in &batch.zeroes {
        let gone: Vec<u64> = model
            .range(zeroes.clone())
            .map(|(&block, _)| block)
            .collect();
        model.retain(|block, _| !gone.contains(block));
    }
    for &(block, pointer) in writes {
        if pointer.is_hole() {
            model.remove(&block.0);
        } else {
            model.insert(block.0, pointer);
        }
    }
}

fn nodes_of(store: &Store, root: Root) -> BTreeSet<Pointer> {
    let mut nodes = BTreeSet::new();
    walk(store, root, &mut |pointer, level| {
        level > 0 && nodes.insert(pointer)
    })
    .unwrap();
    nodes
}

fn verify(store: &Store, root: Root, model: &Model) {
    let shape = self_check(store, root).unwrap();
    assert_eq!(shape.mapped, model.len() as u64);
    assert_eq!(shape.nodes, nodes_of(store, root).len() as u64);
    let mut seen = Model::new();
    let all = for_each_mapped(store, root, 0..u64::MAX, &mut |block, pointer| {
        seen.insert(block.0, pointer);
        ControlFlow::Continue(())
    });
    assert!(all.unwrap().is_continue());
    assert_eq!(&seen, model);
    for &block in model.keys() {
        for near in block.saturating_sub(1)..block + 2 {
            let expected = model.get(&near).copied().unwrap_or_default();
            assert_eq!(lookup(store, root, BlockIndex(near)).unwrap(), expected);
        }
    }
    let start = model
        .keys()
        .next_back()
        .map_or(0, |last| last.saturating_sub(700));
    let mut run = vec![Pointer::HOLE; 1300];
    lookup_run(store, root, BlockIndex(start), &mut run).unwrap();
    for (block, pointer) in (start..).zip(run) {
        assert_eq!(pointer, model.get(&block).copied().unwrap_or_default());
    }
}

fn model_extents(model: &Model, range: Range<u64>, max: usize) -> Vec<(u64, bool)> {
    let mut runs: Vec<(u64, bool)> = Vec::new();
    let mut push = |len: u64, data: bool| match runs.last_mut() {
        _ if len == 0 => {}
        Some((last, kind)) if *kind == data => *last += len,
        _ => runs.push((len, data)),
    };
    let mut at = range.start;
    for (&block, _) in model.range(range.clone()) {
        push(block - at, false);
        push(1, true);
        at = block + 1;
    }
    push(range.end - at, false);
    runs.truncate(max);
    runs
}

fn model_diff(a: &Model, b: &Model, range: Range<u64>) -> Vec<Changed> {
    let blocks: BTreeSet<u64> = a.keys().chain(b.keys()).copied().collect();
    let mut runs: Vec<Changed> = Vec::new();
    for block in blocks.into_iter().filter(|block| range.contains(block)) {
        if a.get(&block) == b.get(&block) {
            continue;
        }
        let data = b.contains_key(&block);
        match runs.last_mut() {
            Some(run) if run.blocks.end == block && run.data == data => run.blocks.end += 1,
            _ => runs.push(Changed {
                blocks: block..block + 1,
                data,
            }),
        }
    }
    runs
}

fn model_changes(differing: &[Changed], range: Range<u64>, max: usize) -> Vec<(u64, bool)> {
    let blocks = differing.iter().flat_map(|run| run.blocks.clone());
    let model = blocks.map(|block| (block, Pointer::LOST)).collect();
    model_extents(&model, range, max)
}

fn collect_diff(store: &Store, a: Root, b: Root, range: Range<u64>) -> Vec<Changed> {
    let mut runs = Vec::new();
    let end = diff(store, a, b, range, &mut |run| {
        runs.push(run);
        ControlFlow::Continue(())
    });
    assert!(end.unwrap().is_continue());
    runs
}

/// One update on both; checks its counts, what it wrote, and that it wrote nothing in vain.
fn step(store: &Store, root: Root, model: &Model, batch: &Batch) -> (Root, Model) {
    let pointer = |data| if data { store.data() } else { Pointer::HOLE };
    let writes = batch
        .writes
        .iter()
        .map(|(&block, &data)| (BlockIndex(block), pointer(data)));
    let writes: Vec<_> = writes.collect();
    let mut after = model.clone();
    apply_to_model(&mut after, batch, &writes);

    let before = nodes_of(store, root);
    let mut sink = store.sink();
    let mut updated = update(store, &mut sink, root, &batch.zeroes, &writes).unwrap();
    let written = sink.publish();
    let now = nodes_of(store, updated.root);
    assert_eq!(
        written,
        now.difference(&before).copied().collect(),
        "each written node is used"
    );

    let count = |in_: &Model, not_in: &Model| {
        in_.keys()
            .filter(|block| !not_in.contains_key(block))
            .count() as u64
    };
    let by_value = |mut pointers: Vec<Pointer>| {
        pointers.sort_unstable_by_key(|p| p.to_raw());
        pointers
    };
    let replaced = writes
        .iter()
        .filter_map(|(block, to)| model.get(&block.0).filter(|was| *was != to));
    let expected = Updated {
        root: updated.root,
        mapped: count(&after, model),
        unmapped: count(model, &after),
        replaced: by_value(replaced.copied().collect()),
    };
    updated.replaced = by_value(updated.replaced);
    assert_eq!(updated, expected);
    (updated.root, after)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]

    #[test]
    fn behaves_like_a_sorted_map(
        batches in prop::collection::vec(batch(), 1..12),
        ranges in prop::collection::vec((block(), block(), 1..6usize), 8),
    ) {
        let store = Store::default();
        let mut states = vec![(Root::EMPTY, Model::new())];
        for batch in &batches {
            let at = batch.from.map_or(states.len() - 1, |index| index.index(states.len()));
            let (root, model) = &states[at];
            let next = step(&store, *root, model, batch);
            states.push(next);
        }
        for (root, model) in &states {
            verify(&store, *root, model);
        }
        for (n, &(from, to, max)) in ranges.iter().enumerate() {
            let range = from.min(to)..from.max(to);
            let (a, model_a) = &states[n % states.len()];
            let (b, model_b) = &states[(n * 5 + 1) % states.len()];
            prop_assert_eq!(
                extents(&store, *a, range.clone(), max).unwrap(),
                model_extents(model_a, range.clone(), max)
            );
            let differing = model_diff(model_a, model_b, range.clone());
            prop_assert_eq!(
                changes(&store, *a, *b, range.clone(), max).unwrap(),
                model_changes(&differing, range.clone(), max)
            );
            prop_assert_eq!(collect_diff(&store, *a, *b, range), differing);
        }
    }
}
