//! Is what is there what may be there?

use crate::{
    blocks::{Contents, tag_of},
    model::{Doubt, End, History, Model},
    name,
    ops::Clients,
};
use block::BlockDevice;
use gc::{CheckOptions, Verdict};
use std::{ops::ControlFlow, sync::LazyLock};
use types::{BLOCK_SIZE, VolumeId, VolumeRef};
use volume::Store;

/// What is read: blocks by their tags, none where there was an error.
type Read = Vec<Option<u32>>;

/// Where packs are checked one after the other, so that reads are in the same order in every run.
static ONE_THREAD: LazyLock<rayon::ThreadPool> = LazyLock::new(|| {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1);
    pool.build().unwrap()
});

/// How much of a store may be unreadable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Damage {
    /// Nothing.
    None,
    /// Its disk lied about packs: a block can be an error, and is right otherwise.
    Packs,
}

/// Compares a store with the model, and decides the model's doubts by what is found.
pub(crate) struct Verifier<'a> {
    pub(crate) store: &'a Store,
    pub(crate) damage: Damage,
}

impl Verifier<'_> {
    /// A store that was opened again after `end`. Answers whether every volume's state is known now: damage can
    /// hide which of several it is.
    pub(crate) fn reopened(&self, model: &mut Model, end: End) -> bool {
        self.decide(model);
        let mut unread = 0;
        let mut known = true;
        for (volume, history) in &mut model.volumes {
            let read = self.read(&name(volume).into());
            unread += read.iter().filter(|tag| tag.is_none()).count();
            let mut agreeing = agreeing(history.allowed(end), &read);
            agreeing.dedup();
            let Some(state) = agreeing.last().cloned() else {
                panic!(
                    "'{volume}' is in none of the {} states that {end:?} allows: {read:?}",
                    history.allowed(end).len()
                );
            };
            known &= agreeing.len() == 1;
            history.found(end, state);
            unread += self.snapshots(volume, history);
        }
        self.differences(model);
        self.check(unread);
        known
    }

    /// A store that goes on after an operation failed. Only for its clients, if that is false: the catalog wants
    /// to be opened anew, or damage hides what was done.
    pub(crate) fn living(&self, model: &mut Model, clients: &Clients) -> bool {
        let catalog = self.store.catalog().volumes().is_ok();
        if catalog {
            self.decide(model);
        }
        let mut known = catalog;
        for (volume, history) in &mut model.volumes {
            let r = name(volume).into();
            let read = match clients.get(volume) {
                Some(device) => self.read_device(&r, &**device),
                None if catalog => self.read(&r),
                None => continue,
            };
            let mut agreeing = agreeing(history.allowed_now(), &read);
            agreeing.dedup();
            match &agreeing[..] {
                [] => panic!(
                    "'{volume}' is neither as before the operation that failed, nor as after"
                ),
                [state] => history.seen(state.clone()),
                _ => known = false,
            }
        }
        known
    }

    /// Whether what was not answered was done.
    fn decide(&self, model: &mut Model) {
        let known = self.store.catalog().volumes().unwrap();
        let trash: Vec<VolumeId> = known
            .iter()
            .filter(|v| v.trashed.is_some())
            .map(|v| v.id)
            .collect();
        let mut names: Vec<String> = known
            .iter()
            .filter(|v| v.trashed.is_none())
            .map(|v| v.name.to_string())
            .collect();
        names.sort();
        match model.doubt.take() {
            Some(Doubt::VolumeMade(volume, contents)) if names.contains(&volume) => {
                model.volumes.insert(volume, History::new(contents));
            }
            Some(Doubt::VolumeTrashed(volume, id)) if trash.contains(&id) => {
                model.trashed(&volume, id);
            }
            Some(Doubt::VolumeRestored(id)) if !trash.contains(&id) => model.restored(id),
            Some(Doubt::VolumesPurged) => model.trash.retain(|id, _| trash.contains(id)),
            Some(Doubt::SnapshotMade(volume, snap, contents))
                if self.snapshot_names(&volume).contains(&snap) =>
            {
                let history = model.volumes.get_mut(&volume).unwrap();
                history.snapshots.insert(snap, contents);
            }
            Some(Doubt::GroupMade(snap, made)) => {
                let there =
                    |(volume, _): &(String, Contents)| self.snapshot_names(volume).contains(&snap);
                let count = made.iter().filter(|one| there(one)).count();
                assert!(
                    [0, made.len()].contains(&count),
                    "a part of a group: {count}"
                );
                for (volume, contents) in made.into_iter().take(count) {
                    let history = model.volumes.get_mut(&volume).unwrap();
                    history.snapshots.insert(snap.clone(), contents);
                }
            }
            Some(Doubt::BaseMoved(volume, old, contents))
                if self.store.find(&name(&volume)).unwrap().base != old =>
            {
                model.volumes.get_mut(&volume).unwrap().base = contents;
            }
            Some(Doubt::SnapshotGone(volume, snap))
                if !self.snapshot_names(&volume).contains(&snap) =>
            {
                let history = model.volumes.get_mut(&volume).unwrap();
                history.snapshots.remove(&snap);
            }
            _ => {}
        }
        assert!(names.iter().eq(model.volumes.keys()), "volumes: {names:?}");
        assert!(trash.iter().eq(model.trash.keys()), "trash: {trash:?}");
    }

    fn snapshot_names(&self, volume: &str) -> Vec<String> {
        let snapshots = self.store.snapshots(&name(volume)).unwrap();
        snapshots.iter().map(|s| s.name.to_string()).collect()
    }

    /// All are there, and are what they were. Answers how many blocks are unreadable.
    fn snapshots(&self, volume: &str, history: &History) -> usize {
        let mut there = self.snapshot_names(volume);
        let record = self.store.find(&name(volume)).unwrap();
        let base = self.store.base(&record).unwrap();
        assert_eq!(base.is_some(), history.base.is_some(), "base of '{volume}'");
        if let (Some(base), Some(contents)) = (base, &history.base) {
            let same = history.now() == contents;
            assert!(base.changed || same, "'{volume}' has changed");
            let base = base.snapshot.name;
            there.retain(|name| *name != *base.as_str());
            let r = VolumeRef {
                volume: name(volume),
                snapshot: Some(base),
            };
            assert!(agrees(contents, &self.read(&r)), "'{r}' changed");
        }
        there.sort();
        let expected = history.snapshots.keys();
        assert!(
            there.iter().eq(expected),
            "snapshots of '{volume}': {there:?}"
        );
        let mut unread = 0;
        for (snap, contents) in &history.snapshots {
            let r = VolumeRef {
                volume: name(volume),
                snapshot: Some(name(snap)),
            };
            let read = self.read(&r);
            assert!(agrees(contents, &read), "'{r}' changed: {read:?}");
            unread += read.iter().filter(|tag| tag.is_none()).count();
        }
        unread
    }

    /// What is told to differ between snapshots, neighbours in the list of all, is all that does.
    fn differences(&self, model: &Model) {
        let mut snapshots: Vec<(VolumeRef, &Contents)> = Vec::new();
        for (volume, history) in &model.volumes {
            snapshots.extend(history.snapshots.iter().map(|(snap, contents)| {
                let (volume, snapshot) = (name(volume), Some(name(snap)));
                (VolumeRef { volume, snapshot }, contents)
            }));
        }
        for pair in snapshots.windows(2) {
            self.difference(&pair[0], &pair[1], model.imports);
        }
    }

    fn difference(
        &self,
        (from, before): &(VolumeRef, &Contents),
        (to, after): &(VolumeRef, &Contents),
        imports: bool,
    ) {
        let mut told = vec![None; after.len()];
        let compared = self.store.diff(from, to).and_then(|diff| {
            diff.for_each(&mut |extent| {
                let (start, len) = (extent.offset as usize, extent.len as usize);
                told[start / BLOCK_SIZE..][..len / BLOCK_SIZE].fill(Some(extent.data));
                ControlFlow::Continue(())
            })
        });
        // What damage has made unreadable is neither the same nor another.
        if self.damage == Damage::Packs {
            return;
        }
        // What is imported still is told to differ only from itself.
        let refused = |e: &volume::Error| e.kind() == volume::ErrorKind::Refused;
        if imports && compared.as_ref().is_err_and(refused) && from.volume != to.volume {
            return;
        }
        let _ = compared.unwrap_or_else(|e| panic!("{from} {to}: {e:?}"));
        for (block, (tag, told)) in after.iter().zip(told).enumerate() {
            let missed = told.is_none() && tag != before.get(block).unwrap_or(&0);
            assert!(!missed, "block {block} of {to} is not as in {from}");
            // What was zeroed while it was imported may be data still.
            let wrong = told.is_some_and(|data| data != (*tag != 0) && !(data && imports));
            assert!(!wrong, "block {block} of {to} is {tag}");
        }
    }

    fn read(&self, r: &VolumeRef) -> Read {
        match self.store.device(r) {
            Ok(device) => self.read_device(r, &*device),
            // To have a root it must be destaged, and that needs nodes.
            Err(_) if self.damage == Damage::Packs => Vec::new(),
            Err(e) => panic!("{r}: {e:?}"),
        }
    }

    fn read_device(&self, r: &VolumeRef, device: &dyn BlockDevice) -> Read {
        let blocks = |bytes: &[u8]| -> Read {
            let tag = |block| Some(tag_of(block).unwrap_or_else(|| panic!("{r}: a mixture")));
            bytes.chunks(BLOCK_SIZE).map(tag).collect()
        };
        let mut bytes = vec![0xee; device.info().size as usize];
        match device.read(0, &mut bytes) {
            Ok(()) => return blocks(&bytes),
            Err(e) => assert!(self.damage == Damage::Packs, "{r}: {e:?}"),
        }
        let mut read = Read::new();
        for (block, bytes) in (0..).zip(bytes.chunks_mut(BLOCK_SIZE)) {
            match device.read(block * BLOCK_SIZE as u64, bytes) {
                Ok(()) => read.extend(blocks(bytes)),
                Err(_) => read.push(None),
            }
        }
        read
    }

    /// Checks all packs. Garbage is all that a crash may leave.
    fn check(&self, unread: usize) {
        let options = CheckOptions { deep: true };
        let report = ONE_THREAD.install(|| {
            gc::check(self.store.packs(), self.store, options, &types::NoProgress).unwrap()
        });
        match self.damage {
            Damage::None => {
                assert_ne!(report.verdict(), Verdict::Damaged, "{report}");
                assert!(report.unused_damaged.is_empty(), "{report}");
                assert_eq!(report.packs.unreadable, 0, "{report}");
            }
            // Whoever meets damage can have it named.
            Damage::Packs if unread > 0 => {
                assert_eq!(report.verdict(), Verdict::Damaged, "{report}");
            }
            Damage::Packs => {}
        }
    }
}

fn agreeing(states: &[Contents], read: &Read) -> Vec<Contents> {
    let agree = states.iter().filter(|state| agrees(state, read));
    agree.cloned().collect()
}

/// Whether all that could be read is as it should be; nothing is read of what could not be opened.
fn agrees(state: &Contents, read: &Read) -> bool {
    if read.is_empty() {
        return true;
    }
    let same = |(tag, read): (&u32, &Option<u32>)| read.is_none_or(|read| read == *tag);
    state.len() == read.len() && state.iter().zip(read).all(same)
}
