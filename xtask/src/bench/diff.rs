//! What changed between two snapshots of a large volume.

use super::{
    bed::{Bed, drained},
    contender::VOLUME,
    figures::Outcome,
    random::Random,
};
use anyhow::{Result, ensure};
use e2e::{
    api,
    daemon::Daemon,
    stopwatch::Stopwatch,
    torture::nbd::{Client, Request},
};

/// Blocks of 1 TiB.
const BLOCKS: u64 = 1 << 28;
/// Written before the first snapshot, anywhere.
const BEFORE: usize = 50_000;
/// Written between the two.
const CHANGED: usize = 1000;
/// Calls that stand for one figure.
const CALLS: usize = 20;

/// Milliseconds of the first call after the daemon's start, and of later ones.
pub(crate) fn run(bed: &mut Bed) -> Result<Vec<Outcome>> {
    bed.clear();
    let mut daemon = bed.daemon(&[])?;
    daemon.ok(&["volume", "create", VOLUME, "1T"])?;
    let mut random = Random::new(1);
    write(&daemon, &mut random, BEFORE)?;
    daemon.ok(&["snapshot", "create", &format!("{VOLUME}@one")])?;
    write(&daemon, &mut random, CHANGED)?;
    daemon.ok(&["snapshot", "create", &format!("{VOLUME}@two")])?;
    drained(&daemon)?;
    let (mut first, mut later) = (Vec::new(), Vec::new());
    for _ in 0..bed.rounds {
        daemon.stop()?;
        daemon.start()?;
        first.push(timed(&daemon)?);
        for _ in 0..CALLS {
            later.push(timed(&daemon)?);
        }
    }
    Ok(vec![
        Outcome::alone("ms", first),
        Outcome::alone("ms", later),
    ])
}

fn write(daemon: &Daemon, random: &mut Random, count: usize) -> Result<()> {
    let mut client = Client::connect(&daemon.nbd_socket(), VOLUME)?;
    for _ in 0..count {
        let block = random.block();
        client.ask(Request::Write(random.below(BLOCKS) * 4096, block, false))?;
    }
    client.ask(Request::Flush)?;
    Ok(())
}

fn timed(daemon: &Daemon) -> Result<f64> {
    let path = format!("/v1/diff?from={VOLUME}@one&to={VOLUME}@two");
    let watch = Stopwatch::start();
    let lines = api::get(&daemon.socket(), &path)?;
    let took = watch.elapsed().as_secs_f64() * 1e3;
    let extents = lines.lines().count() - 2;
    ensure!(
        extents > CHANGED * 99 / 100 && extents <= CHANGED,
        "{extents} extents differ"
    );
    Ok(took)
}
