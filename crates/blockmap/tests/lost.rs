//! A map of which nodes are lost can be written, and never says of what it lost that it is a hole.
#![allow(
    clippy::unwrap_used,
    clippy::single_range_in_vec_init,
    reason = "helpers of tests"
)]

mod store;

use blockmap::{Error, extents, lookup, self_check, update, walk};
use std::ops::Range;
use store::{Missing, Store};
use types::{BlockIndex, Pointer, Root};

/// Five leaves under one top, of which the second is lost.
fn damaged(store: &Store) -> (Root, Vec<Pointer>) {
    let blocks: Vec<u64> = (0..5 * 512).collect();
    let writes: Vec<_> = blocks
        .iter()
        .map(|&block| (BlockIndex(block), store.data()))
        .collect();
    let mut sink = store.sink();
    let root = update(store, &mut sink, Root::EMPTY, &[], &writes)
        .unwrap()
        .root;
    sink.publish();
    let mut leaves = Vec::new();
    walk(store, root, &mut |pointer, level| {
        if level == 1 {
            leaves.push(pointer);
        }
        true
    })
    .unwrap();
    store.lose(leaves[1]);
    store.lossy.set(true);
    (
        root,
        writes.into_iter().map(|(_, pointer)| pointer).collect(),
    )
}

fn change(
    store: &Store,
    root: Root,
    zeroes: &[Range<u64>],
    blocks: &[u64],
) -> (Root, Vec<Pointer>) {
    let writes: Vec<_> = blocks
        .iter()
        .map(|&block| (BlockIndex(block), store.data()))
        .collect();
    let mut sink = store.sink();
    let root = update(store, &mut sink, root, zeroes, &writes)
        .unwrap()
        .root;
    sink.publish();
    (
        root,
        writes.into_iter().map(|(_, pointer)| pointer).collect(),
    )
}

#[test]
fn what_is_beside_a_write_stays_lost_and_what_is_written_is_there() {
    let store = Store::default();
    let (root, pointers) = damaged(&store);
    let missing = lookup(&store, root, BlockIndex(600));
    assert!(matches!(
        missing,
        Err(Error::Read {
            source: Missing,
            ..
        })
    ));
    let (root, new) = change(&store, root, &[700..710], &[600, 601]);
    for block in 0..5 * 512 {
        let expected = match block {
            600 | 601 => new[block as usize - 600],
            700..710 => Pointer::HOLE,
            512..1024 => Pointer::LOST,
            _ => pointers[block as usize],
        };
        assert_eq!(
            lookup(&store, root, BlockIndex(block)).unwrap(),
            expected,
            "{block}"
        );
    }
    self_check(&store, root).unwrap();
    // Once all of it is written, nothing is lost any more.
    let all: Vec<u64> = (512..1024).collect();
    let (root, new) = change(&store, root, &[], &all);
    assert_eq!(lookup(&store, root, BlockIndex(1023)).unwrap(), new[511]);
}

#[test]
fn a_lost_top_loses_everything_and_heals_as_well() {
    let store = Store::default();
    let (root, _) = damaged(&store);
    store.lose(root.pointer);
    let (root, new) = change(&store, root, &[], &[1000, 512 * 512 + 7]);
    assert_eq!(root.height, 3);
    assert_eq!(lookup(&store, root, BlockIndex(1000)).unwrap(), new[0]);
    assert_eq!(
        lookup(&store, root, BlockIndex(999)).unwrap(),
        Pointer::LOST
    );
    assert_eq!(
        lookup(&store, root, BlockIndex(512 * 512 + 7)).unwrap(),
        new[1]
    );
    // Another leaf is lost as a whole, not block by block, until something is written there.
    let below = lookup(&store, root, BlockIndex(2000));
    assert!(matches!(
        below,
        Err(Error::Read {
            pointer: Pointer::LOST,
            ..
        })
    ));
    let (root, _) = change(&store, root, &[0..512 * 512], &[]);
    assert_eq!(
        lookup(&store, root, BlockIndex(2000)).unwrap(),
        Pointer::HOLE
    );
    self_check(&store, root).unwrap();
}

#[test]
fn what_may_come_back_is_not_given_up() {
    let store = Store::default();
    let (root, _) = damaged(&store);
    store.lossy.set(false);
    let writes = [(BlockIndex(600), store.data())];
    let refused = update(&store, &mut store.sink(), root, &[], &writes);
    assert!(matches!(
        refused,
        Err(Error::Read {
            source: Missing,
            ..
        })
    ));
}

#[test]
fn what_is_lost_is_no_hole() {
    let store = Store::default();
    let (root, _) = damaged(&store);
    assert_eq!(
        extents(&store, root, 0..3000, 9).unwrap(),
        [(2560, true), (440, false)]
    );
    let (root, _) = change(&store, root, &[512..600, 1024..2560], &[]);
    let runs = [(512, true), (88, false), (424, true), (1976, false)];
    assert_eq!(extents(&store, root, 0..3000, 9).unwrap(), runs);
}
