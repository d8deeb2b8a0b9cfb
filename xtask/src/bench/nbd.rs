//! Jobs over NBD, and over vhost-user-blk: the same load at every server, in turns.

use super::{
    bed::Bed,
    contender::Contender,
    driver,
    figures::{Outcome, Side},
    fio::{self, Load},
    machine,
};
use anyhow::{Context, Result};

/// Of a turn, where neither the job nor anybody else says how long it takes.
const SECONDS: u32 = 3;

/// What a guest reads at once that reads a file from end to end.
const READ_AHEAD: &str = "--bs=128k";

/// What of a run is compared.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Figure {
    /// Requests a second.
    Iops,
    /// Megabytes a second.
    Megabytes,
    /// Seconds of the server's processors for a million requests.
    ServerCpu,
}

/// What precedes each turn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Before {
    /// All has been read through once, and is in the page cache.
    Warm,
    /// Nothing is in any cache.
    Cold,
    /// All that was written is in its place.
    Settled,
}

/// How servers are reached, and by whom.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Way {
    /// By fio's NBD engine.
    Nbd,
    /// By a guest's driver.
    Vhost,
}

/// A load and who stands it.
#[derive(Debug)]
pub(crate) struct NbdJob {
    /// The load.
    pub(crate) load: Load,
    /// Over what.
    pub(crate) way: Way,
    /// Who is compared with.
    pub(crate) peers: &'static [Contender],
    /// By what.
    pub(crate) figure: Figure,
    /// On what.
    pub(crate) before: Before,
    /// Whether the devices must have been written in order.
    pub(crate) in_order: bool,
}

/// Runs it: one outcome.
pub(crate) fn run(bed: &mut Bed, job: &NbdJob) -> Result<Outcome> {
    if job.way == Way::Vhost {
        driver::ready()?;
    }
    let contenders = bed.ready(job.peers)?;
    if job.in_order {
        bed.refill(&contenders)?;
    }
    if job.before == Before::Warm {
        for &contender in &contenders {
            fio::whole(&bed.server(contender)?.uri(), "read", &[READ_AHEAD])?;
        }
    }
    let mut sides: Vec<Side> = contenders
        .iter()
        .map(|contender| Side::new(contender.name(), Vec::new()))
        .collect();
    for round in 0..job.load.rounds(bed.rounds) {
        for (side, &contender) in sides.iter_mut().zip(&contenders) {
            match job.before {
                Before::Cold => bed.chill()?,
                Before::Warm | Before::Settled => bed.settle()?,
            }
            turn(bed, job, contender, side)
                .with_context(|| format!("round {}, {}", round + 1, contender.name()))?;
        }
    }
    let unit = match job.figure {
        Figure::Iops => "IOPS",
        Figure::Megabytes => "MB/s",
        Figure::ServerCpu => "s",
    };
    Outcome::ratio(unit, sides, job.figure == Figure::ServerCpu).context("nobody to compare with")
}

/// One turn of one server.
fn turn(bed: &Bed, job: &NbdJob, contender: Contender, side: &mut Side) -> Result<()> {
    let server = bed.server(contender)?;
    let socket = match job.way {
        Way::Nbd => None,
        Way::Vhost => Some(server.vhost_socket()?),
    };
    let before = machine::cpu_seconds(server.pid())?;
    let seconds = bed.seconds_or(SECONDS);
    let done = match socket {
        None => fio::timed(&server.uri(), &job.load, seconds, &[])?,
        Some(socket) => driver::timed(&socket, &job.load, seconds)?,
    };
    let cpu = (machine::cpu_seconds(server.pid())? - before) / done.requests * 1e6;
    let figure = match job.figure {
        Figure::Iops => done.iops,
        Figure::Megabytes => done.mb_per_s,
        Figure::ServerCpu => cpu,
    };
    println!(
        "   {:24} {:9.0} IOPS {:7.0} MB/s   p50 {:6.0} µs  p99 {:6.0} µs   {cpu:6.2} s of CPU a million",
        contender.name(),
        done.iops,
        done.mb_per_s,
        done.p50_us,
        done.p99_us
    );
    side.figures.push(figure);
    side.latency_us.push((done.p50_us, done.p99_us));
    side.server_cpu.push(cpu);
    Ok(())
}
