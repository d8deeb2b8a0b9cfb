//! Making and opening a store.

use crate::{
    ballast::Ballast,
    budget::Budget,
    config::{Background, Config},
    error::{Error, ErrorKind},
    gate::Gate,
    health::Ailments,
    ids::Ids,
    manifest::{FORMAT_VERSION, Manifest},
    rebuild,
    recover::{Gap, Recovered},
    store::{RootPins, Shared, Store},
    work::{self, WorkQueue},
};
use brick_local::LocalBrick;
use catalog::{Catalog, Change, IdKind, Properties, Settings};
use catalog_redb::RedbCatalog;
use env::{Env, Lock, LockError, Watch};
use limits::Timer;
use pack::PackStore;
use std::{collections::BTreeMap, path::Path, sync::Arc};
use sync::{Mutex, RwLock, atomic::AtomicBool};
use types::{JournalSeq, StoreId};
use write_buffer::{Survivor, WriteBuffer};

/// With less shared memory than this it is not used.
const SHARED_BYTES_MIN: u64 = 8 << 20;

/// What a new store is told.
#[derive(Clone, Debug, Default)]
pub struct InitOptions {
    /// For volumes that do not say.
    pub defaults: Properties,
    /// How long the trash keeps, seconds; 24 hours if none.
    pub trash_keep_s: Option<u64>,
}

pub(crate) fn io(what: &'static str) -> impl Fn(std::io::Error) -> Error {
    move |e| {
        let kind = match e.kind() {
            std::io::ErrorKind::StorageFull => ErrorKind::NoSpace,
            std::io::ErrorKind::NotFound => ErrorKind::NotFound,
            _ => ErrorKind::Io,
        };
        Error::new(kind, format!("{what}: {e}")).with_source(e)
    }
}

impl Store {
    /// Makes a store in `dir`, which is made too, or is an empty directory.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`] if anything is in the directory; it is not touched then.
    pub fn init(env: &Env, dir: &Path, options: &InitOptions) -> Result<Manifest, Error> {
        let files = &env.files;
        let dir = or_here(dir);
        let shown = dir.display();
        if files
            .exists(dir)
            .map_err(io("cannot look at the directory"))?
        {
            let entries = files.list(dir).map_err(io("cannot list the directory"))?;
            if entries.iter().any(|name| name == Path::new("store.toml")) {
                let message =
                    format!("{shown} is a store already; serve it, or choose another directory");
                return Err(Error::new(ErrorKind::Conflict, message));
            }
            if !entries.is_empty() {
                let message = format!("{shown} is not empty; choose an empty or a new directory");
                return Err(Error::new(ErrorKind::Conflict, message));
            }
        }
        let make = |path: &Path| {
            files
                .create_dir_all(path)
                .map_err(io("cannot make the directory"))
        };
        let parents = parents_to_sync(env, dir)?;
        make(dir)?;
        make(&dir.join("brick"))?;
        make(&dir.join("journal"))?;
        let catalog = RedbCatalog::create(env, &dir.join("catalog.redb"))?;
        let mut settings = Settings {
            version: 0,
            defaults: options.defaults,
            ..Settings::default()
        };
        settings.trash_keep_s = options.trash_keep_s.unwrap_or(settings.trash_keep_s);
        settings.version = catalog.settings()?.version;
        catalog.commit(&[Change::PutSettings(settings)])?;
        drop(catalog);
        let mut manifest = Manifest {
            format: FORMAT_VERSION,
            id: StoreId([0; 16]),
            hash_key: [0; 32],
            created_ms: env.clock.now().as_millis() as u64,
        };
        env.random.fill(&mut manifest.id.0);
        env.random.fill(&mut manifest.hash_key);
        files
            .sync_dir(dir)
            .map_err(io("cannot sync the directory"))?;
        // Written last: a directory without it is no store.
        let text = manifest.to_toml();
        files
            .write_atomic(&dir.join("store.toml"), text.as_bytes())
            .map_err(io("cannot write store.toml"))?;
        for parent in parents {
            files
                .sync_dir(parent)
                .map_err(io("cannot sync a parent directory"))?;
        }
        Ok(manifest)
    }

    /// Opens a store to write, and recovers what a crash left: in proportion to the journal.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] if there is none, [`ErrorKind::InUse`] with the holder's process id,
    /// [`ErrorKind::NewerFormat`], [`ErrorKind::Damaged`]. Nothing is changed then.
    pub fn open(env: &Env, dir: &Path, config: Config) -> Result<Store, Error> {
        Store::open_with(env, dir, config, &mut |gaps| {
            let lost: Vec<String> = gaps.iter().map(Gap::to_string).collect();
            let message = format!("flushes are lost: {}", lost.join("; "));
            Err(Error::new(ErrorKind::Damaged, message))
        })
    }

    /// As [`open`](Self::open), asking `accept` whether to go on if flushes are lost: then without what comes after.
    pub(crate) fn open_with(
        env: &Env,
        dir: &Path,
        mut config: Config,
        accept: &mut dyn FnMut(&[Gap]) -> Result<(), Error>,
    ) -> Result<Store, Error> {
        let began = env.clock.monotonic();
        let watch = Watch::new(Arc::clone(&env.clock));
        let env = &Env {
            files: watch.files(Arc::clone(&env.files)),
            ..env.clone()
        };
        let manifest = read_manifest(env, dir)?;
        let lock = lock_store(env, dir)?;
        let catalog = rebuild::open_catalog(env, dir, manifest.id)?;
        let ballast = Ballast::new(env, dir, config.reserve_bytes);
        let epoch = ballast.or_without(|| Ok(catalog.next_store_epoch()?))?;
        let brick: Arc<dyn brick::Brick> =
            Arc::new(LocalBrick::open(env.clone(), &dir.join("brick"))?);
        let packs = open_packs(&manifest, &config, &catalog, &brick, epoch);
        let mut recovered = Recovered::new(catalog.volumes()?);
        let (buffer, survivors) = open_buffer(env, &manifest, &mut config)?;
        let recover = || {
            let reached = buffer.journal_end();
            let journal = open_journal(env, dir, &manifest, &config, reached, &mut recovered)?;
            recovered.overlay(&buffer, survivors);
            let gaps = recovered.gaps(&*catalog)?;
            if !gaps.is_empty() {
                accept(&gaps)?;
                recovered.forget_after(&gaps, &*catalog)?;
            }
            Ok((journal, gaps))
        };
        let (journal, gaps) = recover().inspect_err(|_: &Error| {
            if buffer.is_new() {
                let _ = buffer.remove();
            }
        })?;
        buffer.adopt(epoch, recovered.survived(), journal.end());
        let shared = Arc::new(Shared {
            env: env.clone(),
            dir: dir.to_owned(),
            budget: Budget::new(config.dirty_bytes, config.reserve_bytes),
            ballast,
            manifest,
            config,
            epoch,
            catalog,
            ids: Ids::default(),
            brick,
            packs,
            journal,
            buffer,
            gate: Gate::default(),
            ailments: Ailments::default(),
            watch,
            work: WorkQueue::default(),
            hurry: AtomicBool::new(false),
            timer: Timer::new(Arc::clone(&env.clock)),
            volumes: Mutex::new(BTreeMap::new()),
            roots: RwLock::new(()),
            pins: Arc::new(RootPins::default()),
        });
        shared.update_space();
        recovered.finish(&shared)?;
        for gap in &gaps {
            shared.skip(gap)?;
        }
        let threads = match shared.config.background {
            Background::Threads(count) => work::start(&shared, count)?,
            Background::Inline => Vec::new(),
        };
        let recovery = env.clock.monotonic() - began;
        Ok(Store {
            shared,
            threads: Mutex::new(threads),
            recovery,
            _lock: lock,
        })
    }
}

/// The current directory, if `path` is a relative path without a component.
fn or_here(path: &Path) -> &Path {
    if path.as_os_str().is_empty() {
        Path::new(".")
    } else {
        path
    }
}

/// The directories that will hold a new name when `dir` is made with its parents: its own, and that of each
/// parent that is missing.
fn parents_to_sync<'a>(env: &Env, dir: &'a Path) -> Result<Vec<&'a Path>, Error> {
    let mut parents = Vec::new();
    for parent in dir.ancestors().skip(1).map(or_here) {
        parents.push(parent);
        let exists = env.files.exists(parent);
        if exists.map_err(io("cannot look at a parent directory"))? {
            break;
        }
    }
    Ok(parents)
}

/// Nobody else has the store open while this lives.
pub(crate) fn lock_store(env: &Env, dir: &Path) -> Result<Box<dyn Lock>, Error> {
    env.files.lock(&dir.join("lock")).map_err(|e| match e {
        LockError::Held(pid) => {
            let message = format!(
                "{} is in use by process {pid}; stop it, or talk to it through its socket",
                dir.display()
            );
            Error::new(ErrorKind::InUse, message)
        }
        LockError::Io(e) => io("cannot lock the store")(e),
    })
}

pub(crate) fn read_manifest(env: &Env, dir: &Path) -> Result<Manifest, Error> {
    let path = dir.join("store.toml");
    let exists = env
        .files
        .exists(&path)
        .map_err(io("cannot look for store.toml"))?;
    if !exists {
        let message = format!(
            "{0} is not a store; make one with: holdfast init {0}",
            dir.display()
        );
        return Err(Error::new(ErrorKind::NotFound, message));
    }
    Manifest::parse(
        &env.files
            .read_all(&path)
            .map_err(io("cannot read store.toml"))?,
    )
}

/// Where written data waits, and what a process that died left there. Less is kept dirty where there is little shared
/// memory.
///
/// # Errors
/// If what is there belongs to somebody else: it may hold what guests believe to be written.
pub(crate) fn open_buffer(
    env: &Env,
    manifest: &Manifest,
    config: &mut Config,
) -> Result<(WriteBuffer, Vec<Survivor>), Error> {
    if !config.shared_memory {
        return Ok((WriteBuffer::on_heap(), Vec::new()));
    }
    let opened = WriteBuffer::open(env, manifest.id, config.dirty_bytes);
    let room = |buffer: &WriteBuffer| {
        let available = env.memory.available().unwrap_or(0);
        // Half: others use shared memory too.
        (available.saturating_add(buffer.allocated())) / 2
    };
    match opened {
        Ok((buffer, survivors)) => {
            let room = room(&buffer);
            if room >= SHARED_BYTES_MIN || !survivors.is_empty() {
                config.dirty_bytes = config.dirty_bytes.min(room.max(SHARED_BYTES_MIN));
                return Ok((buffer, survivors));
            }
            let _ = buffer.remove();
            tracing::warn!(
                available = room,
                "too little shared memory: guests must be restarted after a crash"
            );
        }
        Err(e) if e.is_refused() => {
            let message = format!("{e}: run this as the user that serves the store");
            return Err(Error::new(ErrorKind::Io, message).with_source(e));
        }
        Err(e) => {
            tracing::warn!(error = %e, "no shared memory: guests must be restarted after a crash");
        }
    }
    Ok((WriteBuffer::on_heap(), Vec::new()))
}

pub(crate) fn journal_config(config: &Config) -> journal::Config {
    let segment_bytes = (config.journal_bytes / 16).clamp(1 << 20, 32 << 20);
    journal::Config {
        segment_bytes,
        capacity_bytes: config.journal_bytes,
    }
}

/// Opens the journal, and has `recovered` take what is in it.
fn open_journal(
    env: &Env,
    dir: &Path,
    manifest: &Manifest,
    config: &Config,
    reached: JournalSeq,
    recovered: &mut Recovered,
) -> Result<journal::Journal, Error> {
    let dir = dir.join("journal");
    let exists = env.files.exists(&dir);
    if !exists.map_err(io("cannot look for the journal"))? {
        let message = "the journal's directory is missing";
        return Err(Error::new(ErrorKind::Damaged, message));
    }
    let replay = &mut |replayed| {
        recovered.replay(replayed);
        Ok(())
    };
    let config = journal_config(config);
    let journal = journal::Journal::open(env, &dir, manifest.id, config, reached, replay);
    Ok(journal?)
}

fn open_packs(
    manifest: &Manifest,
    config: &Config,
    catalog: &Arc<dyn Catalog>,
    brick: &Arc<dyn brick::Brick>,
    epoch: types::Epoch,
) -> Arc<PackStore> {
    let reserve: pack::ReserveIds = {
        let catalog = Arc::clone(catalog);
        Box::new(move |count| {
            catalog.reserve(IdKind::Pack, count).map_err(|e| {
                let kind = match e.kind() {
                    catalog::ErrorKind::NoSpace => pack::ErrorKind::NoSpace,
                    _ => pack::ErrorKind::Io,
                };
                pack::Error::new(kind, "reserving pack ids").with_source(e)
            })
        })
    };
    let cache = config.cache_bytes;
    let packs = pack::Config {
        block_cache_bytes: cache / 16 * 12,
        node_cache_bytes: cache / 16 * 3,
        header_cache_bytes: cache / 16,
        index_bytes: config.index_bytes,
    };
    PackStore::new(
        Arc::clone(brick),
        manifest.id,
        manifest.hash_key,
        epoch,
        reserve,
        packs,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_that_was_made_is_there_after_a_power_cut() {
        for seed in 0..20 {
            let sim = sim::SimEnv::new(seed);
            let dir = Path::new("/a/b/c/store");
            Store::init(&sim.env(), dir, &InitOptions::default()).unwrap();
            sim.power_cut();
            let opened = Store::open(&sim.env(), dir, Config::small());
            assert!(opened.is_ok(), "seed {seed}: {:?}", opened.err());
        }
    }

    #[test]
    fn names_are_made_durable_up_to_what_was_there() {
        let env = Env::real();
        let parents = |dir: &'static str| {
            let parents = parents_to_sync(&env, Path::new(dir)).unwrap();
            parents
                .iter()
                .map(|p| p.to_str().unwrap())
                .collect::<Vec<_>>()
        };
        assert_eq!(parents("/no-such/a/b"), ["/no-such/a", "/no-such", "/"]);
        assert_eq!(parents("/tmp"), ["/"]);
        assert_eq!(parents("no-such/a"), ["no-such", "."]);
        assert_eq!(parents("store"), ["."]);
        assert!(parents("/").is_empty());
    }
}
