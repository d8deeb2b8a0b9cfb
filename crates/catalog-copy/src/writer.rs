//! Writing copies.

use crate::{layout, read::files};
use catalog::{Contents, Step};
use env::{Env, File, OpenOptions};
use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};
use types::StoreId;

/// Files that are kept, the newest ones.
const KEPT: usize = 2;
/// So many bytes of steps are always appended before another file is begun.
const STEPS_BYTES_MIN: u64 = 1 << 20;

/// Writes the copies of one catalog.
pub(crate) struct Writer {
    env: Env,
    dir: PathBuf,
    store: StoreId,
    newest: Option<Newest>,
}

/// The file that steps are appended to.
struct Newest {
    file: Arc<dyn File>,
    len: u64,
    /// Another file is begun when this one is longer.
    len_max: u64,
}

impl Writer {
    pub(crate) fn new(env: &Env, dir: &Path, store: StoreId) -> Self {
        Writer {
            env: env.clone(),
            dir: dir.to_owned(),
            store,
            newest: None,
        }
    }

    /// Whether a file must be begun before a step can be appended, or had better be.
    pub(crate) fn wants_contents(&self) -> bool {
        let newest = self.newest.as_ref();
        newest.is_none_or(|newest| newest.len > newest.len_max)
    }

    /// Begins another file, durable when this returns, and removes the oldest.
    pub(crate) fn begin(&mut self, contents: &Contents) -> io::Result<()> {
        self.newest = None;
        let files = &self.env.files;
        if !files.exists(&self.dir)? {
            files.create_dir_all(&self.dir)?;
            files.sync_dir(self.dir.parent().unwrap_or(Path::new("/")))?;
        }
        let number = self.next_number()?;
        let path = self.dir.join(layout::name(number));
        let bytes = layout::encode_contents(self.store, contents);
        let bytes = bytes.ok_or_else(|| io::Error::other("the catalog cannot be encoded"))?;
        files.write_atomic(&path, &bytes).inspect_err(|_| {
            // Half a file must not take the space that is wanting.
            let _ = files.remove(&path.with_extension("tmp"));
        })?;
        let options = OpenOptions {
            write: true,
            ..OpenOptions::default()
        };
        let len = bytes.len() as u64;
        self.newest = Some(Newest {
            file: files.open(&path, options)?,
            len,
            len_max: len + len.max(STEPS_BYTES_MIN),
        });
        self.prune()
    }

    /// Appends a step, durable when this returns. After an error a file must be begun.
    pub(crate) fn append(&mut self, commit: u64, step: &Step) -> io::Result<()> {
        let bytes = layout::encode_step(self.store, commit, step);
        let (Some(mut newest), Some(bytes)) = (self.newest.take(), bytes) else {
            return Err(io::Error::other("no file to append to"));
        };
        newest.file.write_at(newest.len, &bytes)?;
        newest.file.sync_data()?;
        newest.len += bytes.len() as u64;
        self.newest = Some(newest);
        Ok(())
    }

    /// Above all that there are, finished or not.
    fn next_number(&self) -> io::Result<u64> {
        let names = self.env.files.list(&self.dir)?;
        let numbers = names
            .iter()
            .filter_map(|name| layout::number(name.to_str()?));
        let last = numbers.max().unwrap_or(0);
        last.checked_add(1)
            .ok_or_else(|| io::Error::other("the last number of a copy is used"))
    }

    fn prune(&self) -> io::Result<()> {
        let mut files = files(&self.env, &self.dir)?;
        files.truncate(files.len().saturating_sub(KEPT));
        let unfinished = self.env.files.list(&self.dir)?;
        let unfinished = unfinished.iter().filter_map(|name| name.to_str());
        let unfinished =
            unfinished.filter(|name| name.ends_with(".tmp") && layout::number(name).is_some());
        for name in files
            .iter()
            .map(|(_, name)| name.as_str())
            .chain(unfinished)
        {
            self.env.files.remove(&self.dir.join(name))?;
        }
        self.env.files.sync_dir(&self.dir)
    }
}
