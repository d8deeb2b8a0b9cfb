//! Memory for a tebibyte: the deduplication index, and what is found with it.

use super::{bed::Bed, figures::Outcome, images};
use crate::stage::cargo;
use anyhow::{Context, Result};
use e2e::process::run as finish;
use serde::Deserialize;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(1200);
/// What a machine with 4 GiB of memory has by default.
const INDEX_MIB: u64 = 128;
/// Half of it and twice as much, for comparison.
const OTHERS_MIB: [u64; 2] = [64, 256];
const STORED_GIB: u64 = 1024;

/// What the example `scale` of the crate `pack` prints.
#[derive(Deserialize)]
struct Scale {
    index_bytes: f64,
    k: u32,
    duplicates: f64,
    found: f64,
}

impl Scale {
    fn share(&self) -> f64 {
        self.found / self.duplicates
    }
}

/// MiB of the index for 1 TiB of blocks, and the share of an image family's duplicates that it finds among them.
pub(crate) fn run(bed: &mut Bed) -> Result<Vec<Outcome>> {
    bed.clear();
    let images = images::ensure(&|line| println!("   {line}"))?;
    let images: Vec<String> = images
        .iter()
        .map(|path| path.display().to_string())
        .collect();
    let measured = scale(INDEX_MIB, &images)?;
    let mut note = format!("k = {}; 1 TiB of other blocks", measured.k);
    for mib in OTHERS_MIB {
        let other = scale(mib, &images)?;
        note += &format!("; in {mib} MiB k = {} and {:.3}", other.k, other.share());
    }
    Ok(vec![
        Outcome::alone("MiB", vec![measured.index_bytes / f64::from(1 << 20)]),
        Outcome::alone("of all", vec![measured.share()]).noting(note),
    ])
}

fn scale(index_mib: u64, images: &[String]) -> Result<Scale> {
    let mut command = cargo(&[
        "run",
        "--quiet",
        "--release",
        "-p",
        "pack",
        "--example",
        "scale",
    ]);
    command
        .arg("--")
        .arg(index_mib.to_string())
        .arg(STORED_GIB.to_string());
    let printed = finish("scale", command.args(images), LIMIT)?;
    let scale: Scale = serde_json::from_str(&printed).context("reading what it printed")?;
    println!(
        "   {index_mib} MiB: k = {}, {:.1} % found",
        scale.k,
        scale.share() * 100.0
    );
    Ok(scale)
}
