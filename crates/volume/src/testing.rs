//! What unit tests of this crate begin with.

use crate::{Config, Create, InitOptions, Source, Store, volume::Volume};
use block::BlockDevice;
use std::{path::Path, sync::Arc};
use types::Name;

/// A store on a simulated disk, with one volume of 1 GiB; its device, and itself.
pub(crate) fn volume(config: Config) -> (Store, Arc<dyn BlockDevice>, Arc<Volume>) {
    let sim = sim::SimEnv::new(1);
    let dir = Path::new("/store");
    Store::init(&sim.env(), dir, &InitOptions::default()).unwrap();
    let store = Store::open(&sim.env(), dir, config).unwrap();
    let name: Name = "a".parse().unwrap();
    store
        .create_volume(&Create::new(name.clone(), Source::Empty(1 << 30)))
        .unwrap();
    let device = store.device(&name.into()).unwrap();
    let volume = store.shared.open_volumes().pop().unwrap();
    (store, device, volume)
}
