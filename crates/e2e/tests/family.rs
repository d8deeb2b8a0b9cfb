//! A golden image and its clones, as one image and small ones over it.

use anyhow::{Context, Result, ensure};
use e2e::{
    daemon::Daemon,
    process::{command, run},
    tools,
};
use std::{fs, os::unix::fs::FileExt, path::Path, time::Duration};

const LIMIT: Duration = Duration::from_secs(120);
const MIB: usize = 1 << 20;

fn text(path: &Path) -> Result<&str> {
    path.to_str().context("a path that is no text")
}

/// `debian@golden` with 8 MiB of noise, and three clones: one as it was, one that was worked with, one that is larger.
fn family(daemon: &Daemon) -> Result<()> {
    let raw = daemon.directory().join("debian.raw");
    let mut noise = vec![0; 8 * MIB];
    fastrand::Rng::with_seed(11).fill(&mut noise);
    let file = fs::File::create(&raw)?;
    file.write_all_at(&noise, 0)?;
    file.set_len(20 << 20)?;
    daemon.ok(&["volume", "import", text(&raw)?, "debian"])?;
    daemon.ok(&["snapshot", "create", "debian@golden"])?;
    for (name, size, writes) in [
        ("web1", "20M", &[][..]),
        (
            "web2",
            "20M",
            &["write -P 2 100k 5000", "discard 1M 256k", "write -z 3M 1M"],
        ),
        (
            "web3",
            "30M",
            &["write -P 3 20479k 2k", "write -P 3 29M 1M"],
        ),
    ] {
        daemon.ok(&["volume", "clone", "debian@golden", name, "--size", size])?;
        let mut qemu_io = command("qemu-io");
        qemu_io.args(["-f", "raw", &daemon.uri(name)]);
        for write in writes {
            qemu_io.args(["-c", write]);
        }
        run("qemu-io", qemu_io.args(["-c", "flush"]), LIMIT)?;
    }
    Ok(())
}

fn same(daemon: &Daemon, volume: &str, image: &str) -> Result<()> {
    let mut compare = command("qemu-img");
    let uri = daemon.uri(volume);
    compare.args(["compare", "-f", "raw", "-F", "qcow2", &uri, image]);
    run("qemu-img compare", &mut compare, LIMIT).map(drop)
}

#[test]
fn clones_go_out_as_small_images_over_one_and_come_back() -> Result<()> {
    tools::need(&["qemu-img", "qemu-io"])?;
    let daemon = Daemon::new()?;
    family(&daemon)?;
    let images = daemon.directory().join("images");
    fs::create_dir(&images)?;
    let base = images.join("base.qcow2");
    let base = text(&base)?;
    daemon.ok(&[
        "volume",
        "export",
        "debian@golden",
        base,
        "--format",
        "qcow2",
    ])?;
    let backing_of = format!("--backing-of=debian@golden={base}");
    for name in ["web1", "web2", "web3"] {
        for compress in [&[][..], &["--compress=zstd"]] {
            let image = images.join(format!("{name}{}.qcow2", compress.len()));
            let export = ["volume", "export", name, text(&image)?, &backing_of];
            daemon.ok(&[&export, compress].concat())?;
            same(&daemon, name, text(&image)?)?;
            let len = fs::metadata(&image)?.len();
            ensure!(len < 2 << 20, "{name} has {len} bytes");
        }
    }
    ensure!(fs::metadata(images.join("web10.qcow2"))?.len() < 300 << 10);

    // The directory is the family's: elsewhere it is still one, and comes back with the option that imports have.
    let moved = daemon.directory().join("moved");
    fs::rename(&images, &moved)?;
    let (base, web2) = (moved.join("base.qcow2"), moved.join("web20.qcow2"));
    let (base, web2) = (text(&base)?, text(&web2)?);
    same(&daemon, "web2", web2)?;
    daemon.ok(&["volume", "import", web2, "again", "--backing", base])?;
    same(&daemon, "again", web2)?;
    let differs = daemon.json(&["diff", "web2", "again"])?;
    ensure!(differs["count"] == 0, "{differs}");
    daemon.ok(&["check"])?;
    Ok(())
}

#[test]
fn what_is_no_image_of_the_snapshot_is_refused_in_one_line() -> Result<()> {
    tools::need(&["qemu-img", "qemu-io"])?;
    let daemon = Daemon::new()?;
    family(&daemon)?;
    daemon.ok(&["volume", "create", "plain", "20M", "--backend", "file"])?;
    let at = |name: &str| format!("{}/{name}", daemon.directory().display());
    fs::write(at("small.raw"), [1; 4096])?;
    fs::copy(at("debian.raw"), at("base.raw"))?;
    let image = at("web2.qcow2");
    for (source, backing_of, more, code, why) in [
        ("web2", "debian@golden", &[][..], 2, "write SNAPSHOT=FILE"),
        ("web2", "debian=base.raw", &[], 2, "debian@SNAPSHOT=FILE"),
        ("web2", "debian@golden=", &[], 2, "write SNAPSHOT=FILE"),
        ("web2", "debian@none=base.raw", &[], 3, "debian@none"),
        ("web2", "debian@golden=none.raw", &[], 3, "none.raw"),
        ("web2", "debian@golden=small.raw", &[], 2, "4096 bytes"),
        (
            "web2",
            "debian@golden=base.raw",
            &["--format=vdi"],
            2,
            "qcow2 can",
        ),
        (
            "web2",
            "debian@golden=base.raw",
            &["--format=raw"],
            2,
            "qcow2 can",
        ),
        ("plain", "debian@golden=base.raw", &[], 4, "plain file"),
    ] {
        let backing_of = match backing_of.split_once('=') {
            Some((snapshot, file)) if !file.is_empty() => format!("{snapshot}={}", at(file)),
            _ => backing_of.to_owned(),
        };
        let export = [
            "volume",
            "export",
            source,
            &image,
            "--backing-of",
            &backing_of,
        ];
        let refused = daemon.cli(&[&export[..], more].concat())?;
        let said = refused.stderr.trim();
        ensure!(refused.status.code() == Some(code), "{backing_of}: {said}");
        ensure!(said.contains(why), "{backing_of}: {said}");
    }
    let refused = daemon.cli(&[
        "volume",
        "export",
        "web2",
        "-",
        "--backing-of",
        "debian@golden=x",
    ])?;
    ensure!(
        refused.stderr.contains("standard output"),
        "{}",
        refused.stderr
    );
    ensure!(!Path::new(&image).exists() && !Path::new(&at("web2.qcow2.partial")).exists());
    Ok(())
}
