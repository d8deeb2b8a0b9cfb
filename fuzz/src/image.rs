//! An image of any bytes that is said to be raw, through the whole engine: it comes out as it went in.

use crate::input::Input;
use ::image::{Error, ErrorKind, Import, Source, Target, export, import};
use env::{Env, OpenOptions};
use sim::SimEnv;
use std::{
    cell::RefCell,
    path::{Path, PathBuf},
};
use types::{Codec, ImageFormat, NoProgress, SECTOR_SIZE, VOLUME_SIZE_MIN};
use volume::{Config, InitOptions, Store};

const IMAGE: &str = "/images/image";
const NAME: &str = "v";
const IMAGE_MAX: usize = 64 << 10;
/// Packs are only added: a new store before there are many.
const IMPORTS_PER_STORE: u32 = 200;

thread_local! {
    static WORLD: RefCell<Option<World>> = const { RefCell::new(None) };
}

struct World {
    env: Env,
    store: Store,
    imports: u32,
}

impl World {
    fn new() -> Self {
        let env = SimEnv::new(1).env();
        for dir in ["/store", "/images"] {
            env.files
                .create_dir_all(Path::new(dir))
                .expect("a directory");
        }
        let dir = Path::new("/store");
        Store::init(&env, dir, &InitOptions::default()).expect("a new store");
        let store = Store::open(&env, dir, Config::small()).expect("a store");
        World {
            env,
            store,
            imports: 0,
        }
    }
}

/// A byte (1: from a file, else a stream; 2 and 4: codec; 8: dedup), a number of blocks of zeroes in front of
/// the last half, and the image.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let flags = input.u8();
    let holes = input.below(8) * types::BLOCK_SIZE;
    let rest = input.bytes(IMAGE_MAX);
    let (head, tail) = rest.split_at(rest.len() / 2);
    let bytes = [head, &vec![0; holes], tail].concat();
    WORLD.with_borrow_mut(|world| {
        let used = world
            .take()
            .filter(|world| world.imports < IMPORTS_PER_STORE);
        let world = world.insert(used.unwrap_or_else(World::new));
        world.imports += 1;
        match through(world, flags, &bytes) {
            Ok(back) => assert!(
                same(&bytes, &back),
                "{} bytes became {}",
                bytes.len(),
                back.len()
            ),
            Err(error) => assert_eq!(error.kind(), ErrorKind::Invalid, "{error}"),
        }
    });
}

/// The image, and zeroes up to the size of a volume.
fn same(image: &[u8], back: &[u8]) -> bool {
    let size = (image.len() as u64)
        .next_multiple_of(SECTOR_SIZE)
        .max(VOLUME_SIZE_MIN);
    back.len() as u64 == size && back.starts_with(image) && types::is_zero(&back[image.len()..])
}

fn through(world: &World, flags: u8, bytes: &[u8]) -> Result<Vec<u8>, Error> {
    let mut stream = bytes;
    let source = if flags & 1 == 0 {
        Source::Reader(&mut stream)
    } else {
        write(&world.env, bytes);
        Source::Path(PathBuf::from(IMAGE))
    };
    let request = Import {
        dedup: Some(flags & 8 == 0),
        codec: [None, Some(Codec::None), Some(Codec::Lz4), Some(Codec::Zstd)]
            [usize::from(flags >> 1 & 3)],
        format: Some(ImageFormat::Raw),
        ..Import::new(NAME.parse().expect("a name"), source)
    };
    import(&world.store, &world.env, request, &NoProgress)?;
    let mut back = Vec::new();
    let whole = NAME.parse().expect("a name");
    export(
        &world.store,
        &world.env,
        &whole,
        Target::Writer(&mut back),
        &NoProgress,
    )?;
    let removed = world.store.remove_volume(&NAME.parse().expect("a name"));
    world
        .store
        .purge_volume(removed.expect("nobody has it open").id)
        .expect("a purge");
    Ok(back)
}

fn write(env: &Env, bytes: &[u8]) {
    let path = Path::new(IMAGE);
    let there = env.files.exists(path).expect("a look");
    let options = OpenOptions {
        write: true,
        create_new: !there,
        direct: false,
    };
    let file = env.files.open(path, options).expect("a file");
    file.set_len(0).expect("a length");
    file.write_at(0, bytes).expect("a write");
}

/// Raw images, and the first bytes of what is not raw.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    let heads: [&[u8]; 11] = [
        b"QFI\xfb",
        b"QED\0",
        b"KDMV",
        b"# Disk DescriptorFile",
        b"vhdxfile",
        b"conectix",
        b"\x1f\x8b\x08",
        b"\xfd7zXZ\0",
        b"\x28\xb5\x2f\xfd",
        b"PK\x03\x04",
        b"BZh91AY&SY",
    ];
    let mut seeds: Vec<_> = heads
        .iter()
        .map(|head| [b"\x00\x00", *head, *head].concat())
        .collect();
    let mut vdi = vec![1, 0];
    vdi.resize(2 + 64, 0);
    vdi.extend_from_slice(b"\x7f\x10\xda\xbe");
    seeds.push([&vdi[..], &vdi[..]].concat());
    let mut tar = vec![0, 0];
    tar.resize(2 + 257, 1);
    tar.extend_from_slice(b"ustar");
    seeds.push([&tar[..], &tar[..]].concat());
    for flags in 0..16 {
        seeds.push(vec![flags, 0]);
        seeds.push([vec![flags, flags % 8], vec![flags; 700]].concat());
    }
    let mut vhd = vec![1, 0];
    vhd.resize(2 + 1024, 3);
    vhd.extend_from_slice(b"conectix");
    vhd.resize(2 + 1536, 3);
    seeds.push(vhd);
    seeds
}
