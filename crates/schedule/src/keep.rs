//! Which are kept: the newest of each hour, day, week, month and year, for so many of them.

use crate::{moment, quoted};
use jiff::{Zoned, tz::TimeZone};
use std::{collections::BTreeSet, fmt, str::FromStr};
use types::SnapshotId;

/// The largest number of a rule.
const COUNT_MAX: u32 = 9999;

/// What a rule keeps one of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Period {
    Last,
    Hour,
    Day,
    Week,
    Month,
    Year,
}

const PERIODS: [(&str, Period); 6] = [
    ("last", Period::Last),
    ("hourly", Period::Hour),
    ("daily", Period::Day),
    ("weekly", Period::Week),
    ("monthly", Period::Month),
    ("yearly", Period::Year),
];

/// Rules of which any one that keeps a snapshot is enough.
///
/// # Behavior
/// A rule counts periods in which there are snapshots, from the newest snapshot back, and keeps the newest of each.
/// What is kept follows from the snapshots alone and not from the clock: while none is taken none expires, and the
/// newest never does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keep(Vec<(Period, u32)>);

/// A snapshot that was taken by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken {
    /// Which; later ones have higher ones, whatever the clock said.
    pub id: SnapshotId,
    /// When, by the clock.
    pub at_ms: u64,
}

impl Keep {
    /// Those that no rule keeps, oldest first.
    #[must_use]
    pub fn expired(&self, taken: &[Taken], zone: &TimeZone) -> Vec<SnapshotId> {
        let mut newest_first = taken.to_vec();
        newest_first.sort_by_key(|taken| std::cmp::Reverse(taken.id));
        let times = newest_first.iter().map(|taken| moment(taken.at_ms));
        let times: Vec<Zoned> = times.map(|at| at.to_zoned(zone.clone())).collect();
        let mut kept = BTreeSet::new();
        for &(period, count) in &self.0 {
            let mut left = count;
            let mut before = None;
            for (taken, time) in newest_first.iter().zip(&times) {
                // Not whether it was met before: after a clock went back the same hour is another one.
                let this = Some(period.number(taken.id, time));
                if left > 0 && this != before {
                    left -= 1;
                    kept.insert(taken.id);
                }
                before = this;
            }
        }
        let all = newest_first.iter().rev().map(|taken| taken.id);
        all.filter(|id| !kept.contains(id)).collect()
    }
}

impl Period {
    /// Which of its kind a time is in; an hour that comes twice as summer ends is two.
    fn number(self, id: SnapshotId, time: &Zoned) -> (i64, i64) {
        let offset = i64::from(time.offset().seconds());
        let seconds = time.timestamp().as_second() + offset;
        let day = seconds.div_euclid(24 * 3600);
        let (year, month) = (i64::from(time.year()), i64::from(time.month()));
        match self {
            Period::Last => (id.0.cast_signed(), 0),
            Period::Hour => (seconds.div_euclid(3600), offset),
            Period::Day => (day, 0),
            // From Monday on; the first day of all was a Thursday.
            Period::Week => ((day + 3).div_euclid(7), 0),
            Period::Month => (year, month),
            Period::Year => (year, 0),
        }
    }
}

impl FromStr for Keep {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = |why: String| {
            format!(
                "{} says not what to keep: {why}; write as 'hourly:24,daily:7': last, hourly, daily, weekly, monthly, yearly, each with a number from 1 to {COUNT_MAX}",
                quoted(text)
            )
        };
        let mut rules: Vec<(Period, u32)> = Vec::new();
        for part in text.split(',') {
            let (name, count) = part
                .split_once(':')
                .ok_or_else(|| wrong(format!("{} has no number", quoted(part))))?;
            let period = PERIODS.iter().find(|(period, _)| *period == name);
            let (_, period) =
                period.ok_or_else(|| wrong(format!("there is no {}", quoted(name))))?;
            if rules.iter().any(|(other, _)| other == period) {
                return Err(wrong(format!("{} is there twice", quoted(name))));
            }
            let digits = count.bytes().all(|b| b.is_ascii_digit());
            let count = count.parse().ok().filter(|_| digits);
            let count = count.filter(|count| (1..=COUNT_MAX).contains(count));
            let count =
                count.ok_or_else(|| wrong(format!("{} has no such number", quoted(part))))?;
            rules.push((*period, count));
        }
        Ok(Keep(rules))
    }
}

impl fmt::Display for Keep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut comma = "";
        for (period, count) in &self.0 {
            let name = PERIODS.iter().find(|(_, other)| other == period);
            write!(f, "{comma}{}:{count}", name.map_or("", |(name, _)| name))?;
            comma = ",";
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
