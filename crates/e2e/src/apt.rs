//! Debian's archive, through apt, without touching how the machine is set up.
//!
//! Package lists live in the cache directory, made from the machine's own sources (so its mirror
//! and keys are used) plus the backports suite beside them. `/etc/apt` stays as it is.
//!
//! **Invariant:** nothing is ever removed. Each installation is simulated first, and apt is told
//! the same again when it is run for real.

mod sources;

use crate::process::{command, run};
use anyhow::{Context, Result, bail, ensure};
use sources::Source;
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

const LIMIT: Duration = Duration::from_secs(900);
const FRESH: Duration = Duration::from_secs(24 * 3600);

/// The archive, as this machine's configuration reaches it.
pub struct Apt {
    dir: PathBuf,
    codename: String,
    archive: Source,
    sources: Vec<Source>,
}

impl Apt {
    /// Reads the machine's configuration; lists are fetched when first needed.
    ///
    /// # Errors
    /// This is no Debian, or its sources do not name the archive.
    pub fn open(cache: &Path) -> Result<Self> {
        let codename = codename()?;
        let sources = sources::of_machine(Path::new("/etc/apt"), &codename)?;
        let archive = sources
            .iter()
            .find(|source| source.suite == codename)
            .with_context(|| format!("no source for {codename} in /etc/apt"))?
            .clone();
        Ok(Apt {
            dir: cache.join("apt"),
            codename,
            archive,
            sources,
        })
    }

    /// Debian's name for this release.
    #[must_use]
    pub fn codename(&self) -> &str {
        &self.codename
    }

    /// The main archive, as a line of sources.list.
    #[must_use]
    pub fn archive_line(&self) -> String {
        self.archive.line()
    }

    /// The backports suite, if the mirror has it.
    #[must_use]
    pub fn backports(&self) -> Option<String> {
        let suite = format!("{}-backports", self.codename);
        let list = fs::read_to_string(self.list()).unwrap_or_default();
        list.contains(&suite).then_some(suite)
    }

    fn list(&self) -> PathBuf {
        self.dir.join("parts/holdfast.list")
    }

    /// Fetches the package lists unless they are fresh.
    ///
    /// # Errors
    /// The archive cannot be reached.
    pub fn refresh(&self) -> Result<()> {
        let stamp = self.dir.join("stamp");
        let age = fs::metadata(&stamp).and_then(|meta| meta.modified());
        let fresh = age.is_ok_and(|time| time.elapsed().is_ok_and(|age| age < FRESH));
        if !fresh {
            self.update()?;
            fs::write(&stamp, "")?;
        }
        Ok(())
    }

    fn update(&self) -> Result<()> {
        fs::create_dir_all(self.dir.join("parts"))?;
        fs::create_dir_all(self.dir.join("lists/partial"))?;
        let backports = self
            .archive
            .with_suite(format!("{}-backports", self.codename));
        let mut with = self.sources.clone();
        if !with.iter().any(|source| source.suite == backports.suite) {
            with.push(backports);
        }
        // A mirror may lack backports, and a security mirror may be unreachable for a while.
        for sources in [with, self.sources.clone(), vec![self.archive.clone()]] {
            let lines: Vec<String> = sources.iter().map(Source::line).collect();
            fs::write(self.list(), lines.join("\n") + "\n")?;
            let mut update = self.get();
            update.args(["update", "-qq", "-o", "APT::Update::Error-Mode=any"]);
            match run("apt-get update", &mut update, LIMIT) {
                Ok(_) => return Ok(()),
                Err(error) if sources.len() == 1 => return Err(error),
                Err(_) => {}
            }
        }
        Ok(())
    }

    fn options(&self, program: &str) -> Command {
        let mut command = command(program);
        let dir = self.dir.display();
        command
            .env("DEBIAN_FRONTEND", "noninteractive")
            .env("LC_ALL", "C");
        for option in [
            "Dir::Etc::SourceList=/dev/null".to_owned(),
            format!("Dir::Etc::SourceParts={dir}/parts"),
            format!("Dir::State::Lists={dir}/lists"),
            "Dir::Cache::pkgcache=".to_owned(),
            "Dir::Cache::srcpkgcache=".to_owned(),
            "Acquire::Languages=none".to_owned(),
            "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false".to_owned(),
            "APT::Sandbox::User=root".to_owned(),
            "DPkg::Lock::Timeout=600".to_owned(),
        ] {
            command.args(["-o", &option]);
        }
        command
    }

    fn get(&self) -> Command {
        self.options("apt-get")
    }

    /// What installing `packages` would do; `suite` as in [`Apt::install`].
    ///
    /// # Errors
    /// There is no way to install them.
    pub fn simulate(&self, packages: &[&str], suite: Option<&str>) -> Result<Plan> {
        self.refresh()?;
        let mut simulate = self.get();
        simulate.args(["--simulate", "install", "--no-install-recommends"]);
        simulate.args(suite.iter().flat_map(|suite| ["-t", suite]));
        let text = run("apt-get --simulate", simulate.args(packages), LIMIT)?;
        Ok(Plan::parse(&text))
    }

    /// What installing `packages` would do if no package whose name starts with `prefix` were
    /// installed: what has to be unpacked to have them beside those.
    ///
    /// # Errors
    /// There is no way to install them even then.
    pub fn simulate_without(&self, packages: &[&str], prefix: &str) -> Result<Plan> {
        self.refresh()?;
        let installed = fs::read_to_string("/var/lib/dpkg/status")?;
        let status = self.dir.join("status");
        fs::write(&status, without(&installed, prefix))?;
        let mut simulate = self.get();
        simulate.args(["--simulate", "install", "--no-install-recommends"]);
        let option = format!("Dir::State::status={}", status.display());
        simulate.args(["-o", &option]).args(packages);
        let text = run("apt-get --simulate", &mut simulate, LIMIT)?;
        Ok(Plan::parse(&text))
    }

    /// Installs `packages`, preferring `suite` over the release when given. Needs root.
    ///
    /// # Errors
    /// Anything would be removed; or the installation fails.
    pub fn install(&self, packages: &[&str], suite: Option<&str>) -> Result<()> {
        let plan = self.simulate(packages, suite)?;
        ensure!(
            plan.removed.is_empty(),
            "installing {} would remove {}",
            packages.join(" "),
            plan.removed.join(" ")
        );
        let mut install = self.get();
        install.args([
            "install",
            "-y",
            "-qq",
            "--no-install-recommends",
            "--no-remove",
        ]);
        install.args(suite.iter().flat_map(|suite| ["-t", suite]));
        run("apt-get install", install.args(packages), LIMIT).map(drop)
    }

    /// Unpacks `packages` under `to` without installing them, through `to`'s sibling `work`.
    ///
    /// # Errors
    /// One cannot be fetched or unpacked.
    pub fn unpack(&self, packages: &[&str], work: &Path, to: &Path) -> Result<()> {
        self.refresh()?;
        fs::create_dir_all(work)?;
        fs::create_dir_all(to)?;
        let mut download = self.get();
        download.args(["download", "-qq"]).args(packages);
        run("apt-get download", download.current_dir(work), LIMIT)?;
        for entry in fs::read_dir(work)? {
            let deb = entry?.path();
            if deb.extension().is_some_and(|extension| extension == "deb") {
                run(
                    "dpkg -x",
                    command("dpkg").arg("-x").arg(&deb).arg(to),
                    LIMIT,
                )?;
                fs::remove_file(&deb)?;
            }
        }
        Ok(())
    }

    /// The first package starting with `prefix` that `package` depends on.
    ///
    /// # Errors
    /// There is none.
    pub fn dependency(&self, package: &str, prefix: &str) -> Result<String> {
        self.refresh()?;
        let mut depends = self.options("apt-cache");
        let text = run("apt-cache", depends.args(["depends", package]), LIMIT)?;
        text.lines()
            .filter_map(|line| line.trim().strip_prefix("Depends: "))
            .find(|name| name.starts_with(prefix))
            .map(str::to_owned)
            .with_context(|| format!("{package} depends on no {prefix}*"))
    }
}

/// What apt would do.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Packages that it would install or upgrade.
    pub installed: Vec<String>,
    /// Packages that it would remove.
    pub removed: Vec<String>,
}

impl Plan {
    fn parse(text: &str) -> Self {
        let names = |verb: &str| {
            text.lines()
                .filter_map(|line| line.strip_prefix(verb)?.split_whitespace().next())
                .map(str::to_owned)
                .collect()
        };
        Plan {
            installed: names("Inst "),
            removed: names("Remv "),
        }
    }
}

/// dpkg's status without the packages whose name starts with `prefix`.
fn without(status: &str, prefix: &str) -> String {
    let start = format!("Package: {prefix}");
    let stanzas = status.split("\n\n");
    let kept: Vec<&str> = stanzas
        .filter(|stanza| !stanza.trim_start().starts_with(&start))
        .collect();
    kept.join("\n\n")
}

fn codename() -> Result<String> {
    let text = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let value = |key: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix(key)?.strip_prefix('='))
            .map(|value| value.trim_matches('"').to_owned())
    };
    match (value("ID").as_deref(), value("VERSION_CODENAME")) {
        (Some("debian"), Some(codename)) => Ok(codename),
        _ => bail!("this needs Debian (12 is what is tested)"),
    }
}

#[cfg(test)]
mod tests {
    use super::{Plan, without};

    #[test]
    fn a_simulation_is_read() {
        let text = "Reading package lists...\n\
            Remv qemu-utils [1:10.0.2]\n\
            Inst seabios (1.16.2-1 Debian:12.15/oldstable [all])\n\
            Inst libfdt1 [1.6] (1.7 Debian:12.15/oldstable [amd64])\n\
            Conf seabios (1.16.2-1 Debian:12.15/oldstable [all])\n";
        let plan = Plan::parse(text);
        assert_eq!(plan.installed, ["seabios", "libfdt1"]);
        assert_eq!(plan.removed, ["qemu-utils"]);
    }

    #[test]
    fn packages_are_left_out_of_a_status() {
        let status = "Package: a\nVersion: 1\n\nPackage: qemu-utils\nVersion: 2\n\nPackage: z\n\n";
        let kept = without(status, "qemu");
        assert_eq!(kept, "Package: a\nVersion: 1\n\nPackage: z\n\n");
    }
}
