//! A greedy guest beside three modest ones: what it leaves them.

use super::{
    bed::{Bed, drained},
    figures::{Outcome, least, median},
    fio::{self, HALF, Load},
    machine,
};
use anyhow::{Context, Result, bail};
use e2e::daemon::Daemon;

/// The greedy one, and those that want no more than their part.
const GREEDY: &str = "greedy";
const MODEST: [&str; 3] = ["modest1", "modest2", "modest3"];
/// Bytes of each volume.
const SIZE: &str = "512m";
/// Of a turn, where nobody says otherwise: longer than an empty buffer takes to fill.
const SECONDS: u32 = 10;

const READS: Load = Load::new("randread", "4k", 16);
const WRITES: Load = Load::new("randwrite", "4k", 16);
const LONG_WRITES: Load = Load {
    extra: &HALF,
    ..Load::new("write", "1M", 4)
};

/// For each load the rate of the modest guest that fares worst, of a quarter of what the greedy one gets alone.
pub(crate) fn run(bed: &mut Bed) -> Result<Vec<Outcome>> {
    bed.clear();
    let seconds = bed.seconds_or(SECONDS);
    let daemon = bed.daemon(&[])?;
    for guest in MODEST.into_iter().chain([GREEDY]) {
        daemon.ok(&["volume", "create", guest, SIZE])?;
        let size = format!("--size={SIZE}");
        fio::whole(&daemon.uri(guest), "write", &[&HALF[..], &[&size]].concat())?;
    }
    let loads = [&READS, &WRITES, &LONG_WRITES].into_iter();
    loads
        .map(|load| {
            let rounds = (0..bed.rounds).map(|_| round(bed, &daemon, load, seconds));
            Ok(outcome(&rounds.collect::<Result<Vec<_>>>()?))
        })
        .collect()
}

/// What one round gave: shares of a quarter, and what the greedy guest got of what it gets alone.
struct Round {
    alone: f64,
    beside: f64,
    greedy: f64,
}

fn round(bed: &Bed, daemon: &Daemon, load: &Load, seconds: u32) -> Result<Round> {
    settle(bed, daemon)?;
    let machine = greedy(daemon, load, seconds)?;
    let quarter = machine / 4.0;
    settle(bed, daemon)?;
    let alone = modest(daemon, load, seconds, quarter)?;
    settle(bed, daemon)?;
    let (beside, greedy) = std::thread::scope(|scope| {
        let greedy = scope.spawn(|| greedy(daemon, load, seconds));
        let modest = modest(daemon, load, seconds, quarter);
        (modest, greedy.join())
    });
    let Ok(greedy) = greedy else {
        bail!("the greedy guest ended badly")
    };
    let (beside, greedy) = (beside?, greedy?);
    let shares: Vec<f64> = beside.iter().map(|iops| iops / quarter).collect();
    println!(
        "   {:9} a quarter is {quarter:7.0} IOPS   alone {:.2}   beside the greedy one {shares:.2?}   which gets {:.2}",
        load.kind,
        least(&alone) / quarter,
        greedy / quarter
    );
    Ok(Round {
        alone: least(&alone) / quarter,
        beside: least(&shares),
        greedy: greedy / quarter,
    })
}

fn outcome(rounds: &[Round]) -> Outcome {
    let of = |figure: fn(&Round) -> f64| rounds.iter().map(figure).collect::<Vec<f64>>();
    let beside = of(|round| round.beside);
    let note = format!(
        "the worst of three guests, rounds from {:.2}; without the greedy one {:.2}; it gets {:.2} itself",
        least(&beside),
        median(&of(|round| round.alone)),
        median(&of(|round| round.greedy))
    );
    Outcome::alone("", beside).noting(note)
}

fn settle(bed: &Bed, daemon: &Daemon) -> Result<()> {
    drained(daemon)?;
    machine::settle(bed.directory())
}

/// As much as there is to be had, by several connections: requests a second.
fn greedy(daemon: &Daemon, load: &Load, seconds: u32) -> Result<f64> {
    let load = Load {
        depth: 64,
        connections: 4,
        ..*load
    };
    guest(daemon, GREEDY, &load, seconds, &[])
}

/// Each of them at no more than `rate`.
fn modest(daemon: &Daemon, load: &Load, seconds: u32, rate: f64) -> Result<Vec<f64>> {
    let rate = format!("--rate_iops={rate:.0}");
    std::thread::scope(|scope| {
        let guests =
            MODEST.map(|name| scope.spawn(|| guest(daemon, name, load, seconds, &[rate.as_str()])));
        let rates = guests.into_iter().map(|guest| match guest.join() {
            Ok(rate) => rate,
            Err(_) => bail!("a modest guest ended badly"),
        });
        rates.collect()
    })
}

fn guest(daemon: &Daemon, name: &str, load: &Load, seconds: u32, more: &[&str]) -> Result<f64> {
    let size = format!("--size={SIZE}");
    let done = fio::timed_machine(&daemon.uri(name), load, seconds, &[more, &[&size]].concat());
    Ok(done.with_context(|| format!("the guest of {name}"))?.iops)
}
