//! `store.toml`: what a directory must say before anything in it is touched.

use crate::error::{Error, ErrorKind};
use serde::{Deserialize, Serialize};
use types::StoreId;

/// The format that this program writes, and the newest that it reads.
pub const FORMAT_VERSION: u32 = 1;

/// A store's identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// Of the format of everything in the directory.
    pub format: u32,
    /// The store's identity; packs and journal segments carry it.
    pub id: StoreId,
    /// The secret under which blocks are hashed.
    pub hash_key: [u8; 32],
    /// When it was made, milliseconds since the Unix epoch.
    pub created_ms: u64,
}

#[derive(Serialize, Deserialize)]
struct Text {
    format: u32,
    id: String,
    hash_key: String,
    created_ms: u64,
}

fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn from_hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    if text.len() != 2 * N || !text.is_ascii() {
        return None;
    }
    for (byte, at) in bytes.iter_mut().zip((0..).step_by(2)) {
        *byte = u8::from_str_radix(text.get(at..at + 2)?, 16).ok()?;
    }
    Some(bytes)
}

impl Manifest {
    /// As it is written.
    #[must_use]
    pub fn to_toml(&self) -> String {
        let text = Text {
            format: self.format,
            id: self.id.to_string(),
            hash_key: to_hex(&self.hash_key),
            created_ms: self.created_ms,
        };
        let body = toml::to_string(&text).unwrap_or_default();
        format!(
            "# A Holdfast store. Written once; do not edit: without this file nothing here can be read.\n{body}"
        )
    }

    /// Reads it.
    ///
    /// # Errors
    /// [`ErrorKind::NewerFormat`] if only a newer program can read the store, [`ErrorKind::Damaged`] if the text
    /// is none of ours.
    pub fn parse(bytes: &[u8]) -> Result<Manifest, Error> {
        let damaged =
            |why: &str| Error::new(ErrorKind::Damaged, format!("store.toml is damaged: {why}"));
        let text = std::str::from_utf8(bytes).map_err(|_| damaged("not a text"))?;
        let table: toml::Table = text.parse().map_err(|_| damaged("not TOML"))?;
        let format = table.get("format").and_then(toml::Value::as_integer);
        let format = format
            .and_then(|f| u32::try_from(f).ok())
            .ok_or_else(|| damaged("no format version"))?;
        if format > FORMAT_VERSION {
            let message = format!(
                "the store has format {format}, this program reads up to {FORMAT_VERSION}: use a newer holdfast"
            );
            return Err(Error::new(ErrorKind::NewerFormat, message));
        }
        let text: Text = toml::from_str(text)
            .map_err(|_| damaged("an entry is missing or of the wrong kind"))?;
        Ok(Manifest {
            format,
            id: StoreId(from_hex(&text.id).ok_or_else(|| damaged("id"))?),
            hash_key: from_hex(&text.hash_key).ok_or_else(|| damaged("hash_key"))?,
            created_ms: text.created_ms,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_is_read_back_and_a_newer_one_refused() {
        let manifest = Manifest {
            format: 1,
            id: StoreId([7; 16]),
            hash_key: [9; 32],
            created_ms: 5,
        };
        let text = manifest.to_toml();
        assert_eq!(Manifest::parse(text.as_bytes()).unwrap(), manifest);
        let newer = text.replace("format = 1", "format = 2\nnovelty = true");
        assert_eq!(
            Manifest::parse(newer.as_bytes()).unwrap_err().kind(),
            ErrorKind::NewerFormat
        );
        for bad in [
            "",
            "format = 1",
            "format = -1",
            "\u{0}",
            &text.replace("07", "zz"),
        ] {
            assert_eq!(
                Manifest::parse(bad.as_bytes()).unwrap_err().kind(),
                ErrorKind::Damaged,
                "{bad}"
            );
        }
    }
}
