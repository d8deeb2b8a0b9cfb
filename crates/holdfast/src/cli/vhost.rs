//! `holdfast vhost …`.

use super::{
    args,
    client::Client,
    failure::Failure,
    output::{Output, table, time},
};
use api_types::{ServeVhost, VhostDevice, VhostStatus};
use serde_json::json;
use types::size::format_size;

/// Runs one.
pub(crate) async fn run(
    client: &Client,
    output: Output,
    command: args::Vhost,
) -> Result<(), Failure> {
    match command {
        args::Vhost::On { name, queues } => {
            let request = ServeVhost { queues };
            let path = format!("/v1/vhost/{name}");
            let device: VhostDevice = client.put(&path, &request).await?;
            output.done(&device, |d| {
                format!(
                    "'{}' is served at {}, {} queues; 'holdfast volume connect {}' prints how to reach it",
                    d.name, d.socket, d.queues, d.name
                )
            })
        }
        args::Vhost::Off { name, force } => {
            let path = format!("/v1/vhost/{name}?force={force}");
            let _: serde_json::Value = client.delete(&path).await?;
            output.done(&json!({ "name": name }), |_| {
                format!("'{name}' is not served over vhost-user-blk")
            })
        }
        args::Vhost::Status => {
            let status: VhostStatus = client.get("/v1/vhost").await?;
            output.show(&status, text)
        }
    }
}

fn text(status: &VhostStatus) -> String {
    let rows = status.devices.iter().map(|d| {
        let guest = match (&d.error, &d.guest) {
            (Some(error), _) => format!("not served: {error}"),
            (None, None) => "none".to_owned(),
            (None, Some(guest)) => format!(
                "{}{} of {} queues, since {}",
                guest
                    .pid
                    .map_or_else(String::new, |pid| format!("process {pid}, ")),
                guest.queues,
                d.queues,
                time(guest.since_ms)
            ),
        };
        vec![
            d.name.clone(),
            d.socket.clone(),
            d.queues.to_string(),
            d.requests.to_string(),
            format_size(d.bytes_read),
            format_size(d.bytes_written),
            guest,
        ]
    });
    let header = [
        "NAME",
        "SOCKET",
        ">QUEUES",
        ">REQUESTS",
        ">READ",
        ">WRITTEN",
        "GUEST",
    ];
    format!(
        "sockets are in {}\n{}",
        status.directory,
        table(&header, rows)
    )
}
