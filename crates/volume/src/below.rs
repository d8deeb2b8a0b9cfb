//! What lies below a volume's block map while it is imported: the image that it is filled from.
//!
//! **Invariant:** while a volume has a source, a hole in its root, or in that of a snapshot of it, stands for what the source has
//! there. So what is zeroed where the source has data is mapped to a block of zeroes (`Volume::map_zeroes`), and all roots are
//! filled together (module `fill`). The source is only read.

use crate::{
    error::{Error, ErrorKind},
    layer::Layer,
    nodes::{Nodes, Sink},
    ranges::RangeSet,
    volume::Volume,
};
use blockmap::Updated;
use catalog::ImageSource;
use pack::PackWriter;
use std::{fmt, ops::Range, sync::Arc};
use sync::{
    Mutex,
    atomic::{AtomicBool, Ordering::Relaxed},
};
use types::{BLOCK_SIZE, BlockIndex, Cancel, Name, Pointer, SharedBlock};

const BLOCK: u64 = BLOCK_SIZE as u64;
/// Blocks that the source is asked about at once: 1 GiB.
pub(crate) const WINDOW: u64 = 1 << 18;
/// Blocks of zeroes after which the map is brought up to date.
const ZEROES_PER_UPDATE: usize = 1 << 18;

/// The disk that an image describes, to be read anywhere, by many threads.
pub trait SourceDisk: Send + Sync {
    /// Where in `range`, bytes of the disk, there may be something other than zeroes: in order, without overlaps.
    ///
    /// # Errors
    /// If the image cannot be read.
    fn data(&self, range: Range<u64>) -> Result<Vec<Range<u64>>, Error>;
    /// Fills `buf` from `offset`; both ends lie in the disk.
    ///
    /// # Errors
    /// If the image cannot be read, or is not any more what it was when the import began. It is named.
    fn read(&self, offset: u64, buf: &mut [u8]) -> Result<(), Error>;
}

type Opener = dyn Fn(&ImageSource, &Cancel) -> Result<Arc<dyn SourceDisk>, Error> + Send + Sync;

/// Opens images; what they are is not this crate's business.
#[derive(Clone, Default)]
pub struct Images(Option<Arc<Opener>>);

impl Images {
    /// With what opens one, and refuses one that is not what it was. Who waits for it, or for what was opened, waits no longer than until
    /// it is cancelled.
    pub fn new(
        open: impl Fn(&ImageSource, &Cancel) -> Result<Arc<dyn SourceDisk>, Error>
        + Send
        + Sync
        + 'static,
    ) -> Self {
        Images(Some(Arc::new(open)))
    }
}

impl fmt::Debug for Images {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Images")
    }
}

/// An image, opened when it is needed first: it may come back.
struct Image {
    source: ImageSource,
    images: Images,
    disk: Mutex<Option<Open>>,
    /// Of what is open, or being opened.
    given_up: Mutex<Arc<AtomicBool>>,
}

/// An image that is open.
#[derive(Clone)]
struct Open {
    disk: Arc<dyn SourceDisk>,
    /// Nobody waits for it any more; who still needs the image opens it anew.
    given_up: Arc<AtomicBool>,
}

/// What the holes of a root stand for.
#[derive(Clone)]
pub(crate) struct Below {
    image: Arc<Image>,
    /// Bytes up to which the root has everything.
    filled: u64,
    /// Bytes that this took in the store.
    stored: u64,
}

impl fmt::Debug for Below {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} from byte {}", self.image.source.path, self.filled)
    }
}

impl Below {
    pub(crate) fn new(source: ImageSource, images: Images) -> Self {
        Below {
            filled: source.filled,
            stored: source.stored,
            image: Arc::new(Image {
                source,
                images,
                disk: Mutex::new(None),
                given_up: Mutex::new(not_given_up()),
            }),
        }
    }

    /// As the catalog knows it while it is not paused.
    pub(crate) fn record(&self) -> Box<ImageSource> {
        Box::new(ImageSource {
            filled: self.filled,
            stored: self.stored,
            paused: false,
            ..self.image.source.clone()
        })
    }

    /// Bytes up to which the root has everything.
    pub(crate) const fn filled(&self) -> u64 {
        self.filled
    }

    /// Bytes of the image's disk.
    pub(crate) fn size(&self) -> u64 {
        self.image.source.size
    }

    /// What is below a root that has everything up to `filled`, which took so many bytes more; nothing if that is all.
    pub(crate) fn filled_to(&self, filled: u64, stored: u64) -> Option<Self> {
        (filled < self.size()).then(|| Below {
            image: Arc::clone(&self.image),
            filled,
            stored: self.stored + stored,
        })
    }

    /// Whether what two roots have no block for is the same.
    pub(crate) fn is_same(a: &Option<Below>, b: &Option<Below>) -> bool {
        match (a, b) {
            (None, None) => true,
            (Some(a), Some(b)) => Arc::ptr_eq(&a.image, &b.image),
            _ => false,
        }
    }

    /// Says that something has to wait for the end of the import.
    pub(crate) fn refuse(&self, volume: &Name, what: &str) -> Error {
        let percent = u128::from(self.filled) * 100 / u128::from(self.size().max(1));
        let message = format!("'{volume}' is still being imported ({percent} %): {what}");
        Error::new(ErrorKind::Refused, message)
    }

    /// Whoever waits for the image waits no longer. Those who still need it try once more.
    pub(crate) fn give_up(&self) {
        let given_up = std::mem::replace(&mut *self.image.given_up.lock(), not_given_up());
        given_up.store(true, Relaxed);
    }

    /// Asks the image; again if it was given up meanwhile.
    fn ask<T>(
        &self,
        mut what: impl FnMut(&dyn SourceDisk) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let open = self.open()?;
        match what(&*open.disk) {
            Err(_) if open.given_up.load(Relaxed) => what(&*self.open()?.disk),
            answer => answer,
        }
    }

    fn open(&self) -> Result<Open, Error> {
        let mut disk = self.image.disk.lock();
        let open = disk.as_ref();
        if let Some(open) = open.filter(|open| !open.given_up.load(Relaxed)) {
            return Ok(open.clone());
        }
        // Who waits for the old one has it.
        *disk = None;
        let source = &self.image.source;
        let Some(open) = &self.image.images.0 else {
            let message = format!("{}: images are not read here", source.path);
            return Err(Error::new(ErrorKind::Io, message));
        };
        if source.path.is_empty() {
            let message = "what the volume was imported from is not known any more: the catalog was lost before the import ended";
            return Err(Error::new(ErrorKind::Damaged, message));
        }
        loop {
            let given_up = Arc::clone(&self.image.given_up.lock());
            let flag = Arc::clone(&given_up);
            let cancel = Cancel::new(move || flag.load(Relaxed));
            match open(source, &cancel) {
                Err(_) if given_up.load(Relaxed) => {}
                Err(e) => return Err(e),
                Ok(opened) => {
                    let opened = Open {
                        disk: opened,
                        given_up,
                    };
                    return Ok(disk.insert(opened).clone());
                }
            }
        }
    }

    /// Whether the image is there, as it was.
    pub(crate) fn check(&self) -> Result<(), Error> {
        self.open().map(drop)
    }

    /// Whether a hole at this block stands for something that the image may have.
    pub(crate) fn has(&self, index: u64) -> bool {
        (self.filled..self.size()).contains(&(index * BLOCK))
    }

    /// Fills `out` from byte `start` of a block for which there is a hole.
    pub(crate) fn read(&self, index: u64, start: usize, out: &mut [u8]) -> Result<(), Error> {
        if self.has(index) {
            return self.read_at(index * BLOCK + start as u64, out);
        }
        out.fill(0);
        Ok(())
    }

    /// Fills the whole blocks of `out`, from block `first` on, for which there are holes.
    pub(crate) fn fill_holes(
        &self,
        first: u64,
        pointers: &[Pointer],
        out: &mut [u8],
    ) -> Result<(), Error> {
        let wanted = |at: &usize| pointers[*at].is_hole() && self.has(first + *at as u64);
        let mut at = 0;
        while let Some(start) = (at..pointers.len()).find(wanted) {
            at = (start..pointers.len())
                .find(|at| !wanted(at))
                .unwrap_or(pointers.len());
            let part = &mut out[start * BLOCK_SIZE..at * BLOCK_SIZE];
            self.read_at((first + start as u64) * BLOCK, part)?;
        }
        Ok(())
    }

    /// Fills `out` with what the image has; zeroes behind its end.
    pub(crate) fn read_at(&self, offset: u64, out: &mut [u8]) -> Result<(), Error> {
        let there = self.size().saturating_sub(offset).min(out.len() as u64);
        let (inside, beyond) = out.split_at_mut(there as usize);
        beyond.fill(0);
        if inside.is_empty() {
            return Ok(());
        }
        self.ask(|disk| disk.read(offset, inside))
    }

    /// Which of these blocks the image may have something for, as ranges that do not touch.
    pub(crate) fn data(&self, blocks: Range<u64>) -> Result<Vec<Range<u64>>, Error> {
        let byte = |block: u64| block.saturating_mul(BLOCK).min(self.size());
        let bytes = byte(blocks.start)..byte(blocks.end);
        let mut data: Vec<Range<u64>> = Vec::new();
        if bytes.is_empty() {
            return Ok(data);
        }
        for found in self.ask(|disk| disk.data(bytes.clone()))? {
            let start = (found.start / BLOCK).max(blocks.start);
            let end = found.end.div_ceil(BLOCK).min(blocks.end);
            match data.last_mut() {
                Some(last) if start <= last.end => last.end = last.end.max(end),
                _ => data.push(start..end),
            }
        }
        Ok(data)
    }

    /// The same; everything if it cannot be told.
    fn data_or_all(&self, blocks: Range<u64>) -> Vec<Range<u64>> {
        let end = self.size().div_ceil(BLOCK).min(blocks.end);
        let all = || std::iter::once(blocks.start..end.max(blocks.start)).collect();
        self.data(blocks.clone()).unwrap_or_else(|_| all())
    }

    /// Runs of mapped blocks and holes from block `first` on, with what the image has for the holes.
    pub(crate) fn add_data(&self, first: u64, mapped: Vec<(u64, bool)>) -> Vec<(u64, bool)> {
        let end = first + mapped.iter().map(|(len, _)| len).sum::<u64>();
        let start = first.max(self.filled.div_ceil(BLOCK)).min(end);
        let mut data = RangeSet::default();
        self.data_or_all(start..end)
            .into_iter()
            .for_each(|range| data.insert(range));
        let mut at = first;
        for (len, is_mapped) in mapped {
            if is_mapped {
                data.insert(at..at + len);
            }
            at += len;
        }
        let mut runs = Vec::new();
        let mut at = first;
        for range in data.iter() {
            runs.push((range.start - at, false));
            runs.push((range.end - range.start, true));
            at = range.end;
        }
        runs.push((end - at, false));
        runs.retain(|(len, _)| *len > 0);
        runs
    }
}

impl Below {
    /// What a layer makes zero where the image has data, `blocks` of zeroes included.
    pub(crate) fn hidden(&self, layer: &Layer, blocks: &[(u64, SharedBlock)]) -> Vec<Range<u64>> {
        let mut zeroed = layer.zeroes().clone();
        for &(index, _) in blocks {
            zeroed.insert(index..index + 1);
        }
        let windows = zeroed.iter().flat_map(|range| {
            let end = range.end;
            let starts = range.step_by(WINDOW as usize);
            starts.map(move |start| start..end.min(start + WINDOW))
        });
        windows
            .flat_map(|window| self.data_or_all(window))
            .collect()
    }
}

fn not_given_up() -> Arc<AtomicBool> {
    Arc::new(AtomicBool::new(false))
}

/// A block of zeroes, for what must not be a hole.
pub(crate) fn block_of_zeroes(writer: &mut PackWriter) -> Result<Pointer, Error> {
    let block: SharedBlock = Arc::new([0; BLOCK_SIZE]);
    Ok(writer.write_blocks(&[block])?[0])
}

impl Volume {
    /// Maps blocks to zeroes. `stored` are those, in order, that the same layer wrote: they stay.
    pub(crate) fn map_zeroes(
        &self,
        writer: &mut PackWriter,
        sum: &mut Updated,
        blocks: &[Range<u64>],
        zeroes: Pointer,
        stored: &[u64],
    ) -> Result<(), Error> {
        let mut writes = Vec::new();
        for index in blocks.iter().cloned().flatten() {
            if stored.binary_search(&index).is_ok() {
                continue;
            }
            writes.push((BlockIndex(index), zeroes));
            if writes.len() >= ZEROES_PER_UPDATE {
                self.add_writes(writer, sum, &std::mem::take(&mut writes))?;
            }
        }
        self.add_writes(writer, sum, &writes)
    }

    pub(crate) fn add_writes(
        &self,
        writer: &mut PackWriter,
        sum: &mut Updated,
        writes: &[(BlockIndex, Pointer)],
    ) -> Result<(), Error> {
        let nodes = Nodes(&self.shared.packs);
        let updated = blockmap::update(&nodes, &mut Sink(writer), sum.root, &[], writes)?;
        sum.root = updated.root;
        sum.mapped += updated.mapped;
        sum.unmapped += updated.unmapped;
        sum.replaced.extend(updated.replaced);
        Ok(())
    }
}
