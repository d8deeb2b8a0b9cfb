//! Load on a vhost-user-blk device, for benchmarks: asks as a guest does, waits for calls as a guest does, and prints
//! what came of it as one JSON object.
//!
//! `vhost_load SOCKET KIND BLOCK DEPTH FLUSH_EVERY QUEUES SECONDS`: `KIND` is `read`, `write` (in order), `randread`,
//! `randwrite` or `mix` (70 % reads); `FLUSH_EVERY` writes, all answered, a flush is asked for, 0: never; each queue has
//! a thread and `DEPTH` requests under way.

use anyhow::{Context, Result, ensure};
use e2e::{
    stopwatch::Stopwatch,
    vhost::{Driver, Memory, Part, Queue},
};
use std::time::Duration;

const QUEUE_SIZE: u16 = 256;

/// What is asked for.
#[derive(Clone, Copy)]
struct Load {
    random: bool,
    /// Of ten requests, so many are writes.
    writes_of_ten: u64,
    block: u64,
    depth: usize,
    flush_every: u64,
    time: Duration,
    size: u64,
}

/// What came of it.
#[derive(Default)]
struct Outcome {
    requests: u64,
    /// Seconds.
    took: f64,
    /// Nanoseconds that each request took; flushes are not among them.
    latencies: Vec<u32>,
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [socket, kind, block, depth, flush_every, queues, seconds] = &arguments[..] else {
        anyhow::bail!("SOCKET KIND BLOCK DEPTH FLUSH_EVERY QUEUES SECONDS");
    };
    let (block, depth, queues): (u64, usize, usize) =
        (block.parse()?, depth.parse()?, queues.parse()?);
    let stride = block as usize * depth;
    let mut driver = Driver::connect(socket.as_ref(), queues, QUEUE_SIZE, stride * queues)?;
    let load = Load {
        random: kind.starts_with("rand") || kind == "mix",
        writes_of_ten: match kind.as_str() {
            "read" | "randread" => 0,
            "mix" => 3,
            _ => 10,
        },
        block,
        depth,
        flush_every: flush_every.parse()?,
        time: Duration::from_secs_f64(seconds.parse()?),
        size: driver.size()?,
    };
    ensure!(
        load.size >= block && depth > 0 && depth < QUEUE_SIZE.into(),
        "a device or a depth of an impossible size"
    );
    let (rings, memory) = driver.parts();
    let outcomes: Vec<Result<Outcome>> = std::thread::scope(|scope| {
        let run = |(number, queue)| {
            scope.spawn(move || Worker::new(load, number, memory)?.run(queue, memory))
        };
        let workers: Vec<_> = rings.iter_mut().enumerate().map(run).collect();
        workers
            .into_iter()
            .map(|worker| {
                worker
                    .join()
                    .unwrap_or_else(|_| Err(anyhow::anyhow!("a thread panicked")))
            })
            .collect()
    });
    print(outcomes.into_iter().collect::<Result<Vec<_>>>()?, block)
}

fn print(outcomes: Vec<Outcome>, block: u64) -> Result<()> {
    let iops: f64 = outcomes
        .iter()
        .map(|one| one.requests as f64 / one.took)
        .sum();
    let requests: u64 = outcomes.iter().map(|one| one.requests).sum();
    let mut latencies: Vec<u32> = outcomes.into_iter().flat_map(|one| one.latencies).collect();
    latencies.sort_unstable();
    let last = latencies
        .len()
        .checked_sub(1)
        .context("no request was answered")?;
    let us = |share: f64| f64::from(latencies[(last as f64 * share) as usize]) / 1e3;
    let result = serde_json::json!({
        "iops": iops, "mb_per_s": iops * block as f64 / 1e6, "requests": requests,
        "p50_us": us(0.5), "p99_us": us(0.99), "p999_us": us(0.999), "max_us": us(1.0),
    });
    println!("{result}");
    Ok(())
}

/// The state of a queue's thread.
struct Worker {
    load: Load,
    random: u64,
    /// The next block, in order.
    next: u64,
    slots: Vec<Part>,
    began: Vec<Duration>,
    free: Vec<usize>,
    written: u64,
}

/// What a flush is known by.
const FLUSH: usize = usize::MAX;

impl Worker {
    fn new(load: Load, number: usize, memory: &Memory) -> Result<Self> {
        let block = load.block as usize;
        let slots: Result<Vec<Part>> = (0..load.depth)
            .map(|slot| memory.part((number * load.depth + slot) * block, block))
            .collect();
        let mut worker = Worker {
            load,
            random: (u64::from(std::process::id()) << 20) + number as u64 + 1,
            next: 0,
            slots: slots?,
            began: vec![Duration::ZERO; load.depth],
            free: (0..load.depth).collect(),
            written: 0,
        };
        for slot in 0..load.depth {
            let noise: Vec<u8> = (0..block / 8)
                .flat_map(|_| worker.number().to_le_bytes())
                .collect();
            memory.fill(worker.slots[slot], &noise);
        }
        Ok(worker)
    }

    fn number(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }

    fn run(mut self, queue: &mut Queue, memory: &Memory) -> Result<Outcome> {
        let mut outcome = Outcome::default();
        outcome.latencies.reserve(4 << 20);
        let watch = Stopwatch::start();
        loop {
            let over = watch.elapsed() >= self.load.time;
            let due = self.load.flush_every > 0 && self.written >= self.load.flush_every;
            let idle = self.free.len() == self.load.depth;
            if over && idle {
                break;
            }
            if due && idle {
                self.written = 0;
                queue.flush(FLUSH)?;
            } else if !over && !due {
                self.fill(queue, memory, watch.elapsed())?;
            }
            queue.kick()?;
            let Worker { began, free, .. } = &mut self;
            let mut done: Vec<usize> = Vec::with_capacity(began.len());
            queue.wait(|slot| done.push(slot))?;
            let now = watch.elapsed();
            for slot in done.into_iter().filter(|&slot| slot != FLUSH) {
                outcome
                    .latencies
                    .push((now - began[slot]).as_nanos() as u32);
                outcome.requests += 1;
                free.push(slot);
            }
        }
        outcome.took = watch.elapsed().as_secs_f64();
        Ok(outcome)
    }

    /// Asks for as much as may be under way.
    fn fill(&mut self, queue: &mut Queue, memory: &Memory, now: Duration) -> Result<()> {
        let Load {
            block,
            size,
            flush_every,
            ..
        } = self.load;
        while let Some(slot) = self.free.pop() {
            self.next = if self.load.random {
                self.number()
            } else {
                self.next + 1
            };
            let offset = self.next % (size / block) * block;
            self.began[slot] = now;
            let part = self.slots[slot];
            if self.number() % 10 < self.load.writes_of_ten {
                self.freshen(memory, slot)?;
                queue.write(offset, part, slot)?;
                self.written += 1;
            } else {
                queue.read(offset, part, slot)?;
            }
            if flush_every > 0 && self.written >= flush_every {
                break;
            }
        }
        Ok(())
    }

    /// Makes a block another one: no two that are written are alike.
    fn freshen(&mut self, memory: &Memory, slot: usize) -> Result<()> {
        for at in (0..self.load.block as usize).step_by(512) {
            let number = self.number().to_le_bytes();
            memory.fill(self.slots[slot].at(at)?, &number);
        }
        Ok(())
    }
}
