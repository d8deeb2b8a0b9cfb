//! The header of a qcow2 image: what of it may change, and what we refuse.

use env::File;
use std::io;

/// Bytes of the header that are looked at.
pub(crate) const HEADER_LEN: usize = 104;
/// Where `size`, the active L1 table, the refcount table and the snapshots are: one write of these is within a sector.
pub(crate) const ROOTS: std::ops::Range<usize> = 24..72;
/// The byte of the incompatible features that has the dirty bit.
const FEATURES: usize = 72;
const AUTOCLEAR: usize = 88;
const DIRTY: u64 = 1;
/// The largest L1 table, entries: QEMU's limit.
const L1_MAX: u32 = 4 << 20;
const SNAPSHOTS_MAX: u32 = 65_536;
const BITMAPS: u32 = 0x2385_2875;

/// Where in the file an L1 or L2 entry points to.
pub(crate) const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;
/// What an entry points to has a reference count of one.
pub(crate) const COPIED: u64 = 1 << 63;
pub(crate) const COMPRESSED: u64 = 1 << 62;

/// A header that makes sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Meta {
    pub(crate) cluster_bits: u32,
    /// Bytes of the disk.
    pub(crate) size: u64,
    pub(crate) l1_entries: u32,
    pub(crate) l1_offset: u64,
    pub(crate) refcounts_offset: u64,
    pub(crate) refcounts_clusters: u32,
    pub(crate) snapshots: u32,
    pub(crate) snapshots_offset: u64,
    /// The reference counts may be wrong: it was not closed.
    pub(crate) dirty: bool,
    pub(crate) autoclear: bool,
}

pub(crate) fn damaged(why: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why.into())
}

fn refused(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::Unsupported, why)
}

/// A number at a place of a buffer that is long enough.
pub(crate) fn be32(bytes: &[u8], at: usize) -> u32 {
    bytes
        .get(at..at + 4)
        .and_then(|b| b.try_into().ok())
        .map_or(0, u32::from_be_bytes)
}

/// As [`be32`].
pub(crate) fn be64(bytes: &[u8], at: usize) -> u64 {
    bytes
        .get(at..at + 8)
        .and_then(|b| b.try_into().ok())
        .map_or(0, u64::from_be_bytes)
}

/// Reads what there is; beyond the file's end are zeroes.
pub(crate) fn read(file: &dyn File, offset: u64, buf: &mut [u8]) -> io::Result<()> {
    let there = file.len()?.saturating_sub(offset).min(buf.len() as u64) as usize;
    file.read_at(offset, &mut buf[..there])?;
    buf[there..].fill(0);
    Ok(())
}

/// Entries of a table.
pub(crate) fn read_table(file: &dyn File, offset: u64, entries: usize) -> io::Result<Vec<u64>> {
    let mut bytes = vec![0; entries * 8];
    read(file, offset, &mut bytes)?;
    Ok((0..entries).map(|index| be64(&bytes, index * 8)).collect())
}

pub(crate) fn table_bytes(entries: &[u64]) -> Vec<u8> {
    entries
        .iter()
        .flat_map(|entry| entry.to_be_bytes())
        .collect()
}

impl Meta {
    /// Reads and checks the header.
    ///
    /// # Errors
    /// `InvalidData` if it makes no sense, `Unsupported` if it asks for what is not done in place.
    pub(crate) fn read(file: &dyn File) -> io::Result<Meta> {
        let mut bytes = [0; HEADER_LEN];
        read(file, 0, &mut bytes)?;
        if !bytes.starts_with(b"QFI\xfb") {
            return Err(damaged("it is no qcow2 image"));
        }
        match be32(&bytes, 4) {
            3 => {}
            2 => {
                return Err(refused(
                    "it is a qcow2 image of the old kind: 'qemu-img amend -o compat=1.1' makes it a new one",
                ));
            }
            version => return Err(damaged(format!("it is of qcow2 version {version}"))),
        }
        check_features(be64(&bytes, FEATURES))?;
        if be64(&bytes, 8) != 0 {
            return Err(refused(
                "it has a backing file: 'qemu-img rebase -b \"\"' takes in what it has of it",
            ));
        }
        if be32(&bytes, 32) != 0 {
            return Err(refused("it is encrypted"));
        }
        if be32(&bytes, 96) != 4 {
            return Err(refused("its reference counts are not of 16 bits"));
        }
        let meta = Meta {
            cluster_bits: be32(&bytes, 20),
            size: be64(&bytes, 24),
            l1_entries: be32(&bytes, 36),
            l1_offset: be64(&bytes, 40),
            refcounts_offset: be64(&bytes, 48),
            refcounts_clusters: be32(&bytes, 56),
            snapshots: be32(&bytes, 60),
            snapshots_offset: be64(&bytes, 64),
            dirty: be64(&bytes, FEATURES) & DIRTY != 0,
            autoclear: be64(&bytes, AUTOCLEAR) != 0,
        };
        meta.check()?;
        meta.check_extensions(file, u64::from(be32(&bytes, 100)))?;
        Ok(meta)
    }

    fn check(&self) -> io::Result<()> {
        if !(9..=21).contains(&self.cluster_bits) {
            return Err(damaged(format!(
                "its clusters have 2^{} bytes",
                self.cluster_bits
            )));
        }
        let aligned = |offset: u64| offset.is_multiple_of(self.cluster()) && offset < 1 << 56;
        if ![self.l1_offset, self.refcounts_offset, self.snapshots_offset]
            .into_iter()
            .all(aligned)
        {
            return Err(damaged("a table does not begin with a cluster"));
        }
        let covered = u64::from(self.l1_entries).saturating_mul(self.l2_covers());
        if self.l1_entries > L1_MAX || covered < self.size {
            return Err(damaged("its L1 table does not fit its size"));
        }
        if self.snapshots > SNAPSHOTS_MAX {
            return Err(damaged(format!("it has {} snapshots", self.snapshots)));
        }
        Ok(())
    }

    fn check_extensions(&self, file: &dyn File, header_len: u64) -> io::Result<()> {
        let mut at = header_len;
        while at + 8 <= self.cluster() {
            let mut head = [0; 8];
            read(file, at, &mut head)?;
            match be32(&head, 0) {
                0 => return Ok(()),
                BITMAPS => {
                    return Err(refused(
                        "it has dirty bitmaps: 'qemu-img bitmap --remove' takes them away",
                    ));
                }
                _ => at += 8 + u64::from(be32(&head, 4)).next_multiple_of(8),
            }
        }
        Ok(())
    }

    pub(crate) fn cluster(&self) -> u64 {
        1 << self.cluster_bits
    }

    /// Entries of an L2 table.
    pub(crate) fn l2_entries(&self) -> usize {
        (self.cluster() / 8) as usize
    }

    /// Bytes of the disk that an L2 table is about.
    pub(crate) fn l2_covers(&self) -> u64 {
        self.cluster() * self.cluster() / 8
    }

    /// Clusters of so many bytes.
    pub(crate) fn clusters(&self, bytes: u64) -> u64 {
        bytes.div_ceil(self.cluster())
    }

    /// What [`ROOTS`] has.
    pub(crate) fn roots(&self) -> [u8; 48] {
        let mut bytes = [0; 48];
        bytes[0..8].copy_from_slice(&self.size.to_be_bytes());
        bytes[12..16].copy_from_slice(&self.l1_entries.to_be_bytes());
        bytes[16..24].copy_from_slice(&self.l1_offset.to_be_bytes());
        bytes[24..32].copy_from_slice(&self.refcounts_offset.to_be_bytes());
        bytes[32..36].copy_from_slice(&self.refcounts_clusters.to_be_bytes());
        bytes[36..40].copy_from_slice(&self.snapshots.to_be_bytes());
        bytes[40..48].copy_from_slice(&self.snapshots_offset.to_be_bytes());
        bytes
    }

    /// Makes these tables the image's, at once; durable when it returns, with all that was written before.
    pub(crate) fn commit(&self, file: &dyn File) -> io::Result<()> {
        file.sync_data()?;
        file.write_at(ROOTS.start as u64, &self.roots())?;
        file.sync_data()
    }
}

fn check_features(features: u64) -> io::Result<()> {
    match features & !DIRTY {
        0 => Ok(()),
        f if f & 2 != 0 => Err(damaged(
            "it is marked as corrupt: 'qemu-img check -r all' repairs it",
        )),
        f if f & 4 != 0 => Err(refused("its data are in another file")),
        f if f & 8 != 0 => Err(refused(
            "it has clusters compressed by zstd: 'qemu-img convert' makes one without",
        )),
        f if f & 16 != 0 => Err(refused(
            "it has extended L2 entries: 'qemu-img convert' makes one without",
        )),
        _ => Err(refused("it has features that are not known")),
    }
}

/// Notes in the image that its reference counts cannot be relied on, or that they can; durable.
pub(crate) fn set_dirty(file: &dyn File, dirty: bool) -> io::Result<()> {
    let mut bytes = [0; 24];
    file.read_at(FEATURES as u64, &mut bytes)?;
    let features = match dirty {
        true => be64(&bytes, 0) | DIRTY,
        false => be64(&bytes, 0) & !DIRTY,
    };
    bytes[..8].copy_from_slice(&features.to_be_bytes());
    // Who writes must clear what it does not keep up.
    bytes[16..].fill(0);
    file.write_at(FEATURES as u64, &bytes)?;
    file.sync_data()
}

/// The header's bytes as a reader shall see them: clean, with these tables.
pub(crate) fn patched(bytes: &mut [u8; HEADER_LEN], view: &Meta) {
    bytes[ROOTS].copy_from_slice(&view.roots());
    bytes[FEATURES + 7] &= !(DIRTY as u8);
}
