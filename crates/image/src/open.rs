//! Opening an image with the files that it may be read with.

use crate::{error::Error, import::OtherFiles, snapshots::left_out, source::FileInput};
use env::Env;
use image_formats::{
    Beside, Detected, Disk, Files, HEAD_LEN, Qcow2, RawDisk, Source, by_head, detect, vmdk,
};
use nbd_client::{NbdDisk, Uri};
use std::{path::Path, sync::Arc};
use types::{Cancel, ImageFormat};

/// Images behind each other that are opened: more is a mistake.
const BACKING_MAX: usize = 64;

/// An image that can be read.
pub(crate) enum Opened {
    /// A raw one: read in order.
    Raw(FileInput),
    /// One that may have snapshots in it, and what it is read with.
    Qcow2(Qcow2, Files),
    /// A machine with its disks, to be read in order.
    Ova(Source),
    /// Any other.
    Disk(Arc<dyn Disk>),
}

/// Opens the image at `path`.
pub(crate) fn open(
    env: &Env,
    path: &Path,
    format: Option<ImageFormat>,
    files: &OtherFiles,
    cancel: &Cancel,
) -> Result<Opened, Error> {
    let source = Source::open(env, path)?;
    let format = format.map_or_else(|| detect(&source), Ok)?;
    if let (ImageFormat::Raw, Some(file)) = (format, source.whole()) {
        refuse_others(&source, format, files)?;
        return Ok(Opened::Raw(FileInput::new(Arc::clone(file), &source)));
    }
    if format == ImageFormat::Ova {
        refuse_others(&source, format, files)?;
        return Ok(Opened::Ova(source));
    }
    if format == ImageFormat::Qcow2 {
        let image = Qcow2::open(source)?;
        let files = qcow2_files(env, &image, files, cancel)?;
        return Ok(Opened::Qcow2(image, files));
    }
    Ok(Opened::Disk(disk(
        env, path, source, format, files, cancel,
    )?))
}

/// Opens an NBD export: its server has made a disk of whatever it has, so that it is raw.
pub(crate) fn open_nbd(
    env: &Env,
    uri: &Uri,
    format: Option<ImageFormat>,
    files: &OtherFiles,
    cancel: &Cancel,
) -> Result<NbdDisk, Error> {
    let shown = uri.to_string();
    if let Some(other) = format.filter(|format| *format != ImageFormat::Raw) {
        return Err(Error::invalid(format!(
            "{shown} is read as a raw disk; let its server read the {other} image: qemu-nbd --format={other}"
        )));
    }
    if let Some(other) = files.backing.first().or(files.data.as_ref()) {
        let message = format!("{shown} is read alone; leave out {}", other.display());
        return Err(Error::invalid(message));
    }
    let disk = NbdDisk::open(uri, &shown, &env.clock, cancel)?;
    let mut head = [0; HEAD_LEN];
    let len = disk.size().min(HEAD_LEN as u64) as usize;
    disk.read(0, &mut head[..len])?;
    match (format, by_head(&head[..len])) {
        (Some(_), _) | (None, Detected::Format(ImageFormat::Raw)) => Ok(disk),
        (None, Detected::Format(other)) => Err(Error::invalid(format!(
            "{shown} looks like a {other} image; let its server read it (qemu-nbd --format={other}), or say that it is raw"
        ))),
        (None, Detected::Foreign(foreign)) => Err(foreign.refuse(Some(&shown)).into()),
    }
}

/// An image to read anywhere.
pub(crate) struct At {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) format: ImageFormat,
    /// What is told of it.
    pub(crate) note: Option<String>,
}

/// Opens the image at `path` to read it anywhere.
pub(crate) fn disk_at(
    env: &Env,
    path: &Path,
    format: Option<ImageFormat>,
    files: &OtherFiles,
    cancel: &Cancel,
) -> Result<At, Error> {
    let source = Source::open(env, path)?;
    let format = format.map_or_else(|| detect(&source), Ok)?;
    let (disk, note) = if format == ImageFormat::Qcow2 {
        let image = Qcow2::open(source)?;
        let disk = image.disk(&qcow2_files(env, &image, files, cancel)?)?;
        (disk, left_out(&image))
    } else {
        (disk(env, path, source, format, files, cancel)?, None)
    };
    Ok(At { disk, format, note })
}

fn disk(
    env: &Env,
    path: &Path,
    source: Source,
    format: ImageFormat,
    files: &OtherFiles,
    cancel: &Cancel,
) -> Result<Arc<dyn Disk>, Error> {
    match format {
        ImageFormat::Raw => {
            refuse_others(&source, format, files)?;
            Ok(Arc::new(RawDisk::new(source)))
        }
        ImageFormat::Qcow2 => {
            let image = Qcow2::open(source)?;
            Ok(image.disk(&qcow2_files(env, &image, files, cancel)?)?)
        }
        ImageFormat::Vmdk => {
            refuse_others(&source, format, files)?;
            Ok(vmdk(&source, &Neighbours { env, path })?)
        }
        ImageFormat::Ova => Err(Error::invalid(format!(
            "{} is an OVA, which is read from its beginning to its end: import it without --live",
            source.shown()
        ))),
        ImageFormat::Vhdx | ImageFormat::Vhd | ImageFormat::Vdi => {
            refuse_others(&source, format, files)?;
            Ok(qemu::open(env, &source, path, format, cancel)?)
        }
    }
}

/// Opens what a qcow2 image refers to, from what was given: neither less nor more.
fn qcow2_files(
    env: &Env,
    image: &Qcow2,
    files: &OtherFiles,
    cancel: &Cancel,
) -> Result<Files, Error> {
    let mut behind = files.backing.as_slice();
    let mut opened = Files::default();
    if let (Some(_), Some((first, rest))) = (image.backing_file(), behind.split_first()) {
        if behind.len() > BACKING_MAX {
            let message = format!("more than {BACKING_MAX} images behind each other");
            return Err(Error::invalid(message));
        }
        let source = Source::open(env, first)?;
        let format = detect(&source)?;
        let others = OtherFiles {
            backing: rest.to_vec(),
            data: None,
        };
        opened.backing = Some(disk(env, first, source, format, &others, cancel)?);
        behind = &[];
    }
    if let (Some(_), Some(path)) = (image.data_file(), &files.data) {
        opened.data = Some(Source::open(env, path)?);
    }
    match (behind.first(), &files.data) {
        (Some(path), _) => Err(unused(path)),
        (None, Some(path)) if opened.data.is_none() => Err(unused(path)),
        _ => Ok(opened),
    }
}

fn refuse_others(source: &Source, format: ImageFormat, files: &OtherFiles) -> Result<(), Error> {
    match files.backing.first().or(files.data.as_ref()) {
        None => Ok(()),
        Some(other) => Err(Error::invalid(format!(
            "{} is a {format} image, which is read alone; leave out {}",
            source.shown(),
            other.display()
        ))),
    }
}

fn unused(path: &Path) -> Error {
    Error::invalid(format!(
        "the image does not refer to another file that {} could be; leave it out",
        path.display()
    ))
}

/// The files in an image's directory. A link among them could lead anywhere.
struct Neighbours<'a> {
    env: &'a Env,
    path: &'a Path,
}

impl Beside for Neighbours<'_> {
    fn open(&self, name: &str) -> Result<Source, image_formats::Error> {
        let path = self.path.with_file_name(name);
        let linked = self.env.files.is_link(&path);
        let cannot =
            |e| image_formats::Error::io(format_args!("cannot open {}", path.display()), e);
        if linked.map_err(cannot)? {
            return Err(image_formats::Error::invalid(format!(
                "{} is a symbolic link, which is not followed for an extent; put the file itself there",
                path.display()
            )));
        }
        Source::open(self.env, &path)
    }
}
