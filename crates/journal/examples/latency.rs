//! Measures submits with a wait, one after the other: `latency DIRECTORY [BLOCKS [COUNT]]`.

use journal::{After, Batch, Config, Journal};
use std::{path::PathBuf, sync::Arc};
use types::{BlockIndex, Epoch, Generation, JournalSeq, StoreId, VolumeId};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let dir = PathBuf::from(args.next().ok_or("which directory?")?).join("journal");
    let mut number = |default: u64| args.next().map_or(Ok(default), |text| text.parse());
    let (blocks, count) = (number(1)?, number(20_000)?);
    let env = env::Env::real();
    let mut found = 0;
    let mut replay = |submit: journal::Replayed| {
        found = submit
            .batches
            .iter()
            .map(|b| b.generation.0)
            .max()
            .unwrap_or(found);
        Ok(())
    };
    let config = Config::default();
    let journal = Journal::open(
        &env,
        &dir,
        StoreId([1; 16]),
        config,
        JournalSeq(0),
        &mut replay,
    )?;
    let volume = VolumeId(1);
    journal.destaged(volume, Generation(found));
    let generations = found + 1..=found + count;
    let block = Arc::new([0x5a_u8; types::BLOCK_SIZE]);
    let mut times = Vec::new();
    for n in generations {
        let batch = Batch {
            after: After::Same,
            generation: Generation(n),
            zeroes: Vec::new(),
            blocks: (0..blocks)
                .map(|b| (BlockIndex(n + 2 * b), block.clone() as _))
                .collect(),
        };
        let begin = env.clock.monotonic();
        let ticket = journal.submit(volume, Epoch(1), vec![batch])?;
        journal.wait(ticket)?;
        times.push(env.clock.monotonic() - begin);
        journal.destaged(volume, Generation(n));
        journal.prepare()?;
    }
    let total: std::time::Duration = times.iter().sum();
    times.sort_unstable();
    let at = |part: f64| times[((times.len() - 1) as f64 * part) as usize];
    println!(
        "{blocks} blocks x {count}: mean {:?}, median {:?}, p99 {:?}, p99.9 {:?}, max {:?}; {:?}",
        total / count as u32,
        at(0.5),
        at(0.99),
        at(0.999),
        at(1.0),
        journal.stats()
    );
    Ok(())
}
