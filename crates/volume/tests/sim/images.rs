//! Images that volumes are imported from while they are used.

use crate::{
    BLOCKS,
    blocks::{Contents, TAGS, bytes_of},
};
use std::{ops::Range, sync::Arc};
use types::BLOCK_SIZE;
use volume::{Error, ImageSource, Images, SourceDisk};

/// What the image of a number has: data, holes, and zeroes that are no holes.
pub(crate) fn contents(number: u32) -> Contents {
    let blocks = BLOCKS - number as usize;
    let tag = |block: usize| match (block / 7 + number as usize) % 3 {
        0 => 0,
        _ => (block as u32 * 5 + number) % TAGS as u32,
    };
    (0..blocks).map(tag).collect()
}

/// The record of it.
pub(crate) fn source(number: u32) -> ImageSource {
    ImageSource {
        path: format!("/images/{number}"),
        size: bytes_of(&contents(number)).len() as u64,
        ..ImageSource::default()
    }
}

/// Opens them.
pub(crate) fn images() -> Images {
    Images::new(|source, _| {
        let number = source.path.rsplit('/').next().and_then(|n| n.parse().ok());
        let contents = contents(number.expect("an image of ours"));
        Ok(Arc::new(Image(contents)) as Arc<dyn SourceDisk>)
    })
}

struct Image(Contents);

impl SourceDisk for Image {
    fn data(&self, range: Range<u64>) -> Result<Vec<Range<u64>>, Error> {
        let block = BLOCK_SIZE as u64;
        let blocks = (0..).zip(&self.0).filter(|(at, _)| {
            let bytes = at * block..(at + 1) * block;
            bytes.start < range.end && range.start < bytes.end
        });
        // Zeroes of data are data: only every third run of seven is a hole.
        let data = blocks.filter(|(at, tag)| **tag != 0 || (at / 7) % 2 == 0);
        let clip =
            |(at, _): (u64, _)| (at * block).max(range.start)..((at + 1) * block).min(range.end);
        Ok(data.map(clip).collect())
    }

    fn read(&self, offset: u64, buf: &mut [u8]) -> Result<(), Error> {
        let bytes = bytes_of(&self.0);
        buf.copy_from_slice(&bytes[offset as usize..][..buf.len()]);
        Ok(())
    }
}
