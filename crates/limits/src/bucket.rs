//! A bucket of tokens.

use std::time::Duration;

/// Units of a level in a token: what a rate of 1 gives in a nanosecond.
const TOKEN: i128 = 1_000_000_000;

/// Tokens come in at a rate, up to a capacity; requests take them out. Exact: no fraction of a token is ever lost.
#[derive(Clone, Debug)]
pub(crate) struct Bucket {
    /// Tokens a second; not 0.
    rate: u64,
    /// Tokens; not 0.
    capacity: u64,
    /// Billionths of tokens. Less than none after a request that was larger than the capacity, or was not asked.
    level: i128,
    /// When the level was right, on a monotonic clock.
    at: Duration,
}

impl Bucket {
    pub(crate) const fn full(rate: u64, capacity: u64, now: Duration) -> Self {
        Bucket {
            rate,
            capacity,
            level: capacity as i128 * TOKEN,
            at: now,
        }
    }

    /// With what is in an old one, as far as there is room, and with what is owed there.
    pub(crate) fn inherit(&mut self, mut old: Bucket, now: Duration) {
        old.refill(now);
        self.level = self.level.min(old.level);
    }

    pub(crate) fn refill(&mut self, now: Duration) {
        // Two threads may have looked at the clock in one order and come here in the other.
        let passed = now.saturating_sub(self.at);
        let came = (self.rate as i128).saturating_mul(passed.as_nanos() as i128);
        self.level = (self.level + came).min(self.capacity as i128 * TOKEN);
        self.at += passed;
    }

    /// What must be there before so much is taken: all of it, or as much as there can be.
    fn needed(&self, cost: u64) -> i128 {
        cost.min(self.capacity) as i128 * TOKEN
    }

    pub(crate) fn has(&self, cost: u64) -> bool {
        self.level >= self.needed(cost)
    }

    /// How long it takes until there is enough for `cost`.
    pub(crate) fn wait(&self, cost: u64) -> Duration {
        let missing = (self.needed(cost) - self.level).max(0);
        let nanos = (missing as u128).div_ceil(self.rate.into());
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    pub(crate) fn take(&mut self, cost: u64) {
        self.level -= cost as i128 * TOKEN;
    }
}
