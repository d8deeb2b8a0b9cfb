//! Threads for requests that wait.

use crate::turns::Turns;
use std::{io, sync::Arc};
use sync::{Condvar, Mutex, thread::JoinHandle};

/// Something to do that may wait for the disk, though never for a client.
pub trait Task: Send + 'static {
    /// Whose it is: owners take turns.
    fn owner(&self) -> u64;
    /// What it takes of its owner's turn, in bytes; of what is very long, not all counts.
    fn cost(&self) -> u64;
    /// Does it. Must not panic.
    fn run(self);
}

/// What all owners together may have of threads, times what one may have: so nobody keeps others from theirs.
const OWNERS_AT_ONCE: usize = 4;

/// Threads are started as they are needed, up to a limit, and stay.
///
/// The queue is bounded by what its users may have in flight.
pub struct Pool<T: Task> {
    name: &'static str,
    shared: Arc<Shared<T>>,
    threads_max: usize,
}

struct Shared<T> {
    state: Mutex<State<T>>,
    wake: Condvar,
}

struct State<T> {
    queue: Turns<T>,
    idle: usize,
    threads: Vec<JoinHandle<()>>,
    stopping: bool,
}

impl<T: Task> Pool<T> {
    /// A pool of at most so many threads for one owner's tasks, and four times as many in all; all of that name.
    #[must_use]
    pub fn new(name: &'static str, threads_max: usize) -> Self {
        let threads_max = threads_max.max(1);
        let state = State {
            queue: Turns::new(threads_max),
            idle: 0,
            threads: Vec::new(),
            stopping: false,
        };
        Pool {
            name,
            shared: Arc::new(Shared {
                state: Mutex::new(state),
                wake: Condvar::new(),
            }),
            threads_max: threads_max * OWNERS_AT_ONCE,
        }
    }

    /// Queues a task. It is run by the caller if no thread could be had at all.
    pub fn submit(&self, task: T) {
        let mut state = self.shared.state.lock();
        state.queue.push(task.owner(), task.cost(), task);
        if state.queue.ready() > state.idle
            && state.threads.len() < self.threads_max
            && let Err(error) = self.start_thread(&mut state)
        {
            tracing::warn!(%error, pool = self.name, "no more threads for a pool");
            if state.threads.is_empty() {
                let taken = state.queue.pop();
                drop(state);
                if let Some((owner, task)) = taken {
                    task.run();
                    self.shared.state.lock().queue.done(owner);
                }
                return;
            }
        }
        drop(state);
        self.shared.wake.notify_one();
    }

    fn start_thread(&self, state: &mut State<T>) -> io::Result<()> {
        let shared = self.shared.clone();
        let thread = crate::spawn(self.name, move || shared.work())?;
        state.threads.push(thread);
        Ok(())
    }

    /// Ends the threads once the queue is empty.
    pub fn stop(&self) {
        let threads = {
            let mut state = self.shared.state.lock();
            state.stopping = true;
            std::mem::take(&mut state.threads)
        };
        self.shared.wake.notify_all();
        for thread in threads {
            // Tasks catch their panics.
            let _ = thread.join();
        }
    }
}

impl<T: Task> Shared<T> {
    fn work(&self) {
        let mut state = self.state.lock();
        loop {
            if let Some((owner, task)) = state.queue.pop() {
                drop(state);
                task.run();
                state = self.state.lock();
                state.queue.done(owner);
            } else if state.stopping {
                // What may not be taken now is left to those who are at work for the same owner.
                return;
            } else {
                state.idle += 1;
                self.wake.wait(&mut state);
                state.idle -= 1;
            }
        }
    }
}
