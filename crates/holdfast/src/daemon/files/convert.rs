//! A volume's data from the store into a plain file and back, while no client has it open.
//!
//! The new copy is complete and durable before one commit of the catalog makes it the volume: whenever the daemon dies, it is the
//! one or the other.

use super::{Result, api_error};
use crate::daemon::{control::Daemon, convert as words};
use api_types::{ApiError, Convert, ErrorCode, FileSpec, Work};
use block::{BlockDevice, Durability, ExtentKind};
use catalog::{ImageFile, VolumeRecord};
use file_disk::{Open, Place};
use std::sync::Arc;
use types::{BLOCK_SIZE, Block, BlockIndex, VolumeRef};
use volume::{Error as VolumeError, ErrorKind, Ingest};

/// Read and written at once, bytes.
const PIECE: u64 = 4 << 20;

impl Daemon {
    pub(in crate::daemon) fn convert(
        &self,
        name: &str,
        request: &Convert,
        work: Work<'_>,
    ) -> Result<VolumeRecord> {
        let record = self
            .store
            .find(&words::name(name)?)
            .map_err(words::api_error)?;
        self.refuse_in_use(&record.name, "converted")?;
        match (&request.file, record.backend.file()) {
            (Some(spec), None) => self.copy_to_file(&record, spec, work),
            (None, Some(file)) => self.copy_to_store(&record, file, request.keep, work),
            (Some(_), Some(_)) => Err(already(&record, "a plain file")),
            (None, None) => Err(already(&record, "in the store")),
        }
    }

    fn copy_to_file(
        &self,
        record: &VolumeRecord,
        spec: &FileSpec,
        work: Work<'_>,
    ) -> Result<VolumeRecord> {
        if spec.reuse {
            let message = "a file that is there is not overwritten by a conversion";
            return Err(ApiError::new(ErrorCode::Invalid, message).hint("leave --reuse out"));
        }
        let place = self
            .files
            .place_for(&record.name, spec.directory.as_deref())?;
        let (format, driver) = (
            spec.format.unwrap_or_default(),
            spec.driver.unwrap_or_default(),
        );
        let file = self.files.image_file(&place, format, driver)?;
        let made = std::cell::Cell::new(false);
        let failure = std::cell::Cell::new(None);
        let copy = || {
            let copied = self.copy_out(record, &place, &file, &made, work);
            copied.map_err(|e| {
                let error = VolumeError::new(ErrorKind::Io, e.message.clone());
                failure.set(Some(e));
                error
            })?;
            Ok(file.clone())
        };
        let converted = self.store.convert_to_file(&record.name, copy);
        converted.map_err(|e| {
            if made.get() {
                let _ = place.remove(&self.env);
            }
            failure.take().unwrap_or_else(|| words::api_error(e))
        })
    }

    fn copy_out(
        &self,
        record: &VolumeRecord,
        place: &Place,
        file: &ImageFile,
        made: &std::cell::Cell<bool>,
        work: Work<'_>,
    ) -> Result<()> {
        self.make_file(place, record.size, file)?;
        made.set(true);
        let how = Open {
            format: file.format,
            driver: file.driver,
            read_only: false,
        };
        let disk = file_disk::open(&self.env, place, how, record.size).map_err(api_error)?;
        let r = VolumeRef {
            volume: record.name.clone(),
            snapshot: None,
        };
        let source = self.store.frozen_device(&r).map_err(words::api_error)?;
        each_piece(&*source, work, |at, bytes| {
            disk.write(at, bytes, Durability::Volatile)
                .map_err(device_error)
        })?;
        disk.flush().map_err(device_error)
    }

    fn copy_to_store(
        &self,
        record: &VolumeRecord,
        file: &ImageFile,
        keep: bool,
        work: Work<'_>,
    ) -> Result<VolumeRecord> {
        let disk = self.files.device(record, file).map_err(api_error)?;
        if !disk.snapshots().map_err(api_error)?.is_empty() {
            let message = format!(
                "'{}' has snapshots, which the store cannot take over",
                record.name
            );
            return Err(ApiError::new(ErrorCode::Refused, message).hint("remove them first"));
        }
        let mut ingest = self
            .store
            .convert_to_store(record)
            .map_err(words::api_error)?;
        each_piece(&*disk, work, |at, bytes| add(&mut ingest, at, bytes))?;
        let converted = ingest
            .finish_in_place_of(record)
            .map_err(words::api_error)?;
        if !keep && let Err(e) = self.files.remove(file) {
            tracing::warn!(volume = %record.name, error = %e, "the file that was converted stays");
        }
        Ok(converted)
    }
}

fn already(record: &VolumeRecord, what: &str) -> ApiError {
    ApiError::new(
        ErrorCode::Conflict,
        format!("'{}' is {what} already", record.name),
    )
}

pub(crate) fn device_error(e: block::Error) -> ApiError {
    let code = match e.kind() {
        block::ErrorKind::NoSpace => ErrorCode::NoSpace,
        block::ErrorKind::Gone => ErrorCode::Unavailable,
        _ => ErrorCode::Damaged,
    };
    ApiError::new(code, format!("{e:?}"))
}

/// Reads the data of a device, in order and in whole blocks, holes left out.
fn each_piece(
    source: &dyn BlockDevice,
    work: Work<'_>,
    mut piece: impl FnMut(u64, &[u8]) -> Result<()>,
) -> Result<()> {
    let (size, block) = (source.info().size, BLOCK_SIZE as u64);
    let mut buffer = vec![0; PIECE as usize];
    let (mut seen, mut done) = (0, 0);
    while seen < size {
        work.report(seen, size)?;
        for extent in source
            .extents(seen, size - seen, 64)
            .map_err(device_error)?
        {
            let end = seen + extent.len;
            if extent.kind == ExtentKind::Data {
                // Whole blocks, also where data begin or end within one.
                let mut at = done.max(seen / block * block);
                done = end.next_multiple_of(block).min(size).max(done);
                while at < done {
                    work.report(at, size)?;
                    let bytes = &mut buffer[..(done - at).min(PIECE) as usize];
                    source.read(at, bytes).map_err(device_error)?;
                    piece(at, bytes)?;
                    at += bytes.len() as u64;
                }
            }
            seen = end;
        }
    }
    Ok(work.report(size, size)?)
}

/// Adds bytes that begin and end with blocks, or with the device.
fn add(ingest: &mut Ingest<'_>, at: u64, bytes: &[u8]) -> Result<()> {
    let first = at / BLOCK_SIZE as u64;
    let blocks: Vec<(BlockIndex, Arc<Block>)> = bytes
        .chunks(BLOCK_SIZE)
        .zip(first..)
        .map(|(chunk, index)| {
            let mut block: Block = [0; BLOCK_SIZE];
            block[..chunk.len()].copy_from_slice(chunk);
            (BlockIndex(index), Arc::new(block))
        })
        .collect();
    ingest.write(&blocks).map_err(words::api_error)
}
