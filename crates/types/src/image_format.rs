//! The formats of disk images.

use crate::shorten;
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// How an image file describes a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ImageFormat {
    /// The bytes of the disk and nothing else.
    Raw,
    /// QEMU's.
    Qcow2,
    /// VMware's: one file, or a descriptor with extents beside it.
    Vmdk,
    /// An appliance: a tar archive of disks and what describes them.
    Ova,
    /// Hyper-V's.
    Vhdx,
    /// Virtual PC's and Azure's; QEMU calls it vpc.
    Vhd,
    /// VirtualBox's.
    Vdi,
}

impl ImageFormat {
    /// All of them.
    pub const ALL: [ImageFormat; 7] = [
        ImageFormat::Raw,
        ImageFormat::Qcow2,
        ImageFormat::Vmdk,
        ImageFormat::Ova,
        ImageFormat::Vhdx,
        ImageFormat::Vhd,
        ImageFormat::Vdi,
    ];
}

impl fmt::Display for ImageFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ImageFormat::Raw => "raw",
            ImageFormat::Qcow2 => "qcow2",
            ImageFormat::Vmdk => "vmdk",
            ImageFormat::Ova => "ova",
            ImageFormat::Vhdx => "vhdx",
            ImageFormat::Vhd => "vhd",
            ImageFormat::Vdi => "vdi",
        })
    }
}

impl FromStr for ImageFormat {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        let name = if s == "vpc" { "vhd" } else { s };
        let mut all = Self::ALL.into_iter();
        all.find(|format| format.to_string() == name)
            .ok_or_else(|| {
                format!(
                    "unknown image format '{}': use raw, qcow2, vmdk, ova, vhdx, vhd or vdi",
                    shorten(s)
                )
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_format_is_read_as_it_is_written() {
        for format in ImageFormat::ALL {
            assert_eq!(format.to_string().parse(), Ok(format));
        }
        assert_eq!("vpc".parse(), Ok(ImageFormat::Vhd));
        assert!("qcow3".parse::<ImageFormat>().is_err());
    }
}
