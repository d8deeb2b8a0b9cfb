//! Images of one family brought in: time and bytes.

use super::{
    bed::Bed,
    figures::{Outcome, Side},
    images, machine,
};
use anyhow::{Context, Result};
use e2e::{
    cleanup::Scratch,
    process::{command, run as finish},
    stopwatch::Stopwatch,
    tools,
};
use std::{path::PathBuf, time::Duration};

const LIMIT: Duration = Duration::from_secs(300);

/// Speed against `qemu-img convert -c`, bytes stored, and the time of the changed copy alone.
pub(crate) fn run(bed: &mut Bed) -> Result<Vec<Outcome>> {
    bed.clear();
    anyhow::ensure!(
        tools::have("qemu-img"),
        "qemu-img is not installed (apt-get install qemu-utils)"
    );
    let images = images::ensure(&|line| println!("   {line}"))?;
    for image in &images {
        // Once through the page cache: what reading the source takes is the same for both.
        finish(
            "cat",
            command("sh")
                .args(["-c", r#"cat "$0" > /dev/null"#])
                .arg(image),
            LIMIT,
        )?;
    }
    let mut ours = Side::new("holdfast", Vec::new());
    let mut theirs = Side::new("qemu-img convert -c, zstd", Vec::new());
    let (mut megabytes, mut copy) = (Vec::new(), Vec::new());
    for _ in 0..bed.rounds {
        let (seconds, last, stored) = import(bed, &images)?;
        ours.figures.push(1.0 / seconds);
        copy.push(last);
        megabytes.push(stored);
        let (seconds_theirs, stored_theirs) = convert(bed, &images)?;
        theirs.figures.push(1.0 / seconds_theirs);
        println!(
            "   {seconds:.2} s (the copy {last:.2} s), {stored:.0} MB; qemu-img {seconds_theirs:.2} s, {stored_theirs:.0} MB"
        );
    }
    Ok(vec![
        Outcome::ratio("of all four a second", vec![ours, theirs], false).context("no rounds")?,
        Outcome::alone("MB", megabytes),
        Outcome::alone("s", copy),
    ])
}

/// Into a new store; seconds of all, of the last, and MB stored.
fn import(bed: &Bed, images: &[PathBuf]) -> Result<(f64, f64, f64)> {
    let daemon = bed.daemon(&[])?;
    machine::settle(bed.directory())?;
    let watch = Stopwatch::start();
    let mut last = 0.0;
    for (index, image) in images.iter().enumerate() {
        let one = Stopwatch::start();
        let path = image.to_str().context("a path that is no text")?;
        daemon.ok(&[
            "volume",
            "import",
            path,
            &format!("image{index}"),
            "--codec",
            "zstd",
        ])?;
        last = one.elapsed().as_secs_f64();
    }
    machine::settle(bed.directory())?;
    let seconds = watch.elapsed().as_secs_f64();
    Ok((seconds, last, megabytes(&daemon.store().join("brick"))?))
}

/// With qemu-img; seconds and MB stored.
fn convert(bed: &Bed, images: &[PathBuf]) -> Result<(f64, f64)> {
    let scratch = Scratch::new(bed.directory().join("convert"))?;
    machine::settle(bed.directory())?;
    let watch = Stopwatch::start();
    for (index, image) in images.iter().enumerate() {
        let mut convert = command("qemu-img");
        convert.args([
            "convert",
            "-c",
            "-f",
            "raw",
            "-O",
            "qcow2",
            "-o",
            "compression_type=zstd",
        ]);
        convert
            .arg(image)
            .arg(scratch.path().join(format!("{index}.qcow2")));
        finish("qemu-img", &mut convert, LIMIT)?;
    }
    machine::settle(bed.directory())?;
    Ok((watch.elapsed().as_secs_f64(), megabytes(scratch.path())?))
}

fn megabytes(dir: &std::path::Path) -> Result<f64> {
    let text = machine::text("du", &["-s", "-B1", &dir.display().to_string()])?;
    let bytes = text
        .split_whitespace()
        .next()
        .and_then(|bytes| bytes.parse::<f64>().ok());
    Ok(bytes.context("reading what du printed")? / 1e6)
}
