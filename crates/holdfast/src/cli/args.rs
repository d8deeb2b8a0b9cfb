//! The command line's grammar.

use super::snapshot_args::Snapshot;
pub(crate) use super::{
    file_args::{Backend, FileOptions},
    front_args::{Nbd, Vhost},
};

use clap::{Args, Parser, Subcommand, ValueEnum};
use std::{net::SocketAddr, path::PathBuf};
use types::{Codec, ImageFormat, Name, VolumeRef, size::parse_size};

/// Where the daemon's API listens unless told otherwise.
pub(crate) const DEFAULT_SOCKET: &str = "/run/holdfast/holdfast.sock";
/// Where the daemon's NBD server listens unless told otherwise.
pub(crate) const DEFAULT_NBD_SOCKET: &str = "/run/holdfast/nbd.sock";

const EXIT_CODES: &str = "Exit codes:
  0    done
  1    failed
  2    the command line is wrong
  3    there is no such thing
  4    refused: the name is taken, it is in use, or it must be allowed explicitly
  5    stored data is damaged
  6    the daemon cannot be reached
  7    no space left
  130  interrupted";

/// Virtual disks for virtual machines: thin, snapshotted and cloned in an instant, stored once, checked on every read.
#[derive(Debug, Parser)]
#[command(name = "holdfast", version, after_help = EXIT_CODES, max_term_width = 100)]
pub(crate) struct Cli {
    /// The daemon's API socket.
    #[arg(long, global = true, env = "HOLDFAST_SOCKET", default_value = DEFAULT_SOCKET, value_name = "PATH")]
    pub(crate) socket: PathBuf,
    /// Print JSON: the API's objects.
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Print nothing but errors and what was asked for.
    #[arg(long, short, global = true)]
    pub(crate) quiet: bool,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make a store in an empty or a new directory.
    #[command(after_help = "Example:\n  holdfast init /var/lib/holdfast --codec zstd")]
    Init(Init),
    /// Serve a store: the daemon, in the foreground.
    #[command(
        after_help = "Examples:\n  holdfast serve /var/lib/holdfast\n  holdfast serve ./store --socket ./api.sock --nbd-socket ./nbd.sock --nbd-listen 127.0.0.1:10809"
    )]
    Serve(Serve),
    /// Verify every root, frame and hash; exit code 5 if anything is damaged.
    #[command(
        after_help = "Examples:\n  holdfast check                     the store of the running daemon\n  holdfast check /var/lib/holdfast   a store that no daemon has open\n  holdfast check /var/lib/holdfast --repair --dry-run"
    )]
    Check(Check),
    /// Compare the files of volumes that are plain files with the catalog; exit code 5 for errors, not for warnings.
    #[command(
        after_help = "Prints type:code:object:message, a finding a line; type is ERROR or WARNING.\n\nExamples:\n  holdfast verify\n  holdfast verify --json"
    )]
    Verify,
    /// Verify all packs slowly in the background: start, stop, status.
    #[command(subcommand)]
    Scrub(Scrub),
    /// Virtual disks.
    #[command(subcommand, visible_alias = "vol")]
    Volume(Volume),
    /// Points in a volume's history.
    #[command(subcommand, visible_alias = "snap")]
    Snapshot(Snapshot),
    /// Show what changed from one state to another: of a volume, or of a clone and what it comes from.
    #[command(
        after_help = "Takes time in proportion to what changed. Extents are of whole blocks of 4 KiB and never miss a change;\na block that was written again with the same contents may be among them.\n\nExamples:\n  holdfast diff web@monday web@tuesday\n  holdfast diff web@monday web             up to now\n  holdfast diff debian@golden web1 --summary\n  holdfast diff web@monday web@tuesday --json | jq '.extents[] | select(.data)'"
    )]
    Diff {
        /// The earlier state: volume@snapshot, or volume.
        from: VolumeRef,
        /// The later state.
        to: VolumeRef,
        /// Only how much changed.
        #[arg(long)]
        summary: bool,
    },
    /// Removed volumes that can still be restored.
    #[command(subcommand)]
    Trash(Trash),
    /// The store: space, garbage, health.
    #[command(subcommand)]
    Store(Store),
    /// Long work.
    #[command(subcommand)]
    Job(Job),
    /// The NBD server.
    #[command(subcommand)]
    Nbd(Nbd),
    /// Serve volumes and snapshots to guests of this host through shared memory (vhost-user-blk).
    #[command(subcommand)]
    Vhost(Vhost),
    /// What happened in the store since the daemon started.
    #[command(
        after_help = "Examples:\n  holdfast events            the last thousand\n  holdfast events --follow   new ones, as they happen"
    )]
    Events {
        /// Show new ones as they happen, until interrupted.
        #[arg(long, short)]
        follow: bool,
    },
    /// Print a completion script for a shell.
    #[command(
        after_help = "Example:\n  holdfast completions bash > /etc/bash_completion.d/holdfast"
    )]
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Write the manual pages.
    #[command(after_help = "Example:\n  holdfast man /usr/local/share/man/man1")]
    Man {
        /// The directory that they go to.
        dir: PathBuf,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Init {
    /// The store's directory.
    pub(crate) dir: PathBuf,
    #[command(flatten)]
    pub(crate) properties: Properties,
    /// How long removed volumes stay in the trash: a number and s, m, h or d.
    #[arg(long, value_parser = parse_duration, default_value = "24h", value_name = "TIME")]
    pub(crate) trash_keep: u64,
}

const IMPORT: &str = "Formats: raw, qcow2 and vmdk. What an image is, its content says. From standard input: raw and
stream-optimized vmdk.

Nothing but the named files is opened, whatever an image refers to. An import that fails leaves no volume.

Examples:
  holdfast volume import debian.qcow2 debian --codec zstd
  holdfast volume import overlay.qcow2 web --backing base.qcow2
  zstdcat debian.raw.zst | holdfast volume import - debian";

/// What an image is, and what it is read with.
#[derive(Debug, Args)]
pub(crate) struct HowToImport {
    /// The volume's size, if larger than the image.
    #[arg(long, short, value_parser = parse_size)]
    pub(crate) size: Option<u64>,
    /// What the image is: raw, qcow2 or vmdk; without it, what its content says.
    #[arg(long, short, value_name = "FORMAT")]
    pub(crate) format: Option<ImageFormat>,
    /// The image behind it, if it is only a difference; again for the one behind that.
    #[arg(long, value_name = "FILE")]
    pub(crate) backing: Vec<PathBuf>,
    /// The file that a qcow2 image has its data in, if that is another.
    #[arg(long, value_name = "FILE")]
    pub(crate) data_file: Option<PathBuf>,
}

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

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

#[derive(Debug, Args)]
pub(crate) struct Serve {
    /// The store's directory.
    pub(crate) dir: PathBuf,
    /// The NBD server's unix socket.
    #[arg(long, env = "HOLDFAST_NBD_SOCKET", default_value = DEFAULT_NBD_SOCKET, value_name = "PATH")]
    pub(crate) nbd_socket: PathBuf,
    /// Serve NBD on this loopback address as well; may be repeated.
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub(crate) nbd_listen: Vec<SocketAddr>,
    /// Directory of the sockets of vhost-user-blk devices [default: vhost, beside the NBD server's socket].
    #[arg(long, env = "HOLDFAST_VHOST_DIR", value_name = "DIR")]
    pub(crate) vhost_dir: Option<PathBuf>,
    /// The configuration file; every entry has a default.
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// How the log is written, to stderr.
    #[arg(long, value_enum, default_value = "text")]
    pub(crate) log_format: LogFormat,
    /// What is logged: error, warn, info, debug, trace, or tracing's filter syntax.
    #[arg(
        long,
        env = "HOLDFAST_LOG",
        default_value = "info",
        value_name = "FILTER"
    )]
    pub(crate) log: String,
}

#[derive(Debug, Args)]
pub(crate) struct Check {
    /// A store that no daemon has open; without it, the running daemon's.
    pub(crate) dir: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) how: HowToCheck,
}

/// How thorough a check is, and what it may change.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct HowToCheck {
    /// Checksums only: do not decompress and hash every block.
    #[arg(long)]
    pub(crate) quick: bool,
    /// Restore what can be restored; lost blocks stay errors. A damaged journal and catalog need a closed store.
    #[arg(long)]
    pub(crate) repair: bool,
    /// Only show what a repair would do.
    #[arg(long, requires = "repair")]
    pub(crate) dry_run: bool,
}

impl From<HowToCheck> for api_types::CheckRequest {
    fn from(how: HowToCheck) -> Self {
        api_types::CheckRequest {
            quick: how.quick,
            repair: how.repair,
            dry_run: how.dry_run,
        }
    }
}

#[derive(Clone, Copy, Debug, Subcommand)]
pub(crate) enum Scrub {
    /// Begin a round, or go on with the one that was stopped.
    #[command(after_help = "Example:\n  holdfast scrub start --wait")]
    Start {
        /// Until it has ended; exit code 5 if it found damage.
        #[arg(long)]
        wait: bool,
    },
    /// Stop the round that is under way; the next goes on from there.
    #[command(after_help = "Example:\n  holdfast scrub stop")]
    Stop,
    /// Show how it stands and what it found.
    #[command(after_help = "Example:\n  holdfast scrub status --json")]
    Status,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Volume {
    /// Make an empty volume: thin, in no time, of any size from 1 MiB to 64 TiB.
    #[command(
        after_help = "Examples:\n  holdfast volume create web 20G\n  holdfast volume create web --size 20G --codec zstd\n  holdfast volume create web --size 20G --backend file             a plain file: file-storage/web/disk0 in the store\n  holdfast volume create web.disk1 --size 5G --backend file:fast --file-format qcow2\n  holdfast volume create old --backend file:/srv/images --reuse    the file that is there: /srv/images/old/disk0"
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
        after_help = "Example:\n  holdfast volume set web codec=zstd dedup=off read-only=on\n  holdfast volume set web quota=10G"
    )]
    Set {
        /// Its name.
        name: Name,
        /// codec=none|lz4|zstd, dedup=on|off, read-only=on|off, quota=SIZE|none.
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
    /// Make a volume from an image: a file, a block device, or - for standard input.
    #[command(after_help = IMPORT)]
    Import {
        /// The image, or -.
        image: PathBuf,
        /// The volume's name.
        name: Name,
        #[command(flatten)]
        how: HowToImport,
        #[command(flatten)]
        properties: Properties,
    },
    /// Write a volume or snapshot as a raw image: to a sparse file, a block device, or - for standard output.
    #[command(
        after_help = "Examples:\n  holdfast volume export web@daily web.raw\n  holdfast volume export web - | zstd > web.raw.zst"
    )]
    Export {
        /// volume or volume@snapshot.
        source: VolumeRef,
        /// The file, or -.
        image: PathBuf,
        /// Replace a file that exists.
        #[arg(long)]
        force: bool,
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

#[derive(Debug, Subcommand)]
pub(crate) enum Trash {
    /// List it.
    #[command(visible_alias = "list", after_help = "Example:\n  holdfast trash ls")]
    Ls,
    /// Bring a volume back.
    #[command(
        after_help = "Examples:\n  holdfast trash restore web\n  holdfast trash restore 17 --name web-old"
    )]
    Restore {
        /// Its number, or its name if only one of that name is there.
        entry: String,
        /// A new name.
        #[arg(long)]
        name: Option<Name>,
    },
    /// Remove one for good.
    #[command(after_help = "Example:\n  holdfast trash rm 17")]
    Rm {
        /// Its number, or its name if only one of that name is there.
        entry: String,
    },
    /// Remove all for good.
    #[command(after_help = "Example:\n  holdfast trash empty")]
    Empty,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Store {
    /// Show the store and its budgets.
    #[command(after_help = "Example:\n  holdfast store info")]
    Info,
    /// Show what it holds and takes.
    #[command(after_help = "Example:\n  holdfast store df")]
    Df,
    /// Give back what nothing refers to.
    #[command(
        after_help = "Examples:\n  holdfast store collect --dry-run\n  holdfast store collect"
    )]
    Collect {
        /// Only show what would be done.
        #[arg(long)]
        dry_run: bool,
    },
    /// Verify it; as `holdfast check`.
    #[command(after_help = "Example:\n  holdfast store check --quick")]
    Check(HowToCheck),
}

#[derive(Debug, Subcommand)]
pub(crate) enum Job {
    /// List jobs, the newest last.
    #[command(visible_alias = "list", after_help = "Example:\n  holdfast job ls")]
    Ls,
    /// Show one.
    #[command(after_help = "Example:\n  holdfast job info 3")]
    Info {
        /// Its number.
        id: u64,
    },
    /// Wait for its end; exit code as of the command that began it.
    #[command(after_help = "Example:\n  holdfast job wait 3")]
    Wait {
        /// Its number.
        id: u64,
    },
    /// End it.
    #[command(after_help = "Example:\n  holdfast job cancel 3")]
    Cancel {
        /// Its number.
        id: u64,
    },
}

/// Seconds from a number and `s`, `m`, `h` or `d`.
fn parse_duration(text: &str) -> Result<u64, String> {
    let wrong = || format!("'{text}' is not a time: write a number and s, m, h or d, as in 24h");
    let (number, unit) = text.split_at(text.len() - text.chars().last().map_or(0, char::len_utf8));
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return Err(wrong()),
    };
    let number: u64 = number.parse().map_err(|_| wrong())?;
    number.checked_mul(seconds).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_grammar_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_has_an_example() {
        fn walk(command: &clap::Command, path: &str) {
            let path = format!("{path} {}", command.get_name());
            for child in command.get_subcommands() {
                walk(child, &path);
            }
            let help = command.get_after_help().map(ToString::to_string);
            if command.get_subcommands().next().is_none() {
                assert!(
                    help.is_some_and(|text| text.contains("holdfast ")),
                    "{path}"
                );
            }
        }
        walk(&Cli::command(), "");
    }

    #[test]
    fn times_have_units() {
        assert_eq!(parse_duration("24h"), Ok(86_400));
        assert_eq!(parse_duration("0s"), Ok(0));
        for bad in ["", "h", "24", "24 h", "é", "999999999999999999d"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }

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
