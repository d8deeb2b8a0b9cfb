//! Images that volumes are filled from while they are used.
//!
//! What its files are is looked at again when it is opened again, and after each read: see [`Noted`].
//!
//! **Invariant:** through what is opened here nothing can be written.

use crate::{
    error::Error,
    import::{OtherFiles, volume_size},
    noted::Noted,
    open::{At, disk_at},
};
use env::Env;
use image_formats::Disk;
use std::{
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
};
use types::{Cancel, ImageFormat};
use volume::{ImageSource, Images, SourceDisk, SourceFile};

/// What a volume is to be imported from while it is used.
pub struct Live {
    /// The image, as the catalog notes it.
    pub source: ImageSource,
    /// Bytes of the volume.
    pub size: u64,
    /// What whoever asked should know: a sentence each.
    pub notes: Vec<String>,
}

/// Looks at an image that a volume of `size` bytes, or of as many as the image has, is to be imported from while it is used. Once `cancel`
/// is set nobody is waited for.
///
/// # Errors
/// As [`import`](crate::import()): if the image is not there, damaged, of no known format, empty, or too large.
pub fn live(
    env: &Env,
    path: &Path,
    format: Option<ImageFormat>,
    files: &OtherFiles,
    size: Option<u64>,
    cancel: &Cancel,
) -> Result<Live, Error> {
    let opened = Opened::open(env, path, format, files, cancel)?;
    let text = |path: &Path| {
        let unreadable = || Error::invalid(format!("{} is no text", path.display()));
        path.to_str().map(str::to_owned).ok_or_else(unreadable)
    };
    let len = opened.disk.size();
    let data_file = files.data.as_deref().map(text);
    let backing = files.backing.iter().map(|path| text(path));
    Ok(Live {
        size: volume_size(len, size)?,
        notes: opened.note.iter().cloned().collect(),
        source: ImageSource {
            path: text(path)?,
            format: Some(opened.format),
            backing: backing.collect::<Result<_, _>>()?,
            data_file: data_file.transpose()?,
            files: opened.were,
            size: len,
            filled: 0,
            stored: 0,
            paused: false,
        },
    })
}

/// Opens such images again, if they are what they were. Once `ending` is set, who waits for one gets an error at once.
#[must_use]
pub fn images(env: &Env, ending: Cancel) -> Images {
    let env = env.clone();
    Images::new(move |source, cancel| {
        let opened = reopen(&env, source, &ending.or(cancel)).map_err(|e| {
            let kind = volume::ErrorKind::Io;
            let message = format!("the image that the volume is imported from: {e}");
            volume::Error::new(kind, message).with_source(e)
        })?;
        Ok(Arc::new(opened) as Arc<dyn SourceDisk>)
    })
}

fn reopen(env: &Env, source: &ImageSource, cancel: &Cancel) -> Result<Opened, Error> {
    let files = OtherFiles {
        backing: source.backing.iter().map(PathBuf::from).collect(),
        data: source.data_file.as_ref().map(PathBuf::from),
    };
    let path = Path::new(&source.path);
    let mut opened = Opened::open(env, path, source.format, &files, cancel)?;
    opened.were.clone_from(&source.files);
    opened.noted.check_against(&opened.were)?;
    if opened.disk.size() != source.size {
        return Err(Error::invalid(format!(
            "{} has {} bytes now, it had {}",
            source.path,
            opened.disk.size(),
            source.size
        )));
    }
    Ok(opened)
}

/// An image that is open.
struct Opened {
    disk: Arc<dyn Disk>,
    format: ImageFormat,
    note: Option<String>,
    noted: Arc<Noted>,
    /// What the files were in the beginning.
    were: Vec<SourceFile>,
}

impl Opened {
    fn open(
        env: &Env,
        path: &Path,
        format: Option<ImageFormat>,
        files: &OtherFiles,
        cancel: &Cancel,
    ) -> Result<Self, Error> {
        let (env, noted) = Noted::over(env);
        let At { disk, format, note } = disk_at(&env, path, format, files, cancel)?;
        Ok(Opened {
            disk,
            format,
            note,
            were: noted.were(),
            noted,
        })
    }
}

fn failed(e: impl Into<Error>) -> volume::Error {
    let e = e.into();
    volume::Error::new(volume::ErrorKind::Io, e.to_string()).with_source(e)
}

impl SourceDisk for Opened {
    fn data(&self, range: Range<u64>) -> Result<Vec<Range<u64>>, volume::Error> {
        let mut data = Vec::new();
        let mut at = range.start;
        while at < range.end {
            let before = at;
            for run in self.disk.runs(at).map_err(failed)? {
                let end = at.saturating_add(run.len).min(range.end);
                if run.data && at < end {
                    data.push(at..end);
                }
                at = end;
            }
            if at == before {
                let message = format!("what the image says of byte {at} makes no sense");
                return Err(volume::Error::new(volume::ErrorKind::Io, message));
            }
        }
        self.noted.check_against(&self.were).map_err(failed)?;
        Ok(data)
    }

    fn read(&self, offset: u64, buf: &mut [u8]) -> Result<(), volume::Error> {
        self.disk.read(offset, buf).map_err(failed)?;
        // After the read: what was changed before it is noticed.
        self.noted.check_against(&self.were).map_err(failed)
    }
}
