//! A volume that fills the store, so that there is hardly any room for the others.

use super::{
    content::{BLOCK, Content},
    history::History,
    nbd::{Client, Request},
    tally::Tally,
    writer::{Disk, ENOSPC},
};
use crate::daemon::Daemon;
use anyhow::{Result, bail, ensure};

/// Its name. Nobody else uses it.
pub(super) const NAME: &str = "ballast";
/// Its number: what is written to a volume of this number cannot be compressed.
pub(super) const NUMBER: u32 = 0;

const AT_ONCE: u32 = 16;

/// Makes it, of `mib` MiB, writes it until the store is full, and gives a quarter back.
///
/// # Errors
/// The store is larger than that, or something else is wrong.
pub(super) fn fill(daemon: &mut Daemon, mib: u32, tally: &Tally) -> Result<Disk> {
    let blocks = mib << 20 >> 12;
    daemon.ok(&["volume", "create", NAME, &format!("{mib}M")])?;
    let state = vec![Content::Zero; blocks as usize];
    let disk = Disk::new(NAME.to_owned(), NUMBER, History::new(&state, 0));
    let mut client = Client::connect(&daemon.nbd_socket(), NAME)?;
    let mut written = 0;
    while tally.full.get() == 0 {
        ensure!(
            written + AT_ONCE <= blocks,
            "{mib} MiB do not fill the store"
        );
        write(&disk, &mut client, written, tally)?;
        written += AT_ONCE;
    }
    let room = written / 4;
    let zeroes = vec![Content::Zero; room as usize];
    disk.history().sending(0, &zeroes);
    client.ask(Request::Trim(0, room * BLOCK as u32))?;
    disk.history().answered(0, room, false);
    drop(client);
    // What was discarded is garbage once it is in packs, as all is after an end in order.
    daemon.stop()?;
    daemon.start()?;
    daemon.ok(&["store", "collect"])?;
    Ok(disk)
}

fn write(disk: &Disk, client: &mut Client, first: u32, tally: &Tally) -> Result<()> {
    let mut history = disk.history();
    let sequence = history.next_sequence();
    let own = |block| Content::Own {
        volume: NUMBER,
        block,
        sequence,
    };
    let contents: Vec<Content> = (first..first + AT_ONCE).map(own).collect();
    let mut data = vec![0; AT_ONCE as usize * BLOCK];
    for (content, place) in contents.iter().zip(data.chunks_exact_mut(BLOCK)) {
        content.fill(place);
    }
    history.sending(first, &contents);
    client.send(&[Request::Write(u64::from(first) * BLOCK as u64, data, false)])?;
    match client.receive()?.error {
        0 => history.answered(first, AT_ONCE, false),
        ENOSPC => tally.full.add(1),
        error => bail!("filling the store: error {error} was answered"),
    }
    Ok(())
}
