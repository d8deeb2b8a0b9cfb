//! A queue that runs: its thread takes requests, does what needs no waiting, and hands over the rest.

use crate::{
    disk::Disk,
    inflight::{Inflight, Recovered},
    memory::Broken,
    request::{Kind, Parser, Request},
    ring::Ring,
    stats::Tally,
    wakeup::{Bell, Wakeup},
};
use block::{Durability, Lines};
use env::{Pool, Task, Vigil};
use std::{
    convert::Infallible,
    fs::File,
    io,
    os::fd::OwnedFd,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Acquire, Ordering::Relaxed, Ordering::Release},
    },
};
use sync::{Condvar, Mutex, thread::JoinHandle};

/// Answers are shown to the guest once so many were gathered, even if there is more to do: it goes on with them meanwhile.
/// With all of a queue at once, guest and device would wait for each other by turns.
const BATCH: usize = 4;
/// Requests are looked at so many at a time, so that what they need in memory is on its way when each is served.
const AHEAD: usize = 8;
/// Reads of more bytes wait for their own data, not for what finds it.
const EXPECTED_MAX: u64 = 32 << 10;
/// After so many requests, each alone in flight, the guest is taken to wait for each of its answers, and a hand-over
/// would only cost time.
const SOLITARY: u32 = 8;

pub(crate) type Jobs = Pool<Job>;

/// What a queue's thread and the jobs that it handed over share.
pub(crate) struct Queue {
    pub(crate) index: u16,
    pub(crate) ring: Ring,
    pub(crate) inflight: Option<Inflight>,
    pub(crate) disk: Arc<Disk>,
    /// Of every write: a guest that cannot flush gets a disk that need not be.
    pub(crate) durability: Durability,
    used: Mutex<Used>,
    idle: Condvar,
    stopping: AtomicBool,
}

/// The side of the ring that we write.
struct Used {
    next: u16,
    /// Requests that were handed over and are not answered.
    jobs: u16,
    call: Option<Arc<File>>,
}

/// A request that was done.
#[derive(Clone, Copy)]
struct Done {
    head: u16,
    len: u32,
}

/// What any request takes of a turn, as bytes.
const JOB_COST: u64 = 4096;

/// A request that may wait.
pub(crate) struct Job {
    queue: Arc<Queue>,
    head: u16,
    request: Request,
}

impl Task for Job {
    fn owner(&self) -> u64 {
        Arc::as_ptr(&self.queue.disk) as u64
    }

    fn cost(&self) -> u64 {
        JOB_COST + self.request.data_len()
    }

    fn run(self) {
        let Job {
            queue,
            head,
            request,
        } = self;
        let mut tally = Tally::default();
        let len = queue.serve(&request, true, &mut tally);
        // What may wait is always done.
        let done = Done {
            head,
            len: len.unwrap_or(0),
        };
        queue.disk.counters.add(&mut tally);
        queue.answer(&[done], true);
    }
}

impl Queue {
    pub(crate) fn new(
        index: u16,
        ring: Ring,
        inflight: Option<Inflight>,
        disk: Arc<Disk>,
        durability: Durability,
        call: Option<Arc<File>>,
    ) -> Self {
        let used = Used {
            next: ring.used_index(),
            jobs: 0,
            call,
        };
        Queue {
            index,
            ring,
            inflight,
            disk,
            durability,
            used: Mutex::new(used),
            idle: Condvar::new(),
            stopping: AtomicBool::new(false),
        }
    }

    fn serve(&self, request: &Request, wait: bool, tally: &mut Tally) -> Option<u32> {
        let memory = self.ring.memory();
        self.disk
            .serve(memory, request, self.durability, wait, tally)
    }

    /// Shows the guest what was done, all with one store, and tells it if it wants to be told.
    fn answer(&self, done: &[Done], of_job: bool) {
        let heads = || done.iter().map(|done| done.head);
        let mut used = self.used.lock();
        let old = used.next;
        for done in done {
            self.ring.put_used(used.next, done.head, done.len);
            used.next = used.next.wrapping_add(1);
        }
        if let Some(inflight) = &self.inflight {
            inflight.answer(heads());
        }
        self.ring.publish(used.next);
        if let Some(inflight) = &self.inflight {
            inflight.end(heads(), used.next);
        }
        if self.ring.wants_call(old, used.next) {
            self.disk.counters.calls.fetch_add(1, Relaxed);
            raise(used.call.as_deref());
        }
        if of_job {
            used.jobs -= 1;
            if used.jobs == 0 {
                self.idle.notify_all();
            }
        }
    }

    /// A job to be done elsewhere; it counts from now on.
    fn job(self: &Arc<Self>, head: u16, request: &Request) -> Result<Job, Broken> {
        let mut used = self.used.lock();
        // Who makes the same chain available again before it is answered could have any number of jobs.
        if used.jobs >= self.ring.size() {
            return Err(Broken("more requests than the ring has entries"));
        }
        used.jobs += 1;
        Ok(Job {
            queue: self.clone(),
            head,
            request: request.clone(),
        })
    }

    /// Waits until nothing that was handed over is left.
    fn drain(&self) {
        let mut used = self.used.lock();
        while used.jobs > 0 {
            self.idle.wait(&mut used);
        }
    }

    fn has_jobs(&self) -> bool {
        self.used.lock().jobs > 0
    }
}

/// A queue and its thread.
pub(crate) struct Running {
    queue: Arc<Queue>,
    lines: Arc<Lines<Job>>,
    stop: Arc<Bell>,
    thread: JoinHandle<End>,
}

/// Where a queue's thread left off.
pub(crate) struct End {
    /// The number of the next request to be taken.
    pub(crate) next: u16,
    /// The guest broke it.
    pub(crate) broken: bool,
}

impl Running {
    /// Takes what has to be done again, as if it came with number `next` first, and goes on with what comes after.
    ///
    /// # Errors
    /// There is no thread to be had, or `kick` is nothing that can be waited for.
    pub(crate) fn start(
        queue: Queue,
        next: u16,
        recovered: Recovered,
        kick: &File,
        err: Option<Arc<File>>,
        jobs: Arc<Jobs>,
    ) -> io::Result<Self> {
        let queue = Arc::new(queue);
        let stop = Arc::new(Bell::new()?);
        let wakeup = Wakeup::new(&stop, OwnedFd::from(kick.try_clone()?))?;
        let mut runner = Runner::new(queue.clone(), jobs, next, recovered.counter);
        let lines = runner.lines.clone();
        let thread = env::spawn("vhost-queue", move || {
            let outcome = runner.run(&recovered.again, &wakeup);
            if let Err(Broken(why)) = outcome {
                runner.queue.report(why, err.as_deref());
            }
            End {
                next: runner.next,
                broken: outcome.is_err(),
            }
        })?;
        Ok(Running {
            queue,
            lines,
            stop,
            thread,
        })
    }

    /// Takes no more requests, and returns when all that were taken are answered.
    pub(crate) fn stop(self) -> End {
        self.queue.stopping.store(true, Release);
        self.stop.ring();
        // Requests that panic are caught; what else panics is taken for the guest's doing.
        let end = self.thread.join().unwrap_or(End {
            next: 0,
            broken: true,
        });
        // There is no time for limits.
        self.lines.release();
        self.queue.drain();
        end
    }

    /// Whom to tell from now on.
    pub(crate) fn set_call(&self, call: Option<Arc<File>>) {
        self.queue.used.lock().call = call;
    }
}

impl Queue {
    fn report(&self, why: &'static str, err: Option<&File>) {
        tracing::warn!(
            queue = self.index,
            why,
            "a guest broke a vhost-user queue; it is stopped"
        );
        self.disk.counters.broken_queues.fetch_add(1, Relaxed);
        raise(err);
    }
}

/// Adds to a guest's eventfd. A guest that gave us something else is not told.
pub(crate) fn raise(event: Option<&File>) {
    if let Some(event) = event {
        let _ = rustix::io::write(event, &1u64.to_ne_bytes());
    }
}

/// Serves what is available on this thread, waiting for all of it.
#[cfg(feature = "testing")]
pub(crate) fn serve_waiting(queue: Queue, jobs: Arc<Jobs>) -> Result<(), Broken> {
    let next = queue.ring.used_index();
    let mut runner = Runner::new(Arc::new(queue), jobs, next, 0);
    let available = runner.queue.ring.available_index();
    let count = available.wrapping_sub(next).min(runner.queue.ring.size());
    let outcome = (0..count).try_for_each(|n| {
        let head = runner.queue.ring.available_head(next.wrapping_add(n));
        runner.take(&[head], true)
    });
    runner.answer();
    outcome
}

/// The state of a queue's thread.
struct Runner {
    queue: Arc<Queue>,
    jobs: Arc<Jobs>,
    /// Requests that limits of the device hold back.
    lines: Arc<Lines<Job>>,
    parser: Parser,
    requests: [Request; AHEAD],
    /// Of reads among them.
    offsets: Vec<u64>,
    next: u16,
    counter: u64,
    /// Not shown yet.
    done: Vec<Done>,
    /// All answers were shown, so that the guest may be asleep: of several requests it has the first answer at once, and
    /// wakes up while others are made. After a single one it is first looked whether there are more: what comes
    /// after an answer comes alone.
    awaited: bool,
    tally: Tally,
    /// How many requests came together last.
    together: u32,
    /// How many requests in a row were alone in flight.
    solitary: u32,
    vigil: Vigil,
}

impl Runner {
    fn new(queue: Arc<Queue>, jobs: Arc<Jobs>, next: u16, counter: u64) -> Self {
        let workers = jobs.clone();
        Runner {
            lines: Lines::new(queue.disk.device.clone(), move |job| workers.submit(job)),
            vigil: Vigil::new(queue.disk.options.poll),
            queue,
            jobs,
            parser: Parser::default(),
            requests: Default::default(),
            offsets: Vec::with_capacity(AHEAD),
            next,
            counter,
            done: Vec::with_capacity(BATCH),
            awaited: false,
            tally: Tally::default(),
            together: 0,
            solitary: 0,
        }
    }

    fn run(&mut self, again: &[u16], wakeup: &Wakeup) -> Result<(), Broken> {
        let outcome = self.serve_until_stopped(again, wakeup);
        // What was done before the guest broke the queue counts.
        self.answer();
        outcome
    }

    fn serve_until_stopped(&mut self, again: &[u16], wakeup: &Wakeup) -> Result<(), Broken> {
        self.tally.resumed(again.len());
        for heads in again.chunks(AHEAD) {
            self.take(heads, false)?;
        }
        self.answer();
        while !self.queue.stopping.load(Acquire) {
            self.queue.ring.want_no_kick();
            self.awaited = true;
            self.serve_available()?;
            self.wait_for_more(wakeup);
        }
        Ok(())
    }

    /// Waits until there may be something to do: awake for a while, if it has come soon lately.
    fn wait_for_more(&mut self, wakeup: &Wakeup) {
        let (queue, next) = (&self.queue, self.next);
        let is_due = || queue.ring.available_index() != next || queue.stopping.load(Acquire);
        let Ok(slept) = self
            .vigil
            .wait(&*queue.disk.clock, self.together, |sleeps| {
                if !sleeps {
                    return Ok::<_, Infallible>(is_due().then_some(false));
                }
                let asleep = !queue.ring.want_kick(next);
                if asleep {
                    wakeup.wait();
                }
                Ok(Some(asleep))
            });
        if slept {
            self.tally.woke_up();
        }
    }

    /// Serves everything that is available, as long as there is more, but not for ever.
    fn serve_available(&mut self) -> Result<(), Broken> {
        let mut taken = 0;
        loop {
            let available = self.queue.ring.available_index();
            let count = available.wrapping_sub(self.next);
            if count > self.queue.ring.size() {
                return Err(Broken("more requests than the ring has entries"));
            }
            if count == 0 || taken >= u32::from(self.queue.ring.size()) {
                break;
            }
            if taken == 0 {
                self.note_turn();
            }
            let count = count.min(AHEAD as u16);
            let heads: [u16; AHEAD] = std::array::from_fn(|n| {
                let number = self.next.wrapping_add(n as u16);
                self.queue.ring.available_head(number)
            });
            let alone = taken == 0 && count == 1 && self.solitary >= SOLITARY;
            let wait = alone && !self.queue.has_jobs();
            self.take(&heads[..count.into()], wait)?;
            taken += u32::from(count);
        }
        self.answer();
        if taken > 0 {
            self.together = taken;
        }
        Ok(())
    }

    /// More requests have come: a guest that waits for its answers has had all by now, also those of workers.
    fn note_turn(&mut self) {
        let alone = self.together <= 1 && !self.queue.has_jobs();
        self.solitary = if alone {
            self.solitary.saturating_add(1)
        } else {
            0
        };
    }

    /// Does requests, at most [`AHEAD`], or hands them over, up to one that is broken.
    fn take(&mut self, heads: &[u16], wait: bool) -> Result<(), Broken> {
        let mut count = 0;
        let parsed = heads.iter().try_for_each(|&head| {
            if head >= self.queue.ring.size() {
                return Err(Broken("a chain that begins beyond the ring"));
            }
            let request = &mut self.requests[count];
            self.parser.parse(&self.queue.ring, head, request)?;
            count += 1;
            Ok(())
        });
        if count > 1 {
            self.expect(count);
        }
        for (at, &head) in heads[..count].iter().enumerate() {
            self.begin(at, head, wait)?;
            self.next = self.next.wrapping_add(1);
            if self.done.len() >= BATCH || self.awaited && count > 1 {
                self.answer();
            }
        }
        parsed
    }

    /// Tells the device of the reads among so many requests.
    fn expect(&mut self, count: usize) {
        let offset = |request: &Request| match request.header.kind {
            Kind::Read if request.data_len() <= EXPECTED_MAX => Disk::offset(request),
            _ => None,
        };
        self.offsets.clear();
        self.offsets
            .extend(self.requests[..count].iter().filter_map(offset));
        self.queue.disk.device.expect(&self.offsets);
    }

    fn begin(&mut self, at: usize, head: u16, wait: bool) -> Result<(), Broken> {
        let (queue, request) = (&self.queue, &self.requests[at]);
        if let Some(inflight) = &queue.inflight {
            inflight.begin(head, self.counter);
            self.counter = self.counter.wrapping_add(1);
        }
        if let Some(demand) = request.demand()
            && !self.lines.may_pass(demand)
        {
            self.lines.join(demand, queue.job(head, request)?);
            return Ok(());
        }
        match queue.serve(request, wait, &mut self.tally) {
            Some(len) => self.done.push(Done { head, len }),
            None => self.jobs.submit(queue.job(head, request)?),
        }
        Ok(())
    }

    fn answer(&mut self) {
        self.queue.disk.counters.add(&mut self.tally);
        if !self.done.is_empty() {
            self.queue.answer(&self.done, false);
            self.done.clear();
            self.awaited = false;
        }
    }
}
