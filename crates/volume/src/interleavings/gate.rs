//! Readers and a collection's quiesce.

use crate::gate::Gate;
use std::sync::Arc;
use sync::{
    atomic::{AtomicU64, Ordering::SeqCst},
    model::{explore, random},
};

/// A root that readers look up inside of the gate is given up only when none of them is left. Its number is what
/// the readers use; the collector makes `given_up` all below the current one.
#[test]
fn nobody_inside_uses_what_was_dropped_before_quiesce_returned() {
    explore(4000, || {
        let world = Arc::new((Gate::default(), AtomicU64::new(1), AtomicU64::new(0)));
        let reader = |_| {
            let world = Arc::clone(&world);
            let read = move || {
                let (gate, root, given_up) = &*world;
                for _ in 0..2 {
                    let _pass = gate.enter();
                    let mine = root.load(SeqCst);
                    for _ in 0..6 {
                        let gone = given_up.load(SeqCst);
                        assert!(mine > gone, "a reader meets what was given up");
                    }
                }
            };
            env::spawn("reader", read).unwrap()
        };
        let readers: Vec<_> = (0..1 + random(2)).map(reader).collect();
        let (gate, root, given_up) = &*world;
        for _ in 0..3 {
            let old = root.fetch_add(1, SeqCst);
            gate.quiesce();
            given_up.store(old, SeqCst);
        }
        for reader in readers {
            reader.join().unwrap();
        }
    });
}
