//! A simulated machine with a store, and the model of what the store holds.

use crate::{
    DIR,
    blocks::Contents,
    images,
    model::{End, Model},
    ops::{Clients, Op, Site, died},
    verify::{Damage, Verifier},
};
use block::BlockDevice;
use sim::SimEnv;
use std::{cell::RefCell, path::Path, sync::Arc};
use volume::{Config, Error, InitOptions, Store};

/// A machine.
pub(crate) struct Machine {
    pub(crate) sim: SimEnv,
    pub(crate) model: Model,
    pub(crate) damage: Damage,
    /// For lives that begin from now on.
    pub(crate) config: Config,
    store: Option<Store>,
    held: RefCell<Vec<(Arc<dyn BlockDevice>, Contents)>>,
    /// Of this life, by volume.
    clients: RefCell<Clients>,
    /// Whether this life's memory outlives the process.
    shared_memory: bool,
}

impl Machine {
    /// With an empty store, open.
    pub(crate) fn new(seed: u64, config: Config) -> Self {
        let config = Config {
            images: images::images(),
            ..config
        };
        let sim = SimEnv::new(seed);
        Store::init(&sim.env(), Path::new(DIR), &InitOptions::default()).unwrap();
        let mut machine = Machine {
            sim,
            model: Model::default(),
            damage: Damage::None,
            shared_memory: config.shared_memory,
            config,
            store: None,
            held: RefCell::default(),
            clients: RefCell::default(),
        };
        machine.open().unwrap();
        machine
    }

    pub(crate) fn store(&self) -> &Store {
        self.store.as_ref().expect("the store is open")
    }

    /// Names of the model's volumes.
    pub(crate) fn names(&self) -> Vec<String> {
        self.model.volumes.keys().cloned().collect()
    }

    /// Opens the store again.
    pub(crate) fn open(&mut self) -> Result<(), Error> {
        let store = Store::open(&self.sim.env(), Path::new(DIR), self.config.clone())?;
        self.store = Some(store);
        Ok(())
    }

    /// Does it.
    pub(crate) fn apply(&mut self, op: &Op) -> Result<(), Error> {
        let at = Site {
            sim: &self.sim,
            store: self.store.as_ref().expect("the store is open"),
            held: &self.held,
            clients: &self.clients,
        };
        at.apply(op, &mut self.model)
    }

    fn disconnect(&self) {
        self.held.take();
        self.clients.take();
    }

    /// Volumes that clients have open.
    pub(crate) fn connected(&self) -> Vec<String> {
        self.clients.borrow().keys().cloned().collect()
    }

    /// The same machine once more, between two lives.
    pub(crate) fn fork(&self) -> Self {
        assert!(
            self.store.is_none(),
            "a store that is open has no second one"
        );
        Machine {
            sim: self.sim.fork(),
            model: self.model.clone(),
            damage: self.damage,
            config: self.config.clone(),
            store: None,
            held: RefCell::default(),
            clients: RefCell::default(),
            shared_memory: self.shared_memory,
        }
    }

    /// Does what must succeed.
    pub(crate) fn must(&mut self, op: &Op) {
        self.apply(op).unwrap_or_else(|e| panic!("{op:?}: {e:?}"));
    }

    /// Closes the store in order.
    pub(crate) fn close(&mut self) -> Result<(), Error> {
        self.disconnect();
        let closed = self.store().close();
        self.store = None;
        match self.sim.has_died() {
            false => closed,
            true => closed.and(Err(died())),
        }
    }

    /// Ends this life: a store that is open is lost.
    pub(crate) fn crash(&mut self, end: End) {
        self.disconnect();
        match end {
            End::Closed => unreachable!("that is no crash"),
            End::Killed => self.sim.kill(),
            End::PowerCut => self.sim.power_cut(),
        }
        self.store = None;
    }

    /// Opens the store after `end`, dying again in each of these I/Os of its recovery first. The store must be
    /// what it may be after that. Answers whether all is known of it.
    pub(crate) fn recover(&mut self, mut end: End, dies_at: &[(u64, End)]) -> bool {
        let survived = self.shared_memory && self.config.shared_memory;
        if end == End::Killed && !survived {
            end = End::PowerCut;
        }
        self.shared_memory = self.config.shared_memory;
        for &(n, again) in dies_at {
            self.sim.crash_after(n);
            // It may get through with fewer I/Os.
            let _ = self.open();
            self.crash(again);
            end = end.and_then(again);
        }
        self.open()
            .unwrap_or_else(|e| panic!("not opened after {end:?}: {e:?}"));
        // As the daemon does in the background: what is written may be found in packs of former lives.
        let indexed = self.store().packs().rebuild_index(&types::NoProgress);
        assert!(
            indexed.is_ok() || self.damage == Damage::Packs,
            "{indexed:?}"
        );
        let verifier = Verifier {
            store: self.store.as_ref().expect("the store is open"),
            damage: self.damage,
        };
        verifier.reopened(&mut self.model, end)
    }

    /// The store is what it may be after an operation failed. Answers whether it can go on.
    pub(crate) fn verify_living(&mut self) -> bool {
        let verifier = Verifier {
            store: self.store.as_ref().expect("the store is open"),
            damage: self.damage,
        };
        verifier.living(&mut self.model, &self.clients.borrow())
    }
}
