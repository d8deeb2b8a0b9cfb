//! Requests of one user of a device that wait to be admitted.
//!
//! Only the first of each kind has asked the device: so users share a device's limits by turns, whatever each of them
//! has in flight, and what waits can be taken back.

use crate::{BlockDevice, Demand, Turn, Waiter};
use std::{
    collections::VecDeque,
    sync::{Arc, Weak},
};
use sync::{
    Mutex,
    atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst},
};

/// Two lines at a device, of reads and of what writes; `T` is a request, which one thread brings and `begin` starts.
pub struct Lines<T> {
    device: Arc<dyn BlockDevice>,
    begin: Box<dyn Fn(T) + Send + Sync>,
    lines: [Line<T>; 2],
    released: AtomicBool,
}

struct Line<T> {
    /// Whether there is anybody can be seen without the lock by who alone joins.
    len: AtomicUsize,
    waiting: Mutex<VecDeque<(Demand, T)>>,
    /// How often all of it was taken back. Changed under the lock.
    emptied: Arc<AtomicU64>,
}

/// The first of a line, where the device has it. Keeps nothing alive.
struct First<T> {
    lines: Weak<Lines<T>>,
    line: usize,
    emptied: Arc<AtomicU64>,
    /// As it was when this one asked.
    number: u64,
}

impl<T: Send + 'static> Lines<T> {
    /// At `device`. `begin` must be quick.
    pub fn new(
        device: Arc<dyn BlockDevice>,
        begin: impl Fn(T) + Send + Sync + 'static,
    ) -> Arc<Self> {
        let line = || Line {
            len: AtomicUsize::new(0),
            waiting: Mutex::new(VecDeque::new()),
            emptied: Arc::default(),
        };
        Arc::new(Lines {
            device,
            begin: Box::new(begin),
            lines: [line(), line()],
            released: AtomicBool::new(false),
        })
    }

    /// Whether a request may begin at once; if not, it [joins](Self::join) a line. Only by the thread that joins.
    pub fn may_pass(&self, demand: Demand) -> bool {
        let nobody_waits = self.lines[demand.access as usize].len.load(SeqCst) == 0;
        nobody_waits && self.device.admit(demand, Turn::Now)
    }

    /// Lets a request begin that cannot wait. It counts.
    pub fn owe(&self, demand: Demand) {
        self.device.admit(demand, Turn::Owed);
    }

    /// Has a request wait for its turn.
    pub fn join(self: &Arc<Self>, demand: Demand, request: T) {
        let line = &self.lines[demand.access as usize];
        let first = {
            let mut waiting = line.waiting.lock();
            // Under the lock: who releases everybody comes after us, or we see that he was here.
            if self.released.load(SeqCst) {
                drop(waiting);
                self.owe(demand);
                return (self.begin)(request);
            }
            waiting.push_back((demand, request));
            line.len.store(waiting.len(), SeqCst);
            waiting.len() == 1
        };
        if first {
            self.advance(line_of(demand));
        }
    }

    /// Lets everybody begin who waits, and who joins later. They count.
    pub fn release(&self) {
        self.released.store(true, SeqCst);
        for (demand, request) in self.take_all() {
            self.owe(demand);
            (self.begin)(request);
        }
    }

    /// Takes back all that wait.
    pub fn abandon(&self) -> Vec<T> {
        let waiting = self.take_all();
        waiting.into_iter().map(|(_, request)| request).collect()
    }

    fn take_all(&self) -> Vec<(Demand, T)> {
        let mut all = Vec::new();
        for line in &self.lines {
            let mut waiting = line.waiting.lock();
            all.extend(waiting.drain(..));
            line.len.store(0, SeqCst);
            line.emptied.fetch_add(1, SeqCst);
        }
        if let Some((demand, _)) = all.first() {
            self.device.admit(*demand, Turn::Gone);
        }
        all
    }

    /// Asks for the first of a line, and for the next while the answer is yes.
    fn advance(self: &Arc<Self>, line: usize) {
        loop {
            let request = {
                let mut waiting = self.lines[line].waiting.lock();
                let Some((demand, _)) = waiting.front() else {
                    return;
                };
                let emptied = Arc::clone(&self.lines[line].emptied);
                let first = First {
                    lines: Arc::downgrade(self),
                    line,
                    number: emptied.load(SeqCst),
                    emptied,
                };
                // Who calls us waits for the lock.
                if !self.device.admit(*demand, Turn::Later(Box::new(first))) {
                    return;
                }
                self.take_first(line, &mut waiting)
            };
            request.into_iter().for_each(&*self.begin);
        }
    }

    /// The first of a line may begin, unless it was taken back.
    fn called(self: &Arc<Self>, line: usize, number: u64) {
        let request = {
            let mut waiting = self.lines[line].waiting.lock();
            if self.lines[line].emptied.load(SeqCst) != number {
                return;
            }
            self.take_first(line, &mut waiting)
        };
        request.into_iter().for_each(&*self.begin);
        self.advance(line);
    }

    fn take_first(&self, line: usize, waiting: &mut VecDeque<(Demand, T)>) -> Option<T> {
        let first = waiting.pop_front();
        self.lines[line].len.store(waiting.len(), SeqCst);
        first.map(|(_, request)| request)
    }
}

impl<T: Send + 'static> Waiter for First<T> {
    fn waits(&self) -> bool {
        self.lines.strong_count() > 0 && self.emptied.load(SeqCst) == self.number
    }

    fn begin(self: Box<Self>) {
        if let Some(lines) = self.lines.upgrade() {
            lines.called(self.line, self.number);
        }
    }
}

const fn line_of(demand: Demand) -> usize {
    demand.access as usize
}
