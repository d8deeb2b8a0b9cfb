//! The grammar of what is about front ends: `holdfast nbd …`, `holdfast vhost …`.

use clap::Subcommand;
use types::VolumeRef;

/// What can be asked of the NBD server.
#[derive(Debug, Subcommand)]
pub(crate) enum Nbd {
    /// Show where it listens and who is connected.
    #[command(after_help = "Example:\n  holdfast nbd status")]
    Status,
}

/// What is done about vhost-user-blk devices.
#[derive(Debug, Subcommand)]
pub(crate) enum Vhost {
    /// Serve a volume or a snapshot, from now on and after every start of the daemon.
    #[command(
        after_help = "Examples:\n  holdfast vhost on web\n  holdfast vhost on web --queues 8\n  holdfast vhost on web@daily\n  holdfast volume connect web     prints QEMU's and libvirt's lines"
    )]
    On {
        /// volume or volume@snapshot.
        name: VolumeRef,
        /// Queues that the guest may have, 1 to 256: as many as it has processors is best [default: vhost.queues].
        #[arg(long, short = 'n', value_parser = clap::value_parser!(u16).range(1..=256))]
        queues: Option<u16>,
    },
    /// Serve it no more.
    #[command(after_help = "Examples:\n  holdfast vhost off web\n  holdfast vhost off web --force")]
    Off {
        /// volume or volume@snapshot.
        name: VolumeRef,
        /// Also while a guest is connected: it is cut off, and its disk does not answer any more.
        #[arg(long)]
        force: bool,
    },
    /// Show what is served, where, and to whom.
    #[command(after_help = "Examples:\n  holdfast vhost status\n  holdfast vhost status --json")]
    Status,
}
