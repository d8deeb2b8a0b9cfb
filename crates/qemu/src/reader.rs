//! Images that qemu-nbd reads for us.

use crate::{
    program::{Program, option, private_directory},
    vhdx::Bat,
    whole,
};
use env::{Env, FileKind};
use image_formats::{Disk, Error, Run, Source};
use nbd_client::{Address, NbdDisk, Uri};
use parking_lot::Mutex;
use std::{
    ffi::OsString,
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use types::{Cancel, Cancelled, ImageFormat};

/// Opening an image takes no longer.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long something else is done before its socket is looked for again.
const PAUSE: Duration = Duration::from_millis(5);

/// Opens the image at `path`, which `source` is the bytes of, in a format that is not read here but by qemu-nbd: vhdx, vhd, vdi.
///
/// # Behavior
/// qemu-nbd runs as long as the disk lives, and not longer than this process. If it dies it is started again, once for each request. Once
/// `cancel` is set, whoever waits for it gets an error at once.
///
/// # Errors
/// If it is not installed, or cannot make anything of the image within 60 s; also if part of the image is missing.
pub fn open(
    env: &Env,
    source: &Source,
    path: &Path,
    format: ImageFormat,
    cancel: &Cancel,
) -> Result<Arc<dyn Disk>, Error> {
    let shown = source.shown();
    let cannot = |e| Error::io(format_args!("cannot open {shown}"), e);
    let protocol = match env.files.kind(path).map_err(cannot)? {
        FileKind::BlockDevice => "host_device",
        _ => {
            whole::check(source, format)?;
            "file"
        }
    };
    let driver = match format {
        ImageFormat::Vhdx => "vhdx",
        // The size that the footer names, not what its old geometry comes to: nothing is cut off.
        ImageFormat::Vhd => "vpc,force_size_calc=current_size",
        ImageFormat::Vdi => "vdi",
        other => {
            let message = format!("{shown} is a {other} image, which QEMU is not asked to read");
            return Err(Error::invalid(message));
        }
    };
    let image = Image {
        env: env.clone(),
        path: path.to_owned(),
        shown: shown.to_owned(),
        format,
        options: format!("driver={driver},read-only=on,file.driver={protocol},"),
        cancel: cancel.clone(),
    };
    let served = image.serve()?;
    let size = served.disk.size();
    let bat = (format == ImageFormat::Vhdx).then(|| Bat::find(source));
    Ok(Arc::new(QemuDisk {
        size,
        bat: bat.flatten().filter(|bat| bat.size() == size),
        served: Mutex::new(Some(Arc::new(served))),
        image,
    }))
}

struct QemuDisk {
    image: Image,
    size: u64,
    /// What tells holes of a VHDX: QEMU does not.
    bat: Option<Bat>,
    /// Nothing after it died.
    served: Mutex<Option<Arc<Served>>>,
}

struct Image {
    env: Env,
    path: PathBuf,
    shown: String,
    format: ImageFormat,
    /// QEMU's, all but the file's name.
    options: String,
    cancel: Cancel,
}

/// An image that is being served to us. The disk goes first: it says good bye.
struct Served {
    disk: NbdDisk,
    #[cfg_attr(not(test), expect(dead_code, reason = "it is killed with this"))]
    program: Program,
}

impl Image {
    fn serve(&self) -> Result<Served, Error> {
        let Image { shown, format, .. } = self;
        // The socket's name is needed no longer than it takes to connect.
        let directory = private_directory()?;
        let socket = directory.path().join("nbd");
        let mut image = OsString::from(&self.options);
        image.push(option("file.filename", &self.path));
        let arguments = [
            "--read-only".into(),
            "--shared=2".into(),
            option("--socket", &socket),
            "--image-opts".into(),
            image,
        ];
        let what = format!("{shown}, a {format} image,");
        let program = Program::start("qemu-nbd", &what, arguments, None, |_| false)?;
        let uri = Uri {
            address: Address::Unix(socket.clone()),
            export: String::new(),
        };
        let clock = &self.env.clock;
        let deadline = clock.monotonic() + PATIENCE;
        loop {
            if self.cancel.is_set() {
                let why = io::Error::other(Cancelled);
                return Err(Error::io(format_args!("cannot open {shown}"), why));
            }
            let opened = match socket.exists() {
                true => NbdDisk::open(&uri, shown, clock, &self.cancel),
                false => Err(Error::invalid(format!(
                    "{shown} cannot be read as a {format} image: qemu-nbd takes longer than {} s",
                    PATIENCE.as_secs()
                ))),
            };
            let error = match opened {
                Ok(disk) => {
                    return Ok(Served { disk, program });
                }
                Err(error) => error,
            };
            if let Some(status) = program.child.wait(PAUSE) {
                let why = program.complaint(status);
                let message = format!("{shown} cannot be read as a {format} image: {why}");
                return Err(Error::invalid(message));
            }
            if clock.monotonic() >= deadline {
                return Err(error);
            }
        }
    }
}

impl QemuDisk {
    /// What is being served, begun anew if need be; and whether it was.
    fn served(&self) -> Result<(Arc<Served>, bool), Error> {
        let mut slot = self.served.lock();
        if let Some(served) = &*slot {
            return Ok((Arc::clone(served), false));
        }
        let served = Arc::new(self.image.serve()?);
        if served.disk.size() != self.size {
            let message = format!("{} has another size than before", self.image.shown);
            return Err(Error::invalid(message));
        }
        Ok((Arc::clone(slot.insert(served)), true))
    }

    fn with<T>(&self, mut f: impl FnMut(&NbdDisk) -> Result<T, Error>) -> Result<T, Error> {
        loop {
            let (served, fresh) = self.served()?;
            let result = f(&served.disk);
            if result.is_ok() || !served.disk.is_broken() {
                return result;
            }
            let mut slot = self.served.lock();
            // Somebody may have begun anew already.
            if slot
                .as_ref()
                .is_some_and(|other| Arc::ptr_eq(other, &served))
            {
                *slot = None;
            }
            drop(slot);
            if fresh {
                return result;
            }
        }
    }
}

impl Disk for QemuDisk {
    fn size(&self) -> u64 {
        self.size
    }

    fn runs(&self, offset: u64) -> Result<Vec<Run>, Error> {
        let told = self.bat.as_ref().and_then(|bat| bat.runs(offset));
        told.map_or_else(|| self.with(|disk| disk.runs(offset)), Ok)
    }

    fn read(&self, offset: u64, buf: &mut [u8]) -> Result<(), Error> {
        self.with(|disk| disk.read(offset, buf))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn a_server_that_dies_is_started_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk.vdi");
        let made = Command::new("qemu-img")
            .args(["create", "-q", "-f", "vdi"])
            .args([path.as_os_str(), "8M".as_ref()])
            .status();
        assert!(made.unwrap().success());
        let env = Env::real();
        let source = Source::open(&env, &path).unwrap();
        let image = Image {
            env,
            path: path.clone(),
            shown: source.shown().to_owned(),
            format: ImageFormat::Vdi,
            options: "driver=vdi,read-only=on,file.driver=file,".to_owned(),
            cancel: Cancel::never(),
        };
        let served = Arc::new(image.serve().unwrap());
        let disk = QemuDisk {
            size: served.disk.size(),
            bat: None,
            served: Mutex::new(Some(Arc::clone(&served))),
            image,
        };
        let mut buf = [7; 512];
        disk.read(4096, &mut buf).unwrap();
        assert_eq!(buf, [0; 512]);
        served.program.child.kill();
        assert!(served.program.child.wait(PATIENCE).is_some());
        buf.fill(7);
        disk.read(4096, &mut buf).unwrap();
        assert_eq!(buf, [0; 512]);
        assert_eq!(
            disk.runs(0).unwrap().iter().map(|run| run.len).sum::<u64>(),
            8 << 20
        );
        // Without its image it does not come back; nothing is taken for zeroes.
        std::fs::remove_file(&path).unwrap();
        disk.served().unwrap().0.program.child.kill();
        let error = disk.read(0, &mut buf).unwrap_err().to_string();
        assert!(
            error.contains("disk.vdi") && error.contains("No such file"),
            "{error}"
        );
    }
}
