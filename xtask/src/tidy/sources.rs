//! Every source file: not too long, nothing left for later.

use anyhow::{Context, Result};
use std::{fs, path::Path};

/// Lines of one file, its tests aside.
const LINES_MAX: usize = 600;

/// All that is wrong with the sources of the crate in `dir`, a line each.
pub(super) fn check_tree(dir: &Path) -> Result<Vec<String>> {
    let mut wrong = Vec::new();
    for entry in fs::read_dir(dir).with_context(|| format!("reading {}", dir.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            wrong.extend(check_tree(&path)?);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text =
                fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
            let in_tests = path.components().any(|part| part.as_os_str() == "tests");
            let is_test = in_tests || path.ends_with("tests.rs");
            wrong.extend(check(&path.display().to_string(), &text, is_test));
        }
    }
    Ok(wrong)
}

fn check(name: &str, text: &str, is_test: bool) -> Vec<String> {
    let mut wrong = Vec::new();
    let lines = text
        .lines()
        .take_while(|line| *line != "#[cfg(test)]")
        .count();
    if !is_test && lines > LINES_MAX {
        wrong.push(format!(
            "{name}: {lines} lines; {LINES_MAX} are the most, split it"
        ));
    }
    // Put together here, so that this file does not find itself.
    for mark in [concat!("TO", "DO"), concat!("FIX", "ME")] {
        let places = text
            .lines()
            .enumerate()
            .filter(|(_, line)| line.contains(mark));
        wrong.extend(places.map(|(index, _)| {
            format!(
                "{name}:{}: {mark}: do it, or write down elsewhere why not",
                index + 1
            )
        }));
    }
    wrong
}

#[cfg(test)]
mod tests {
    use super::check;

    #[test]
    fn long_files_are_found_but_tests_do_not_count() {
        let long = "x\n".repeat(601);
        assert_eq!(check("a.rs", &long, false).len(), 1);
        assert!(check("tests.rs", &long, true).is_empty());
        let tests = format!("#[cfg(test)]\n{long}");
        assert!(check("a.rs", &tests, false).is_empty());
    }

    #[test]
    fn marks_are_found_with_their_line() {
        let text = format!("fn a() {{}}\n// {}: more\n", concat!("TO", "DO"));
        let found = check("a.rs", &text, true);
        assert!(found[0].starts_with("a.rs:2:"), "{found:?}");
    }
}
