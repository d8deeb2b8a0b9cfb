//! Volumes from an OVA: one for each disk of the machine, all or none.

use crate::{
    error::Error,
    import::{Imported, import_stream, peek, volume_size},
    noted::Noted,
    progress::PartOf,
};
use image_formats::{Ova, OvfDisk};
use std::io::Read;
use types::{Codec, Name, Progress, size::format_size};
use volume::{Ingest, Store};

/// What is to be made of it.
#[derive(Clone, Copy)]
pub(crate) struct Asked<'a> {
    pub(crate) name: &'a Name,
    /// Bytes of the volume, if there is one.
    pub(crate) size: Option<u64>,
    pub(crate) dedup: Option<bool>,
    pub(crate) codec: Option<Codec>,
    /// Only this disk, counted from 1.
    pub(crate) disk: Option<usize>,
    /// What it is read from.
    pub(crate) noted: &'a Noted,
}

/// A disk that is imported.
struct Wanted<'a> {
    /// Which one it is in the descriptor.
    index: usize,
    ingest: Ingest<'a>,
    /// Bytes of the volume.
    size: u64,
}

/// Reads an OVA to its end; `shown` is what it is called in errors.
pub(crate) fn import<R: Read + Send>(
    store: &Store,
    asked: Asked<'_>,
    reader: R,
    shown: &str,
    progress: &dyn Progress,
) -> Result<Imported, Error> {
    let mut ova = Ova::open(reader, shown)?;
    let mut wanted = wanted(store, asked, ova.disks(), shown)?;
    let mut part = PartOf {
        all: progress,
        before: 0,
        total: wanted.iter().map(|disk| disk.size).sum(),
        stored_before: 0,
    };
    while let Some(index) = ova.next_disk()? {
        let Some(disk) = wanted.iter_mut().find(|disk| disk.index == index) else {
            continue;
        };
        let shown = ova.shown();
        let capacity = ova.disks().get(index).map_or(0, |disk| disk.capacity);
        let mut reader = ova.disk_reader(index)?;
        let filled = fill(&mut *reader, &shown, capacity, &mut disk.ingest, &part);
        filled.map_err(|e| told_of(&shown, e))?;
        part.before += disk.size;
        part.stored_before += disk.ingest.stored();
    }
    let indexes: Vec<usize> = wanted.iter().map(|disk| disk.index).collect();
    let notes = ova.finish(&indexes)?;
    asked.noted.check()?;
    let ingests = wanted.into_iter().map(|disk| (disk.ingest, disk.size));
    let mut volumes = Ingest::finish_all(ingests.collect(), progress)?;
    let others = volumes.split_off(1);
    let volume = volumes.remove(0);
    tracing::info!(volume = %volume.name, others = others.len(), "imported");
    Ok(Imported {
        volume,
        others,
        notes,
    })
}

/// The disks that are asked for, with the names that their volumes get.
fn wanted<'a>(
    store: &'a Store,
    asked: Asked<'_>,
    disks: &[OvfDisk],
    shown: &str,
) -> Result<Vec<Wanted<'a>>, Error> {
    let of_it = |what: String| Error::invalid(format!("{shown}: {what}"));
    let indexes = match asked.disk {
        None => 0..disks.len(),
        Some(number) if (1..=disks.len()).contains(&number) => number - 1..number,
        Some(number) => {
            let what = format!("there is no disk {number}; it has {}", disks.len());
            return Err(of_it(what));
        }
    };
    let several = indexes.len() > 1;
    if several && asked.size.is_some() {
        let what =
            "it has several disks, which cannot all have the size that is asked for; choose one";
        return Err(of_it(what.into()));
    }
    let mut wanted = Vec::new();
    for index in indexes {
        let name = if several {
            let name = format!("{}-{}", asked.name, index + 1);
            name.parse::<Name>().map_err(|e| of_it(e.to_string()))?
        } else {
            asked.name.clone()
        };
        let capacity = disks.get(index).map_or(0, |disk| disk.capacity);
        let size = volume_size(capacity, asked.size);
        wanted.push(Wanted {
            index,
            ingest: store.ingest(&name, asked.dedup, asked.codec)?,
            size: size.map_err(|e| of_it(format!("disk {}: {e}", index + 1)))?,
        });
    }
    Ok(wanted)
}

fn fill(
    reader: &mut (dyn Read + Send),
    shown: &str,
    capacity: u64,
    ingest: &mut Ingest<'_>,
    progress: &dyn Progress,
) -> Result<(), Error> {
    let (head, format) = peek(reader, shown, None)?;
    let mut stream = head.chain(reader);
    let len = import_stream(&mut stream, shown, format, u64::MAX, ingest, progress)?;
    // What a machine sees has the capacity: it may be more than what is stored, but not less.
    if len > capacity {
        return Err(Error::invalid(format!(
            "{shown}: the disk has {} ({len} bytes), but the descriptor says {} ({capacity} bytes)",
            format_size(len),
            format_size(capacity)
        )));
    }
    Ok(())
}

/// An error that says which member it is about.
fn told_of(shown: &str, e: Error) -> Error {
    if e.to_string().contains(shown) {
        return e;
    }
    Error::new(e.kind(), format!("{shown}: {e}"))
}
