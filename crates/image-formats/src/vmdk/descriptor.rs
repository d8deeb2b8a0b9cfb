//! The text that says which files a disk consists of.

use crate::error::shorten;
use types::SECTOR_SIZE;

/// The parts of a disk; VMware cuts disks of 2 TiB into a thousand.
const EXTENTS_MAX: usize = 4096;
const NO_PARENT: &str = "ffffffff";

/// What a descriptor says, as far as reading needs it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Descriptor {
    /// Whether it is only a difference to another disk.
    pub(super) has_parent: bool,
    pub(super) extents: Vec<Extent>,
}

/// A part of a disk.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Extent {
    /// Bytes.
    pub(super) len: u64,
    pub(super) kind: ExtentKind,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum ExtentKind {
    /// Nothing but zeroes.
    Zero,
    /// The bytes of a file from an offset on.
    Flat { file: String, offset: u64 },
    /// A sparse extent.
    Sparse { file: String },
}

impl Descriptor {
    /// From its text.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let mut descriptor = Descriptor {
            has_parent: false,
            extents: Vec::new(),
        };
        for line in text.lines().map(str::trim) {
            match line.split_once('=') {
                Some((key, value)) if key.trim().eq_ignore_ascii_case("parentCID") => {
                    descriptor.has_parent = !value.trim().eq_ignore_ascii_case(NO_PARENT);
                }
                _ if is_extent(line) => descriptor.extents.push(extent(line)?),
                _ => {}
            }
            if descriptor.extents.len() > EXTENTS_MAX {
                return Err(format!("more than {EXTENTS_MAX} extents"));
            }
        }
        Ok(descriptor)
    }
}

fn is_extent(line: &str) -> bool {
    ["RW ", "RDONLY ", "NOACCESS "]
        .iter()
        .any(|access| line.starts_with(access))
}

/// `RW 4192256 SPARSE "disk-s001.vmdk"`, `RW 8192 FLAT "disk-flat.vmdk" 0`, `RW 2048 ZERO`.
fn extent(line: &str) -> Result<Extent, String> {
    let bad = || format!("an extent makes no sense: {}", shorten(line));
    let mut words = line.splitn(4, ' ').skip(1);
    let sectors: u64 = words
        .next()
        .and_then(|word| word.parse().ok())
        .ok_or_else(bad)?;
    let len = sectors.checked_mul(SECTOR_SIZE).ok_or_else(bad)?;
    let kind = words.next().ok_or_else(bad)?;
    let rest = words.next().unwrap_or_default();
    let kind = match kind {
        "ZERO" => ExtentKind::Zero,
        "SPARSE" => {
            let (file, _) = quoted(rest).ok_or_else(bad)?;
            ExtentKind::Sparse {
                file: plain_name(file)?,
            }
        }
        "FLAT" | "VMFS" => {
            let (file, offset) = quoted(rest).ok_or_else(bad)?;
            let sectors: u64 = match offset.trim() {
                "" => 0,
                number => number.parse().map_err(|_| bad())?,
            };
            ExtentKind::Flat {
                file: plain_name(file)?,
                offset: sectors.checked_mul(SECTOR_SIZE).ok_or_else(bad)?,
            }
        }
        other => {
            return Err(format!("extents of kind {} cannot be read", shorten(other)));
        }
    };
    Ok(Extent { len, kind })
}

/// What is between quotes, and what follows.
fn quoted(text: &str) -> Option<(&str, &str)> {
    text.trim_start().strip_prefix('"')?.split_once('"')
}

/// A name of a file beside the descriptor and nowhere else.
fn plain_name(name: &str) -> Result<String, String> {
    let plain = !name.is_empty()
        && name != "."
        && name != ".."
        && !name.contains(['/', '\\'])
        && !name.contains(char::is_control);
    if plain {
        return Ok(name.to_owned());
    }
    Err(format!(
        "the file {} is not opened: only plain names, of files beside the image, are",
        shorten(name)
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extents_are_read_and_names_are_plain() {
        let text = "# Disk DescriptorFile\nversion=1\nparentCID=FFFFFFFF\ncreateType=\"x\"\n\n\
                    RW 8 SPARSE \"a b-s001.vmdk\"\r\nRW 16 FLAT \"f.vmdk\" 2\nRDONLY 1 ZERO\nddb.x = \"1\"";
        let descriptor = Descriptor::parse(text).unwrap();
        assert!(!descriptor.has_parent);
        let kinds: Vec<_> = descriptor
            .extents
            .into_iter()
            .map(|extent| (extent.len, extent.kind))
            .collect();
        let expect = [
            (
                4096,
                ExtentKind::Sparse {
                    file: "a b-s001.vmdk".into(),
                },
            ),
            (
                8192,
                ExtentKind::Flat {
                    file: "f.vmdk".into(),
                    offset: 1024,
                },
            ),
            (512, ExtentKind::Zero),
        ];
        assert_eq!(kinds, expect);
        assert!(Descriptor::parse("parentCID=12345678").unwrap().has_parent);
        for name in [
            "/etc/shadow",
            "../x",
            "..",
            "",
            "a\\b",
            "json:{}/",
            "a\u{0}",
        ] {
            let line = format!("RW 8 FLAT \"{name}\" 0");
            assert!(Descriptor::parse(&line).is_err(), "{name}");
        }
        for line in [
            "RW x FLAT \"a\" 0",
            "RW 18446744073709551615 ZERO",
            "RW 8",
            "RW 8 SPARSE a",
            "RW 8 SESPARSE \"a\"",
            "RW 8 FLAT \"a\" 18446744073709551615",
        ] {
            assert!(Descriptor::parse(line).is_err(), "{line}");
        }
    }
}
