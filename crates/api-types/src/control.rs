//! What the daemon can do, as the API's server sees it.

use crate::{
    ApiError, CheckReport, CheckRequest, CloneGroup, CollectReport, CollectRequest, Connect,
    CreateSnapshot, CreateVolume, DiffLine, ExportRequest, FileControl, Group, ImportRequest,
    Imported, ModeControl, NbdStatus, Restore, ScrubStatus, ServeVhost, Snapshot, StoreInfo,
    StoreUsage, TrashEntry, UpdateVolume, VhostDevice, VhostStatus, Volume, VolumeUsage,
};
use std::io::{self, Read, Write};
use types::{Progress, VolumeRef};

/// Long work's ear and mouth.
pub type Work<'a> = &'a dyn Progress;

/// Bytes of an image that are arriving.
pub type ContentReader<'a> = &'a mut (dyn Read + Send);

/// Where bytes of an image go.
pub type ContentWriter<'a> = &'a mut (dyn Write + Send);

/// The daemon behind the API. Verbs block; the server calls them on threads that may.
///
/// Those with a [`Work`] take long: the server runs them as jobs. Events about what changed are
/// published by the server after a verb succeeded.
#[expect(
    clippy::missing_errors_doc,
    reason = "every verb fails with an ApiError whose code says what to do"
)]
pub trait Control: FileControl + ModeControl {
    /// The store.
    fn store(&self) -> Result<StoreInfo, ApiError>;
    /// Space. Takes time in proportion to the number of packs, not to bytes.
    fn usage(&self) -> Result<StoreUsage, ApiError>;
    /// Collects garbage.
    fn collect(&self, request: &CollectRequest, work: Work<'_>) -> Result<CollectReport, ApiError>;
    /// Verifies the store.
    fn check(&self, request: &CheckRequest, work: Work<'_>) -> Result<CheckReport, ApiError>;
    /// Begins a round of scrubbing, or goes on with the one that was stopped, and waits for its end. Cancelled, it only
    /// stops waiting.
    fn scrub(&self, work: Work<'_>) -> Result<ScrubStatus, ApiError>;
    /// How scrubbing stands.
    fn scrub_status(&self) -> ScrubStatus;
    /// Stops the round that is under way; the next goes on from there.
    fn stop_scrub(&self) -> ScrubStatus;

    /// Volumes by name, the trash left out.
    fn volumes(&self) -> Result<Vec<Volume>, ApiError>;
    /// One volume.
    fn volume(&self, name: &str) -> Result<Volume, ApiError>;
    /// Makes one.
    fn create_volume(&self, request: &CreateVolume) -> Result<Volume, ApiError>;
    /// Renames, resizes, changes properties: all or nothing.
    fn update_volume(&self, name: &str, request: &UpdateVolume) -> Result<Volume, ApiError>;
    /// Moves one to the trash, or removes it with its file if it is one; `force` also when clients have it open (they are cut off).
    fn remove_volume(&self, name: &str, force: bool) -> Result<TrashEntry, ApiError>;
    /// What a volume or snapshot takes. Reads its block map.
    fn volume_usage(&self, name: &VolumeRef) -> Result<VolumeUsage, ApiError>;
    /// How clients reach it.
    fn connect(&self, name: &VolumeRef) -> Result<Connect, ApiError>;

    /// A volume's snapshots, oldest first.
    fn snapshots(&self, volume: &str) -> Result<Vec<Snapshot>, ApiError>;
    /// Takes one.
    fn create_snapshot(&self, volume: &str, request: &CreateSnapshot)
    -> Result<Snapshot, ApiError>;
    /// Removes one.
    fn remove_snapshot(&self, volume: &str, snapshot: &str) -> Result<(), ApiError>;
    /// Sets a volume back, in place; what was written since is lost, later snapshots stay.
    fn rollback(&self, volume: &str, snapshot: &str) -> Result<Volume, ApiError>;

    /// Takes snapshots of several volumes at one instant: all of them, or none.
    fn create_group(&self, request: &Group) -> Result<Vec<Snapshot>, ApiError>;
    /// Sets several volumes back to snapshots that were taken at one instant: all of them, or none.
    fn rollback_group(&self, request: &Group) -> Result<Vec<Volume>, ApiError>;
    /// Clones several snapshots: all of them, or none.
    fn clone_group(&self, request: &CloneGroup) -> Result<Vec<Volume>, ApiError>;

    /// What was removed and can still be restored.
    fn trash(&self) -> Result<Vec<TrashEntry>, ApiError>;
    /// Brings a volume back.
    fn restore(&self, id: u64, request: &Restore) -> Result<Volume, ApiError>;
    /// Removes one entry for good, or all.
    fn purge(&self, id: Option<u64>) -> Result<Vec<TrashEntry>, ApiError>;

    /// Makes a volume from an image on this host.
    fn import(&self, request: &ImportRequest, work: Work<'_>) -> Result<Imported, ApiError>;
    /// Makes a volume (as `request` says; `path` is empty) from bytes that arrive.
    fn import_stream(
        &self,
        request: &ImportRequest,
        content: ContentReader<'_>,
        work: Work<'_>,
    ) -> Result<Imported, ApiError>;
    /// Has the import of a volume that is used meanwhile wait, or go on; over restarts too.
    fn pause_import(&self, name: &str, paused: bool) -> Result<Volume, ApiError>;
    /// Writes an image on this host.
    fn export(&self, request: &ExportRequest, work: Work<'_>) -> Result<(), ApiError>;
    /// Writes all bytes of a volume or snapshot, zeroes included.
    fn export_stream(
        &self,
        source: &VolumeRef,
        content: ContentWriter<'_>,
        work: Work<'_>,
    ) -> Result<(), ApiError>;
    /// Virtual size of a volume or snapshot, bytes: the length of [`export_stream`](Self::export_stream).
    fn content_len(&self, source: &VolumeRef) -> Result<u64, ApiError>;

    /// Hands what differs between two states to `each`, line by line; it stops with the first error.
    fn diff(
        &self,
        from: &VolumeRef,
        to: &VolumeRef,
        each: &mut dyn FnMut(DiffLine) -> io::Result<()>,
    ) -> Result<(), ApiError>;

    /// What is served over vhost-user-blk.
    fn vhost(&self) -> Result<VhostStatus, ApiError>;
    /// Serves one, from now on and after every start.
    fn serve_vhost(&self, name: &VolumeRef, request: &ServeVhost) -> Result<VhostDevice, ApiError>;
    /// Does so no more; `force` also when a guest is connected (it is cut off).
    fn stop_vhost(&self, name: &VolumeRef, force: bool) -> Result<(), ApiError>;

    /// The NBD server.
    fn nbd(&self) -> Result<NbdStatus, ApiError>;
    /// Metrics in the OpenMetrics text format.
    fn metrics(&self) -> String;
}
