//! What snapshots are called.

use crate::{moment, quoted};
use jiff::{fmt::strtime, tz::TimeZone};
use std::{fmt, str::FromStr};
use types::{Name, NameError};

/// What may follow a `%`: what makes letters, digits, `-` and `:`, and hardly more of them at one time than at another.
const SPECIFIERS: &str = "YmdHMSjGVsabFT";
/// Bytes of a name that are left for a number that makes it another.
const ROOM: usize = 20;

/// A snapshot's name with the time in it, as `strftime` has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern(String);

impl Default for Pattern {
    fn default() -> Self {
        Pattern("auto-%Y-%m-%dT%H:%M:%S".to_owned())
    }
}

impl Pattern {
    /// A name at a moment that is none of those that are taken: with `-2`, `-3` and so on behind it if need be.
    ///
    /// # Errors
    /// Not of what was parsed.
    pub fn name(
        &self,
        at_ms: u64,
        zone: &TimeZone,
        taken: impl Fn(&str) -> bool,
    ) -> Result<Name, NameError> {
        let plain = self.format(at_ms, zone);
        let mut name = plain.clone();
        let mut number = 2_u64;
        while taken(&name) {
            name = format!("{plain}-{number}");
            number += 1;
        }
        name.parse()
    }

    /// No name, if it cannot be formatted.
    fn format(&self, at_ms: u64, zone: &TimeZone) -> String {
        let at = moment(at_ms).to_zoned(zone.clone());
        strtime::format(&self.0, &at).unwrap_or_default()
    }
}

impl FromStr for Pattern {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = |why: String| format!("{} is no pattern of names: {why}", quoted(text));
        let mut after_percent = text.split('%').skip(1);
        let unknown = after_percent.find(|rest| !rest.starts_with(|c| SPECIFIERS.contains(c)));
        if let Some(rest) = unknown {
            let known: Vec<String> = SPECIFIERS.chars().map(|c| format!("%{c}")).collect();
            let rest: String = rest.chars().take(1).collect();
            let why = format!("there is no '%{rest}'; use {}", known.join(" "));
            return Err(wrong(why));
        }
        let pattern = Pattern(text.to_owned());
        // On a day whose name, number and month are as long as any.
        let sample = pattern.format(1_703_980_799_000, &TimeZone::UTC);
        match sample.parse::<Name>() {
            Ok(_) if sample.len() + ROOM <= Name::LEN_MAX => Ok(pattern),
            Ok(_) => Err(wrong(format!(
                "its names may have {} characters",
                Name::LEN_MAX - ROOM
            ))),
            Err(_) => Err(wrong(format!(
                "{} is no name: use letters, digits, '.', '_', '-' or ':', beginning with a letter or digit",
                quoted(&sample)
            ))),
        }
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEW_YEAR: u64 = 1_735_689_600_000;

    fn name(pattern: &str, zone: &TimeZone, taken: &[&str]) -> String {
        let pattern: Pattern = pattern.parse().unwrap();
        let name = pattern.name(NEW_YEAR, zone, |name| taken.contains(&name));
        name.unwrap().to_string()
    }

    #[test]
    fn names_have_the_local_time_and_are_free() {
        let (utc, east) = (&TimeZone::UTC, &TimeZone::fixed(jiff::tz::offset(9)));
        let usual = Pattern::default().to_string();
        assert_eq!(name(&usual, utc, &[]), "auto-2025-01-01T00:00:00");
        assert_eq!(name(&usual, east, &[]), "auto-2025-01-01T09:00:00");
        assert_eq!(
            name("%F.%s_%G-W%V-%j.%a%b", utc, &[]),
            "2025-01-01.1735689600_2025-W01-001.WedJan"
        );
        assert_eq!(name("x", utc, &["x", "x-2"]), "x-3");
        assert_eq!(name("%T", utc, &["00:00:00"]), "00:00:00-2");
    }

    #[test]
    fn what_makes_no_names_is_refused_in_one_line() {
        let long = "x".repeat(109);
        for (wrong, why) in [
            ("", "no name"),
            ("-%Y", "no name"),
            ("a b", "no name"),
            ("a@%Y", "no name"),
            ("ü%Y", "no name"),
            ("a%", "no '%'"),
            ("%Y%%", "no '%'"),
            ("%z", "no '%z'"),
            ("%-d", "no '%-'"),
            ("%N\n", "no '%N'"),
            (&long, "108 characters"),
        ] {
            let error = wrong.parse::<Pattern>().unwrap_err();
            assert!(error.contains(why) && !error.contains('\n'), "{error}");
        }
        assert!(long[..108].parse::<Pattern>().is_ok());
    }

    #[test]
    fn every_name_of_ten_years_is_a_name() {
        let all: String = SPECIFIERS.chars().map(|c| format!("%{c}")).collect();
        let pattern: Pattern = format!("a{all}").parse().unwrap();
        for hour in 0..10 * 366 * 24 {
            let at = NEW_YEAR + hour * 3_600_000;
            assert!(pattern.name(at, &TimeZone::UTC, |_| false).is_ok());
        }
        let last = pattern.name(u64::MAX, &TimeZone::UTC, |_| false).unwrap();
        assert!(last.as_str().starts_with("a9999"), "{last}");
    }
}
