//! The figures at the end of the demo.

use anyhow::{Context, Result};
use e2e::daemon::Daemon;
use serde::Deserialize;
use std::time::Duration;

/// What `holdfast store df --json` says, as far as it is shown.
#[derive(Deserialize)]
struct Usage {
    stored: u64,
    provisioned: u64,
    used: u64,
    dedup_ratio: f64,
    compression_ratio: f64,
}

/// What is shown.
pub(super) struct Figures {
    usage: Usage,
    import: Duration,
    snapshot: Duration,
    rollback: Duration,
    boots: [Duration; 2],
}

impl Figures {
    /// Asks the daemon for the rest.
    pub(super) fn collect(
        daemon: &Daemon,
        import: Duration,
        snapshot: Duration,
        rollback: Duration,
        boots: [Duration; 2],
    ) -> Result<Self> {
        let usage = daemon.json(&["store", "df"])?;
        Ok(Figures {
            usage: serde_json::from_value(usage).context("reading `holdfast store df --json`")?,
            import,
            snapshot,
            rollback,
            boots,
        })
    }
}

/// The table.
pub(super) fn render(figures: &Figures) -> String {
    let Figures { usage, boots, .. } = figures;
    let ms = |time: Duration| format!("{:.0} ms", time.as_secs_f64() * 1000.0);
    let boots = boots.map(|boot| format!("{:.1} s", boot.as_secs_f64()));
    let rows = [
        ("virtual size, 3 volumes", mib(usage.provisioned)),
        ("data in them", mib(usage.used)),
        ("stored bytes", mib(usage.stored)),
        ("deduplication", format!("{:.2} x", usage.dedup_ratio)),
        ("compression", format!("{:.2} x", usage.compression_ratio)),
        ("import", format!("{:.1} s", figures.import.as_secs_f64())),
        ("snapshot, guest writing", ms(figures.snapshot)),
        ("rollback", ms(figures.rollback)),
        ("boot, first and after rollback", boots.join(", ")),
    ];
    let line = |(name, value): &(&str, String)| format!("   {name:<32}{value:>16}");
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}

fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

#[cfg(test)]
mod tests {
    use super::{Figures, Usage, render};
    use std::time::Duration;

    #[test]
    fn the_table_has_the_figures() {
        let text = render(&Figures {
            usage: Usage {
                stored: 70 << 20,
                provisioned: 6 << 30,
                used: 600 << 20,
                dedup_ratio: 3.1,
                compression_ratio: 2.75,
            },
            import: Duration::from_millis(2500),
            snapshot: Duration::from_millis(12),
            rollback: Duration::from_millis(9),
            boots: [Duration::from_secs(5), Duration::from_secs(6)],
        });
        for part in [
            "6144.0 MiB",
            "70.0 MiB",
            "3.10 x",
            "2.75 x",
            "2.5 s",
            "12 ms",
            "5.0 s, 6.0 s",
        ] {
            assert!(text.contains(part), "{part} in\n{text}");
        }
    }
}
