//! Images that qemu-img writes for us, from an NBD export.

use crate::program::Program;
use image_formats::Error;
use std::{
    ffi::{OsStr, OsString},
    os::fd::OwnedFd,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::Duration,
};
use types::{ImageFormat, ImageShape, Subformat};

/// An image that is being written. Dropped, that ends, with a file that is not whole.
pub struct Conversion {
    program: Program,
    /// Hundredths of a percent.
    done: Arc<AtomicU32>,
}

/// Why an image could not be written: what qemu-img says, in one line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failed {
    /// The disk could not be read.
    Source(String),
    /// There is no space for it.
    Space(String),
    /// Anything else: the format has no disks like this one, most likely.
    Other(String),
}

impl Conversion {
    /// Begins to write a disk, the default export of the NBD server at the other end of `connection`, a socket, to `target`, an absolute path at which there is nothing; `shown` is what
    /// errors call it. [`ImageShape::check`] has nothing against `shape`. With `behind`, a raw file with the right number of zeroes, a qcow2 image is
    /// written that has behind it what it does not hold itself: what the server's bitmap `unchanged` has set.
    ///
    /// # Behavior
    /// Files of a VMDK that has several are beside `target`, and named like it. `behind` is not read where the bitmap is of whole clusters.
    ///
    /// # Errors
    /// If qemu-img is not installed.
    pub fn start(
        connection: OwnedFd,
        target: &Path,
        shown: &str,
        shape: &ImageShape,
        behind: Option<&Path>,
    ) -> Result<Self, Error> {
        let mut arguments: Vec<OsString> = ["convert", "-p", "-O", driver(shape.format)]
            .map(Into::into)
            .into();
        if shape.compress.is_some() {
            arguments.push("-c".into());
        }
        let options = options(shape);
        if !options.is_empty() {
            arguments.extend(["-o".into(), options.into()]);
        }
        let mut source = SOURCE.to_owned();
        if let Some(behind) = behind {
            arguments.extend(["-B".into(), behind.into(), "-F".into(), "raw".into()]);
            // What this says is set, QEMU takes for not there.
            source.push_str(&format!(",x-dirty-bitmap={UNCHANGED}"));
        }
        arguments.extend(["--image-opts".into(), source.into(), target.into()]);
        let done = Arc::new(AtomicU32::new(0));
        let told = Arc::clone(&done);
        let what = format!("{shown}, a {} image,", shape.format);
        let program = Program::start(
            "qemu-img",
            &what,
            arguments,
            Some(connection),
            move |line| {
                let percent = progress(line);
                if let Some(percent) = percent {
                    told.fetch_max((percent * 100.0) as u32, Relaxed);
                }
                percent.is_some()
            },
        )?;
        Ok(Conversion { program, done })
    }

    /// Writes into the qcow2 image `image` what stands behind it, an image of `format`: `name` is seen from where `image` is. Nobody looks whether it is
    /// there.
    ///
    /// # Errors
    /// If qemu-img is not installed.
    pub fn name_backing(
        image: &Path,
        shown: &str,
        name: &OsStr,
        format: ImageFormat,
    ) -> Result<Self, Error> {
        let arguments = ["rebase", "-u", "-f", "qcow2", "-F", driver(format), "-b"].map(OsStr::new);
        let arguments = arguments.into_iter().chain([name, image.as_os_str()]);
        let what = format!("{shown}, a qcow2 image,");
        Ok(Conversion {
            program: Program::start("qemu-img", &what, arguments, None, |_| false)?,
            // It takes no time, and comes when all is done.
            done: Arc::new(AtomicU32::new(10_000)),
        })
    }

    /// How it ended, if it did within `patience`. What was written need not be durable.
    #[must_use]
    pub fn wait(&self, patience: Duration) -> Option<Result<(), Failed>> {
        let status = self.program.child.wait(patience)?;
        if status.success() {
            return Some(Ok(()));
        }
        let why = self.program.complaint(status);
        Some(Err(if why.contains("error while reading") {
            Failed::Source(why)
        } else if why.contains("No space left on device") {
            Failed::Space(why)
        } else {
            Failed::Other(why)
        }))
    }

    /// How much of `total` is done, about.
    #[must_use]
    pub fn done(&self, total: u64) -> u64 {
        let done = u128::from(total) * u128::from(self.done.load(Relaxed)) / 10_000;
        (done as u64).min(total)
    }
}

/// The server's bitmap of what a disk has in common with what is behind its image.
const UNCHANGED: &str = "qemu:dirty-bitmap:unchanged";

/// The export at the other end of standard input.
const SOURCE: &str = "driver=nbd,read-only=on,server.type=fd,server.str=0";

/// What QEMU calls a format.
const fn driver(format: ImageFormat) -> &'static str {
    match format {
        ImageFormat::Raw | ImageFormat::Ova => "raw",
        ImageFormat::Qcow2 => "qcow2",
        ImageFormat::Vmdk => "vmdk",
        ImageFormat::Vhdx => "vhdx",
        ImageFormat::Vhd => "vpc",
        ImageFormat::Vdi => "vdi",
    }
}

fn options(shape: &ImageShape) -> String {
    let mut options = Vec::new();
    if let Some(compression) = shape.compress {
        options.push(format!("compression_type={compression}"));
    }
    match (shape.format, shape.subformat) {
        (ImageFormat::Vdi, Some(Subformat::Fixed)) => options.push("static=on".to_owned()),
        (ImageFormat::Vdi, _) | (_, None) => {}
        (_, Some(subformat)) => options.push(format!("subformat={subformat}")),
    }
    if shape.format == ImageFormat::Vhd {
        // The disk keeps its size, whatever geometry would come close to it.
        options.push("force_size=on".to_owned());
    }
    options.join(",")
}

/// The percent of a line like `(12.34/100%)`.
fn progress(line: &str) -> Option<f64> {
    line.strip_prefix('(')?.strip_suffix("/100%)")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use types::Compression;

    #[test]
    fn progress_is_told_from_complaints() {
        assert_eq!(progress("(12.34/100%)"), Some(12.34));
        assert_eq!(progress("qemu-img: (1/100%)"), None);
        assert_eq!(progress("(oh/100%)"), None);
    }

    #[test]
    fn shapes_become_options_of_qemus() {
        let of = |format, compress, subformat| {
            options(&ImageShape {
                format,
                compress,
                subformat,
            })
        };
        let zstd = Some(Compression::Zstd);
        assert_eq!(of(ImageFormat::Qcow2, zstd, None), "compression_type=zstd");
        assert_eq!(
            of(ImageFormat::Vhd, None, Some(Subformat::Fixed)),
            "subformat=fixed,force_size=on"
        );
        assert_eq!(
            of(ImageFormat::Vdi, None, Some(Subformat::Fixed)),
            "static=on"
        );
        assert_eq!(of(ImageFormat::Vdi, None, Some(Subformat::Dynamic)), "");
    }
}
