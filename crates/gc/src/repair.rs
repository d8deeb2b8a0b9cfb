//! Repair: what damage has hidden but not destroyed is put back, what it made useless is removed.
//!
//! Nothing is invented: a block whose bytes are nowhere stays an error.

use crate::{Error, Marks, Roots, check::with_causes, mark::mark_with};
use brick::PackStat;
use pack::{Collection, ErrorKind, PackStore};
use std::sync::Arc;
use types::{PackId, Progress};

/// What can be done about a pack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mend {
    /// It is whole, but stored as that other pack.
    Misplaced(PackId),
    /// Its header cannot be read, for this reason, and nothing needs it.
    Orphan(String),
    /// Its hashes cannot be read, for this reason; they are made from its blocks.
    Hashes(String),
}

/// A pack that was mended, or would be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mended {
    /// Which.
    pub pack: PackId,
    /// What of.
    pub what: Mend,
    /// `None` in a dry run; else whether it worked, or why not.
    pub outcome: Option<Result<(), String>>,
}

/// Puts misplaced packs back, removes packs that cannot be read and that nothing needs, and makes hashes anew that
/// cannot be read.
///
/// # Behavior
/// Volumes go on meanwhile; it is refused while a collection or a check runs. Each step is durable before the
/// next; stopped at any point, a repair can be begun again. What nothing needs is known only if every block map
/// can be read: else nothing is removed.
///
/// # Errors
/// [`ErrorKind::Busy`](crate::ErrorKind::Busy), [`ErrorKind::Cancelled`](crate::ErrorKind::Cancelled), and those of
/// listing. What could not be mended is no error, but says why.
pub fn repair(
    store: &Arc<PackStore>,
    roots: &dyn Roots,
    dry_run: bool,
    progress: &dyn Progress,
) -> Result<Vec<Mended>, Error> {
    const REPAIRING: &str = "repairing";
    let failed = |e| Error::pack(REPAIRING, e);
    let collection = store.begin_collection().map_err(failed)?;
    let owned = roots.roots()?;
    let unreadable = unreadable(store, &collection, progress).map_err(failed)?;
    let mut mended = Vec::new();
    for (from, pack) in misplaced(store, &unreadable).map_err(failed)? {
        // One that was in the way of another is in its place by now.
        let put_back = || {
            store
                .info(pack)
                .map(drop)
                .or_else(|_| collection.put_back(from))
        };
        mended.push(Mended {
            pack,
            what: Mend::Misplaced(from),
            outcome: (!dry_run).then(|| told(put_back())),
        });
    }
    let mut all_known = true;
    let marks = mark_with(store, &owned, progress, &mut |_, _, _| {
        all_known = false;
        Ok(())
    })?;
    // What was put back makes packs readable, and maybe maps: a dry run knows no more than before.
    for (stat, why) in unreadable {
        let orphan = all_known && marks.live(stat.pack).is_empty();
        if orphan && store.info(stat.pack).is_err_and(|e| is_lost(&e)) {
            mended.push(Mended {
                pack: stat.pack,
                what: Mend::Orphan(why),
                outcome: (!dry_run).then(|| told(collection.remove_unreadable(stat.pack))),
            });
        }
    }
    mended.extend(hashes(store, &collection, &marks, dry_run, progress)?);
    Ok(mended)
}

/// Makes hashes anew where they cannot be read, in packs that somebody needs.
fn hashes(
    store: &PackStore,
    collection: &Collection,
    marks: &Marks,
    dry_run: bool,
    progress: &dyn Progress,
) -> Result<Vec<Mended>, Error> {
    let mut mended = Vec::new();
    let needed = marks.packs().into_iter();
    for pack in needed.filter(|pack| *pack < collection.limit()) {
        progress.report(0, 0)?;
        if let Some(why) = store.hashes_damaged(pack) {
            mended.push(Mended {
                pack,
                what: Mend::Hashes(with_causes(&why)),
                outcome: (!dry_run).then(|| told(collection.repair_hashes(pack))),
            });
        }
    }
    Ok(mended)
}

/// Packs that are not readable in their place, but whole in another: that place, and which they are.
fn misplaced(
    store: &PackStore,
    unreadable: &[(PackStat, String)],
) -> Result<Vec<(PackId, PackId)>, pack::Error> {
    let mut misplaced: Vec<(PackId, PackId)> = Vec::new();
    for (stat, _) in unreadable {
        let Some(pack) = store.stored_as(stat)? else {
            continue;
        };
        let known = misplaced.iter().any(|(_, known)| *known == pack);
        if !known && store.info(pack).is_err_and(|e| is_lost(&e)) {
            misplaced.push((stat.pack, pack));
        }
    }
    Ok(misplaced)
}

fn told(done: Result<(), pack::Error>) -> Result<(), String> {
    done.map_err(|e| with_causes(&e))
}

fn is_lost(error: &pack::Error) -> bool {
    matches!(error.kind(), ErrorKind::Damaged | ErrorKind::NotFound)
}

/// Packs without a sound header of their own, and why; young ones left out.
fn unreadable(
    store: &PackStore,
    collection: &Collection,
    progress: &dyn Progress,
) -> Result<Vec<(PackStat, String)>, pack::Error> {
    let stats = store.list()?;
    let mut unreadable = Vec::new();
    for (done, stat) in stats.iter().enumerate() {
        progress.report(done as u64, stats.len() as u64)?;
        match store.info(stat.pack) {
            Err(e) if stat.pack < collection.limit() && is_lost(&e) => {
                unreadable.push((*stat, with_causes(&e)));
            }
            Err(e) if !is_lost(&e) => return Err(e),
            _ => {}
        }
    }
    Ok(unreadable)
}
