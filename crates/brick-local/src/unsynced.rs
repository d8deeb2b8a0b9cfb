//! What was put and removed since the last sync.

use env::File;
use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::Arc,
};
use types::PackId;

/// An object that has no name of its own yet.
#[derive(Clone)]
pub(crate) struct Put {
    pub(crate) path: PathBuf,
    pub(crate) file: Arc<dyn File>,
}

/// In order, so that the same puts make the same syncs.
#[derive(Default)]
pub(crate) struct Unsynced {
    puts: BTreeMap<PackId, Put>,
    /// Directories from which objects were removed.
    dirs: BTreeSet<PathBuf>,
}

impl Unsynced {
    pub(crate) fn get(&self, pack: PackId) -> Option<&Put> {
        self.puts.get(&pack)
    }

    pub(crate) fn len(&self) -> usize {
        self.puts.len()
    }

    pub(crate) fn packs(&self) -> impl Iterator<Item = PackId> + '_ {
        self.puts.keys().copied()
    }

    /// Answers what was put before under this id and not synced.
    pub(crate) fn put(&mut self, pack: PackId, path: PathBuf, file: Arc<dyn File>) -> Option<Put> {
        self.puts.insert(pack, Put { path, file })
    }

    pub(crate) fn remove(&mut self, pack: PackId) -> Option<Put> {
        self.puts.remove(&pack)
    }

    /// A name was removed from `dir`.
    pub(crate) fn changed(&mut self, dir: PathBuf) {
        self.dirs.insert(dir);
    }

    /// What there is to sync now. Puts stay until they are [`named`](Self::named).
    pub(crate) fn begin_sync(&mut self) -> (Vec<(PackId, Put)>, BTreeSet<PathBuf>) {
        let puts = self.puts.iter().map(|(&pack, put)| (pack, put.clone()));
        (puts.collect(), std::mem::take(&mut self.dirs))
    }

    /// Whether it is still this put, neither replaced nor removed.
    pub(crate) fn is(&self, pack: PackId, put: &Put) -> bool {
        self.get(pack).is_some_and(|now| now.path == put.path)
    }

    pub(crate) fn named(&mut self, pack: PackId) {
        self.puts.remove(&pack);
    }
}
