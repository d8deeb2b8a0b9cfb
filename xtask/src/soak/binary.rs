//! A crate's test binary, optimized, run as a process.

use crate::stage::cargo;
use anyhow::{Context, Result};
use e2e::process::{Finished, command, finish, run, tail};
use std::{path::PathBuf, time::Duration};

/// Compiling everything anew takes minutes.
const BUILD_LIMIT: Duration = Duration::from_secs(1800);
/// Longest that one run may take.
const RUN_LIMIT: Duration = Duration::from_secs(3600);
/// Lines of a failed run that are shown.
const LINES_SHOWN: usize = 40;

/// Compiles the daemon with the `soak` profile, unless `HOLDFAST_BIN` names one to be used.
pub(crate) fn build_daemon() -> Result<()> {
    if std::env::var_os("HOLDFAST_BIN").is_none() {
        let build = [
            "build",
            "--quiet",
            "--profile",
            "soak",
            "--package",
            "holdfast",
        ];
        run("cargo build", &mut cargo(&build), BUILD_LIMIT)?;
        e2e::paths::use_profile("soak");
    }
    Ok(())
}

/// A compiled test binary.
pub(crate) struct TestBinary(PathBuf);

impl TestBinary {
    /// Compiles the integration test `test` of `package` with the `soak` profile.
    pub(crate) fn build(package: &str, test: &str) -> Result<Self> {
        let mut build = cargo(&["test", "--quiet", "--profile", "soak", "--no-run"]);
        build.args(["--package", package, "--test", test]);
        // Errors as people read them.
        build.args(["--message-format", "json-render-diagnostics"]);
        let messages = run("cargo test --no-run", &mut build, BUILD_LIMIT)?;
        let of_test = |line: &str| -> Option<PathBuf> {
            let message: serde_json::Value = serde_json::from_str(line).ok()?;
            let named = message["target"]["name"] == test;
            let path = message["executable"].as_str()?;
            named.then(|| path.into())
        };
        let binary = messages.lines().find_map(of_test);
        binary
            .map(TestBinary)
            .with_context(|| format!("cargo has not built {package}::{test}"))
    }

    /// Runs the test `name` with `variables` set; its output if it fails.
    ///
    /// # Errors
    /// It cannot be started, or does not end.
    pub(crate) fn run(&self, name: &str, variables: &[(&str, String)]) -> Result<Option<String>> {
        let mut test = command(&self.0);
        test.args(["--exact", name, "--nocapture", "--include-ignored"]);
        // As many processes as cores: more threads in each would only be in the way.
        test.env("RAYON_NUM_THREADS", "1");
        test.envs(variables.iter().map(|(name, value)| (name, value)));
        let Finished {
            status,
            stdout,
            stderr,
        } = finish(name, &mut test, RUN_LIMIT)?;
        let all = format!("{stdout}{stderr}");
        Ok((!status.success()).then(|| tail(&all, LINES_SHOWN)))
    }
}
