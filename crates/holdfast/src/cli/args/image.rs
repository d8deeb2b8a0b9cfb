//! What images are, and how they are to be: of `holdfast volume import` and `export`.

use clap::Args;
use std::path::PathBuf;
use types::{Compression, ImageFormat, Subformat, VolumeRef, size::parse_size};

pub(super) const IMPORT: &str = "Formats: raw, qcow2, vmdk and ova; vhdx, vhd (vpc) and vdi through qemu-nbd, which has to be installed
(package qemu-utils, on some systems qemu-img). What an image is, its content says. From standard input: raw,
stream-optimized vmdk, and ova.

An NBD export is read as the raw disk that its server makes of it: nbd://HOST[:PORT]/EXPORT, or
nbd+unix:///EXPORT?socket=PATH.

Of an OVA each disk becomes a volume: NAME, or NAME-1, NAME-2 and so on. Its digests (manifest) are verified; who signed
it (certificate) is not.

Nothing but the named files is opened, whatever an image refers to. An import that fails leaves no volume.

Examples:
  holdfast volume import debian.qcow2 debian --codec zstd
  holdfast volume import overlay.qcow2 web --backing base.qcow2
  holdfast volume import lab.qcow2 lab --snapshots
  holdfast volume import big.vmdk web --live     start the machine now; 'volume info web' says how far it is,
                                                 'volume pause-import web' has it wait, 'volume rm web' gives it
                                                 up, and leaves the image as it is
  holdfast volume import nbd://old-host/web web
  zstdcat debian.raw.zst | holdfast volume import - debian
  holdfast volume import appliance.ova app
  curl -s https://images.example/appliance.ova | holdfast volume import - app --disk 1";

pub(super) const EXPORT: &str = "All formats but raw are written by qemu-img, which has to be installed (package qemu-utils, on some systems
qemu-img). The file appears when it is complete; holes are kept.

Subformats of vmdk: monolithicSparse (one thin file; the usual one), monolithicFlat, twoGbMaxExtentSparse,
twoGbMaxExtentFlat (a descriptor and files beside it), streamOptimized (compressed, for appliances). Of vhdx, vhd and
vdi: dynamic (the usual one), fixed (as Azure wants its vhd).

An OVA has several disks as those of one machine, called as the file is, with one processor and 1 GiB of memory, which
whoever imports it may change: VirtualBox, VMware and holdfast do. Volumes are in it as all of them are at one instant.

Clones can be small images over the one of what they come from. Export that once, as a snapshot, raw or qcow2; then each
clone with --backing-of. FILE must be there, and have the snapshot's size; that it is an image of that snapshot and not of
another is for you to know. The new image names FILE as seen from its own directory: keep both as they lie to each other,
and never write to FILE.

Examples:
  holdfast volume export web@daily web.raw
  holdfast volume export debian@golden base.qcow2 --format qcow2
  holdfast volume export web1 web1.qcow2 --backing-of debian@golden=base.qcow2
  holdfast volume export web web.qcow2 --format qcow2 --compress=zstd
  holdfast volume export web web.vmdk --format vmdk --subformat streamOptimized
  holdfast volume export web web.disk1 web.ova --format ova
  holdfast volume export web - | zstd > web.raw.zst";

/// What an exported image is to be.
#[derive(Debug, Args)]
pub(crate) struct HowToExport {
    /// raw, qcow2, vmdk, vhdx, vhd, vdi or ova; without it, raw, or qcow2 with --backing-of.
    #[arg(long, short, value_name = "FORMAT")]
    pub(crate) format: Option<ImageFormat>,
    /// Compress a qcow2 image: zlib, or zstd, which is better and needs QEMU 5.1 or later.
    #[arg(long, value_name = "METHOD", num_args = 0..=1, require_equals = true, default_missing_value = "zlib")]
    pub(crate) compress: Option<Compression>,
    /// Only what differs from SNAPSHOT, as a qcow2 image that has FILE behind it: an image of SNAPSHOT, exported before.
    #[arg(long, value_name = "SNAPSHOT=FILE", value_parser = backing_of)]
    pub(crate) backing_of: Option<BackingOf>,
    /// The kind of a vmdk, vhdx, vhd or vdi image; see below.
    #[arg(long, value_name = "NAME")]
    pub(crate) subformat: Option<Subformat>,
    /// Replace a file that exists.
    #[arg(long)]
    pub(crate) force: bool,
}

/// A snapshot, and an image of it.
#[derive(Clone, Debug)]
pub(crate) struct BackingOf {
    pub(crate) snapshot: VolumeRef,
    pub(crate) file: PathBuf,
}

fn backing_of(text: &str) -> Result<BackingOf, String> {
    let wanted = "write SNAPSHOT=FILE, as in debian@golden=base.qcow2";
    let (snapshot, file) = text.split_once('=').ok_or(wanted)?;
    let snapshot: VolumeRef = snapshot
        .parse()
        .map_err(|e: types::NameError| e.to_string())?;
    if snapshot.snapshot.is_none() {
        return Err(format!(
            "'{snapshot}' may have changed since it was exported; name the snapshot: {snapshot}@SNAPSHOT=FILE"
        ));
    }
    if file.is_empty() {
        return Err(wanted.to_owned());
    }
    Ok(BackingOf {
        snapshot,
        file: file.into(),
    })
}

/// What an image is, and what it is read with.
#[derive(Debug, Args)]
pub(crate) struct HowToImport {
    /// The volume's size, if larger than the image.
    #[arg(long, short, value_parser = parse_size)]
    pub(crate) size: Option<u64>,
    /// What the image is: raw, qcow2, vmdk, vhdx, vhd, vdi or ova; without it, what its content says.
    #[arg(long, short, value_name = "FORMAT")]
    pub(crate) format: Option<ImageFormat>,
    /// The image behind it, if it is only a difference; again for the one behind that.
    #[arg(long, value_name = "FILE")]
    pub(crate) backing: Vec<PathBuf>,
    /// The file that a qcow2 image has its data in, if that is another.
    #[arg(long, value_name = "FILE")]
    pub(crate) data_file: Option<PathBuf>,
    /// Use the volume at once: what is not in the store yet is read from the image, which is only read and must stay as it is
    /// until the volume is filled.
    #[arg(long)]
    pub(crate) live: bool,
    /// Import the snapshots that a qcow2 image has in it, too: as snapshots of the volume, each stored as what differs.
    #[arg(long, conflicts_with = "live")]
    pub(crate) snapshots: bool,
    /// Of an OVA only this disk, counted from 1; without it all of them, called NAME-1, NAME-2 and so on if there are several.
    #[arg(long, value_name = "N", conflicts_with = "live")]
    pub(crate) disk: Option<usize>,
}
