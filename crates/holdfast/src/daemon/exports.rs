//! What front ends can open.

use super::{files::Files, power::Power};
use block::{Bitmap, BlockDevice, Departure, Error, ErrorKind, Exports};
use std::sync::Arc;
use types::VolumeRef;
use volume::Store;

/// A store's volumes and snapshots, and those that are plain files.
pub(crate) struct StoreExports {
    pub(crate) store: Arc<Store>,
    pub(crate) files: Arc<Files>,
    pub(crate) power: Arc<Power>,
}

impl Exports for StoreExports {
    fn list(&self) -> Vec<String> {
        let catalog = self.store.catalog();
        let volumes = catalog.volumes().unwrap_or_else(|e| {
            tracing::error!(error = ?e, "cannot list the exports");
            Vec::new()
        });
        let mut names = Vec::new();
        for volume in volumes
            .into_iter()
            .filter(|volume| volume.trashed.is_none())
        {
            names.push(volume.name.to_string());
            if let Some(file) = volume.backend.file() {
                let snapshots = self.files.snapshot_names(file);
                names.extend(snapshots.iter().map(|s| format!("{}@{s}", volume.name)));
            }
            let snapshots = catalog.snapshots(volume.id).unwrap_or_default();
            names.extend(
                snapshots
                    .iter()
                    .map(|s| format!("{}@{}", volume.name, s.name)),
            );
        }
        names
    }

    fn open(&self, name: &str) -> Result<Arc<dyn BlockDevice>, Error> {
        let gone = || Error::new(ErrorKind::Gone, "open");
        let r: VolumeRef = name.parse().map_err(|e| gone().with_source(e))?;
        // Who cannot read the catalog still finds what is open in the store.
        if let Ok(record) = self.store.find(&r.volume)
            && let Some(file) = record.backend.file()
        {
            let disk = self.files.open(&record, file, &r).map_err(|e| {
                tracing::error!(volume = %r, error = %e, "cannot be opened");
                e.into_block("open")
            })?;
            if r.snapshot.is_some() {
                return Ok(disk);
            }
            let limited = self.store.limited(record.id, disk);
            return limited.map_err(|e| e.into_block("open"));
        }
        self.store.device(&r).map_err(|e| e.into_block("open"))
    }

    /// Of a volume all its snapshots, of a snapshot those before it.
    fn bitmaps(&self, name: &str) -> Vec<String> {
        let Ok(VolumeRef { volume, snapshot }) = name.parse() else {
            return Vec::new();
        };
        let snapshots = self.store.snapshots(&volume).unwrap_or_default();
        let before = snapshots
            .into_iter()
            .take_while(|s| Some(&s.name) != snapshot.as_ref());
        before.map(|s| s.name.to_string()).collect()
    }

    /// `point` is a snapshot of the same volume, or any as `volume@snapshot`: what a clone comes from.
    fn bitmap(&self, name: &str, point: &str) -> Result<Arc<dyn Bitmap>, Error> {
        let gone = |e| Error::new(ErrorKind::Gone, "bitmap").with_source(e);
        let of: VolumeRef = name.parse().map_err(gone)?;
        let since = match point.contains('@') {
            true => point.parse().map_err(gone)?,
            false => VolumeRef {
                volume: of.volume.clone(),
                snapshot: Some(point.parse().map_err(gone)?),
            },
        };
        let bitmap = self.store.bitmap(&of, &since);
        bitmap.map_err(|e| e.into_block("bitmap"))
    }

    fn left(&self, name: &str, how: Departure) {
        let r: Result<VolumeRef, _> = name.parse();
        if let Ok(VolumeRef {
            volume,
            snapshot: None,
        }) = r
            && let Ok(record) = self.store.find(&volume)
        {
            self.power.left(record.id, how);
        }
    }
}
