//! Several volumes at one instant, from the API's words to the engine's.

use super::{control::Daemon, convert};
use api_types::{ApiError, CloneGroup, ErrorCode, Group, Snapshot, Volume};
use types::VolumeRef;
use volume::{Create, Source};

type Result<T> = std::result::Result<T, ApiError>;

fn members(request: &Group) -> Result<Vec<VolumeRef>> {
    let refs = request.snapshots.iter().map(|r| convert::reference(r));
    let refs: Vec<VolumeRef> = refs.collect::<Result<_>>()?;
    if refs.is_empty() {
        let error = ApiError::new(ErrorCode::Invalid, "a group of no volumes");
        return Err(error.hint("name them: volume@snapshot"));
    }
    Ok(refs)
}

/// Takes their snapshots.
pub(crate) fn create(daemon: &Daemon, request: &Group) -> Result<Vec<Snapshot>> {
    let refs = members(request)?;
    let taken = daemon.store.create_group(&refs);
    let taken = taken.map_err(convert::api_error)?.into_iter().zip(&refs);
    Ok(taken
        .map(|(record, r)| convert::snapshot(record, &r.volume, None))
        .collect())
}

/// Sets them back.
pub(crate) fn rollback(daemon: &Daemon, request: &Group) -> Result<Vec<Volume>> {
    let refs = members(request)?;
    for r in &refs {
        daemon.refuse_in_use(&r.volume, "rolled back")?;
    }
    daemon.note_removal();
    let volumes = daemon.store.rollback_group(&refs);
    let volumes = volumes.map_err(convert::api_error)?.into_iter();
    volumes.map(|record| daemon.describe(record)).collect()
}

/// Clones them.
pub(crate) fn clone(daemon: &Daemon, request: &CloneGroup) -> Result<Vec<Volume>> {
    let create = |clone: &api_types::CloneOf| {
        Ok(Create {
            name: convert::name(&clone.name)?,
            source: Source::Clone(convert::reference(&clone.from)?, None),
            dedup: None,
            codec: None,
            read_only: false,
            quota: None,
            vhost_queues: 0,
        })
    };
    let creates: Vec<Create> = request.clones.iter().map(create).collect::<Result<_>>()?;
    let volumes = daemon.store.create_volumes(&creates);
    let volumes = volumes.map_err(convert::api_error)?.into_iter();
    volumes.map(|record| daemon.describe(record)).collect()
}
