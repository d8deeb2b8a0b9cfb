//! The guest's disk, kernel and initial file system, built once and kept.
//!
//! Built in a directory of its own and renamed when complete: a half-built image is never used.
//! The name carries the recipe's digest. No loop device and no mount outside a private mount
//! namespace is needed.

use crate::{
    apt::Apt,
    cleanup::Scratch,
    paths,
    process::{command, run},
    recipe, tools,
};
use anyhow::{Context, Result, ensure};
use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    time::Duration,
};

const LIMIT: Duration = Duration::from_secs(900);

/// Programs that building needs.
pub const TOOLS: &[&str] = &[
    "mmdebstrap",
    "mke2fs",
    "cpio",
    "depmod",
    "modprobe",
    "unshare",
];

/// A guest that can be booted. The files must not be written to.
#[derive(Clone, Debug)]
pub struct Image {
    /// The disk: a raw ext4 file system, sparse.
    pub disk: PathBuf,
    /// The kernel.
    pub kernel: PathBuf,
    /// The initial file system.
    pub initrd: PathBuf,
}

impl Image {
    fn at(dir: &Path) -> Self {
        Image {
            disk: dir.join("disk.raw"),
            kernel: dir.join("vmlinuz"),
            initrd: dir.join("initrd"),
        }
    }
}

/// The image, from the cache if it is there; `say` is told what is being done. Whoever comes
/// while it is being built waits.
///
/// # Errors
/// Tools or rights are missing, or the archive cannot be reached.
pub fn ensure(say: &dyn Fn(&str)) -> Result<Image> {
    let cache = paths::cache();
    let dir = cache.join(format!("image-{:016x}", recipe::digest()));
    fs::create_dir_all(&cache).with_context(|| format!("making {}", cache.display()))?;
    let lock = fs::File::create(cache.join("image.lock"))?;
    lock.lock().context("waiting for another build")?;
    if !dir.exists() {
        tools::need(TOOLS)?;
        ensure!(
            rustix::process::geteuid().is_root(),
            "building the guest's image needs root: run this with sudo"
        );
        remove_old(&cache)?;
        let scratch = Scratch::new(cache.join("image-building"))?;
        build(scratch.path(), &Apt::open(&cache)?, say)?;
        scratch.keep_as(&dir)?;
    }
    Ok(Image::at(&dir))
}

fn remove_old(cache: &Path) -> Result<()> {
    for entry in fs::read_dir(cache)? {
        let entry = entry?;
        let name = entry.file_name();
        if name.to_string_lossy().starts_with("image-") && entry.path().is_dir() {
            fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}

fn build(dir: &Path, apt: &Apt, say: &dyn Fn(&str)) -> Result<()> {
    let image = Image::at(dir);
    let (root, kernel) = (dir.join("root"), dir.join("kernel"));
    say("fetching a kernel");
    let package = apt.dependency("linux-image-cloud-amd64", "linux-image-")?;
    apt.unpack(&[&package, "busybox-static"], &dir.join("debs"), &kernel)?;
    fs::rename(kernel_file(&kernel)?, &image.kernel)?;
    initrd(dir, &kernel, &image.initrd)?;
    say("installing a minimal Debian into a directory");
    bootstrap(apt, &root)?;
    customize(&root)?;
    say("making a disk of it");
    let mut mke2fs = command(tools::find("mke2fs").context("mke2fs is missing")?);
    mke2fs.args(["-q", "-t", "ext4", "-F", "-E", "lazy_itable_init=0", "-d"]);
    mke2fs.arg(&root).arg(&image.disk);
    mke2fs.arg(format!("{}k", recipe::DISK_SIZE / 1024));
    run("mke2fs", &mut mke2fs, LIMIT)?;
    for left in [root, kernel, dir.join("debs"), dir.join("initrd.d")] {
        fs::remove_dir_all(left)?;
    }
    Ok(())
}

fn bootstrap(apt: &Apt, root: &Path) -> Result<()> {
    // Its mounts live in a namespace that ends with it.
    let mut unshare = command("unshare");
    unshare.args(["--mount", "--pid", "--fork", "--kill-child", "mmdebstrap"]);
    unshare.args(["--quiet", "--variant=minbase", "--mode=root"]);
    unshare.arg("--aptopt=APT::Install-Recommends \"false\"");
    unshare.arg(format!("--include={}", recipe::PACKAGES));
    unshare
        .arg(apt.codename())
        .arg(root)
        .arg(apt.archive_line());
    run("mmdebstrap", &mut unshare, LIMIT).map(drop)
}

fn customize(root: &Path) -> Result<()> {
    for dropped in recipe::DROPPED {
        let path = root.join(dropped);
        if path.exists() {
            fs::remove_dir_all(&path)?;
        }
        fs::create_dir_all(&path)?;
    }
    fs::write(root.join("etc/hostname"), "guest\n")?;
    fs::write(root.join("etc/fstab"), "")?;
    // A machine that has an id is not set up anew at each boot.
    fs::write(
        root.join("etc/machine-id"),
        "686f6c646661737400000000000000aa\n",
    )?;
    executable(&root.join("usr/local/sbin/console-shell"), recipe::SHELL)?;
    let units = root.join("etc/systemd/system");
    fs::write(units.join("console-shell.service"), recipe::SHELL_UNIT)?;
    let wants = units.join("multi-user.target.wants");
    fs::create_dir_all(&wants)?;
    symlink(
        "../console-shell.service",
        wants.join("console-shell.service"),
    )?;
    for unit in recipe::MASKED {
        let path = units.join(unit);
        if path.is_symlink() {
            fs::remove_file(&path)?;
        }
        symlink("/dev/null", &path).with_context(|| format!("masking {unit}"))?;
    }
    Ok(())
}

fn executable(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("writing {}", path.display()))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))?;
    Ok(())
}

fn kernel_file(kernel: &Path) -> Result<PathBuf> {
    only(&kernel.join("boot"), "vmlinuz-")
}

/// The entry of `dir` whose name starts with `prefix`.
fn only(dir: &Path, prefix: &str) -> Result<PathBuf> {
    for entry in fs::read_dir(dir).with_context(|| format!("reading {}", dir.display()))? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(prefix) {
            return Ok(entry.path());
        }
    }
    anyhow::bail!("no {prefix}* in {}", dir.display())
}

fn initrd(dir: &Path, kernel: &Path, to: &Path) -> Result<()> {
    let tree = dir.join("initrd.d");
    for sub in ["bin", "proc", "sys", "dev", "newroot", "lib/modules"] {
        fs::create_dir_all(tree.join(sub))?;
    }
    fs::copy(kernel.join("bin/busybox"), tree.join("bin/busybox"))
        .or_else(|_| fs::copy(kernel.join("usr/bin/busybox"), tree.join("bin/busybox")))
        .context("copying busybox")?;
    executable(&tree.join("init"), recipe::INIT)?;
    let mut order = String::new();
    for module in module_files(kernel)? {
        let name = module.file_name().context("a module without a name")?;
        fs::copy(&module, tree.join("lib/modules").join(name))?;
        order += &format!("{}\n", name.to_string_lossy());
    }
    fs::write(tree.join("lib/modules/order"), order)?;
    let mut pack = command("sh");
    pack.args(["-c", r#"find . | cpio -o -H newc --quiet >"$1""#, "sh"]);
    run("cpio", pack.arg(to).current_dir(&tree), LIMIT).map(drop)
}

/// Module files in the order of loading, each once.
fn module_files(kernel: &Path) -> Result<Vec<PathBuf>> {
    let release = only(&kernel.join("lib/modules"), "")?;
    let release = release.file_name().context("a kernel without a version")?;
    let tool = |name: &str| tools::find(name).with_context(|| format!("{name} is missing"));
    let mut depmod = command(tool("depmod")?);
    run("depmod", depmod.arg("-b").arg(kernel).arg(release), LIMIT)?;
    let mut files: Vec<PathBuf> = Vec::new();
    for module in recipe::MODULES {
        let mut show = command(tool("modprobe")?);
        show.arg("-d").arg(kernel).arg("-S").arg(release);
        let text = run("modprobe", show.args(["--show-depends", module]), LIMIT)?;
        for line in text.lines() {
            let path = line
                .strip_prefix("insmod ")
                .map(|path| PathBuf::from(path.trim()));
            if let Some(path) = path.filter(|path| !files.contains(path)) {
                files.push(path);
            }
        }
    }
    ensure!(
        !files.is_empty(),
        "the kernel has none of {:?}",
        recipe::MODULES
    );
    Ok(files)
}
