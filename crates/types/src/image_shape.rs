//! How disk images are written.

use crate::{ImageFormat, shorten};
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// How an image is to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImageShape {
    /// Its format.
    pub format: ImageFormat,
    /// How its clusters are compressed, if they are.
    pub compress: Option<Compression>,
    /// The format's kind; its usual one, if none.
    pub subformat: Option<Subformat>,
}

impl ImageShape {
    /// The bytes of the disk and nothing else.
    pub const RAW: ImageShape = ImageShape {
        format: ImageFormat::Raw,
        compress: None,
        subformat: None,
    };

    /// Whether there is such an image.
    ///
    /// # Errors
    /// What there is, in one line.
    pub fn check(&self) -> Result<(), String> {
        use ImageFormat::{Ova, Qcow2, Raw, Vdi, Vhd, Vhdx, Vmdk};
        let ImageShape {
            format,
            compress,
            subformat,
        } = *self;
        match (format, compress) {
            (Ova, _) => {
                return Err(
                    "an OVA has images of disks in it, stream-optimized vmdk; it is none itself"
                        .to_owned(),
                );
            }
            (Qcow2, _) | (_, None) => {}
            (Vmdk, Some(_)) => {
                return Err(
                    "a vmdk image is compressed if its subformat is streamOptimized".to_owned(),
                );
            }
            (_, Some(_)) => {
                return Err(format!("a {format} image is not compressed; qcow2 can be"));
            }
        }
        let Some(subformat) = subformat else {
            return Ok(());
        };
        let fits = match format {
            Raw | Qcow2 | Ova => return Err(format!("{format} has no subformats")),
            Vmdk => !Subformat::SIZES.contains(&subformat),
            Vhdx | Vhd | Vdi => Subformat::SIZES.contains(&subformat),
        };
        if fits {
            return Ok(());
        }
        let all = Subformat::ALL.into_iter();
        let names = all.filter(|other| Subformat::SIZES.contains(other) == (format != Vmdk));
        let names: Vec<String> = names.map(|name| name.to_string()).collect();
        Err(format!(
            "{format} has no subformat {subformat}: use {}",
            names.join(", ")
        ))
    }
}

/// How clusters are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    /// Deflate: every QEMU reads it.
    Zlib,
    /// Zstandard: smaller and faster; QEMU 5.1 and later.
    Zstd,
}

/// Kinds of a format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Subformat {
    /// VHDX, VHD, VDI: takes space for what is written.
    Dynamic,
    /// VHDX, VHD, VDI: takes space for all of the disk.
    Fixed,
    /// VMDK: one file, thin.
    MonolithicSparse,
    /// VMDK: a descriptor and one file with the bytes of the disk.
    MonolithicFlat,
    /// VMDK: a descriptor and thin files of at most 2 GB.
    TwoGbMaxExtentSparse,
    /// VMDK: a descriptor and files of at most 2 GB with the bytes of the disk.
    TwoGbMaxExtentFlat,
    /// VMDK: one compressed file, as appliances have it.
    StreamOptimized,
}

impl Subformat {
    /// All of them.
    pub const ALL: [Subformat; 7] = [
        Subformat::Dynamic,
        Subformat::Fixed,
        Subformat::MonolithicSparse,
        Subformat::MonolithicFlat,
        Subformat::TwoGbMaxExtentSparse,
        Subformat::TwoGbMaxExtentFlat,
        Subformat::StreamOptimized,
    ];
    /// Those that are not VMDK's.
    const SIZES: [Subformat; 2] = [Subformat::Dynamic, Subformat::Fixed];
}

impl fmt::Display for Subformat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Subformat::Dynamic => "dynamic",
            Subformat::Fixed => "fixed",
            Subformat::MonolithicSparse => "monolithicSparse",
            Subformat::MonolithicFlat => "monolithicFlat",
            Subformat::TwoGbMaxExtentSparse => "twoGbMaxExtentSparse",
            Subformat::TwoGbMaxExtentFlat => "twoGbMaxExtentFlat",
            Subformat::StreamOptimized => "streamOptimized",
        })
    }
}

impl FromStr for Subformat {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        let mut all = Self::ALL.into_iter();
        all.find(|name| name.to_string().eq_ignore_ascii_case(s))
            .ok_or_else(|| {
                let names = Self::ALL.map(|name| name.to_string());
                format!(
                    "unknown subformat '{}': use {}",
                    shorten(s),
                    names.join(", ")
                )
            })
    }
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Compression::Zlib => "zlib",
            Compression::Zstd => "zstd",
        })
    }
}

impl FromStr for Compression {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        match s {
            "zlib" => Ok(Compression::Zlib),
            "zstd" => Ok(Compression::Zstd),
            _ => Err(format!(
                "unknown compression '{}': use zlib or zstd",
                shorten(s)
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_written() {
        for name in Subformat::ALL {
            assert_eq!(name.to_string().parse(), Ok(name));
            assert_eq!(name.to_string().to_lowercase().parse(), Ok(name));
        }
        for name in [Compression::Zlib, Compression::Zstd] {
            assert_eq!(name.to_string().parse(), Ok(name));
        }
        assert!("thin".parse::<Subformat>().is_err() && "lz4".parse::<Compression>().is_err());
    }

    #[test]
    fn what_there_is_not_is_refused_with_what_there_is() {
        let said = |format, compress, subformat| {
            let shape = ImageShape {
                format,
                compress,
                subformat,
            };
            shape.check().err().unwrap_or_default()
        };
        let (zstd, fixed) = (Some(Compression::Zstd), Some(Subformat::Fixed));
        assert_eq!(said(ImageFormat::Qcow2, zstd, None), "");
        assert_eq!(said(ImageFormat::Vhd, None, fixed), "");
        assert_eq!(
            said(ImageFormat::Vmdk, None, Some(Subformat::StreamOptimized)),
            ""
        );
        assert_eq!(
            said(ImageFormat::Vdi, zstd, None),
            "a vdi image is not compressed; qcow2 can be"
        );
        assert!(said(ImageFormat::Vmdk, zstd, None).contains("streamOptimized"));
        assert!(said(ImageFormat::Ova, None, None).contains("none itself"));
        assert_eq!(said(ImageFormat::Raw, None, fixed), "raw has no subformats");
        assert!(said(ImageFormat::Vmdk, None, fixed).contains("use monolithicSparse,"));
        assert_eq!(
            said(ImageFormat::Vhdx, None, Some(Subformat::MonolithicFlat)),
            "vhdx has no subformat monolithicFlat: use dynamic, fixed"
        );
    }
}
