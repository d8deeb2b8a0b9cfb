//! Appliances: disks as those of one machine, in an OVA.
//!
//! ```text
//!  frozen devices, one after the other ─▶ NBD server ─▶ qemu-img ─▶ stream-optimized VMDK ─▶ tar
//! ```

mod archive;
mod descriptor;

use crate::{
    convert::{Image, Serve, file_target},
    error::Error,
    progress::PartOf,
    target::cannot,
    unfinished::Unfinished,
};
use archive::{Archive, Names};
use block::BlockDevice;
use descriptor::DISKS_MAX;
use env::Env;
use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};
use types::{ImageFormat, ImageShape, Progress, Subformat};

/// How disks are in an appliance.
const DISK: ImageShape = ImageShape {
    format: ImageFormat::Vmdk,
    compress: None,
    subformat: Some(Subformat::StreamOptimized),
};

/// A disk of an appliance. It does not change meanwhile.
pub struct ApplianceDisk {
    /// What it is called, for people.
    pub shown: String,
    /// All of it.
    pub device: Arc<dyn BlockDevice>,
}

/// Writes disks as those of one machine, called as the file at `path` is, into an OVA.
///
/// # Behavior
/// The archive has the descriptor first, then a manifest with digests, then the disks in their order; while it is written it takes the space of the
/// largest disk beside its own. It appears at `path` when it is complete and durable. Holes are not read. Progress is in bytes of all disks.
///
/// # Errors
/// As [`convert`](crate::convert())'s; [`Invalid`](crate::ErrorKind::Invalid) also if there are no disks, or more than 15.
pub fn export_ova(
    disks: impl FnOnce() -> Result<Vec<ApplianceDisk>, Error>,
    env: &Env,
    store: &Path,
    path: PathBuf,
    overwrite: bool,
    serve: Serve<'_>,
    progress: &dyn Progress,
) -> Result<(), Error> {
    file_target(env, &path, overwrite, store)?;
    let disks = disks()?;
    if !(1..=DISKS_MAX).contains(&disks.len()) {
        let count = disks.len();
        let message = format!("an OVA has 1 to {DISKS_MAX} disks, not {count}");
        return Err(Error::invalid(message));
    }
    let capacities: Vec<u64> = disks.iter().map(|disk| disk.device.info().size).collect();
    let total = capacities.iter().sum();
    progress.report(0, total)?;
    let unfinished = Unfinished::create(&path)?;
    let (names, made) = (Names::of(&path), env.clock.now());
    let mut archive = Archive::create(&unfinished.image(), names, &capacities, made)?;
    let shown = path.display().to_string();
    let vmdk = unfinished.beside(".vmdk");
    let mut part = PartOf {
        all: progress,
        before: 0,
        total,
        // What is there already is seen beside what is being written.
        stored_before: 0,
    };
    for (at, (disk, capacity)) in disks.into_iter().zip(capacities).enumerate() {
        let image = Image {
            path: &vmdk,
            shown: &shown,
            source: &disk.shown,
            shape: &DISK,
        };
        image.write(disk.device, None, serve, &part)?;
        archive.append_disk(at, &vmdk, &|| part.report(capacity, capacity))?;
        fs::remove_file(&vmdk).map_err(cannot("remove", &vmdk))?;
        part.before += capacity;
    }
    archive.finish()?;
    progress.report(total, total)?;
    unfinished.publish(overwrite)?;
    tracing::info!(path = shown, bytes = total, "exported");
    Ok(())
}
