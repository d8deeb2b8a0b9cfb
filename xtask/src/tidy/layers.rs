//! The arrows between crates: the table against the manifests.

use anyhow::{Context, Result};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};

/// Each crate of the workspace, and those of the workspace that it depends on.
pub(super) type Arrows = BTreeMap<String, BTreeSet<String>>;

/// Only tests, and these themselves, may depend on these.
const TOPS: [&str; 3] = ["sim", "e2e", "xtask"];

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    dependencies: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    name: String,
    /// None: a normal one.
    kind: Option<String>,
    /// Only those of the workspace have one.
    path: Option<String>,
}

/// The arrows that are there, from `cargo metadata --no-deps`.
pub(super) fn crates(metadata: &str) -> Result<Arrows> {
    let metadata: Metadata = serde_json::from_str(metadata).context("reading cargo metadata")?;
    let arrows = |package: &Package| {
        let normal = package.dependencies.iter();
        normal
            .filter(|dependency| dependency.kind.as_deref() != Some("dev"))
            .filter(|dependency| dependency.path.is_some())
            .map(|dependency| dependency.name.clone())
            .collect()
    };
    let packages = metadata.packages.iter();
    Ok(packages
        .map(|package| (package.name.clone(), arrows(package)))
        .collect())
}

/// The arrows that may be, from the page's table: rows ``| `crate` | `a` `b` |``.
fn table(page: &str) -> Arrows {
    page.lines().filter_map(row).collect()
}

fn row(line: &str) -> Option<(String, BTreeSet<String>)> {
    let mut cells = line.strip_prefix("| ")?.split('|');
    let name = cells.next()?.trim().strip_prefix('`')?.strip_suffix('`')?;
    let names = cells.next()?.split('`').skip(1).step_by(2);
    Some((name.to_owned(), names.map(str::to_owned).collect()))
}

/// All that is wrong, a line each.
pub(super) fn check(page: &str, crates: &Arrows) -> Vec<String> {
    let table = table(page);
    let mut wrong = Vec::new();
    for (name, arrows) in crates {
        wrong.extend(check_row(name, arrows, table.get(name)));
        wrong.extend(check_tops(name, arrows));
        let start = format!("**`{name}`** ");
        if !page.lines().any(|line| line.starts_with(&start)) {
            wrong.push(format!(
                "ARCHITECTURE.md: no paragraph begins with {}",
                start.trim()
            ));
        }
    }
    let gone = table.keys().filter(|name| !crates.contains_key(*name));
    wrong.extend(gone.map(|name| format!("ARCHITECTURE.md: there is no crate `{name}`")));
    wrong
}

fn check_row(name: &str, is: &BTreeSet<String>, may: Option<&BTreeSet<String>>) -> Vec<String> {
    let Some(may) = may else {
        return vec![format!("ARCHITECTURE.md: no row for `{name}` in the table")];
    };
    let forbidden = is
        .difference(may)
        .map(|to| format!("`{name}` depends on `{to}`, which ARCHITECTURE.md does not allow"));
    let unused = may
        .difference(is)
        .map(|to| format!("ARCHITECTURE.md: `{name}` does not depend on `{to}`; drop the arrow"));
    forbidden.chain(unused).collect()
}

fn check_tops(name: &str, is: &BTreeSet<String>) -> Vec<String> {
    if TOPS.contains(&name) {
        return Vec::new();
    }
    is.iter()
        .filter(|to| TOPS.contains(&to.as_str()))
        .map(|to| format!("`{name}` depends on `{to}`, which only tests may"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{check, crates, row};

    const METADATA: &str = r#"{"packages": [
        {"name": "low", "dependencies": [
            {"name": "serde", "kind": null, "path": null},
            {"name": "sim", "kind": "dev", "path": "/w/crates/sim"}]},
        {"name": "high", "dependencies": [{"name": "low", "kind": null, "path": "/w/crates/low"}]},
        {"name": "sim", "dependencies": [{"name": "low", "kind": null, "path": "/w/crates/low"}]}
    ]}"#;
    const PAGE: &str = "| crate | may use |\n| --- | --- |\n| `low` | |\n| `high` | `low` |\n\
        | `sim` | `low` |\n\n**`low`** is low.\n\n**`high`** is high.\n\n**`sim`** simulates.\n";

    fn wrong(page: &str) -> Vec<String> {
        check(page, &crates(METADATA).unwrap())
    }

    #[test]
    fn a_row_is_read() {
        let (name, to) = row("| `a` | `b` `c` |").unwrap();
        assert_eq!(name, "a");
        assert_eq!(to.into_iter().collect::<Vec<_>>(), ["b", "c"]);
        assert!(row("| word | meaning |").is_none());
    }

    #[test]
    fn what_agrees_passes() {
        assert!(wrong(PAGE).is_empty(), "{:?}", wrong(PAGE));
    }

    #[test]
    fn an_arrow_not_in_the_table_is_found() {
        let found = wrong(&PAGE.replace("| `high` | `low` |", "| `high` | |"));
        assert_eq!(found.len(), 1);
        assert!(found[0].contains("`high` depends on `low`"), "{found:?}");
    }

    #[test]
    fn an_arrow_only_in_the_table_is_found() {
        let found = wrong(&PAGE.replace("| `low` | |", "| `low` | `high` |"));
        assert_eq!(found.len(), 1);
        assert!(found[0].contains("drop the arrow"), "{found:?}");
    }

    #[test]
    fn a_crate_without_row_or_paragraph_and_a_row_without_crate_are_found() {
        assert_eq!(wrong(&PAGE.replace("| `low` | |\n", "")).len(), 1);
        assert_eq!(wrong(&PAGE.replace("**`low`** is", "low is")).len(), 1);
        assert_eq!(
            wrong(&PAGE.replace("**`low`**", "| `old` | |\n\n**`low`**")).len(),
            1
        );
    }

    #[test]
    fn nothing_rests_on_the_simulator() {
        let metadata = METADATA.replace("\"dev\"", "null");
        let page = PAGE.replace("| `low` | |", "| `low` | `sim` |");
        let found = check(&page, &crates(&metadata).unwrap());
        assert_eq!(found.len(), 1);
        assert!(found[0].contains("only tests may"), "{found:?}");
    }
}
