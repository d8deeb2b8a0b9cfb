//! A thousand clones of one image.

use super::{
    bed::{Bed, drained},
    contender::VOLUME,
    figures::Outcome,
    fio::{self, DEVICE_GIB, HALF},
    machine,
};
use anyhow::{Context, Result};
use e2e::{api, daemon::Daemon, stopwatch::Stopwatch, torture::nbd::Client};
use std::time::Duration;

const CLONES: usize = 1000;
/// After so long a connection is one of a machine that does nothing, and memory that nobody needs was given back.
const IDLE: Duration = Duration::from_secs(20);

/// Time of all, then bytes stored and bytes of memory for each.
pub(crate) fn run(bed: &mut Bed) -> Result<Vec<Outcome>> {
    bed.clear();
    raise_file_limit()?;
    let (mut seconds, mut stored, mut memory) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..bed.rounds {
        let mut daemon = with_filled_volume(bed)?;
        daemon.ok(&["snapshot", "create", &format!("{VOLUME}@golden")])?;
        drained(&daemon)?;
        // What the fill left in memory would be given back meanwhile, and be taken for memory of the clones.
        daemon.stop()?;
        daemon.start()?;
        std::thread::sleep(IDLE);
        let (disk_before, memory_before) = (stored_bytes(&daemon)?, memory_bytes(&daemon)?);
        let watch = Stopwatch::start();
        for index in 0..CLONES {
            let body = format!(r#"{{"name": "clone{index}", "from": "{VOLUME}@golden"}}"#);
            api::request(&daemon.socket(), "POST", "/v1/volumes", &body)?;
        }
        let created = watch.elapsed().as_secs_f64();
        api::get(&daemon.socket(), "/v1/volumes")?;
        let listed = watch.elapsed().as_secs_f64();
        let socket = daemon.nbd_socket();
        let open = |index| Client::connect(&socket, &format!("clone{index}"));
        let clients = (0..CLONES).map(open).collect::<Result<Vec<_>>>()?;
        seconds.push(watch.elapsed().as_secs_f64());
        println!(
            "   created {created:.2} s, listed {:.3} s, opened {:.2} s",
            listed - created,
            watch.elapsed().as_secs_f64() - listed
        );
        std::thread::sleep(IDLE);
        drained(&daemon)?;
        memory.push(
            memory_bytes(&daemon)?.saturating_sub(memory_before) as f64 / CLONES as f64 / 1024.0,
        );
        drop(clients);
        stored.push(
            stored_bytes(&daemon)?.saturating_sub(disk_before) as f64 / CLONES as f64 / 1024.0,
        );
    }
    let memory = Outcome::alone("KiB", memory).noting("each with its connection open".to_owned());
    Ok(vec![
        Outcome::alone("s", seconds),
        Outcome::alone("KiB", stored),
        memory,
    ])
}

/// A daemon with a volume that is written from end to end.
pub(crate) fn with_filled_volume(bed: &Bed) -> Result<Daemon> {
    let daemon = bed.daemon(&[])?;
    daemon.ok(&["volume", "create", VOLUME, &format!("{DEVICE_GIB}G")])?;
    fio::whole(
        &daemon.uri(VOLUME),
        "write",
        &[&HALF[..], &["--end_fsync=1"]].concat(),
    )?;
    drained(&daemon)?;
    Ok(daemon)
}

/// What the store takes, but for the journal, whose size does not depend on what there is.
fn stored_bytes(daemon: &Daemon) -> Result<u64> {
    let text = machine::text(
        "du",
        &[
            "-s",
            "-B1",
            "--exclude=journal",
            &daemon.store().display().to_string(),
        ],
    )?;
    let bytes = text
        .split_whitespace()
        .next()
        .and_then(|bytes| bytes.parse().ok());
    bytes.context("reading what du printed")
}

/// What the daemon has for itself: memory that no file backs, and shared memory.
fn memory_bytes(daemon: &Daemon) -> Result<u64> {
    let pid = daemon.pid().context("the daemon does not run")?;
    Ok(machine::memory_bytes(pid, "RssAnon")? + machine::memory_bytes(pid, "RssShmem")?)
}

/// A connection for each clone is a file for each, here and in the daemon, which inherits the limit.
fn raise_file_limit() -> Result<()> {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).context("raising the limit of open files")
}
