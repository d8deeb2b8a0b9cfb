//! The snapshots that a qcow2 image has in it, as snapshots of the volume.

use crate::error::Error;
use image_formats::{InternalSnapshot, Qcow2};
use std::collections::HashSet;
use types::Name;

/// Behind a name that another one has already: a number.
const NUMBER_LEN_MAX: usize = 6;

/// A snapshot that the volume is to have.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Planned {
    /// Its place in the image's list.
    pub(crate) index: usize,
    pub(crate) name: Name,
    /// Bytes.
    pub(crate) size: u64,
    pub(crate) created_ms: u64,
}

/// All of them, oldest first. Names become valid, and unique.
pub(crate) fn planned(image: &Qcow2) -> Result<Vec<Planned>, Error> {
    plan(image.snapshots())
}

fn plan(snapshots: &[InternalSnapshot]) -> Result<Vec<Planned>, Error> {
    let mut taken = HashSet::new();
    let mut planned = Vec::new();
    let mut in_order: Vec<_> = snapshots.iter().enumerate().collect();
    in_order.sort_by_key(|(_, snapshot)| snapshot.created_ms);
    for (index, snapshot) in in_order {
        let name = unique(&stem(snapshot), &mut taken);
        planned.push(Planned {
            index,
            name: name
                .parse()
                .map_err(|e: types::NameError| Error::invalid(e.to_string()))?,
            size: snapshot.size(),
            created_ms: snapshot.created_ms,
        });
    }
    Ok(planned)
}

/// What can be kept of its name, or of its id.
fn stem(snapshot: &InternalSnapshot) -> String {
    let kept = |text: &str| -> String {
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | ':');
        let kept = text.chars().map(|c| if allowed(c) { c } else { '-' });
        let kept = kept.skip_while(|c| !c.is_ascii_alphanumeric());
        kept.take(Name::LEN_MAX - NUMBER_LEN_MAX).collect()
    };
    let stems = [kept(&snapshot.name), kept(&snapshot.id)];
    let stem = stems.into_iter().find(|stem| !stem.is_empty());
    stem.unwrap_or_else(|| "snapshot".into())
}

fn unique(stem: &str, taken: &mut HashSet<String>) -> String {
    let numbered = (2..).map(|number| format!("{stem}-{number}"));
    let mut names = std::iter::once(stem.to_owned()).chain(numbered);
    // There are more numbers than snapshots.
    names
        .find(|name| taken.insert(name.clone()))
        .unwrap_or_default()
}

/// What is told of an image whose snapshots were not asked for.
pub(crate) fn left_out(image: &Qcow2) -> Option<String> {
    match image.snapshots().len() {
        0 => None,
        1 => Some("a snapshot in the image was left out; --snapshots imports it too".into()),
        count => Some(format!(
            "{count} snapshots in the image were left out; --snapshots imports them too"
        )),
    }
}
