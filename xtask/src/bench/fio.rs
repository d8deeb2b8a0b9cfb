//! fio as the load: one run, and what it says.

use anyhow::{Context, Result, ensure};
use e2e::process::{command, run, session};
use serde::Deserialize;
use std::{collections::BTreeMap, process::Command, time::Duration};

/// Bytes of each device.
pub(crate) const DEVICE_GIB: u32 = 2;

/// What a client does.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    /// fio's `rw`.
    pub(crate) kind: &'static str,
    /// fio's `bs`.
    pub(crate) block: &'static str,
    /// Requests in flight on each connection.
    pub(crate) depth: u32,
    /// Connections.
    pub(crate) connections: u32,
    /// More of fio's options.
    pub(crate) extra: &'static [&'static str],
    /// How long, if the job has to say.
    pub(crate) seconds: Option<u32>,
}

impl Load {
    /// One connection, nothing more.
    pub(crate) const fn new(kind: &'static str, block: &'static str, depth: u32) -> Self {
        Load {
            kind,
            block,
            depth,
            connections: 1,
            extra: &[],
            seconds: None,
        }
    }

    /// Rounds of a job with it, of `wanted`: a turn of a minute or more has its ups and downs in it, and is the only one.
    pub(crate) fn rounds(&self, wanted: u32) -> u32 {
        match self.seconds {
            Some(60..) => 1,
            _ => wanted,
        }
    }
}

/// Data of which one half compresses away.
pub(crate) const HALF: [&str; 2] = ["--refill_buffers", "--buffer_compress_percentage=50"];

/// What a run said.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub(crate) struct Done {
    /// Reads and writes.
    pub(crate) requests: f64,
    /// A second; a final flush, where there is one, is in that time.
    pub(crate) iops: f64,
    /// Of bytes, in millions.
    pub(crate) mb_per_s: f64,
    /// Of reads, or of writes if these are more.
    pub(crate) p50_us: f64,
    /// As above.
    pub(crate) p99_us: f64,
    /// As above.
    pub(crate) p999_us: f64,
    /// As above.
    pub(crate) max_us: f64,
}

/// Runs `load` against an NBD server for `seconds`, more options after it.
pub(crate) fn timed(uri: &str, load: &Load, seconds: u32, more: &[&str]) -> Result<Done> {
    let (options, limit) = timed_options(load, seconds, more);
    start(uri, &options, limit)
}

/// The same as one of several machines, which a host gives equal parts of its processors.
pub(crate) fn timed_machine(uri: &str, load: &Load, seconds: u32, more: &[&str]) -> Result<Done> {
    let (options, limit) = timed_options(load, seconds, more);
    with(session("fio"), uri, &options, limit)
}

fn timed_options(load: &Load, seconds: u32, more: &[&str]) -> (Vec<String>, Duration) {
    let seconds = load.seconds.unwrap_or(seconds);
    let mut options = vec![
        format!("--rw={}", load.kind),
        format!("--bs={}", load.block),
        format!("--iodepth={}", load.depth),
        format!("--numjobs={}", load.connections),
        format!("--runtime={seconds}"),
    ];
    options.extend(
        [
            "--time_based",
            "--group_reporting",
            "--randrepeat=0",
            "--norandommap",
        ]
        .map(str::to_owned),
    );
    options.extend(
        load.extra
            .iter()
            .chain(more)
            .map(|&option| option.to_owned()),
    );
    (options, Duration::from_secs(u64::from(seconds) * 5 + 120))
}

/// Runs over the whole device once, by 1 MiB.
pub(crate) fn whole(uri: &str, kind: &str, more: &[&str]) -> Result<Done> {
    let mut options = vec![format!("--rw={kind}")];
    options.extend(
        ["--bs=1M", "--iodepth=4"]
            .iter()
            .chain(more)
            .map(|&option| option.to_owned()),
    );
    start(uri, &options, Duration::from_secs(600))
}

/// Runs fio against an NBD server with these options.
pub(crate) fn start(uri: &str, options: &[String], limit: Duration) -> Result<Done> {
    with(command("fio"), uri, options, limit)
}

fn with(mut fio: Command, uri: &str, options: &[String], limit: Duration) -> Result<Done> {
    fio.args([
        "--name=bench",
        "--ioengine=nbd",
        "--thread",
        "--output-format=json",
    ]);
    fio.arg(format!("--uri={uri}"))
        .arg(format!("--size={DEVICE_GIB}g"));
    parse(&run("fio", fio.args(options), limit)?)
}

#[derive(Deserialize)]
struct Output {
    jobs: Vec<JobOutput>,
}

#[derive(Deserialize)]
struct JobOutput {
    error: i32,
    read: Direction,
    write: Direction,
}

#[derive(Deserialize)]
struct Direction {
    io_bytes: u64,
    total_ios: u64,
    /// Milliseconds.
    runtime: u64,
    clat_ns: Latency,
}

#[derive(Deserialize)]
struct Latency {
    max: f64,
    #[serde(default)]
    percentile: BTreeMap<String, f64>,
}

impl Latency {
    fn percentile_us(&self, which: &str) -> f64 {
        self.percentile.get(which).copied().unwrap_or(0.0) / 1e3
    }
}

fn parse(output: &str) -> Result<Done> {
    // The NBD engine says hello before.
    let json = output
        .find('{')
        .map(|at| &output[at..])
        .context("fio printed no JSON")?;
    let output: Output = serde_json::from_str(json).context("reading what fio printed")?;
    let job = output.jobs.first().context("fio ran nothing")?;
    ensure!(job.error == 0, "fio: error {}", job.error);
    let (read, write) = (&job.read, &job.write);
    let requests = (read.total_ios + write.total_ios) as f64;
    let seconds = read.runtime.max(write.runtime) as f64 / 1e3;
    ensure!(requests > 0.0 && seconds > 0.0, "fio did nothing");
    let main = if read.total_ios >= write.total_ios {
        read
    } else {
        write
    };
    Ok(Done {
        requests,
        iops: requests / seconds,
        mb_per_s: (read.io_bytes + write.io_bytes) as f64 / 1e6 / seconds,
        p50_us: main.clat_ns.percentile_us("50.000000"),
        p99_us: main.clat_ns.percentile_us("99.000000"),
        p999_us: main.clat_ns.percentile_us("99.900000"),
        max_us: main.clat_ns.max / 1e3,
    })
}

#[cfg(test)]
mod tests {
    use super::parse;

    const OUTPUT: &str = r#"fio: connected to NBD server
{"jobs": [{"error": 0,
 "read": {"io_bytes": 8192, "total_ios": 2, "runtime": 2000, "clat_ns": {"max": 9000,
   "percentile": {"50.000000": 2000, "99.000000": 3000, "99.900000": 4000}}},
 "write": {"io_bytes": 4096, "total_ios": 1, "runtime": 1000, "clat_ns": {"max": 0}}}]}"#;

    #[test]
    fn output_is_read() {
        let done = parse(OUTPUT).unwrap();
        assert_eq!(done.requests, 3.0);
        assert_eq!(done.iops, 1.5);
        assert_eq!((done.p50_us, done.p999_us, done.max_us), (2.0, 4.0, 9.0));
    }

    #[test]
    fn a_run_that_failed_or_did_nothing_is_no_result() {
        assert!(parse("fio: cannot connect").is_err());
        assert!(parse(&OUTPUT.replace("\"error\": 0", "\"error\": 5")).is_err());
        let nothing = OUTPUT.replace("\"total_ios\": 2", "\"total_ios\": 0");
        assert!(parse(&nothing.replace("\"total_ios\": 1", "\"total_ios\": 0")).is_err());
    }
}
