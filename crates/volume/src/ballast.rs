//! A file that takes space in good times, to be given up when removing or collecting needs some.
//!
//! The reserve keeps this store's writers off the last of the free space, but not other programs. When they have
//! taken all of it, a commit of the catalog may have to let its file grow, and a pack that is rewritten lies
//! there twice for a moment. So a quarter of the reserve is really allocated. What gives space back is
//! tried without it first; if there is no room, the file is cut to nothing and it is tried again. It is made
//! anew once the reserve is free again.

use crate::error::{Error, ErrorKind};
use env::{Env, File, OpenOptions};
use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};
use sync::Mutex;

/// The file's name in the store's directory.
const NAME: &str = "reserve";

pub(crate) struct Ballast {
    env: Env,
    path: PathBuf,
    /// When it is whole.
    bytes: u64,
    held: Mutex<u64>,
}

impl Ballast {
    /// What a store in `dir` has of it; [`keep`](Self::keep) makes it whole.
    pub(crate) fn new(env: &Env, dir: &Path, reserve: u64) -> Self {
        let ballast = Ballast {
            env: env.clone(),
            path: dir.join(NAME),
            bytes: reserve / 4,
            held: Mutex::new(0),
        };
        let there = ballast.file().and_then(|file| file.allocated());
        *ballast.held.lock() = there.unwrap_or(0).min(ballast.bytes);
        ballast
    }

    /// Bytes of the reserve that the file takes.
    pub(crate) fn held(&self) -> u64 {
        *self.held.lock()
    }

    fn file(&self) -> io::Result<Arc<dyn File>> {
        self.env.files.open(
            &self.path,
            OpenOptions {
                write: true,
                create_new: !self.env.files.exists(&self.path)?,
                direct: false,
            },
        )
    }

    /// Makes the file whole, if it is not and `free` bytes leave room for it. Answers whether it changed.
    pub(crate) fn keep(&self, free: u64) -> bool {
        let mut held = self.held.lock();
        if *held >= self.bytes || free < 4 * self.bytes {
            return false;
        }
        match self.file().and_then(|file| file.allocate(self.bytes)) {
            Ok(()) => *held = self.bytes,
            Err(e) => {
                // What was taken of it is in nobody's way: the reserve is larger.
                tracing::debug!(error = %e, "the reserve could not be allocated");
            }
        }
        *held == self.bytes
    }

    /// Gives its space to who needs it now; `false` if there is none left to give.
    pub(crate) fn give_up(&self) -> bool {
        let mut held = self.held.lock();
        if *held == 0 {
            return false;
        }
        // Some file systems have the space only after a sync.
        let cut = self
            .file()
            .and_then(|file| file.set_len(0).and_then(|()| file.sync_data()));
        match cut {
            Ok(()) => {
                *held = 0;
                tracing::warn!(
                    "no space is left: the reserve is given up for removing and collecting"
                );
                true
            }
            Err(e) => {
                tracing::warn!(error = %e, "the reserve could not be given up");
                false
            }
        }
    }
}

impl Ballast {
    fn freeing<T, E>(
        &self,
        is_full: impl Fn(&E) -> bool,
        what: impl Fn() -> Result<T, E>,
    ) -> Result<T, E> {
        match what() {
            Err(e) if is_full(&e) && self.give_up() => what(),
            done => done,
        }
    }

    /// Does what must work without a free byte; if there is no room for it, once more without the ballast.
    pub(crate) fn or_without<T>(&self, what: impl Fn() -> Result<T, Error>) -> Result<T, Error> {
        self.freeing(|e: &Error| e.kind() == ErrorKind::NoSpace, what)
    }
}

impl crate::Store {
    /// Does what gives space back; if there is no room for that, once more with the reserve that is kept for it.
    ///
    /// # Errors
    /// Those of `what`.
    pub fn freeing<T, E>(
        &self,
        is_full: impl Fn(&E) -> bool,
        what: impl Fn() -> Result<T, E>,
    ) -> Result<T, E> {
        self.shared.ballast.freeing(is_full, what)
    }
}
