//! What was asked of a volume, in which order, and which states it may therefore have.
//!
//! A clock counts events: the sending of each request, and the coming of each answer. A write took
//! effect at some moment between the two. So a state is a prefix of the volume's history exactly if
//!
//! - no block is older than the newest write to it that was answered before the *cut*, and
//! - with any write that the state shows, it has all that were answered before that one was sent.
//!
//! Writes that are not ordered by their answers may be there or not. At most one write to a block
//! is under way at a time, so that the writes to a block are in one order, whatever else overlaps.

use super::content::Content;
use anyhow::{Result, bail, ensure};

/// A moment of the clock.
pub type Tick = u64;

/// A state lies between two moments: it has what was answered before the first, and nothing that was
/// sent after the second.
#[derive(Clone, Copy, Debug)]
pub struct Cut {
    /// What was answered before is there.
    pub from: Tick,
    /// What was sent later is not.
    pub until: Tick,
    /// Writes that were durable by themselves (FUA) are there, whenever they were answered.
    pub durable: bool,
}

#[derive(Clone, Copy, Debug)]
struct Version {
    content: Content,
    sent: Tick,
    /// When it was answered without an error; never, else.
    answered: Option<Tick>,
    durable: bool,
}

impl Version {
    fn is_due(&self, from: Tick, durable: bool) -> bool {
        let answered = self.answered.is_some_and(|answered| answered <= from);
        answered || (durable && self.durable)
    }
}

/// The writes to a volume since a state that is known.
#[derive(Clone, Debug)]
pub struct History {
    blocks: Vec<Vec<Version>>,
    /// Requests are under way for these: writers leave them alone.
    reserved: Vec<bool>,
    clock: Tick,
    flushed: Tick,
    sequence: u64,
}

impl History {
    /// Begins with a state that is known to be kept.
    #[must_use]
    pub fn new(state: &[Content], sequence: u64) -> Self {
        let version = |&content| {
            vec![Version {
                content,
                sent: 0,
                answered: Some(0),
                durable: true,
            }]
        };
        History {
            blocks: state.iter().map(version).collect(),
            reserved: vec![false; state.len()],
            clock: 0,
            flushed: 0,
            sequence,
        }
    }

    /// How many blocks the volume has.
    #[must_use]
    pub fn len(&self) -> u32 {
        self.blocks.len() as u32
    }

    /// Whether it has none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.blocks.is_empty()
    }

    /// Number of the last write that was begun.
    #[must_use]
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// The next write's number.
    pub fn next_sequence(&mut self) -> u64 {
        self.sequence += 1;
        self.sequence
    }

    /// This moment.
    pub fn tick(&mut self) -> Tick {
        self.clock += 1;
        self.clock
    }

    /// Takes `length` blocks for a request, unless one of them is in use.
    pub fn reserve(&mut self, block: u32, length: u32) -> bool {
        let range = block as usize..(block + length) as usize;
        let free = self.reserved[range.clone()].iter().all(|taken| !taken);
        if free {
            self.reserved[range].fill(true);
        }
        free
    }

    /// Gives them back.
    pub fn release(&mut self, block: u32, length: u32) {
        self.reserved[block as usize..(block + length) as usize].fill(false);
    }

    /// A write of `contents` from `block` on is about to be sent.
    pub fn sending(&mut self, block: u32, contents: &[Content]) {
        let sent = self.tick();
        for (versions, &content) in self.blocks[block as usize..].iter_mut().zip(contents) {
            versions.push(Version {
                content,
                sent,
                answered: None,
                durable: false,
            });
        }
    }

    /// The last write to these blocks succeeded; `durable` (FUA) makes it durable, and all that was answered
    /// before it was sent.
    pub fn answered(&mut self, block: u32, length: u32, durable: bool) {
        let now = self.tick();
        for versions in &mut self.blocks[block as usize..(block + length) as usize] {
            if let Some(version) = versions.last_mut() {
                version.answered = Some(now);
                version.durable = durable;
                if durable {
                    self.flushed = self.flushed.max(version.sent);
                }
            }
        }
    }

    /// A flush that was sent at `sent` succeeded: what was answered before is durable.
    pub fn flushed(&mut self, sent: Tick) {
        self.flushed = self.flushed.max(sent);
    }

    /// When the last flush was sent that succeeded.
    #[must_use]
    pub fn flushed_at(&self) -> Tick {
        self.flushed
    }

    /// The volume was found to have this state, which [`verify`](Self::verify) approved, from the same tick on: what it does
    /// not show will not come back. That does not make it durable.
    pub fn observed(&mut self, state: &[Content], from: Tick) {
        let now = self.tick();
        for (versions, &content) in self.blocks.iter_mut().zip(state) {
            let oldest = least(versions, from, true);
            // If it was written more than once, no harm is done by taking it for the newest.
            let shown = versions[oldest..]
                .iter()
                .rposition(|version| version.content == content);
            versions.truncate(oldest + shown.unwrap_or_default() + 1);
            if let Some(version) = versions.last_mut() {
                version.answered.get_or_insert(now);
            }
        }
        self.reserved.fill(false);
    }

    /// Whether `content` is what a read of a reserved block may give: the last write to it that succeeded,
    /// or one that failed since.
    #[must_use]
    pub fn may_be(&self, block: u32, content: Content) -> bool {
        let versions = &self.blocks[block as usize];

        versions[least(versions, Tick::MAX, false)..]
            .iter()
            .any(|version| version.content == content)
    }

    /// Whether `state` is a prefix of the history, at the cut.
    ///
    /// # Errors
    /// It is not, and why.
    pub fn verify(&self, state: &[Content], cut: Cut) -> Result<()> {
        ensure!(
            state.len() == self.blocks.len(),
            "{} blocks, not {}",
            state.len(),
            self.blocks.len()
        );
        // The more the state has, the more it must have, until nothing is added.
        let mut from = cut.from;
        loop {
            let mut shown = from;
            for (block, (versions, &content)) in self.blocks.iter().zip(state).enumerate() {
                let oldest = least(versions, from, cut.durable);
                let found = versions[oldest..]
                    .iter()
                    .find(|version| version.content == content && version.sent <= cut.until);
                match found {
                    Some(version) => shown = shown.max(version.sent),
                    None => bail!(why(block, versions, content, from, cut)),
                }
            }
            if shown == from {
                return Ok(());
            }
            from = shown;
        }
    }
}

/// Index of the newest version that must be there.
fn least(versions: &[Version], from: Tick, durable: bool) -> usize {
    versions
        .iter()
        .rposition(|version| version.is_due(from, durable))
        .unwrap_or_default()
}

fn why(block: usize, versions: &[Version], shown: Content, from: Tick, cut: Cut) -> String {
    let known = versions.iter().position(|version| version.content == shown);
    let want = versions[least(versions, from, cut.durable)];
    let what = match known {
        None => "which was never written there",
        Some(at) if versions[at].sent > cut.until => "which was written later",
        Some(_) if from == cut.from => "which is older than what must be there",
        Some(_) => {
            "which is older than what was answered before newer writes that are there: no prefix"
        }
    };
    let last = &versions[versions.len().saturating_sub(4)..];
    format!(
        "block {block} holds {shown:?}, {what} (at least {want:?}; {cut:?}; from {from}; the last: {last:?})"
    )
}

#[cfg(test)]
mod tests {
    use super::{Content, Cut, History, Tick};

    fn own(sequence: u64) -> Content {
        Content::Own {
            volume: 0,
            block: 0,
            sequence,
        }
    }

    fn write(history: &mut History, block: u32, content: Content) {
        history.sending(block, &[content]);
        history.answered(block, 1, false);
    }

    fn kept(history: &History, state: &[Content]) -> Result<(), String> {
        let cut = Cut {
            from: history.flushed_at(),
            until: Tick::MAX,
            durable: true,
        };
        history.verify(state, cut).map_err(|e| e.to_string())
    }

    #[test]
    fn what_was_flushed_must_be_there_and_what_came_later_may() {
        let mut h = History::new(&[Content::Zero; 2], 0);
        write(&mut h, 0, own(1));
        let sent = h.tick();
        h.flushed(sent);
        write(&mut h, 0, own(2));
        kept(&h, &[own(1), Content::Zero]).unwrap();
        kept(&h, &[own(2), Content::Zero]).unwrap();
        let lost = kept(&h, &[Content::Zero; 2]).unwrap_err();
        assert!(lost.contains("older than what must be there"), "{lost}");
    }

    #[test]
    fn newer_writes_without_those_before_them_are_no_prefix() {
        let mut h = History::new(&[Content::Zero; 3], 0);
        write(&mut h, 0, own(1));
        write(&mut h, 1, own(2));
        write(&mut h, 2, own(3));
        kept(&h, &[own(1), own(2), Content::Zero]).unwrap();
        let hole = kept(&h, &[own(1), Content::Zero, own(3)]).unwrap_err();
        assert!(hole.contains("no prefix"), "{hole}");
        // Found also where one thing leads to another.
        assert!(kept(&h, &[Content::Zero, own(2), Content::Zero]).is_err());
    }

    #[test]
    fn what_is_under_way_may_be_there_or_not() {
        let mut h = History::new(&[Content::Zero; 2], 0);
        h.sending(0, &[own(1)]);
        h.sending(1, &[own(2)]);
        for a in [Content::Zero, own(1)] {
            for b in [Content::Zero, own(2)] {
                kept(&h, &[a, b]).unwrap();
            }
        }
        h.answered(0, 1, false);
        write(&mut h, 1, own(3));
        assert!(kept(&h, &[Content::Zero, own(3)]).is_err());
    }

    #[test]
    fn a_durable_write_is_there_and_so_is_what_was_answered_before() {
        let mut h = History::new(&[Content::Zero; 3], 0);
        write(&mut h, 0, own(1));
        h.sending(1, &[own(2)]);
        write(&mut h, 2, own(3));
        h.answered(1, 1, true);
        kept(&h, &[own(1), own(2), Content::Zero]).unwrap();
        assert!(kept(&h, &[own(1), Content::Zero, own(3)]).is_err());
        assert!(kept(&h, &[Content::Zero, own(2), own(3)]).is_err());
    }

    #[test]
    fn foreign_blocks_and_later_ones_are_found() {
        let mut h = History::new(&[Content::Zero], 0);
        write(&mut h, 0, own(1));
        let until = h.tick();
        write(&mut h, 0, own(2));
        assert!(kept(&h, &[own(9)]).unwrap_err().contains("never written"));
        let snapshot = Cut {
            from: 0,
            until,
            durable: false,
        };
        h.verify(&[own(1)], snapshot).unwrap();
        let late = h.verify(&[own(2)], snapshot).unwrap_err().to_string();
        assert!(late.contains("written later"), "{late}");
    }

    /// The same bytes twice in a block's history: whichever reading makes a prefix counts.
    #[test]
    fn equal_contents_are_read_as_the_oldest_that_fits() {
        let mut h = History::new(&[Content::Zero; 2], 0);
        write(&mut h, 0, own(1));
        write(&mut h, 1, own(2));
        write(&mut h, 0, Content::Zero);
        kept(&h, &[Content::Zero; 2]).unwrap();
        kept(&h, &[Content::Zero, own(2)]).unwrap();
        kept(&h, &[own(1), Content::Zero]).unwrap();
        let sent = h.tick();
        h.flushed(sent);
        assert!(kept(&h, &[own(1), own(2)]).is_err());
    }

    #[test]
    fn what_was_under_way_is_settled_when_it_is_seen_but_not_durable() {
        let mut h = History::new(&[Content::Zero; 2], 0);
        write(&mut h, 0, own(1));
        h.sending(0, &[own(2)]);
        h.sending(1, &[own(3)]);
        h.observed(&[own(2), Content::Zero], Tick::MAX);
        let all = Cut {
            from: Tick::MAX,
            until: Tick::MAX,
            durable: true,
        };
        h.verify(&[own(2), Content::Zero], all).unwrap();
        for wrong in [[own(1), Content::Zero], [own(2), own(3)]] {
            assert!(h.verify(&wrong, all).is_err());
        }
        kept(&h, &[own(1), Content::Zero]).unwrap();
    }

    #[test]
    fn a_read_gives_the_last_write_or_one_that_failed_since() {
        let mut h = History::new(&[Content::Zero], 0);
        write(&mut h, 0, own(1));
        h.sending(0, &[own(2)]);
        assert!(h.may_be(0, own(1)) && h.may_be(0, own(2)) && !h.may_be(0, Content::Zero));
        assert!(h.reserve(0, 1) && !h.reserve(0, 1));
        h.release(0, 1);
        assert!(h.reserve(0, 1));
    }
}
