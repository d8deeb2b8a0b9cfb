//! When: cron's five fields, their nicknames, and periods.

use crate::{moment, quoted};
use croner::{
    Cron,
    parser::{CronParser, Seconds, Year},
};
use jiff::tz::TimeZone;
use std::{fmt, str::FromStr, time::Duration};

/// A clock that goes back by no more than this was corrected: what was done stays done. Beyond, it was wrong before.
const CORRECTION_MS: u64 = 3600 * 1000;
/// The longest period: ten years.
const PERIOD_MAX: Duration = Duration::from_secs(3660 * 24 * 3600);
/// The longest text, in bytes.
const LEN_MAX: usize = 200;

/// The nicknames, and what they stand for.
const NICKNAMES: [(&str, &str); 5] = [
    ("@hourly", "0 * * * *"),
    ("@daily", "0 0 * * *"),
    ("@weekly", "0 0 * * 0"),
    ("@monthly", "0 0 1 * *"),
    ("@yearly", "0 0 1 1 *"),
];

/// When something is to be done, again and again.
#[derive(Clone, Debug)]
pub struct Schedule {
    text: String,
    when: When,
}

#[derive(Clone, Debug)]
enum When {
    /// At these times of the wall clock.
    Cron(Box<Cron>),
    /// So often, milliseconds, whatever the wall clock says.
    Every(u64),
}

/// What is to be done now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// Nothing before this moment.
    Wait(u64),
    /// A run, one for all that were missed: all up to this moment are done then.
    Run(u64),
    /// Nothing: the clock went back, and all that it counts from now on is to be done. As if all up to this moment were done.
    Back(u64),
    /// Nothing any more: there is no such time.
    Never,
}

impl Schedule {
    /// The first run after a moment; `None` if there is none.
    #[must_use]
    pub fn next(&self, after_ms: u64, zone: &TimeZone) -> Option<u64> {
        match &self.when {
            When::Every(period) => Some(after_ms.saturating_add(*period)),
            When::Cron(cron) => {
                let after = moment(after_ms).to_zoned(zone.clone());
                let next = cron.find_next_occurrence(&after, false).ok()?;
                u64::try_from(next.timestamp().as_millisecond()).ok()
            }
        }
    }

    /// What is to be done now, when all runs up to `done_ms` are done.
    ///
    /// # Behavior
    /// A clock that goes forward, or that nobody looked at for long, makes one run. One that goes back makes none of
    /// cron's a second time if it went back by up to an hour; beyond that it was wrong before, and what counts is what it says now.
    #[must_use]
    pub fn turn(&self, done_ms: u64, now_ms: u64, zone: &TimeZone) -> Turn {
        let corrected = match self.when {
            When::Cron(_) => CORRECTION_MS,
            When::Every(_) => 0,
        };
        if done_ms > now_ms.saturating_add(corrected) {
            return Turn::Back(now_ms);
        }
        match (self.next(done_ms, zone), &self.when) {
            (None, _) => Turn::Never,
            (Some(next), _) if next > now_ms => Turn::Wait(next),
            (Some(_), When::Cron(_)) => Turn::Run(now_ms),
            // It keeps its step however late it is looked at.
            (Some(_), When::Every(period)) => Turn::Run(now_ms - (now_ms - done_ms) % period),
        }
    }
}

/// A length of time: a number and s, m, h or d; `None` if it is not that, nothing, or too long to be counted.
#[must_use]
pub fn parse_period(text: &str) -> Option<Duration> {
    let unit = match text.chars().last()? {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => 24 * 3600,
        _ => return None,
    };
    let digits = &text[..text.len() - 1];
    let number = digits.bytes().all(|b| b.is_ascii_digit());
    let number: u64 = digits.parse().ok().filter(|_| number)?;
    let seconds = number.checked_mul(unit).filter(|seconds| *seconds > 0)?;
    Some(Duration::from_secs(seconds))
}

impl FromStr for Schedule {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = |why: &str| {
            format!(
                "{} is no schedule{why}: use @hourly, @daily, @weekly, @monthly, @yearly, @every NUMBER and s, m, h or d, or cron's five fields, as '30 2 * * *'",
                quoted(text)
            )
        };
        let of = |when| Schedule {
            text: text.to_owned(),
            when,
        };
        if let Some(period) = text.strip_prefix("@every ") {
            let period = parse_period(period).filter(|period| *period <= PERIOD_MAX);
            let period = period.ok_or_else(|| wrong(" (it lasts from 1s to 3660d)"))?;
            return Ok(of(When::Every(period.as_millis() as u64)));
        }
        let nickname = NICKNAMES.iter().find(|(nickname, _)| *nickname == text);
        let fields = nickname.map_or(text, |(_, fields)| fields);
        let plain = fields.is_ascii() && fields.len() <= LEN_MAX && !fields.contains('@');
        if !plain || fields.split(' ').filter(|field| !field.is_empty()).count() != 5 {
            return Err(wrong(""));
        }
        let parser = CronParser::builder()
            .seconds(Seconds::Disallowed)
            .year(Year::Disallowed)
            .build();
        let cron = parser.parse(fields).map_err(|e| {
            let why = e.to_string();
            wrong(&format!(" ({})", why.trim_end_matches('.')))
        })?;
        let schedule = of(When::Cron(Box::new(cron)));
        // The leap days of any eight years are among them.
        match schedule.next(0, &TimeZone::UTC) {
            Some(_) => Ok(schedule),
            None => Err(wrong(" (there is no such day)")),
        }
    }
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests;
