//! `holdfast store …`, `check`, `scrub`, `trash` and `job`.

use clap::{Args, Subcommand};
use std::path::PathBuf;
use types::Name;

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
