//! The command line against a daemon in memory: what it prints, how it exits, what goes through pipes.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should end")]

use api_server::{Events, serve, testing::FakeControl};
use serde_json::Value;
use std::{
    io::Write,
    path::PathBuf,
    process::{Child, Command, Output, Stdio},
    sync::Arc,
};
use tokio::{net::UnixListener, runtime::Runtime};

struct Daemon {
    control: Arc<FakeControl>,
    dir: tempfile::TempDir,
    _runtime: Runtime,
}

impl Daemon {
    fn start() -> Daemon {
        let dir = tempfile::tempdir().unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let control = Arc::new(FakeControl::new());
        let events = Events::new(Arc::new(env::RealClock::new()));
        let listener = {
            let _guard = runtime.enter();
            UnixListener::bind(dir.path().join("api.sock")).unwrap()
        };
        runtime.spawn(serve(
            listener,
            control.clone(),
            events,
            std::future::pending(),
        ));
        Daemon {
            control,
            dir,
            _runtime: runtime,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn command(&self, line: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_holdfast"));
        command
            .args(line.split_whitespace())
            .env("HOLDFAST_SOCKET", self.path("api.sock"))
            .env("TZ", "UTC")
            .current_dir(self.dir.path());
        command
    }

    /// Runs a command that must exit with `code`; standard output.
    fn run(&self, code: i32, line: &str) -> String {
        let output = self.command(line).output().unwrap();
        check(&output, code, line);
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs a command that must fail with `code` and one line; that line.
    fn fail(&self, code: i32, line: &str) -> String {
        let output = self.command(line).output().unwrap();
        check(&output, code, line);
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(text.lines().count(), 1, "{line}: {text}");
        assert!(text.starts_with("holdfast: "), "{line}: {text}");
        text
    }

    fn json(&self, line: &str) -> Value {
        serde_json::from_str(&self.run(0, &format!("--json {line}"))).unwrap()
    }

    fn piped(&self, line: &str) -> Child {
        let mut command = self.command(line);
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command.spawn().unwrap()
    }
}

fn check(output: &Output, code: i32, line: &str) {
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{line}: {errors}");
}

#[test]
fn volumes_from_creation_to_the_trash_and_back() {
    let d = Daemon::start();
    d.run(0, "volume create web --size 20G --codec zstd");
    d.run(0, "volume create db 1T --no-dedup");
    let table = d.run(0, "volume ls");
    let lines: Vec<&str> = table.lines().collect();
    assert!(
        lines[0].starts_with("NAME") && lines[0].contains("SIZE"),
        "{table}"
    );
    assert!(
        lines[1].starts_with("db") && lines[1].contains("1.00 TiB"),
        "{table}"
    );
    assert!(
        lines[2].contains("20.0 GiB") && lines[2].contains("zstd"),
        "{table}"
    );
    d.run(0, "volume resize web +10G");
    assert_eq!(d.json("volume info web")["size"], 30u64 << 30);
    d.fail(4, "volume resize web 1G");
    d.run(0, "volume resize web 1G --allow-data-loss");
    d.run(0, "volume set web codec=none dedup=off read-only=on");
    let shown = d.run(
        0,
        "volume set web snapshots.schedule=@daily snapshots.keep=daily:7",
    );
    assert!(
        shown.contains("@daily (UTC)") && shown.contains("daily:7"),
        "{shown}"
    );
    assert!(
        shown.contains("2023-11-14 23:13:20") && shown.contains("none yet"),
        "{shown}"
    );
    d.fail(2, "volume set web snapshots.schedule=never");
    d.run(0, "volume set web snapshots.schedule=");
    let policy = &d.json("volume info web")["snapshot_policy"];
    assert_eq!(
        (&policy["schedule"], &policy["keep"]),
        (&Value::Null, &"daily:7".into())
    );
    d.run(0, "volume set web snapshots.keep=");
    assert_eq!(d.json("volume info web")["snapshot_policy"], Value::Null);
    let web = d.json("volume info web");
    assert_eq!(
        (&web["codec"], &web["dedup"]),
        (&"none".into(), &false.into())
    );
    d.fail(2, "volume set web colour=red");
    d.run(0, "volume rename web www");
    d.fail(3, "volume info web");
    d.run(0, "snapshot create www@one");
    assert_eq!(d.json("snapshot ls www")[0]["name"], "one");
    d.fail(4, "snapshot create www@one");
    d.fail(2, "snapshot create www");
    d.run(0, "volume clone www@one copy");
    d.run(0, "snapshot rollback www@one");
    assert!(d.run(0, "volume du www www@one").contains("www@one"));
    assert!(d.run(0, "volume connect www").contains("nbd+unix:///www"));
    d.run(0, "snapshot rm www@one");
    d.run(0, "volume rm www");
    assert!(d.run(0, "trash ls").contains("www"));
    d.run(0, "trash restore www --name web");
    d.run(0, "volume rm web");
    assert_eq!(d.json("trash empty").as_array().unwrap().len(), 1);
    assert_eq!(d.run(0, "--quiet volume rm copy"), "");
}

#[test]
fn the_store_its_jobs_and_its_events() {
    let d = Daemon::start();
    assert!(d.run(0, "store info").contains("/fake"));
    assert!(d.run(0, "store df").contains("dedup 3.00x"));
    assert!(d.run(0, "store collect --dry-run").contains("drop pack 1"));
    assert!(d.run(0, "check").contains("healthy"));
    d.control.damage();
    let output = d.command("check --json").output().unwrap();
    check(&output, 5, "check");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["verdict"], "damaged");
    assert_eq!(report["lost"][0]["owner"], "web");
    let output = d
        .command("store check --repair --dry-run")
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(
        text.contains("would repair: 0000000000000009: remove"),
        "{text}"
    );
    d.run(2, "check --dry-run");
    assert_eq!(d.json("job ls").as_array().unwrap().len(), 4);
    assert_eq!(d.json("job info 1")["kind"], "collect");
    d.fail(3, "job wait 99");
    d.fail(4, "job cancel 1");
    assert!(d.run(0, "nbd status").contains("unix:/fake/nbd.sock"));
    assert!(d.run(0, "events").contains("check of store is done"));
}

#[test]
fn volumes_are_served_over_vhost_user() {
    let d = Daemon::start();
    d.run(0, "volume create web 1G");
    d.run(0, "volume create busy 1G");
    let text = d.run(0, "vhost on web --queues 2");
    assert!(text.contains("/fake/vhost/web.sock, 2 queues"), "{text}");
    assert_eq!(d.json("vhost on busy")["queues"], 4);
    assert!(
        d.run(0, "vhost status")
            .contains("sockets are in /fake/vhost")
    );
    assert_eq!(
        d.json("vhost status")["devices"].as_array().unwrap().len(),
        2
    );
    assert!(d.run(0, "volume info web").contains("/fake/vhost/web.sock"));
    d.fail(4, "vhost off busy");
    d.run(0, "vhost off busy --force");
    assert_eq!(d.json("vhost off web")["name"], "web");
    d.fail(3, "vhost on nope");
    d.run(2, "vhost on web --queues 257");
}

#[test]
fn errors_have_their_exit_codes() {
    let d = Daemon::start();
    let text = d.fail(3, "volume info nope");
    assert!(text.contains("'") || text.contains("nope"), "{text}");
    assert!(text.contains("holdfast volume ls"), "{text}");
    d.run(0, "volume create busy 1G");
    d.fail(4, "volume rm busy");
    d.run(0, "volume rm busy --force");
    d.fail(7, "volume create huge 65T");
    d.run(2, "volume create a/b 1G");
    d.run(2, "volume create a 1X");
    d.run(2, "nonsense");
    let text = d.fail(6, "--socket /nowhere/api.sock volume ls");
    assert!(text.contains("holdfast serve"), "{text}");
}

#[test]
fn images_go_through_files() {
    let d = Daemon::start();
    std::fs::write(d.path("in.raw"), vec![7; 2 << 20]).unwrap();
    d.run(0, "volume import in.raw a");
    d.run(0, "volume export a out.raw");
    assert_eq!(std::fs::read(d.path("out.raw")).unwrap(), vec![7; 2 << 20]);
    d.fail(4, "volume export a out.raw");
    d.run(0, "volume export a out.raw --force");
    d.fail(3, "volume import missing.raw b");
}

#[test]
fn images_go_through_pipes() {
    let d = Daemon::start();
    let data: Vec<u8> = (0..5_000_000u32).map(|i| (i / 7) as u8).collect();
    let mut child = d.piped("volume import - a --size 8M");
    child.stdin.take().unwrap().write_all(&data).unwrap();
    check(&child.wait_with_output().unwrap(), 0, "import -");
    assert_eq!(d.control.data("a").unwrap(), data);
    let output = d.command("volume export a -").output().unwrap();
    check(&output, 0, "export -");
    assert_eq!(output.stdout.len(), 8 << 20);
    assert!(output.stdout[..data.len()] == data[..]);
}

#[test]
fn an_import_that_is_refused_does_not_wait_for_its_input() {
    let d = Daemon::start();
    d.run(0, "volume create a 1M");
    // Its standard input stays open and silent.
    let mut child = d.piped("volume import - a");
    let stdin = child.stdin.take();
    let output = child.wait_with_output().unwrap();
    check(&output, 4, "import -");
    drop(stdin);
}

#[test]
fn a_reader_that_leaves_ends_an_export_quietly() {
    let d = Daemon::start();
    d.run(0, "volume create a 1T");
    let mut child = d.piped("volume export a -");
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    check(&output, 0, "export -");
    assert!(output.stderr.is_empty());
}

/// Whether a process has its own answer to SIGINT by now (proc(5), `SigCgt`).
fn catches_interrupts(child: &Child) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
    u64::from_str_radix(caught.unwrap().trim(), 16).unwrap() & 0b10 != 0
}

#[test]
fn an_interrupt_cancels_the_job() {
    let d = Daemon::start();
    d.control.hold();
    let child = d.piped("check");
    while d.json("job ls").as_array().unwrap().is_empty() || !catches_interrupts(&child) {}
    let pid = rustix::process::Pid::from_raw(child.id().try_into().unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    check(&child.wait_with_output().unwrap(), 130, "check");
    assert_eq!(d.json("job info 1")["state"], "cancelled");
}

#[test]
fn completions_and_manual_pages_are_made() {
    let d = Daemon::start();
    for shell in ["bash", "zsh", "fish"] {
        assert!(
            d.run(0, &format!("completions {shell}"))
                .contains("holdfast")
        );
    }
    d.run(0, "man pages");
    let page = std::fs::read_to_string(d.path("pages/holdfast-volume-create.1")).unwrap();
    assert!(page.contains("holdfast volume create web"), "{page}");
    let page = std::fs::read_to_string(d.path("pages/holdfast.1")).unwrap();
    assert!(page.contains("Exit codes"), "{page}");
}
