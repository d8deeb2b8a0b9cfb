//! What people and programs see.

use super::failure::Failure;
use comfy_table::{CellAlignment, Table, presets::NOTHING};
use jiff::{Timestamp, tz::TimeZone};
use serde::Serialize;
use std::io::Write;

/// How answers are printed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Output {
    pub(crate) json: bool,
    pub(crate) quiet: bool,
}

impl Output {
    /// An answer: JSON, or what `human` makes of it.
    pub(crate) fn show<T: Serialize>(
        self,
        value: &T,
        human: impl FnOnce(&T) -> String,
    ) -> Result<(), Failure> {
        let text = if self.json {
            serde_json::to_string_pretty(value).map_err(|e| Failure::internal(e.to_string()))?
        } else {
            human(value)
        };
        if text.is_empty() {
            Ok(())
        } else {
            print(&text)
        }
    }

    /// That something was done: JSON always, one line for people unless they want quiet.
    pub(crate) fn done<T: Serialize>(
        self,
        value: &T,
        human: impl FnOnce(&T) -> String,
    ) -> Result<(), Failure> {
        if self.quiet && !self.json {
            Ok(())
        } else {
            self.show(value, human)
        }
    }
}

/// Prints a text and a line's end. Who does not want to read on ends us quietly.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    match writeln!(out, "{text}").and_then(|()| out.flush()) {
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => std::process::exit(0),
        other => Ok(other?),
    }
}

/// Columns under a header; those named with a `>` before are aligned to the right.
pub(crate) fn table(header: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(NOTHING);
    table.set_header(header.iter().map(|name| name.trim_start_matches('>')));
    for row in rows {
        table.add_row(row);
    }
    for (column, name) in table.column_iter_mut().zip(header) {
        let left = if column.index == 0 { 0 } else { 1 };
        column.set_padding((left, 1));
        if name.starts_with('>') {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
        .lines()
        .map(|line| line.trim_end().to_owned())
        .collect::<Vec<_>>()
        .join("\n")
}

/// Names and values, a pair a line.
pub(crate) fn pairs(pairs: &[(&str, String)]) -> String {
    let width = pairs.iter().map(|(name, _)| name.len()).max().unwrap_or(0) + 2;
    let line = |(name, value): &(&str, String)| format!("{:<width$}{value}", format!("{name}:"));
    pairs.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// A moment, in local time.
pub(crate) fn time(ms: u64) -> String {
    let moment = i64::try_from(ms)
        .ok()
        .and_then(|ms| Timestamp::from_millisecond(ms).ok());
    moment.map_or_else(String::new, |moment| {
        moment
            .to_zoned(TimeZone::system())
            .strftime("%Y-%m-%d %H:%M:%S")
            .to_string()
    })
}

/// A length of time, for people.
pub(crate) fn duration(ms: u64) -> String {
    match ms {
        0..1000 => format!("{ms} ms"),
        1000..60_000 => format!("{:.1} s", ms as f64 / 1000.0),
        60_000..3_600_000 => format!("{} min {} s", ms / 60_000, ms / 1000 % 60),
        _ => format!("{} h {} min", ms / 3_600_000, ms / 60_000 % 60),
    }
}

/// `on` or `off`.
pub(crate) fn switch(on: bool) -> String {
    if on { "on".into() } else { "off".into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_have_no_borders_and_align() {
        let text = table(
            &["NAME", ">SIZE"],
            [
                vec!["a".into(), "1 B".into()],
                vec!["bcdef".into(), "10 GiB".into()],
            ],
        );
        assert_eq!(text, "NAME     SIZE\na         1 B\nbcdef  10 GiB");
        assert_eq!(
            pairs(&[("id", "7".into()), ("name", "x".into())]),
            "id:   7\nname: x"
        );
    }

    #[test]
    fn durations_for_people() {
        assert_eq!(duration(7), "7 ms");
        assert_eq!(duration(1500), "1.5 s");
        assert_eq!(duration(125_000), "2 min 5 s");
    }
}
