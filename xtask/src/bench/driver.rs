//! A guest's driver as the load: a run of `vhost_load`, and what it says.

use super::fio::{Done, Load};
use crate::stage::{cargo, show};
use anyhow::{Context, Result};
use e2e::process::{command, run};
use std::{path::Path, time::Duration};

/// Builds it, if that was not done.
pub(crate) fn ready() -> Result<()> {
    let build = [
        "build",
        "--quiet",
        "--release",
        "--package",
        "e2e",
        "--example",
        "vhost_load",
    ];
    show("cargo build", &mut cargo(&build))
}

/// Runs `load` on the device at `socket` for `seconds`.
pub(crate) fn timed(socket: &Path, load: &Load, seconds: u32) -> Result<Done> {
    // The only mix there is: seven reads of ten requests.
    let kind = match load.kind {
        "randrw" => "mix",
        kind => kind,
    };
    let flush_every = i32::from(load.extra.contains(&"--fsync=1"));
    let mut client = command(e2e::paths::target().join("release/examples/vhost_load"));
    client.arg(socket).args([kind, "4096"]);
    client.args([load.depth, flush_every as u32, load.connections, seconds].map(|n| n.to_string()));
    let limit = Duration::from_secs(u64::from(seconds) + 60);
    let said = run("vhost_load", &mut client, limit)?;
    serde_json::from_str(&said).context("reading what vhost_load printed")
}
