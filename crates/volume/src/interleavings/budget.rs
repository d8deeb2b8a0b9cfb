//! Writers at the end of the budget.

use crate::{
    budget::{Account, Budget, Need, Waiter},
    error::Error,
};
use std::{sync::Arc, time::Duration};
use sync::{
    Mutex,
    atomic::{AtomicU64, Ordering::SeqCst},
    model::{explore, random},
    thread::yield_now,
};

const WRITERS: u64 = 3;
const WRITES: u64 = 4;
const BLOCK: u64 = 4096;

/// Somebody else drains.
struct Waits;

impl Waiter for Waits {
    fn sleep(&self, _: Duration) {
        yield_now();
    }

    fn drain(&self) -> Result<bool, Error> {
        Ok(true)
    }
}

/// Every writer that waits is woken by the destage that makes room, or by the end. Nobody waits for time to pass.
#[test]
fn no_writer_waits_for_ever() {
    explore(2000, || {
        let budget = Arc::new(Budget::new((1 + random(3)) * BLOCK, 0));
        let dirty = Arc::new((Mutex::new([0_u64; 2]), AtomicU64::new(0)));
        // Of one volume, or of several.
        let accounts = Arc::new([0; 2].map(|_| Account::default()));
        let writers = [0, 0, 1].map(|volume| {
            let accounts = Arc::clone(&accounts);
            let (budget, dirty) = (Arc::clone(&budget), Arc::clone(&dirty));
            env::spawn("writer", move || {
                for _ in 0..WRITES {
                    let account = &accounts[volume];
                    budget.admit(account, BLOCK, Need::Space, &Waits).unwrap();
                    let mut dirty = dirty.0.lock();
                    dirty[volume] += BLOCK;
                    budget.charge(account, 0, BLOCK);
                }
                dirty.1.fetch_add(1, SeqCst);
            })
            .unwrap()
        });
        let gives_up = random(2) == 0;
        let destager = env::spawn("destager", {
            let (budget, dirty) = (Arc::clone(&budget), Arc::clone(&dirty));
            let accounts = Arc::clone(&accounts);
            move || {
                let mut drains = 0;
                while dirty.1.load(SeqCst) < WRITERS {
                    if gives_up && drains == 2 {
                        return budget.close();
                    }
                    if budget.fill() < 1.0 {
                        yield_now();
                        continue;
                    }
                    drains += 1;
                    let dirty = std::mem::take(&mut *dirty.0.lock());
                    for (account, bytes) in accounts.iter().zip(dirty) {
                        budget.release(account, bytes);
                    }
                }
            }
        });
        for writer in writers {
            writer.join().unwrap();
        }
        destager.unwrap().join().unwrap();
    });
}
