//! The command line's grammar, a file for each noun.

mod file;
mod front;
mod image;
mod policy;
mod snapshot;
mod store;
mod volume;

pub(crate) use file::{Backend, FileOptions};
pub(crate) use front::{Nbd, Vhost};
pub(crate) use image::{BackingOf, HowToExport, HowToImport};
pub(crate) use policy::PolicyOptions;
pub(crate) use snapshot::Snapshot;
pub(crate) use store::{Check, HowToCheck, Job, Scrub, Store, Trash};
pub(crate) use volume::{Decision, Properties, Volume};

use clap::{Args, Parser, Subcommand, ValueEnum};
use std::{net::SocketAddr, path::PathBuf};
use types::VolumeRef;

/// Where the daemon's API listens unless told otherwise.
pub(crate) const DEFAULT_SOCKET: &str = "/run/holdfast/api.sock";
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

    /// Who installs the units need not say where the sockets are.
    #[test]
    fn sockets_are_where_the_units_have_them() {
        const API: &str = include_str!("../../../../../contrib/systemd/holdfast.socket");
        const NBD: &str = include_str!("../../../../../contrib/systemd/holdfast-nbd.socket");
        for (unit, path) in [(API, DEFAULT_SOCKET), (NBD, DEFAULT_NBD_SOCKET)] {
            let line = format!("ListenStream={path}");
            assert!(unit.lines().any(|found| found == line), "{line}");
        }
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
}
