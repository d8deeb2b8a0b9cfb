//! The way of a flush: into the journal, many in one sync, or into packs.

use crate::{
    error::{Error, ErrorKind},
    health::Part,
    layer::{Log, Pending},
    volume::{State, Volume},
};
use journal::{Batch, Ticket};
use std::{collections::BTreeMap, sync::Arc};
use types::Generation;

/// What makes a flush durable.
pub(crate) enum Logged {
    /// This submit, and all before it; if there is none, all is durable already.
    Journal(Option<Ticket>),
    /// Destaging up to this generation.
    Destage(Generation),
}

/// What the journal has not of frozen layers: all of what it had not when they were frozen, or nothing.
pub(crate) type Prepared = BTreeMap<Generation, Pending>;

impl Volume {
    /// Makes everything that was written before durable.
    pub(crate) fn flush(self: &Arc<Self>) -> Result<(), Error> {
        let prepared = self.prepare();
        let logged = {
            let mut state = self.state.write();
            state.check_open()?;
            self.log(&mut state, prepared)?
        };
        self.wait_logged(logged)
    }

    /// Makes everything that was written durable before the process ends, with as little work as can be: into the
    /// journal, however much it is; into packs only if it does not get there.
    pub(crate) fn keep(self: &Arc<Self>) -> Result<(), Error> {
        let prepared = self.prepare();
        let logged = self.log_up_to(&mut self.state.write(), prepared, u64::MAX);
        match logged.and_then(|logged| self.wait_logged(logged)) {
            Err(e) => {
                tracing::warn!(volume = %self.id, error = ?e, "the journal does not take what is dirty: it is destaged");
                self.settle_now()
            }
            kept => kept,
        }
    }

    pub(crate) fn wait_logged(self: &Arc<Self>, logged: Logged) -> Result<(), Error> {
        match logged {
            Logged::Journal(None) => Ok(()),
            Logged::Journal(Some(ticket)) => match self.shared.journal.wait(ticket) {
                Err(e) if e.kind() == journal::ErrorKind::Failed => self.flush_without_journal(e),
                done => Ok(done?),
            },
            Logged::Destage(generation) => self.settle(generation),
        }
    }

    /// A journal whose write or sync failed takes nothing more, and nobody knows what it has of what was not
    /// acknowledged. But what was written is all still in memory, and packs are as durable.
    fn flush_without_journal(self: &Arc<Self>, failed: journal::Error) -> Result<(), Error> {
        self.shared.note(Part::Journal, Err(failed.into()));
        self.settle_now()
    }

    /// Looks for what the journal has not while nobody who writes waits for it: that can be tens of thousands of blocks.
    pub(crate) fn prepare(&self) -> Prepared {
        let frozen: Vec<_> = {
            let state = self.state.read();
            let logged = state.frozen.iter().filter(|frozen| !frozen.log.is_empty());
            let shared = logged.map(|frozen| (Arc::clone(&frozen.layer), frozen.log.clone()));
            shared.collect()
        };
        let pending = frozen
            .iter()
            .map(|(layer, log)| (layer.number, layer.pending(log)));
        pending.collect()
    }

    /// Hands what the journal has not to it. Under the lock, so that submits of a volume are in the
    /// order of its history; the layers' logs are cleared only once the journal has taken them.
    pub(crate) fn log(&self, state: &mut State, prepared: Prepared) -> Result<Logged, Error> {
        self.log_up_to(state, prepared, self.shared.config.flush_destage_bytes)
    }

    /// The same; more than `most` bytes are to be destaged instead.
    fn log_up_to(&self, state: &mut State, prepared: Prepared, most: u64) -> Result<Logged, Error> {
        let logs = || {
            state
                .frozen
                .iter()
                .map(|frozen| &frozen.log)
                .chain([state.head.log()])
        };
        if self.shared.journal.has_failed() {
            let last = state.freeze();
            let nothing = state.frozen.is_empty();
            return Ok(if nothing {
                Logged::Journal(None)
            } else {
                Logged::Destage(last)
            });
        }
        if logs().all(|log| log.is_empty()) {
            return Ok(Logged::Journal(state.ticket));
        }
        if logs().map(|log| log.bytes()).sum::<u64>() > most {
            return Ok(Logged::Destage(state.freeze()));
        }
        self.submit(state, prepared)
    }

    fn submit(&self, state: &mut State, prepared: Prepared) -> Result<Logged, Error> {
        let batches = batches(state, prepared);
        match self.shared.journal.submit(self.id, self.epoch, batches) {
            Ok(ticket) => {
                let logs = state.frozen.iter_mut().map(|frozen| &mut frozen.log);
                logs.filter(|log| !log.is_empty()).for_each(Log::submitted);
                state.head.set_journaled();
                state.ticket = Some(ticket);
                Ok(Logged::Journal(Some(ticket)))
            }
            Err(e)
                if matches!(
                    e.kind(),
                    journal::ErrorKind::Full | journal::ErrorKind::Failed
                ) =>
            {
                Ok(Logged::Destage(state.freeze()))
            }
            Err(e) => {
                let kind = Error::from(e.clone()).kind();
                let kind = if kind == ErrorKind::Closed {
                    kind
                } else {
                    ErrorKind::Io
                };
                Err(Error::new(kind, "the journal refuses: flushes cannot be kept").with_source(e))
            }
        }
    }
}

fn batches(state: &State, mut prepared: Prepared) -> Vec<Batch> {
    let frozen = state
        .frozen
        .iter()
        .map(|frozen| (&*frozen.layer, &frozen.log));
    let mut whole = state.destaged_whole;
    frozen
        .chain([(&state.head, state.head.log())])
        .map(|(layer, log)| (layer, log, log.after(std::mem::replace(&mut whole, true))))
        .filter(|(_, log, _)| !log.is_empty())
        .map(|(layer, log, after)| {
            let known = prepared.remove(&layer.number);
            let pending = known.unwrap_or_else(|| layer.pending(log));
            Batch {
                generation: layer.number,
                after,
                zeroes: pending.zeroes,
                blocks: pending.blocks,
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Config, testing};
    use block::Durability;
    use types::BLOCK_SIZE;

    #[test]
    fn what_was_prepared_is_what_is_logged_and_only_once() {
        let (_store, device, volume) = testing::volume(Config::small());
        let write = |block: u64, byte: u8| {
            let offset = block * BLOCK_SIZE as u64;
            let data = [byte; BLOCK_SIZE];
            device.write(offset, &data, Durability::Volatile).unwrap();
        };
        let zero = |block: u64| {
            let offset = block * BLOCK_SIZE as u64;
            let len = 8 * BLOCK_SIZE as u64;
            device
                .write_zeroes(offset, len, Durability::Volatile)
                .unwrap();
        };
        // Some that the journal has, and then others of the same generation.
        (0..9).for_each(|block| write(block, 1));
        volume.flush().unwrap();
        (3..20).for_each(|block| write(block, 2));
        zero(40);
        volume.state.write().freeze();
        let [first, second, third] = [(); 3].map(|()| volume.prepare());
        assert_eq!(first.len(), 1);
        (15..30).for_each(|block| write(block, 3));
        let mut state = volume.state.write();
        let all = batches(&state, Prepared::new());
        assert_eq!(all.len(), 2);
        assert_eq!(batches(&state, first), all);
        volume.log(&mut state, second).unwrap();
        drop(state);
        write(50, 4);
        let state = volume.state.read();
        assert_eq!(batches(&state, third).len(), 1, "what is logged since");
    }
}
