//! Readers and a collection's quiesce.

use crate::gate::Gate;
use std::sync::Arc;
use sync::{
    atomic::{AtomicU64, Ordering::SeqCst},
    model::explore,
};

/// A root that readers look up inside of the gate is given up only when none of them is left. Its number is what
/// the readers use; the collector makes `given_up` all below the current one.
#[test]
fn nobody_inside_uses_what_was_dropped_before_quiesce_returned() {
    explore(4000, || {
        let world = Arc::new((Gate::default(), AtomicU64::new(1), AtomicU64::new(0)));
        let readers = [0, 1].map(|_| {
            let world = Arc::clone(&world);
            env::spawn("reader", move || {
                let (gate, root, given_up) = &*world;
                for _ in 0..3 {
                    let _pass = gate.enter();
                    let mine = root.load(SeqCst);
                    assert!(
                        mine > given_up.load(SeqCst),
                        "a reader meets what was given up"
                    );
                }
            })
            .unwrap()
        });
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
