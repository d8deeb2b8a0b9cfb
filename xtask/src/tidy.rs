//! `cargo xtask tidy`: what the compiler does not check.
//!
//! ARCHITECTURE.md has a table of which crate may depend on which, and a paragraph for each. This
//! compares them with what `cargo metadata` says, in both directions, so that the drawing cannot
//! rot; it looks at every source file; and tests that the documentation names must exist.

mod layers;
mod named;
mod sources;

use crate::stage::cargo;
use anyhow::{Context, Result, bail};
use e2e::{paths, process};
use std::{fs, time::Duration};

/// Checks everything and prints all that is wrong.
pub(crate) fn run() -> Result<()> {
    let page = fs::read_to_string(paths::workspace().join("ARCHITECTURE.md"))
        .context("reading ARCHITECTURE.md")?;
    let mut metadata = cargo(&[
        "metadata",
        "--format-version",
        "1",
        "--no-deps",
        "--offline",
    ]);
    let metadata = process::run("cargo metadata", &mut metadata, Duration::from_secs(120))?;
    let crates = layers::crates(&metadata)?;
    let mut wrong = layers::check(&page, &crates);
    let mut names = named::Names::default();
    for name in crates.keys() {
        let dir = match name.as_str() {
            "xtask" => paths::workspace().join("xtask"),
            _ => paths::workspace().join("crates").join(name),
        };
        wrong.extend(sources::check_tree(&dir)?);
        names.collect(&dir)?;
    }
    for page in ["docs/semantics.md", "docs/testing.md"] {
        let text = fs::read_to_string(paths::workspace().join(page));
        let text = text.with_context(|| format!("reading {page}"))?;
        wrong.extend(names.missing(page, &text, |name| crates.contains_key(name)));
    }
    for line in &wrong {
        eprintln!("   {line}");
    }
    match wrong.len() {
        0 => Ok(()),
        count => bail!("{count} things are out of order"),
    }
}
