//! How fast images come in and go out.
//!
//! `throughput IMAGE DIRECTORY [none|lz4|zstd] [nodedup]`: imports twice, the second time all blocks are there
//! already if they are looked for, and exports to a file and to nowhere. The store in DIRECTORY is removed afterwards.

use env::Env;
use image::{Import, Source, Target};
use std::{error::Error, fs, io, path::PathBuf};
use types::NoProgress;
use volume::{Config, InitOptions, Store};

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let (Some(image), Some(dir)) = (args.next(), args.next()) else {
        return Err("usage: throughput IMAGE DIRECTORY [none|lz4|zstd] [nodedup]".into());
    };
    let codec = args.next().map(|text| text.parse()).transpose()?;
    let dedup = args.next().map(|_| false);
    let env = Env::real();
    let dir = PathBuf::from(dir).join("throughput-store");
    Store::init(&env, &dir, &InitOptions::default())?;
    let store = Store::open(&env, &dir, Config::default())?;
    let bytes = env
        .files
        .open(image.as_ref(), env::OpenOptions::default())?
        .len()?;
    let timed = |what: &str, body: &dyn Fn() -> Result<(), image::Error>| {
        let began = env.clock.monotonic();
        body()?;
        let took = (env.clock.monotonic() - began).as_secs_f64();
        println!(
            "{what:16} {took:6.2} s  {:6.0} MiB/s",
            bytes as f64 / took / f64::from(1 << 20)
        );
        Ok::<(), image::Error>(())
    };
    for name in ["first", "again"] {
        timed(&format!("import {name}"), &|| {
            let request = Import {
                dedup,
                codec,
                ..Import::new(
                    name.parse().expect("a name"),
                    Source::Path(image.clone().into()),
                )
            };
            image::import(&store, &env, request, &NoProgress).map(|_| ())
        })?;
    }
    let out = dir.with_extension("raw");
    let volume = "first".parse()?;
    timed("export file", &|| {
        let target = Target::Path {
            path: out.clone(),
            overwrite: true,
        };
        image::export(&store, &env, &volume, target, &NoProgress).map(|_| ())
    })?;
    timed("export nowhere", &|| {
        let target = Target::Writer(&mut io::sink());
        image::export(&store, &env, &volume, target, &NoProgress).map(|_| ())
    })?;
    store.close()?;
    drop(store);
    fs::remove_file(&out)?;
    Ok(fs::remove_dir_all(&dir)?)
}
