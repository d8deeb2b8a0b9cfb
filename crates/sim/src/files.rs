//! [`env::Files`] and [`env::File`] over a [`World`].

use crate::{
    image::PAGE,
    tree::Ino,
    world::{Fate, World},
};
use env::{DIRECT_ALIGNMENT, File, Files, Lock, LockError, OpenOptions, Space};
use parking_lot::Mutex;
use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

/// What a held lock says of its holder.
const SIM_PROCESS: u32 = 1;

/// Files in memory, as one life of the simulated machine sees them.
pub struct SimFiles {
    pub(crate) world: Arc<Mutex<World>>,
    pub(crate) life: u64,
}

impl SimFiles {
    /// A change of names: counted, then done.
    fn change<T>(&self, change: impl FnOnce(&mut World) -> io::Result<T>) -> io::Result<T> {
        let mut world = self.world.lock();
        let fate = world.mutate(self.life)?;
        let value = change(&mut world)?;
        fate.told(value)
    }
}

impl Files for SimFiles {
    fn open(&self, path: &Path, options: OpenOptions) -> io::Result<Arc<dyn File>> {
        let ino = if options.create_new {
            self.change(|world| world.tree.create(path))?
        } else {
            let mut world = self.world.lock();
            world.alive(self.life)?;
            let ino = world.tree.lookup(path)?;
            world.tree.image(ino)?;
            ino
        };
        self.world.lock().tree.hold(ino, 1);
        Ok(Arc::new(SimFile {
            world: self.world.clone(),
            life: self.life,
            ino,
            options,
        }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.change(|world| world.tree.rename(from, to))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.change(|world| world.tree.remove(path))
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        let mut paths: Vec<&Path> = path.ancestors().collect();
        paths.reverse();
        for path in paths {
            let there = self.world.lock().tree.lookup(path).is_ok();
            if !there {
                self.change(|world| world.tree.make_dir(path))?;
            }
        }
        let world = self.world.lock();
        world.alive(self.life)?;
        world.tree.list(path).map(|_| ())
    }

    fn list(&self, path: &Path) -> io::Result<Vec<PathBuf>> {
        let world = self.world.lock();
        world.alive(self.life)?;
        Ok(world
            .tree
            .list(path)?
            .into_iter()
            .map(PathBuf::from)
            .collect())
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        let world = self.world.lock();
        world.alive(self.life)?;
        Ok(world.tree.lookup(path).is_ok())
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let mut world = self.world.lock();
        let fate = world.mutate(self.life)?;
        world.tree.list(path)?;
        if fate == Fate::Done {
            world.tree.sync_dir(path)?;
        }
        fate.told(())
    }

    fn space(&self, path: &Path) -> io::Result<Space> {
        let world = self.world.lock();
        world.alive(self.life)?;
        world.tree.lookup(path)?;
        Ok(Space {
            total: world.space,
            free: world.space.saturating_sub(world.tree.used()),
        })
    }

    fn lock(&self, path: &Path) -> Result<Box<dyn Lock>, LockError> {
        if !self.exists(path)? {
            self.change(|world| world.tree.create(path))?;
        }
        let mut world = self.world.lock();
        world.alive(self.life)?;
        if !world.locks.insert(path.to_owned()) {
            return Err(LockError::Held(SIM_PROCESS));
        }
        Ok(Box::new(SimLock {
            world: self.world.clone(),
            life: self.life,
            path: path.to_owned(),
        }))
    }
}

struct SimLock {
    world: Arc<Mutex<World>>,
    life: u64,
    path: PathBuf,
}

impl Lock for SimLock {}

impl Drop for SimLock {
    fn drop(&mut self) {
        let mut world = self.world.lock();
        if world.life == self.life {
            world.locks.remove(&self.path);
        }
    }
}

struct SimFile {
    world: Arc<Mutex<World>>,
    life: u64,
    ino: Ino,
    options: OpenOptions,
}

impl Drop for SimFile {
    fn drop(&mut self) {
        let mut world = self.world.lock();
        if world.life == self.life {
            world.tree.hold(self.ino, -1);
        }
    }
}

impl SimFile {
    /// Direct I/O is refused what the kernel would refuse.
    fn check(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let numbers = [offset as usize, bytes.len(), bytes.as_ptr() as usize];
        let aligned = numbers.iter().all(|n| n % DIRECT_ALIGNMENT == 0);
        if self.options.direct && !aligned {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        Ok(())
    }

    fn change(&self, change: impl FnOnce(&mut World) -> io::Result<()>) -> io::Result<()> {
        if !self.options.write {
            return Err(io::Error::from_raw_os_error(libc::EBADF));
        }
        let mut world = self.world.lock();
        let fate = world.mutate(self.life)?;
        change(&mut world)?;
        fate.told(())
    }
}

impl File for SimFile {
    fn len(&self) -> io::Result<u64> {
        let mut world = self.world.lock();
        world.alive(self.life)?;
        Ok(world.tree.image(self.ino)?.len())
    }

    fn allocated(&self) -> io::Result<u64> {
        let mut world = self.world.lock();
        world.alive(self.life)?;
        Ok(world.tree.image(self.ino)?.pages() * PAGE)
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.check(offset, buf)?;
        let mut world = self.world.lock();
        world.alive(self.life)?;
        match world.tree.image(self.ino)?.read(offset, buf) {
            true => Ok(()),
            false => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    fn try_read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<bool> {
        let mut world = self.world.lock();
        world.alive(self.life)?;
        Ok(world.tree.image(self.ino)?.read(offset, buf))
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.check(offset, data)?;
        self.change(|world| {
            let missing = world
                .tree
                .image(self.ino)?
                .pages_missing(offset, data.len() as u64);
            if missing > 0 && world.tree.used() + missing * PAGE > world.space {
                return Err(io::Error::from_raw_os_error(libc::ENOSPC));
            }
            world.tree.image(self.ino)?.write(offset, data);
            Ok(())
        })
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut guard = self.world.lock();
        let world = &mut *guard;
        let fate = world.mutate(self.life)?;
        let image = world.tree.image(self.ino)?;
        if std::mem::take(&mut world.fail_next_sync) {
            image.sync_badly(self.options.direct, &mut world.dice);
            return Err(io::Error::from_raw_os_error(libc::EIO));
        }
        if fate == Fate::Done {
            image.sync();
        }
        fate.told(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.change(|world| {
            world.tree.image(self.ino)?.set_len(len);
            Ok(())
        })
    }

    fn punch_hole(&self, offset: u64, len: u64) -> io::Result<()> {
        self.change(|world| {
            world.tree.image(self.ino)?.punch(offset, len);
            Ok(())
        })
    }
}
