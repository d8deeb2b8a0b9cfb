//! What a store must hold, and what the end of a life leaves open.

use crate::blocks::Contents;
use std::collections::BTreeMap;
use types::{SnapshotId, VolumeId};

/// How a life of the store ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// In order: whatever comes next, all that was answered is there.
    Closed,
    /// The process was killed, and what it had in memory outlived it.
    Killed,
    /// The machine lost its power; or the process was killed and its memory was its own.
    PowerCut,
}

impl End {
    /// Both, one after the other, with nothing done between: what was closed in order stays so.
    pub(crate) fn and_then(self, later: End) -> End {
        match (self, later) {
            (End::Closed, _) => End::Closed,
            (End::Killed, End::Killed) => End::Killed,
            _ => End::PowerCut,
        }
    }
}

/// All that should be there.
#[derive(Clone, Default)]
pub(crate) struct Model {
    pub(crate) volumes: BTreeMap<String, History>,
    pub(crate) trash: BTreeMap<VolumeId, (String, History)>,
    /// What an operation that was not answered may have done.
    pub(crate) doubt: Option<Doubt>,
    /// Volumes are imported while they are used.
    pub(crate) imports: bool,
}

/// What became of one volume.
#[derive(Clone)]
pub(crate) struct History {
    /// States since the last flush, the last one is now.
    states: Vec<Contents>,
    /// Those after this one are of an operation that was not answered.
    answered: usize,
    /// States between the last flush but one and the last.
    before: Vec<Contents>,
    pub(crate) snapshots: BTreeMap<String, Contents>,
    /// What it goes back to, if writes are kept apart.
    pub(crate) base: Option<Contents>,
}

/// Done or not done.
#[derive(Clone)]
pub(crate) enum Doubt {
    SnapshotMade(String, String, Contents),
    /// All of them, or none.
    GroupMade(String, Vec<(String, Contents)>),
    SnapshotGone(String, String),
    /// What it goes back to is no longer this snapshot, but this.
    BaseMoved(String, Option<SnapshotId>, Option<Contents>),
    VolumeMade(String, Contents),
    VolumeTrashed(String, VolumeId),
    VolumeRestored(VolumeId),
    /// Any of those in the trash may be gone.
    VolumesPurged,
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

    /// Of volumes that have this name in the trash, the oldest.
    pub(crate) fn in_trash(&self, volume: &str) -> Option<VolumeId> {
        let named = |(_, (name, _)): &(_, &(String, _))| name == volume;
        self.trash.iter().find(named).map(|(id, _)| *id)
    }
}

impl History {
    pub(crate) fn new(contents: Contents) -> Self {
        History {
            states: vec![contents],
            answered: 0,
            before: Vec::new(),
            snapshots: BTreeMap::new(),
            base: None,
        }
    }

    pub(crate) fn now(&self) -> &Contents {
        self.states.last().unwrap()
    }

    pub(crate) fn blocks(&self) -> usize {
        self.now().len()
    }

    /// An operation begins that changes the contents so.
    pub(crate) fn change(&mut self, change: impl FnOnce(&mut Contents)) {
        let mut next = self.now().clone();
        change(&mut next);
        self.states.push(next);
    }

    /// Every state that a crash could bring back gets a sibling, of another size: who changes the size has it
    /// durable at once, whatever else is not.
    pub(crate) fn change_size(&mut self, blocks: usize) {
        let mut resized = self.states.clone();
        resized.iter_mut().for_each(|c| c.resize(blocks, 0));
        self.states.extend(resized);
        self.before.iter_mut().for_each(|c| c.resize(blocks, 0));
    }

    /// The size is what [`change_size`](Self::change_size) made of it, and nothing else is durable.
    pub(crate) fn size_changed(&mut self) {
        let blocks = self.blocks();
        self.states.retain(|state| state.len() == blocks);
        self.answered();
    }

    /// The operation was answered.
    pub(crate) fn answered(&mut self) {
        self.answered = self.states.len() - 1;
    }

    /// All that was answered is durable, and so is what was just answered.
    pub(crate) fn flushed(&mut self) {
        if self.states.len() == 1 {
            // There was nothing to be made durable.
            return;
        }
        let now = vec![self.now().clone()];
        self.before = std::mem::replace(&mut self.states, now);
        self.answered = 0;
    }

    /// The last flush looks as if it had not come about: its disk lied.
    pub(crate) fn may_lack_the_last_flush(&mut self) {
        self.states.splice(0..0, self.before.iter().cloned());
        self.answered = 0;
    }

    /// What may be found after such an end. The only place that says so.
    pub(crate) fn allowed(&self, end: End) -> &[Contents] {
        match end {
            // What was answered is there, and perhaps what was not.
            End::Closed | End::Killed => &self.states[self.answered..],
            // What was flushed is there, and perhaps more.
            End::PowerCut => &self.states,
        }
    }

    /// What the store may show after an operation failed and the machine lives.
    pub(crate) fn allowed_now(&self) -> &[Contents] {
        &self.states[self.answered..]
    }

    /// This is what was found after `end`.
    pub(crate) fn found(&mut self, end: End, now: Contents) {
        match end {
            // As durable as before: the next end may be another.
            End::Killed => self.states.push(now),
            End::Closed | End::PowerCut => self.states = vec![now],
        }
        self.answered();
    }

    /// This is what is seen after an operation failed: what it did may yet turn out to be durable.
    pub(crate) fn seen(&mut self, now: Contents) {
        self.states.push(now);
        self.answered();
    }
}
