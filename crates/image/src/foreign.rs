//! Formats that are not raw, by their first bytes.

use crate::error::Error;

/// How many bytes of the beginning are looked at.
pub(crate) const HEAD_LEN: usize = 512;
/// A fixed VHD is a raw image with this much behind it.
pub(crate) const FOOTER_LEN: usize = 512;

/// A format and how people get a raw image out of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Foreign {
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
    foreign: Foreign,
}

const fn disk(offset: usize, bytes: &'static [u8], name: &'static str) -> Magic {
    let way_out = WayOut::Convert;
    let foreign = Foreign { name, way_out };
    Magic {
        offset,
        bytes,
        foreign,
    }
}

const fn packed(
    offset: usize,
    bytes: &'static [u8],
    name: &'static str,
    command: &'static str,
) -> Magic {
    let way_out = WayOut::Unpack(command);
    let foreign = Foreign { name, way_out };
    Magic {
        offset,
        bytes,
        foreign,
    }
}

const MAGICS: [Magic; 15] = [
    disk(0, b"QFI\xfb", "a qcow2 image"),
    disk(0, b"QED\0", "a QED image"),
    disk(0, b"KDMV", "a VMDK image"),
    disk(0, b"COWD", "a VMDK image"),
    disk(0, b"# Disk DescriptorFile", "a VMDK descriptor"),
    disk(0, b"vhdxfile", "a VHDX image"),
    disk(0, b"conectix", "a VHD image"),
    disk(64, b"\x7f\x10\xda\xbe", "a VDI image"),
    packed(257, b"ustar", "an OVA or tar archive", "tar -xf"),
    packed(0, b"\x1f\x8b\x08", "gzip-compressed data", "gzip -dk"),
    packed(0, b"\xfd7zXZ\0", "xz-compressed data", "xz -dk"),
    packed(0, b"\x28\xb5\x2f\xfd", "zstd-compressed data", "zstd -d"),
    packed(0, b"\x04\x22\x4d\x18", "LZ4-compressed data", "lz4 -d"),
    packed(0, b"BZh91AY&SY", "bzip2-compressed data", "bzip2 -dk"),
    packed(0, b"PK\x03\x04", "a zip archive", "unzip"),
];

/// What an image is by its first bytes, unless it may be raw.
pub(crate) fn by_head(head: &[u8]) -> Option<Foreign> {
    let begins = |m: &&Magic| {
        head.get(m.offset..)
            .is_some_and(|at| at.starts_with(m.bytes))
    };
    MAGICS.iter().find(begins).map(|magic| magic.foreign)
}

/// What an image is by its last bytes, unless it may be raw.
pub(crate) fn by_footer(footer: &[u8]) -> Option<Foreign> {
    footer.starts_with(b"conectix").then_some(Foreign {
        name: "a VHD image",
        way_out: WayOut::Convert,
    })
}

impl Foreign {
    /// The refusal of `image`: a path, or none for a stream.
    pub(crate) fn refuse(self, image: Option<&str>) -> Error {
        let Foreign { name, way_out } = self;
        let shown = image.unwrap_or("the stream");
        let file = image.unwrap_or("IMAGE");
        Error::invalid(match way_out {
            WayOut::Convert => format!(
                "{shown} looks like {name}, not raw; convert it first: \
                 qemu-img convert -O raw {file} {file}.raw"
            ),
            WayOut::Unpack(command) => {
                format!("{shown} looks like {name}, not raw; unpack it first: {command} {file}")
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_magic_is_found_and_short_heads_are_raw() {
        for magic in &MAGICS {
            let mut head = [0; HEAD_LEN];
            head[magic.offset..][..magic.bytes.len()].copy_from_slice(magic.bytes);
            assert_eq!(by_head(&head).map(|f| f.name), Some(magic.foreign.name));
            head[magic.offset + magic.bytes.len() - 1] ^= 1;
            assert_eq!(by_head(&head), None);
            assert_eq!(by_head(&head[..magic.offset]), None);
        }
        assert_eq!(by_head(&[]), None);
    }

    #[test]
    fn a_refusal_names_the_way_out() {
        let of = |head: &[u8], image| by_head(head).unwrap().refuse(image).to_string();
        assert_eq!(
            of(b"QFI\xfb", Some("/i/x.img")),
            "/i/x.img looks like a qcow2 image, not raw; convert it first: \
             qemu-img convert -O raw /i/x.img /i/x.img.raw"
        );
        assert_eq!(
            of(b"\x1f\x8b\x08", None),
            "the stream looks like gzip-compressed data, not raw; unpack it first: gzip -dk IMAGE"
        );
    }
}
