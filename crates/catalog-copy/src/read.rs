//! What copies know.

use crate::layout::{self, Copy};
use catalog::{Contents, Step};
use env::Env;
use std::{collections::BTreeMap, io, path::Path};
use types::StoreId;

/// What the copies of a catalog know.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// The newest state that can be put together.
    pub contents: Option<Contents>,
    /// Whether that is surely the newest that there was: nothing behind it is damaged.
    pub complete: bool,
    /// The highest commit that any file says something of, whether it can be used or not. What is begun anew counts on
    /// from there: else a step of what is lost could seem to follow on it.
    pub last_commit: u64,
    /// Files that are no copies any more, in whole or in part.
    pub damaged: Vec<String>,
}

/// Reads the copies in `dir`. That there is no such directory means that there are none.
///
/// # Errors
/// If listing or reading fails.
pub fn read(env: &Env, dir: &Path, store: StoreId) -> io::Result<Found> {
    let mut copies: Vec<Copy> = Vec::new();
    let mut found = Found {
        complete: true,
        ..Found::default()
    };
    for (_, name) in files(env, dir)? {
        let bytes = env.files.read_all(&dir.join(&name))?;
        let copy = layout::decode(store, &bytes);
        // Only the newest file may end in the middle of a step, as a crash leaves it; it is still not known
        // whether a crash did.
        found.complete = copy.as_ref().is_some_and(|copy| copy.ends_well);
        if copy
            .as_ref()
            .is_none_or(|copy| !copy.ends_well || copy.contents.is_none())
        {
            found.damaged.push(name);
        }
        copies.extend(copy);
    }
    let mut steps: BTreeMap<u64, Step> = BTreeMap::new();
    let mut newest: Option<Contents> = None;
    for copy in copies {
        steps.extend(copy.steps);
        let newer =
            |contents: &Contents| newest.as_ref().is_none_or(|n| n.commit < contents.commit);
        newest = copy.contents.filter(newer).or(newest);
    }
    let known = steps.keys().next_back().copied();
    let begun = newest.as_ref().map(|contents| contents.commit);
    found.last_commit = known.max(begun).unwrap_or(0);
    let Some(mut contents) = newest else {
        found.complete = false;
        return Ok(found);
    };
    let base = contents.clone();
    if !advance(&mut contents, &steps) || !contents.is_sound() {
        contents = advance_by_one(base, &steps);
    }
    found.complete &= known.is_none_or(|known| known <= contents.commit);
    found.contents = Some(contents);
    Ok(found)
}

/// Takes the steps that follow. `false`: one of them makes no sense, and is half done.
fn advance(contents: &mut Contents, steps: &BTreeMap<u64, Step>) -> bool {
    following(contents, steps).all(|step| contents.apply(step).is_ok())
}

/// As [`advance`], to the last step before one that makes no sense, or leaves nothing that does.
fn advance_by_one(mut contents: Contents, steps: &BTreeMap<u64, Step>) -> Contents {
    for step in following(&contents, steps) {
        let mut next = contents.clone();
        if next.apply(step).is_err() || !next.is_sound() {
            break;
        }
        contents = next;
    }
    contents
}

/// The steps that follow without a gap.
fn following<'a>(
    contents: &Contents,
    steps: &'a BTreeMap<u64, Step>,
) -> impl Iterator<Item = &'a Step> + use<'a> {
    let first = contents.commit.saturating_add(1);
    let numbered = steps.range(first..).zip(first..);
    numbered
        .take_while(|((commit, _), expected)| *commit == expected)
        .map(|((_, step), _)| step)
}

/// The copies in a directory, the oldest first.
pub(crate) fn files(env: &Env, dir: &Path) -> io::Result<Vec<(u64, String)>> {
    if !env.files.exists(dir)? {
        return Ok(Vec::new());
    }
    let names = env.files.list(dir)?;
    let mut files: Vec<(u64, String)> = names
        .iter()
        .filter_map(|name| name.to_str())
        .filter(|name| name.ends_with(".copy"))
        .filter_map(|name| Some((layout::number(name)?, name.to_owned())))
        .collect();
    files.sort();
    Ok(files)
}
