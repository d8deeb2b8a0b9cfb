//! The catalog as a file that can be lost: telling that it is, and making it anew from what the store knows besides.
//!
//! ```text
//!  catalog.redb ── sound, and not older than its copy? ── open
//!       │ no
//!       ▼
//!  copy, complete: every commit that returned is in it. What was flushed and not destaged is in the journal,
//!       │          which is used again only after a commit returned: so nothing else is needed
//!       │ damaged
//!       ▼
//!  copy, as far as it goes ─▶ root notes of packs that are newer, volume by volume ─▶ journal, where it follows on
//!       │ none
//!       ▼
//!  root notes alone
//! ```
//!
//! **Invariant:** nothing is invented and nothing is mixed: a volume becomes a state that it had, and the journal goes
//! on top of it only if no generation is missing between.

mod plan;
mod survey;

use crate::{
    config::Config,
    error::{Error, ErrorKind},
    manifest::Manifest,
    open::{io, lock_store, read_manifest},
    store::Store,
};
use catalog::Catalog;
use catalog_copy::{Copied, OpenError};
use catalog_redb::RedbCatalog;
use env::Env;
use plan::Plan;
use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
};
use types::StoreId;

/// A catalog that was made anew, or would be.
#[derive(Clone, Debug)]
pub struct Rebuilt {
    /// What was wrong with the old one: `is missing`, …
    pub why: String,
    /// What the new one is made from.
    pub from: String,
    /// Volumes in it, those in the trash included.
    pub volumes: usize,
    /// Snapshots in it.
    pub snapshots: usize,
    /// What could not be restored to its last state, or may not have been: of which volume or snapshot (empty if
    /// that cannot be told), and what is known.
    pub older: Vec<(String, String)>,
    /// Where the old one is now; none if there was none, or if nothing was changed.
    pub kept: Option<PathBuf>,
}

/// What is wrong with a catalog that can be made anew.
#[derive(Clone, Debug)]
enum Wrong {
    Missing,
    Damaged(catalog::Error),
    /// Its last commit, and that of its copy.
    Stale(u64, u64),
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Wrong::Missing => f.write_str("is missing"),
            Wrong::Damaged(_) => f.write_str("is damaged"),
            Wrong::Stale(catalog, copy) => write!(
                f,
                "is older than its copy (commit {catalog}, the copy has {copy})"
            ),
        }
    }
}

fn catalog_path(dir: &Path) -> PathBuf {
    dir.join("catalog.redb")
}

fn copy_dir(dir: &Path) -> PathBuf {
    dir.join("catalog-copy")
}

/// Opens the catalog of a store, with its copy.
pub(crate) fn open_catalog(
    env: &Env,
    dir: &Path,
    store: StoreId,
) -> Result<Arc<dyn Catalog>, Error> {
    let wrong = match try_open(env, dir, store)? {
        Ok(catalog) => return Ok(catalog),
        Err(wrong) => wrong,
    };
    let shown = dir.display();
    let message = format!(
        "the catalog of {shown} {wrong}; make it anew from its copy and the packs with: holdfast check {shown} --repair"
    );
    let error = Error::new(ErrorKind::Damaged, message);
    Err(match wrong {
        Wrong::Damaged(cause) => error.with_source(cause),
        Wrong::Missing | Wrong::Stale(..) => error,
    })
}

type Tried = Result<Arc<dyn Catalog>, Wrong>;

fn try_open(env: &Env, dir: &Path, store: StoreId) -> Result<Tried, Error> {
    let path = catalog_path(dir);
    let exists = env.files.exists(&path);
    if !exists.map_err(io("cannot look for the catalog"))? {
        return Ok(Err(Wrong::Missing));
    }
    let damaged = |error: catalog::Error| match error.kind() {
        catalog::ErrorKind::Corrupt => Ok(Err(Wrong::Damaged(error))),
        _ => Err(error.into()),
    };
    let catalog: Arc<dyn Catalog> = match RedbCatalog::open(env, &path) {
        Ok(catalog) => Arc::new(catalog),
        Err(error) => return damaged(error),
    };
    match Copied::open(env, &copy_dir(dir), store, catalog) {
        Ok(copied) => Ok(Ok(Arc::new(copied))),
        Err(OpenError::Stale { catalog, copy }) => Ok(Err(Wrong::Stale(catalog, copy))),
        Err(OpenError::Catalog(error)) => damaged(error),
    }
}

impl Store {
    /// Makes the catalog of a store that nobody has open anew, if it is missing, damaged or older than its copy. `None`
    /// if it is sound.
    ///
    /// # Behavior
    /// The old file is kept under another name. A crash leaves a store without a catalog, or with the new one: begin
    /// again. With `dry_run` nothing is changed.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] if there is no store, [`ErrorKind::InUse`], [`ErrorKind::NewerFormat`], and what reading
    /// and writing answer.
    pub fn rebuild_catalog(
        env: &Env,
        dir: &Path,
        config: &Config,
        dry_run: bool,
    ) -> Result<Option<Rebuilt>, Error> {
        let manifest = read_manifest(env, dir)?;
        let _lock = lock_store(env, dir)?;
        let wrong = match try_open(env, dir, manifest.id)? {
            Ok(_) => return Ok(None),
            Err(wrong) => wrong,
        };
        let Plan {
            contents,
            from,
            older,
        } = plan(env, dir, &manifest, config)?;
        let mut rebuilt = Rebuilt {
            why: wrong.to_string(),
            from,
            volumes: contents.volumes.len(),
            snapshots: contents.snapshots.len(),
            older,
            kept: None,
        };
        if !dry_run {
            if !matches!(wrong, Wrong::Missing) {
                rebuilt.kept = Some(put_aside(env, dir)?);
            }
            RedbCatalog::create_with(env, &catalog_path(dir), &contents)?;
        }
        Ok(Some(rebuilt))
    }
}

fn plan(env: &Env, dir: &Path, manifest: &Manifest, config: &Config) -> Result<Plan, Error> {
    let found = catalog_copy::read(env, &copy_dir(dir), manifest.id);
    let found = found.map_err(io("cannot read the catalog's copy"))?;
    let (known, packs) = survey::survey(env, dir, manifest, config)?;
    let now_ms = env.clock.now().as_millis() as u64;
    let mut seen = BTreeMap::new();
    let mut reach = |root, size| survey::reach(&packs, &mut seen, root, size);
    Ok(plan::plan(found, &known, &mut reach, now_ms))
}

/// Renames the catalog to a name that nothing has.
fn put_aside(env: &Env, dir: &Path) -> Result<PathBuf, Error> {
    let names = (1..).map(|n| dir.join(format!("catalog.redb.damaged-{n}")));
    for kept in names {
        let exists = env.files.exists(&kept);
        if !exists.map_err(io("cannot look for a free name"))? {
            let renamed = env.files.rename(&catalog_path(dir), &kept);
            renamed.map_err(io("cannot put the old catalog aside"))?;
            return Ok(kept);
        }
    }
    Err(Error::new(
        ErrorKind::Io,
        "no name is free for the old catalog",
    ))
}
