//! Looking at packs: for collection, for checking, and to fill the index.

use crate::{
    Error, ErrorKind, FrameEntry, LiveBits, PackStore, build::UNHASHED, collect::is_dead,
    read::check,
};
use brick::PackStat;
use format::{
    Node, RootNote, block_hash, frame,
    pack::{FrameKind, PackHeader},
};
use std::{ops::Range, sync::Arc};
use types::{BLOCK_SIZE, BlockHash, PackId, Pointer, Progress, VolumeId};

/// What is in a pack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackInfo {
    /// Which pack.
    pub pack: PackId,
    /// Blocks and nodes, those given up included.
    pub blocks: u16,
    /// Its frames, in order of their ordinals.
    pub frames: Box<[FrameEntry]>,
    /// What was not given up.
    pub live: LiveBits,
    /// A slot of the live map is damaged: `live` may be more than is there. Giving up blocks mends that.
    pub doubtful: bool,
    /// How often blocks were given up.
    pub revision: u32,
    /// Bytes of frames.
    pub payload_bytes: u64,
    /// Whose root it has a note of.
    pub noted: Option<VolumeId>,
}

/// Blocks that cannot be read.
#[derive(Clone, Debug)]
pub struct Damage {
    /// Which blocks of the pack.
    pub ordinals: Range<u16>,
    /// Why.
    pub error: Error,
}

/// What a check found.
#[derive(Clone, Debug, Default)]
pub struct PackReport {
    /// Live blocks and nodes.
    pub blocks: u64,
    /// Bytes read.
    pub bytes: u64,
    /// What is wrong.
    pub damaged: Vec<Damage>,
    /// Why the hashes cannot be read. No block is lost by that, but none is found by deduplication, and none is
    /// compared with its hash. [`repair_hashes`](crate::Collection::repair_hashes) makes them anew.
    pub hashes: Option<Error>,
}

impl PackStore {
    /// All packs of the brick, in order.
    ///
    /// # Errors
    /// Those of the brick.
    pub fn list(&self) -> Result<Vec<PackStat>, Error> {
        self.brick.list().map_err(|e| Error::brick("listing", e))
    }

    /// What a pack's header says, verified, as it is stored now.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`]; [`ErrorKind::Damaged`] if the header is not sound; those of the brick.
    pub fn info(&self, pack: PackId) -> Result<PackInfo, Error> {
        let header = self.fresh_header(pack)?;
        Ok(PackInfo {
            pack,
            blocks: header.blocks,
            live: header.live.bits,
            doubtful: header.live.doubtful,
            revision: header.live.revision,
            payload_bytes: header.payload.end - header.payload.start,
            noted: header.noted,
            frames: header.frames,
        })
    }

    /// A pack's root note, if it has one that we know.
    ///
    /// # Errors
    /// As [`info`](Self::info).
    pub fn note(&self, pack: PackId) -> Result<Option<RootNote>, Error> {
        let mut page = vec![0; format::pack::PAGE];
        self.fetch(pack, 0, &mut page, true)?;
        RootNote::decode(&page, pack, self.id).map_err(|why| {
            let damaged = Error::damaged("reading the root note", "not a sound one");
            damaged.with_source(why).of_pack(pack)
        })
    }

    /// Checks a pack: its header and tables, every frame that has live blocks against its checksum; if `deep`
    /// also that frames decompress, and that live blocks have the hashes they should, and all that as it is on the
    /// medium, whatever the page cache has.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`]; those of the brick. Damage is no error, but reported.
    pub fn verify(&self, pack: PackId, deep: bool) -> Result<PackReport, Error> {
        let mut report = PackReport::default();
        if deep {
            let fresh = self.brick.refresh(pack);
            fresh.map_err(|e| Error::brick("refreshing", e).of_pack(pack))?;
        }
        let checked = self.verify_pack(pack, deep, &mut report);
        if let Err(error) = checked {
            if error.kind() != ErrorKind::Damaged {
                return Err(error);
            }
            let ordinals = 0..format::pack::PACK_BLOCKS as u16;
            report.damaged.push(Damage { ordinals, error });
        }
        let damaged = report.damaged.iter();
        let damaged: LiveBits = damaged.flat_map(|damage| damage.ordinals.clone()).collect();
        self.distrust.set(pack, &damaged);
        Ok(report)
    }

    fn verify_pack(&self, pack: PackId, deep: bool, report: &mut PackReport) -> Result<(), Error> {
        let header = self.fresh_header(pack)?;
        let hashes = match self.read_hashes(&header) {
            Err(error) if error.kind() == ErrorKind::Damaged => {
                report.hashes = Some(error);
                Arc::new([])
            }
            other => other?,
        };
        report.blocks = header.live.bits.count() as u64;
        let mut stored = Vec::new();
        for (number, entry) in (0..).zip(&header.frames) {
            if is_dead(entry, &header.live.bits) {
                continue;
            }
            stored.resize(entry.stored_len as usize, 0);
            let read = self.fetch(pack, u64::from(entry.offset), &mut stored, true);
            let found = read.map_err(Error::missing_is_damage).and_then(|_| {
                check(&header, number, entry, &stored)?;
                if deep {
                    self.verify_frame(&header, entry, &stored, &hashes)
                } else {
                    Ok(())
                }
            });
            report.bytes += stored.len() as u64;
            match found {
                Err(error) if error.kind() == ErrorKind::Damaged => report.damaged.push(Damage {
                    ordinals: entry.ordinals(),
                    error: error.of_pack(pack),
                }),
                other => other?,
            }
        }
        Ok(())
    }

    fn verify_frame(
        &self,
        header: &PackHeader,
        entry: &FrameEntry,
        stored: &[u8],
        hashes: &[BlockHash],
    ) -> Result<(), Error> {
        const CHECKING: &str = "checking";
        let malformed = |why| Error::damaged(CHECKING, "not a sound frame").with_source(why);
        if entry.kind == FrameKind::Node {
            return Node::decode(entry.codec, stored)
                .map(|_| ())
                .map_err(malformed);
        }
        let mut plain = vec![0; entry.plain_len()];
        frame::decompress(entry.codec, stored, &mut plain).map_err(malformed)?;
        for (ordinal, block) in entry.ordinals().zip(plain.as_chunks::<BLOCK_SIZE>().0) {
            let hash = hashes
                .get(usize::from(ordinal))
                .filter(|hash| **hash != UNHASHED);
            let live = header.live.bits.get(ordinal);
            if live && hash.is_some_and(|hash| *hash != block_hash(&self.hash_key, block)) {
                let error = Error::damaged(CHECKING, "a block does not have its hash");
                return Err(error.at(Pointer::new(header.pack, ordinal)));
            }
        }
        Ok(())
    }

    /// Feeds the hashes of a pack's live blocks to the index; what the index knows stays. Answers how many.
    ///
    /// # Errors
    /// As [`info`](Self::info).
    pub fn index_pack(&self, pack: PackId) -> Result<u64, Error> {
        let header = self.fresh_header(pack)?;
        if header.live.doubtful {
            return Ok(0);
        }
        let hashes = self.read_hashes(&header)?;
        let mut fed = 0;
        for (ordinal, hash) in (0..header.blocks).zip(&*hashes) {
            if *hash != UNHASHED && header.live.bits.get(ordinal) {
                let pointer = Pointer::new(pack, ordinal);
                self.index.insert_if_absent(hash.prefix(), pointer);
                fed += 1;
            }
        }
        Ok(fed)
    }

    /// Fills the index from all packs, the newest first: they are the most likely to be met again. Reports packs.
    /// Packs that are damaged, or gone meanwhile, are left out.
    ///
    /// # Errors
    /// [`ErrorKind::Cancelled`] when `progress` says so; those of the brick.
    pub fn rebuild_index(&self, progress: &dyn Progress) -> Result<(), Error> {
        let packs = self.list()?;
        for (done, stat) in packs.iter().rev().enumerate() {
            progress.report(done as u64, packs.len() as u64)?;
            match self.index_pack(stat.pack) {
                Err(error) if matches!(error.kind(), ErrorKind::Damaged | ErrorKind::NotFound) => {
                    tracing::warn!(%error, "left out of the deduplication index");
                }
                other => {
                    other?;
                }
            }
        }
        progress.report(packs.len() as u64, packs.len() as u64)?;
        Ok(())
    }

    fn fresh_header(&self, pack: PackId) -> Result<PackHeader, Error> {
        let header = self.load_header(pack, true)?;
        header.ok_or_else(|| Error::new(ErrorKind::Io, "reading the header").of_pack(pack))
    }
}
