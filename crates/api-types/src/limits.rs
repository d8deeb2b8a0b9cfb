//! How fast a volume may be used.

use serde::{Deserialize, Serialize};
use types::{
    LimitKind,
    limits::{LimitChange, Limits as Record},
};
use utoipa::ToSchema;

/// Limits of a volume. Each request must satisfy all that count it; what is absent is not limited. In a change, what is
/// absent stays.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Requests of all kinds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub iops: Option<Limit>,
    /// Reads.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub read_iops: Option<Limit>,
    /// Writes, zeroing and discards.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub write_iops: Option<Limit>,
    /// Bytes read and written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bps: Option<Limit>,
    /// Bytes read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub read_bps: Option<Limit>,
    /// Bytes written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub write_bps: Option<Limit>,
}

/// One limit. In a change, what is absent stays.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Limit {
    /// Requests or bytes a second, in the long run; 0, in a change: no limit any more, and no burst.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate: Option<u64>,
    /// Requests or bytes a second for a while, at least the rate; 0, in a change: no burst any more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub burst: Option<u64>,
    /// Seconds that a burst lasts after a rest, 1 unless told otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub burst_seconds: Option<u32>,
}

impl Limits {
    /// One of them.
    pub const fn of(&mut self, kind: LimitKind) -> &mut Option<Limit> {
        match kind {
            LimitKind::Iops => &mut self.iops,
            LimitKind::ReadIops => &mut self.read_iops,
            LimitKind::WriteIops => &mut self.write_iops,
            LimitKind::Bps => &mut self.bps,
            LimitKind::ReadBps => &mut self.read_bps,
            LimitKind::WriteBps => &mut self.write_bps,
        }
    }

    /// Those that there are.
    #[must_use]
    pub fn list(mut self) -> Vec<(LimitKind, Limit)> {
        let kinds = LimitKind::ALL.into_iter();
        kinds
            .filter_map(|kind| Some((kind, (*self.of(kind))?)))
            .collect()
    }

    /// What they change.
    #[must_use]
    pub fn changes(self) -> Vec<LimitChange> {
        let change = |(kind, limit): (LimitKind, Limit)| LimitChange {
            kind,
            rate: limit.rate,
            burst: limit.burst,
            burst_seconds: limit.burst_seconds,
        };
        self.list().into_iter().map(change).collect()
    }
}

impl From<Record> for Limits {
    fn from(record: Record) -> Self {
        let mut limits = Limits::default();
        for (kind, limit) in record.iter() {
            *limits.of(kind) = Some(Limit {
                rate: Some(limit.rate),
                burst: limit.burst.map(|burst| burst.rate),
                burst_seconds: limit.burst.map(|burst| burst.seconds),
            });
        }
        limits
    }
}
