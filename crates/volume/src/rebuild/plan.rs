//! What the new catalog has: decided from what was found, touching nothing.

use super::survey::{Known, Logged, Reach};
use catalog::{Contents, ImageSource, Properties, Trashed, VolumeRecord};
use catalog_copy::Found;
use format::RootNote;
use journal::After;
use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound::{Excluded, Unbounded},
};
use types::{
    Epoch, Generation, Limits, Name, PackId, Root, VOLUME_SIZE_MAX, VolumeId, size::format_size,
};

/// Pack ids that are left out where it is not known which were handed out: packs that were removed had some.
const PACK_IDS_SKIPPED: u64 = 1 << 20;
/// Generations that are left out where journal and write buffer may have some that must not be used.
const GENERATIONS_SKIPPED: u64 = 1 << 32;

/// A new catalog, and what is to be said about it.
pub(super) struct Plan {
    pub(super) contents: Contents,
    pub(super) from: String,
    pub(super) older: Vec<(String, String)>,
}

/// What can be had of a root, of a volume of so many bytes.
type ReachOf<'a> = &'a mut dyn FnMut(Root, u64) -> Reach;

/// Decides.
pub(super) fn plan(found: Found, known: &Known, reach: ReachOf<'_>, now_ms: u64) -> Plan {
    let complete = |copy: &Contents| found.complete && !contradict(known, copy);
    let (from, lost) = match &found.contents {
        Some(copy) if complete(copy) => {
            let from = format!("its copy, which is complete to commit {}", copy.commit);
            (from, None)
        }
        Some(copy) => {
            let commit = copy.commit;
            let from = format!("its copy, which ends at commit {commit}, and notes in packs");
            let lost = format!(
                "the copy of the catalog is damaged: names, sizes and snapshots that changed after commit {commit} are not known"
            );
            (from, Some(lost))
        }
        None => {
            let lost = "no copy of the catalog can be read: snapshots, settings, and volumes that nothing was written to are not known";
            ("notes in packs alone".to_owned(), Some(lost.to_owned()))
        }
    };
    let mut plan = Plan {
        contents: found.contents.unwrap_or_default(),
        from,
        older: Vec::new(),
    };
    let exact = lost.is_none();
    if let Some(lost) = lost {
        plan.say("", lost);
        plan.advance(known, reach, now_ms);
    }
    plan.say_what_is_unreadable(reach);
    plan.count_on(known, found.last_commit, exact);
    plan
}

/// Whether there is something that cannot be if the copy knows every commit: an epoch, a volume or a pack that it does
/// not know, or destages of two generations that it does not know (one may have been under way).
fn contradict(known: &Known, copy: &Contents) -> bool {
    let beyond = |(id, notes): (&VolumeId, &Vec<RootNote>)| {
        let destaged = copy.volumes.get(id).map(|record| record.destaged);
        let newer = notes.iter().filter(|note| note.epoch == copy.epoch);
        let newer = newer.filter(|note| destaged.is_some_and(|last| note.generation > last));
        newer
            .map(|note| note.generation)
            .collect::<BTreeSet<_>>()
            .len()
            > 1
    };
    let volumes = known.notes.keys().chain(known.journal.keys());
    let handed_out = |id: &VolumeId| id.0 > copy.last_volume;
    known.epoch > copy.epoch
        || known.last_pack > copy.last_pack
        || volumes.into_iter().any(handed_out)
        || known.notes.iter().any(beyond)
}

impl Plan {
    fn say(&mut self, owner: &str, what: String) {
        self.older.push((owner.to_owned(), what));
    }

    /// Takes what packs know beyond the copy.
    fn advance(&mut self, known: &Known, reach: ReachOf<'_>, now_ms: u64) {
        // Who was written to last keeps a name that several have.
        let mut newest_first: Vec<(&VolumeId, &Vec<RootNote>)> = known.notes.iter().collect();
        newest_first.sort_by_key(|(id, notes)| {
            let epoch = notes.last().map(|note| note.epoch);
            std::cmp::Reverse((epoch, **id))
        });
        for (id, notes) in newest_first {
            if self.contents.volumes.contains_key(id) {
                self.advance_volume(*id, known, reach);
            } else {
                self.bring_back(notes, reach, now_ms);
            }
        }
        for (id, generations) in &known.journal {
            self.connect(*id, generations, known);
        }
        self.settle_snapshots();
    }

    /// What the copy has may have been removed since, and its blocks collected. It stays, as it may be damage as well.
    fn say_what_is_unreadable(&mut self, reach: ReachOf<'_>) {
        let mut unreadable = Vec::new();
        for volume in self.contents.volumes.values() {
            if reach(volume.root, volume.size) != Reach::Whole {
                unreadable.push(label(volume));
            }
        }
        for snapshot in self.contents.snapshots.values() {
            let root = snapshot.root.unwrap_or(Root::EMPTY);
            let volume = self.contents.volumes.get(&snapshot.volume);
            if let (Reach::Map | Reach::Parts, Some(volume)) = (reach(root, snapshot.size), volume)
            {
                unreadable.push(format!("{}@{}", label(volume), snapshot.name));
            }
        }
        for owner in unreadable {
            let what =
                "parts of it cannot be read: it was removed after the copy ends, or is damaged";
            self.say(&owner, what.to_owned());
        }
    }

    /// A volume that the copy has: its newest root, and the roots of snapshots that wait.
    fn advance_volume(&mut self, id: VolumeId, known: &Known, reach: ReachOf<'_>) {
        let notes = known.notes.get(&id).map_or(&[][..], Vec::as_slice);
        let epoch = self.contents.epoch;
        let Some(mut record) = self.contents.volumes.get(&id).cloned() else {
            return;
        };
        let old = record.clone();
        let newer: Vec<&RootNote> = notes
            .iter()
            .filter(|note| note.epoch >= epoch && is_newer(note, &old))
            .collect();
        for snapshot in self.contents.snapshots.values_mut() {
            if snapshot.volume != id || snapshot.root.is_some() {
                continue;
            }
            let same = |note: &&&RootNote| note.generation == snapshot.generation;
            if let Some(note) = newer.iter().rev().find(same)
                && reach(note.root, note.size) != Reach::Parts
            {
                (snapshot.root, snapshot.mapped_blocks) = (Some(note.root), note.mapped_blocks);
            } else if snapshot.generation <= old.destaged {
                (snapshot.root, snapshot.mapped_blocks) = (Some(old.root), old.mapped_blocks);
            }
        }
        let readable = newer
            .iter()
            .rev()
            .find(|note| reach(note.root, note.size) != Reach::Parts);
        if let Some(note) = readable {
            // The larger size: what was cut off reads as zeroes, what was added is not lost.
            record.size = record.size.max(note.size);
            record.epoch = record.epoch.max(note.epoch);
            (record.root, record.mapped_blocks) = (note.root, note.mapped_blocks);
            record.destaged = note.generation;
            record.source = source_of(note, old.source.as_deref());
        }
        if old.source.is_some() && record.source.is_none() {
            self.remove_unfilled(&record, &old);
        }
        let lost = newer
            .last()
            .filter(|last| last.generation > record.destaged);
        let lost = lost.map(|note| note.generation);
        let label = label(&record);
        if let Some(lost) = lost {
            self.say(
                &label,
                format!(
                    "set back to generation {}: the block map of generation {lost} cannot be read",
                    record.destaged
                ),
            );
            set_back(&mut record, lost, known);
        }
        self.contents.volumes.insert(id, record);
    }

    /// A volume that the copy has not.
    fn bring_back(&mut self, notes: &[RootNote], reach: ReachOf<'_>, now_ms: u64) {
        let Some(last) = notes.last() else { return };
        let Some(note) = notes
            .iter()
            .rev()
            .find(|note| reach(note.root, note.size) != Reach::Parts)
        else {
            self.say(
                last.name.as_str(),
                "not restored: its block map cannot be read".to_owned(),
            );
            return;
        };
        let mut destaged = note.generation;
        if note.generation < last.generation {
            let what = format!(
                "set back to generation {destaged}: the block map of generation {} cannot be read",
                last.generation
            );
            self.say(last.name.as_str(), what);
            destaged = beyond(last.generation);
        }
        let removed = last.volume.0 <= self.contents.last_volume;
        let taken = self.has_name(&last.name);
        if removed || taken {
            let why = if removed {
                "it had been removed, or was made after the copy ends"
            } else {
                "another volume has its name"
            };
            let what = format!("in the trash as volume {}: {why}", last.volume);
            self.say(last.name.as_str(), what);
        }
        if note.partial {
            let what = "what it was imported from is not known: what was not in the store yet cannot be read";
            self.say(last.name.as_str(), what.to_owned());
        }
        let keep_ms = self.contents.settings.trash_keep_s.saturating_mul(1000);
        let record = VolumeRecord {
            id: note.volume,
            version: 1,
            name: last.name.clone(),
            epoch: note.epoch,
            size: note.size,
            root: note.root,
            destaged,
            mapped_blocks: note.mapped_blocks,
            properties: Properties {
                dedup: last.dedup,
                codec: last.codec,
                read_only: last.read_only,
            },
            created_ms: now_ms,
            origin: None,
            trashed: (removed || taken).then(|| Trashed {
                at_ms: now_ms,
                until_ms: now_ms.saturating_add(keep_ms),
            }),
            // Nobody notes these but the catalog.
            quota: None,
            vhost_queues: 0,
            backend: catalog::Backend::Store,
            limits: Limits::NONE,
            source: source_of(note, None),
            mode: Default::default(),
            base: None,
            independent: false,
            policy: None,
        };
        self.contents.volumes.insert(record.id, record);
    }

    /// The import of a volume ended after the copy does: what its snapshots had for their holes is not known.
    fn remove_unfilled(&mut self, volume: &VolumeRecord, old: &VolumeRecord) {
        let snapshots = &mut self.contents.snapshots;
        let unfilled: Vec<_> = snapshots
            .extract_if(.., |_, snapshot| {
                snapshot.volume == volume.id && snapshot.generation <= old.destaged
            })
            .map(|(_, snapshot)| format!("{}@{}", label(volume), snapshot.name))
            .collect();
        for owner in unfilled {
            let what = "removed: it was still being imported where the copy ends";
            self.say(&owner, what.to_owned());
        }
    }

    fn has_name(&self, name: &Name) -> bool {
        let mut live = self.contents.volumes.values();
        live.any(|volume| volume.trashed.is_none() && volume.name == *name)
    }

    /// A snapshot whose generation was destaged and whose root is not known is lost.
    fn settle_snapshots(&mut self) {
        let volumes = &self.contents.volumes;
        let destaged = |volume| volumes.get(&volume).map(|record| record.destaged);
        let snapshots = self.contents.snapshots.values();
        let lost: Vec<_> = snapshots
            .filter(|s| s.root.is_none() && destaged(s.volume) >= Some(s.generation))
            .map(|s| (s.volume, s.id))
            .collect();
        for key in lost {
            if let Some(snapshot) = self.contents.snapshots.remove(&key) {
                let volume = self.contents.volumes.get(&key.0).map(label);
                let owner = format!("{}@{}", volume.unwrap_or_default(), snapshot.name);
                self.say(&owner, "removed: its block map is not known".to_owned());
            }
        }
        self.settle_modes();
    }

    /// A volume whose base is lost has nothing to go back to: what it is stays.
    fn settle_modes(&mut self) {
        let snapshots = &self.contents.snapshots;
        let lost = |record: &&mut VolumeRecord| {
            let base = record.base.map(|base| (record.id, base));
            base.is_some_and(|base| !snapshots.contains_key(&base))
        };
        let mut said = Vec::new();
        for record in self.contents.volumes.values_mut().filter(lost) {
            (record.mode, record.base) = Default::default();
            said.push(label(record));
        }
        for owner in said {
            let what = "persistent from now on: what it was to go back to is lost";
            self.say(&owner, what.to_owned());
        }
    }

    /// What the journal has of a volume goes on top of its root only if nothing is missing between, nor of it. Then the
    /// volume is as large as it must have been: a copy that ends early does not know that it grew.
    fn connect(&mut self, id: VolumeId, generations: &BTreeMap<Generation, Logged>, known: &Known) {
        let Some(record) = self.contents.volumes.get_mut(&id) else {
            let what = format!("the journal has writes of volume {id}, of which nothing is known");
            self.say("", what);
            return;
        };
        let newer = || generations.range((Excluded(record.destaged), Unbounded));
        let follows = |((g, logged), n): ((&Generation, &Logged), u64)| {
            let whole = logged.after == After::Journal || (n == 1 && logged.after == After::Packs);
            g.0 - n == record.destaged.0 && whole
        };
        let connected = newer().zip(1..).all(follows);
        let end = newer().map(|(_, logged)| logged.end).max().unwrap_or(0);
        let what = match generations.last_key_value() {
            Some((&last, _)) if !connected => {
                let root = record.destaged;
                set_back(record, last, known);
                format!(
                    "as it was after generation {root}: the journal's newer writes do not follow on it"
                )
            }
            _ if end > record.size => {
                record.size = end.min(VOLUME_SIZE_MAX);
                format!(
                    "had grown after the copy ends; it is {} now, as far as it was written",
                    format_size(record.size)
                )
            }
            _ => return,
        };
        let label = label(record);
        self.say(&label, what);
    }

    /// Nothing that was handed out is handed out again.
    fn count_on(&mut self, known: &Known, last_commit: u64, exact: bool) {
        let contents = &mut self.contents;
        contents.commit = contents.commit.max(last_commit).saturating_add(1);
        contents.epoch = contents.epoch.max(known.epoch);
        if !exact {
            // Nobody wrote under this epoch: what the write buffer has does not count, as it may not follow.
            contents.epoch = Epoch(contents.epoch.0.saturating_add(1));
            let volumes = contents.volumes.values_mut();
            volumes.for_each(|volume| volume.epoch = contents.epoch);
        }
        let volumes = known.notes.keys().chain(known.journal.keys());
        let last_volume = volumes.map(|id| id.0).max().unwrap_or(0);
        contents.last_volume = contents.last_volume.max(last_volume);
        contents.last_pack = contents.last_pack.max(known.last_pack);
        if !exact {
            let skipped = contents.last_pack.saturating_add(PACK_IDS_SKIPPED);
            contents.last_pack = skipped.min(PackId::LIMIT - 1);
        }
    }
}

/// A volume becomes what its root is, without what came after it up to generation `lost`: also as large as it was then,
/// as it may have been cut off since.
fn set_back(record: &mut VolumeRecord, lost: Generation, known: &Known) {
    record.destaged = beyond(lost);
    let of_root = |note: &&RootNote| note.root == record.root;
    let sizes = known.notes.values().flatten().filter(of_root);
    record.size = sizes.map(|note| note.size).fold(record.size, u64::max);
}

/// Whether a note is of what came after what the copy has: a generation, or more of the image that it is imported from.
fn is_newer(note: &RootNote, old: &VolumeRecord) -> bool {
    let filled = note.generation == old.destaged && old.source.is_some();
    note.generation > old.destaged || filled
}

/// What the holes of a root are read from: what the copy says, if it does.
fn source_of(note: &RootNote, known: Option<&ImageSource>) -> Option<Box<ImageSource>> {
    let unknown = || ImageSource {
        size: note.size,
        ..ImageSource::default()
    };
    note.partial
        .then(|| Box::new(known.cloned().unwrap_or_else(unknown)))
}

fn beyond(generation: Generation) -> Generation {
    Generation(generation.0.saturating_add(GENERATIONS_SKIPPED))
}

fn label(volume: &VolumeRecord) -> String {
    match volume.trashed {
        None => volume.name.to_string(),
        Some(_) => format!("trash:{}", volume.id),
    }
}

#[cfg(test)]
mod tests;
