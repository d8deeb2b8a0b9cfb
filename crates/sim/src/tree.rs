//! Inodes and names, live and durable, and the directory operations between the two.

use crate::{
    image::{Image, PAGE},
    random::Dice,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsString,
    io,
    path::{Component, Path},
};

pub(crate) type Ino = u64;
type Names = BTreeMap<OsString, Ino>;

const ROOT: Ino = 0;

#[derive(Clone)]
enum Inode {
    Dir { live: Names, durable: Names },
    File { image: Image, handles: usize },
}

/// One change of names that is not durable yet; atomic even if it touches two directories.
#[derive(Clone)]
struct Pending {
    changes: Vec<Change>,
}

#[derive(Clone)]
struct Change {
    dir: Ino,
    name: OsString,
    /// What the name stands for now; `None`: nothing.
    to: Option<Ino>,
}

/// A file system's state.
#[derive(Clone)]
pub(crate) struct Tree {
    inodes: BTreeMap<Ino, Inode>,
    next: Ino,
    /// In the order in which they were made.
    pending: Vec<Pending>,
}

impl Tree {
    pub(crate) fn new() -> Self {
        let mut tree = Tree {
            inodes: BTreeMap::new(),
            next: ROOT,
            pending: Vec::new(),
        };
        tree.add(new_dir());
        tree
    }

    fn add(&mut self, inode: Inode) -> Ino {
        let ino = self.next;
        self.next += 1;
        self.inodes.insert(ino, inode);
        ino
    }

    pub(crate) fn lookup(&self, path: &Path) -> io::Result<Ino> {
        names_of(path)?.into_iter().try_fold(ROOT, |dir, name| {
            self.child(dir, &name)?.ok_or_else(missing)
        })
    }

    fn child(&self, dir: Ino, name: &OsString) -> io::Result<Option<Ino>> {
        Ok(self.names(dir)?.get(name).copied())
    }

    fn names(&self, dir: Ino) -> io::Result<&Names> {
        match self.inodes.get(&dir) {
            Some(Inode::Dir { live, .. }) => Ok(live),
            Some(Inode::File { .. }) => Err(io::ErrorKind::NotADirectory.into()),
            None => Err(missing()),
        }
    }

    /// The directory that a path's last name is in, and that name.
    fn parent(&self, path: &Path) -> io::Result<(Ino, OsString)> {
        let mut names = names_of(path)?;
        let last = names.pop().ok_or(io::ErrorKind::InvalidInput)?;
        let dir = names.into_iter().try_fold(ROOT, |dir, name| {
            self.child(dir, &name)?.ok_or_else(missing)
        })?;
        self.names(dir)?;
        Ok((dir, last))
    }

    pub(crate) fn image(&mut self, ino: Ino) -> io::Result<&mut Image> {
        match self.inodes.get_mut(&ino) {
            Some(Inode::File { image, .. }) => Ok(image),
            Some(Inode::Dir { .. }) => Err(io::ErrorKind::IsADirectory.into()),
            None => Err(missing()),
        }
    }

    pub(crate) fn list(&self, path: &Path) -> io::Result<Vec<OsString>> {
        Ok(self.names(self.lookup(path)?)?.keys().cloned().collect())
    }

    /// Counts a handle up or down: a file without a name lives as long as it is open.
    pub(crate) fn hold(&mut self, ino: Ino, by: isize) {
        if let Some(Inode::File { handles, .. }) = self.inodes.get_mut(&ino) {
            *handles = handles.saturating_add_signed(by);
        }
    }

    pub(crate) fn create(&mut self, path: &Path) -> io::Result<Ino> {
        let (dir, name) = self.parent(path)?;
        if self.child(dir, &name)?.is_some() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let ino = self.add(Inode::File {
            image: Image::default(),
            handles: 0,
        });
        self.apply(vec![(dir, name, Some(ino))]);
        Ok(ino)
    }

    /// False if it was there.
    pub(crate) fn make_dir(&mut self, path: &Path) -> io::Result<bool> {
        if let Ok(ino) = self.lookup(path) {
            return self.names(ino).map(|_| false);
        }
        let (dir, name) = self.parent(path)?;
        let ino = self.add(new_dir());
        self.apply(vec![(dir, name, Some(ino))]);
        Ok(true)
    }

    pub(crate) fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        let ((dir, name), (to_dir, to_name)) = (self.parent(from)?, self.parent(to)?);
        let ino = self.child(dir, &name)?.ok_or_else(missing)?;
        if (dir, &name) != (to_dir, &to_name) {
            self.apply(vec![(dir, name, None), (to_dir, to_name, Some(ino))]);
        }
        Ok(())
    }

    pub(crate) fn remove(&mut self, path: &Path) -> io::Result<()> {
        let (dir, name) = self.parent(path)?;
        let ino = self.child(dir, &name)?.ok_or_else(missing)?;
        self.image(ino)?;
        self.apply(vec![(dir, name, None)]);
        Ok(())
    }

    fn apply(&mut self, changes: Vec<(Ino, OsString, Option<Ino>)>) {
        let changes: Vec<Change> = changes
            .into_iter()
            .map(|(dir, name, to)| Change { dir, name, to })
            .collect();
        for change in &changes {
            if let Some(Inode::Dir { live, .. }) = self.inodes.get_mut(&change.dir) {
                change.apply(live);
            }
        }
        self.pending.push(Pending { changes });
    }

    /// A place that a misdirected write lands at: in the same file, or in one whose path has `part` in it.
    pub(crate) fn elsewhere(
        &mut self,
        ino: Ino,
        part: &str,
        offset: u64,
        dice: &mut Dice,
    ) -> Option<(Ino, u64)> {
        let mut files = vec![ino];
        if dice.coin() {
            self.files_below(ROOT, String::new(), part, &mut files);
        }
        let ino = files[dice.below(files.len() as u64) as usize];
        let pages = self.image(ino).ok()?.len().div_ceil(PAGE);
        let page = (pages > 0).then(|| dice.below(pages))?;
        Some((ino, page * PAGE + offset % PAGE))
    }

    fn files_below(&self, dir: Ino, path: String, part: &str, found: &mut Vec<Ino>) {
        let Some(Inode::Dir { live, .. }) = self.inodes.get(&dir) else {
            return;
        };
        for (name, &ino) in live {
            let path = format!("{path}/{}", name.display());
            match self.inodes.get(&ino) {
                Some(Inode::File { .. }) if path.contains(part) => found.push(ino),
                _ => self.files_below(ino, path, part, found),
            }
        }
    }

    pub(crate) fn sync_dir(&mut self, path: &Path) -> io::Result<()> {
        let dir = self.lookup(path)?;
        self.names(dir)?;
        // A rename between two directories takes what went before it in the other one along.
        let mut dirs = BTreeSet::from([dir]);
        let mut chosen = BTreeSet::new();
        for (n, pending) in self.pending.iter().enumerate().rev() {
            if pending.changes.iter().any(|c| dirs.contains(&c.dir)) {
                dirs.extend(pending.changes.iter().map(|c| c.dir));
                chosen.insert(n);
            }
        }
        self.persist(&chosen);
        self.sweep();
        Ok(())
    }

    /// Of each directory some first few unsynced operations are kept.
    pub(crate) fn power_cut(&mut self, dice: &mut Dice) {
        let mut left: BTreeMap<Ino, u64> = BTreeMap::new();
        for change in self.pending.iter().flat_map(|p| &p.changes) {
            *left.entry(change.dir).or_default() += 1;
        }
        for count in left.values_mut() {
            *count = dice.below(*count + 1);
        }
        let mut chosen = BTreeSet::new();
        for (n, pending) in self.pending.iter().enumerate() {
            let kept = pending.changes.iter().all(|c| left[&c.dir] > 0);
            for change in &pending.changes {
                let count = left.entry(change.dir).or_default();
                *count = if kept { count.saturating_sub(1) } else { 0 };
            }
            if kept {
                chosen.insert(n);
            }
        }
        self.persist(&chosen);
        self.pending.clear();
        for inode in self.inodes.values_mut() {
            match inode {
                Inode::Dir { live, durable } => live.clone_from(durable),
                Inode::File { image, handles } => {
                    image.power_cut(dice);
                    *handles = 0;
                }
            }
        }
        self.sweep();
    }

    fn persist(&mut self, chosen: &BTreeSet<usize>) {
        let mut n = 0;
        let inodes = &mut self.inodes;
        self.pending.retain(|pending| {
            let keep = chosen.contains(&n);
            n += 1;
            for change in pending.changes.iter().filter(|_| keep) {
                if let Some(Inode::Dir { durable, .. }) = inodes.get_mut(&change.dir) {
                    change.apply(durable);
                }
            }
            !keep
        });
    }

    /// Forgets inodes that nothing can reach any more.
    fn sweep(&mut self) {
        let mut used: BTreeSet<Ino> = BTreeSet::from([ROOT]);
        used.extend(
            self.pending
                .iter()
                .flat_map(|p| &p.changes)
                .filter_map(|c| c.to),
        );
        for (&ino, inode) in &self.inodes {
            match inode {
                Inode::Dir { live, durable } => used.extend(live.values().chain(durable.values())),
                Inode::File { handles: 0, .. } => {}
                Inode::File { .. } => {
                    used.insert(ino);
                }
            }
        }
        self.inodes.retain(|ino, _| used.contains(ino));
    }

    /// Bytes that files with a name, or open, take.
    pub(crate) fn used(&self) -> u64 {
        let named: BTreeSet<Ino> = self
            .inodes
            .values()
            .filter_map(|inode| match inode {
                Inode::Dir { live, .. } => Some(live.values().copied()),
                Inode::File { .. } => None,
            })
            .flatten()
            .collect();
        let pages = self.inodes.iter().map(|(ino, inode)| match inode {
            Inode::File { image, handles } if *handles > 0 || named.contains(ino) => image.pages(),
            _ => 0,
        });
        pages.sum::<u64>() * PAGE
    }
}

impl Change {
    fn apply(&self, names: &mut Names) {
        match self.to {
            Some(ino) => names.insert(self.name.clone(), ino),
            None => names.remove(&self.name),
        };
    }
}

fn new_dir() -> Inode {
    Inode::Dir {
        live: Names::new(),
        durable: Names::new(),
    }
}

fn missing() -> io::Error {
    io::ErrorKind::NotFound.into()
}

fn names_of(path: &Path) -> io::Result<Vec<OsString>> {
    let mut components = path.components();
    if components.next() != Some(Component::RootDir) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "paths are absolute",
        ));
    }
    components
        .map(|component| match component {
            Component::Normal(name) => Ok(name.to_owned()),
            _ => Err(io::ErrorKind::InvalidInput.into()),
        })
        .collect()
}
