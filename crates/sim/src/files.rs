//! [`env::Files`] and [`env::File`] over a [`World`].

use crate::{
    faults::{Fault, Injection, Kind},
    image::{Image, PAGE},
    tree::{Ino, Tree},
    world::{Fate, Io, World, dead},
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
/// Space of a disk that nobody has limited.
const SPACE_DEFAULT: u64 = 1 << 40;

/// Files in memory, as one life of the simulated machine sees them.
pub struct SimFiles {
    pub(crate) world: Arc<Mutex<World>>,
    pub(crate) life: u64,
}

impl SimFiles {
    /// A change of names.
    fn change<T>(
        &self,
        kind: Kind,
        path: &Path,
        change: impl FnOnce(&mut Tree) -> io::Result<T>,
    ) -> io::Result<T> {
        let io = Io {
            kind,
            path,
            offset: 0,
            data: &[],
        };
        unless_struck(&mut self.world.lock(), self.life, &io, |world| {
            change(&mut world.tree)
        })
    }
}

/// Does what is done whole or not at all, unless a fault strikes.
fn unless_struck<T>(
    world: &mut World,
    life: u64,
    io: &Io<'_>,
    change: impl FnOnce(&mut World) -> io::Result<T>,
) -> io::Result<T> {
    match world.begin(life, io)? {
        Fate::Done => change(world),
        Fate::Dying => {
            if world.dice.coin() {
                change(world)?;
            }
            Err(dead())
        }
        Fate::Struck(met) => Err(error_of(met.fault)),
    }
}

fn error_of(fault: Fault) -> io::Error {
    io::Error::from_raw_os_error(match fault {
        Fault::NoSpace => libc::ENOSPC,
        _ => libc::EIO,
    })
}

impl Files for SimFiles {
    fn open_max(&self) -> usize {
        256
    }

    fn open(&self, path: &Path, options: OpenOptions) -> io::Result<Arc<dyn File>> {
        let ino = if options.create_new {
            self.change(Kind::Create, path, |tree| tree.create(path))?
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
            path: path.to_owned(),
            options,
        }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.change(Kind::Rename, from, |tree| tree.rename(from, to))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.change(Kind::Remove, path, |tree| tree.remove(path))
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        let mut paths: Vec<&Path> = path.ancestors().collect();
        paths.reverse();
        for path in paths {
            let there = self.world.lock().tree.lookup(path).is_ok();
            if !there {
                self.change(Kind::Create, path, |tree| tree.make_dir(path))?;
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
        self.change(Kind::SyncDir, path, |tree| tree.sync_dir(path))
    }

    fn is_link(&self, path: &Path) -> io::Result<bool> {
        self.kind(path).map(|_| false)
    }

    fn space(&self, path: &Path) -> io::Result<Space> {
        let world = self.world.lock();
        world.alive(self.life)?;
        world.tree.lookup(path)?;
        let total = world.space.unwrap_or(SPACE_DEFAULT);
        Ok(Space {
            total,
            free: total.saturating_sub(world.tree.used()),
        })
    }

    fn lock(&self, path: &Path) -> Result<Box<dyn Lock>, LockError> {
        if !self.exists(path)? {
            self.change(Kind::Create, path, |tree| tree.create(path))?;
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
    path: PathBuf,
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

    fn io<'a>(&'a self, kind: Kind, offset: u64, data: &'a [u8]) -> Io<'a> {
        Io {
            kind,
            path: &self.path,
            offset,
            data,
        }
    }

    fn check_writable(&self) -> io::Result<()> {
        match self.options.write {
            true => Ok(()),
            false => Err(io::Error::from_raw_os_error(libc::EBADF)),
        }
    }

    /// A change of the file's shape.
    fn reshape(&self, at: u64, change: impl FnOnce(&mut Image)) -> io::Result<()> {
        self.check_writable()?;
        let io = self.io(Kind::Shape, at, &[]);
        unless_struck(&mut self.world.lock(), self.life, &io, |world| {
            change(world.tree.image(self.ino)?);
            Ok(())
        })
    }

    /// As much as there is space for.
    fn write(&self, world: &mut World, offset: u64, data: &[u8]) -> io::Result<()> {
        let missing = |world: &mut World, len: usize| {
            let image = world.tree.image(self.ino)?;
            Ok::<_, io::Error>(image.pages_missing(offset, len as u64) * PAGE)
        };
        let mut fits = data.len();
        if world.space.is_some() {
            let free = world.free();
            while fits > 0 && missing(world, fits)? > free {
                // Back to the page before.
                let end = (offset + fits as u64 - 1) / PAGE * PAGE;
                fits = end.saturating_sub(offset) as usize;
            }
        }
        world.tree.image(self.ino)?.write(offset, &data[..fits]);
        match fits == data.len() {
            true => Ok(()),
            false => Err(io::Error::from_raw_os_error(libc::ENOSPC)),
        }
    }

    /// Writes as a disk that fails or lies does.
    fn write_badly(
        &self,
        world: &mut World,
        offset: u64,
        data: &[u8],
        met: &Injection,
    ) -> io::Result<()> {
        match met.fault {
            Fault::WriteError => {
                let done = world.some_of(data);
                self.write(world, offset, done)?;
                Err(error_of(met.fault))
            }
            Fault::Misdirected => {
                let place = world
                    .tree
                    .elsewhere(self.ino, &met.file, offset, &mut world.dice);
                if let Some((ino, offset)) = place {
                    world.tree.image(ino)?.write_through(offset, data);
                }
                let cached = world.dice.coin();
                world.tree.image(self.ino)?.lose(offset, data, cached);
                Ok(())
            }
            Fault::Lost => {
                let cached = world.dice.coin();
                world.tree.image(self.ino)?.lose(offset, data, cached);
                Ok(())
            }
            Fault::Flipped => {
                let mut data = data.to_vec();
                if !data.is_empty() {
                    let bit = world.dice.below(data.len() as u64 * 8);
                    data[(bit / 8) as usize] ^= 1 << (bit % 8);
                }
                self.write(world, offset, &data)
            }
            other => Err(error_of(other)),
        }
    }

    fn read(&self, offset: u64, buf: &mut [u8]) -> io::Result<bool> {
        let mut world = self.world.lock();
        let len = (buf.len() as u64).to_le_bytes();
        match world.begin(self.life, &self.io(Kind::Read, offset, &len))? {
            Fate::Struck(met) => Err(error_of(met.fault)),
            Fate::Done | Fate::Dying => Ok(world.tree.image(self.ino)?.read(offset, buf)),
        }
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
        match self.read(offset, buf)? {
            true => Ok(()),
            false => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    fn try_read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<bool> {
        self.read(offset, buf)
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.check(offset, data)?;
        self.check_writable()?;
        let mut guard = self.world.lock();
        let world = &mut *guard;
        match world.begin(self.life, &self.io(Kind::Write, offset, data))? {
            Fate::Done => self.write(world, offset, data),
            Fate::Dying => {
                let done = world.some_of(data);
                self.write(world, offset, done)?;
                Err(dead())
            }
            Fate::Struck(met) => self.write_badly(world, offset, data, &met),
        }
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut guard = self.world.lock();
        let world = &mut *guard;
        let fate = world.begin(self.life, &self.io(Kind::SyncData, 0, &[]))?;
        let image = world.tree.image(self.ino)?;
        match fate {
            Fate::Done => {
                image.sync();
                Ok(())
            }
            // What a sync that is cut short has done is for the power cut to say.
            Fate::Dying => Err(dead()),
            Fate::Struck(met) => {
                image.sync_badly(self.options.direct, &mut world.dice);
                Err(error_of(met.fault))
            }
        }
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.reshape(len, |image| image.set_len(len))
    }

    fn punch_hole(&self, offset: u64, len: u64) -> io::Result<()> {
        self.reshape(offset, |image| image.punch(offset, len))
    }
}
