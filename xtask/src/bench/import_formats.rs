//! One disk in every format that is imported, brought in beside `qemu-img convert` to a raw file: what a reader of images costs.

use super::{
    bed::Bed,
    figures::{Outcome, Side},
    machine,
    random::Random,
};
use anyhow::{Context, Result, ensure};
use e2e::{
    cleanup::Scratch,
    process::{command, run as finish},
    stopwatch::Stopwatch,
    tools,
};
use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    time::Duration,
};

const LIMIT: Duration = Duration::from_secs(600);
const MIB: usize = 1 << 20;
/// Of the disk; as much again is a hole.
const DATA_MIB: usize = 256;

/// QEMU's name, and options with which it makes the image. The last one becomes an OVA.
const FORMATS: [(&str, &[&str]); 9] = [
    ("raw", &[]),
    ("qcow2", &[]),
    ("qcow2", &["-c"]),
    ("vmdk", &[]),
    ("vmdk", &["-o", "subformat=streamOptimized"]),
    ("vhdx", &[]),
    ("vpc", &[]),
    ("vdi", &[]),
    ("vmdk", &["-o", "subformat=streamOptimized"]),
];

/// An image, and what QEMU reads of it.
struct Image {
    path: PathBuf,
    format: &'static str,
    qemu_reads: PathBuf,
}

/// A ratio for each format.
pub(crate) fn run(bed: &mut Bed) -> Result<Vec<Outcome>> {
    bed.clear();
    ensure!(
        tools::have("qemu-img") && tools::have("qemu-nbd"),
        "qemu-img or qemu-nbd is not installed (apt-get install qemu-utils)"
    );
    let scratch = Scratch::new(bed.directory().join("images"))?;
    let raw = disk(scratch.path())?;
    let mut outcomes = Vec::new();
    for (number, (format, options)) in FORMATS.into_iter().enumerate() {
        let image = image(&raw, number, format, options)?;
        let mut ours = Side::new("holdfast", Vec::new());
        let mut theirs = Side::new("qemu-img convert", Vec::new());
        for _ in 0..bed.rounds {
            let seconds = import(bed, &image.path)?;
            let seconds_theirs = convert(bed, &image)?;
            println!(
                "   {}: {seconds:.2} s; qemu-img {seconds_theirs:.2} s",
                image.path.display()
            );
            ours.figures.push(1.0 / seconds);
            theirs.figures.push(1.0 / seconds_theirs);
        }
        let outcome = Outcome::ratio("a second", vec![ours, theirs], false);
        outcomes.push(outcome.context("no rounds")?);
    }
    Ok(outcomes)
}

/// A disk of which a half is data, of which a half compresses away; no two blocks are the same.
fn disk(directory: &Path) -> Result<PathBuf> {
    let path = directory.join("disk.raw");
    let mut file = fs::File::create(&path)?;
    let mut random = Random::new(1);
    for _ in 0..DATA_MIB {
        let part: Vec<u8> = (0..MIB / 4096).flat_map(|_| random.block()).collect();
        file.write_all(&part)?;
    }
    file.set_len((2 * DATA_MIB * MIB) as u64)?;
    Ok(path)
}

/// The disk in another format, in the page cache.
fn image(raw: &Path, number: usize, format: &'static str, options: &[&str]) -> Result<Image> {
    let path = raw.with_file_name(format!("{number}.{format}"));
    let mut convert = command("qemu-img");
    convert.args(["convert", "-f", "raw", "-O", format]);
    finish("qemu-img", convert.args(options).arg(raw).arg(&path), LIMIT)?;
    let mut image = Image {
        qemu_reads: path.clone(),
        path,
        format,
    };
    if number + 1 == FORMATS.len() {
        image.path = ova(&image.path)?;
    }
    let mut cat = command("sh");
    cat.args(["-c", r#"cat "$0" > /dev/null"#]);
    finish("cat", cat.arg(&image.path), LIMIT)?;
    Ok(image)
}

/// A machine with this disk.
fn ova(disk: &Path) -> Result<PathBuf> {
    let (ova, descriptor) = (disk.with_extension("ova"), disk.with_extension("ovf"));
    let directory = disk.parent().context("a disk without a directory")?;
    let name = |path: &Path| -> Result<String> {
        let name = path.file_name().and_then(|name| name.to_str());
        Ok(name.context("a name that is no text")?.to_owned())
    };
    let (disk, capacity) = (name(disk)?, 2 * DATA_MIB);
    fs::write(
        &descriptor,
        format!(
            "<?xml version='1.0' encoding='UTF-8'?>\n\
             <Envelope xmlns='http://schemas.dmtf.org/ovf/envelope/1' xmlns:ovf='http://schemas.dmtf.org/ovf/envelope/1'>\n\
             <References><File ovf:id='f' ovf:href='{disk}'/></References>\n\
             <DiskSection><Info>Disks</Info><Disk ovf:diskId='d' ovf:fileRef='f' ovf:capacity='{capacity}' \
             ovf:capacityAllocationUnits='byte * 2^20'/></DiskSection>\n\
             <VirtualSystem ovf:id='vm'><Info>A machine</Info></VirtualSystem>\n</Envelope>\n"
        ),
    )?;
    let mut tar = command("tar");
    tar.args(["--format=ustar", "-cf"])
        .arg(&ova)
        .arg("-C")
        .arg(directory);
    finish("tar", tar.arg(name(&descriptor)?).arg(disk), LIMIT)?;
    Ok(ova)
}

/// Into a new store; seconds until it is durable.
fn import(bed: &Bed, image: &Path) -> Result<f64> {
    let daemon = bed.daemon(&[])?;
    machine::settle(bed.directory())?;
    let image = image.to_str().context("a path that is no text")?;
    let watch = Stopwatch::start();
    daemon.ok(&["volume", "import", image, "disk"])?;
    machine::settle(bed.directory())?;
    Ok(watch.elapsed().as_secs_f64())
}

/// With qemu-img into a raw file; seconds until it is durable.
fn convert(bed: &Bed, image: &Image) -> Result<f64> {
    let scratch = Scratch::new(bed.directory().join("convert"))?;
    machine::settle(bed.directory())?;
    let mut convert = command("qemu-img");
    convert.args(["convert", "-f", image.format, "-O", "raw"]);
    convert
        .arg(&image.qemu_reads)
        .arg(scratch.path().join("raw"));
    let watch = Stopwatch::start();
    finish("qemu-img", &mut convert, LIMIT)?;
    machine::settle(bed.directory())?;
    Ok(watch.elapsed().as_secs_f64())
}
