//! A day in the life of a volume, at once: random overwrites, a snapshot a minute of which an hour is kept, and
//! collection every hour. Then: how quickly can it still be read from end to end?

use super::{
    bed::{Bed, drained},
    figures::{Outcome, Side},
    fio::{self, HALF},
    machine,
    random::Random,
};
use anyhow::{Context, Result, ensure};
use e2e::{
    api,
    daemon::Daemon,
    torture::nbd::{Client, Request},
};

const AGED: &str = "aged";
/// What the other was at first.
const FRESH: &str = "fresh";
/// Bytes of each.
const SIZE: &str = "1g";
const BLOCKS: u64 = 1 << 18;
const MINUTES: usize = 24 * 60;
/// Of snapshots that are kept.
const KEPT: usize = 60;
/// Overwritten in a minute: in a day, as much as the volume has.
const BLOCKS_A_MINUTE: u64 = BLOCKS / MINUTES as u64 + 1;
const IN_FLIGHT: usize = 64;

/// Sequential reads, nothing cached, of the volume and of its first snapshot, held against a volume that was filled
/// afterwards.
pub(crate) fn run(bed: &mut Bed) -> Result<Vec<Outcome>> {
    bed.clear();
    // Collections are ours.
    let config = bed.directory().join("ageing.toml");
    std::fs::write(&config, "[collect]\ngrowth_percent = 0\n")?;
    let mut daemon = bed.daemon(&["--config", &config.display().to_string()])?;
    fill(&daemon, AGED)?;
    let first = format!("{AGED}@first");
    daemon.ok(&["snapshot", "create", &first])?;
    age(&daemon)?;
    fill(&daemon, FRESH)?;
    let mut figures = [(); 3].map(|()| Vec::new());
    for _ in 0..bed.rounds {
        for (export, figures) in [AGED, &first, FRESH].into_iter().zip(&mut figures) {
            chill(bed, &mut daemon)?;
            figures.push(read(&daemon, export)?);
        }
        let last = figures.each_ref().map(|of| of.last().copied());
        println!("   aged, first snapshot, fresh: {last:.0?} MB/s");
    }
    let [aged, snapshot, fresh] = figures;
    let against_fresh = |name: &str, figures| {
        let sides = vec![Side::new(name, figures), Side::new(FRESH, fresh.clone())];
        Outcome::ratio("MB/s", sides, false).context("no rounds")
    };
    Ok(vec![
        against_fresh("aged", aged)?,
        against_fresh("first snapshot", snapshot)?,
    ])
}

fn fill(daemon: &Daemon, volume: &str) -> Result<()> {
    daemon.ok(&["volume", "create", volume, SIZE])?;
    let size = format!("--size={SIZE}");
    let options = [&HALF[..], &[&size, "--end_fsync=1"]].concat();
    fio::whole(&daemon.uri(volume), "write", &options)?;
    drained(daemon)
}

fn read(daemon: &Daemon, export: &str) -> Result<f64> {
    let size = format!("--size={SIZE}");
    Ok(fio::whole(&daemon.uri(export), "read", &[&size])?.mb_per_s)
}

fn chill(bed: &Bed, daemon: &mut Daemon) -> Result<()> {
    drained(daemon)?;
    daemon.stop()?;
    daemon.start()?;
    machine::drop_page_cache(bed.directory())
}

/// A day of it. Every generation goes into packs by itself, as it would if minutes took their time.
fn age(daemon: &Daemon) -> Result<()> {
    let mut client = Client::connect(&daemon.nbd_socket(), AGED)?;
    let mut random = Random::new(1);
    let snapshots = format!("/v1/volumes/{AGED}/snapshots");
    for minute in 0..MINUTES {
        overwrite(&mut client, &mut random)?;
        let name = format!(r#"{{"name": "m{minute}"}}"#);
        api::request(&daemon.socket(), "POST", &snapshots, &name)?;
        if let Some(old) = minute.checked_sub(KEPT) {
            let path = format!("{snapshots}/m{old}");
            api::request(&daemon.socket(), "DELETE", &path, "")?;
        }
        if minute % KEPT == KEPT - 1 {
            drained(daemon)?;
            daemon.ok(&["store", "collect"])?;
        }
    }
    drained(daemon)
}

/// What a guest writes in a minute.
fn overwrite(client: &mut Client, random: &mut Random) -> Result<()> {
    let writes: Vec<Request> = (0..BLOCKS_A_MINUTE)
        .map(|_| Request::Write(random.below(BLOCKS) * 4096, random.block(), false))
        .collect();
    for batch in writes.chunks(IN_FLIGHT) {
        client.send(batch)?;
        for _ in batch {
            let reply = client.receive()?;
            ensure!(reply.error == 0, "error {} was answered", reply.error);
        }
    }
    Ok(())
}
