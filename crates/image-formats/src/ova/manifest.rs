//! The manifest, which has a digest of each file, and the digests.

use crate::error::shorten;
use sha1::{Digest, Sha1};
use sha2::{Sha256, Sha512};
use std::collections::HashMap;

const LINES_MAX: usize = 8192;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Algorithm {
    Sha1,
    Sha256,
    Sha512,
}

/// Digests by name.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Manifest(HashMap<String, (Algorithm, String)>);

impl Manifest {
    /// From lines such as `SHA256(disk1.vmdk)= 0123…`.
    pub(super) fn parse(text: &[u8]) -> Result<Self, String> {
        let text =
            std::str::from_utf8(text).map_err(|e| format!("the manifest is no text: {e}"))?;
        let mut digests = HashMap::new();
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
        for (number, line) in lines.enumerate() {
            if number >= LINES_MAX {
                return Err(format!("the manifest has more than {LINES_MAX} lines"));
            }
            let bad = || format!("a line of the manifest makes no sense: {}", shorten(line));
            let (algorithm, rest) = line.split_once('(').ok_or_else(bad)?;
            let (name, digest) = rest.rsplit_once(')').ok_or_else(bad)?;
            let digest = digest.trim().strip_prefix('=').ok_or_else(bad)?.trim();
            let algorithm = Algorithm::named(algorithm.trim()).ok_or_else(|| {
                format!(
                    "the manifest has digests that are not known: {}",
                    shorten(line)
                )
            })?;
            if digest.len() != algorithm.digits() || !digest.bytes().all(|b| b.is_ascii_hexdigit())
            {
                return Err(bad());
            }
            let entry = (algorithm, digest.to_ascii_lowercase());
            if digests.insert(name.to_owned(), entry).is_some() {
                return Err(format!("the manifest has {} twice", shorten(name)));
            }
        }
        Ok(Manifest(digests))
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// What is needed to check a file.
    pub(super) fn digests(&self, name: &str) -> Digests {
        let mut digests = Digests::default();
        match self.0.get(name) {
            Some((Algorithm::Sha1, _)) => digests.sha1 = Some(Sha1::new()),
            Some((Algorithm::Sha256, _)) => digests.sha256 = Some(Sha256::new()),
            Some((Algorithm::Sha512, _)) => digests.sha512 = Some(Sha512::new()),
            None => {}
        }
        digests
    }

    /// Whether a file is what it says of it, if anything.
    pub(super) fn check(&self, name: &str, digests: Digests) -> Result<(), String> {
        let Some((algorithm, expect)) = self.0.get(name) else {
            return Ok(());
        };
        let found = match algorithm {
            Algorithm::Sha1 => digests.sha1.map(|sha1| hex(&sha1.finalize())),
            Algorithm::Sha256 => digests.sha256.map(|sha256| hex(&sha256.finalize())),
            Algorithm::Sha512 => digests.sha512.map(|sha512| hex(&sha512.finalize())),
        };
        if found.as_ref() == Some(expect) {
            return Ok(());
        }
        Err("its digest is not the one in the manifest: it is damaged, or was changed".into())
    }
}

impl Algorithm {
    fn named(name: &str) -> Option<Self> {
        match name.to_ascii_uppercase().as_str() {
            "SHA1" | "SHA-1" => Some(Algorithm::Sha1),
            "SHA256" | "SHA-256" => Some(Algorithm::Sha256),
            "SHA512" | "SHA-512" => Some(Algorithm::Sha512),
            _ => None,
        }
    }

    const fn digits(self) -> usize {
        match self {
            Algorithm::Sha1 => 40,
            Algorithm::Sha256 => 64,
            Algorithm::Sha512 => 128,
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Of bytes that are read: those digests that may be needed.
#[derive(Default)]
pub(super) struct Digests {
    sha1: Option<Sha1>,
    sha256: Option<Sha256>,
    sha512: Option<Sha512>,
}

impl Digests {
    /// While there is no manifest yet.
    pub(super) fn all() -> Self {
        Digests {
            sha1: Some(Sha1::new()),
            sha256: Some(Sha256::new()),
            sha512: Some(Sha512::new()),
        }
    }

    pub(super) fn update(&mut self, bytes: &[u8]) {
        if let Some(sha1) = &mut self.sha1 {
            sha1.update(bytes);
        }
        if let Some(sha256) = &mut self.sha256 {
            sha256.update(bytes);
        }
        if let Some(sha512) = &mut self.sha512 {
            sha512.update(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_what_the_manifest_says() {
        // The digests of "abc" (FIPS 180-4).
        let text = "SHA1(a)= A9993E364706816ABA3E25717850C26C9CD0D89D\r\n\n\
            SHA256 (b (1).vmdk) = ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad\n\
            SHA512(c)=ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a\
            2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f";
        let manifest = Manifest::parse(text.as_bytes()).unwrap();
        for name in ["a", "b (1).vmdk", "c"] {
            for mut digests in [manifest.digests(name), Digests::all()] {
                digests.update(b"a");
                digests.update(b"bc");
                manifest.check(name, digests).unwrap();
            }
            assert!(manifest.check(name, Digests::all()).is_err());
            assert!(manifest.check(name, Digests::default()).is_err());
        }
        assert!(!manifest.has("d"));
        manifest.check("d", Digests::default()).unwrap();
    }

    #[test]
    fn what_is_no_manifest_is_refused() {
        let line = "SHA1(a)= a9993e364706816aba3e25717850c26c9cd0d89d\n";
        for bad in [
            "a",
            "SHA1 a",
            "SHA1(a) 12",
            "SHA1(a)= 12",
            "MD5(a)= 900150983cd24fb0d6963f7d28e17f72",
            "SHA1(a)= g9993e364706816aba3e25717850c26c9cd0d89d",
            &line.repeat(2),
        ] {
            let refused = Manifest::parse(bad.as_bytes()).unwrap_err();
            assert!(refused.len() < 200 && refused.lines().count() == 1);
        }
        assert!(Manifest::parse(b"\xff").is_err());
    }
}
