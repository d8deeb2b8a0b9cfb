//! A pack and a journal segment damaged under a real daemon: found, named, contained, healed, and a way forward.

use anyhow::{Context, Result, ensure};
use e2e::{
    daemon::Daemon,
    process::{command, run},
    stopwatch::poll,
    tools,
};
use std::{
    fs,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    time::Duration,
};

const LIMIT: Duration = Duration::from_secs(60);
const DAMAGED: Option<i32> = Some(5);

/// Writes 512 blocks that say which they are, in no way that compresses, and flushes.
const WRITER: &str = r#"
import nbd, random, sys
h = nbd.NBD()
h.connect_uri(sys.argv[1])
for b in range(512):
    h.pwrite(random.Random(sys.argv[2] + str(b)).randbytes(4096), b * 4096)
h.flush()
"#;

/// Reads them one by one; prints those that are errors. All others must be right.
const READER: &str = r#"
import nbd, random, sys
h = nbd.NBD()
h.connect_uri(sys.argv[1])
for b in range(512):
    try:
        data = h.pread(4096, b * 4096)
    except nbd.Error:
        print(b)
        continue
    assert data == random.Random(sys.argv[2] + str(b)).randbytes(4096), f"block {b} is wrong"
"#;

fn python(script: &str, daemon: &Daemon, volume: &str) -> Result<String> {
    // Debian's own: it is the one that has libnbd's module.
    let mut python = command("/usr/bin/python3");
    python.args(["-c", script, &daemon.uri(volume), volume]);
    run("python", &mut python, LIMIT)
}

fn lost(daemon: &Daemon, volume: &str) -> Result<Vec<u64>> {
    let text = python(READER, daemon, volume)?;
    let blocks = text.lines().map(|line| line.trim().parse());
    blocks
        .collect::<Result<Vec<u64>, _>>()
        .context("reading what the reader said")
}

fn files(dir: &Path, end: &str) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(files(&path, end)?);
        } else if path.to_string_lossy().ends_with(end) {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

fn flip(path: &Path, offset: u64) -> Result<()> {
    let file = fs::File::options().read(true).write(true).open(path)?;
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset)?;
    file.write_all_at(&[byte[0] ^ 8], offset)?;
    Ok(())
}

#[test]
fn a_damaged_pack_is_named_contained_and_healed() -> Result<()> {
    tools::need(&["nbdsh"])?;
    let mut daemon = Daemon::new()?;
    for volume in ["web", "db"] {
        daemon.ok(&["volume", "create", volume, "8M"])?;
        python(WRITER, &daemon, volume)?;
    }
    daemon.ok(&["snapshot", "create", "web@old"])?;
    daemon.stop()?;
    // An end leaves to the next process what is not in packs; this is one.
    let store = daemon.store();
    daemon.ok(&["check", store.to_str().context("a path")?])?;
    let packs = files(&daemon.store().join("brick"), ".pack")?;
    let largest = packs
        .iter()
        .max_by_key(|path| fs::metadata(path).map_or(0, |m| m.len()));
    let pack = largest.context("no packs")?;
    flip(pack, fs::metadata(pack)?.len() / 2)?;
    let pack = pack
        .file_stem()
        .context("a name")?
        .to_string_lossy()
        .into_owned();
    daemon.start()?;

    let mut hit: Vec<(&str, Vec<u64>)> = Vec::new();
    for volume in ["web", "db"] {
        hit.push((volume, lost(&daemon, volume)?));
    }
    hit.retain(|(_, lost)| !lost.is_empty());
    let [(volume, blocks)] = &hit[..] else {
        anyhow::bail!("one volume is hit, not {hit:?}");
    };
    ensure!(blocks.len() <= 4, "a frame is hit, not {blocks:?}");
    let (log, first) = (daemon.log(), blocks[0] * 4096);
    let line = log
        .lines()
        .find(|line| line.contains("request failed"))
        .context("no line")?;
    let range = format!("bytes {first}..{}", first + 4096);
    for part in [&format!("volume={volume}"), &range, &pack] {
        ensure!(
            line.contains(part.as_str()),
            "the log does not say {part}: {line}"
        );
    }

    let check = daemon.cli(&["check", "--json"])?;
    assert_eq!(check.status.code(), DAMAGED, "{}", check.stderr);
    let report: serde_json::Value = serde_json::from_str(&check.stdout)?;
    let of = |owner: &&serde_json::Value| owner["owner"] == *volume;
    let owner = report["lost"].as_array().into_iter().flatten().find(of);
    let ranges = &owner.context("the check names it")?["ranges"];
    assert_eq!(ranges[0]["offset"], first, "{report}");
    assert_eq!(ranges[0]["len"], 4096 * blocks.len() as u64, "{report}");
    assert_eq!(report["damaged_packs"][0]["pack"], pack);

    let scrub = daemon.cli(&["scrub", "start", "--wait"])?;
    assert_eq!(scrub.status.code(), DAMAGED, "{}", scrub.stderr);
    let status = daemon.json(&["scrub", "status"])?;
    assert_eq!(
        (&status["damaged"], &status["running"]),
        (&1.into(), &false.into())
    );
    let events = daemon.ok(&["events"])?;
    ensure!(
        events.contains(&pack) && events.contains(volume),
        "{events}"
    );
    ensure!(daemon.log().contains("the scrub found damage"));

    // The same again, and the snapshot gone: nothing is damaged any more.
    python(WRITER, &daemon, volume)?;
    assert_eq!(lost(&daemon, volume)?, Vec::<u64>::new());
    daemon.ok(&["snapshot", "rm", "web@old"])?;
    let healed = poll(LIMIT, || {
        daemon.cli(&["check"]).map(|check| check.status.success())
    })?;
    ensure!(healed, "it does not heal");
    daemon.stop()?;
    daemon.start()?;
    assert_eq!(lost(&daemon, "web")?, Vec::<u64>::new());
    assert_eq!(lost(&daemon, "db")?, Vec::<u64>::new());
    Ok(())
}

#[test]
fn a_damaged_journal_stops_the_start_and_has_a_way_forward() -> Result<()> {
    tools::need(&["nbdsh"])?;
    let mut daemon = Daemon::new()?;
    daemon.ok(&["volume", "create", "web", "8M"])?;
    daemon.stop()?;
    daemon.start()?;
    // Twice, so that the damage is not in what may be a torn end.
    python(WRITER, &daemon, "web")?;
    python(WRITER, &daemon, "web")?;
    daemon.kill();
    daemon.cut_power();
    let segments = files(&daemon.store().join("journal"), ".seg")?;
    let mut damaged = 0;
    for segment in &segments {
        let bytes = fs::read(segment)?;
        if bytes[4096..].iter().any(|byte| *byte != 0) {
            flip(segment, 4096 + 40)?;
            damaged += 1;
        }
    }
    ensure!(damaged > 0, "no record in {segments:?}");
    let refused = daemon.start();
    let Err(refused) = refused else {
        // Everything was destaged before the kill: nothing of the journal was needed.
        return Ok(());
    };
    let text = format!("{refused:#}");
    ensure!(text.contains("--repair --dry-run"), "no way out: {text}");
    let store = daemon.store();
    let store = store.to_str().context("a path")?;
    let plan = daemon.cli(&["check", store, "--repair", "--dry-run"])?;
    assert_eq!(
        plan.status.code(),
        DAMAGED,
        "{} {}",
        plan.stdout,
        plan.stderr
    );
    ensure!(
        plan.stdout.contains("would repair: journal: recovery"),
        "{}",
        plan.stdout
    );
    ensure!(daemon.start().is_err(), "a dry run repaired it");
    let done = daemon.cli(&["check", store, "--repair"])?;
    assert_eq!(
        done.status.code(),
        DAMAGED,
        "{} {}",
        done.stdout,
        done.stderr
    );
    ensure!(done.stdout.contains("older: "), "{}", done.stdout);
    daemon.start()?;
    daemon.ok(&["check"])?;
    python(WRITER, &daemon, "web")?;
    assert_eq!(lost(&daemon, "web")?, Vec::<u64>::new());
    Ok(())
}
