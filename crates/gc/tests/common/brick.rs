//! A brick in memory: what is synced, what is not yet, and a countdown to the machine's death.

use brick::{Brick, Error, ErrorKind, PackStat, Space};
use parking_lot::Mutex;
use std::{collections::BTreeMap, ops::Range};
use types::{Epoch, PackId};

#[derive(Clone, Default)]
struct Object {
    bytes: Vec<u8>,
    holes: Vec<Range<u64>>,
}

#[derive(Default)]
struct State {
    now: BTreeMap<PackId, Object>,
    durable: BTreeMap<PackId, Object>,
    /// What the page cache has of packs that changed on the medium below it, until it is told to forget.
    cached: BTreeMap<PackId, Object>,
    /// Mutations until the machine dies; none succeeds afterwards.
    left: Option<u64>,
    mutations: u64,
}

#[derive(Default)]
pub struct MemBrick(Mutex<State>);

impl State {
    fn mutate(&mut self, operation: &'static str) -> Result<(), Error> {
        self.mutations += 1;
        match &mut self.left {
            Some(0) => return Err(Error::new(ErrorKind::Io, operation, None)),
            Some(left) => *left -= 1,
            None => {}
        }
        Ok(())
    }
}

impl MemBrick {
    /// Every mutation after `n` more fails.
    pub fn die_after(&self, n: u64) {
        self.0.lock().left = Some(n);
    }

    /// Mutations so far.
    pub fn mutations(&self) -> u64 {
        self.0.lock().mutations
    }

    /// Of what was not synced, some is kept, object by object.
    pub fn crash(&self, seed: u64) {
        let mut state = self.0.lock();
        let packs: Vec<_> = state
            .now
            .keys()
            .chain(state.durable.keys())
            .copied()
            .collect();
        for pack in packs {
            let kept = (pack.0 ^ seed).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 63 == 0;
            let (from, to) = match kept {
                true => (state.now.get(&pack).cloned(), &mut state.durable),
                false => (state.durable.get(&pack).cloned(), &mut state.now),
            };
            match from {
                Some(object) => drop(to.insert(pack, object)),
                None => drop(to.remove(&pack)),
            }
        }
        state.left = None;
    }

    /// Flips a bit.
    pub fn rot(&self, pack: PackId, offset: usize) {
        let mut state = self.0.lock();
        state.now.get_mut(&pack).unwrap().bytes[offset] ^= 0x10;
    }

    /// Flips a bit on the medium, of a pack that the page cache has whole.
    pub fn rot_below_the_cache(&self, pack: PackId, offset: usize) {
        let mut state = self.0.lock();
        let object = state.now[&pack].clone();
        state.cached.insert(pack, object);
        drop(state);
        self.rot(pack, offset);
    }

    /// Loses a pack.
    pub fn lose(&self, pack: PackId) {
        assert!(self.0.lock().now.remove(&pack).is_some());
    }

    /// Two packs lie under each other's names.
    pub fn swap(&self, a: PackId, b: PackId) {
        let mut state = self.0.lock();
        let (in_a, in_b) = (state.now[&a].clone(), state.now[&b].clone());
        state.now.extend([(a, in_b), (b, in_a)]);
    }

    /// A pack lies under another's name too, in place of that.
    pub fn copy(&self, from: PackId, to: PackId) {
        let mut state = self.0.lock();
        let object = state.now[&from].clone();
        state.now.insert(to, object);
    }

    /// A pack ends early.
    pub fn cut(&self, pack: PackId, len: usize) {
        let mut state = self.0.lock();
        state.now.get_mut(&pack).unwrap().bytes.truncate(len);
    }

    /// Something that is no pack lies under an id.
    pub fn litter(&self, pack: PackId) {
        let bytes = vec![0x55; 4096];
        let object = Object {
            bytes,
            holes: Vec::new(),
        };
        self.0.lock().now.insert(pack, object);
    }

    pub fn stored(&self) -> u64 {
        self.list().unwrap().iter().map(|stat| stat.stored).sum()
    }
}

impl Brick for MemBrick {
    fn put(&self, _: Epoch, pack: PackId, bytes: &[u8]) -> Result<(), Error> {
        let mut state = self.0.lock();
        state.mutate("put")?;
        let object = Object {
            bytes: bytes.to_vec(),
            holes: Vec::new(),
        };
        state.now.insert(pack, object);
        Ok(())
    }

    fn read(&self, pack: PackId, offset: u64, buf: &mut [u8]) -> Result<(), Error> {
        let state = self.0.lock();
        let object = state.cached.get(&pack).or_else(|| state.now.get(&pack));
        let found = object.and_then(|object| {
            let start = usize::try_from(offset).ok()?;
            object.bytes.get(start..start.checked_add(buf.len())?)
        });
        let bytes = found.ok_or(Error::new(ErrorKind::NotFound, "read", Some(pack)))?;
        buf.copy_from_slice(bytes);
        Ok(())
    }

    fn try_read(&self, pack: PackId, offset: u64, buf: &mut [u8]) -> Result<bool, Error> {
        self.read(pack, offset, buf).map(|()| true)
    }

    fn refresh(&self, pack: PackId) -> Result<(), Error> {
        self.0.lock().cached.remove(&pack);
        Ok(())
    }

    fn trim(
        &self,
        _: Epoch,
        pack: PackId,
        mark: (u64, &[u8]),
        holes: &[Range<u64>],
    ) -> Result<(), Error> {
        let mut state = self.0.lock();
        state.mutate("trim")?;
        let missing = Error::new(ErrorKind::NotFound, "trim", Some(pack));
        let object = state.now.get_mut(&pack).ok_or(missing)?;
        let at = mark.0 as usize;
        object.bytes[at..at + mark.1.len()].copy_from_slice(mark.1);
        let marked = object.clone();
        state.durable.insert(pack, marked);
        // The machine may die between the mark and the holes.
        state.mutate("trim")?;
        let object = state.now.get_mut(&pack).unwrap();
        object.holes = holes
            .iter()
            .map(pages)
            .filter(|hole| !hole.is_empty())
            .collect();
        for hole in holes {
            // Undefined, so the worst.
            object.bytes[hole.start as usize..hole.end as usize].fill(0xdb);
        }
        let punched = object.clone();
        state.durable.insert(pack, punched);
        Ok(())
    }

    fn remove(&self, _: Epoch, pack: PackId) -> Result<(), Error> {
        let mut state = self.0.lock();
        state.mutate("remove")?;
        state.now.remove(&pack);
        Ok(())
    }

    fn sync(&self) -> Result<(), Error> {
        let mut state = self.0.lock();
        state.mutate("sync")?;
        state.durable = state.now.clone();
        Ok(())
    }

    fn list(&self) -> Result<Vec<PackStat>, Error> {
        let state = self.0.lock();
        let stat = |(&pack, object): (&PackId, &Object)| {
            let len = object.bytes.len() as u64;
            let holes: u64 = object.holes.iter().map(|hole| hole.end - hole.start).sum();
            PackStat {
                pack,
                len,
                stored: len - holes,
            }
        };
        Ok(state.now.iter().map(stat).collect())
    }

    fn space(&self) -> Result<Space, Error> {
        Ok(Space {
            total: 1 << 40,
            free: 1 << 39,
        })
    }
}

/// The whole pages of a range.
fn pages(range: &Range<u64>) -> Range<u64> {
    range.start.next_multiple_of(4096)..range.end / 4096 * 4096
}
