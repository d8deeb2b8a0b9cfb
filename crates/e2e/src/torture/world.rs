//! What the store must hold: volumes, snapshots, the trash. Where a kill cut something off, both outcomes
//! are right until the store was looked at; from then on only what was seen.

use super::{
    content::Content,
    history::{Cut, History, Tick},
    tally::Tally,
    writer::{Disk, read_all},
};
use crate::daemon::Daemon;
use anyhow::{Context, Result, bail, ensure};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// What is known of contents.
pub(super) enum Image {
    /// They are these.
    Exact(Vec<Content>),
    /// They are a state of this history.
    Within(Box<History>, Cut),
}

impl Image {
    pub(super) fn verify(&self, state: &[Content]) -> Result<()> {
        match self {
            Image::Within(history, cut) => history.verify(state, *cut),
            Image::Exact(want) => {
                let differs = want.iter().zip(state).position(|(a, b)| a != b);
                if let Some(block) = differs {
                    let (want, got) = (want[block], state[block]);
                    bail!("block {block} was {want:?} and is {got:?}");
                }
                ensure!(want.len() == state.len(), "its size changed");
                Ok(())
            }
        }
    }
}

/// A snapshot.
pub(super) struct Shot {
    pub(super) image: Image,
    /// It may be there or not.
    pub(super) maybe: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Listed,
    Trash,
    Gone,
}

/// What happened to a volume since it was last looked at; the worst of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Lately {
    /// It was used. What it holds need not be durable.
    Used,
    /// It was made, or the daemon was stopped in order: what it holds is durable, and is all that was answered.
    Stopped,
    /// The daemon was killed.
    Killed,
    /// The daemon was killed, and then a daemon was killed at its start that had no eyes for the write buffer: that may
    /// be lost or not.
    Unsure,
    /// The daemon was killed and its write buffer is lost: what it holds is durable.
    PowerCut,
}

/// A volume and its snapshots.
pub(super) struct Volume {
    pub(super) disk: Arc<Disk>,
    pub(super) place: Place,
    /// Where else it may be.
    pub(super) maybe: Option<Place>,
    /// What else its contents may be: a clone or a rollback was cut off.
    pub(super) instead: Option<Image>,
    pub(super) shots: BTreeMap<String, Shot>,
    pub(super) lately: Lately,
}

impl Volume {
    pub(super) fn new(disk: Disk, place: Place) -> Self {
        Volume {
            disk: Arc::new(disk),
            place,
            maybe: None,
            instead: None,
            shots: BTreeMap::new(),
            lately: Lately::Stopped,
        }
    }

    pub(super) fn name(&self) -> &str {
        &self.disk.name
    }

    /// Whether all that is known of it is certain.
    pub(super) fn is_certain(&self) -> bool {
        self.maybe.is_none() && self.instead.is_none() && self.place == Place::Listed
    }

    /// Reads and compares all of it. What is durable is what it is from now on.
    pub(super) fn verify(&mut self, looker: &Looker<'_>) -> Result<()> {
        let state = looker.read(self.name())?;
        let from = match self.lately {
            Lately::Used | Lately::Stopped | Lately::Killed => Tick::MAX,
            Lately::Unsure | Lately::PowerCut => self.disk.history().flushed_at(),
        };
        let cut = Cut {
            from,
            until: Tick::MAX,
            durable: true,
        };
        let instead = self.instead.take().map(|image| image.verify(&state));
        let is_instead = matches!(instead, Some(Ok(())));
        if !is_instead {
            let verdict = self.disk.history().verify(&state, cut);
            verdict.with_context(|| {
                let (name, lately) = (self.name(), self.lately);
                format!(
                    "volume '{name}', {lately:?}, not what a clone or a rollback gives: {instead:?}"
                )
            })?;
        }
        match self.lately {
            Lately::Used if !is_instead => {}
            Lately::Killed | Lately::Unsure if !is_instead => {
                self.disk.history().observed(&state, from);
            }
            _ => self.disk.settle(&state),
        }
        self.lately = Lately::Used;
        Ok(())
    }

    /// The same for one of its snapshots.
    pub(super) fn verify_shot(&mut self, looker: &Looker<'_>, shot: &str) -> Result<()> {
        let export = format!("{}@{shot}", self.name());
        let state = looker.read(&export)?;
        let shot = self.shots.get_mut(shot).context("no such snapshot")?;
        let verdict = shot.image.verify(&state);
        verdict.with_context(|| format!("snapshot '{export}'"))?;
        shot.image = Image::Exact(state);
        Ok(())
    }
}

/// Reads what is there.
pub(super) struct Looker<'a> {
    pub(super) daemon: &'a Daemon,
    pub(super) tally: &'a Tally,
}

impl Looker<'_> {
    pub(super) fn read(&self, export: &str) -> Result<Vec<Content>> {
        let state = read_all(&self.daemon.nbd_socket(), export, self.tally);
        state.with_context(|| format!("reading '{export}'"))
    }

    fn names(&self, arguments: &[&str]) -> Result<BTreeSet<String>> {
        let list = self.daemon.json(arguments)?;
        let entries = list.as_array().context("not a list")?.iter();
        let name = |entry: &serde_json::Value| Some(entry.get("name")?.as_str()?.to_owned());
        let names: Option<BTreeSet<_>> = entries.map(name).collect();
        names.context("an entry without a name")
    }
}

/// All that is in the store.
pub(super) struct World {
    pub(super) volumes: Vec<Volume>,
}

impl World {
    /// The daemon ended, one way or the other.
    pub(super) fn ended(&mut self, how: Lately) {
        for volume in &mut self.volumes {
            volume.lately = volume.lately.max(how);
        }
    }

    /// The write buffer of the daemon that was killed is lost, or perhaps it is.
    pub(super) fn buffer_lost(&mut self, how: Lately) {
        for volume in &mut self.volumes {
            if volume.lately >= Lately::Killed {
                volume.lately = volume.lately.max(how);
            }
        }
    }

    /// Whether something may be there or not.
    pub(super) fn is_unsure(&self) -> bool {
        let unsure = |v: &Volume| v.maybe.is_some() || v.shots.values().any(|shot| shot.maybe);
        self.volumes.iter().any(unsure)
    }

    /// Looks what there is. Contents are not read.
    ///
    /// # Errors
    /// Something is missing, or too much.
    pub(super) fn reconcile(&mut self, looker: &Looker<'_>) -> Result<()> {
        let mut listed = looker.names(&["volume", "ls"])?;
        let mut trash = looker.names(&["trash", "ls"])?;
        for volume in &mut self.volumes {
            let is = match (listed.remove(volume.name()), trash.remove(volume.name())) {
                (true, true) => bail!("'{}' is there and in the trash", volume.name()),
                (true, false) => Place::Listed,
                (false, true) => Place::Trash,
                (false, false) => Place::Gone,
            };
            let maybe = volume.maybe.take();
            ensure!(
                is == volume.place || Some(is) == maybe,
                "'{}' is {is:?}; it should be {:?} or {maybe:?}",
                volume.name(),
                volume.place
            );
            volume.place = is;
            if is == Place::Listed {
                volume.reconcile(looker)?;
            }
        }
        self.volumes.retain(|volume| volume.place != Place::Gone);
        ensure!(
            listed.is_empty() && trash.is_empty(),
            "there are {listed:?} and {trash:?} too"
        );
        Ok(())
    }

    /// Reads and compares every volume, and its snapshots as far as `which` wants.
    pub(super) fn verify(
        &mut self,
        looker: &Looker<'_>,
        mut which: impl FnMut(&Shot) -> bool,
    ) -> Result<()> {
        for volume in self.volumes.iter_mut().filter(|v| v.place == Place::Listed) {
            volume.verify(looker)?;
            let wanted = volume.shots.iter().filter(|(_, shot)| which(shot));
            let wanted: Vec<String> = wanted.map(|(name, _)| name.clone()).collect();
            for shot in wanted {
                volume.verify_shot(looker, &shot)?;
            }
        }
        Ok(())
    }
}

impl Volume {
    fn reconcile(&mut self, looker: &Looker<'_>) -> Result<()> {
        let name = self.disk.name.clone();
        let mut listed = looker.names(&["snapshot", "ls", &name])?;
        let mut missing = None;
        self.shots.retain(|shot, state| {
            let is = listed.remove(shot);
            if !is && !state.maybe {
                missing = Some(shot.clone());
            }
            state.maybe = false;
            is
        });
        if let Some(shot) = missing {
            bail!("the snapshot '{name}@{shot}' is missing");
        }
        ensure!(
            listed.is_empty(),
            "'{name}' has the snapshots {listed:?} too"
        );
        Ok(())
    }
}
