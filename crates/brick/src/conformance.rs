//! What every [`Brick`] must do. An implementation's tests call [`suite`].

use crate::{Brick, ErrorKind};
use types::{Epoch, PackId};

/// Makes an empty brick.
pub type Make<'a> = &'a dyn Fn() -> Box<dyn Brick>;

const EPOCH: Epoch = Epoch(5);
const PACK: PackId = PackId(0x1_0203);

/// The suite.
///
/// # Panics
/// If the brick does not conform.
pub fn suite(make: Make<'_>) {
    what_is_put_is_read(&*make());
    putting_again_replaces(&*make());
    trimming_keeps_the_rest(&*make());
    removing_forgets(&*make());
    listing_is_complete_and_in_order(&*make());
    an_older_epoch_is_refused(&*make());
    many_may_put_at_once(&*make());
}

fn pattern(len: usize, seed: u8) -> Vec<u8> {
    (0..len)
        .map(|i| (i as u8).wrapping_mul(29).wrapping_add(seed) | 1)
        .collect()
}

fn put(brick: &dyn Brick, pack: PackId, bytes: &[u8]) {
    brick.put(EPOCH, pack, bytes).expect("a put");
}

fn read(brick: &dyn Brick, pack: PackId, offset: u64, len: usize) -> Result<Vec<u8>, ErrorKind> {
    let mut buf = vec![0xaa; len];
    brick
        .read(pack, offset, &mut buf)
        .map_err(|error| error.kind())?;
    let mut again = vec![0xaa; len];
    if brick.try_read(pack, offset, &mut again).expect("a read") {
        assert_eq!(buf, again, "try_read and read differ");
    }
    Ok(buf)
}

fn what_is_put_is_read(brick: &dyn Brick) {
    let bytes = pattern(20_480, 1);
    assert_eq!(read(brick, PACK, 0, 1), Err(ErrorKind::NotFound));
    put(brick, PACK, &bytes);
    for synced in [false, true] {
        assert_eq!(
            read(brick, PACK, 0, bytes.len()).as_deref(),
            Ok(&bytes[..]),
            "{synced}"
        );
        assert_eq!(
            read(brick, PACK, 5000, 9000).as_deref(),
            Ok(&bytes[5000..14_000])
        );
        assert_eq!(read(brick, PACK, 20_000, 1000), Err(ErrorKind::NotFound));
        assert_eq!(read(brick, PACK.next(), 0, 1), Err(ErrorKind::NotFound));
        brick.sync().expect("a sync");
    }
}

fn putting_again_replaces(brick: &dyn Brick) {
    for (seed, len) in [(1, 8192), (2, 4096), (3, 12_288), (4, 4096)] {
        let bytes = pattern(len, seed);
        put(brick, PACK, &bytes);
        assert_eq!(read(brick, PACK, 0, len).as_deref(), Ok(&bytes[..]));
        assert_eq!(read(brick, PACK, 0, len + 1), Err(ErrorKind::NotFound));
        if seed != 1 {
            brick.sync().expect("a sync");
        }
        assert_eq!(read(brick, PACK, 0, len).as_deref(), Ok(&bytes[..]));
    }
}

fn trimming_keeps_the_rest(brick: &dyn Brick) {
    let mut bytes = pattern(65_536, 3);
    for synced in [false, true] {
        put(brick, PACK, &bytes);
        if synced {
            brick.sync().expect("a sync");
        }
        let mark = pattern(512, 77);
        let hole = 10_000..50_001;
        brick
            .trim(EPOCH, PACK, (512, &mark), std::slice::from_ref(&hole))
            .expect("a trim");
        bytes[512..1024].copy_from_slice(&mark);
        let (start, end) = (hole.start as usize, hole.end as usize);
        assert_eq!(read(brick, PACK, 0, start).as_deref(), Ok(&bytes[..start]));
        let rest = read(brick, PACK, hole.end, bytes.len() - end);
        assert_eq!(rest.as_deref(), Ok(&bytes[end..]));
        assert!(
            read(brick, PACK, 0, bytes.len()).is_ok(),
            "the length stays"
        );
    }
    let trim = brick.trim(EPOCH, PACK.next(), (0, &[1]), &[]);
    assert_eq!(trim.map_err(|e| e.kind()), Err(ErrorKind::NotFound));
}

fn removing_forgets(brick: &dyn Brick) {
    for synced in [false, true] {
        put(brick, PACK, &pattern(4096, 1));
        if synced {
            brick.sync().expect("a sync");
        }
        brick.remove(EPOCH, PACK).expect("a remove");
        assert_eq!(read(brick, PACK, 0, 1), Err(ErrorKind::NotFound));
        assert!(brick.list().expect("a list").is_empty());
        brick.remove(EPOCH, PACK).expect("removing nothing");
        brick.sync().expect("a sync");
        assert_eq!(read(brick, PACK, 0, 1), Err(ErrorKind::NotFound));
    }
}

fn listing_is_complete_and_in_order(brick: &dyn Brick) {
    let ids = [1, 2, 255, 256, 65_535, 65_536, PackId::LIMIT - 1];
    for (i, id) in ids.into_iter().enumerate().rev() {
        put(brick, PackId(id), &pattern(4096 * (i + 1), 1));
        if i == 3 {
            brick.sync().expect("a sync");
        }
    }
    let listed = brick.list().expect("a list");
    let found: Vec<_> = listed.iter().map(|stat| (stat.pack.0, stat.len)).collect();
    let expected: Vec<_> = (1_u64..).zip(ids).map(|(i, id)| (id, 4096 * i)).collect();
    assert_eq!(found, expected);
    brick.space().expect("space");
}

fn an_older_epoch_is_refused(brick: &dyn Brick) {
    put(brick, PACK, &pattern(4096, 1));
    let newer = EPOCH.next();
    brick
        .put(newer, PACK.next(), &pattern(4096, 2))
        .expect("a put of a newer writer");
    let refused = [
        brick.put(EPOCH, PACK, &pattern(4096, 9)),
        brick.trim(EPOCH, PACK, (0, &[9]), &[]),
        brick.remove(EPOCH, PACK),
    ];
    for result in refused {
        assert_eq!(result.map_err(|e| e.kind()), Err(ErrorKind::StaleEpoch));
    }
    assert_eq!(read(brick, PACK, 0, 4096), Ok(pattern(4096, 1)));
    brick
        .remove(newer, PACK)
        .expect("a remove of the newer writer");
}

fn many_may_put_at_once(brick: &dyn Brick) {
    std::thread::scope(|scope| {
        for thread in 0..3_u64 {
            scope.spawn(move || {
                for i in 0..12 {
                    let pack = PackId(1 + thread * 1000 + i);
                    put(brick, pack, &pattern(4096, pack.0 as u8));
                    brick.sync().expect("a sync");
                }
            });
        }
    });
    for stat in brick.list().expect("a list") {
        let expected = pattern(4096, stat.pack.0 as u8);
        assert_eq!(read(brick, stat.pack, 0, 4096), Ok(expected));
    }
    assert_eq!(brick.list().expect("a list").len(), 36);
}
