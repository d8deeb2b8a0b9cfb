//! Where files are.

use env::Env;
use std::{
    io,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};
use types::PackId;

pub(crate) struct Names {
    root: PathBuf,
    tmp: PathBuf,
    counter: AtomicU64,
}

impl Names {
    /// Makes the directories, and removes temporary files.
    pub(crate) fn open(env: &Env, root: &Path) -> io::Result<Self> {
        let tmp = root.join("tmp");
        env.files.create_dir_all(&tmp)?;
        for name in env.files.list(&tmp)? {
            env.files.remove(&tmp.join(name))?;
        }
        env.files.sync_dir(root)?;
        if let Some(parent) = root.parent() {
            env.files.sync_dir(parent)?;
        }
        Ok(Names {
            root: root.to_owned(),
            tmp,
            counter: AtomicU64::new(0),
        })
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn dir(&self, pack: PackId) -> PathBuf {
        self.root.join(format!("{:02x}", pack.0 >> 8 & 0xff))
    }

    pub(crate) fn object(&self, pack: PackId) -> PathBuf {
        self.dir(pack).join(format!("{:016x}.pack", pack.0))
    }

    /// A new name each time: an object may be put again while somebody reads the one before.
    pub(crate) fn temporary(&self, pack: PackId) -> PathBuf {
        let n = self.counter.fetch_add(1, Relaxed);
        self.tmp.join(format!("{:016x}.{n}", pack.0))
    }

    /// Makes a directory; whether it was not there.
    pub(crate) fn make(&self, env: &Env, dir: &Path) -> io::Result<bool> {
        if env.files.exists(dir)? {
            return Ok(false);
        }
        env.files.create_dir_all(dir).map(|()| true)
    }

    /// All objects that have their names, in no order.
    pub(crate) fn list(&self, env: &Env) -> io::Result<Vec<PackId>> {
        let mut packs = Vec::new();
        for low in 0..=0xff_u64 {
            let dir = self.dir(PackId(low << 8));
            if !env.files.exists(&dir)? {
                continue;
            }
            for name in env.files.list(&dir)? {
                match parse(&name) {
                    Some(pack) if self.dir(pack) == dir => packs.push(pack),
                    _ => tracing::warn!(dir = %dir.display(), name = %name.display(), "not ours"),
                }
            }
        }
        Ok(packs)
    }
}

fn parse(name: &Path) -> Option<PackId> {
    let digits = name.to_str()?.strip_suffix(".pack")?;
    let id = u64::from_str_radix(digits, 16).ok()?;
    let good = (1..PackId::LIMIT).contains(&id) && digits == format!("{id:016x}");
    good.then_some(PackId(id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_names_are_packs() {
        assert_eq!(
            parse(Path::new("00000000000007a3.pack")),
            Some(PackId(0x7a3))
        );
        for bad in [
            "00000000000007A3.pack",
            "7a3.pack",
            "0000000000000000.pack",
            "+0000000000007a3.pack",
            "00000000000007a3.tmp",
            "ffffffffffffffff.pack",
        ] {
            assert_eq!(parse(Path::new(bad)), None, "{bad}");
        }
    }
}
