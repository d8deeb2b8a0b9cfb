//! The machine that measures: what it is, what its processors did, what its page cache has.

use anyhow::{Context, Result, ensure};
use e2e::process::{command, run};
use std::{fs, path::Path, time::Duration};

const LIMIT: Duration = Duration::from_secs(120);

/// What it is, in a line.
///
/// # Errors
/// `dir` is in memory: that would measure something else.
pub(crate) fn describe(dir: &Path) -> Result<String> {
    let kind = text(
        "findmnt",
        &["-no", "FSTYPE", "-T", &dir.display().to_string()],
    )?;
    ensure!(
        kind != "tmpfs",
        "{} is in memory: name a directory on the disk to be measured with --dir",
        dir.display()
    );
    let cpus = fs::read_to_string("/proc/cpuinfo")?;
    let names: Vec<&str> = cpus
        .lines()
        .filter_map(|line| line.strip_prefix("model name\t: "))
        .collect();
    let memory = fs::read_to_string("/proc/meminfo")?;
    let kib = memory
        .split_whitespace()
        .nth(1)
        .and_then(|text| text.parse::<u64>().ok())
        .unwrap_or(0);
    let kernel = text("uname", &["-sr"])?;
    let name = names.first().copied().unwrap_or("unknown processor");
    Ok(format!(
        "{} × {name}, {} GiB of memory, {kernel}, {kind}",
        names.len(),
        kib >> 20
    ))
}

/// What a program prints, trimmed.
pub(crate) fn text(program: &str, arguments: &[&str]) -> Result<String> {
    Ok(run(program, command(program).args(arguments), LIMIT)?
        .trim()
        .to_owned())
}

/// Seconds of processor time that `pid` has taken, its threads included.
pub(crate) fn cpu_seconds(pid: i32) -> Result<f64> {
    let stat =
        fs::read_to_string(format!("/proc/{pid}/stat")).context("reading a server's times")?;
    // The name, in parentheses, may have anything in it. Then fields 3 and on; 14 and 15 are the times, in ticks of 10 ms.
    let (_, fields) = stat.rsplit_once(')').context("reading a server's times")?;
    let ticks = fields
        .split_whitespace()
        .skip(11)
        .take(2)
        .map(|field| field.parse::<f64>().unwrap_or(0.0));
    Ok(ticks.sum::<f64>() / 100.0)
}

/// A figure of `/proc/PID/status` that is in KiB, in bytes.
pub(crate) fn memory_bytes(pid: i32, field: &str) -> Result<u64> {
    let status =
        fs::read_to_string(format!("/proc/{pid}/status")).context("reading a server's memory")?;
    let line = status.lines().find_map(|line| line.strip_prefix(field));
    let kib = line
        .and_then(|line| line.split_whitespace().nth(1))
        .and_then(|kib| kib.parse::<u64>().ok());
    Ok(kib.with_context(|| format!("/proc/{pid}/status has no {field}"))? << 10)
}

/// Writes everything that waits in the page cache of `dir`'s file system to the disk.
pub(crate) fn settle(dir: &Path) -> Result<()> {
    run("sync", command("sync").arg("-f").arg(dir), LIMIT).map(drop)
}

/// Drops the page cache.
///
/// # Errors
/// This is not root.
pub(crate) fn drop_page_cache(dir: &Path) -> Result<()> {
    settle(dir)?;
    fs::write("/proc/sys/vm/drop_caches", "1").context("dropping the page cache, which needs root")
}
