//! Tests that the documentation names exist.

use anyhow::{Context, Result};
use std::{collections::BTreeSet, fs, path::Path};

/// Names of the functions and modules of all sources.
#[derive(Default)]
pub(super) struct Names(BTreeSet<String>);

impl Names {
    /// Adds those of the sources in `dir`.
    pub(super) fn collect(&mut self, dir: &Path) -> Result<()> {
        for entry in fs::read_dir(dir).with_context(|| format!("reading {}", dir.display()))? {
            let path = entry?.path();
            if path.is_dir() {
                self.collect(&path)?;
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                // A file is a module, or a binary of tests.
                let stem = path.file_stem().unwrap_or_default();
                self.0.insert(stem.to_string_lossy().into_owned());
                let text = fs::read_to_string(&path);
                self.add(&text.with_context(|| format!("reading {}", path.display()))?);
            }
        }
        Ok(())
    }

    fn add(&mut self, text: &str) {
        let mut words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        while let Some(word) = words.next() {
            if let ("fn" | "mod", Some(name)) = (word, words.clone().next()) {
                self.0.insert(name.to_owned());
            }
        }
    }

    /// Names of tests on a page that nothing has, a line each. A test is named as `nextest` shows it, first its crate;
    /// others may follow on the same line without it.
    pub(super) fn missing(
        &self,
        name: &str,
        page: &str,
        is_crate: impl Fn(&str) -> bool,
    ) -> Vec<String> {
        let mut wrong = Vec::new();
        for (line, text) in (1..).zip(page.lines()) {
            let mut of_a_crate = false;
            // Every second part is between backquotes.
            for span in text.split('`').skip(1).step_by(2) {
                let (first, rest) = span.split_once([' ', ':']).unwrap_or((span, ""));
                of_a_crate |= is_crate(first) && !rest.is_empty();
                if of_a_crate && looks_like_a_test(span) && !self.has(span) {
                    wrong.push(format!("{name}:{line}: there is no test '{span}'"));
                }
            }
        }
        wrong
    }

    /// Whether the last part of a test's path is a function; of all tests of a module, the module.
    fn has(&self, span: &str) -> bool {
        let mut parts = span.rsplit([' ', ':']).filter(|part| !part.is_empty());
        let last = parts.next();
        let last = if last == Some("*") {
            parts.next()
        } else {
            last
        };
        last.is_some_and(|last| self.0.contains(last))
    }
}

fn looks_like_a_test(span: &str) -> bool {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "_:*- ".contains(c);
    span.chars().all(plain) && (span.contains('_') || span.ends_with("::*"))
}

#[cfg(test)]
mod tests {
    use super::Names;

    #[test]
    fn what_is_named_and_missing_is_told() {
        let mut names = Names::default();
        names.add("mod ring { fn it_holds() {} } fn it_ends() {}");
        let missing = |page: &str| names.missing("p.md", page, |name| name == "log");
        assert!(missing("| `log::a ring::it_holds`, `it_ends`, `ring::*` | `a.b` |").is_empty());
        assert!(missing("`it_never_was` is no test: no crate is named").is_empty());
        assert_eq!(
            missing("x\n`log::a it_broke`, `it_ends`, `it_never_was`"),
            [
                "p.md:2: there is no test 'log::a it_broke'",
                "p.md:2: there is no test 'it_never_was'"
            ]
        );
        assert_eq!(missing("`log::a lost::*`").len(), 1);
    }
}
