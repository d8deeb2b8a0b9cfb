//! What differs between two states, from the engine's words to the API's.

use super::{control::Daemon, convert};
use api_types::{ApiError, DiffExtent, DiffLine, ErrorCode};
use std::{io, ops::ControlFlow};
use types::{BLOCK_SIZE, VolumeRef};

/// Hands it to `each`, line by line.
pub(crate) fn diff(
    daemon: &Daemon,
    from: &VolumeRef,
    to: &VolumeRef,
    each: &mut dyn FnMut(DiffLine) -> io::Result<()>,
) -> Result<(), ApiError> {
    let broken = |e: io::Error| ApiError::new(ErrorCode::Cancelled, e.to_string());
    let diff = daemon.store.diff(from, to).map_err(convert::api_error)?;
    each(DiffLine::Begin {
        from: from.to_string(),
        to: to.to_string(),
        from_size: diff.from_size(),
        to_size: diff.to_size(),
        block_size: BLOCK_SIZE as u64,
    })
    .map_err(broken)?;
    let (mut extents, mut data_bytes, mut zero_bytes) = (0, 0, 0);
    let mut told = Ok(());
    let compared = diff.for_each(&mut |extent| {
        extents += 1;
        match extent.data {
            true => data_bytes += extent.len,
            false => zero_bytes += extent.len,
        }
        told = each(DiffLine::Extent(DiffExtent {
            offset: extent.offset,
            length: extent.len,
            data: extent.data,
        }));
        match told {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        }
    });
    let _ = compared.map_err(convert::api_error)?;
    told.map_err(broken)?;
    let end = DiffLine::End {
        extents,
        data_bytes,
        zero_bytes,
    };
    each(end).map_err(broken)
}
