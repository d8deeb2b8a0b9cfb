//! A store of nodes in memory that watches what is done to it.
#![allow(
    unreachable_pub,
    dead_code,
    reason = "each test program uses a part of it"
)]

use blockmap::{Node, NodeSink, NodeSource};
use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};
use types::{PackId, Pointer};

/// Packs from here on hold data, those before nodes.
const DATA: u64 = 1 << 40;

#[derive(Debug, PartialEq, Eq)]
pub struct Missing;

#[derive(Default)]
pub struct Store {
    nodes: RefCell<BTreeMap<Pointer, Arc<Node>>>,
    next_node: Cell<u64>,
    next_data: Cell<u64>,
    pub reads: Cell<u64>,
    /// Whether what is missing is lost, or may come back.
    pub lossy: Cell<bool>,
}

impl Store {
    /// A pointer to data that no other block has.
    pub fn data(&self) -> Pointer {
        let n = self.next_data.replace(self.next_data.get() + 1);
        Pointer::new(PackId(DATA + n / 1024), (n % 1024) as u16)
    }

    /// Keeps a node that no update made.
    pub fn plant(&self, pointer: Pointer, node: Node) {
        self.nodes.borrow_mut().insert(pointer, Arc::new(node));
    }

    /// Loses a node.
    pub fn lose(&self, pointer: Pointer) {
        assert!(self.nodes.borrow_mut().remove(&pointer).is_some());
    }

    pub fn sink(&self) -> Sink<'_> {
        Sink {
            store: self,
            pending: BTreeMap::new(),
        }
    }
}

impl NodeSource for Store {
    type Error = Missing;
    fn node(&self, pointer: Pointer) -> Result<Arc<Node>, Missing> {
        assert!(!pointer.is_hole());
        self.reads.set(self.reads.get() + 1);
        self.nodes.borrow().get(&pointer).cloned().ok_or(Missing)
    }

    fn is_lost(&self, Missing: &Missing) -> bool {
        self.lossy.get()
    }
}

/// What it takes can be read only after `publish`, as with a pack that is not finished.
pub struct Sink<'a> {
    store: &'a Store,
    pending: BTreeMap<Pointer, Arc<Node>>,
}

impl Sink<'_> {
    pub fn publish(self) -> BTreeSet<Pointer> {
        let written = self.pending.keys().copied().collect();
        self.store.nodes.borrow_mut().extend(self.pending);
        written
    }
}

impl NodeSink for Sink<'_> {
    type Error = Missing;
    fn write_node(&mut self, node: &Node) -> Result<Pointer, Missing> {
        let known = |pointer: Pointer| {
            pointer.is_hole()
                || pointer.pack().0 >= DATA
                || self.pending.contains_key(&pointer)
                || self.store.nodes.borrow().contains_key(&pointer)
        };
        assert!(
            (0..512).all(|slot| known(node.get(slot))),
            "children before parents"
        );
        let n = self.store.next_node.replace(self.store.next_node.get() + 1);
        let pointer = Pointer::new(PackId(1 + n / 1024), (n % 1024) as u16);
        self.pending.insert(pointer, Arc::new(node.clone()));
        Ok(pointer)
    }
}
