//! `holdfast volume …`.

use super::{
    Backend, FileOptions, HowToExport, HowToImport, PolicyOptions,
    image::{EXPORT, IMPORT},
};
use clap::{Args, Subcommand};
use std::path::PathBuf;
use types::{Codec, Name, VolumeRef, size::parse_size};

/// What can be chosen for volumes.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct Properties {
    /// How new blocks are compressed: none, lz4 or zstd.
    #[arg(long, value_name = "CODEC")]
    pub(crate) codec: Option<Codec>,
    /// Look for blocks that the store has already.
    #[arg(long, overrides_with = "no_dedup")]
    pub(crate) dedup: bool,
    /// Do not.
    #[arg(long)]
    pub(crate) no_dedup: bool,
}

impl Properties {
    /// What was said about deduplication, if anything.
    pub(crate) fn dedup(self) -> Option<bool> {
        (self.dedup || self.no_dedup).then_some(self.dedup && !self.no_dedup)
    }
}

/// What becomes of what was written to an undoable volume.
#[derive(Clone, Copy, Debug, Args)]
#[group(multiple = false)]
pub(crate) struct Decision {
    /// Keep what was written to an undoable volume.
    #[arg(long)]
    commit: bool,
    /// Discard it.
    #[arg(long)]
    discard: bool,
    /// Decide later; this is what happens if nothing is said.
    #[arg(long)]
    keep: bool,
}

impl Decision {
    /// What was said, if anything.
    pub(crate) fn said(self) -> Option<api_types::Decision> {
        use api_types::Decision::{Commit, Discard, Keep};
        let all = [
            (self.commit, Commit),
            (self.discard, Discard),
            (self.keep, Keep),
        ];
        all.into_iter()
            .find(|(said, _)| *said)
            .map(|(_, decision)| decision)
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum Volume {
    /// Make an empty volume: thin, in no time, of any size from 1 MiB to 64 TiB.
    #[command(
        after_help = "Examples:\n  holdfast volume create web 20G\n  holdfast volume create web --size 20G --codec zstd\n  holdfast volume create web 20G --snapshots-schedule @daily --snapshots-keep daily:7,weekly:4\n  holdfast volume create web --size 20G --backend file             a plain file: file-storage/web/disk0 in the store\n  holdfast volume create web.disk1 --size 5G --backend file:fast --file-format qcow2\n  holdfast volume create old --backend file:/srv/images --reuse    the file that is there: /srv/images/old/disk0"
    )]
    Create {
        /// Its name.
        name: Name,
        /// Its size, with an optional suffix K, M, G, T.
        #[arg(value_parser = parse_size, value_name = "SIZE", required_unless_present_any = ["size", "reuse"])]
        size_: Option<u64>,
        /// The same, as rbd has it.
        #[arg(long, short, value_parser = parse_size, conflicts_with = "size_")]
        size: Option<u64>,
        #[command(flatten)]
        properties: Properties,
        /// Refuse writes.
        #[arg(long)]
        read_only: bool,
        /// The most that it may hold, whatever its size: writes beyond get "no space".
        #[arg(long, value_parser = parse_size, value_name = "SIZE")]
        quota: Option<u64>,
        #[command(flatten)]
        policy: PolicyOptions,
        /// Where its data are: store, file, or file:DIRECTORY. The file is DIRECTORY/INSTANCE/DISK: NAME/disk0, or of a name
        /// like web.disk1 web/disk1.
        #[arg(long, default_value = "store", value_name = "BACKEND")]
        backend: Backend,
        #[command(flatten)]
        file: FileOptions,
        /// Take the file that is there, as it is; do not make one.
        #[arg(long)]
        reuse: bool,
    },
    /// Move a volume's data into a plain file, or into the store, while no client has it open.
    #[command(
        after_help = "The new copy is complete before it takes the old one's place. What was in the store goes to the trash; the file is removed.\n\nExamples:\n  holdfast volume convert web --backend file --file-format qcow2\n  holdfast volume convert web --backend store --keep"
    )]
    Convert {
        /// Its name.
        name: Name,
        /// Where its data are to be: store, file, or file:DIRECTORY.
        #[arg(long, value_name = "BACKEND")]
        backend: Backend,
        #[command(flatten)]
        file: FileOptions,
        /// Leave the file when the volume goes into the store.
        #[arg(long)]
        keep: bool,
    },
    /// Make a volume of an image file, which moves to DIRECTORY/INSTANCE/DISK.
    #[command(
        after_help = "Example:\n  holdfast volume adopt web /srv/images/web.qcow2 --backend file:/srv/images"
    )]
    Adopt {
        /// The volume's name.
        name: Name,
        /// The file: in a directory that is allowed, or relative to the store's own for image files.
        image: String,
        /// Where it goes: file, or file:DIRECTORY, on the same file system.
        #[arg(long, default_value = "file", value_name = "BACKEND")]
        backend: Backend,
        #[command(flatten)]
        file: FileOptions,
    },
    /// Give a volume's file away: it moves, and the volume is forgotten.
    #[command(
        after_help = "Examples:\n  holdfast volume release web                       to NAME.FORMAT in its directory for image files\n  holdfast volume release web /srv/images/web.raw"
    )]
    Release {
        /// Its name.
        name: Name,
        /// Where the file goes: in a directory that is allowed, on the same file system.
        image: Option<String>,
    },
    /// List volumes.
    #[command(
        visible_alias = "list",
        after_help = "Examples:\n  holdfast volume ls\n  holdfast volume ls --json"
    )]
    Ls,
    /// Show a volume.
    #[command(
        after_help = "Examples:\n  holdfast volume info web\n  holdfast volume info web --json"
    )]
    Info {
        /// Its name.
        name: Name,
    },
    /// Move a volume and its snapshots to the trash. One that is a plain file is removed at once, with the file.
    #[command(
        visible_alias = "remove",
        after_help = "Examples:\n  holdfast volume rm web\n  holdfast volume rm web --force\n  holdfast volume rm web --keep"
    )]
    Rm {
        /// Its name.
        name: Name,
        /// Also while clients have it open: they are cut off.
        #[arg(long)]
        force: bool,
        /// Leave its file, if it is a plain file.
        #[arg(long)]
        keep: bool,
    },
    /// Give a volume another size; clients see it when they reconnect.
    #[command(
        after_help = "Examples:\n  holdfast volume resize web 40G\n  holdfast volume resize web +10G\n  holdfast volume resize web 5G --allow-data-loss"
    )]
    Resize {
        /// Its name.
        name: Name,
        /// The new size, or +SIZE to grow by so much.
        size: String,
        /// Allow it to shrink: what lies beyond is lost.
        #[arg(long)]
        allow_data_loss: bool,
    },
    /// Give a volume another name.
    #[command(
        visible_alias = "mv",
        after_help = "Example:\n  holdfast volume rename web www"
    )]
    Rename {
        /// Its name.
        old: Name,
        /// Its new name.
        new: Name,
    },
    /// Change properties, for what is written from now on.
    #[command(
        after_help = "Examples:\n  holdfast volume set web codec=zstd dedup=off read-only=on\n  holdfast volume set web quota=10G\n  holdfast volume set web iops=5000 write-bps=100M\n  holdfast volume set web iops-burst=20000 iops-burst-seconds=60\n  holdfast volume set web iops=none\n  holdfast volume set kiosk mode=nonpersistent\n  holdfast volume set scratch independent=on\n  holdfast volume set web snapshots.schedule=@hourly snapshots.keep=hourly:24,daily:7,weekly:4\n  holdfast volume set web snapshots.schedule='30 2 * * *' snapshots.pattern=night-%F\n  holdfast volume set db-log snapshots.schedule=@hourly snapshots.group=db\n  holdfast volume set web snapshots.schedule=\n\nModes: what a machine writes stays (persistent), vanishes when it is powered off (nonpersistent), or waits for 'volume commit'\nor 'volume discard' (undoable). A mode is changed by itself, while no client has the volume open.\nIndependent volumes are left out of snapshots of several volumes.\n\nA schedule takes snapshots by itself, in the time zone of the daemon's host; what was missed is made up for once. Of these, and of no\nothers, those are removed that snapshots.keep does not name, unless they are in use. An empty value ends it; what is there stays. Snapshots of\nvolumes that have the same snapshots.group and the same schedule are taken at one instant, of all of them or of none."
    )]
    Set {
        /// Its name.
        name: Name,
        /// codec=none|lz4|zstd, dedup=on|off, read-only=on|off, quota=SIZE|none, mode=persistent|nonpersistent|undoable,
        /// independent=on|off; snapshots.schedule=@hourly|@daily|@weekly|@monthly|@yearly|'@every NUMBER(s|m|h|d)'|'CRON',
        /// snapshots.keep=RULES (last, hourly, daily, weekly, monthly, yearly, as daily:7,weekly:4), snapshots.pattern=PATTERN
        /// (strftime's %Y %m %d %H %M %S %F %T and others), snapshots.group=NAME, empty: none; limits, in force at once:
        /// iops, read-iops, write-iops=NUMBER|none, bps, read-bps, write-bps=SIZE|none, each a second; each with
        /// -burst=NUMBER|SIZE|none and -burst-seconds=NUMBER, what it may exceed it by, and for how long.
        #[arg(required = true, value_name = "KEY=VALUE")]
        properties: Vec<String>,
    },
    /// Make a volume that begins as a snapshot, or as a volume is now.
    #[command(
        after_help = "Examples:\n  holdfast volume clone debian@golden web1\n  holdfast volume clone web1 web1-test --size 40G"
    )]
    Clone {
        /// volume@snapshot, or volume.
        source: VolumeRef,
        /// The new volume's name.
        name: Name,
        /// Its size, if larger.
        #[arg(long, short, value_parser = parse_size)]
        size: Option<u64>,
    },
    /// Set a volume back to a snapshot, in place. What was written since is lost.
    #[command(after_help = "Example:\n  holdfast volume rollback web@before-upgrade")]
    Rollback {
        /// volume@snapshot.
        snapshot: VolumeRef,
    },
    /// Say that the machine which has a volume is powered off: what it wrote vanishes if it is nonpersistent.
    #[command(
        after_help = "For hooks that run when a machine has ended; without them, a machine counts as powered off when nobody came back for\nthe grace time of the configuration. A persistent volume stays as it is.\n\nExamples:\n  holdfast volume poweroff kiosk\n  holdfast volume poweroff lab --discard"
    )]
    Poweroff {
        /// Its name.
        name: Name,
        #[command(flatten)]
        decision: Decision,
    },
    /// Keep what was written to a volume that is undoable or nonpersistent; clients go on.
    #[command(after_help = "Example:\n  holdfast volume commit lab")]
    Commit {
        /// Its name.
        name: Name,
    },
    /// Discard what was written to a volume that is undoable or nonpersistent, while no client has it open.
    #[command(after_help = "Example:\n  holdfast volume discard lab")]
    Discard {
        /// Its name.
        name: Name,
    },
    /// Make a volume from an image: a file, a block device, an NBD export, or - for standard input.
    #[command(after_help = IMPORT)]
    Import {
        /// The image, an NBD URI, or -.
        image: PathBuf,
        /// The volume's name.
        name: Name,
        #[command(flatten)]
        how: HowToImport,
        #[command(flatten)]
        properties: Properties,
    },
    /// Have an import that goes on behind a volume in use (import --live) wait: until it is resumed nothing more is brought into
    /// the store, over restarts too.
    #[command(
        after_help = "The volume is used as before; what it does not have yet is read from the image, which must stay as it is.\n\nExample:\n  holdfast volume pause-import web"
    )]
    PauseImport {
        /// Its name.
        name: Name,
    },
    /// Have it go on.
    #[command(after_help = "Example:\n  holdfast volume resume-import web")]
    ResumeImport {
        /// Its name.
        name: Name,
    },
    /// Write a volume or snapshot as an image: to a file, or raw to a block device, or - for standard output.
    #[command(after_help = EXPORT)]
    Export {
        /// volume or volume@snapshot; for an OVA all disks of the machine, in order.
        #[arg(required = true, value_name = "SOURCE")]
        sources: Vec<VolumeRef>,
        /// The file, or -.
        image: PathBuf,
        #[command(flatten)]
        how: HowToExport,
    },
    /// What volumes and snapshots take, and what removing them would free.
    #[command(after_help = "Examples:\n  holdfast volume du\n  holdfast volume du web web@daily")]
    Du {
        /// volume or volume@snapshot; all volumes if none is given.
        names: Vec<VolumeRef>,
    },
    /// Print the exact lines for QEMU, libvirt, fio and nbdinfo.
    #[command(
        after_help = "Examples:\n  holdfast volume connect web\n  holdfast volume connect web@daily"
    )]
    Connect {
        /// volume or volume@snapshot.
        name: VolumeRef,
    },
}

#[cfg(test)]
mod tests {
    use super::super::{Cli, Command, Volume};
    use clap::Parser;

    #[test]
    fn the_last_word_on_deduplication_counts() {
        let dedup = |args: &[&str]| {
            let words = ["holdfast", "volume", "create", "v", "--size", "1G"];
            let cli = Cli::parse_from(words.iter().chain(args));
            let Command::Volume(Volume::Create { properties, .. }) = cli.command else {
                panic!()
            };
            properties.dedup()
        };
        assert_eq!(dedup(&[]), None);
        assert_eq!(dedup(&["--dedup"]), Some(true));
        assert_eq!(dedup(&["--no-dedup"]), Some(false));
    }
}
