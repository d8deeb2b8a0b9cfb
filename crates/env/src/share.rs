//! How a thread shares the processors with others.

use rustix::{
    process::{Pid, getpriority_process, setpriority_process},
    thread::gettid,
};
use std::collections::BTreeMap;
use sync::Mutex;

/// Of threads that give way: a tenth of what others get who want the processor too.
const NICE: i32 = 10;

/// From now on the calling thread has the processors only as far as others leave them: for work that nobody waits for.
pub fn give_way() {
    // Nobody needs a privilege for less.
    set_nice(None, NICE);
}

fn set_nice(thread: Option<Pid>, nice: i32) {
    // Threads of a model are all one.
    if sync::IS_MODEL {
        return;
    }
    if let Err(error) = setpriority_process(thread, nice) {
        tracing::debug!(%error, "a thread keeps its priority");
    }
}

/// Owners that threads work for, and those threads.
#[derive(Default)]
pub struct Shares(Mutex<BTreeMap<u64, Vec<Pid>>>);

/// A thread that works for an owner.
pub struct Share<'a> {
    shares: &'a Shares,
    owner: u64,
    thread: Pid,
    /// Its priority before.
    nice: i32,
}

impl Shares {
    /// Until this is dropped, the calling thread and all others that work for `owner` have together what one thread
    /// would have of the processors, where these are scarce.
    ///
    /// Coming back to what it was takes a privilege (`RLIMIT_NICE`); without it, who was one of many stays so.
    pub fn join(&self, owner: u64) -> Share<'_> {
        let share = Share {
            shares: self,
            owner,
            thread: gettid(),
            nice: getpriority_process(None).unwrap_or(0),
        };
        let mut shares = self.0.lock();
        let threads = shares.entry(owner).or_default();
        threads.push(share.thread);
        balance(threads, share.nice);
        share
    }
}

impl Drop for Share<'_> {
    fn drop(&mut self) {
        let mut shares = self.shares.0.lock();
        let Some(threads) = shares.get_mut(&self.owner) else {
            return;
        };
        threads.retain(|thread| *thread != self.thread);
        balance(threads, self.nice);
        if threads.is_empty() {
            shares.remove(&self.owner);
        }
        set_nice(Some(self.thread), self.nice);
    }
}

fn balance(threads: &[Pid], nice: i32) {
    let nice = nice + nice_of_one_in(threads.len());
    threads
        .iter()
        .for_each(|&thread| set_nice(Some(thread), nice));
}

/// Each step takes a fifth of a thread's weight.
fn nice_of_one_in(count: usize) -> i32 {
    (count.max(1) as f64).log(1.25).round() as i32
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Barrier;

    #[test]
    fn a_priority_is_the_threads_own() {
        let before = getpriority_process(None).unwrap();
        let gives_way = crate::spawn("gives way", || {
            give_way();
            getpriority_process(None).unwrap()
        })
        .unwrap();
        assert_eq!(gives_way.join().unwrap(), NICE.max(before));
        assert_eq!(getpriority_process(None).unwrap(), before);
    }

    #[test]
    fn threads_of_one_owner_have_the_share_of_one() {
        assert_eq!([0, 1, 2, 4, 16].map(nice_of_one_in), [0, 0, 3, 6, 12]);
        let (shares, together) = (Shares::default(), Barrier::new(3));
        let nice = || getpriority_process(None).unwrap();
        let before = nice();
        let seen = std::thread::scope(|scope| {
            let threads = [1, 1, 2].map(|owner| {
                let (shares, together) = (&shares, &together);
                scope.spawn(move || {
                    let _share = shares.join(owner);
                    together.wait();
                    let seen = nice();
                    together.wait();
                    seen
                })
            });
            threads.map(|thread| thread.join().unwrap())
        });
        assert_eq!(seen, [3, 3, 0].map(|more| before + more));
        assert!(shares.0.lock().is_empty());
        let share = shares.join(1);
        assert_eq!(nice(), before);
        drop(share);
    }
}
