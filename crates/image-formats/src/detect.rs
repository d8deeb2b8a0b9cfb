//! What an image is, by its content.

use crate::{error::Error, source::Source};
use types::ImageFormat;

/// How many bytes of the beginning are looked at.
pub const HEAD_LEN: usize = 512;
/// A fixed VHD is a raw image with this much behind it.
const FOOTER_LEN: u64 = 512;
const VHD: &[u8] = b"conectix";

/// What the first bytes say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detected {
    /// An image that can be read.
    Format(ImageFormat),
    /// Something else that is known, and certainly no disk.
    Foreign(Foreign),
}

/// Something that is no image that we read, and how people get one out of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Foreign {
    name: &'static str,
    way_out: WayOut,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum WayOut {
    /// qemu-img reads it.
    Convert,
    /// The command, to be followed by the file.
    Unpack(&'static str),
}

struct Magic {
    offset: usize,
    bytes: &'static [u8],
    is: Detected,
}

const fn image(offset: usize, bytes: &'static [u8], format: ImageFormat) -> Magic {
    let is = Detected::Format(format);
    Magic { offset, bytes, is }
}

const fn foreign(bytes: &'static [u8], name: &'static str, way_out: WayOut) -> Magic {
    let is = Detected::Foreign(Foreign { name, way_out });
    let offset = 0;
    Magic { offset, bytes, is }
}

const fn packed(bytes: &'static [u8], name: &'static str, command: &'static str) -> Magic {
    foreign(bytes, name, WayOut::Unpack(command))
}

const MAGICS: [Magic; 15] = [
    image(0, b"QFI\xfb", ImageFormat::Qcow2),
    image(0, b"KDMV", ImageFormat::Vmdk),
    image(0, b"# Disk DescriptorFile", ImageFormat::Vmdk),
    image(0, b"vhdxfile", ImageFormat::Vhdx),
    image(0, VHD, ImageFormat::Vhd),
    image(64, b"\x7f\x10\xda\xbe", ImageFormat::Vdi),
    image(257, b"ustar", ImageFormat::Ova),
    foreign(b"QED\0", "a QED image", WayOut::Convert),
    foreign(b"COWD", "an ESX 3 VMDK image", WayOut::Convert),
    packed(b"\x1f\x8b\x08", "gzip-compressed data", "gzip -dk"),
    packed(b"\xfd7zXZ\0", "xz-compressed data", "xz -dk"),
    packed(b"\x28\xb5\x2f\xfd", "zstd-compressed data", "zstd -d"),
    packed(b"\x04\x22\x4d\x18", "LZ4-compressed data", "lz4 -d"),
    packed(b"BZh91AY&SY", "bzip2-compressed data", "bzip2 -dk"),
    packed(b"PK\x03\x04", "a zip archive", "unzip"),
];

/// What an image is by its first bytes: raw, if nothing is known of them.
#[must_use]
pub fn by_head(head: &[u8]) -> Detected {
    let begins = |m: &&Magic| {
        head.get(m.offset..)
            .is_some_and(|at| at.starts_with(m.bytes))
    };
    let found = MAGICS.iter().find(begins);
    found.map_or(Detected::Format(ImageFormat::Raw), |magic| magic.is)
}

/// What a file is by its first and its last bytes.
///
/// # Errors
/// If it cannot be read, or is known to be no disk.
pub fn detect(source: &Source) -> Result<ImageFormat, Error> {
    match by_head(&source.head(HEAD_LEN)?) {
        Detected::Format(ImageFormat::Raw) => {}
        Detected::Format(format) => return Ok(format),
        Detected::Foreign(foreign) => return Err(foreign.refuse(Some(source.shown()))),
    }
    if let Some(footer) = source.len().checked_sub(FOOTER_LEN) {
        let mut bytes = [0; VHD.len()];
        source.read_at(footer, &mut bytes)?;
        if bytes == VHD {
            return Ok(ImageFormat::Vhd);
        }
    }
    Ok(ImageFormat::Raw)
}

impl Foreign {
    /// The refusal of `image`: a path, or none for a stream.
    #[must_use]
    pub fn refuse(self, image: Option<&str>) -> Error {
        let Foreign { name, way_out } = self;
        let shown = image.unwrap_or("the stream");
        let file = image.unwrap_or("IMAGE");
        Error::invalid(match way_out {
            WayOut::Convert => format!(
                "{shown} looks like {name}; convert it first: \
                 qemu-img convert -O qcow2 {file} {file}.qcow2"
            ),
            WayOut::Unpack(command) => {
                format!("{shown} looks like {name}, not a disk; unpack it first: {command} {file}")
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_magic_is_found_and_short_heads_are_raw() {
        let raw = Detected::Format(ImageFormat::Raw);
        for magic in &MAGICS {
            let mut head = [0; HEAD_LEN];
            head[magic.offset..][..magic.bytes.len()].copy_from_slice(magic.bytes);
            assert_eq!(by_head(&head), magic.is);
            head[magic.offset + magic.bytes.len() - 1] ^= 1;
            assert_eq!(by_head(&head), raw);
            assert_eq!(by_head(&head[..magic.offset]), raw);
        }
        assert_eq!(by_head(&[]), raw);
    }

    #[test]
    fn a_refusal_names_the_way_out() {
        let of = |head: &[u8], image| match by_head(head) {
            Detected::Foreign(foreign) => foreign.refuse(image).to_string(),
            Detected::Format(format) => panic!("{format}"),
        };
        assert_eq!(
            of(b"QED\0", Some("/i/x.img")),
            "/i/x.img looks like a QED image; convert it first: \
             qemu-img convert -O qcow2 /i/x.img /i/x.img.qcow2"
        );
        assert_eq!(
            of(b"\x1f\x8b\x08", None),
            "the stream looks like gzip-compressed data, not a disk; unpack it first: gzip -dk IMAGE"
        );
    }
}
