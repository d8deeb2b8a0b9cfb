//! Snapshots that are taken by themselves: when, what they are called, and which of them are kept.
//!
//! All of it are functions of moments that the caller names, in the time zone that the caller names: nothing here looks
//! at a clock. Moments are milliseconds since the Unix epoch.
//!
//! ```text
//!  schedule: turn(done, now) ─▶ wait until … │ run (once, whatever was missed) │ the clock went back
//!  pattern:  name(now, taken) ─▶ a name that is free
//!  keep:     expired(taken) ─▶ those that no rule keeps
//! ```

mod keep;
mod pattern;
mod when;

pub use keep::{Keep, Taken};
pub use pattern::Pattern;
pub use when::{Schedule, Turn, parse_period};

use jiff::Timestamp;

/// The moment; the last one that there is if it is beyond that.
fn moment(ms: u64) -> Timestamp {
    let ms = i64::try_from(ms).ok();
    ms.and_then(|ms| Timestamp::from_millisecond(ms).ok())
        .unwrap_or(Timestamp::MAX)
}

/// Texts of people are quoted short and without control characters.
fn quoted(text: &str) -> String {
    const LEN: usize = 60;
    let plain = text.chars().map(|c| if c.is_control() { '?' } else { c });
    let mut short: String = plain.clone().take(LEN).collect();
    if plain.count() > LEN {
        short.push('…');
    }
    format!("'{short}'")
}
