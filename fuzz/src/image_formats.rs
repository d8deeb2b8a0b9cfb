//! Images of formats with tables: whatever they say, only the image is read, and everything ends.

use crate::{alloc::bounded, input::Input};
use env::{Env, File, FileKind, Files, Lock, LockError, OpenOptions, Space};
use image_formats::{
    Beside, Detected, Disk, Error, ErrorKind, Files as Others, GRAIN_MAX, HEAD_LEN, Ova, Qcow2,
    RawDisk, Source, StreamOptimized, by_head, detect, vmdk,
};
use std::{
    io::{self, Read},
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};
use types::{ImageFormat, VOLUME_SIZE_MAX, is_zero};

/// The image, and another file: what is behind it, has its data, or lies beside it.
const IMAGE: &str = "/i/image";
const OTHER: &str = "/i/other";
const FILE_MAX: usize = 1 << 20;
/// Runs that are answered at once, where images are behind each other too.
const RUNS_MAX: usize = 4096;
/// Data that is read of a disk: enough to touch everything in a small one.
const READ_MAX: u64 = 4 << 20;
/// At once: not a whole number of anything.
const READ_BYTES: u64 = 150_000;
/// Tables and clusters that are kept or being decompressed, whatever the image.
const MEMORY_MAX: usize = 24 << 20;

/// A byte (1: the other file is there; 2: it has the data; 4: from a stream; 8, 16, 32: snapshots; 64: an OVA),
/// and the files, packed.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let flags = input.u8();
    let image = unpack(&mut input);
    if flags & 4 != 0 {
        bounded(MEMORY_MAX, || check_stream(&image));
        return;
    }
    if flags & 64 != 0 {
        bounded(MEMORY_MAX, || {
            if let Err(error) = check_ova(&image) {
                refused(&error);
            }
        });
        return;
    }
    let other = (flags & 1 != 0).then(|| unpack(&mut input));
    let files = Memory {
        image: Arc::new(image),
        other: other.map(Arc::new),
    };
    let env = Env {
        files: Arc::new(files),
        ..Env::real()
    };
    bounded(MEMORY_MAX, || {
        if let Err(error) = check(&env, flags) {
            refused(&error);
        }
    });
}

/// Files with holes are long: runs of zeroes (their length by 8), each with bytes behind it, until there are none.
fn unpack(input: &mut Input<'_>) -> Vec<u8> {
    let mut file = Vec::new();
    while !input.is_empty() {
        let zeroes = usize::try_from(input.number()).unwrap_or(FILE_MAX);
        let room = FILE_MAX - file.len();
        file.resize(file.len() + zeroes.saturating_mul(8).min(room), 0);
        let len = usize::from(input.u16());
        let bytes = input.bytes(len.min(FILE_MAX - file.len()));
        if bytes.is_empty() {
            break;
        }
        file.extend_from_slice(bytes);
    }
    file
}

fn pack(file: &[u8]) -> Vec<u8> {
    const HOLE: usize = 32;
    let mut packed = Vec::new();
    let mut rest = file;
    while !rest.is_empty() {
        let zeroes = rest.iter().take_while(|byte| **byte == 0).count() / 8;
        rest = &rest[zeroes * 8..];
        packed.push(251);
        packed.extend_from_slice(&(zeroes as u16).to_le_bytes());
        let data = rest.windows(HOLE).position(is_zero).unwrap_or(rest.len());
        let (bytes, behind) = rest.split_at(data.min(60_000));
        packed.extend_from_slice(&(bytes.len() as u16).to_le_bytes());
        packed.extend_from_slice(bytes);
        rest = behind;
    }
    packed.extend_from_slice(&[0; 3]);
    packed
}

fn check(env: &Env, flags: u8) -> Result<(), Error> {
    let source = Source::open(env, Path::new(IMAGE))?;
    let format = detect(&source)?;
    let head = by_head(&source.head(HEAD_LEN)?);
    assert!(head == Detected::Format(format) || format == ImageFormat::Vhd);
    let beside = Neighbour(env);
    let disk = match format {
        ImageFormat::Qcow2 => {
            let image = Qcow2::open(source)?;
            let other = beside.open("other");
            let mut files = Others::default();
            match other {
                Ok(other) if flags & 2 != 0 => files.data = Some(other),
                Ok(other) => files.backing = Some(behind(other)?),
                Err(_) => {}
            }
            let snapshot = usize::from(flags >> 3 & 7);
            if image.snapshots().len() > snapshot {
                check_disk(&*image.snapshot_disk(snapshot, &files)?)?;
            }
            image.disk(&files)?
        }
        ImageFormat::Vmdk => vmdk(&source, &beside)?,
        _ => return Ok(()),
    };
    check_disk(&*disk)
}

/// Another image, or bytes.
fn behind(source: Source) -> Result<Arc<dyn Disk>, Error> {
    match detect(&source)? {
        ImageFormat::Qcow2 => Qcow2::open(source)?.disk(&Others::default()),
        _ => Ok(Arc::new(RawDisk::new(source))),
    }
}

/// All of it is told in a bounded number of answers; what is told to be zeroes reads as zeroes, and data as itself.
fn check_disk(disk: &dyn Disk) -> Result<(), Error> {
    let size = disk.size();
    assert!(size <= VOLUME_SIZE_MAX, "{size} bytes");
    let (mut at, mut answers, mut read) = (0, 0, 0);
    while at < size {
        let runs = disk.runs(at)?;
        answers += 1;
        // Four places for each two bytes of tables in two files, and a window for each 4 GiB.
        let most = 8 * FILE_MAX + (size >> 32) as usize;
        assert!(answers <= most, "{answers} answers for {size} bytes");
        assert!((1..=RUNS_MAX).contains(&runs.len()), "{} runs", runs.len());
        assert!(runs.windows(2).all(|pair| pair[0].data != pair[1].data));
        for run in runs {
            assert!(run.len > 0 && run.len <= size - at, "{run:?} at {at}");
            if read < READ_MAX {
                read += read_run(disk, at, run)?;
            }
            at += run.len;
        }
    }
    Ok(())
}

fn read_run(disk: &dyn Disk, at: u64, run: image_formats::Run) -> Result<u64, Error> {
    let len = run.len.min(READ_BYTES);
    let mut bytes = vec![1; len as usize];
    disk.read(at, &mut bytes)?;
    if !run.data {
        assert!(is_zero(&bytes), "data at {at}, where there is none");
        return Ok(len / 64);
    }
    let mut again = vec![2; bytes.len() / 3];
    disk.read(at, &mut again)?;
    assert!(bytes.starts_with(&again), "read twice at {at}");
    let from = again.len();
    again.resize(bytes.len() - from, 3);
    disk.read(at + from as u64, &mut again)?;
    assert!(bytes.ends_with(&again), "read twice at {at}");
    Ok(len)
}

fn check_stream(bytes: &[u8]) {
    let mut rest = bytes;
    let mut stream = match StreamOptimized::open(&mut rest, "the stream") {
        Ok(stream) => stream,
        Err(error) => return refused(&error),
    };
    let size = stream.size();
    assert!(size <= VOLUME_SIZE_MAX, "{size} bytes");
    let mut buffer = vec![0; GRAIN_MAX];
    let (mut end, mut pieces) = (0, 0);
    loop {
        match stream.next(&mut buffer) {
            Ok(None) => break,
            Ok(Some((at, len))) => {
                assert!(at >= end && len > 0 && len as u64 <= size - at);
                end = at + len as u64;
            }
            Err(error) => return refused(&error),
        }
        pieces += 1;
        assert!(pieces <= bytes.len() / 512, "{pieces} pieces");
    }
    assert_eq!(stream.next(&mut buffer).expect("the end"), None);
    drop(stream);
    assert!(rest.is_empty(), "{} bytes are not looked at", rest.len());
}

/// Each disk is found once, and what was finished has all of them.
fn check_ova(bytes: &[u8]) -> Result<(), Error> {
    let mut rest = bytes;
    let mut ova = Ova::open(&mut rest, "the stream")?;
    let disks = ova.disks().to_vec();
    let mut found = vec![false; disks.len()];
    while let Some(disk) = ova.next_disk()? {
        assert!(disks[disk].file.is_some());
        assert!(
            !std::mem::replace(&mut found[disk], true),
            "disk {disk} twice"
        );
        let mut reader = ova.disk_reader(disk)?.take(FILE_MAX as u64);
        // What is damaged is told by the next step, or only matters to who reads the disk.
        let _ = io::copy(&mut reader, &mut io::sink());
    }
    let all: Vec<usize> = (0..disks.len()).collect();
    ova.finish(&all)?;
    assert!(rest.is_empty(), "{} bytes are not looked at", rest.len());
    let missing = disks
        .iter()
        .zip(&found)
        .find(|(disk, found)| disk.file.is_some() && !**found);
    assert!(missing.is_none(), "{missing:?}");
    Ok(())
}

/// One line that is not long, and the image is to blame.
fn refused(error: &Error) {
    let shown = error.to_string();
    assert!(
        matches!(error.kind(), ErrorKind::Invalid | ErrorKind::NotFound),
        "{shown}"
    );
    let names = [IMAGE, OTHER, "the stream"];
    assert!(
        shown.len() < 600 && !shown.contains(char::is_control),
        "{shown:?}"
    );
    assert!(names.iter().any(|name| shown.contains(name)), "{shown}");
}

/// The files beside the image: whatever name it has in it, no path.
struct Neighbour<'a>(&'a Env);

impl Beside for Neighbour<'_> {
    fn open(&self, name: &str) -> Result<Source, Error> {
        assert!(
            !name.contains('/') && !["", ".", ".."].contains(&name),
            "{name:?}"
        );
        Source::open(self.0, Path::new(OTHER))
    }
}

/// There is nothing but these; nothing is written, and nothing read behind the end.
struct Memory {
    image: Arc<Vec<u8>>,
    other: Option<Arc<Vec<u8>>>,
}

impl Memory {
    fn find(&self, path: &Path) -> io::Result<Arc<Vec<u8>>> {
        match path.to_str() {
            Some(IMAGE) => Ok(Arc::clone(&self.image)),
            Some(OTHER) => self.other.clone().ok_or(io::ErrorKind::NotFound.into()),
            _ => panic!("{} is opened", path.display()),
        }
    }
}

impl Files for Memory {
    fn open(&self, path: &Path, options: OpenOptions) -> io::Result<Arc<dyn File>> {
        assert!(!options.write && !options.create_new);
        Ok(Arc::new(Bytes(self.find(path)?)))
    }

    fn open_max(&self) -> usize {
        usize::MAX
    }

    fn kind(&self, path: &Path) -> io::Result<FileKind> {
        self.find(path).map(|_| FileKind::Regular)
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        Ok(self.find(path).is_ok())
    }

    fn is_link(&self, _: &Path) -> io::Result<bool> {
        Ok(false)
    }

    fn rename(&self, _: &Path, _: &Path) -> io::Result<()> {
        unreachable!("images are only read")
    }

    fn remove(&self, _: &Path) -> io::Result<()> {
        unreachable!("images are only read")
    }

    fn create_dir_all(&self, _: &Path) -> io::Result<()> {
        unreachable!("images are only read")
    }

    fn list(&self, _: &Path) -> io::Result<Vec<PathBuf>> {
        unreachable!("directories are not looked at")
    }

    fn sync_dir(&self, _: &Path) -> io::Result<()> {
        unreachable!("images are only read")
    }

    fn space(&self, _: &Path) -> io::Result<Space> {
        unreachable!("images are only read")
    }

    fn lock(&self, _: &Path) -> Result<Box<dyn Lock>, LockError> {
        unreachable!("images are not locked")
    }
}

struct Bytes(Arc<Vec<u8>>);

impl File for Bytes {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.len() as u64)
    }

    fn allocated(&self) -> io::Result<u64> {
        self.len()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let bytes = usize::try_from(offset).ok();
        let bytes = bytes.and_then(|offset| self.0.get(offset..)?.get(..buf.len()));
        buf.copy_from_slice(bytes.expect("reads lie in the file"));
        Ok(())
    }

    fn try_read_at(&self, _: u64, _: &mut [u8]) -> io::Result<bool> {
        Ok(false)
    }

    fn next_data(&self, offset: u64) -> io::Result<Option<std::ops::Range<u64>>> {
        let len = self.0.len() as u64;
        Ok((offset < len).then_some(offset..len))
    }

    fn write_at(&self, _: u64, _: &[u8]) -> io::Result<()> {
        unreachable!("images are only read")
    }

    fn punch_hole(&self, _: u64, _: u64) -> io::Result<()> {
        unreachable!("images are only read")
    }

    fn sync_data(&self) -> io::Result<()> {
        unreachable!("images are only read")
    }

    fn set_len(&self, _: u64) -> io::Result<()> {
        unreachable!("images are only read")
    }
}

/// Small images, as QEMU writes them. Who makes the corpus anew needs its tools.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    let dir = std::env::temp_dir().join(format!("holdfast-seeds-{}", std::process::id()));
    std::fs::create_dir_all(&dir).expect("a directory");
    let seeds = seeds_in(&dir);
    std::fs::remove_dir_all(&dir).expect("it is ours");
    seeds
}

fn seeds_in(dir: &Path) -> Vec<Vec<u8>> {
    let tool = |program: &str, args: &str| {
        let mut command = Command::new(program);
        command.current_dir(dir).args(args.split(' '));
        let status = command.status().expect("it is installed");
        assert!(status.success(), "{program} {args}");
    };
    let io = |format: &str, file: &str, commands: &[&str]| {
        let mut io = Command::new("qemu-io");
        io.current_dir(dir).args(["-f", format, file]);
        io.args(commands.iter().flat_map(|command| ["-c", command]));
        let done = io.output().expect("qemu-utils is installed");
        assert!(done.status.success(), "{done:?}");
    };
    let packed = |name: &str| pack(&std::fs::read(dir.join(name)).expect("an image"));
    let mut seeds = Vec::new();
    tool("qemu-img", "create -q -f raw other 64k");
    io("raw", "other", &["write -P 7 1k 3k", "write -P 8 40k 512"]);
    for options in [
        "cluster_size=512",
        "cluster_size=512,compat=0.10",
        "cluster_size=4k",
        "cluster_size=16k,extended_l2=on",
        "cluster_size=512 -b other -F raw",
        "cluster_size=512,data_file=data,data_file_raw=on",
    ] {
        tool(
            "qemu-img",
            &format!("create -q -f qcow2 -o {options} q 100k"),
        );
        io("qcow2", "q", &["write -P 1 0 3k", "write -P 2 50k 700"]);
        if !options.contains("data_file") {
            tool("qemu-img", "snapshot -c first q");
        }
        io("qcow2", "q", &["write -P 3 1k 9k", "discard 2k 1k"]);
        if !options.contains("0.10") {
            io("qcow2", "q", &["write -z 5k 2k"]);
        }
        for flags in [0, 1, 3] {
            seeds.push([&[flags][..], &packed("q"), &packed("other")].concat());
        }
    }
    for (name, options) in [
        ("zlib", "qcow2 -c -o cluster_size=512"),
        ("zstd", "qcow2 -c -o cluster_size=4k,compression_type=zstd"),
        ("sparse", "vmdk"),
        ("stream", "vmdk -o subformat=streamOptimized"),
        ("flat.vmdk", "vmdk -o subformat=monolithicFlat"),
        ("split.vmdk", "vmdk -o subformat=twoGbMaxExtentSparse"),
    ] {
        tool(
            "qemu-img",
            &format!("convert -q -f raw other -O {options} {name}"),
        );
    }
    for name in ["zlib", "zstd", "sparse", "stream"] {
        seeds.push([&[0][..], &packed(name)].concat());
        seeds.push([&[4][..], &packed(name)].concat());
    }
    for (name, other) in [
        ("flat.vmdk", "flat-flat.vmdk"),
        ("split.vmdk", "split-s001.vmdk"),
    ] {
        seeds.push([&[1][..], &packed(name), &packed(other)].concat());
    }
    let descriptor = "<?xml version='1.0'?><Envelope><References><File id='f' href='stream'/>\
        <File id='g' href='gz' compression='gzip'/></References><DiskSection>\
        <Disk diskId='d' capacity='64' capacityAllocationUnits='byte * 2^10' fileRef='f'/>\
        <Disk diskId='e' capacity='65536' fileRef='g'/><Disk diskId='h' capacity='1'/>\
        </DiskSection></Envelope>";
    std::fs::write(dir.join("vm.ovf"), descriptor).expect("a file");
    tool("gzip", "-k other");
    std::fs::rename(dir.join("other.gz"), dir.join("gz")).expect("a file");
    let sums = ["vm.ovf", "stream", "gz"].map(|name| {
        let mut sum = Command::new("sha256sum");
        let sum = sum.current_dir(dir).arg(name).output().expect("coreutils");
        let sum = String::from_utf8(sum.stdout).expect("a digest");
        format!("SHA256({name})= {}\n", &sum[..64])
    });
    std::fs::write(dir.join("vm.mf"), sums.concat()).expect("a file");
    for format in ["ustar", "gnu", "posix"] {
        for order in ["vm.ovf vm.mf stream gz", "vm.ovf gz stream vm.mf"] {
            tool("tar", &format!("--format={format} -cf ova {order}"));
            seeds.push([&[64][..], &packed("ova")].concat());
        }
    }
    let text = "# Disk DescriptorFile\nRW 1 ZERO\nRW 3 FLAT \"a\" 2\nRW 1 FLAT \"a\"\n";
    seeds.push([&[1][..], &pack(text.as_bytes()), &packed("other")].concat());
    seeds
}
