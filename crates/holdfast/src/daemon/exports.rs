//! What front ends can open.

use super::files::Files;
use block::{BlockDevice, Error, ErrorKind, Exports};
use std::sync::Arc;
use types::VolumeRef;
use volume::Store;

/// A store's volumes and snapshots, and those that are plain files.
pub(crate) struct StoreExports {
    pub(crate) store: Arc<Store>,
    pub(crate) files: Arc<Files>,
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
            if r.snapshot.is_some() {
                return Err(gone());
            }
            let disk = self.files.device(&record, file).map_err(|e| {
                tracing::error!(volume = %r, error = %e, "cannot be opened");
                e.into_block("open")
            })?;
            return Ok(disk);
        }
        self.store.device(&r).map_err(|e| e.into_block("open"))
    }
}
