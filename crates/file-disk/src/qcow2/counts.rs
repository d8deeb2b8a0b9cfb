//! Who refers to which cluster of a qcow2 image, counted anew from its tables.
//!
//! What the image has of counts is only trusted while it is clean. After a crash, and for snapshots, they are counted and written into clusters that nobody
//! uses; one write of the header makes them the image's.

use super::{
    meta::{COMPRESSED, COPIED, Meta, OFFSET, damaged, read_table, table_bytes},
    snapshots::Snapshot,
};
use env::File;
use std::{collections::BTreeMap, io, ops::Range};

/// Counters in a page.
const PAGE: u64 = 4096;
/// Clusters of a file at most: 128 TiB of the usual ones.
const CLUSTERS_MAX: u64 = 1 << 31;

/// Reference counts, of clusters by number.
pub(crate) struct Counts {
    pages: BTreeMap<u64, Box<[u16]>>,
    /// Behind the last cluster that is used or in the file.
    end: u64,
    /// Behind the last cluster of the file: nothing that is referred to lies beyond.
    limit: u64,
}

impl Counts {
    pub(crate) fn get(&self, cluster: u64) -> u16 {
        let page = self.pages.get(&(cluster / PAGE));
        page.and_then(|page| page.get((cluster % PAGE) as usize))
            .copied()
            .unwrap_or(0)
    }

    fn add(&mut self, cluster: u64) -> io::Result<u16> {
        let page = self
            .pages
            .entry(cluster / PAGE)
            .or_insert_with(|| vec![0; PAGE as usize].into_boxed_slice());
        let count = &mut page[(cluster % PAGE) as usize];
        *count = count
            .checked_add(1)
            .ok_or_else(|| damaged("a cluster is used too often"))?;
        self.end = self.end.max(cluster + 1);
        Ok(*count)
    }

    /// Counts a reference that the image has.
    fn refer(&mut self, cluster: u64) -> io::Result<u16> {
        if cluster >= self.limit {
            return Err(damaged(format!(
                "its tables point beyond its end, to cluster {cluster}"
            )));
        }
        self.add(cluster)
    }

    fn add_range(&mut self, meta: &Meta, offset: u64, bytes: u64) -> io::Result<()> {
        let first = offset >> meta.cluster_bits;
        let end = offset.checked_add(bytes).map(|end| meta.clusters(end));
        for cluster in first..end.ok_or_else(|| damaged("a table is too long"))? {
            self.refer(cluster)?;
        }
        Ok(())
    }

    /// The first clusters in a row, `count` of them, that nobody refers to; counted as used from now on. Left alone is what `avoid` says, and
    /// what `busy` says is used until the next commit.
    pub(crate) fn take(
        &mut self,
        count: u64,
        avoid: &[Range<u64>],
        busy: Option<&Counts>,
    ) -> io::Result<u64> {
        let (mut start, mut at) = (1, 1);
        while at < start + count {
            let avoided = avoid.iter().any(|range| range.contains(&at))
                || busy.is_some_and(|busy| busy.get(at) != 0);
            if avoided || self.get(at) != 0 {
                start = at + 1;
            }
            at += 1;
        }
        for cluster in start..start + count {
            self.add(cluster)?;
        }
        Ok(start)
    }

    /// Counts all references, those of the counts themselves left out.
    ///
    /// # Errors
    /// `InvalidData` if tables overlap or make no sense.
    pub(crate) fn of(file: &dyn File, meta: &Meta, snapshots: &[Snapshot]) -> io::Result<Counts> {
        let end = meta.clusters(file.len()?);
        if end > CLUSTERS_MAX {
            return Err(damaged(format!(
                "it has {end} clusters: 'qemu-img convert' makes it a shorter one"
            )));
        }
        let mut counts = Counts {
            pages: BTreeMap::new(),
            end,
            limit: end,
        };
        counts.refer(0)?;
        counts.tree(file, meta, meta.l1_offset, meta.l1_entries, true)?;
        for snapshot in snapshots {
            counts.tree(file, meta, snapshot.l1_offset, snapshot.l1_entries, false)?;
        }
        if meta.snapshots > 0 {
            let bytes = snapshots.iter().map(Snapshot::encoded_len).sum();
            counts.add_range(meta, meta.snapshots_offset, bytes)?;
        }
        if counts.get(0) != 1 {
            return Err(damaged("something lies over its header"));
        }
        Ok(counts)
    }

    fn tree(
        &mut self,
        file: &dyn File,
        meta: &Meta,
        offset: u64,
        entries: u32,
        active: bool,
    ) -> io::Result<()> {
        self.add_range(meta, offset, u64::from(entries) * 8)?;
        let twice = || damaged("two of its clusters are one: 'qemu-img check' tells more");
        for l1 in read_table(file, offset, entries as usize)? {
            let l2_offset = l1 & OFFSET;
            if l2_offset == 0 {
                continue;
            }
            if !l2_offset.is_multiple_of(meta.cluster()) || l2_offset >= file.len()? {
                return Err(damaged(format!(
                    "an L2 table is said to be at byte {l2_offset}"
                )));
            }
            if self.refer(l2_offset >> meta.cluster_bits)? > 1 && active {
                return Err(twice());
            }
            for l2 in read_table(file, l2_offset, meta.l2_entries())? {
                if l2 & COMPRESSED != 0 {
                    let (start, bytes) = compressed(meta, l2);
                    self.add_range(meta, start, bytes)?;
                } else if l2 & OFFSET != 0 {
                    if !(l2 & OFFSET).is_multiple_of(meta.cluster()) {
                        return Err(damaged(format!(
                            "a cluster is said to be at byte {}",
                            l2 & OFFSET
                        )));
                    }
                    if self.refer((l2 & OFFSET) >> meta.cluster_bits)? > 1 && active {
                        return Err(twice());
                    }
                }
            }
        }
        Ok(())
    }

    /// Writes the counts into clusters that nobody uses; answers the header that refers to them, for
    /// [`Meta::commit`].
    pub(crate) fn write(
        &mut self,
        file: &dyn File,
        meta: &Meta,
        busy: Option<&Counts>,
    ) -> io::Result<Meta> {
        let old = in_use(file, meta)?;
        let per_block = meta.cluster() / 2;
        // Blocks and table are counted themselves, which may take some more of them.
        let others = old.iter().map(|range| range.end).max().unwrap_or(0);
        let end = self.end.max(others).max(busy.map_or(0, |busy| busy.end));
        let known = self.blocks(per_block).len() as u64;
        let spare = 4 + 2 * known / per_block;
        let table = meta.clusters((end + known + spare).div_ceil(per_block) * 8 + 64);
        let first = self.take(known + spare + table, &old, busy)?;
        let offset = |index: u64| (first + index) << meta.cluster_bits;
        let blocks = self.blocks(per_block);
        let used = blocks.len() as u64;
        for unused in first + used + table..first + known + spare + table {
            self.release(unused);
        }
        let mut entries = vec![0; (table * meta.cluster() / 8) as usize];
        for (index, block) in (0..).zip(blocks) {
            let counts: Vec<u8> = (block * per_block..(block + 1) * per_block)
                .flat_map(|cluster| self.get(cluster).to_be_bytes())
                .collect();
            file.write_at(offset(index), &counts)?;
            let entry = entries.get_mut(block as usize);
            *entry.ok_or_else(|| damaged("its counts do not fit"))? = offset(index);
        }
        file.write_at(offset(used), &table_bytes(&entries))?;
        Ok(Meta {
            refcounts_offset: offset(used),
            refcounts_clusters: table as u32,
            ..*meta
        })
    }

    /// Blocks of so many counts, by number, in which anything is counted.
    fn blocks(&self, per_block: u64) -> Vec<u64> {
        let mut blocks: Vec<u64> = Vec::new();
        for page in self.pages.keys() {
            let (first, last) = (page * PAGE / per_block, ((page + 1) * PAGE - 1) / per_block);
            for block in first..=last {
                let counted =
                    (block * per_block..(block + 1) * per_block).any(|c| self.get(c) != 0);
                if counted && blocks.last() != Some(&block) {
                    blocks.push(block);
                }
            }
        }
        blocks
    }

    fn release(&mut self, cluster: u64) {
        if let Some(page) = self.pages.get_mut(&(cluster / PAGE)) {
            page[(cluster % PAGE) as usize] = 0;
        }
    }

    /// Gives back the storage of clusters that nobody refers to.
    pub(crate) fn punch_free(&self, file: &dyn File, meta: &Meta) -> io::Result<()> {
        let mut start = 0;
        for cluster in 0..=self.end {
            if cluster == self.end || self.get(cluster) != 0 {
                if start < cluster {
                    let (offset, len) = (
                        start << meta.cluster_bits,
                        (cluster - start) << meta.cluster_bits,
                    );
                    crate::raw::make_zero(file, offset, len)?;
                }
                start = cluster + 1;
            }
        }
        Ok(())
    }

    /// Makes the marks of the active tables say what the counts do. `clear` only takes away marks, which is right before
    /// as well as after the counts are the image's.
    pub(crate) fn mark(&self, file: &dyn File, meta: &Meta, clear: bool) -> io::Result<()> {
        let mut l1 = read_table(file, meta.l1_offset, meta.l1_entries as usize)?;
        let wanted = |entry: u64| {
            let is_one = self.get((entry & OFFSET) >> meta.cluster_bits) == 1;
            match is_one && entry & COMPRESSED == 0 && entry & OFFSET != 0 {
                true if clear => entry,
                true => entry | COPIED,
                false => entry & !COPIED,
            }
        };
        for entry in &mut l1 {
            let offset = *entry & OFFSET;
            // A table that a snapshot shares has no marks already.
            if offset != 0 {
                let l2 = read_table(file, offset, meta.l2_entries())?;
                let marked: Vec<u64> = l2.iter().map(|&entry| wanted(entry)).collect();
                if marked != l2 {
                    file.write_at(offset, &table_bytes(&marked))?;
                }
            }
            *entry = wanted(*entry);
        }
        file.write_at(meta.l1_offset, &table_bytes(&l1))
    }
}

/// Where the data of a compressed cluster may be: offset and bytes.
fn compressed(meta: &Meta, entry: u64) -> (u64, u64) {
    let bits = 62 - (meta.cluster_bits - 8);
    let descriptor = entry & 0x3fff_ffff_ffff_ffff;
    let offset = descriptor & ((1 << bits) - 1) & 0x00ff_ffff_ffff_ffff;
    let sectors = descriptor >> bits;
    (offset, (sectors + 1) * 512 - (offset & 511))
}

/// The clusters that the image's counts are in now.
pub(crate) fn in_use(file: &dyn File, meta: &Meta) -> io::Result<Vec<Range<u64>>> {
    let bytes = u64::from(meta.refcounts_clusters) * meta.cluster();
    if bytes > 8 << 20 {
        return Err(damaged("its table of reference counts is too long"));
    }
    let first = meta.refcounts_offset >> meta.cluster_bits;
    let mut all = Vec::new();
    all.push(first..first + u64::from(meta.refcounts_clusters));
    for entry in read_table(file, meta.refcounts_offset, (bytes / 8) as usize)? {
        let cluster = entry >> meta.cluster_bits;
        if cluster != 0 && cluster < 1 << 47 {
            match all.last_mut() {
                Some(last) if last.end == cluster => last.end += 1,
                _ => all.push(cluster..cluster + 1),
            }
        }
    }
    Ok(all)
}

/// Counts anew and makes `meta`, which differs from the image's by what was written into clusters that nobody used, the image's. `busy` is what the
/// image's own header refers to, if that is more.
pub(crate) fn recount(
    file: &dyn File,
    meta: &Meta,
    snapshots: &[Snapshot],
    busy: Option<&Counts>,
) -> io::Result<Meta> {
    let mut counts = Counts::of(file, meta, snapshots)?;
    let new = counts.write(file, meta, busy)?;
    counts.mark(file, &new, true)?;
    new.commit(file)?;
    counts.mark(file, &new, false)?;
    counts.punch_free(file, &new)?;
    file.sync_data()?;
    Ok(new)
}
