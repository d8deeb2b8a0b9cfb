//! Four disks of one family: a minimal Debian, one with a web server, one with a database, and a copy of the second
//! that was used for a day. Built once and kept.

use anyhow::{Context, Result, ensure};
use e2e::{
    apt::Apt,
    cleanup::Scratch,
    paths,
    process::{command, run},
    tools,
};
use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

const LIMIT: Duration = Duration::from_secs(900);
const BASE: &str = "systemd-sysv,udev,iproute2,kmod";
/// Names, and packages beside [`BASE`].
const IMAGES: [(&str, &str); 3] = [
    ("min", ""),
    ("web", ",nginx,python3,curl,ca-certificates"),
    ("pg", ",postgresql,postgresql-contrib"),
];
const TOOLS: &[&str] = &["mmdebstrap", "mke2fs", "unshare", "mount"];

/// In the copy, mounted at `$1`: files touched, some changed, a log that has grown, an identity of its own.
const USE: &str = r#"
mount -o loop "$0" "$1"
find "$1/usr" -type f | sort | awk 'NR%37==0' | head -200 | xargs touch
find "$1/etc" -type f -size -64k | sort | awk 'NR%9==0' | head -10 | while read -r f; do echo "changed" >> "$f"; done
awk 'BEGIN { srand(1); for (i = 0; i < 20000; i++) printf "Nov 21 01:00:00 web2 nginx[123]: 10.0.%d.%d GET /item/%d HTTP/1.1 200 %d\n",
    rand()*256, rand()*256, rand()*32768, rand()*32768 }' >> "$1/var/log/access.log"
head -c 512 /dev/urandom > "$1/var/lib/random-seed"
echo web2 > "$1/etc/hostname"
umount "$1"
"#;

/// Where they are, in the order in which they are to be brought in.
///
/// # Errors
/// They are not there yet, and tools, rights or the archive are missing.
pub(crate) fn ensure(say: &dyn Fn(&str)) -> Result<Vec<PathBuf>> {
    let cache = paths::cache();
    let dir = cache.join("bench-images");
    if !dir.is_dir() {
        fs::create_dir_all(&cache)?;
        let missing: Vec<&str> = TOOLS
            .iter()
            .copied()
            .filter(|tool| !tools::have(tool))
            .collect();
        ensure!(
            missing.is_empty(),
            "missing {} (apt-get install mmdebstrap e2fsprogs util-linux mount)",
            missing.join(", ")
        );
        say("building four Debian images; this takes minutes, once");
        let scratch = Scratch::new(cache.join("bench-images-building"))?;
        let apt = Apt::open(&cache)?;
        for (name, packages) in IMAGES {
            say(name);
            build(scratch.path(), &apt, name, packages)?;
        }
        say("a copy that has been used");
        used_copy(scratch.path())?;
        scratch.keep_as(&dir)?;
    }
    Ok(["min", "web", "pg", "web2"]
        .iter()
        .map(|name| dir.join(format!("{name}.raw")))
        .collect())
}

fn build(dir: &Path, apt: &Apt, name: &str, packages: &str) -> Result<()> {
    let root = dir.join("root");
    let mut bootstrap = command("unshare");
    bootstrap.args(["--mount", "--pid", "--fork", "--kill-child", "mmdebstrap"]);
    bootstrap.args([
        "--quiet",
        "--variant=minbase",
        "--mode=root",
        "--aptopt=APT::Install-Recommends \"false\"",
    ]);
    bootstrap.arg(format!("--include={BASE}{packages}"));
    bootstrap
        .arg(apt.codename())
        .arg(&root)
        .arg(apt.archive_line());
    run("mmdebstrap", &mut bootstrap, LIMIT)?;
    for dropped in ["var/cache/apt/archives", "var/lib/apt/lists"] {
        fs::remove_dir_all(root.join(dropped)).with_context(|| format!("removing {dropped}"))?;
    }
    let mut mke2fs = command(tools::find("mke2fs").context("mke2fs is missing")?);
    mke2fs.args(["-q", "-t", "ext4", "-F", "-E", "lazy_itable_init=0", "-d"]);
    run(
        "mke2fs",
        mke2fs
            .arg(&root)
            .arg(dir.join(format!("{name}.raw")))
            .arg("2G"),
        LIMIT,
    )?;
    fs::remove_dir_all(root).context("removing a tree")
}

fn used_copy(dir: &Path) -> Result<()> {
    let (from, to, mount) = (dir.join("web.raw"), dir.join("web2.raw"), dir.join("mount"));
    fs::create_dir(&mount)?;
    let mut copy = command("cp");
    run("cp", copy.arg("--sparse=always").arg(&from).arg(&to), LIMIT)?;
    // The mount goes with its namespace, however this ends.
    let mut script = command("unshare");
    script
        .args(["--mount", "sh", "-e", "-c", USE])
        .arg(&to)
        .arg(&mount);
    run("using the copy", &mut script, LIMIT)?;
    fs::remove_dir(&mount).context("removing a directory")
}
