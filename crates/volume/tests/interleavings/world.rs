//! A store on a simulated machine, and what the tests write to it.

use block::{BlockDevice, Durability, Error, ErrorKind};
use sim::SimEnv;
use std::{ops::Range, path::Path, sync::Arc};
use sync::{model::random, thread::JoinHandle};
use types::{BLOCK_SIZE, Name, VolumeRef};
use volume::{
    Background, Config, Create, ImageSource, Images, InitOptions, Source, SourceDisk, Store,
};

const DIR: &str = "/store";
const BLOCK: u64 = BLOCK_SIZE as u64;

/// A machine with a store that has a volume `v`.
pub(crate) struct World {
    pub(crate) sim: SimEnv,
    pub(crate) store: Store,
}

/// Nothing happens by itself.
fn quiet() -> Config {
    Config {
        images: Images::new(|_, _| Ok(Arc::new(Image) as Arc<dyn SourceDisk>)),
        ..Config::small()
    }
}

/// What [`World::import`] imports: every block but each fifth says what [`imaged`] does.
struct Image;

/// What a block of the image says.
pub(crate) const fn imaged(index: u64) -> u64 {
    if index % 5 == 4 { 0 } else { 1000 + index }
}

/// Blocks of the image.
pub(crate) const IMAGED: u64 = 12;

impl SourceDisk for Image {
    fn data(&self, range: Range<u64>) -> Result<Vec<Range<u64>>, volume::Error> {
        let blocks = range.start / BLOCK..range.end.div_ceil(BLOCK);
        let data = blocks.filter(|index| imaged(*index) != 0);
        Ok(data
            .map(|index| index * BLOCK..(index + 1) * BLOCK)
            .collect())
    }

    fn read(&self, offset: u64, buf: &mut [u8]) -> Result<(), volume::Error> {
        let bytes: Vec<u8> = (0..IMAGED).flat_map(|index| fill(imaged(index))).collect();
        buf.copy_from_slice(&bytes[offset as usize..][..buf.len()]);
        Ok(())
    }
}

/// Everything happens early, and nothing because time passes.
pub(crate) fn eager() -> Config {
    Config {
        background: Background::Threads(1),
        destage_bytes: (2 + random(8)) * BLOCK,
        flush_destage_bytes: [2 * BLOCK, 1 << 20][random(2) as usize],
        ..quiet()
    }
}

impl World {
    pub(crate) fn new(config: Config) -> Arc<Self> {
        let sim = SimEnv::new(random(u64::MAX));
        Store::init(&sim.env(), Path::new(DIR), &InitOptions::default()).unwrap();
        let store = Store::open(&sim.env(), Path::new(DIR), config).unwrap();
        let world = World { sim, store };
        world.make("v", Source::Empty(1 << 20)).unwrap();
        Arc::new(world)
    }

    /// The same machine after a crash.
    pub(crate) fn reopened(self: Arc<Self>) -> World {
        let World { sim, store } = Arc::into_inner(self).expect("nobody else has it");
        drop(store);
        let store = Store::open(&sim.env(), Path::new(DIR), quiet()).unwrap();
        World { sim, store }
    }

    pub(crate) fn make(&self, volume: &str, source: Source) -> Result<(), volume::Error> {
        let create = Create::new(name(volume), source);
        self.store.create_volume(&create).map(drop)
    }

    /// Makes a volume that is imported while it is used.
    pub(crate) fn import(&self, volume: &str) {
        let image = ImageSource {
            path: "/image".to_owned(),
            size: IMAGED * BLOCK,
            ..ImageSource::default()
        };
        self.make(volume, Source::Image(Box::new(image), 1 << 20))
            .unwrap();
    }

    /// Brings the next part of the image into the store; whether there is more.
    pub(crate) fn fill(&self, volume: &str, blocks: u64) -> Result<bool, volume::Error> {
        let id = self.store.find(&name(volume))?.id;
        let filled = self.store.fill(id, blocks * BLOCK, &types::NoProgress)?;
        Ok(!filled.is_finished())
    }

    pub(crate) fn device(&self, r: &str) -> Arc<dyn BlockDevice> {
        self.store.device(&of(r)).unwrap()
    }

    pub(crate) fn spawn<T: Send + 'static>(
        self: &Arc<Self>,
        name: &str,
        body: impl FnOnce(&World) -> T + Send + 'static,
    ) -> JoinHandle<T> {
        let world = Arc::clone(self);
        env::spawn(name, move || body(&world)).unwrap()
    }
}

pub(crate) fn name(text: &str) -> Name {
    text.parse().unwrap()
}

pub(crate) fn of(text: &str) -> VolumeRef {
    text.parse().unwrap()
}

/// A block that says `number` everywhere.
pub(crate) fn fill(number: u64) -> [u8; BLOCK_SIZE] {
    let mut block = [0; BLOCK_SIZE];
    for word in block.as_chunks_mut().0 {
        *word = number.to_le_bytes();
    }
    block
}

pub(crate) fn put(device: &dyn BlockDevice, index: u64, number: u64) -> Result<(), Error> {
    device.write(index * BLOCK, &fill(number), Durability::Volatile)
}

/// What a block says; it must say one thing.
pub(crate) fn get(device: &dyn BlockDevice, index: u64) -> Result<u64, Error> {
    let mut block = [0xee; BLOCK_SIZE];
    device.read(index * BLOCK, &mut block)?;
    let number = u64::from_le_bytes(*block.first_chunk().unwrap());
    assert!(block == fill(number), "block {index} is a mixture");
    Ok(number)
}

pub(crate) fn read(
    device: &dyn BlockDevice,
    indexes: impl Iterator<Item = u64>,
) -> Result<Vec<u64>, Error> {
    indexes.map(|index| get(device, index)).collect()
}

/// Blocks that were written one after the other with a number, then with the next, and so on: these are what they
/// held at some moment after `least` was written to all of them and before more than `most` was.
pub(crate) fn assert_prefix(numbers: &[u64], least: u64, most: u64, what: &str) {
    let (first, last) = (numbers[0], numbers[numbers.len() - 1]);
    assert!(
        numbers.is_sorted_by(|a, b| a >= b) && first - last <= 1,
        "{what}: {numbers:?} never were"
    );
    assert!(
        least <= last && first <= most,
        "{what}: {numbers:?}, but {least} was there and {most} begun"
    );
}

/// Whether the machine is still there: an I/O error says that it is not.
pub(crate) fn alive<T>(result: Result<T, Error>) -> Option<T> {
    match result {
        Ok(value) => Some(value),
        Err(error) if matches!(error.kind(), ErrorKind::Io | ErrorKind::Gone) => None,
        Err(error) => panic!("{error:?}"),
    }
}
