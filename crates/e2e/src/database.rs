//! A guest with a database under load, killed together with the daemon, also with its write buffer, as by the
//! power, or the daemon alone: what the database said it had committed is there.
//!
//! SQLite in WAL mode, `synchronous=FULL`, on the guest's root. Each transaction moves money between two
//! accounts and says so in a ledger, and is told on the serial console after it was committed: that is outside
//! of all that is killed.

use crate::{
    cleanup,
    daemon::Daemon,
    guest::{Disk, Guest, NbdDisk},
    image::{self, Image},
    qemu::{self, Qemu},
    stopwatch::poll,
    toolbox::{self, Toolbox},
};
use anyhow::{Context, Result, ensure};
use fastrand::Rng;
use std::{fmt, thread::sleep, time::Duration};

const LIMIT: Duration = Duration::from_secs(120);
const ROUND_MAX: Duration = Duration::from_secs(12);
/// Guests wait so long for a daemon.
const RECONNECT: Duration = Duration::from_secs(120);

const CREATE: &str = "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; BEGIN; \
    CREATE TABLE account(id INTEGER PRIMARY KEY, balance INTEGER); \
    CREATE TABLE transfer(n INTEGER PRIMARY KEY, source INTEGER, target INTEGER, amount INTEGER, filler BLOB); \
    WITH RECURSIVE c(i) AS (SELECT 0 UNION ALL SELECT i+1 FROM c WHERE i<99) \
    INSERT INTO account SELECT i, 1000 FROM c; COMMIT;";

/// Goes on from transaction `$2` of the database `$1`, until it is killed.
const LOAD: &str = r#"#!/bin/sh
n=$2
{
    echo 'PRAGMA synchronous=FULL; PRAGMA wal_autocheckpoint=100;'
    while :; do
        n=$((n + 1)) s=$((n * 7 % 100)) t=$((n * 13 % 99)) a=$((n % 10 + 1))
        echo "BEGIN IMMEDIATE; UPDATE account SET balance=balance-$a WHERE id=$s;"
        echo "UPDATE account SET balance=balance+$a WHERE id=$t;"
        echo "INSERT INTO transfer VALUES($n,$s,$t,$a,randomblob(600)); COMMIT; SELECT 'committed', $n;"
    done
} | /run/tools/sqlite3 -batch -bail "$1" 2>&1
echo "database-ended"
"#;

/// Whole? How many transfers, the last one, accounts that are not what the ledger says, all money.
const VERIFY: &str = "PRAGMA integrity_check; \
    SELECT count(*), coalesce(max(n),0), \
    (SELECT count(*) FROM account a WHERE balance <> 1000 \
      + (SELECT coalesce(sum(amount),0) FROM transfer WHERE target=a.id) \
      - (SELECT coalesce(sum(amount),0) FROM transfer WHERE source=a.id)), \
    (SELECT sum(balance) FROM account) FROM transfer;";

/// What is to be done.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Of all random choices.
    pub seed: u64,
    /// How often something is killed.
    pub kills: u32,
}

/// What was done.
#[derive(Debug, Default)]
pub struct Report {
    /// Kills of guest and daemon together.
    pub both: u32,
    /// Of these, with the daemon's write buffer, as the power does it.
    pub power_cuts: u32,
    /// Kills of the daemon alone, over which the guest went on.
    pub alone: u32,
    /// Transactions that were reported as committed, and found.
    pub committed: u64,
}

impl Report {
    fn kills(&self) -> u32 {
        self.both + self.alone
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Report {
            both,
            power_cuts,
            alone,
            committed,
        } = self;
        write!(
            f,
            "{both} kills of guest and daemon, {power_cuts} of them with the write buffer, {alone} of the daemon alone, {committed} transactions, none lost"
        )
    }
}

/// Does what `plan` says; `say` is told how it goes.
///
/// # Errors
/// A transaction is lost, the database or its file system is damaged, or the guest saw an error.
pub fn run(plan: &Plan, say: &dyn Fn(&str)) -> Result<Report> {
    cleanup::on_signals()?;
    let mut scene = Scene::open(say)?;
    let mut rng = Rng::with_seed(plan.seed);
    let mut report = Report::default();
    let mut guest = scene.boot()?;
    guest.console.ok(&sql(CREATE), LIMIT)?;
    while report.kills() < plan.kills {
        let number = report.kills() + 1;
        let alone_max = plan.kills - number;
        guest = scene
            .round(guest, &mut rng, &mut report, alone_max)
            .with_context(|| format!("seed {}, kill {number}", plan.seed))?;
        say(&report.to_string());
    }
    report.committed = scene.verify(&mut guest, report.committed)?;
    guest.power_off()?;
    scene.daemon.ok(&["check"])?;
    scene.daemon.stop()?;
    Ok(report)
}

struct Scene {
    daemon: Daemon,
    qemu: Qemu,
    image: Image,
}

impl Scene {
    fn open(say: &dyn Fn(&str)) -> Result<Self> {
        let image = image::ensure(say)?;
        let qemu = qemu::ensure(say)?;
        let mut daemon = Daemon::new()?;
        daemon.activate()?;
        daemon.ok(&["volume", "import", &image.disk.to_string_lossy(), "root"])?;
        let toolbox = Toolbox::new(daemon.directory().join("tools"))?;
        toolbox.program("sqlite3")?;
        toolbox.script("load.sh", LOAD)?;
        toolbox.import(&daemon, "tools")?;
        Ok(Scene {
            daemon,
            qemu,
            image,
        })
    }

    fn boot(&self) -> Result<Guest> {
        let disks = ["root", "tools"].map(|export| {
            Disk::Nbd(NbdDisk {
                socket: self.daemon.nbd_socket(),
                export: export.to_owned(),
                reconnect: Some(RECONNECT),
            })
        });
        let log = self.daemon.directory().join("qemu.log");
        let kvm = self.qemu.kvm_works(&self.image);
        let mut guest = Guest::boot(&self.qemu, kvm, &self.image, &disks, &log)?;
        guest.console.ok(&toolbox::mount("/dev/vdb"), LIMIT)?;
        Ok(guest)
    }

    /// Load; the daemon alone is killed, so often as chance has it; then both are.
    fn round(
        &mut self,
        mut guest: Guest,
        rng: &mut Rng,
        report: &mut Report,
        alone_max: u32,
    ) -> Result<Guest> {
        report.committed = self.verify(&mut guest, report.committed)?;
        let load = format!("/run/tools/load.sh /root/db {} &", report.committed);
        guest.console.ok(&load, LIMIT)?;
        for _ in 0..alone_max {
            if rng.bool() {
                break;
            }
            report.committed = progress(&mut guest, report.committed)?;
            sleep(ROUND_MAX.mul_f64(rng.f64() * 0.3));
            self.daemon.kill();
            self.daemon.start()?;
            report.alone += 1;
        }
        report.committed = progress(&mut guest, report.committed)?;
        sleep(ROUND_MAX.mul_f64(rng.f64()));
        report.both += 1;
        self.kill_both(guest, rng, report)
    }

    /// Kills both, one right after the other, and brings them up again.
    fn kill_both(&mut self, guest: Guest, rng: &mut Rng, report: &mut Report) -> Result<Guest> {
        let between = Duration::from_millis(rng.u64(0..50));
        if rng.bool() {
            self.daemon.kill();
            sleep(between);
            report.committed = report.committed.max(last_words(guest)?);
        } else {
            report.committed = report.committed.max(last_words(guest)?);
            sleep(between);
            self.daemon.kill();
        }
        if rng.bool() {
            self.daemon.cut_power();
            report.power_cuts += 1;
        }
        self.daemon.start()?;
        self.boot()
    }

    /// Compares the database with what was reported; how many transactions it has.
    fn verify(&self, guest: &mut Guest, reported: u64) -> Result<u64> {
        let said = guest.console.ok(&sql(VERIFY), LIMIT)?;
        let mut lines = said.lines();
        ensure!(
            lines.next() == Some("ok"),
            "the database is damaged: {said}"
        );
        let numbers: Result<Vec<u64>, _> = lines
            .next()
            .unwrap_or_default()
            .split('|')
            .map(str::parse)
            .collect();
        let [count, last, wrong, money] = numbers.context("reading the answer")?[..] else {
            anyhow::bail!("not four numbers: {said}");
        };
        ensure!(
            count == last,
            "{count} transactions, and the last one is {last}: some are missing"
        );
        ensure!(
            last >= reported,
            "{reported} transactions were committed, {last} are there"
        );
        ensure!(
            wrong == 0 && money == 100_000,
            "{wrong} accounts are wrong; {money} in all"
        );
        Ok(last)
    }
}

/// Pulls the plug and hears what was said before.
fn last_words(mut guest: Guest) -> Result<u64> {
    let last = committed(&mut guest)?;
    guest.kill();
    Ok(last)
}

/// The last transaction that was reported.
fn committed(guest: &mut Guest) -> Result<u64> {
    let text = guest.console.transcript();
    ensure!(
        !text.contains("database-ended"),
        "the database gave up:\n{}",
        crate::process::tail(text, 10)
    );
    // The last line may be half a number.
    let whole = &text[..text.rfind('\n').unwrap_or(0)];
    let last = whole
        .lines()
        .rev()
        .find_map(|line| line.trim().strip_prefix("committed|")?.parse().ok());
    Ok(last.unwrap_or(0))
}

/// Waits until more transactions are reported; the last one.
fn progress(guest: &mut Guest, before: u64) -> Result<u64> {
    let mut last = before;
    let on = poll(LIMIT, || {
        last = committed(guest)?;
        anyhow::Ok(last > before)
    })?;
    ensure!(on, "no transaction after {before}");
    Ok(last)
}

fn sql(statements: &str) -> String {
    format!("/run/tools/sqlite3 -batch -bail /root/db \"{statements}\"")
}
