//! Threads for requests that wait.

use std::{collections::VecDeque, io, sync::Arc};
use sync::{Condvar, Mutex, thread::JoinHandle};

/// Something to do that may wait for the disk, though never for a client.
pub trait Task: Send + 'static {
    /// Does it. Must not panic.
    fn run(self);
}

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
    queue: VecDeque<T>,
    idle: usize,
    threads: Vec<JoinHandle<()>>,
    stopping: bool,
}

impl<T: Task> Pool<T> {
    /// A pool of at most so many threads, all of that name.
    #[must_use]
    pub fn new(name: &'static str, threads_max: usize) -> Self {
        let state = State {
            queue: VecDeque::new(),
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
            threads_max: threads_max.max(1),
        }
    }

    /// Queues a task. It is run by the caller if no thread could be had at all.
    pub fn submit(&self, task: T) {
        let mut state = self.shared.state.lock();
        state.queue.push_back(task);
        if state.queue.len() > state.idle
            && state.threads.len() < self.threads_max
            && let Err(error) = self.start_thread(&mut state)
        {
            tracing::warn!(%error, pool = self.name, "no more threads for a pool");
            if state.threads.is_empty() {
                let task = state.queue.pop_back();
                drop(state);
                if let Some(task) = task {
                    task.run();
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
            if let Some(task) = state.queue.pop_front() {
                drop(state);
                task.run();
                state = self.state.lock();
            } else if state.stopping {
                return;
            } else {
                state.idle += 1;
                self.wake.wait(&mut state);
                state.idle -= 1;
            }
        }
    }
}
