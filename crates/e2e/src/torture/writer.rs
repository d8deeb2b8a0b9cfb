//! Writers that know what must become of every block that they touch.

use super::{
    content::{BLOCK, Content},
    history::{History, Tick},
    nbd::{Client, Request},
    tally::Tally,
};
use anyhow::{Result, ensure};
use fastrand::Rng;
use std::{
    path::Path,
    sync::{Mutex, MutexGuard, PoisonError},
};

/// Requests in flight of one connection, at most.
const BATCH: usize = 8;
/// Blocks of one request, at most.
const LENGTH: u32 = 16;
/// Contents that blocks have in common.
const COMMON: u32 = 200;
/// Blocks read by one request when all are read.
const STRIDE: u32 = 64;

pub(super) const ENOSPC: u32 = 28;

/// A volume and what was done to it.
pub struct Disk {
    /// Its name.
    pub name: String,
    /// Its number in this run: no two have the same.
    pub number: u32,
    history: Mutex<History>,
}

impl Disk {
    /// A volume that begins as `history` does.
    #[must_use]
    pub fn new(name: String, number: u32, history: History) -> Self {
        Disk {
            name,
            number,
            history: Mutex::new(history),
        }
    }

    /// Its history.
    pub fn history(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The disk is known to have this state: history begins anew.
    pub fn settle(&self, state: &[Content]) {
        let mut history = self.history();
        *history = History::new(state, history.sequence());
    }
}

/// What one request of a batch is about.
struct Asked {
    block: u32,
    length: u32,
    kind: Kind,
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Read,
    Write { durable: bool },
    Flush { sent: Tick },
}

/// A connection that writes, reads and flushes at random.
pub struct Writer<'a> {
    disk: &'a Disk,
    client: Client,
    rng: Rng,
    /// Whether a full store is no failure.
    may_be_full: bool,
    tally: &'a Tally,
}

impl<'a> Writer<'a> {
    /// Connects to `disk`.
    ///
    /// # Errors
    /// It cannot be connected to.
    pub fn new(
        disk: &'a Disk,
        socket: &Path,
        rng: Rng,
        may_be_full: bool,
        tally: &'a Tally,
    ) -> Result<Self> {
        let client = Client::connect(socket, &disk.name)?;
        let blocks = u64::from(disk.history().len());
        ensure!(
            client.size == blocks * BLOCK as u64,
            "its size is {}",
            client.size
        );
        Ok(Writer {
            disk,
            client,
            rng,
            may_be_full,
            tally,
        })
    }

    /// Sends some requests, and takes and judges their answers.
    ///
    /// # Errors
    /// The connection broke (then the cause is an [`std::io::Error`]), or an answer is wrong.
    pub fn batch(&mut self) -> Result<()> {
        let (mut asked, mut requests) = (Vec::new(), Vec::new());
        let mut history = self.disk.history();
        for _ in 0..self.rng.usize(1..=BATCH) {
            if let Some((what, request)) = draw(&mut self.rng, self.disk.number, &mut history) {
                asked.push(what);
                requests.push(request);
            }
        }
        drop(history);
        self.client.send(&requests)?;
        for _ in 0..requests.len() {
            let reply = self.client.receive()?;
            self.judge(&asked[reply.index], reply.error, &reply.data)?;
        }
        Ok(())
    }

    fn judge(&self, asked: &Asked, error: u32, data: &[u8]) -> Result<()> {
        let Asked {
            block,
            length,
            kind,
        } = *asked;
        let mut history = self.disk.history();
        history.release(block, length);
        if error == ENOSPC && self.may_be_full && kind != Kind::Read {
            self.tally.full.add(1);
            return Ok(());
        }
        ensure!(
            error == 0,
            "'{}': error {error} was answered",
            self.disk.name
        );
        match kind {
            Kind::Write { durable } => {
                history.answered(block, length, durable);
                self.tally.blocks_written.add(length.into());
            }
            Kind::Flush { sent } => {
                history.flushed(sent);
                self.tally.flushes.add(1);
            }
            Kind::Read => {
                for (at, bytes) in (block..).zip(data.chunks(BLOCK)) {
                    let content = Content::of(bytes)?;
                    let fits = history.may_be(at, content);
                    ensure!(
                        fits,
                        "'{}': block {at} reads as {content:?}",
                        self.disk.name
                    );
                }
                self.tally.blocks_verified.add(length.into());
            }
        }
        Ok(())
    }
}

/// A request at random, unless its blocks are in use.
fn draw(rng: &mut Rng, number: u32, history: &mut History) -> Option<(Asked, Request)> {
    let dice = rng.u32(0..100);
    if dice < 6 {
        let asked = Asked {
            block: 0,
            length: 0,
            kind: Kind::Flush {
                sent: history.tick(),
            },
        };
        return Some((asked, Request::Flush));
    }
    let longest = if rng.u32(0..4) == 0 { LENGTH } else { 2 };
    let length = rng.u32(1..=longest);
    // Half of all requests go to an eighth of the blocks.
    let last = history.len() - length;
    let last = if rng.bool() { last / 8 } else { last };
    let block = rng.u32(0..=last);
    if !history.reserve(block, length) {
        return None;
    }
    let (offset, bytes) = (u64::from(block) * BLOCK as u64, length * BLOCK as u32);
    let (contents, durable, request) = match dice {
        6..18 => {
            let asked = Asked {
                block,
                length,
                kind: Kind::Read,
            };
            return Some((asked, Request::Read(offset, bytes)));
        }
        18..23 => (
            vec![Content::Zero; length as usize],
            false,
            Request::Zero(offset, bytes),
        ),
        23..28 => (
            vec![Content::Zero; length as usize],
            false,
            Request::Trim(offset, bytes),
        ),
        _ => {
            let contents = contents(rng, number, block, length, history);
            let mut data = vec![0; bytes as usize];
            for (content, place) in contents.iter().zip(data.chunks_exact_mut(BLOCK)) {
                content.fill(place);
            }
            let durable = dice < 32;
            (contents, durable, Request::Write(offset, data, durable))
        }
    };
    history.sending(block, &contents);
    let asked = Asked {
        block,
        length,
        kind: Kind::Write { durable },
    };
    Some((asked, request))
}

fn contents(
    rng: &mut Rng,
    number: u32,
    first: u32,
    length: u32,
    history: &mut History,
) -> Vec<Content> {
    if rng.u32(0..8) == 0 {
        let start = rng.u32(0..COMMON);
        return (start..start + length).map(Content::Common).collect();
    }
    let sequence = history.next_sequence();
    let own = |block| Content::Own {
        volume: number,
        block,
        sequence,
    };
    (first..first + length).map(own).collect()
}

/// All that `export` holds.
///
/// # Errors
/// It cannot be read, or has a block that nobody wrote.
pub fn read_all(socket: &Path, export: &str, tally: &Tally) -> Result<Vec<Content>> {
    let mut client = Client::connect(socket, export)?;
    let blocks = (client.size / BLOCK as u64) as u32;
    let mut state = Vec::with_capacity(blocks as usize);
    for first in (0..blocks).step_by(STRIDE as usize) {
        let length = STRIDE.min(blocks - first);
        let offset = u64::from(first) * BLOCK as u64;
        let data = client.ask(Request::Read(offset, length * BLOCK as u32))?;
        for (at, bytes) in (first..).zip(data.chunks(BLOCK)) {
            let content = Content::of(bytes);
            state.push(content.map_err(|e| e.context(format!("'{export}', block {at}")))?);
        }
    }
    tally.blocks_verified.add(blocks.into());
    Ok(state)
}
