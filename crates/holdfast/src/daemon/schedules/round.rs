//! A round: what is due, of whom together, and what has expired.
//!
//! ```text
//!  volumes with schedules ─▶ one by one: is a run due? ─▶ in groups: of one due, of all at one instant ─▶ one by one: what expired
//! ```

use super::{Host, Policy, ROUND_MS, Schedules, TICK, done, scheduled};
use crate::daemon::convert;
use api_types::EventKind;
use catalog::{SnapshotPolicy, VolumeRecord};
use schedule::{Keep, Taken, Turn};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::atomic::Ordering::Relaxed,
};
use types::{VolumeId, VolumeRef};
use volume::{Error, ErrorKind, Scheduled};

/// Of whom snapshots are taken together.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Together<'a> {
    /// Of all volumes that have this group and this schedule.
    Group(&'a str, &'a str),
    Alone(VolumeId),
}

/// A volume that has a schedule.
struct Member<'a> {
    record: &'a VolumeRecord,
    policy: Policy,
    /// Runs up to this moment are done, well or not.
    done: u64,
    /// With the run that is due, those up to this moment are.
    due: Option<u64>,
    /// When something is next, if it is not as the schedule says.
    next: Option<u64>,
}

impl Schedules {
    /// Does what is due.
    pub(crate) fn round(&self, host: &Host<'_>) {
        let now = self.now_ms();
        let all = {
            let mut state = self.state.lock();
            (state.seen_ms, state.next_ms) = (now, now + ROUND_MS);
            std::mem::take(&mut state.look)
        };
        let records = match host.store.catalog().volumes() {
            Ok(records) => records,
            Err(e) => {
                tracing::warn!(error = ?e, "scheduled snapshots: the catalog cannot be read");
                return;
            }
        };
        let mut with: BTreeSet<VolumeId> = BTreeSet::new();
        let mut together: BTreeMap<Together<'_>, Vec<Member<'_>>> = BTreeMap::new();
        for record in &records {
            let Some(policy) = scheduled(record) else {
                continue;
            };
            with.insert(record.id);
            let Some(member) = self.member(host, record, policy) else {
                continue;
            };
            let key = match policy.group.as_str() {
                "" => Together::Alone(record.id),
                _ if record.independent => Together::Alone(record.id),
                group => Together::Group(group, &policy.schedule),
            };
            together.entry(key).or_default().push(member);
        }
        for members in together.values_mut() {
            if host.stop.0.load(Relaxed) {
                return;
            }
            self.members(host, members, all);
        }
        let mut state = self.state.lock();
        state.failing.retain(|id, _| with.contains(id));
        state.unpruned.retain(|id| with.contains(id));
    }

    /// What is due of one volume; none if its policy makes no sense.
    fn member<'a>(
        &self,
        host: &Host<'_>,
        record: &'a VolumeRecord,
        text: &SnapshotPolicy,
    ) -> Option<Member<'a>> {
        let failing = self.state.lock().failing.get(&record.id).cloned();
        let mut done = done(text, failing.as_ref());
        let policy = match Policy::read(text) {
            Ok(policy) => policy,
            Err(why) => {
                self.failed(host, record, why, done, true);
                return None;
            }
        };
        let (mut due, mut next) = (None, None);
        match policy.schedule.turn(done, self.now_ms(), &host.zone) {
            Turn::Wait(at) => next = Some(at),
            Turn::Never => {}
            Turn::Back(from) => {
                done = from;
                self.state.lock().failing.remove(&record.id);
                if let Err(e) = host.store.set_scheduled(record.id, from) {
                    self.failed(host, record, convert::api_error(e).message, from, true);
                }
            }
            Turn::Run(up_to) => due = Some(up_to),
        }
        Some(Member {
            record,
            policy,
            done,
            due,
            next,
        })
    }

    /// Does what is due of volumes that belong together, and notes when something is next.
    fn members(&self, host: &Host<'_>, members: &mut [Member<'_>], all: bool) {
        let due = members.iter().filter_map(|member| member.due).max();
        let ran = due.is_some_and(|up_to| self.run(host, members, up_to));
        for Member {
            record,
            policy,
            done,
            next,
            ..
        } in members
        {
            let left = self.state.lock().unpruned.contains(&record.id);
            if ran || all || left {
                self.prune(host, record, policy, *done);
            }
            let next = next.or_else(|| policy.schedule.next(*done, &host.zone));
            let mut state = self.state.lock();
            state.next_ms = state.next_ms.min(next.unwrap_or(u64::MAX));
        }
    }

    /// Takes snapshots of all, whoever of them is due: so those who joined later come into step. Answers whether the run is over, well
    /// or not.
    fn run(&self, host: &Host<'_>, members: &mut [Member<'_>], up_to: u64) -> bool {
        let taken = self.take(host, members, up_to);
        if taken.as_ref().is_err_and(is_passing) {
            // They are others now: what is to be done is seen at the next look.
            let soon = self.now_ms() + TICK.as_millis() as u64;
            members
                .iter_mut()
                .for_each(|member| member.next = Some(soon));
            return false;
        }
        for member in members.iter_mut() {
            (member.done, member.next) = (member.done.max(up_to), None);
        }
        if let Err(e) = taken {
            let mut why = convert::api_error(e).message;
            if members.len() > 1 {
                why = format!("of none in its group, because of one of them: {why}");
            }
            for member in members {
                self.failed(host, member.record, why.clone(), member.done, true);
            }
        }
        true
    }

    /// Takes a snapshot of each, at one instant; of the same name, if their patterns are the same.
    fn take(&self, host: &Host<'_>, members: &[Member<'_>], up_to: u64) -> Result<(), Error> {
        let mut there = BTreeSet::new();
        for member in members {
            let snapshots = host.store.catalog().snapshots(member.record.id)?;
            there.extend(snapshots.into_iter().map(|snapshot| snapshot.name));
        }
        let now = self.now_ms();
        let asked = members.iter().map(|member| {
            let taken = |name: &str| there.iter().any(|one| one.as_str() == name);
            let name = member.policy.pattern.name(now, &host.zone, taken);
            let name = name.map_err(|e| Error::new(ErrorKind::Invalid, e.to_string()))?;
            Ok(Scheduled {
                volume: member.record.id,
                snapshot: VolumeRef {
                    volume: member.record.name.clone(),
                    snapshot: Some(name),
                },
                done_ms: member.done.max(up_to),
            })
        });
        let asked: Vec<Scheduled> = asked.collect::<Result<_, Error>>()?;
        host.store.take_scheduled(&asked)?;
        for one in asked {
            {
                let mut state = self.state.lock();
                state.figures.taken += 1;
                state.failing.remove(&one.volume);
            }
            let subject = one.snapshot.to_string();
            let message = format!("snapshot {subject} was taken as scheduled");
            (host.tell)(EventKind::SnapshotCreated, subject, message);
        }
        Ok(())
    }

    /// Removes what has expired of what was taken by itself.
    fn prune(&self, host: &Host<'_>, record: &VolumeRecord, policy: &Policy, done_ms: u64) {
        let outcome = match &policy.keep {
            Some(keep) => self.remove_expired(host, record, keep),
            None => Ok(true),
        };
        let mut state = self.state.lock();
        match outcome {
            Ok(whole) => {
                match whole {
                    true => state.unpruned.remove(&record.id),
                    false => state.unpruned.insert(record.id),
                };
                let removing = state.failing.get(&record.id).is_some_and(|f| !f.taking);
                if removing {
                    state.failing.remove(&record.id);
                }
            }
            Err(e) => {
                state.unpruned.insert(record.id);
                drop(state);
                self.failed(host, record, convert::api_error(e).message, done_ms, false);
            }
        }
    }

    /// Answers whether all is gone that has expired.
    fn remove_expired(
        &self,
        host: &Host<'_>,
        record: &VolumeRecord,
        keep: &Keep,
    ) -> Result<bool, Error> {
        let mut snapshots = host.store.catalog().snapshots(record.id)?;
        snapshots.retain(|snapshot| snapshot.scheduled);
        let taken = snapshots.iter().map(|snapshot| Taken {
            id: snapshot.id,
            at_ms: snapshot.created_ms,
        });
        let taken: Vec<Taken> = taken.collect();
        let expired = keep.expired(&taken, &host.zone);
        let mut whole = true;
        for snapshot in snapshots.iter().filter(|s| expired.contains(&s.id)) {
            let r = VolumeRef {
                volume: record.name.clone(),
                snapshot: Some(snapshot.name.clone()),
            };
            if host.stop.0.load(Relaxed) || (host.in_use)(&r) {
                whole = false;
                continue;
            }
            match host.store.remove_scheduled(&r, snapshot.id) {
                Ok(()) => {}
                Err(e) if is_passing(&e) => continue,
                Err(e) => return Err(e),
            }
            self.state.lock().figures.removed += 1;
            let message = format!("snapshot {r} has expired and was removed");
            (host.tell)(EventKind::SnapshotRemoved, r.to_string(), message);
        }
        Ok(whole)
    }
}

/// Whether it is about what somebody else has just changed, or about the daemon's end.
fn is_passing(e: &Error) -> bool {
    matches!(
        e.kind(),
        ErrorKind::NotFound | ErrorKind::Conflict | ErrorKind::Closed
    )
}
