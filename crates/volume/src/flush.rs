//! The way of a flush: into the journal, many in one sync, or into packs.

use crate::{
    error::{Error, ErrorKind},
    health::Part,
    layer::Log,
    volume::{State, Volume},
};
use journal::{Batch, Ticket};
use std::sync::Arc;
use types::Generation;

/// What makes a flush durable.
pub(crate) enum Logged {
    /// This submit, and all before it; if there is none, all is durable already.
    Journal(Option<Ticket>),
    /// Destaging up to this generation.
    Destage(Generation),
}

impl Volume {
    /// Makes everything that was written before durable.
    pub(crate) fn flush(self: &Arc<Self>) -> Result<(), Error> {
        let logged = {
            let mut state = self.state.write();
            state.check_open()?;
            self.log(&mut state)?
        };
        self.wait_logged(logged)
    }

    /// Makes everything that was written durable before the process ends, with as little work as can be: into the
    /// journal, however much it is; into packs only if it does not get there.
    pub(crate) fn keep(self: &Arc<Self>) -> Result<(), Error> {
        let logged = self.log_up_to(&mut self.state.write(), u64::MAX);
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

    /// Hands what the journal has not to it. Under the lock, so that submits of a volume are in the
    /// order of its history; the layers' logs are cleared only once the journal has taken them.
    pub(crate) fn log(&self, state: &mut State) -> Result<Logged, Error> {
        self.log_up_to(state, self.shared.config.flush_destage_bytes)
    }

    /// The same; more than `most` bytes are to be destaged instead.
    fn log_up_to(&self, state: &mut State, most: u64) -> Result<Logged, Error> {
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
        self.submit(state)
    }

    fn submit(&self, state: &mut State) -> Result<Logged, Error> {
        match self
            .shared
            .journal
            .submit(self.id, self.epoch, batches(state))
        {
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

fn batches(state: &State) -> Vec<Batch> {
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
            let pending = layer.pending(log);
            Batch {
                generation: layer.number,
                after,
                zeroes: pending.zeroes,
                blocks: pending.blocks,
            }
        })
        .collect()
}
