//! The header, its extensions, and the list of internal snapshots ("docs/interop/qcow2.rst" of QEMU).

use crate::{error::Error, source::Source};

/// The header, its extensions and the backing file's name lie within so many bytes.
const HEAD_MAX: usize = 64 << 10;
const HEADER_V2_LEN: usize = 72;
const HEADER_V3_LEN: usize = 104;
const SNAPSHOTS_MAX: u32 = 4096;
/// An entry of the list of snapshots: what is fixed of it, and all that its other parts may have together.
const SNAPSHOT_LEN: u64 = 40;
const SNAPSHOT_MAX: usize = 8 << 10;

const DIRTY: u64 = 1 << 0;
const CORRUPT: u64 = 1 << 1;
const DATA_FILE: u64 = 1 << 2;
const COMPRESSION_TYPE: u64 = 1 << 3;
const EXTENDED_L2: u64 = 1 << 4;

const EXTENSION_DATA_FILE: u32 = 0x4441_5441;

/// How clusters are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Compression {
    Zlib,
    Zstd,
}

/// What the header says, as far as reading needs it.
#[derive(Clone, Debug)]
pub(super) struct Header {
    pub(super) version: u32,
    pub(super) cluster_bits: u32,
    pub(super) extended_l2: bool,
    pub(super) compression: Compression,
    pub(super) l1: L1,
    pub(super) backing_file: Option<String>,
    /// Some, if the data is in another file: its name, as far as there is one.
    pub(super) data_file: Option<String>,
    snapshots_offset: u64,
    snapshots: u32,
}

/// Where the table of tables of a disk is, and how large the disk is.
#[derive(Clone, Copy, Debug)]
pub(super) struct L1 {
    pub(super) offset: u64,
    pub(super) entries: u32,
    pub(super) disk_size: u64,
}

/// A snapshot in an image.
#[derive(Clone, Debug)]
pub struct InternalSnapshot {
    /// What the image calls it: a number, as a rule.
    pub id: String,
    /// What people call it; maybe empty, and not always unique.
    pub name: String,
    /// When it was taken, milliseconds since the Unix epoch.
    pub created_ms: u64,
    pub(super) l1: L1,
}

impl InternalSnapshot {
    /// Bytes of the disk, then.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.l1.disk_size
    }
}

/// Big-endian numbers of a table that was read whole; beyond its end there are zeroes.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn u16(&self, at: usize) -> u16 {
        self.get(at).map_or(0, u16::from_be_bytes)
    }

    fn u32(&self, at: usize) -> u32 {
        self.get(at).map_or(0, u32::from_be_bytes)
    }

    fn u64(&self, at: usize) -> u64 {
        self.get(at).map_or(0, u64::from_be_bytes)
    }

    fn get<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
        self.0.get(at..)?.first_chunk().copied()
    }

    fn text(&self, at: usize, len: usize) -> Option<String> {
        let bytes = self.0.get(at..at.checked_add(len)?)?;
        Some(String::from_utf8_lossy(bytes).into_owned())
    }
}

impl Header {
    pub(super) fn read(source: &Source) -> Result<Self, Error> {
        let head = source.head(HEAD_MAX)?;
        let fields = Fields(&head);
        let refuse = |what: String| Err(source.damaged(0, what));
        if head.len() < HEADER_V2_LEN || !head.starts_with(b"QFI\xfb") {
            return refuse("not a qcow2 image".into());
        }
        let version = fields.u32(4);
        if !(2..=3).contains(&version) || version == 3 && head.len() < HEADER_V3_LEN {
            return refuse(format!("qcow2 of version {version} cannot be read"));
        }
        let features = if version == 3 { fields.u64(72) } else { 0 };
        check_features(source, features)?;
        if fields.u32(32) != 0 {
            return refuse("the image is encrypted; decrypt it first with qemu-img convert".into());
        }
        let cluster_bits = fields.u32(20);
        let extended_l2 = features & EXTENDED_L2 != 0;
        if !(if extended_l2 { 14 } else { 9 }..=21).contains(&cluster_bits) {
            return refuse(format!("clusters of 2^{cluster_bits} bytes"));
        }
        Ok(Header {
            version,
            cluster_bits,
            extended_l2,
            compression: compression(source, features, &fields)?,
            l1: L1 {
                offset: fields.u64(40),
                entries: fields.u32(36),
                disk_size: fields.u64(24),
            },
            backing_file: backing_file(source, &fields)?,
            data_file: (features & DATA_FILE != 0)
                .then(|| extension(&fields, EXTENSION_DATA_FILE).unwrap_or_default()),
            snapshots_offset: fields.u64(64),
            snapshots: fields.u32(60),
        })
    }

    /// The list of internal snapshots.
    pub(super) fn snapshots(&self, source: &Source) -> Result<Vec<InternalSnapshot>, Error> {
        let mut at = self.snapshots_offset;
        if self.snapshots > SNAPSHOTS_MAX {
            let what = format!("{} snapshots, over {SNAPSHOTS_MAX}", self.snapshots);
            return Err(source.damaged(60, what));
        }
        let mut snapshots = Vec::new();
        for _ in 0..self.snapshots {
            let fixed = source.bytes(at, SNAPSHOT_LEN, SNAPSHOT_MAX)?;
            let fields = Fields(&fixed);
            let (id, name) = (usize::from(fields.u16(12)), usize::from(fields.u16(14)));
            let extra = fields.u32(36) as usize;
            let len = SNAPSHOT_LEN as usize + extra.saturating_add(id + name);
            let all = source.bytes(at, len as u64, SNAPSHOT_MAX)?;
            let fields = Fields(&all);
            let texts = SNAPSHOT_LEN as usize + extra;
            snapshots.push(InternalSnapshot {
                id: fields.text(texts, id).unwrap_or_default(),
                name: fields.text(texts + id, name).unwrap_or_default(),
                created_ms: u64::from(fields.u32(16)) * 1000
                    + u64::from(fields.u32(20)) / 1_000_000,
                l1: L1 {
                    offset: fields.u64(0),
                    entries: fields.u32(8),
                    disk_size: if extra >= 16 {
                        fields.u64(48)
                    } else {
                        self.l1.disk_size
                    },
                },
            });
            at = at.saturating_add((len as u64).next_multiple_of(8));
        }
        Ok(snapshots)
    }
}

fn check_features(source: &Source, features: u64) -> Result<(), Error> {
    let refuse = |what: String| Err(source.damaged(72, what));
    if features & CORRUPT != 0 {
        return refuse("the image is marked as corrupt; see qemu-img check".into());
    }
    match features & !(DIRTY | DATA_FILE | COMPRESSION_TYPE | EXTENDED_L2) {
        0 => Ok(()),
        unknown => refuse(format!("features {unknown:#x} are not known")),
    }
}

fn compression(source: &Source, features: u64, fields: &Fields<'_>) -> Result<Compression, Error> {
    let has_field = fields.u32(100) as usize > HEADER_V3_LEN;
    if features & COMPRESSION_TYPE == 0 || !has_field {
        return Ok(Compression::Zlib);
    }
    match fields.0.get(HEADER_V3_LEN) {
        Some(0) => Ok(Compression::Zlib),
        Some(1) => Ok(Compression::Zstd),
        other => Err(source.damaged(104, format!("compression {other:?} is not known"))),
    }
}

fn backing_file(source: &Source, fields: &Fields<'_>) -> Result<Option<String>, Error> {
    let (offset, len) = (fields.u64(8), fields.u32(16));
    if offset == 0 || len == 0 {
        return Ok(None);
    }
    let text = usize::try_from(offset).ok();
    let text = text.filter(|_| len <= 1023);
    let text = text.and_then(|offset| fields.text(offset, len as usize));
    text.map(Some)
        .ok_or_else(|| source.damaged(8, "the backing file's name does not lie in the header"))
}

/// The text of a header extension.
fn extension(fields: &Fields<'_>, wanted: u32) -> Option<String> {
    let mut at = if fields.u32(4) == 2 {
        HEADER_V2_LEN
    } else {
        fields.u32(100) as usize
    };
    // Each step goes on: by what is in the file, if that is nothing by 8.
    while at + 8 <= fields.0.len() {
        let (kind, len) = (fields.u32(at), fields.u32(at + 4) as usize);
        match kind {
            0 => return None,
            kind if kind == wanted => return fields.text(at + 8, len),
            _ => at = at.saturating_add(8).saturating_add(len.next_multiple_of(8)),
        }
    }
    None
}
