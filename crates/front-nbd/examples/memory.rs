//! Serves memory to NBD clients: `memory unix:PATH|ADDRESS:PORT MIB [ro]`, export name `memory` or none.
//! For measuring the front end alone and for trying clients; ends when its standard input does.

use block::{Bitmap, BlockDevice, Departure, Error, ErrorKind, Exports, MemoryDevice};
use front_nbd::{Config, Server};
use std::{io::Read, path::Path, sync::Arc, time::Duration};

struct One(Arc<dyn BlockDevice>);

impl Exports for One {
    fn list(&self) -> Vec<String> {
        vec!["memory".to_owned()]
    }

    fn open(&self, name: &str) -> Result<Arc<dyn BlockDevice>, Error> {
        match name {
            "memory" => Ok(self.0.clone()),
            _ => Err(Error::new(ErrorKind::Gone, "open")),
        }
    }

    fn bitmaps(&self, _: &str) -> Vec<String> {
        Vec::new()
    }

    fn bitmap(&self, _: &str, _: &str) -> Result<Arc<dyn Bitmap>, Error> {
        Err(Error::new(ErrorKind::Gone, "bitmap"))
    }

    fn left(&self, _: &str, _: Departure) {}
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().collect();
    let usage = "usage: memory unix:PATH|ADDRESS:PORT MIB [ro]";
    let (at, mib) = args.get(1).zip(args.get(2)).ok_or(usage)?;
    let size = mib.parse::<usize>()? << 20;
    let device = if args.get(3).is_some_and(|a| a == "ro") {
        MemoryDevice::read_only(vec![0; size])
    } else {
        MemoryDevice::new(size)
    };
    let config = Config {
        default_export: Some("memory".to_owned()),
        ..Config::default()
    };
    let server = Server::start(Arc::new(One(Arc::new(device))), env::Env::real(), config)?;
    match at.strip_prefix("unix:") {
        Some(path) => server.listen_unix(Path::new(path), 0o600)?,
        None => println!("{}", server.listen_tcp(at.parse()?)?),
    }
    std::io::stdin().read_to_end(&mut Vec::new())?;
    server.shutdown(Duration::from_secs(5));
    println!("{:?}", server.stats());
    Ok(())
}
