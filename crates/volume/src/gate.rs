//! Readers of an old root are never surprised by collection.
//!
//! Who reads through a root passes the gate first and leaves it when done. A collection that has
//! noted the roots waits until everybody who came before is out: later readers use a root that it noted, or one
//! made from it.

use sync::{
    Condvar, Mutex,
    atomic::{AtomicU64, Ordering::SeqCst},
};

/// Counts readers by the parity of the phase that they came in.
#[derive(Default)]
pub(crate) struct Gate {
    phase: AtomicU64,
    inside: [AtomicU64; 2],
    waiting: Mutex<()>,
    left: Condvar,
}

/// Somebody is inside.
pub(crate) struct Pass<'a> {
    gate: &'a Gate,
    parity: usize,
}

impl Gate {
    pub(crate) fn enter(&self) -> Pass<'_> {
        loop {
            let phase = self.phase.load(SeqCst);
            let parity = (phase & 1) as usize;
            self.inside[parity].fetch_add(1, SeqCst);
            if self.phase.load(SeqCst) == phase {
                return Pass { gate: self, parity };
            }
            // The phase changed between: whoever changed it may already have looked.
            self.leave(parity);
        }
    }

    fn leave(&self, parity: usize) {
        if self.inside[parity].fetch_sub(1, SeqCst) == 1
            && (self.phase.load(SeqCst) & 1) as usize != parity
        {
            let _guard = self.waiting.lock();
            self.left.notify_all();
        }
    }

    /// Returns when everybody who entered before the call has left. One caller at a time.
    pub(crate) fn quiesce(&self) {
        let old = (self.phase.fetch_add(1, SeqCst) & 1) as usize;
        let mut guard = self.waiting.lock();
        while self.inside[old].load(SeqCst) != 0 {
            self.left.wait(&mut guard);
        }
    }
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        self.gate.leave(self.parity);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, atomic::AtomicBool};

    #[test]
    fn quiesce_waits_for_those_inside_and_for_nobody_else() {
        let gate = Arc::new(Gate::default());
        gate.quiesce();
        let pass = gate.enter();
        let over = Arc::new(AtomicBool::new(false));
        let waiter = env::spawn("waiter", {
            let (gate, over) = (Arc::clone(&gate), Arc::clone(&over));
            move || {
                gate.quiesce();
                over.store(true, SeqCst);
            }
        })
        .unwrap();
        while gate.phase.load(SeqCst) != 2 {
            std::thread::yield_now();
        }
        let _later = gate.enter();
        assert!(!over.load(SeqCst));
        drop(pass);
        waiter.join().unwrap();
        assert!(over.load(SeqCst));
    }
}
