//! Images that qemu-img writes, from a server of ours.

use crate::support::{World, of};
use block::{Bitmap, BlockDevice, Departure, Exports};
use front_nbd::{Config, Server};
use image::{Backing, Convert, Error, Frozen};
use std::{any::Any, io, os::fd::OwnedFd, path::Path, sync::Arc};
use types::{ImageFormat, ImageShape, Progress};

struct Alone {
    device: Option<Arc<dyn BlockDevice>>,
    bitmap: Option<Arc<dyn Bitmap>>,
}

impl Exports for Alone {
    fn list(&self) -> Vec<String> {
        Vec::new()
    }

    fn open(&self, _: &str) -> Result<Arc<dyn BlockDevice>, block::Error> {
        let gone = block::Error::new(block::ErrorKind::Gone, "open");
        self.device.clone().ok_or(gone)
    }

    fn bitmaps(&self, _: &str) -> Vec<String> {
        Vec::new()
    }

    fn bitmap(&self, _: &str, _: &str) -> Result<Arc<dyn Bitmap>, block::Error> {
        let gone = block::Error::new(block::ErrorKind::Gone, "bitmap");
        self.bitmap.clone().ok_or(gone)
    }

    fn left(&self, _: &str, _: Departure) {}
}

pub(crate) fn serve(
    world: &World,
    device: Option<Arc<dyn BlockDevice>>,
    bitmap: Option<Arc<dyn Bitmap>>,
    connection: OwnedFd,
) -> io::Result<Box<dyn Any>> {
    let alone = Alone { device, bitmap };
    let server = Server::start(Arc::new(alone), world.env.clone(), Config::default())?;
    server.serve_stream(connection)?;
    Ok(Box::new(server))
}

/// A volume or a snapshot as an image.
pub(crate) fn convert(
    world: &World,
    name: &str,
    path: &Path,
    overwrite: bool,
    shape: ImageShape,
    progress: &dyn Progress,
) -> Result<(), Error> {
    let frozen = || {
        let device = world.store.frozen_device(&of(name))?;
        let backing = None;
        Ok(Frozen { device, backing })
    };
    let path = path.to_owned();
    let to = Convert {
        path,
        overwrite,
        shape,
    };
    write(world, name, frozen, to, progress)
}

/// The same, upon the image `behind` of the snapshot `since`.
pub(crate) fn convert_upon(
    world: &World,
    name: &str,
    since: &str,
    behind: &Path,
    to: Convert,
    progress: &dyn Progress,
) -> Result<(), Error> {
    let frozen = || {
        let difference = world.store.difference(&of(name), &of(since))?;
        let backing = Backing {
            file: behind.to_owned(),
            shown: since.to_owned(),
            size: difference.since_size,
            changed: difference.changed,
        };
        Ok(Frozen {
            device: difference.device,
            backing: Some(backing),
        })
    };
    write(world, name, frozen, to, progress)
}

fn write(
    world: &World,
    name: &str,
    frozen: impl FnOnce() -> Result<Frozen, Error>,
    to: Convert,
    progress: &dyn Progress,
) -> Result<(), Error> {
    let serve = |device, bitmap, connection| serve(world, Some(device), bitmap, connection);
    let store = world.store.dir();
    image::convert(frozen, &world.env, store, name, to, &serve, progress)
}

pub(crate) fn shape(format: ImageFormat) -> ImageShape {
    ImageShape {
        format,
        ..ImageShape::RAW
    }
}
