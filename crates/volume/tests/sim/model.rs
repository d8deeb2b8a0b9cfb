//! What a store must hold, and what a crash leaves open.

use crate::name;
use std::collections::BTreeMap;
use types::{BLOCK_SIZE, VolumeId, VolumeRef};
use volume::Store;

/// What each block holds: 0 is zeroes.
pub(crate) type Contents = Vec<u32>;

#[derive(Clone, Default)]
pub(crate) struct Model {
    pub(crate) volumes: BTreeMap<String, History>,
    pub(crate) trash: BTreeMap<VolumeId, (String, History)>,
    /// What an operation that failed in a crash may have done.
    pub(crate) doubt: Option<Doubt>,
}

#[derive(Clone)]
pub(crate) struct History {
    /// States since the last flush, the last one is now.
    pub(crate) states: Vec<Contents>,
    pub(crate) snapshots: BTreeMap<String, Contents>,
}

/// What the end of the last life left.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kept {
    /// All that was answered: the process died, and what it wrote is as durable as before.
    Answered,
    /// What was flushed, and perhaps more: the power was gone.
    Flushed,
}

#[derive(Clone)]
pub(crate) enum Doubt {
    SnapshotMade(String, String, Contents),
    SnapshotGone(String, String),
    VolumeMade(String, Contents),
    VolumeTrashed(String, VolumeId),
    VolumeRestored(VolumeId),
    VolumePurged(VolumeId),
}

impl Model {
    pub(crate) fn trashed(&mut self, volume: &str, id: VolumeId) {
        let mut history = self.volumes.remove(volume).unwrap();
        history.flushed();
        self.trash.insert(id, (volume.to_owned(), history));
    }

    pub(crate) fn restored(&mut self, id: VolumeId) {
        let (volume, history) = self.trash.remove(&id).unwrap();
        self.volumes.insert(volume, history);
    }
}

impl History {
    pub(crate) fn new(contents: Contents) -> Self {
        History {
            states: vec![contents],
            snapshots: BTreeMap::new(),
        }
    }

    pub(crate) fn now(&self) -> &Contents {
        self.states.last().unwrap()
    }

    pub(crate) fn change(&mut self, change: impl FnOnce(&mut Contents)) {
        let mut next = self.now().clone();
        change(&mut next);
        self.states.push(next);
    }

    pub(crate) fn flushed(&mut self) {
        self.states = vec![self.now().clone()];
    }
}

pub(crate) fn fill(tag: u32, block: &mut [u8]) {
    // Half of it compresses; few tags, so that blocks repeat.
    for (at, byte) in block.iter_mut().enumerate() {
        *byte = if tag == 0 || at > BLOCK_SIZE / 2 {
            0
        } else {
            (tag as usize * 31 + at * at) as u8
        };
    }
    if tag != 0 {
        block[..4].copy_from_slice(&tag.to_le_bytes());
    }
}

pub(crate) fn read_contents(store: &Store, r: &VolumeRef) -> Contents {
    let device = store.device(r).unwrap();
    let mut bytes = vec![0xee; device.info().size as usize];
    device.read(0, &mut bytes).unwrap();
    let mut expected = [0; BLOCK_SIZE];
    let tag_of = |block: &[u8]| {
        let tag = u32::from_le_bytes(block[..4].try_into().unwrap());
        fill(tag, &mut expected);
        assert!(block == expected, "{r}: a block is a mixture");
        tag
    };
    bytes.chunks(BLOCK_SIZE).map(tag_of).collect()
}

/// The store is what the model says, in one of the ways that a crash leaves open.
pub(crate) fn verify(store: &Store, model: &mut Model, kept: Kept, seed: u64) {
    let doubt = model.doubt.take();
    let known: Vec<String> = {
        let volumes = store.catalog().volumes().unwrap();
        volumes
            .iter()
            .filter(|v| v.trashed.is_none())
            .map(|v| v.name.to_string())
            .collect()
    };
    if let Some(Doubt::VolumeMade(volume, contents)) = &doubt
        && known.contains(volume)
    {
        model
            .volumes
            .insert(volume.clone(), History::new(contents.clone()));
    }
    let trash: Vec<VolumeId> = store.trash().unwrap().iter().map(|v| v.id).collect();
    match &doubt {
        Some(Doubt::VolumeTrashed(volume, id)) if trash.contains(id) => model.trashed(volume, *id),
        Some(Doubt::VolumeRestored(id)) if !trash.contains(id) => model.restored(*id),
        Some(Doubt::VolumePurged(id)) if !trash.contains(id) => {
            model.trash.remove(id);
        }
        _ => {}
    }
    assert!(
        trash.iter().eq(model.trash.keys()),
        "seed {seed}: {trash:?}"
    );
    let expected: Vec<&String> = model.volumes.keys().collect();
    assert_eq!(
        {
            let mut k: Vec<_> = known.iter().collect();
            k.sort();
            k
        },
        expected,
        "seed {seed}"
    );
    for (volume, history) in &mut model.volumes {
        let now = read_contents(store, &name(volume).into());
        match kept {
            Kept::Answered => assert!(
                *history.now() == now,
                "seed {seed}: '{volume}' is not what it was"
            ),
            Kept::Flushed => {
                assert!(
                    history.states.contains(&now),
                    "seed {seed}: '{volume}' is in none of its {} states since the last flush",
                    history.states.len()
                );
                history.states = vec![now];
            }
        }
        let snapshots = store.snapshots(&name(volume)).unwrap();
        let there: Vec<String> = snapshots.iter().map(|s| s.name.to_string()).collect();
        match &doubt {
            Some(Doubt::SnapshotMade(v, s, contents)) if v == volume && there.contains(s) => {
                history.snapshots.insert(s.clone(), contents.clone());
            }
            Some(Doubt::SnapshotGone(v, s)) if v == volume && !there.contains(s) => {
                history.snapshots.remove(s);
            }
            _ => {}
        }
        assert_eq!(
            there.len(),
            history.snapshots.len(),
            "seed {seed}: snapshots of '{volume}'"
        );
        for (snap, contents) in &history.snapshots {
            let r = VolumeRef {
                volume: name(volume),
                snapshot: Some(name(snap)),
            };
            assert!(
                read_contents(store, &r) == *contents,
                "seed {seed}: '{r}' changed"
            );
        }
    }
}
