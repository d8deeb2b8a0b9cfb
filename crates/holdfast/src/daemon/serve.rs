//! Starting and ending the daemon.

use super::{
    config::Config,
    control::Daemon,
    exports::StoreExports,
    files::Files,
    fills::{self, Fills},
    modes, news,
    power::{self, Power},
    schedules::{self, Schedules},
    scrub::{self, Scrub},
    upkeep::{self, Stop},
    vhost::Vhost,
};
use anyhow::{Context, Result, anyhow};
use api_types::{ApiError, Control, ErrorCode};
use front_nbd::Server;
use rustix::fs::Mode;
use std::{
    net::SocketAddr,
    os::fd::OwnedFd,
    os::unix::net::UnixListener,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};
use types::Cancel;
use volume::{InitOptions, Manifest, Store};

/// NBD requests in flight have so long to finish when the daemon ends.
const PATIENCE: Duration = Duration::from_secs(3);

/// What the command line says.
#[derive(Clone, Debug)]
pub(crate) struct ServeOptions {
    /// The store.
    pub(crate) dir: PathBuf,
    /// Where the API listens.
    pub(crate) socket: PathBuf,
    /// Where the NBD server listens.
    pub(crate) nbd_socket: PathBuf,
    /// Where it listens as well.
    pub(crate) nbd_listen: Vec<SocketAddr>,
    /// Where the sockets of vhost-user-blk devices are; beside the NBD server's unless told otherwise.
    pub(crate) vhost_dir: Option<PathBuf>,
    /// The configuration file.
    pub(crate) config: Option<PathBuf>,
}

/// Makes a store.
pub(crate) fn init(dir: &Path, options: &InitOptions) -> std::result::Result<Manifest, ApiError> {
    let dir = std::path::absolute(dir)
        .map_err(|e| ApiError::new(ErrorCode::Invalid, format!("{}: {e}", dir.display())))?;
    Store::init(&env::Env::real(), &dir, options).map_err(super::convert::api_error)
}

/// Serves a store until a signal ends it.
pub(crate) fn serve(options: &ServeOptions) -> Result<()> {
    let env = env::Env::real();
    let config = Config::load(options.config.as_deref())?;
    raise_file_limit();
    let dir = std::path::absolute(&options.dir)?;
    let mut config_of_store = config.store(disk_bytes(&env, &dir));
    let images_ending = Arc::new(AtomicBool::new(false));
    let ending = Arc::clone(&images_ending);
    config_of_store.images = image::images(&env, Cancel::new(move || ending.load(Relaxed)));
    let store = Store::open(&env, &dir, config_of_store);
    let store = Arc::new(store.map_err(|e| super::check::open_error(&dir, e))?);
    tracing::info!(store = %dir.display(), recovery_ms = store.stats().recovery.as_millis() as u64, "store open");
    let sockets = Sockets::inherited();
    let ours: Vec<&PathBuf> = [
        (&options.socket, &sockets.api),
        (&options.nbd_socket, &sockets.nbd),
    ]
    .into_iter()
    .filter_map(|(path, inherited)| inherited.is_none().then_some(path))
    .collect();
    let files = Arc::new(Files::new(&env, &dir, config.files.allowed.clone())?);
    let power = Arc::new(Power::new(Arc::clone(&env.clock), config.power.grace.0));
    power::after_host(&env, &store, &power);
    let exports = Arc::new(StoreExports {
        store: Arc::clone(&store),
        files: Arc::clone(&files),
        power: Arc::clone(&power),
    });
    let (nbd, nbd_listen) = start_nbd(options, &config, &env, exports, sockets.nbd)?;
    let listener = match sockets.api {
        Some(fd) => UnixListener::from(fd),
        None => listen_api(&options.socket)?,
    };
    let clock = Arc::clone(&env.clock);
    let daemon = Arc::new(Daemon {
        scrub: Scrub::new(env.clone(), &store, config.scrub.settings()),
        started_ms: env.clock.now().as_millis() as u64,
        store: Arc::clone(&store),
        files,
        power,
        nbd,
        nbd_listen,
        nbd_socket: std::path::absolute(&options.nbd_socket)?,
        vhost: Vhost::new(env.clone(), &store, vhost_dir(options)?, &config.vhost),
        fills: Fills::new(config.import.rate.map(|rate| rate.0)),
        schedules: Schedules::new(Arc::clone(&clock)),
        growth_percent: config.collect.growth_percent,
        last_collect: Default::default(),
        last_collect_ms: AtomicU64::new(0),
        events: api_server::Events::new(clock),
        env,
    });
    daemon.vhost.start();
    let stop = Arc::new(Stop(AtomicBool::new(false)));
    let upkeep = upkeep::start(Arc::clone(&daemon), Arc::clone(&stop))?;
    let news = news::start(Arc::clone(&daemon), Arc::clone(&stop))?;
    let scrub = scrub::start(Arc::clone(&daemon), Arc::clone(&stop))?;
    let modes = modes::start(Arc::clone(&daemon), Arc::clone(&stop))?;
    let fills = fills::start(Arc::clone(&daemon), Arc::clone(&stop))?;
    let schedule = schedules::start(Arc::clone(&daemon), Arc::clone(&stop))?;
    let served = run_api(&daemon, listener);
    stop.0.store(true, Relaxed);
    tracing::info!("ending");
    // Before clients are cut off: those are not powered off.
    let _ = modes.join();
    keep_while_serving(&store);
    let cut = daemon.nbd.shutdown(PATIENCE) + daemon.vhost.shutdown(PATIENCE);
    if cut > 0 {
        tracing::warn!(connections = cut, "requests were cut off");
    }
    // Nobody is left who would get an error for it.
    images_ending.store(true, Relaxed);
    let _ = upkeep.join();
    let _ = scrub.join();
    let _ = fills.join();
    let _ = schedule.join();
    let _ = news.join();
    let closed = store.close().map_err(super::convert::api_error);
    for socket in ours {
        let _ = std::fs::remove_file(socket);
    }
    served?;
    closed?;
    tracing::info!("ended");
    Ok(())
}

/// Makes durable what is dirty, and then what came in meanwhile: little is left to do while clients wait.
fn keep_while_serving(store: &Store) {
    for _ in 0..2 {
        if store.keep_all().is_err() {
            // It was logged, and is tried again.
            return;
        }
    }
}

/// The size of the file system that a store is on; a large one where there is no telling.
pub(crate) fn disk_bytes(env: &env::Env, dir: &Path) -> u64 {
    env.files.space(dir).map_or(u64::MAX, |space| space.total)
}

fn start_nbd(
    options: &ServeOptions,
    config: &Config,
    env: &env::Env,
    exports: Arc<StoreExports>,
    inherited: Option<OwnedFd>,
) -> Result<(Server, Vec<String>)> {
    let mut listen = vec![format!("unix:{}", options.nbd_socket.display())];
    let nbd_config = front_nbd::Config {
        workers: config.nbd.threads,
        connections_max: config.nbd.connections,
        poll: Duration::from_micros(config.nbd.poll_us),
        ..front_nbd::Config::default()
    };
    let server = Server::start(exports, env.clone(), nbd_config)?;
    match inherited {
        Some(fd) => server.adopt(fd)?,
        None => {
            make_parent(&options.nbd_socket)?;
            server
                .listen_unix(&options.nbd_socket, 0o660)
                .with_context(|| format!("cannot listen on {}", options.nbd_socket.display()))?;
        }
    }
    for address in &options.nbd_listen {
        if !address.ip().is_loopback() {
            let message = "NBD has no encryption here: only loopback addresses are served";
            return Err(anyhow!(
                "{address}: {message}; tunnel it, or use the unix socket"
            ));
        }
        let bound = server
            .listen_tcp(*address)
            .with_context(|| format!("cannot listen on {address}"))?;
        tracing::info!(address = %bound, "NBD over TCP");
        listen.push(format!("tcp:{bound}"));
    }
    Ok((server, listen))
}

fn vhost_dir(options: &ServeOptions) -> Result<PathBuf> {
    let beside = || options.nbd_socket.with_file_name("vhost");
    let dir = options.vhost_dir.clone().unwrap_or_else(beside);
    Ok(std::path::absolute(dir)?)
}

/// Sockets that systemd opened for us, told apart by what they listen on: `FileDescriptorName=api` and `nbd`,
/// or the first and the second.
struct Sockets {
    api: Option<OwnedFd>,
    nbd: Option<OwnedFd>,
}

impl Sockets {
    fn inherited() -> Self {
        let mut fds = listenfd::ListenFd::from_env();
        let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
        let names: Vec<&str> = names.split(':').collect();
        let named = names.iter().any(|name| ["api", "nbd"].contains(name));
        let mut take = |name: &str, place: usize| {
            let at = if named {
                names.iter().position(|n| *n == name)?
            } else {
                place
            };
            fds.take_unix_listener(at).ok().flatten().map(OwnedFd::from)
        };
        Sockets {
            api: take("api", 0),
            nbd: take("nbd", 1),
        }
    }
}

fn make_parent(path: &Path) -> Result<()> {
    let Some(parent) = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty())
    else {
        return Ok(());
    };
    std::fs::create_dir_all(parent).with_context(|| format!("cannot make {}", parent.display()))
}

/// Listens, in place of a socket that a dead daemon left; not in place of a live one.
fn listen_api(path: &Path) -> Result<UnixListener> {
    make_parent(path)?;
    let context = || format!("cannot listen on {}", path.display());
    if path.exists() {
        if std::os::unix::net::UnixStream::connect(path).is_ok() {
            return Err(anyhow!(
                "a daemon listens on {} already; give another --socket",
                path.display()
            ));
        }
        std::fs::remove_file(path).with_context(context)?;
    }
    // The socket has its permissions from the beginning.
    let usual = rustix::process::umask(Mode::from_raw_mode(0o117));
    let listener = UnixListener::bind(path);
    rustix::process::umask(usual);
    listener.with_context(context)
}

fn run_api(daemon: &Arc<Daemon>, listener: UnixListener) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .max_blocking_threads(16)
        .thread_name("api")
        .enable_all()
        .build()?;
    runtime.block_on(async {
        listener.set_nonblocking(true)?;
        let listener = tokio::net::UnixListener::from_std(listener)?;
        let control: Arc<dyn Control> = Arc::clone(daemon) as _;
        tracing::info!("ready");
        sd_notify::notify(&[sd_notify::NotifyState::Ready])?;
        api_server::serve(listener, control, daemon.events.clone(), ended_by_signal()).await?;
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
        Ok(())
    })
}

async fn ended_by_signal() {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut term), Ok(mut int)) = (
        signal(SignalKind::terminate()),
        signal(SignalKind::interrupt()),
    ) else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
}

/// Packs are files: as many as allowed may be open.
fn raise_file_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    if let Err(e) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(error = %e, "the limit of open files stays as it is");
    }
}
