//! Imports of volumes that are used meanwhile: paused, and given up when the image does not answer.

#![expect(clippy::unwrap_used, reason = "these are tests")]

use catalog::ImageSource;
use sim::SimEnv;
use std::{
    ops::Range,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};
use types::{Cancel, Name, NoProgress, VolumeRef};
use volume::{Config, Create, Error, ErrorKind, Images, InitOptions, Source, SourceDisk, Store};

const DIR: &str = "/store";
/// Bytes of the image.
const SIZE: u64 = 12 << 20;
/// What is filled at once, at least.
const PART: u64 = 4 << 20;

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

fn reference(text: &str) -> VolumeRef {
    text.parse().unwrap()
}

/// Sevens.
struct Sevens;

impl SourceDisk for Sevens {
    fn data(&self, range: Range<u64>) -> Result<Vec<Range<u64>>, Error> {
        Ok(std::iter::once(range).collect())
    }

    fn read(&self, _: u64, buf: &mut [u8]) -> Result<(), Error> {
        buf.fill(7);
        Ok(())
    }
}

fn open(sim: &SimEnv, images: Images) -> Store {
    let config = Config {
        images,
        ..Config::small()
    };
    Store::open(&sim.env(), Path::new(DIR), config).unwrap()
}

fn sevens() -> Images {
    Images::new(|_, _| Ok(Arc::new(Sevens) as Arc<dyn SourceDisk>))
}

/// A store with a volume that is imported.
fn new(sim: &SimEnv, images: Images) -> Store {
    Store::init(&sim.env(), Path::new(DIR), &InitOptions::default()).unwrap();
    let store = open(sim, images);
    let image = ImageSource {
        path: "/image".to_owned(),
        size: SIZE,
        ..ImageSource::default()
    };
    let source = Source::Image(Box::new(image), SIZE);
    store
        .create_volume(&Create::new(name("a"), source))
        .unwrap();
    store
}

fn fill(store: &Store, volume: &str, bytes: u64) -> Result<u64, Error> {
    let id = store.find(&name(volume))?.id;
    Ok(store.fill(id, bytes, &NoProgress)?.done)
}

fn filled(store: &Store, volume: &str) -> u64 {
    let record = store.find(&name(volume)).unwrap();
    record.source.map_or(SIZE, |source| source.filled)
}

fn is_sevens(store: &Store, volume: &str) {
    let device = store.device(&reference(volume)).unwrap();
    let mut bytes = vec![0; SIZE as usize];
    device.read(0, &mut bytes).unwrap();
    assert!(bytes.iter().all(|byte| *byte == 7), "{volume}");
}

#[test]
fn what_is_paused_stays_so_until_it_is_told_to_go_on() {
    let sim = SimEnv::new(1);
    let mut store = new(&sim, sevens());
    assert_eq!(fill(&store, "a", 1).unwrap(), PART);
    let stored = |store: &Store| store.find(&name("a")).unwrap().source.unwrap().stored;
    // One block, again and again.
    let one = stored(&store);
    assert!((1..PART / 2).contains(&one), "{one}");
    for _ in 0..2 {
        // Again is no error.
        let paused = store.pause_import(&name("a"), true).unwrap();
        assert!(paused.source.unwrap().paused);
    }
    let stays = |store: &Store| {
        let error = fill(store, "a", 1).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Cancelled, "{error}");
        assert_eq!((filled(store, "a"), stored(store)), (PART, one));
        is_sevens(store, "a");
    };
    stays(&store);
    // Whatever else is done to the volume.
    let device = store.device(&reference("a")).unwrap();
    device
        .write(0, &[7; 4096], block::Durability::Durable)
        .unwrap();
    drop(device);
    store.create_snapshot(&name("a"), &name("s")).unwrap();
    store.settle_all().unwrap();
    store.rollback(&name("a"), &name("s")).unwrap();
    stays(&store);
    let removed = store.remove_volume(&name("a")).unwrap();
    store.restore_volume(removed.id, None).unwrap();
    stays(&store);
    store.close().unwrap();
    drop(store);
    store = open(&sim, sevens());
    stays(&store);

    // A clone has no part in it.
    let clone = Source::Clone(reference("a@s"), None);
    store.create_volume(&Create::new(name("b"), clone)).unwrap();
    assert_eq!(fill(&store, "b", SIZE).unwrap(), SIZE);
    let refused = store.pause_import(&name("b"), true).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Refused, "{refused}");

    store.pause_import(&name("a"), false).unwrap();
    assert_eq!(fill(&store, "a", SIZE).unwrap(), SIZE);
    assert_eq!(filled(&store, "a"), SIZE);
    for volume in ["a", "a@s", "b"] {
        is_sevens(&store, volume);
    }
}

/// A part that was read before the pause is not brought into the store after it.
#[test]
fn what_is_under_way_when_it_is_paused_does_not_count() {
    struct PauseIt<'a>(&'a Store);
    impl types::Progress for PauseIt<'_> {
        fn report(&self, _: u64, _: u64) -> Result<(), types::Cancelled> {
            self.0.pause_import(&name("a"), true).unwrap();
            Ok(())
        }
        fn stored(&self, _: u64) {}
    }
    let sim = SimEnv::new(2);
    let store = new(&sim, sevens());
    let id = store.find(&name("a")).unwrap().id;
    let error = store.fill(id, SIZE, &PauseIt(&store)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Cancelled, "{error}");
    assert_eq!(filled(&store, "a"), 0);
    store.pause_import(&name("a"), false).unwrap();
    assert_eq!(fill(&store, "a", SIZE).unwrap(), SIZE);
    is_sevens(&store, "a");
}

/// Waits until nobody needs it any more.
struct Stalled {
    cancel: Cancel,
    waiting: Arc<AtomicU64>,
}

impl SourceDisk for Stalled {
    fn data(&self, range: Range<u64>) -> Result<Vec<Range<u64>>, Error> {
        Ok(std::iter::once(range).collect())
    }

    fn read(&self, _: u64, _: &mut [u8]) -> Result<(), Error> {
        self.waiting.fetch_add(1, Relaxed);
        for _ in 0..30_000 {
            if self.cancel.is_set() {
                return Err(Error::new(ErrorKind::Io, "nobody waits any more"));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        panic!("it is waited for");
    }
}

/// Who removes a volume is not held up by its image; who still needs that opens it anew.
#[test]
fn an_image_that_does_not_answer_holds_up_no_removal() {
    let waiting = Arc::new(AtomicU64::new(0));
    let (count, opened) = (Arc::clone(&waiting), AtomicU64::new(0));
    let images = Images::new(move |_, cancel| {
        let disk: Arc<dyn SourceDisk> = match opened.fetch_add(1, Relaxed) {
            0 => Arc::new(Stalled {
                cancel: cancel.clone(),
                waiting: Arc::clone(&count),
            }),
            _ => Arc::new(Sevens),
        };
        Ok(disk)
    });
    let sim = SimEnv::new(3);
    let store = new(&sim, images);
    store.create_snapshot(&name("a"), &name("s")).unwrap();
    let snapshot = store.device(&reference("a@s")).unwrap();
    let id = store.find(&name("a")).unwrap().id;
    env::scope(|scope| {
        let filling = scope
            .spawn("fill", || store.fill(id, SIZE, &NoProgress))
            .unwrap();
        let reading = scope.spawn("read", || {
            let mut bytes = [0; 4096];
            snapshot.read(0, &mut bytes).map(|()| bytes)
        });
        let reading = reading.unwrap();
        while waiting.load(Relaxed) < 2 {
            std::thread::sleep(Duration::from_millis(1));
        }
        store.remove_volume(&name("a")).unwrap();
        let error = filling.join().unwrap().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Closed, "{error}");
        assert_eq!(reading.join().unwrap().unwrap(), [7; 4096]);
    });
}
