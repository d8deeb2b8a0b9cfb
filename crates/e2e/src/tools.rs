//! Programs that this machine has or has not.

use anyhow::{Result, bail};
use std::{os::unix::fs::PermissionsExt, path::PathBuf};

/// Where `program` is, looking in the directories of administrators too.
#[must_use]
pub fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .map(|dir| dir.join(program))
        .find(|file| {
            file.metadata()
                .is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
        })
}

/// Whether `program` can be run.
#[must_use]
pub fn have(program: &str) -> bool {
    find(program).is_some()
}

/// Insists on `programs`: a test that needs them must not pass by not running.
///
/// # Errors
/// Some are missing; the message names them and the way out.
pub fn need(programs: &[&str]) -> Result<()> {
    let missing: Vec<&str> = programs.iter().copied().filter(|p| !have(p)).collect();
    if !missing.is_empty() {
        bail!(
            "missing {}: `cargo xtask test` installs what the tests need",
            missing.join(", ")
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{have, need};

    #[test]
    fn programs_are_found_or_named() {
        assert!(have("sh"));
        let error = need(&["sh", "no-such-program"]).unwrap_err().to_string();
        assert!(error.starts_with("missing no-such-program:"), "{error}");
    }
}
