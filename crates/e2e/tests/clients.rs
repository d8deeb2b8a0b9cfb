//! Clients that others wrote, each doing what it is used for.

use anyhow::Result;
use e2e::{
    daemon::Daemon,
    process::{command, finish, run},
    tools,
};
use serde_json::Value;
use std::{fs, path::Path, time::Duration};

const LIMIT: Duration = Duration::from_secs(120);
const MIB: usize = 1 << 20;

/// Runs a client that must succeed.
fn client(program: &str, arguments: &[&str]) -> Result<String> {
    tools::need(&[program])?;
    run(program, command(program).args(arguments), LIMIT)
}

fn json(text: &str) -> Result<Value> {
    Ok(serde_json::from_str(text)?)
}

/// An image of 16 MiB: text, a hole, noise, a hole.
fn sample(path: &Path) -> Result<Vec<u8>> {
    let mut bytes = vec![0; 16 * MIB];
    for (index, byte) in bytes[..3 * MIB].iter_mut().enumerate() {
        *byte = b"holdfast "[index % 9];
    }
    let mut state = 1_u64;
    for byte in &mut bytes[9 * MIB..12 * MIB] {
        // xorshift: nothing compresses it, and every run has the same.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        *byte = state as u8;
    }
    fs::write(path, &bytes)?;
    Ok(bytes)
}

#[test]
fn nbdinfo_sees_volumes_and_snapshots() -> Result<()> {
    let daemon = Daemon::new()?;
    daemon.ok(&["volume", "create", "a", "64M"])?;
    daemon.ok(&["snapshot", "create", "a@one"])?;
    let of = |export: &str| json(&client("nbdinfo", &["--json", &daemon.uri(export)])?);

    let head = of("a")?["exports"][0].clone();
    assert_eq!(head["export-size"], 64 * MIB);
    assert_eq!(head["is_read_only"], false);
    for can in [
        "can_multi_conn",
        "can_flush",
        "can_fua",
        "can_trim",
        "can_zero",
        "can_df",
    ] {
        assert_eq!(head[can], true, "{can}");
    }
    assert_eq!(head["block_size_preferred"], 4096);
    assert_eq!(head["block_size_maximum"], 32 * MIB);
    let contexts = head["contexts"].as_array().cloned().unwrap_or_default();
    assert!(contexts.contains(&"base:allocation".into()), "{contexts:?}");
    assert_eq!(of("a@one")?["exports"][0]["is_read_only"], true);

    let list = client("nbdinfo", &["--list", "--json", &daemon.uri("")])?;
    let list = json(&list)?;
    let exports = list["exports"].as_array().cloned().unwrap_or_default();
    let names: Vec<&str> = exports
        .iter()
        .filter_map(|one| one["export-name"].as_str())
        .collect();
    assert!(
        names.contains(&"a") && names.contains(&"a@one"),
        "{names:?}"
    );
    Ok(())
}

#[test]
fn nbdcopy_brings_back_what_it_took() -> Result<()> {
    let daemon = Daemon::new()?;
    let (from, to) = (
        daemon.directory().join("from"),
        daemon.directory().join("to"),
    );
    let bytes = sample(&from)?;
    daemon.ok(&["volume", "create", "a", "16M"])?;
    let uri = daemon.uri("a");
    client("nbdcopy", &["--flush", &from.to_string_lossy(), &uri])?;
    client("nbdcopy", &[&uri, &to.to_string_lossy()])?;
    assert!(fs::read(&to)? == bytes, "what came back differs");
    Ok(())
}

#[test]
fn qemu_img_converts_compares_and_maps() -> Result<()> {
    let daemon = Daemon::new()?;
    let from = daemon.directory().join("from.raw");
    let out = daemon.directory().join("out.qcow2");
    sample(&from)?;
    let (from, out) = (from.to_string_lossy(), out.to_string_lossy());
    daemon.ok(&["volume", "import", &from, "a"])?;
    let uri = daemon.uri("a");
    client(
        "qemu-img",
        &["compare", "-f", "raw", "-F", "raw", &from, &uri],
    )?;
    client(
        "qemu-img",
        &["convert", "-f", "raw", "-O", "qcow2", &uri, &out],
    )?;
    client("qemu-img", &["check", &out])?;
    client(
        "qemu-img",
        &["compare", "-f", "raw", "-F", "qcow2", &uri, &out],
    )?;

    let map = json(&client(
        "qemu-img",
        &["map", "--output=json", "-f", "raw", &uri],
    )?)?;
    let extents: Vec<(u64, bool)> = map
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|one| Some((one["length"].as_u64()?, one["zero"].as_bool()?)))
        .collect();
    let mib = MIB as u64;
    let expected = [
        (3 * mib, false),
        (6 * mib, true),
        (3 * mib, false),
        (4 * mib, true),
    ];
    assert_eq!(extents, expected);

    daemon.ok(&["volume", "create", "b", "16M"])?;
    let into = [
        "convert",
        "-n",
        "-f",
        "qcow2",
        "-O",
        "raw",
        &out,
        &daemon.uri("b"),
    ];
    client("qemu-img", &into)?;
    client(
        "qemu-img",
        &["compare", "-f", "raw", "-F", "raw", &uri, &daemon.uri("b")],
    )?;
    Ok(())
}

#[test]
fn qemu_io_writes_zeroes_and_discards() -> Result<()> {
    let daemon = Daemon::new()?;
    daemon.ok(&["volume", "create", "a", "16M"])?;
    let uri = daemon.uri("a");
    let steps = [
        "write -P 0x5a 0 1M",
        "write -P 0xa5 -f 512 512",
        "read -P 0x5a 0 512",
        "read -P 0xa5 512 512",
        "read -P 0x5a 1024 1047552",
        "write -z -u 64k 64k",
        "read -P 0 64k 64k",
        "discard 128k 128k",
        "read -P 0 128k 128k",
        "read -P 0x5a 256k 768k",
        "flush",
    ];
    let mut arguments = vec!["-f", "raw"];
    arguments.extend(steps.iter().flat_map(|step| ["-c", step]));
    arguments.push(&uri);
    // It reports a failed verification in words, and only some versions by status.
    let said = client("qemu-io", &arguments)?;
    assert!(!said.contains("failed"), "{said}");
    Ok(())
}

#[test]
fn fio_verifies_what_it_wrote() -> Result<()> {
    let daemon = Daemon::new()?;
    daemon.ok(&["volume", "create", "a", "64M"])?;
    let uri = format!("--uri={}", daemon.uri("a"));
    let job = [
        "--name=verify",
        "--ioengine=nbd",
        &uri,
        "--rw=randwrite",
        "--bsrange=512-64k",
        "--bs_unaligned=0",
        "--iodepth=16",
        "--size=64M",
        "--verify=crc32c",
        "--verify_fatal=1",
        "--verify_state_save=0",
        "--fsync=64",
        "--do_verify=1",
        "--randrepeat=1",
        "--buffer_compress_percentage=50",
    ];
    client("fio", &job)?;
    Ok(())
}

#[test]
fn a_snapshot_cannot_be_written_and_does_not_change() -> Result<()> {
    let daemon = Daemon::new()?;
    daemon.ok(&["volume", "create", "a", "16M"])?;
    let (uri, old) = (daemon.uri("a"), daemon.uri("a@one"));
    client("qemu-io", &["-f", "raw", "-c", "write -P 1 0 1M", &uri])?;
    daemon.ok(&["snapshot", "create", "a@one"])?;
    client("qemu-io", &["-f", "raw", "-c", "write -P 2 0 1M", &uri])?;
    let said = client(
        "qemu-io",
        &["-r", "-f", "raw", "-c", "read -P 1 0 1M", &old],
    )?;
    assert!(!said.contains("failed"), "{said}");
    let mut write = command("qemu-io");
    write.args(["-f", "raw", "-c", "write -P 3 0 4k", &old]);
    assert!(!finish("qemu-io", &mut write, LIMIT)?.status.success());
    Ok(())
}
