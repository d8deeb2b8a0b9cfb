//! Recovery over hostile segments: a real journal, spoiled by a list of deeds, most of them sealed with
//! right checksums.
//!
//! Whatever is found: no panic, no endless loop, bounded memory; what is replayed is in order; and a
//! journal that opens keeps its promises to those who use it next.

use crate::{alloc::bounded, input::Input};
use env::{Env, File, OpenOptions};
use format::journal::{
    After, Before, Extent, PAGE, RecordHeader, SegmentHeader, SegmentState, Unverified, seal,
};
use journal::{Batch, Config, Error, Journal, Replayed};
use sim::SimEnv;
use std::{
    path::{Path, PathBuf},
    sync::{Arc, LazyLock},
};
use types::{
    BLOCK_SIZE, BlockIndex, Epoch, Generation, JournalSeq, SharedBlock, StoreId, VolumeId,
};

const DIR: &str = "/journal";
const STORE: StoreId = StoreId([9; 16]);
const CONFIG: Config = Config {
    segment_bytes: 32 << 10,
    capacity_bytes: 6 * (32 << 10),
};
const DEEDS_MAX: usize = 64;
const FILES_MAX: usize = 8;
const PAGES_MAX: usize = 8;
/// The files, and twice what they hold.
const MEMORY_MAX: usize = 8 << 20;

/// What a journal of some submits by three volumes left: name and bytes of each segment.
static TEMPLATE: LazyLock<Vec<(PathBuf, Vec<u8>)>> = LazyLock::new(|| {
    let sim = SimEnv::new(3);
    let (journal, _) = open(&sim.env()).expect("a new journal");
    for n in 1..=9 {
        let ticket = journal.submit(VolumeId(n % 3), Epoch(1), vec![batch(n, 1 + n % 4)]);
        journal.wait(ticket.expect("room")).expect("a sync");
        if n == 4 {
            (0..3).for_each(|volume| journal.destaged(VolumeId(volume), Generation(4)));
        }
    }
    drop(journal);
    let files = sim.env().files;
    let names = files.list(Path::new(DIR)).expect("the directory");
    let mut names: Vec<_> = names.iter().map(|name| Path::new(DIR).join(name)).collect();
    names.sort();
    names
        .into_iter()
        .map(|path| (path.clone(), files.read_all(&path).expect("a file")))
        .collect()
});

fn batch(generation: u64, blocks: u64) -> Batch {
    Batch {
        generation: Generation(generation),
        after: After::Journal,
        zeroes: vec![(BlockIndex(generation), 3)],
        blocks: (0..blocks)
            .map(|n| {
                (
                    BlockIndex(100 + n * 2),
                    Arc::new([n as u8; BLOCK_SIZE]) as SharedBlock,
                )
            })
            .collect(),
    }
}

fn open(env: &Env) -> Result<(Journal, Vec<Replayed>), Error> {
    let mut replayed = Vec::new();
    let journal = Journal::open(
        env,
        Path::new(DIR),
        STORE,
        CONFIG,
        JournalSeq(0),
        &mut |submit| {
            // A record that logs nothing keeps no segment: it may be gone the next time.
            if !submit.batches.is_empty() {
                replayed.push(submit);
            }
            Ok(())
        },
    )?;
    Ok((journal, replayed))
}

/// A byte (even: begin with the template), then deeds.
pub fn run(data: &[u8]) {
    let template = LazyLock::force(&TEMPLATE);
    bounded(MEMORY_MAX, || {
        let mut input = Input::new(data);
        let sim = SimEnv::new(1);
        let disk = Disk(sim.env());
        disk.0
            .files
            .create_dir_all(Path::new(DIR))
            .expect("a directory");
        if input.u8().is_multiple_of(2) {
            for (path, bytes) in template {
                disk.file(path).write_at(0, bytes).expect("a write");
            }
        }
        for _ in 0..DEEDS_MAX {
            if input.is_empty() {
                break;
            }
            disk.deed(&mut input);
        }
        check(&sim);
    });
}

/// A journal that opens replays the same again, and what was submitted since.
fn check(sim: &SimEnv) {
    let Ok((journal, replayed)) = open(&sim.env()) else {
        return;
    };
    assert!(replayed.windows(2).all(|pair| pair[0].seq < pair[1].seq));
    for submit in &replayed {
        let generations: Vec<_> = submit
            .batches
            .iter()
            .map(|batch| batch.generation)
            .collect();
        assert!(generations.is_sorted(), "{generations:?}");
    }
    let epoch = Epoch(1 << 61);
    let mut kept = replayed.len();
    for n in 0..3 {
        let Ok(ticket) = journal.submit(VolumeId(77), epoch, vec![batch(1 + n, 2)]) else {
            break;
        };
        if journal.wait(ticket).is_err() {
            break;
        }
        kept += 1;
    }
    drop(journal);
    sim.kill();
    let (_, again) = open(&sim.env()).expect("what could be opened and written");
    assert_eq!(again[..replayed.len()], replayed[..]);
    assert_eq!(again.len(), kept);
}

struct Disk(Env);

impl Disk {
    /// The file, made if it is not there.
    fn file(&self, path: &Path) -> Arc<dyn File> {
        let there = self.0.files.exists(path).expect("a look");
        let options = OpenOptions {
            write: true,
            create_new: !there,
            direct: false,
        };
        self.0.files.open(path, options).expect("a file")
    }

    fn choose(&self, input: &mut Input<'_>) -> PathBuf {
        Path::new(DIR).join(format!("{:08}.seg", 1 + input.below(FILES_MAX)))
    }

    fn deed(&self, input: &mut Input<'_>) {
        let path = self.choose(input);
        let at = (input.below(PAGES_MAX) * PAGE) as u64;
        match input.below(8) {
            0 => self.edit_header(&path, input),
            1 => self.edit_record(&path, at, input),
            2 => self.new_record(&path, at, input),
            3 => self.copy(&path, at, input),
            4 => self.write(&path, at, &[0; PAGE]),
            5 => {
                let len = input.below(PAGES_MAX * PAGE + 1) as u64;
                self.file(&path).set_len(len).expect("a length");
            }
            6 => drop(self.0.files.remove(&path)),
            _ => {
                let at = at + input.below(PAGE) as u64;
                let bytes = input.bytes(8);
                self.write(&path, at, bytes);
            }
        }
    }

    fn write(&self, path: &Path, at: u64, bytes: &[u8]) {
        self.file(path).write_at(at, bytes).expect("a write");
    }

    /// Some pages, zeroes where the file has none.
    fn read(&self, path: &Path, at: u64, len: usize) -> Vec<u8> {
        let file = self.file(path);
        let end = file.len().expect("a length");
        let there = len.min(end.saturating_sub(at) as usize);
        let mut bytes = vec![0; len];
        if there > 0 {
            file.read_at(at, &mut bytes[..there]).expect("a read");
        }
        bytes
    }

    /// Changes a field of a header, or makes one.
    fn edit_header(&self, path: &Path, input: &mut Input<'_>) {
        let old = SegmentHeader::decode(&self.read(path, 0, PAGE));
        let mut header = old.unwrap_or(SegmentHeader {
            store: STORE,
            number: 1,
            salt: 1,
            first_seq: JournalSeq(1),
            tail: 1,
            len: (PAGES_MAX * PAGE) as u64,
            state: SegmentState::Active,
        });
        match input.below(6) {
            0 => header.number = input.number(),
            1 => header.salt = input.number(),
            2 => header.first_seq = JournalSeq(input.number()),
            3 => header.tail = input.number(),
            4 => header.len = input.number(),
            _ => {
                header.state = if input.u8() == 0 {
                    SegmentState::Active
                } else {
                    SegmentState::Free
                }
            }
        }
        let mut page = vec![0; PAGE];
        header.encode(&mut page);
        self.write(path, 0, &page);
    }

    /// Changes a number in a record, and seals it.
    fn edit_record(&self, path: &Path, at: u64, input: &mut Input<'_>) {
        let page = self.read(path, at, PAGE);
        let Some(found) = Unverified::look_for_any(&page) else {
            return;
        };
        let mut record = self.read(path, at, found.byte_len());
        let field = 12 + 4 * input.below(60);
        let value = input.number();
        record[field..field + 8].copy_from_slice(&value.to_le_bytes());
        seal(&mut record);
        self.write(path, at, &record);
    }

    /// A record that may follow others of the segment.
    fn new_record(&self, path: &Path, at: u64, input: &mut Input<'_>) {
        let header = SegmentHeader::decode(&self.read(path, 0, PAGE));
        let (salt, number) = header.map_or((1, 1), |header| (header.salt, header.number));
        let flags = input.u8();
        let record = RecordHeader {
            salt,
            number,
            seq: JournalSeq(input.number()),
            durable: JournalSeq(input.number()),
            volume: VolumeId(input.number()),
            epoch: Epoch(input.number()),
            before: match flags >> 2 & 3 {
                0 => Before::Unknown,
                1 => Before::Packs,
                _ => Before::Submit(JournalSeq(input.number()), Generation(input.number())),
            },
            first: flags & 1 == 0,
            last: flags & 2 == 0,
        };
        let extents: Vec<_> = (0..flags >> 6).map(|_| extent(input)).collect();
        let blocks: u64 = extents.iter().map(Extent::payload).sum();
        let mut bytes = vec![0x33; PAGE * (1 + blocks as usize)];
        record.encode(&extents, &mut bytes);
        seal(&mut bytes);
        self.write(path, at, &bytes);
    }

    fn copy(&self, path: &Path, at: u64, input: &mut Input<'_>) {
        let from = self.choose(input);
        let from_at = (input.below(PAGES_MAX) * PAGE) as u64;
        let bytes = self.read(&from, from_at, PAGE * (1 + input.below(PAGES_MAX)));
        self.write(path, at, &bytes);
    }
}

fn extent(input: &mut Input<'_>) -> Extent {
    let zeroed = input.u8().is_multiple_of(2);
    let (generation, first) = (Generation(input.number()), BlockIndex(input.number()));
    let blocks = if zeroed {
        input.number() >> 3
    } else {
        input.below(3) as u64
    };
    Extent {
        generation,
        first,
        blocks,
        zeroed,
        after: [After::Same, After::Packs, After::Journal][input.below(3)],
    }
}

/// No deed, and one of each kind.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = vec![vec![0], vec![1]];
    for deed in 0..8 {
        for file in 0..4 {
            seeds.push(vec![0, file, 1, deed, 1, 5, 1, 9, 1, 1, 1]);
        }
        seeds.push(vec![
            1, 0, 0, 0, 0, 1, 0, 1, deed, 0, 1, 0, 1, 1, 0, 3, 2, 0, 2, 1, 1, 1,
        ]);
    }
    seeds
}
