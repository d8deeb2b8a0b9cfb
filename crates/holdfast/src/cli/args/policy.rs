//! What the command line says of scheduled snapshots.

use api_types::PolicyChange;
use clap::Args;

/// What can be chosen about scheduled snapshots.
#[derive(Clone, Debug, Args)]
pub(crate) struct PolicyOptions {
    /// Take snapshots by itself: @hourly, @daily, @weekly, @monthly, @yearly, '@every 15m', or cron's five fields, in the time
    /// zone of the daemon's host.
    #[arg(long, value_name = "SCHEDULE")]
    snapshots_schedule: Option<String>,
    /// Keep the newest of so many periods of each kind, and remove the others of those that were taken by themselves: last,
    /// hourly, daily, weekly, monthly, yearly, as hourly:24,daily:7. Default: keep all.
    #[arg(long, value_name = "RULES")]
    snapshots_keep: Option<String>,
    /// What they are called. Default: auto-%Y-%m-%dT%H:%M:%S.
    #[arg(long, value_name = "PATTERN")]
    snapshots_pattern: Option<String>,
    /// Take them at the same instant as those of all other volumes that have the same group and the same schedule.
    #[arg(long, value_name = "GROUP")]
    snapshots_group: Option<String>,
}

impl From<PolicyOptions> for PolicyChange {
    fn from(options: PolicyOptions) -> Self {
        PolicyChange {
            schedule: options.snapshots_schedule,
            keep: options.snapshots_keep,
            pattern: options.snapshots_pattern,
            group: options.snapshots_group,
        }
    }
}
