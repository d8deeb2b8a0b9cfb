//! How fast a volume may be used: requests and bytes a second, each in total, of reads and of writes.

use serde::{Deserialize, Serialize};

/// The fastest that can be asked for, requests or bytes a second: more than any machine does.
pub const RATE_MAX: u64 = 1 << 48;
/// The longest burst, seconds.
pub const BURST_SECONDS_MAX: u32 = 3600;

/// What a limit counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LimitKind {
    /// Requests of all kinds.
    Iops,
    /// Reads.
    ReadIops,
    /// Writes, zeroing and discards.
    WriteIops,
    /// Bytes read and written.
    Bps,
    /// Bytes read.
    ReadBps,
    /// Bytes written.
    WriteBps,
}

impl LimitKind {
    /// All of them.
    pub const ALL: [LimitKind; 6] = [
        LimitKind::Iops,
        LimitKind::ReadIops,
        LimitKind::WriteIops,
        LimitKind::Bps,
        LimitKind::ReadBps,
        LimitKind::WriteBps,
    ];

    /// How people write it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            LimitKind::Iops => "iops",
            LimitKind::ReadIops => "read-iops",
            LimitKind::WriteIops => "write-iops",
            LimitKind::Bps => "bps",
            LimitKind::ReadBps => "read-bps",
            LimitKind::WriteBps => "write-bps",
        }
    }

    /// Whether it counts bytes; else requests.
    #[must_use]
    pub const fn counts_bytes(self) -> bool {
        matches!(
            self,
            LimitKind::Bps | LimitKind::ReadBps | LimitKind::WriteBps
        )
    }

    /// Whether it counts reads, or else writes; a total counts both.
    #[must_use]
    pub const fn counts(self, reads: bool) -> bool {
        match self {
            LimitKind::Iops | LimitKind::Bps => true,
            LimitKind::ReadIops | LimitKind::ReadBps => reads,
            LimitKind::WriteIops | LimitKind::WriteBps => !reads,
        }
    }
}

/// A rate, and what may exceed it for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limit {
    /// Units a second, in the long run; not 0.
    pub rate: u64,
    /// Units a second, for a while.
    pub burst: Option<Burst>,
}

/// How fast, and how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Burst {
    /// Units a second; at least the rate.
    pub rate: u64,
    /// For so many seconds after a rest.
    pub seconds: u32,
}

/// The limits of a volume; each request must satisfy all that count it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits([Option<Limit>; LimitKind::ALL.len()]);

/// A change of one limit; what is absent stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LimitChange {
    /// Which.
    pub kind: LimitKind,
    /// Units a second; 0: no limit any more, and no burst.
    pub rate: Option<u64>,
    /// Units a second in a burst; 0: no burst any more.
    pub burst: Option<u64>,
    /// The length of a burst; 1 unless told otherwise.
    pub burst_seconds: Option<u32>,
}

impl Limits {
    /// None at all.
    pub const NONE: Limits = Limits([None; LimitKind::ALL.len()]);

    /// One of them.
    #[must_use]
    pub const fn get(&self, kind: LimitKind) -> Option<Limit> {
        self.0[kind as usize]
    }

    /// Sets one of them.
    pub const fn set(&mut self, kind: LimitKind, limit: Option<Limit>) {
        self.0[kind as usize] = limit;
    }

    /// Those that there are.
    pub fn iter(&self) -> impl Iterator<Item = (LimitKind, Limit)> + '_ {
        LimitKind::ALL
            .into_iter()
            .filter_map(|kind| Some((kind, self.get(kind)?)))
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Limits::NONE
    }

    /// Whether all are such as can be kept.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.iter().all(|(kind, limit)| limit.check(kind).is_ok())
    }

    /// Changes one of them.
    ///
    /// # Errors
    /// One line that says what is wrong with it.
    pub fn change(&mut self, change: &LimitChange) -> Result<(), String> {
        let name = change.kind.name();
        let old = self.get(change.kind);
        let rate = change.rate.or(old.map(|limit| limit.rate)).unwrap_or(0);
        if rate == 0 {
            if change.burst.unwrap_or(0) != 0 || change.burst_seconds.is_some() {
                return Err(format!(
                    "a burst needs a limit that it exceeds: set {name}, too"
                ));
            }
            self.set(change.kind, None);
            return Ok(());
        }
        let old = old.and_then(|limit| limit.burst);
        let burst = change.burst.or(old.map(|burst| burst.rate)).unwrap_or(0);
        if burst == 0 && change.burst_seconds.is_some() {
            return Err(format!("a burst needs a rate: set {name}-burst, too"));
        }
        let seconds = change.burst_seconds.or(old.map(|burst| burst.seconds));
        let limit = Limit {
            rate,
            burst: (burst != 0).then_some(Burst {
                rate: burst,
                seconds: seconds.unwrap_or(1),
            }),
        };
        limit.check(change.kind)?;
        self.set(change.kind, Some(limit));
        Ok(())
    }
}

impl Limit {
    fn check(self, kind: LimitKind) -> Result<(), String> {
        let name = kind.name();
        if self.rate == 0 || self.rate > RATE_MAX {
            return Err(format!("{name} is between 1 and {RATE_MAX}"));
        }
        let Some(burst) = self.burst else {
            return Ok(());
        };
        if burst.rate < self.rate || burst.rate > RATE_MAX {
            return Err(format!(
                "{name}-burst is at least {name}, {}, and at most {RATE_MAX}",
                self.rate
            ));
        }
        if !(1..=BURST_SECONDS_MAX).contains(&burst.seconds) {
            return Err(format!(
                "{name}-burst-seconds is between 1 and {BURST_SECONDS_MAX}"
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(rate: Option<u64>, burst: Option<u64>, burst_seconds: Option<u32>) -> LimitChange {
        LimitChange {
            kind: LimitKind::Iops,
            rate,
            burst,
            burst_seconds,
        }
    }

    #[test]
    fn what_is_not_named_stays() {
        let mut limits = Limits::NONE;
        let mut after = |c| limits.change(&c).map(|()| limits.get(LimitKind::Iops));
        let limit = |rate, burst: Option<(u64, u32)>| {
            let burst = burst.map(|(rate, seconds)| Burst { rate, seconds });
            Ok(Some(Limit { rate, burst }))
        };
        assert_eq!(after(change(Some(100), None, None)), limit(100, None));
        assert_eq!(
            after(change(None, Some(500), None)),
            limit(100, Some((500, 1)))
        );
        assert_eq!(
            after(change(None, None, Some(60))),
            limit(100, Some((500, 60)))
        );
        assert_eq!(
            after(change(Some(200), None, None)),
            limit(200, Some((500, 60)))
        );
        assert_eq!(after(change(None, Some(0), None)), limit(200, None));
        assert_eq!(after(change(Some(0), None, None)), Ok(None));
        assert!(limits.is_empty());
    }

    #[test]
    fn what_cannot_be_kept_is_refused_and_changes_nothing() {
        let mut limits = Limits::NONE;
        for wrong in [
            change(None, Some(5), None),
            change(None, None, Some(5)),
            change(Some(0), Some(5), None),
            change(Some(5), None, Some(5)),
            change(Some(5), Some(4), None),
            change(Some(5), Some(6), Some(0)),
            change(Some(5), Some(6), Some(BURST_SECONDS_MAX + 1)),
            change(Some(RATE_MAX + 1), None, None),
            change(Some(5), Some(RATE_MAX + 1), None),
        ] {
            assert!(limits.change(&wrong).is_err(), "{wrong:?}");
            assert!(limits.is_empty(), "{wrong:?}");
        }
    }
}
