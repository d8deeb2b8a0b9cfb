//! From the bytes of an image to chunks of blocks.

use crate::{error::Error, source::Input};
use std::sync::{Arc, mpsc::SyncSender};
use types::{BLOCK_SIZE, Block, BlockIndex, is_zero};

/// Bytes of blocks in a chunk: enough work for many cores, little memory.
const CHUNK_BYTES: usize = 8 << 20;
/// A chunk is passed on after so many bytes even if most of them are zeroes: somebody watches.
const SCANNED_MAX: u64 = 64 << 20;
/// Bytes that are read at once: any grain has room.
const READ_BYTES: usize = image_formats::GRAIN_MAX;

/// Blocks of an image, none of them zero, in ascending order.
pub(crate) struct Chunk {
    pub(crate) blocks: Vec<(BlockIndex, Arc<Block>)>,
    /// Bytes from the beginning of the image that were looked at.
    pub(crate) scanned: u64,
}

/// Reads all of `input` and passes it on; answers its length in bytes.
///
/// # Errors
/// Those of the input. That nobody takes the chunks any more is none: who went knows why.
pub(crate) fn scan(input: &mut dyn Input, chunks: &SyncSender<Chunk>) -> Result<u64, Error> {
    let mut buffer = vec![0; READ_BYTES];
    let mut blocks = Vec::new();
    let mut passed_on = 0;
    while let Some(read) = input.next(&mut buffer)? {
        let end = read.start + read.len as u64;
        pad(&mut buffer, read.len);
        let whole = &buffer[..read.len.next_multiple_of(BLOCK_SIZE)];
        collect(read.start, whole, &mut blocks);
        let full = blocks.len() * BLOCK_SIZE >= CHUNK_BYTES;
        if full || end - passed_on >= SCANNED_MAX {
            let blocks = std::mem::take(&mut blocks);
            let chunk = Chunk {
                blocks,
                scanned: end,
            };
            if chunks.send(chunk).is_err() {
                return Ok(end);
            }
            passed_on = end;
        }
    }
    let scanned = input.len();
    // Nobody there: see above.
    let _ = chunks.send(Chunk { blocks, scanned });
    Ok(scanned)
}

/// The rest of the last block is zeroes, not what was read there before.
fn pad(buffer: &mut [u8], len: usize) {
    buffer[len..len.next_multiple_of(BLOCK_SIZE)].fill(0);
}

/// The blocks of `bytes`, which begin at `start`, a multiple of [`BLOCK_SIZE`]; without those that are zeroes.
pub(crate) fn blocks_of(start: u64, bytes: &mut Vec<u8>) -> Vec<(BlockIndex, Arc<Block>)> {
    bytes.resize(bytes.len().next_multiple_of(BLOCK_SIZE), 0);
    let mut blocks = Vec::with_capacity(bytes.len() / BLOCK_SIZE);
    collect(start, bytes, &mut blocks);
    blocks
}

fn collect(start: u64, bytes: &[u8], blocks: &mut Vec<(BlockIndex, Arc<Block>)>) {
    let first = start / BLOCK_SIZE as u64;
    let (whole, _) = bytes.as_chunks::<BLOCK_SIZE>();
    for (i, block) in (first..).zip(whole) {
        if !is_zero(block) {
            blocks.push((BlockIndex(i), arc_block(block)));
        }
    }
}

/// One allocation, one copy.
fn arc_block(bytes: &Block) -> Arc<Block> {
    let block: Arc<[u8]> = Arc::from(&bytes[..]);
    block.try_into().expect("a block has the length of a block")
}
