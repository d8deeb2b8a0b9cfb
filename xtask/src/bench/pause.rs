//! The pause that a client notices when the daemon is restarted.

use super::{
    bed::Bed,
    clones::with_filled_volume,
    contender::VOLUME,
    figures::{Outcome, median, most},
    random::Random,
};
use anyhow::{Context, Result, bail};
use e2e::{
    stopwatch::Stopwatch,
    torture::nbd::{Client, Request},
};
use rustix::process::Signal;
use std::{
    path::PathBuf,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

/// Blocks that are written to.
const BLOCKS: u64 = 256 << 10;
/// Writes that are in flight.
const DEPTH: usize = 16;
/// How long is written before the daemon ends, and after it is back.
const CALM: Duration = Duration::from_secs(4);
/// How often a client tries to connect.
const RETRY: Duration = Duration::from_millis(5);

/// The longest time without an answer: after SIGKILL, and over an orderly restart.
pub(crate) fn run(bed: &mut Bed) -> Result<Vec<Outcome>> {
    bed.clear();
    let mut daemon = with_filled_volume(bed)?;
    // As under systemd: sockets outlive the daemon.
    daemon.activate()?;
    let mut outcomes = Vec::new();
    for signal in [Signal::KILL, Signal::TERM] {
        let mut pauses = Vec::new();
        for _ in 0..bed.rounds {
            let stop = AtomicBool::new(false);
            let socket = daemon.nbd_socket();
            let (gaps, restarted) = std::thread::scope(|scope| {
                let guest = scope.spawn(|| answers(&stop, socket));
                std::thread::sleep(CALM);
                daemon.signal(signal);
                let restarted = daemon.wait().and_then(|_| daemon.start());
                std::thread::sleep(CALM);
                stop.store(true, Ordering::Relaxed);
                (guest.join(), restarted)
            });
            restarted?;
            let Ok(gaps) = gaps else {
                bail!("the client ended badly")
            };
            let pause = most(&gaps?);
            println!("   {pause:.2} s");
            pauses.push(pause);
        }
        let note = format!("median {:.2} s; the longest counts", median(&pauses));
        let mut outcome = Outcome::alone("s", pauses.clone()).noting(note);
        outcome.value = most(&pauses);
        outcomes.push(outcome);
    }
    Ok(outcomes)
}

/// Writes at random, and connects again when the connection is lost; the times between answers.
fn answers(stop: &AtomicBool, socket: PathBuf) -> Result<Vec<f64>> {
    let mut random = Random::new(7);
    let mut gaps = Vec::new();
    let mut watch = Stopwatch::start();
    let mut client = None;
    while !stop.load(Ordering::Relaxed) {
        let Some(connected) = client.as_mut() else {
            client = Client::connect(&socket, VOLUME).ok();
            if client.is_none() {
                std::thread::sleep(RETRY);
            }
            continue;
        };
        match batch(connected, &mut random, &mut watch, &mut gaps) {
            Ok(()) => {}
            Err(_) => client = None,
        }
    }
    Ok(gaps)
}

fn batch(
    client: &mut Client,
    random: &mut Random,
    watch: &mut Stopwatch,
    gaps: &mut Vec<f64>,
) -> Result<()> {
    let request = |_| Request::Write(random.below(BLOCKS) * 4096, random.block(), false);
    client.send(&(0..DEPTH).map(request).collect::<Vec<_>>())?;
    for _ in 0..DEPTH {
        let reply = client.receive().context("waiting for an answer")?;
        anyhow::ensure!(reply.error == 0, "error {}", reply.error);
        gaps.push(watch.elapsed().as_secs_f64());
        *watch = Stopwatch::start();
    }
    Ok(())
}
