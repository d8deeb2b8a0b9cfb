//! A writer that never rests: how evenly it is answered.

use super::{
    bed::{Bed, drained},
    clones::with_filled_volume,
    contender::VOLUME,
    figures::Outcome,
    fio::{self, Load},
};
use anyhow::Result;

/// Of the run, where nobody says otherwise.
const SECONDS: u32 = 300;

/// The 99.9th percentile of a write, and the longest: one run.
pub(crate) fn run(bed: &mut Bed) -> Result<Vec<Outcome>> {
    bed.clear();
    let daemon = with_filled_volume(bed)?;
    drained(&daemon)?;
    let seconds = bed.seconds_or(SECONDS);
    let load = Load::new("randwrite", "4k", 16);
    let done = fio::timed(&daemon.uri(VOLUME), &load, seconds, &[])?;
    println!(
        "   {:.0} IOPS over {seconds} s   p50 {:.0} µs  p99 {:.0} µs  p99.9 {:.0} µs  most {:.0} µs",
        done.iops, done.p50_us, done.p99_us, done.p999_us, done.max_us
    );
    let note = format!(
        "{:.0} IOPS over {seconds} s; p50 {:.0}, p99 {:.0}, p99.9 {:.0} µs",
        done.iops, done.p50_us, done.p99_us, done.p999_us
    );
    Ok(vec![
        Outcome::alone("", vec![done.p999_us / done.p50_us]).noting(note),
        Outcome::alone("ms", vec![done.max_us / 1e3]),
    ])
}
