//! Packs that are not what their names say.

use crate::{Collection, Error, ErrorKind, How, PackStore, collect::is_dead, read::check};
use brick::PackStat;
use format::pack::{PACK_BLOCKS, PAGE, PackHeader};
use types::{BLOCK_SIZE, PackId};

/// No pack is longer: its blocks as they are, and twice as much for what is said about them.
const OBJECT_MAX: u64 = 2 * (PACK_BLOCKS * BLOCK_SIZE) as u64;

const REPAIRING: &str = "repairing";

impl PackStore {
    /// Why the hashes of a pack cannot be read, if its header can.
    #[must_use]
    pub fn hashes_damaged(&self, pack: PackId) -> Option<Error> {
        let header = self.load_header(pack, true).ok().flatten()?;
        let error = self.read_hashes(&header).err()?;
        (error.kind() == ErrorKind::Damaged).then_some(error)
    }

    /// Whether what is stored as `stat.pack` is another pack of this store, sound in all that is live: which one.
    ///
    /// # Errors
    /// Those of the brick, but for what is too short to be anything.
    pub fn stored_as(&self, stat: &PackStat) -> Result<Option<PackId>, Error> {
        Ok(self.stray(stat)?.map(|(claimed, _)| claimed))
    }

    /// Another pack that is stored as `stat.pack`, and its bytes.
    fn stray(&self, stat: &PackStat) -> Result<Option<(PackId, Vec<u8>)>, Error> {
        let mut page = vec![0; PAGE];
        if !(PAGE as u64..=OBJECT_MAX).contains(&stat.len)
            || !self.fetch(stat.pack, 0, &mut page, true)?
        {
            return Ok(None);
        }
        let Some(claimed) = PackHeader::claimed(&page).filter(|claimed| *claimed != stat.pack)
        else {
            return Ok(None);
        };
        // A header that is not sound may claim anything, and any length.
        let Ok(needed) = PackHeader::needed(&page, claimed, self.id) else {
            return Ok(None);
        };
        let mut bytes = vec![0; stat.len as usize];
        self.fetch(stat.pack, 0, &mut bytes, true)?;
        let sound = bytes.len() >= needed && self.is_sound(&bytes, claimed);
        Ok(sound.then_some((claimed, bytes)))
    }

    fn is_sound(&self, bytes: &[u8], pack: PackId) -> bool {
        let Ok(header) = PackHeader::decode(bytes, pack, self.id) else {
            return false;
        };
        let mut frames = (0..).zip(&header.frames);
        frames.all(|(number, entry)| {
            let range = entry.range();
            let stored = bytes.get(range.start as usize..range.end as usize);
            is_dead(entry, &header.live.bits)
                || stored.is_some_and(|stored| check(&header, number, entry, stored).is_ok())
        })
    }

    fn is_readable(&self, pack: PackId) -> Result<bool, Error> {
        match self.load_header(pack, true) {
            Ok(_) => Ok(true),
            Err(e) if matches!(e.kind(), ErrorKind::Damaged | ErrorKind::NotFound) => Ok(false),
            Err(e) => Err(e),
        }
    }

    fn stat(&self, pack: PackId) -> Result<Option<PackStat>, Error> {
        Ok(self.list()?.into_iter().find(|stat| stat.pack == pack))
    }

    fn sync(&self) -> Result<(), Error> {
        self.brick.sync().map_err(|e| Error::brick(REPAIRING, e))
    }

    fn put_bytes(&self, pack: PackId, bytes: &[u8]) -> Result<(), Error> {
        let put = self.brick.put(self.epoch, pack, bytes);
        put.map_err(|e| Error::brick(REPAIRING, e).of_pack(pack))?;
        self.distrust.forget(pack);
        self.headers.remove(&pack);
        self.hashes.remove(&pack);
        Ok(())
    }
}

impl Collection {
    /// Puts the pack that is stored as `from` where it belongs. Nothing is changed if that place has a readable pack.
    ///
    /// # Behavior
    /// Durable when it returns. What is in that place, if it is a third pack, is put where it belongs too, and so
    /// on; a crash leaves each of them under some name at least. What was stored as `from` stays there.
    ///
    /// # Errors
    /// [`ErrorKind::Damaged`] if there is no such pack; those of the brick and of reserving ids.
    pub fn put_back(&self, from: PackId) -> Result<(), Error> {
        let store = &*self.store;
        let mut from = from;
        let mut spare = None;
        loop {
            let none = || Error::damaged(REPAIRING, "no other pack is stored here").of_pack(from);
            let stat = store.stat(from)?.ok_or_else(none)?;
            let (pack, bytes) = store.stray(&stat)?.ok_or_else(none)?;
            if store.is_readable(pack)? {
                return self.forget(spare);
            }
            // What is in the way may be a pack that has no other place.
            let in_the_way = match store.stat(pack)? {
                Some(stat) => store.stray(&stat)?,
                None => None,
            };
            let next = match in_the_way {
                Some((displaced, bytes)) if !store.is_readable(displaced)? => {
                    let id = store.ids.take()?;
                    store.put_bytes(id, &bytes)?;
                    store.sync()?;
                    Some(id)
                }
                _ => None,
            };
            store.put_bytes(pack, &bytes)?;
            store.sync()?;
            self.forget(spare)?;
            let Some(next) = next else { return Ok(()) };
            (from, spare) = (next, Some(next));
        }
    }

    fn forget(&self, spare: Option<PackId>) -> Result<(), Error> {
        let Some(pack) = spare else { return Ok(()) };
        let removed = self.store.brick.remove(self.store.epoch, pack);
        removed.map_err(|e| Error::brick(REPAIRING, e).of_pack(pack))
    }

    /// Writes a pack again, with hashes made from its blocks if those that it has cannot be read. Durable when it
    /// returns.
    ///
    /// # Errors
    /// As [`give_up`](Self::give_up): a pack that has lost blocks cannot be written again.
    pub fn repair_hashes(&self, pack: PackId) -> Result<(), Error> {
        let live = self.store.info(pack)?.live;
        self.give_up(pack, &live, How::Rewrite)?;
        self.store.sync()
    }

    /// Removes a pack whose header cannot be read, and which the caller knows that nothing needs; durable when it
    /// returns.
    ///
    /// # Errors
    /// [`ErrorKind::Busy`] if its header can be read: that is for [`give_up`](Self::give_up). Those of the brick.
    ///
    /// # Panics
    /// If `pack` is not below the [`limit`](Self::limit).
    pub fn remove_unreadable(&self, pack: PackId) -> Result<(), Error> {
        assert!(pack < self.limit(), "pack {pack} is not to be considered");
        if self.store.is_readable(pack)? {
            return Err(Error::new(ErrorKind::Busy, REPAIRING).of_pack(pack));
        }
        self.forget(Some(pack))?;
        self.store.sync()
    }
}
