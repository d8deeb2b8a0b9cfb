//! The catalog of a real store is lost: the daemon says so, a repair makes it anew, and every byte is there.

use anyhow::{Result, ensure};
use e2e::{daemon::Daemon, process::command, process::run, tools};
use std::{fs, path::Path, time::Duration};

const LIMIT: Duration = Duration::from_secs(60);

/// Writes to a volume and flushes; what is flushed is in the journal, not in packs.
const WRITER: &str = r#"
import nbd, sys
h = nbd.NBD()
h.connect_uri(sys.argv[1])
for block in range(0, 300, 3):
    h.pwrite(bytes([block % 251 + 1]) * 4096, block * 4096)
h.flush()
"#;

fn write(daemon: &Daemon, volume: &str) -> Result<()> {
    // Debian's own: it is the one that has libnbd's module.
    let mut python = command("/usr/bin/python3");
    python.args(["-c", WRITER, &daemon.uri(volume)]);
    run("writer", &mut python, LIMIT).map(drop)
}

fn image(daemon: &Daemon, volume: &str) -> Result<Vec<u8>> {
    let file = daemon.directory().join("exported");
    let path = file.to_string_lossy();
    daemon.ok(&["volume", "export", volume, &path, "--force"])?;
    Ok(fs::read(&file)?)
}

/// Names and sizes, as people see them.
fn listing(daemon: &Daemon) -> Result<Vec<(String, u64)>> {
    let volumes = daemon.json(&["volume", "ls"])?;
    let volumes = volumes.as_array().cloned().unwrap_or_default();
    let both = |v: &serde_json::Value| Some((v["name"].as_str()?.to_owned(), v["size"].as_u64()?));
    Ok(volumes.iter().filter_map(both).collect())
}

fn repair(daemon: &Daemon, store: &Path) -> Result<String> {
    let shown = store.to_string_lossy();
    let done = daemon.cli(&["check", &shown, "--repair"])?;
    // 5: it is repaired, and something could not be had.
    let code = done.status.code();
    ensure!(
        matches!(code, Some(0 | 5)),
        "exit code {code:?}: {}",
        done.stderr
    );
    Ok(done.stdout)
}

#[test]
fn a_lost_catalog_is_made_anew_and_every_byte_is_there() -> Result<()> {
    tools::need(&["nbdsh"])?;
    let mut daemon = Daemon::new()?;
    let (store, file) = (daemon.store(), daemon.directory().join("image"));
    let noise: Vec<u8> = (0..3_u32 << 20)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    fs::write(&file, &noise)?;
    daemon.ok(&["volume", "import", &file.to_string_lossy(), "template"])?;
    daemon.ok(&["snapshot", "create", "template@gold"])?;
    daemon.ok(&["volume", "clone", "template@gold", "web"])?;
    daemon.ok(&["volume", "create", "db", "8M"])?;
    write(&daemon, "web")?;
    daemon.ok(&["snapshot", "create", "web@daily"])?;
    write(&daemon, "db")?;
    let exports = ["template", "template@gold", "web", "web@daily", "db"];
    let expected = exports.map(|export| image(&daemon, export));
    let names = listing(&daemon)?;
    write(&daemon, "db")?;

    daemon.kill();
    fs::remove_file(store.join("catalog.redb"))?;
    let refused = format!(
        "{:#}",
        daemon.start().expect_err("a store without a catalog")
    );
    let line = format!("holdfast check {} --repair", store.display());
    ensure!(
        refused.contains("is missing") && refused.contains(&line),
        "{refused}"
    );
    let said = repair(&daemon, &store)?;
    ensure!(
        said.contains("repaired: catalog.redb: it is missing"),
        "{said}"
    );
    daemon.start()?;
    assert_eq!(listing(&daemon)?, names);
    for (export, expected) in exports.iter().zip(expected) {
        ensure!(
            image(&daemon, export)? == expected?,
            "{export} is not what it was"
        );
    }
    daemon.ok(&["check"])?;

    // Without a copy, too: what was written to is found in packs by its name.
    let expected = image(&daemon, "web")?;
    daemon.stop()?;
    fs::remove_file(store.join("catalog.redb"))?;
    fs::remove_dir_all(store.join("catalog-copy"))?;
    let said = repair(&daemon, &store)?;
    ensure!(
        said.contains("older: any volume: no copy of the catalog"),
        "{said}"
    );
    daemon.start()?;
    assert_eq!(listing(&daemon)?, names);
    ensure!(image(&daemon, "web")? == expected, "web is not what it was");
    ensure!(
        image(&daemon, "template")? == noise,
        "the template is not what it was"
    );
    Ok(())
}
