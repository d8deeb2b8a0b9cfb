//! Several volumes at one instant, from the API's words to the engine's.

use super::{control::Daemon, convert};
use api_types::{ApiError, CloneGroup, ErrorCode, Group, Snapshot, Volume};
use types::{Name, VolumeRef};
use volume::{Create, Source};

type Result<T> = std::result::Result<T, ApiError>;

/// Those that a group has of those that are named: independent volumes are left out.
fn members(daemon: &Daemon, request: &Group) -> Result<Vec<VolumeRef>> {
    let refs = request.snapshots.iter().map(|r| convert::reference(r));
    let mut refs: Vec<VolumeRef> = refs.collect::<Result<_>>()?;
    if !refs.is_empty() {
        refs = without_independent(daemon, refs, |r| r)?;
    }
    if refs.is_empty() {
        let error = ApiError::new(ErrorCode::Invalid, "a group of no volumes");
        return Err(error.hint("name them: volume@snapshot"));
    }
    Ok(refs)
}

/// Those whose volumes are not independent.
fn without_independent<T>(
    daemon: &Daemon,
    all: Vec<T>,
    of: impl Fn(&T) -> &VolumeRef,
) -> Result<Vec<T>> {
    let mut kept = Vec::new();
    for one in all {
        if !daemon.find(of(&one).volume.as_str())?.independent {
            kept.push(one);
        }
    }
    if kept.is_empty() {
        let message = "all of these are independent: groups leave them out";
        let error = ApiError::new(ErrorCode::Refused, message);
        return Err(error.hint("name them one by one, without --group"));
    }
    Ok(kept)
}

/// Takes their snapshots.
pub(crate) fn create(daemon: &Daemon, request: &Group) -> Result<Vec<Snapshot>> {
    let refs = members(daemon, request)?;
    let taken = daemon.store.create_group(&refs);
    let taken = taken.map_err(convert::api_error)?.into_iter().zip(&refs);
    Ok(taken
        .map(|(record, r)| convert::snapshot(record, &r.volume, None))
        .collect())
}

/// Sets them back.
pub(crate) fn rollback(daemon: &Daemon, request: &Group) -> Result<Vec<Volume>> {
    let refs = members(daemon, request)?;
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
    let parse = |clone: &api_types::CloneOf| {
        Ok((
            convert::reference(&clone.from)?,
            convert::name(&clone.name)?,
        ))
    };
    let named: Vec<(VolumeRef, Name)> = request.clones.iter().map(parse).collect::<Result<_>>()?;
    let create = |(from, name): (VolumeRef, Name)| Create::new(name, Source::Clone(from, None));
    let named = without_independent(daemon, named, |(from, _)| from)?;
    let creates: Vec<Create> = named.into_iter().map(create).collect();
    let volumes = daemon.store.create_volumes(&creates);
    daemon.fills.look();
    let volumes = volumes.map_err(convert::api_error)?.into_iter();
    volumes.map(|record| daemon.describe(record)).collect()
}
