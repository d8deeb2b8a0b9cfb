//! Who may begin, and who is next: decided here, without locks or time of its own.

use crate::bucket::Bucket;
use block::{Access, Demand, Waiter};
use std::{collections::VecDeque, time::Duration};
use types::{Limit, LimitKind, Limits};

/// What comes in a tenth of a second may be used at once, whatever the burst: timers are late now and then.
const SLACK: u64 = 10;

/// Somebody who may have left meanwhile.
pub(crate) trait Waits {
    fn waits(&self) -> bool;
}

impl Waits for Box<dyn Waiter> {
    fn waits(&self) -> bool {
        (**self).waits()
    }
}

/// The buckets of one volume, and who waits for them; `T` is what is done about it when it may begin.
pub(crate) struct Core<T> {
    buckets: Vec<Counted>,
    /// Reads, and what writes.
    lines: [VecDeque<InLine<T>>; 2],
    arrivals: u64,
}

struct Counted {
    kind: LimitKind,
    /// Keeps to the rate of the burst; else to that in the long run.
    burst: bool,
    bucket: Bucket,
}

struct InLine<T> {
    /// The younger, the larger.
    arrival: u64,
    demand: Demand,
    then: T,
}

impl<T: Waits> Core<T> {
    pub(crate) fn new(limits: &Limits, now: Duration) -> Self {
        Core {
            buckets: buckets(limits, now),
            lines: [VecDeque::new(), VecDeque::new()],
            arrivals: 0,
        }
    }

    /// Other limits from now on. What is owed stays owed, and nobody gains a burst by it.
    pub(crate) fn set(&mut self, limits: &Limits, now: Duration) {
        let old = std::mem::replace(&mut self.buckets, buckets(limits, now));
        for new in &mut self.buckets {
            let same = |old: &&Counted| (old.kind, old.burst) == (new.kind, new.burst);
            if let Some(old) = old.iter().find(same) {
                new.bucket.inherit(old.bucket.clone(), now);
            }
        }
    }

    /// Takes what a request needs, if it may begin before all who wait of its kind.
    pub(crate) fn pass(&mut self, demand: Demand, now: Duration) -> bool {
        self.refill(now);
        self.forget_gone();
        let passes = self.line(demand).is_empty() && self.may_begin(demand, u64::MAX);
        if passes {
            self.take(demand);
        }
        passes
    }

    /// Takes what a request needs, whether it is there or not.
    pub(crate) fn owe(&mut self, demand: Demand, now: Duration) {
        self.refill(now);
        self.take(demand);
    }

    pub(crate) fn join(&mut self, demand: Demand, then: T) {
        let arrival = self.arrivals;
        self.arrivals += 1;
        self.lines[demand.access as usize].push_back(InLine {
            arrival,
            demand,
            then,
        });
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.lines.iter().all(VecDeque::is_empty)
    }

    /// Those who may begin now, in order; what they need is taken.
    pub(crate) fn advance(&mut self, now: Duration) -> Vec<T> {
        self.refill(now);
        let mut gone = Vec::new();
        self.forget_gone();
        while let Some(line) = self.next_line() {
            let Some(waiter) = self.lines[line].pop_front() else {
                break;
            };
            self.take(waiter.demand);
            gone.push(waiter.then);
            self.forget_gone();
        }
        gone
    }

    /// Those in front that do not wait any more: nobody is to wait for them.
    fn forget_gone(&mut self) {
        for line in &mut self.lines {
            while line.front().is_some_and(|first| !first.then.waits()) {
                line.pop_front();
            }
        }
    }

    /// Everybody who waits.
    pub(crate) fn clear(&mut self) -> Vec<T> {
        let waiters = self.lines.iter_mut().flat_map(std::mem::take);
        waiters.map(|waiter| waiter.then).collect()
    }

    /// How long it takes until somebody may begin; none if nobody waits.
    pub(crate) fn wait(&mut self) -> Option<Duration> {
        self.forget_gone();
        let heads = self.lines.iter().filter_map(VecDeque::front);
        let wait = |head: &InLine<T>| {
            let needs = self.needs(head.demand);
            let waits = needs.map(|(_, bucket, cost)| bucket.wait(cost));
            waits.max().unwrap_or_default()
        };
        // Who stands back is looked at when the older one goes.
        heads
            .filter(|head| !self.stands_back(head.demand, head.arrival))
            .map(wait)
            .min()
    }

    /// The line whose first may begin; the older one, if both may.
    fn next_line(&self) -> Option<usize> {
        let heads = self.lines.iter().enumerate();
        let heads = heads.filter_map(|(line, waiters)| Some((line, waiters.front()?)));
        heads
            .filter(|(_, head)| self.may_begin(head.demand, head.arrival))
            .min_by_key(|(_, head)| head.arrival)
            .map(|(line, _)| line)
    }

    /// Whether there is enough of everything, and nobody older waits for a total: small requests of one kind would else
    /// take for ever what a large one of the other waits for.
    fn may_begin(&self, demand: Demand, arrival: u64) -> bool {
        let enough = self.needs(demand).all(|(_, bucket, cost)| bucket.has(cost));
        enough && !self.stands_back(demand, arrival)
    }

    fn stands_back(&self, demand: Demand, arrival: u64) -> bool {
        let other = self.lines[1 - demand.access as usize].front();
        let Some(other) = other.filter(|other| other.arrival < arrival) else {
            return false;
        };
        let lacks = |total: bool| {
            let mut needs = self.needs(other.demand);
            needs.any(|(kind, bucket, cost)| is_total(kind) == total && !bucket.has(cost))
        };
        self.needs(demand).any(|(kind, ..)| is_total(kind)) && lacks(true) && !lacks(false)
    }

    fn line(&self, demand: Demand) -> &VecDeque<InLine<T>> {
        &self.lines[demand.access as usize]
    }

    /// The buckets that a request takes from, and how much.
    fn needs(&self, demand: Demand) -> impl Iterator<Item = (LimitKind, &Bucket, u64)> {
        self.buckets
            .iter()
            .map(move |counted| (counted.kind, &counted.bucket, cost(counted.kind, demand)))
            .filter(|&(_, _, cost)| cost > 0)
    }

    fn take(&mut self, demand: Demand) {
        for counted in &mut self.buckets {
            counted.bucket.take(cost(counted.kind, demand));
        }
    }

    fn refill(&mut self, now: Duration) {
        for counted in &mut self.buckets {
            counted.bucket.refill(now);
        }
    }
}

const fn is_total(kind: LimitKind) -> bool {
    matches!(kind, LimitKind::Iops | LimitKind::Bps)
}

/// What a request takes of a bucket.
const fn cost(kind: LimitKind, demand: Demand) -> u64 {
    if !kind.counts(matches!(demand.access, Access::Read)) {
        0
    } else if kind.counts_bytes() {
        demand.bytes
    } else {
        1
    }
}

fn buckets(limits: &Limits, now: Duration) -> Vec<Counted> {
    let mut buckets = Vec::new();
    for (kind, limit) in limits.iter() {
        let slack = |rate: u64| (rate / SLACK).max(1);
        let mut add = |burst: bool, rate, capacity| {
            let bucket = Bucket::full(rate, capacity, now);
            buckets.push(Counted {
                kind,
                burst,
                bucket,
            });
        };
        add(false, limit.rate, capacity(limit).max(slack(limit.rate)));
        if let Some(burst) = limit.burst {
            add(true, burst.rate, slack(burst.rate));
        }
    }
    buckets
}

/// As much as lets a burst last as long as it may: the rate comes in meanwhile.
fn capacity(limit: Limit) -> u64 {
    limit.burst.map_or(0, |burst| {
        burst
            .rate
            .saturating_sub(limit.rate)
            .saturating_mul(burst.seconds.into())
    })
}

#[cfg(test)]
mod tests;
