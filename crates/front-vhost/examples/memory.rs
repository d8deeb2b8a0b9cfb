//! Serves memory to vhost-user-blk guests: `memory SOCKET MIB`. For measuring the front end alone and for trying
//! guests; ends when its standard input does.

use block::MemoryDevice;
use env::Env;
use front_vhost::{Options, Server, Workers};
use std::{io::Read, path::Path, sync::Arc, time::Duration};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().collect();
    let usage = "usage: memory SOCKET MIB";
    let (at, mib) = args.get(1).zip(args.get(2)).ok_or(usage)?;
    let device = Arc::new(MemoryDevice::new(mib.parse::<usize>()? << 20));
    let (env, workers) = (Env::real(), Workers::new(16));
    let options = Options::default();
    let server = Server::start(&env, &workers, Path::new(at), 0o600, device, options)?;
    std::io::stdin().read_to_end(&mut Vec::new())?;
    server.stop(Duration::from_secs(5));
    workers.stop();
    println!("{:?}", server.stats());
    Ok(())
}
