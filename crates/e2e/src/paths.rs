//! Where things are.

use anyhow::{Result, bail};
use std::{
    path::{Path, PathBuf},
    sync::OnceLock,
};

/// Directory of the workspace.
#[must_use]
pub fn workspace() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).unwrap_or(here).to_owned()
}

/// Directory that cargo builds into.
#[must_use]
pub fn target() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(dir) => workspace().join(dir),
        None => workspace().join("target"),
    }
}

/// Directory of what is made once and kept: the guest's image, package lists. `HOLDFAST_CACHE`
/// overrides it.
#[must_use]
pub fn cache() -> PathBuf {
    match std::env::var_os("HOLDFAST_CACHE") {
        Some(dir) => workspace().join(dir),
        None => target().join("demo"),
    }
}

/// From now on the program under test is the one that was built with this profile.
pub fn use_profile(name: &'static str) {
    // Who comes second has said the same.
    let _ = PROFILE.set(name);
}

static PROFILE: OnceLock<&'static str> = OnceLock::new();

/// From now on this is the program under test.
pub fn use_program(path: PathBuf) {
    // Who comes second has said the same.
    let _ = PROGRAM.set(path);
}

static PROGRAM: OnceLock<PathBuf> = OnceLock::new();

/// The program under test: what [`use_program`] was told, `HOLDFAST_BIN`, or what `cargo build` last made.
///
/// # Errors
/// It has not been built.
pub fn holdfast() -> Result<PathBuf> {
    let named = PROGRAM.get().cloned();
    let path = match named.or_else(|| std::env::var_os("HOLDFAST_BIN").map(PathBuf::from)) {
        Some(path) => path,
        None => target()
            .join(PROFILE.get().unwrap_or(&"debug"))
            .join("holdfast"),
    };
    if !path.is_file() {
        bail!(
            "{} is missing: run `cargo build -p holdfast`, or `cargo xtask test`, which does",
            path.display()
        );
    }
    Ok(path)
}
