//! Copies of the catalog: what a lost catalog is rebuilt from. Sealed if the input says so, see [`crate::pack`].

use crate::{alloc::bounded, catalog_file::fill, input::Input};
use ::catalog_copy::{Copied, read};
use catalog_redb::RedbCatalog;
use env::{Env, OpenOptions};
use sim::SimEnv;
use std::{path::Path, sync::Arc};
use types::StoreId;

const DIR: &str = "/copy";
const STORE: StoreId = StoreId([7; 16]);
const HEADER_LEN: usize = 64;
const STEP_LEN: usize = 16;

/// A byte (1: seal the contents, 2: seal the steps; 4: the second half is a second file), and the files.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let flags = input.u8();
    let rest = input.rest();
    let half = if flags & 4 == 0 {
        rest.len()
    } else {
        rest.len() / 2
    };
    let (first, second) = rest.split_at(half);
    let env = SimEnv::new(1).env();
    env.files
        .create_dir_all(Path::new(DIR))
        .expect("a directory");
    for (number, bytes) in (1..)
        .zip([first, second])
        .filter(|(_, bytes)| !bytes.is_empty())
    {
        let mut bytes = bytes.to_vec();
        seal(&mut bytes, flags);
        write(&env, number, &bytes);
    }
    // Records are some times larger in memory than encoded, and are held twice.
    bounded(256 * data.len() + (256 << 10), || {
        let found = read(&env, Path::new(DIR), STORE).expect("files that can be read");
        if let Some(contents) = found.contents {
            assert!(contents.is_sound());
        }
    });
}

fn write(env: &Env, number: u64, bytes: &[u8]) {
    let path = Path::new(DIR).join(format!("{number:016x}.copy"));
    let options = OpenOptions {
        write: true,
        create_new: true,
        direct: false,
    };
    let file = env.files.open(&path, options).expect("a file");
    file.write_at(0, bytes).expect("a write");
}

fn u32_at(bytes: &[u8], at: usize) -> Option<usize> {
    bytes
        .get(at..at + 4)
        .map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]) as usize)
}

fn seal(bytes: &mut [u8], flags: u8) {
    let Some(len) = u32_at(bytes, 40) else {
        return;
    };
    let behind = HEADER_LEN.saturating_add(len);
    if flags & 2 != 0 {
        seal_steps(bytes, behind);
    }
    if flags & 1 == 0 || bytes.len() < HEADER_LEN {
        return;
    }
    bytes[..12].copy_from_slice(b"HFcopy\r\n\x01\0\0\0");
    bytes[16..32].copy_from_slice(&STORE.0);
    if let Some(body) = bytes.get(HEADER_LEN..behind) {
        let crc = crc32c::crc32c(body);
        bytes[48..52].copy_from_slice(&crc.to_le_bytes());
    }
    bytes[12..16].fill(0);
    let crc = crc32c::crc32c(&bytes[..HEADER_LEN]);
    bytes[12..16].copy_from_slice(&crc.to_le_bytes());
}

fn seal_steps(bytes: &mut [u8], mut at: usize) {
    while let Some(len) = u32_at(bytes, at) {
        let end = at.saturating_add(STEP_LEN).saturating_add(len);
        let Some(step) = bytes.get_mut(at..end) else {
            return;
        };
        let crc = crc32c::crc32c_append(crc32c::crc32c(&STORE.0), &step[..4]);
        let crc = crc32c::crc32c_append(crc, &step[8..]);
        step[4..8].copy_from_slice(&crc.to_le_bytes());
        at = end;
    }
}

/// What a catalog's copy is after some commits, each file alone and both together.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    let env = SimEnv::new(1).env();
    for _ in 0..2 {
        let path = Path::new("/catalog.redb");
        let catalog = match env.files.exists(path) {
            Ok(true) => RedbCatalog::open(&env, path),
            _ => RedbCatalog::create(&env, path),
        };
        let catalog = Arc::new(catalog.expect("a catalog"));
        let copied = Copied::open(&env, Path::new(DIR), STORE, catalog).expect("a copy");
        fill(&copied);
    }
    let mut names = env.files.list(Path::new(DIR)).expect("the directory");
    names.sort();
    let read = |name: &std::path::PathBuf| {
        env.files
            .read_all(&Path::new(DIR).join(name))
            .expect("a file")
    };
    let files: Vec<_> = names.iter().map(read).collect();
    let mut seeds: Vec<_> = files
        .iter()
        .flat_map(|file| [[&[0], &file[..]].concat(), [&[3], &file[..]].concat()])
        .collect();
    // Both must have the same length to be told apart by it.
    let len = files.iter().map(Vec::len).max().unwrap_or(0);
    let both: Vec<u8> = files
        .iter()
        .flat_map(|file| [&file[..], &vec![0; len - file.len()]].concat())
        .collect();
    seeds.push([&[7], &both[..]].concat());
    seeds
}
