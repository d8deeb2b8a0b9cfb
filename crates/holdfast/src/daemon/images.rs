//! Import and export, from the API's words to the image crate's.

use super::{control::Daemon, convert, files::refuse_for_file};
use api_types::{
    ApiError, ContentReader, ContentWriter, ErrorCode, ExportRequest, ImportRequest, Work,
};
use block::{Bitmap, BlockDevice, Departure, Exports};
use env::Env;
use image::{
    ApplianceDisk, Backing, Convert, Frozen, Import, Imported, NbdUri, OtherFiles, Source, Target,
};
use std::{any::Any, io, os::fd::OwnedFd, path::PathBuf, sync::Arc};
use types::{ImageFormat, ImageShape, VolumeRef};
use volume::Create;

type Result<T> = std::result::Result<T, ApiError>;

fn api_error(e: image::Error) -> ApiError {
    use image::ErrorKind as Kind;
    let code = match e.kind() {
        Kind::NotFound => ErrorCode::NotFound,
        Kind::Exists => ErrorCode::Conflict,
        Kind::Invalid => ErrorCode::Invalid,
        Kind::NoSpace => ErrorCode::NoSpace,
        Kind::Cancelled => ErrorCode::Cancelled,
        Kind::Damaged => ErrorCode::Damaged,
        _ => ErrorCode::Internal,
    };
    ApiError::new(code, e.to_string())
}

fn absolute(path: &str) -> Result<PathBuf> {
    let path = PathBuf::from(path);
    if path.is_absolute() {
        return Ok(path);
    }
    let message = format!(
        "'{}' is not an absolute path on the daemon's host",
        path.display()
    );
    Err(ApiError::new(ErrorCode::Invalid, message))
}

fn files(request: &ImportRequest) -> Result<OtherFiles> {
    let backing = request.backing.iter().map(|path| absolute(path));
    let data = request.data_file.as_deref().map(absolute);
    Ok(OtherFiles {
        backing: backing.collect::<Result<_>>()?,
        data: data.transpose()?,
    })
}

impl Daemon {
    /// What an import made, in the API's words.
    pub(crate) fn imported(&self, imported: Imported) -> Result<api_types::Imported> {
        Ok(api_types::Imported {
            volume: self.describe(imported.volume)?,
            others: imported
                .others
                .into_iter()
                .map(|volume| self.describe(volume))
                .collect::<Result<_>>()?,
            saved: None,
            notes: imported.notes,
        })
    }
}

fn run(
    daemon: &Daemon,
    request: &ImportRequest,
    source: Source<'_>,
    work: Work<'_>,
) -> Result<Imported> {
    let import = Import {
        size: request.size,
        dedup: request.dedup,
        codec: request.codec,
        format: request.format,
        files: files(request)?,
        snapshots: request.snapshots,
        disk: request.disk,
        ..Import::new(convert::name(&request.name)?, source)
    };
    image::import(&daemon.store, &daemon.env, import, work).map_err(api_error)
}

/// From a file or a block device of this host, or from an NBD server.
pub(crate) fn import(daemon: &Daemon, request: &ImportRequest, work: Work<'_>) -> Result<Imported> {
    let source = match (NbdUri::is_meant_by(&request.path), request.live) {
        (false, true) => return import_live(daemon, request, work),
        (false, false) => Source::Path(absolute(&request.path)?),
        (true, true) => {
            let message = "what an NBD server has may change; a volume that is used while it is imported needs a file";
            return Err(ApiError::new(ErrorCode::Invalid, message));
        }
        (true, false) => {
            let uri = request.path.parse();
            Source::Nbd(uri.map_err(|e: String| ApiError::new(ErrorCode::Invalid, e))?)
        }
    };
    run(daemon, request, source, work)
}

/// The volume is there at once, and is filled later.
fn import_live(daemon: &Daemon, request: &ImportRequest, work: Work<'_>) -> Result<Imported> {
    if request.snapshots {
        let message = "snapshots cannot be imported while the volume is used: leave out one of --live and --snapshots";
        return Err(ApiError::new(ErrorCode::Invalid, message));
    }
    let path = absolute(&request.path)?;
    let (format, size) = (request.format, request.size);
    let cancel = work.cancellation();
    let live = image::live(&daemon.env, &path, format, &files(request)?, size, &cancel);
    let live = live.map_err(api_error)?;
    let create = Create {
        dedup: request.dedup,
        codec: request.codec,
        ..Create::new(
            convert::name(&request.name)?,
            volume::Source::Image(Box::new(live.source), live.size),
        )
    };
    let created = daemon.store.create_volume(&create);
    daemon.fills.look();
    Ok(Imported {
        volume: created.map_err(convert::api_error)?,
        others: Vec::new(),
        notes: live.notes,
    })
}

/// From bytes that arrive.
pub(crate) fn import_stream(
    daemon: &Daemon,
    request: &ImportRequest,
    content: ContentReader<'_>,
    work: Work<'_>,
) -> Result<Imported> {
    if request.live {
        let message = "what is sent is imported as it comes; name a file of the daemon's host";
        return Err(ApiError::new(ErrorCode::Invalid, message));
    }
    run(daemon, request, Source::Reader(content), work)
}

/// To a file or a block device of this host.
pub(crate) fn export(daemon: &Daemon, request: &ExportRequest, work: Work<'_>) -> Result<()> {
    let source = convert::reference(&request.source)?;
    if request.format == Some(ImageFormat::Ova) {
        return export_ova(daemon, source, request, work);
    }
    if !request.others.is_empty() {
        let message = "only an OVA has several disks";
        return Err(ApiError::new(ErrorCode::Invalid, message));
    }
    let (path, overwrite) = (absolute(&request.path)?, request.overwrite);
    let backing = request.backing.as_ref();
    let backing = backing.map(|backing| behind(daemon, &source, backing));
    let backing = backing.transpose()?;
    let usual = backing
        .as_ref()
        .map_or(ImageFormat::Raw, |_| ImageFormat::Qcow2);
    let shape = ImageShape {
        format: request.format.unwrap_or(usual),
        compress: request.compress,
        subformat: request.subformat,
    };
    if shape == ImageShape::RAW && backing.is_none() {
        return run_export(daemon, &source, Target::Path { path, overwrite }, work);
    }
    let to = Convert {
        path,
        overwrite,
        shape,
    };
    let (store, env) = (&daemon.store, &daemon.env);
    let record = daemon.find(source.volume.as_str())?;
    let file = daemon.file_device(&record, &source)?;
    let frozen = || match backing {
        None => Ok(Frozen {
            device: file.map_or_else(|| store.frozen_device(&source), Ok)?,
            backing: None,
        }),
        Some((snapshot, file)) => {
            let difference = store.difference(&source, &snapshot)?;
            let backing = Backing {
                file,
                shown: snapshot.to_string(),
                size: difference.since_size,
                changed: difference.changed,
            };
            Ok(Frozen {
                device: difference.device,
                backing: Some(backing),
            })
        }
    };
    let serve = |device, bitmap, connection| serve_alone(Alone { device, bitmap }, env, connection);
    let label = source.to_string();
    image::convert(frozen, env, store.dir(), &label, to, &serve, work).map_err(api_error)
}

/// Several as the disks of one machine.
fn export_ova(
    daemon: &Daemon,
    first: VolumeRef,
    request: &ExportRequest,
    work: Work<'_>,
) -> Result<()> {
    if request.compress.is_some() || request.subformat.is_some() || request.backing.is_some() {
        let message = "the disks of an OVA are stream-optimized vmdk, whole and compressed: there is nothing to choose";
        return Err(ApiError::new(ErrorCode::Invalid, message));
    }
    let (store, env) = (&daemon.store, &daemon.env);
    let others = request.others.iter().map(|other| convert::reference(other));
    let sources: Vec<VolumeRef> = std::iter::once(Ok(first))
        .chain(others)
        .collect::<Result<_>>()?;
    let files = sources.iter().map(|source| {
        let record = daemon.find(source.volume.as_str())?;
        daemon.file_device(&record, source)
    });
    let files: Vec<_> = files.collect::<Result<_>>()?;
    let disks = || {
        let stored = sources
            .iter()
            .zip(&files)
            .filter(|(_, file)| file.is_none());
        let stored: Vec<VolumeRef> = stored.map(|(source, _)| source.clone()).collect();
        let mut stored = store.frozen_devices(&stored)?.into_iter();
        let disks = sources.iter().zip(files).filter_map(|(source, file)| {
            let device = file.or_else(|| stored.next())?;
            let shown = source.to_string();
            Some(ApplianceDisk { shown, device })
        });
        Ok(disks.collect())
    };
    let (path, overwrite) = (absolute(&request.path)?, request.overwrite);
    let serve = |device, bitmap, connection| serve_alone(Alone { device, bitmap }, env, connection);
    image::export_ova(disks, env, store.dir(), path, overwrite, &serve, work).map_err(api_error)
}

/// What an image is to be the difference from, and the image of that.
fn behind(
    daemon: &Daemon,
    source: &VolumeRef,
    backing: &api_types::Backing,
) -> Result<(VolumeRef, PathBuf)> {
    let snapshot = convert::reference(&backing.snapshot)?;
    if snapshot.snapshot.is_none() {
        let message = format!("'{snapshot}' may have changed since it was exported");
        let error = ApiError::new(ErrorCode::Invalid, message);
        return Err(error.hint("name the snapshot that was exported: volume@snapshot"));
    }
    for volume in [source, &snapshot] {
        refuse_for_file(&daemon.find(volume.volume.as_str())?, "differences")?;
    }
    Ok((snapshot, absolute(&backing.file)?))
}

/// Serves one device over one connection.
fn serve_alone(alone: Alone, env: &Env, connection: OwnedFd) -> io::Result<Box<dyn Any>> {
    let config = front_nbd::Config {
        workers: SERVERS,
        ..front_nbd::Config::default()
    };
    let server = front_nbd::Server::start(Arc::new(alone), env.clone(), config)?;
    server.serve_stream(connection)?;
    Ok(Box::new(server))
}

/// Threads that read for qemu-img.
const SERVERS: usize = 4;

/// A device that is the only export there is, under any name, as its bitmap is.
struct Alone {
    device: Arc<dyn BlockDevice>,
    bitmap: Option<Arc<dyn Bitmap>>,
}

impl Exports for Alone {
    fn list(&self) -> Vec<String> {
        Vec::new()
    }

    fn open(&self, _: &str) -> std::result::Result<Arc<dyn BlockDevice>, block::Error> {
        Ok(Arc::clone(&self.device))
    }

    fn bitmaps(&self, _: &str) -> Vec<String> {
        Vec::new()
    }

    fn bitmap(&self, _: &str, _: &str) -> std::result::Result<Arc<dyn Bitmap>, block::Error> {
        let none = block::Error::new(block::ErrorKind::Gone, "bitmap");
        self.bitmap.clone().ok_or(none)
    }

    fn left(&self, _: &str, _: Departure) {}
}

fn run_export(
    daemon: &Daemon,
    source: &VolumeRef,
    target: Target<'_>,
    work: Work<'_>,
) -> Result<()> {
    let (store, env) = (&daemon.store, &daemon.env);
    let record = daemon.find(source.volume.as_str())?;
    let exported = match daemon.file_device(&record, source)? {
        None => image::export(store, env, source, target, work),
        Some(disk) => {
            let label = source.to_string();
            image::export_device(|| Ok(disk), env, store.dir(), &label, target, work)
        }
    };
    exported.map_err(api_error).map(|_| ())
}

/// To whoever asked.
pub(crate) fn export_stream(
    daemon: &Daemon,
    source: &VolumeRef,
    content: ContentWriter<'_>,
    work: Work<'_>,
) -> Result<()> {
    let target = Target::Writer(content);
    run_export(daemon, source, target, work)
}
