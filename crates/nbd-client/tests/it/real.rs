use block::{Bitmap, BlockDevice, Departure, Durability, Error, ErrorKind, Exports, MemoryDevice};
use env::Env;
use front_nbd::{Config, Server};
use image_formats::{Disk, Run};
use nbd_client::{Address, NbdDisk, Uri};
use std::{collections::BTreeMap, sync::Arc};
use types::Cancel;

struct Devices(BTreeMap<String, Arc<MemoryDevice>>);

impl Exports for Devices {
    fn list(&self) -> Vec<String> {
        self.0.keys().cloned().collect()
    }

    fn open(&self, name: &str) -> Result<Arc<dyn BlockDevice>, Error> {
        let found = self.0.get(name).cloned();
        let device = found.ok_or_else(|| Error::new(ErrorKind::Gone, "open"))?;
        Ok(device)
    }

    fn bitmaps(&self, _: &str) -> Vec<String> {
        Vec::new()
    }

    fn bitmap(&self, _: &str, _: &str) -> Result<Arc<dyn Bitmap>, Error> {
        Err(Error::new(ErrorKind::Gone, "bitmap"))
    }

    fn left(&self, _: &str, _: Departure) {}
}

#[test]
fn bytes_and_holes_are_what_the_server_has_over_both_kinds_of_sockets() {
    let size: usize = (12 << 20) + 512;
    let device = Arc::new(MemoryDevice::new(size));
    let noise: Vec<u8> = (0..5_000_000_u32)
        .map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8 | 1)
        .collect();
    for at in [4096, (7 << 20) + 8192] {
        device.write(at, &noise, Durability::Volatile).unwrap();
    }
    let mut expect = vec![0; size];
    device.read(0, &mut expect).unwrap();
    let env = Env::real();
    let exports = Devices(BTreeMap::from([("v@s".to_owned(), device)]));
    let server = Server::start(Arc::new(exports), env.clone(), Config::default()).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("nbd");
    server.listen_unix(&socket, 0o600).unwrap();
    let port = server
        .listen_tcp(([127, 0, 0, 1], 0).into())
        .unwrap()
        .port();
    let export = "v@s".to_owned();
    for address in [
        Address::Unix(socket.clone()),
        Address::Tcp("localhost".to_owned(), port),
    ] {
        let uri = Uri {
            address,
            export: export.clone(),
        };
        let disk = NbdDisk::open(&uri, "the disk", &env.clock, &Cancel::never()).unwrap();
        assert_eq!(disk.size(), size as u64);
        let mut found = vec![7; size];
        disk.read(0, &mut found).unwrap();
        assert!(found == expect, "{uri} differs");
        let mut part = vec![7; 10_001];
        disk.read(3_333, &mut part).unwrap();
        assert!(part == expect[3_333..13_334], "a part differs");
        let mut runs = Vec::new();
        let mut at = 0;
        while at < disk.size() {
            let some = disk.runs(at).unwrap();
            at += some.iter().map(|run| run.len).sum::<u64>();
            runs.extend(some);
        }
        assert_eq!(at, disk.size());
        let holes = runs
            .iter()
            .filter(|run| !run.data)
            .map(|run| run.len)
            .sum::<u64>();
        assert_eq!(
            holes,
            expect
                .chunks(4096)
                .filter(|block| block.iter().all(|b| *b == 0))
                .map(|b| b.len() as u64)
                .sum::<u64>()
        );
        assert_eq!(
            disk.runs(100).unwrap().first(),
            Some(&Run {
                len: 3996,
                data: false
            })
        );
    }
    let other = Uri {
        address: Address::Unix(socket),
        export: "other".to_owned(),
    };
    let error = NbdDisk::open(&other, "the disk", &env.clock, &Cancel::never())
        .err()
        .unwrap()
        .to_string();
    assert!(
        error.contains("the disk") && error.contains("no export 'other'"),
        "{error}"
    );
}
