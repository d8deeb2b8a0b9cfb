//! Snapshots within a qcow2 image, as QEMU has them.
//!
//! Each step writes into clusters that nobody uses and ends with one write of the header. Nobody reads or writes the image meanwhile.

use super::{
    counts::{Counts, recount},
    meta::{COPIED, Meta, be32, be64, damaged, read, read_table, table_bytes},
};
use env::File;
use std::io;

/// Bytes of an entry before what varies.
const FIXED: u64 = 40;
/// Bytes of the extra data that we write: the state of a machine, the disk's size, a count of instructions.
const EXTRA: u32 = 24;
/// The longest table, bytes.
const TABLE_MAX: u64 = 16 << 20;

/// A snapshot of a qcow2 image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// Its number, a text.
    pub id: String,
    /// Its name.
    pub name: String,
    /// The disk's size then, bytes.
    pub size: u64,
    /// When it was taken, seconds since the Unix epoch.
    pub taken_s: u32,
    pub(crate) l1_offset: u64,
    pub(crate) l1_entries: u32,
    /// All of its entry in the table.
    entry: Vec<u8>,
}

impl Snapshot {
    pub(crate) fn encoded_len(&self) -> u64 {
        self.entry.len() as u64
    }

    fn new(id: u64, name: &str, now_s: u32, meta: &Meta, l1_offset: u64) -> Self {
        let id = id.to_string();
        let mut entry = Vec::new();
        entry.extend(l1_offset.to_be_bytes());
        entry.extend(meta.l1_entries.to_be_bytes());
        entry.extend((id.len() as u16).to_be_bytes());
        entry.extend((name.len() as u16).to_be_bytes());
        entry.extend(now_s.to_be_bytes());
        // Nanoseconds, the machine's clock, its state's size.
        entry.extend([0; 4 + 8 + 4]);
        entry.extend(EXTRA.to_be_bytes());
        entry.extend([0; 8]);
        entry.extend(meta.size.to_be_bytes());
        // No count of instructions.
        entry.extend(u64::MAX.to_be_bytes());
        entry.extend(id.as_bytes());
        entry.extend(name.as_bytes());
        entry.resize(entry.len().next_multiple_of(8), 0);
        Snapshot {
            id,
            name: name.to_owned(),
            size: meta.size,
            taken_s: now_s,
            l1_offset,
            l1_entries: meta.l1_entries,
            entry,
        }
    }

    /// The header that shows the disk as it was.
    pub(crate) fn view(&self, meta: &Meta) -> Meta {
        Meta {
            size: self.size,
            l1_offset: self.l1_offset,
            l1_entries: self.l1_entries,
            ..*meta
        }
    }
}

/// The snapshots of an image, in the table's order.
pub(crate) fn list(file: &dyn File, meta: &Meta) -> io::Result<Vec<Snapshot>> {
    let mut at = meta.snapshots_offset;
    let mut all = Vec::new();
    for _ in 0..meta.snapshots {
        if at - meta.snapshots_offset > TABLE_MAX || at > file.len()? {
            return Err(damaged("its table of snapshots is too long"));
        }
        let snapshot = one(file, meta, at)?;
        at += snapshot.encoded_len();
        all.push(snapshot);
    }
    Ok(all)
}

fn one(file: &dyn File, meta: &Meta, at: u64) -> io::Result<Snapshot> {
    let mut fixed = [0; FIXED as usize];
    read(file, at, &mut fixed)?;
    let lens = be32(&fixed, 12);
    let (id_len, name_len) = (u64::from(lens >> 16), u64::from(lens & 0xffff));
    let extra = u64::from(be32(&fixed, 36));
    if extra > 1024 {
        return Err(damaged("an entry of its table of snapshots is too long"));
    }
    let len = (FIXED + extra + id_len + name_len).next_multiple_of(8);
    let mut entry = vec![0; len as usize];
    read(file, at, &mut entry)?;
    let text = |start: u64, len: u64| {
        let bytes = entry
            .get(start as usize..(start + len) as usize)
            .unwrap_or_default();
        String::from_utf8_lossy(bytes).into_owned()
    };
    let snapshot = Snapshot {
        id: text(FIXED + extra, id_len),
        name: text(FIXED + extra + id_len, name_len),
        size: if extra >= 16 {
            be64(&entry, 48)
        } else {
            meta.size
        },
        taken_s: be32(&fixed, 16),
        l1_offset: be64(&fixed, 0),
        l1_entries: be32(&fixed, 8),
        entry,
    };
    let covered = u64::from(snapshot.l1_entries).saturating_mul(meta.l2_covers());
    let sound = snapshot.l1_offset.is_multiple_of(meta.cluster())
        && snapshot.l1_entries <= 4 << 20
        && covered >= snapshot.size;
    match sound {
        true => Ok(snapshot),
        false => Err(damaged(format!(
            "its snapshot '{}' makes no sense",
            snapshot.name
        ))),
    }
}

/// A copy of an L1 table in clusters of its own, without marks.
fn copy_l1(
    file: &dyn File,
    meta: &Meta,
    counts: &mut Counts,
    offset: u64,
    entries: u32,
) -> io::Result<u64> {
    let mut l1 = read_table(file, offset, entries as usize)?;
    l1.iter_mut().for_each(|entry| *entry &= !COPIED);
    let old = super::counts::in_use(file, meta)?;
    let to = counts.take(meta.clusters(u64::from(entries) * 8), &old, None)? << meta.cluster_bits;
    file.write_at(to, &table_bytes(&l1))?;
    Ok(to)
}

/// Writes a table of snapshots; answers the header that refers to it.
fn write_table(
    file: &dyn File,
    meta: &Meta,
    counts: &mut Counts,
    snapshots: &[Snapshot],
) -> io::Result<Meta> {
    let bytes: Vec<u8> = snapshots
        .iter()
        .flat_map(|s| s.entry.iter().copied())
        .collect();
    let mut new = *meta;
    new.snapshots = snapshots.len() as u32;
    new.snapshots_offset = 0;
    if !bytes.is_empty() {
        let old = super::counts::in_use(file, meta)?;
        let clusters = meta.clusters(bytes.len() as u64);
        new.snapshots_offset = counts.take(clusters, &old, None)? << meta.cluster_bits;
        file.write_at(new.snapshots_offset, &bytes)?;
    }
    Ok(new)
}

/// Takes a snapshot of the disk as it is.
pub(crate) fn create(file: &dyn File, meta: &Meta, name: &str, now_s: u32) -> io::Result<Meta> {
    let mut all = list(file, meta)?;
    let mut counts = Counts::of(file, meta, &all)?;
    let id = all
        .iter()
        .filter_map(|s| s.id.parse::<u64>().ok())
        .max()
        .unwrap_or(0)
        + 1;
    let l1 = copy_l1(file, meta, &mut counts, meta.l1_offset, meta.l1_entries)?;
    all.push(Snapshot::new(id, name, now_s, meta, l1));
    let new = write_table(file, meta, &mut counts, &all)?;
    recount(file, &new, &all, Some(&counts))
}

/// Removes one.
pub(crate) fn remove(file: &dyn File, meta: &Meta, name: &str) -> io::Result<Meta> {
    let mut all = list(file, meta)?;
    let mut counts = Counts::of(file, meta, &all)?;
    all.retain(|snapshot| snapshot.name != name);
    let new = write_table(file, meta, &mut counts, &all)?;
    recount(file, &new, &all, Some(&counts))
}

/// Sets the disk back to one.
pub(crate) fn apply(file: &dyn File, meta: &Meta, snapshot: &Snapshot) -> io::Result<Meta> {
    let all = list(file, meta)?;
    let mut counts = Counts::of(file, meta, &all)?;
    let (offset, entries) = (snapshot.l1_offset, snapshot.l1_entries);
    let l1 = copy_l1(file, meta, &mut counts, offset, entries)?;
    let new = Meta {
        l1_offset: l1,
        ..snapshot.view(meta)
    };
    recount(file, &new, &all, Some(&counts))
}

/// Gives the disk another size.
pub(crate) fn resize(file: &dyn File, meta: &Meta, size: u64) -> io::Result<Meta> {
    let all = list(file, meta)?;
    let mut counts = Counts::of(file, meta, &all)?;
    let entries = size.div_ceil(meta.l2_covers()).max(1);
    let entries = u32::try_from(entries).map_err(|_| damaged("it cannot be so large"))?;
    let mut l1 = read_table(file, meta.l1_offset, meta.l1_entries as usize)?;
    l1.resize(entries as usize, 0);
    let old = super::counts::in_use(file, meta)?;
    let to = counts.take(meta.clusters(u64::from(entries) * 8), &old, None)? << meta.cluster_bits;
    file.write_at(to, &table_bytes(&l1))?;
    let new = Meta {
        size,
        l1_offset: to,
        l1_entries: entries,
        ..*meta
    };
    recount(file, &new, &all, Some(&counts))
}
