//! The grammar of `holdfast snapshot …`.

use clap::Subcommand;
use types::{Name, VolumeRef};

#[derive(Debug, Subcommand)]
pub(crate) enum Snapshot {
    /// Take a snapshot, or several at one instant; writers are not held up.
    #[command(
        after_help = "Examples:\n  holdfast snapshot create web@before-upgrade\n  holdfast snapshot create --group db-data db-log web@nightly    all three at one instant, or none"
    )]
    Create {
        /// volume@snapshot. In a group the name need be given once.
        #[arg(required = true, value_name = "SNAPSHOT")]
        snapshots: Vec<VolumeRef>,
        /// All at one instant, crash-consistent across the volumes: all of them, or none.
        #[arg(long)]
        group: bool,
    },
    /// List a volume's snapshots, oldest first.
    #[command(
        visible_alias = "list",
        after_help = "Example:\n  holdfast snapshot ls web"
    )]
    Ls {
        /// The volume.
        volume: Name,
    },
    /// Remove snapshots, any, in any order.
    #[command(
        visible_alias = "remove",
        after_help = "Example:\n  holdfast snapshot rm web@monday web@tuesday"
    )]
    Rm {
        /// volume@snapshot.
        #[arg(required = true)]
        snapshots: Vec<VolumeRef>,
    },
    /// Set the volume back, in place. What was written since is lost; later snapshots stay.
    #[command(
        after_help = "Examples:\n  holdfast snapshot rollback web@before-upgrade\n  holdfast snapshot rollback --group db-data db-log web@nightly"
    )]
    Rollback {
        /// volume@snapshot. In a group the name need be given once.
        #[arg(required = true, value_name = "SNAPSHOT")]
        snapshots: Vec<VolumeRef>,
        /// Several that were taken at one instant: all of them, or none.
        #[arg(long)]
        group: bool,
    },
    /// Make a volume that begins as this snapshot.
    #[command(
        after_help = "Examples:\n  holdfast snapshot clone debian@golden web1\n  holdfast snapshot clone --group --prefix test- db-data db-log web@nightly    makes test-db-data, test-db-log, test-web"
    )]
    Clone {
        /// volume@snapshot, and the new volume's name. In a group the snapshots alone, whose name need be given once.
        #[arg(required = true, value_name = "SNAPSHOT NAME")]
        names: Vec<VolumeRef>,
        /// Several: all of them, or none.
        #[arg(long, requires = "prefix")]
        group: bool,
        /// What the names of the new volumes have before those of the old.
        #[arg(long, requires = "group")]
        prefix: Option<String>,
    },
}
