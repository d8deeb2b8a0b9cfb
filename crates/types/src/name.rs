//! Names of volumes and snapshots.

use crate::shorten;
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// A volume's or a snapshot's name: 1 to 128 of `A–Z a–z 0–9 . _ - :`, the first a letter or digit.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Name(String);

/// A text that cannot be a name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "'{0}' is not a name: use 1 to 128 letters, digits, '.', '_', '-' or ':', beginning with a letter or digit"
)]
pub struct NameError(String);

impl Name {
    /// The longest name, in bytes.
    pub const LEN_MAX: usize = 128;

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Name {
    type Err = NameError;
    fn from_str(s: &str) -> Result<Self, NameError> {
        let body = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | ':');
        let good = s.len() <= Self::LEN_MAX
            && s.starts_with(|c: char| c.is_ascii_alphanumeric())
            && s.chars().all(body);
        if good {
            Ok(Name(s.to_owned()))
        } else {
            Err(NameError(shorten(s)))
        }
    }
}

impl TryFrom<String> for Name {
    type Error = NameError;
    fn try_from(s: String) -> Result<Self, NameError> {
        s.parse()
    }
}

impl From<Name> for String {
    fn from(name: Name) -> String {
        name.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// `volume` (its live state) or `volume@snapshot`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct VolumeRef {
    /// The volume.
    pub volume: Name,
    /// The snapshot, or the volume's live state.
    pub snapshot: Option<Name>,
}

impl FromStr for VolumeRef {
    type Err = NameError;
    fn from_str(s: &str) -> Result<Self, NameError> {
        Ok(match s.split_once('@') {
            Some((volume, snapshot)) => VolumeRef {
                volume: volume.parse()?,
                snapshot: Some(snapshot.parse()?),
            },
            None => VolumeRef {
                volume: s.parse()?,
                snapshot: None,
            },
        })
    }
}

impl TryFrom<String> for VolumeRef {
    type Error = NameError;
    fn try_from(s: String) -> Result<Self, NameError> {
        s.parse()
    }
}

impl From<VolumeRef> for String {
    fn from(r: VolumeRef) -> String {
        r.to_string()
    }
}

impl From<Name> for VolumeRef {
    fn from(volume: Name) -> Self {
        VolumeRef {
            volume,
            snapshot: None,
        }
    }
}

impl fmt::Display for VolumeRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.snapshot {
            Some(snapshot) => write!(f, "{}@{snapshot}", self.volume),
            None => self.volume.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked() {
        for good in ["a", "web-1.root", "0", "vm_3:disk0", &"x".repeat(128)] {
            assert_eq!(good.parse::<Name>().unwrap().as_str(), good);
        }
        for bad in [
            "",
            "-a",
            ".",
            "a b",
            "a/b",
            "a@b",
            "é",
            "a\n",
            &"x".repeat(129),
        ] {
            assert!(bad.parse::<Name>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn references_name_a_volume_or_a_snapshot() {
        let r: VolumeRef = "web@daily".parse().unwrap();
        assert_eq!(
            (r.volume.as_str(), r.snapshot.as_ref().unwrap().as_str()),
            ("web", "daily")
        );
        assert_eq!(r.to_string(), "web@daily");
        assert!("web@".parse::<VolumeRef>().is_err());
        assert!("a@b@c".parse::<VolumeRef>().is_err());
    }
}
