//! The first write to a block of a fresh clone.

use super::{
    bed::{Bed, drained},
    clones::with_filled_volume,
    contender::{Peer, VOLUME},
    figures::{Outcome, Side},
    fio::{self, DEVICE_GIB},
    machine,
};
use anyhow::{Context, Result};
use e2e::{
    cleanup::Scratch,
    daemon::Daemon,
    process::{command, run as finish},
    tools,
};
use std::{path::Path, time::Duration};

/// qcow2 overlays: as they are by default, and with subclusters.
const OVERLAYS: [(&str, &str); 2] = [
    ("qcow2 overlay", "cluster_size=64k"),
    (
        "qcow2 overlay, extended_l2",
        "cluster_size=64k,extended_l2=on",
    ),
];

/// How a clone is written to: requests in flight, how many, and whether each is flushed.
#[derive(Clone, Copy)]
struct Writes {
    depth: u32,
    count: u32,
    flush: &'static str,
}

const DEEP: Writes = Writes {
    depth: 16,
    count: 20_000,
    flush: "--end_fsync=1",
};
const SYNCED: Writes = Writes {
    depth: 1,
    count: 1_500,
    flush: "--fsync=1",
};

/// First writes against both overlays, and against second writes.
pub(crate) fn run(bed: &mut Bed) -> Result<Vec<Outcome>> {
    bed.clear();
    anyhow::ensure!(
        tools::have("qemu-img") && tools::have("qemu-nbd"),
        "qemu-img and qemu-nbd are not installed (apt-get install qemu-utils)"
    );
    let peers = Scratch::new(bed.directory().join("cow"))?;
    let base = peers.path().join("base.raw");
    fill_base(&base)?;
    let daemon = with_filled_volume(bed)?;
    daemon.ok(&["snapshot", "create", &format!("{VOLUME}@golden")])?;
    let mut outcomes = Vec::new();
    let mut against_second = Vec::new();
    for writes in [DEEP, SYNCED] {
        let (mut first, mut second) = (
            Side::new("holdfast", Vec::new()),
            Side::new("second write", Vec::new()),
        );
        let mut overlays = OVERLAYS.map(|(name, _)| Side::new(name, Vec::new()));
        for round in 0..bed.rounds {
            let (a, b) = ours(&daemon, writes, round)?;
            first.figures.push(a);
            second.figures.push(b);
            for (side, (name, options)) in overlays.iter_mut().zip(OVERLAYS) {
                side.figures
                    .push(overlay(peers.path(), name, options, writes, round)?);
            }
            let all: Vec<String> = overlays
                .iter()
                .map(|side| format!("{:.0}", side.figures[round as usize]))
                .collect();
            println!(
                "   QD {}: {a:.0} IOPS, again {b:.0}; overlays {}",
                writes.depth,
                all.join(", ")
            );
        }
        let [plain, extended] = overlays;
        outcomes
            .push(Outcome::ratio("IOPS", vec![first.clone(), plain], false).context("no rounds")?);
        if writes.depth > 1 {
            outcomes.push(
                Outcome::ratio("IOPS", vec![first.clone(), extended], false)
                    .context("no rounds")?,
            );
        }
        first.name = "first write".to_owned();
        against_second
            .push(Outcome::ratio("IOPS", vec![first, second], false).context("no rounds")?);
    }
    outcomes.extend(against_second);
    Ok(outcomes)
}

/// A new clone is written to, then the same blocks again.
fn ours(daemon: &Daemon, writes: Writes, round: u32) -> Result<(f64, f64)> {
    let name = format!("clone-{}-{round}", writes.depth);
    daemon.ok(&["volume", "clone", &format!("{VOLUME}@golden"), &name])?;
    drained(daemon)?;
    machine::settle(daemon.directory())?;
    let uri = daemon.uri(&name);
    let first = write(&uri, writes, round)?;
    drained(daemon)?;
    let second = write(&uri, writes, round)?;
    drained(daemon)?;
    Ok((first, second))
}

fn overlay(dir: &Path, name: &str, options: &str, writes: Writes, round: u32) -> Result<f64> {
    let (disk, socket) = (dir.join("overlay.qcow2"), dir.join("nbd.sock"));
    let _ = std::fs::remove_file(&disk);
    let mut create = command("qemu-img");
    create.args([
        "create", "-q", "-f", "qcow2", "-F", "raw", "-o", options, "-b",
    ]);
    finish(
        "qemu-img",
        create.arg(dir.join("base.raw")).arg(&disk),
        Duration::from_secs(60),
    )?;
    machine::settle(dir)?;
    let mut server = command("qemu-nbd");
    server
        .args([
            "-f",
            "qcow2",
            "-t",
            "--cache=writeback",
            "--aio=threads",
            "-k",
        ])
        .arg(&socket)
        .arg(&disk);
    let peer = Peer::start(name, server, dir, &socket)?;
    write(&peer.uri(), writes, round)
}

/// Each block once, in an order that the round decides.
fn write(uri: &str, writes: Writes, round: u32) -> Result<f64> {
    let options = [
        "--rw=randwrite".to_owned(),
        "--bs=4k".to_owned(),
        format!("--iodepth={}", writes.depth),
        format!("--io_size={}k", writes.count * 4),
        format!("--randseed={}", 11 + round),
        writes.flush.to_owned(),
    ];
    Ok(fio::start(uri, &options, Duration::from_secs(120))?.iops)
}

/// A raw image that is full.
fn fill_base(path: &Path) -> Result<()> {
    let mut dd = command("dd");
    dd.args(["if=/dev/urandom", "bs=1M", "conv=fsync", "status=none"]);
    dd.arg(format!("count={}", DEVICE_GIB * 1024))
        .arg(format!("of={}", path.display()));
    finish("dd", &mut dd, Duration::from_secs(120)).map(drop)
}
