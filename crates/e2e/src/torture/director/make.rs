//! New volumes: clones of snapshots and of volumes as they are, and imported images.

use super::{Director, Outcome, within};
use crate::torture::{
    content::{BLOCK, Content},
    history::History,
    world::{Image, Place, Volume},
    writer::Disk,
};
use anyhow::{Context, Result, bail};

/// So many in all, at most.
const CLONES: usize = 5;

impl Director<'_> {
    /// Of a snapshot, or of a volume as it is now.
    pub(super) fn clone(&mut self) -> Result<()> {
        if self.clones() >= CLONES {
            return Ok(());
        }
        let live = self.rng.bool();
        let Some((at, source, image)) = (if live { self.live() } else { self.frozen()? }) else {
            return Ok(());
        };
        let number = self.number();
        let name = format!("c{number}");
        let from = self.world.volumes[at].disk.history().tick();
        let outcome = self.call(&["volume", "clone", &source, &name])?;
        let done = outcome == Outcome::Done;
        let image = image.unwrap_or_else(|| within(&self.world.volumes[at].disk, from, false));
        if done {
            self.stage.tally.clones.add(1);
        }
        self.made(name, number, image, done)
    }

    /// A volume was made that holds `image`; or, unless it is `done`, perhaps it was.
    fn made(&mut self, name: String, number: u32, image: Image, done: bool) -> Result<()> {
        let disk = Disk::new(name, number, History::new(&[], 0));
        let place = if done { Place::Listed } else { Place::Gone };
        let mut volume = Volume::new(disk, place);
        volume.instead = Some(image);
        volume.maybe = (!done).then_some(Place::Listed);
        self.world.volumes.push(volume);
        match self.world.volumes.last_mut() {
            Some(volume) if done => volume.verify(&self.stage.looker()),
            _ => Ok(()),
        }
    }

    /// Of an image of some MiB: all of it, or nothing.
    pub(super) fn import(&mut self) -> Result<()> {
        if self.clones() >= CLONES {
            return Ok(());
        }
        let number = self.number();
        let (name, sequence) = (format!("c{number}"), 0);
        let blocks = self.rng.u32(256..2048);
        let own = |block| match block / 64 % 3 {
            0 => Content::Zero,
            _ => Content::Own {
                volume: number,
                block,
                sequence,
            },
        };
        let state: Vec<Content> = (0..blocks).map(own).collect();
        let mut bytes = vec![0; state.len() * BLOCK];
        for (content, place) in state.iter().zip(bytes.chunks_exact_mut(BLOCK)) {
            content.fill(place);
        }
        let file = self.stage.daemon.directory().join("image.raw");
        std::fs::write(&file, &bytes)?;
        let path = file.to_str().context("a path that is no text")?;
        let done = self.call(&["volume", "import", path, &name])? == Outcome::Done;
        self.stage.tally.imports.add(done.into());
        self.made(name, number, Image::Exact(state), done)
    }

    /// How many there are.
    fn clones(&self) -> usize {
        let volumes = self.world.volumes.iter();
        volumes.filter(|v| v.name().starts_with('c')).count()
    }

    fn live(&mut self) -> Option<(usize, String, Option<Image>)> {
        let at = self.pick(|_| true)?;
        Some((at, self.world.volumes[at].name().to_owned(), None))
    }

    fn frozen(&mut self) -> Result<Option<(usize, String, Option<Image>)>> {
        let Some((at, shot)) = self.pick_shot() else {
            return Ok(None);
        };
        let image = self.exact(at, &shot)?;
        let source = format!("{}@{shot}", self.world.volumes[at].name());
        Ok(Some((at, source, Some(image))))
    }

    /// What a snapshot holds; it is read if that is not known.
    pub(super) fn exact(&mut self, at: usize, shot: &str) -> Result<Image> {
        let volume = &mut self.world.volumes[at];
        if !matches!(volume.shots[shot].image, Image::Exact(_)) {
            volume.verify_shot(&self.stage.looker(), shot)?;
        }
        match &volume.shots[shot].image {
            Image::Exact(state) => Ok(Image::Exact(state.clone())),
            Image::Within(..) => bail!("'{shot}' was just read"),
        }
    }
}
