use crate::support::{World, sparse};
use image::ErrorKind;
use std::{fs, path::Path, process::Command};
use types::NoProgress;

const MIB: u64 = 1 << 20;

/// A file as a block device.
struct Loop(String);

impl Loop {
    fn new(file: &Path) -> Self {
        let mut losetup = Command::new("losetup");
        let output = losetup.args(["-f", "--show"]).arg(file).output().unwrap();
        assert!(output.status.success(), "losetup: {output:?}");
        Loop(String::from_utf8(output.stdout).unwrap().trim().to_owned())
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").args(["-d", &self.0]).status();
    }
}

#[test]
#[ignore = "needs root and loop devices"]
fn block_devices_come_in_and_go_out() {
    let world = World::new();
    let (path, disk) = (world.path("x.raw"), world.path("disk"));
    sparse(&path, 8 * MIB + 512, &[0..MIB, 5 * MIB + 512..6 * MIB]);
    world.import("v", &path).unwrap();
    // What was there before must not shine through the holes, and stays behind the image.
    fs::write(&disk, vec![0xaa; 16 * MIB as usize]).unwrap();
    let device = Loop::new(&disk);
    let at = Path::new(&device.0);
    assert_eq!(world.export("v", at).unwrap_err().kind(), ErrorKind::Exists);
    world.export_with("v", at, true, &NoProgress).unwrap();
    let mut expect = fs::read(&path).unwrap();
    expect.resize(16 * MIB as usize, 0xaa);
    assert!(fs::read(at).unwrap() == expect);
    let record = world.import("w", at).unwrap();
    assert_eq!(record.size, 16 * MIB);
    assert!(world.contents("w") == expect);
    let small = world.path("small");
    sparse(&small, MIB, &[]);
    let device = Loop::new(&small);
    let refused = world.export_with("v", device.0.as_ref(), true, &NoProgress);
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::Invalid);
}
