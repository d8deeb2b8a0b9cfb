//! What is written to volumes and kept apart.

use super::{
    args::Decision,
    client::Client,
    failure::Failure,
    output::{Output, switch, time},
};
use api_types::{Apart, Decision as Decided, Power, PowerOff, Volume};
use types::{DiskMode, Name};

type Result<T> = std::result::Result<T, Failure>;

/// `holdfast volume poweroff`.
pub(super) async fn power_off(
    client: &Client,
    output: Output,
    name: &Name,
    decision: Decision,
) -> Result<()> {
    let request = PowerOff {
        decision: decision.said(),
    };
    let path = format!("/v1/volumes/{name}/poweroff");
    let volume: Volume = client.post(&path, &request).await?;
    output.done(&volume, |v| {
        let became = match (v.mode, &v.apart) {
            (DiskMode::Nonpersistent, _) => "what was written is discarded".to_owned(),
            (DiskMode::Undoable, Some(Apart { changed: true, .. })) => {
                format!(
                    "what was written waits for 'volume commit {name}' or 'volume discard {name}'"
                )
            }
            (DiskMode::Undoable, _) => match request.decision {
                Some(Decided::Discard) => "what was written is discarded".to_owned(),
                Some(Decided::Commit) => "what was written is kept".to_owned(),
                _ => "nothing was written".to_owned(),
            },
            _ => "what was written stays".to_owned(),
        };
        format!("'{}' is powered off: {became}", v.name)
    })
}

/// `holdfast volume commit` and `discard`.
pub(super) async fn decide(client: &Client, output: Output, name: &Name, verb: &str) -> Result<()> {
    let path = format!("/v1/volumes/{name}/{verb}");
    let volume: Volume = client.post(&path, &()).await?;
    output.done(&volume, |v| match verb {
        "commit" => format!("what was written to '{}' is kept", v.name),
        _ => format!("'{}' is what it was before it was written to", v.name),
    })
}

/// The lines of `volume info` about it.
pub(super) fn lines(v: &Volume) -> Vec<(&'static str, String)> {
    let mut lines = vec![
        ("mode", v.mode.to_string()),
        ("independent", switch(v.independent)),
    ];
    if let Some(apart) = &v.apart {
        lines.extend([
            ("base", format!("{}, {}", apart.base, time(apart.since_ms))),
            (
                "changed",
                if apart.changed { "yes" } else { "no" }.to_owned(),
            ),
            ("power", power(apart)),
        ]);
    }
    lines
}

fn power(apart: &Apart) -> String {
    match (apart.power, apart.off_at_ms) {
        (Power::On, _) => "on".to_owned(),
        (Power::Off, _) => "off".to_owned(),
        (Power::Leaving, Some(at)) => {
            format!(
                "the last client has left; off at {} if none comes",
                time(at)
            )
        }
        (Power::Leaving, None) => "the last client has left; off with 'volume poweroff'".to_owned(),
        (Power::Unknown, _) => {
            "unknown since the daemon started; 'volume poweroff' if it is off".to_owned()
        }
    }
}
