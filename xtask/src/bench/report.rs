//! Results: kept as JSON, job by job, and written from that as a table and as plots.

use super::{
    figures::{Goal, Outcome, Side, least, median, most},
    jobs::{CATALOG, Job},
    machine, plot,
};
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

/// All results that there are.
pub(crate) struct Report {
    dir: PathBuf,
    machine: String,
    results: BTreeMap<String, Measured>,
}

/// What came out of one job, when last it ran.
#[derive(Serialize, Deserialize)]
struct Measured {
    machine: String,
    /// Of the source, with a `+` if it was changed since.
    commit: String,
    date: String,
    rounds: u32,
    outcomes: Vec<Outcome>,
}

impl Report {
    /// Those in `dir`, to be added to.
    pub(crate) fn open(dir: &Path, machine: String) -> Result<Self> {
        fs::create_dir_all(dir).with_context(|| format!("making {}", dir.display()))?;
        let file = dir.join("results.json");
        let results = match fs::read(&file) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .with_context(|| format!("reading {}", file.display()))?,
            Err(_) => BTreeMap::new(),
        };
        Ok(Report {
            dir: dir.to_owned(),
            machine,
            results,
        })
    }

    /// Adds what came out of `job`, and writes everything.
    pub(crate) fn put(&mut self, job: &Job, outcomes: &[Outcome], rounds: u32) -> Result<()> {
        for (goal, outcome) in job.goals.iter().zip(outcomes) {
            println!(
                "   {}: {} (wanted: {} {})",
                goal.what,
                verdict(goal, outcome),
                goal.bound,
                goal.of
            );
        }
        let result = Measured {
            machine: self.machine.clone(),
            commit: commit(),
            date: machine::text("date", &["-u", "+%Y-%m-%d %H:%M"])?,
            rounds,
            outcomes: outcomes.to_vec(),
        };
        self.results.insert(job.name.to_owned(), result);
        let write = |name: &str, text: &str| {
            let path = self.dir.join(name);
            fs::write(&path, text).with_context(|| format!("writing {}", path.display()))
        };
        write(
            "results.json",
            &(serde_json::to_string_pretty(&self.results)? + "\n"),
        )?;
        write("results.md", &self.markdown())?;
        let margins: Vec<(String, f64)> = self
            .rows()
            .map(|(_, goal, _, outcome)| (goal.what.to_owned(), goal.bound.margin(outcome.value)))
            .collect();
        write(
            "targets.svg",
            &plot::margins("How far beyond its target each figure is", &margins),
        )?;
        for (job, goal, index, outcome) in self.rows().filter(|row| row.3.sides.len() > 1) {
            let bars: Vec<(String, f64, f64, f64)> = outcome
                .sides
                .iter()
                .map(|side| {
                    (
                        side.name.clone(),
                        side.median(),
                        least(&side.figures),
                        most(&side.figures),
                    )
                })
                .collect();
            let suffix = if index == 0 {
                String::new()
            } else {
                format!("-{}", index + 1)
            };
            write(
                &format!("{}{suffix}.svg", job.name),
                &plot::sides(goal.what, &outcome.unit, &bars),
            )?;
        }
        Ok(())
    }

    /// What there is, in the catalog's order.
    fn rows(&self) -> impl Iterator<Item = (&'static Job, &'static Goal, usize, &Outcome)> {
        CATALOG.iter().flat_map(|job| {
            let outcomes = self
                .results
                .get(job.name)
                .map_or(&[][..], |result| &result.outcomes);
            job.goals
                .iter()
                .zip(outcomes)
                .enumerate()
                .map(move |(index, (goal, outcome))| (job, goal, index, outcome))
        })
    }

    fn markdown(&self) -> String {
        let mut text = "Written by `cargo xtask bench`; do not edit. What it means is in [performance.md](../performance.md).\n\n".to_owned();
        text += "| job | | target | reached | |\n| --- | --- | --- | --: | --- |\n";
        for job in CATALOG {
            let outcomes = self.results.get(job.name).map(|result| &result.outcomes);
            for (index, goal) in job.goals.iter().enumerate() {
                let outcome = outcomes.and_then(|outcomes| outcomes.get(index));
                let (reached, verdict) = match outcome.map(|outcome| outcome.value) {
                    Some(value) if goal.bound.met(value) => (number(value), "met"),
                    Some(value) => (number(value), "**missed**"),
                    None => (String::new(), "not measured"),
                };
                let Goal { what, bound, of } = goal;
                // Writing to a string cannot fail.
                let _ = writeln!(
                    text,
                    "| {} | {what} | {bound} {of} | {reached} | {verdict} |",
                    job.name
                );
            }
        }
        text += "\n![How far beyond its target each figure is](targets.svg)\n\n## Both sides\n\n";
        text += "Medians of the rounds, least and most in parentheses; CPU: seconds of the server's processors for a million requests.\n\n";
        text += "| job | server | | p50 µs | p99 µs | CPU | note |\n| --- | --- | --: | --: | --: | --: | --- |\n";
        for (job, _, _, outcome) in self.rows() {
            for (index, side) in outcome.sides.iter().enumerate() {
                let (name, note) = if index == 0 {
                    (job.name, outcome.note.as_str())
                } else {
                    ("", "")
                };
                let _ = writeln!(
                    text,
                    "| {name} | {} | {note} |",
                    side_cells(side, &outcome.unit)
                );
            }
        }
        text += "\n## When and where\n\n| job | rounds | commit | when (UTC) | machine |\n| --- | --: | --- | --- | --- |\n";
        for (name, result) in CATALOG
            .iter()
            .filter_map(|job| self.results.get_key_value(job.name))
        {
            let _ = writeln!(
                text,
                "| {name} | {} | {} | {} | {} |",
                result.rounds, result.commit, result.date, result.machine
            );
        }
        text
    }
}

fn side_cells(side: &Side, unit: &str) -> String {
    let spread = match side.figures.len() {
        0 | 1 => String::new(),
        _ => format!(
            " ({} to {})",
            number(least(&side.figures)),
            number(most(&side.figures))
        ),
    };
    let latency = |which: fn(&(f64, f64)) -> f64| match side.latency_us.is_empty() {
        true => String::new(),
        false => number(median(
            &side.latency_us.iter().map(which).collect::<Vec<_>>(),
        )),
    };
    let cpu = match side.server_cpu.is_empty() {
        true => String::new(),
        false => number(median(&side.server_cpu)),
    };
    let (p50, p99) = (latency(|pair| pair.0), latency(|pair| pair.1));
    format!(
        "{} | {} {unit}{spread} | {p50} | {p99} | {cpu}",
        side.name,
        number(side.median())
    )
}

fn verdict(goal: &Goal, outcome: &Outcome) -> String {
    let met = if goal.bound.met(outcome.value) {
        "met"
    } else {
        "missed"
    };
    format!("{} {met}; {}", number(outcome.value), outcome.note)
}

/// With as many digits as matter, and thousands set apart.
pub(crate) fn number(value: f64) -> String {
    if value.abs() < 100.0 {
        let text = format!("{value:.2}");
        return text.trim_end_matches('0').trim_end_matches('.').to_owned();
    }
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0
            && digit.is_ascii_digit()
            && (digits.len() - index).is_multiple_of(3)
            && !text.ends_with('-')
        {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn commit() -> String {
    let root = e2e::paths::workspace().display().to_string();
    let git = |arguments: &[&str]| machine::text("git", &[&["-C", &root], arguments].concat());
    match (
        git(&["rev-parse", "--short", "HEAD"]),
        git(&["status", "--porcelain", "crates"]),
    ) {
        (Ok(commit), Ok(changed)) if changed.is_empty() => commit,
        (Ok(commit), _) => format!("{commit}+"),
        _ => "unknown".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::{Measured, Report, number};
    use crate::bench::{
        figures::{Outcome, Side},
        jobs::CATALOG,
    };
    use std::{collections::BTreeMap, path::PathBuf};

    #[test]
    fn numbers_are_short() {
        assert_eq!(number(1.2), "1.2");
        assert_eq!(number(3.0), "3");
        assert_eq!(number(123_456.7), "123,457");
        assert_eq!(number(999.0), "999");
        assert_eq!(number(-1234.0), "-1,234");
    }

    #[test]
    fn a_result_is_in_the_table_with_both_sides() {
        let sides = vec![
            Side::new("holdfast", vec![10.0, 12.0, 11.0]),
            Side::new("nbdkit null", vec![10.0, 10.0, 10.0]),
        ];
        let outcome = Outcome::ratio("IOPS", sides, false).unwrap();
        let result = Measured {
            machine: "m".into(),
            commit: "c".into(),
            date: "d".into(),
            rounds: 3,
            outcomes: vec![outcome],
        };
        let results = BTreeMap::from([(CATALOG[0].name.to_owned(), result)]);
        let report = Report {
            dir: PathBuf::new(),
            machine: String::new(),
            results,
        };
        let page = report.markdown();
        assert!(page.contains("≥ 1 × nbdkit null | 1.1 | met |"), "{page}");
        assert!(
            page.contains("| nbdkit null | 10 IOPS (10 to 10) |"),
            "{page}"
        );
        let unmeasured = page
            .lines()
            .filter(|line| line.ends_with(" | not measured |"));
        let goals: usize = CATALOG.iter().map(|job| job.goals.len()).sum();
        assert_eq!(unmeasured.count(), goals - CATALOG[0].goals.len());
    }
}
