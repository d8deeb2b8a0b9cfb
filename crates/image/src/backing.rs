//! Images that hold only what differs from another one, which stands behind them.

use crate::{error::Error, plan::whole, target::cannot};
use block::{Bitmap, Run};
use env::Env;
use image_formats::{Qcow2, Source, detect};
use std::{
    ffi::{OsStr, OsString},
    fs,
    os::unix::ffi::OsStrExt,
    path::{Component, Path, PathBuf},
    sync::Arc,
};
use types::{ImageFormat, size::format_size};

/// Bytes of a cluster of a qcow2 image, which holds all of it or nothing: what QEMU makes unless told otherwise.
const CLUSTER: u64 = 64 << 10;
/// Runs that are asked for at once: QEMU wants one at a time.
const RUNS_MAX: usize = 256;
/// Bytes of the name of what is behind, at most (QEMU's docs/interop/qcow2).
const NAME_MAX: usize = 1023;

/// What an image holds only the difference from.
pub struct Backing {
    /// The image of it, raw or qcow2: an absolute path.
    pub file: PathBuf,
    /// What it is called, for people.
    pub shown: String,
    /// Its bytes.
    pub size: u64,
    /// What has changed since.
    pub changed: Arc<dyn Bitmap>,
}

/// How an image names what is behind it.
pub(crate) struct Named {
    pub(crate) name: OsString,
    pub(crate) format: ImageFormat,
}

impl Backing {
    /// Looks whether its image can be what it should be, as far as its size shows, and answers how an image at `path` names it.
    pub(crate) fn look_at(&self, env: &Env, path: &Path) -> Result<Named, Error> {
        let source = Source::open(env, &self.file)?;
        let shown = source.shown().to_owned();
        let (format, size) = match detect(&source)? {
            ImageFormat::Raw => (ImageFormat::Raw, source.len()),
            ImageFormat::Qcow2 => (ImageFormat::Qcow2, Qcow2::open(source)?.size()),
            other => {
                let message = format!(
                    "{shown} is a {other} image; behind a qcow2 image stands a raw or a qcow2 image"
                );
                return Err(Error::invalid(message));
            }
        };
        if size != self.size {
            let of = &self.shown;
            return Err(Error::invalid(format!(
                "{shown} is no image of '{of}': it has {} ({size} bytes), '{of}' has {} ({} bytes)",
                format_size(size),
                format_size(self.size),
                self.size
            )));
        }
        let (path, file) = (real(path)?, real(&self.file)?);
        if path == file {
            let message = format!("{shown} would stand behind itself; choose another path");
            return Err(Error::invalid(message));
        }
        let name = relative(&path, &file);
        if name.len() > NAME_MAX {
            let message = format!("the way from {} to {shown} is too long", path.display());
            return Err(Error::invalid(message));
        }
        Ok(Named { name, format })
    }
}

/// The path without links on the way to the file.
fn real(path: &Path) -> Result<PathBuf, Error> {
    let parent = path.parent().unwrap_or(path);
    let real = fs::canonicalize(parent).map_err(cannot("look at", parent))?;
    Ok(real.join(path.file_name().unwrap_or_default()))
}

/// `to` as seen from the directory of `from`, as QEMU reads it; both without links.
fn relative(from: &Path, to: &Path) -> OsString {
    let directory = from.parent().unwrap_or(from);
    let shared = directory.components().zip(to.components());
    let shared = shared.take_while(|(a, b)| a == b).count();
    let up = directory.components().skip(shared);
    let up = up.map(|_| Component::ParentDir.as_os_str());
    let down = to.components().skip(shared).map(Component::as_os_str);
    let name: PathBuf = up.chain(down).collect();
    if name.as_os_str().as_bytes().contains(&b':') {
        // What stands before a colon would be taken for a protocol.
        return Path::new(OsStr::new(".")).join(name).into();
    }
    name.into()
}

/// The clusters of which nothing has changed. QEMU takes those for what is not there, and leaves them to what is behind.
pub(crate) struct Unchanged {
    pub(crate) changed: Arc<dyn Bitmap>,
    /// Bytes of the device.
    pub(crate) size: u64,
}

impl Bitmap for Unchanged {
    fn changed(&self, offset: u64, len: u64, max: usize) -> Result<Vec<Run>, block::Error> {
        let start = offset / CLUSTER * CLUSTER;
        let end = (offset + len).next_multiple_of(CLUSTER).min(self.size);
        let runs = self.changed.changed(start, end - start, RUNS_MAX)?;
        let run = |run: &Run| image_formats::Run {
            len: run.len,
            data: run.changed,
        };
        let runs: Vec<_> = runs.iter().map(run).collect();
        let mut at = start;
        let mut clipped = Vec::new();
        for run in whole(&runs, self.size - start, CLUSTER) {
            let (from, until) = (at.max(offset), (at + run.len).min(offset + len));
            at += run.len;
            if from < until && clipped.len() < max {
                let (len, changed) = (until - from, !run.data);
                clipped.push(Run { len, changed });
            }
        }
        Ok(clipped)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ranges that have changed; no more than `most` runs are told at once.
    struct Ranges(Vec<std::ops::Range<u64>>, usize);

    impl Bitmap for Ranges {
        fn changed(&self, offset: u64, len: u64, max: usize) -> Result<Vec<Run>, block::Error> {
            let mut runs: Vec<Run> = Vec::new();
            for at in (offset..offset + len).step_by(512) {
                let changed = self.0.iter().any(|range| range.contains(&at));
                let full = runs.len() == max.min(self.1);
                match runs.last_mut() {
                    Some(run) if run.changed == changed => run.len += 512,
                    _ if full => break,
                    _ => runs.push(Run { len: 512, changed }),
                }
            }
            Ok(runs)
        }
    }

    /// What is unchanged, put together from answers of at most `max` runs.
    fn unchanged(ranges: Ranges, size: u64, max: usize) -> Vec<(u64, bool)> {
        let changed = Arc::new(ranges);
        let bitmap = Unchanged { changed, size };
        let mut all: Vec<(u64, bool)> = Vec::new();
        let mut at = 0;
        while at < size {
            let runs = bitmap.changed(at, size - at, max).unwrap();
            assert!(!runs.is_empty() && runs.len() <= max);
            for run in runs {
                at += run.len;
                match all.last_mut() {
                    Some((len, unchanged)) if *unchanged == run.changed => *len += run.len,
                    _ => all.push((run.len, run.changed)),
                }
            }
        }
        assert_eq!(at, size);
        all
    }

    #[test]
    #[expect(clippy::single_range_in_vec_init, reason = "lists of ranges")]
    fn what_is_unchanged_is_so_in_whole_clusters() {
        let end = 10 * CLUSTER + 512;
        let cases = [
            (vec![], vec![(end, true)]),
            (vec![0..end], vec![(end, false)]),
            (
                vec![CLUSTER - 4096..CLUSTER + 4096],
                vec![(2 * CLUSTER, false), (end - 2 * CLUSTER, true)],
            ),
            (
                vec![3 * CLUSTER..3 * CLUSTER + 512, end - 512..end],
                vec![
                    (3 * CLUSTER, true),
                    (CLUSTER, false),
                    (6 * CLUSTER, true),
                    (512, false),
                ],
            ),
            (
                vec![CLUSTER..CLUSTER + 512, 2 * CLUSTER - 512..2 * CLUSTER],
                vec![(CLUSTER, true), (CLUSTER, false), (end - 2 * CLUSTER, true)],
            ),
        ];
        for (ranges, expected) in cases {
            for (most, max) in [(1, 1), (1, 9), (2, 1), (3, 2), (9, 9)] {
                let told = unchanged(Ranges(ranges.clone(), most), end, max);
                assert_eq!(told, expected, "{ranges:?}, {most} and {max} at once");
            }
        }
        // Asked for from within a cluster, the answer begins there.
        let changed = Arc::new(Ranges(vec![0..512], 9));
        let bitmap = Unchanged { changed, size: end };
        let runs = bitmap.changed(1024, CLUSTER, 9).unwrap();
        let runs: Vec<_> = runs.iter().map(|run| (run.len, run.changed)).collect();
        assert_eq!(runs, [(CLUSTER - 1024, false), (1024, true)]);
    }

    #[test]
    fn names_lead_from_one_image_to_the_other() {
        for (from, to, name) in [
            ("/a/web.qcow2", "/a/base.qcow2", "base.qcow2"),
            ("/a/b/web.qcow2", "/a/base.raw", "../base.raw"),
            ("/a/b/web", "/c/d/base", "../../c/d/base"),
            ("/web", "/c/base", "c/base"),
            ("/a/web", "/a/x:y,z", "./x:y,z"),
            ("/a/b/web", "/a/c:d/base", "./../c:d/base"),
        ] {
            assert_eq!(relative(Path::new(from), Path::new(to)), OsStr::new(name));
        }
    }
}
