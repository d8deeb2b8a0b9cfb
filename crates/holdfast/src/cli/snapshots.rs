//! `holdfast snapshot …`.

use super::{
    args,
    client::Client,
    failure::Failure,
    output::{Output, switch, table, time},
    volumes::clone,
};
use api_types::{CloneGroup, CloneOf, CreateSnapshot, Group, Rollback, Snapshot, Volume};
use types::{Name, VolumeRef, size::format_size};

type Result<T> = std::result::Result<T, Failure>;

/// A reference that must name a snapshot.
fn named(r: &VolumeRef) -> Result<(&Name, &Name)> {
    let snapshot = r
        .snapshot
        .as_ref()
        .ok_or_else(|| Failure::usage(format!("'{r}' names no snapshot: write volume@snapshot")))?;
    Ok((&r.volume, snapshot))
}

pub(super) async fn rollback(client: &Client, output: Output, r: &VolumeRef) -> Result<()> {
    let (volume, snapshot) = named(r)?;
    let request = Rollback {
        snapshot: snapshot.to_string(),
    };
    let volume: Volume = client
        .post(&format!("/v1/volumes/{volume}/rollback"), &request)
        .await?;
    output.done(&volume, |v| format!("'{}' is what '{r}' was", v.name))
}

/// What a group is told as: those without a snapshot's name have that of the others.
fn members(refs: &[VolumeRef], group: bool) -> Result<Group> {
    if !group && refs.len() > 1 {
        let message = "several snapshots at one instant are a group: add --group";
        return Err(Failure::usage(message));
    }
    let mut names = refs.iter().filter_map(|r| r.snapshot.as_ref());
    let name = names.next();
    let shared = name.filter(|name| names.all(|other| other == *name));
    let member = |r: &VolumeRef| match (&r.snapshot, shared) {
        (Some(_), _) => Ok(r.to_string()),
        (None, Some(name)) => Ok(format!("{}@{name}", r.volume)),
        (None, None) => Err(Failure::usage(format!(
            "'{r}' names no snapshot: write volume@snapshot"
        ))),
    };
    let snapshots = refs.iter().map(member).collect::<Result<_>>()?;
    Ok(Group { snapshots })
}

/// Which of those that were named are not among those that something was done to.
fn left_out<'a>(refs: &'a [VolumeRef], done: impl Fn(&str) -> bool) -> String {
    let left = refs
        .iter()
        .map(|r| r.volume.as_str())
        .filter(|name| !done(name));
    let left: Vec<&'a str> = left.collect();
    match left.is_empty() {
        true => String::new(),
        false => format!("; left out, as independent: {}", left.join(", ")),
    }
}

async fn create_snapshots(
    client: &Client,
    output: Output,
    refs: &[VolumeRef],
    group: bool,
) -> Result<()> {
    let request = members(refs, group)?;
    if group {
        let taken: Vec<Snapshot> = client.post("/v1/groups/snapshot", &request).await?;
        return output.done(&taken, |taken| {
            let names = taken.iter().map(|s| format!("'{}@{}'", s.volume, s.name));
            let names: Vec<String> = names.collect();
            let left = left_out(refs, |name| taken.iter().any(|s| s.volume == name));
            format!("made {} at one instant{left}", names.join(", "))
        });
    }
    for r in refs {
        let (volume, name) = named(r)?;
        let request = CreateSnapshot {
            name: name.to_string(),
        };
        let path = format!("/v1/volumes/{volume}/snapshots");
        let snapshot: Snapshot = client.post(&path, &request).await?;
        output.done(&snapshot, |s| format!("made '{}@{}'", s.volume, s.name))?;
    }
    Ok(())
}

async fn rollback_group(
    client: &Client,
    output: Output,
    refs: &[VolumeRef],
    group: bool,
) -> Result<()> {
    let request = members(refs, group)?;
    let volumes: Vec<Volume> = client.post("/v1/groups/rollback", &request).await?;
    output.done(&volumes, |volumes| {
        let left = left_out(refs, |name| volumes.iter().any(|v| v.name == name));
        let back = request.snapshots.iter().zip(refs);
        let back = back.filter(|(_, r)| volumes.iter().any(|v| v.name == r.volume.as_str()));
        let back: Vec<&str> = back.map(|(snapshot, _)| snapshot.as_str()).collect();
        format!("set back to {}{left}", back.join(", "))
    })
}

async fn clone_group(
    client: &Client,
    output: Output,
    refs: &[VolumeRef],
    prefix: &str,
) -> Result<()> {
    let snapshots = members(refs, true)?.snapshots.into_iter();
    let clones = snapshots.zip(refs).map(|(from, r)| CloneOf {
        from,
        name: format!("{prefix}{}", r.volume),
    });
    let request = CloneGroup {
        clones: clones.collect(),
    };
    let volumes: Vec<Volume> = client.post("/v1/groups/clone", &request).await?;
    output.done(&volumes, |volumes| {
        let names: Vec<String> = volumes.iter().map(|v| format!("'{}'", v.name)).collect();
        format!("made {}", names.join(", "))
    })
}

/// `holdfast snapshot …`.
pub(crate) async fn snapshot(
    client: &Client,
    output: Output,
    command: args::Snapshot,
) -> Result<()> {
    use args::Snapshot as Command;
    match command {
        Command::Create { snapshots, group } => {
            create_snapshots(client, output, &snapshots, group).await
        }
        Command::Ls { volume } => {
            let snapshots: Vec<Snapshot> = client
                .get(&format!("/v1/volumes/{volume}/snapshots"))
                .await?;
            let row = |s: &Snapshot| {
                vec![
                    s.name.clone(),
                    format_size(s.size),
                    format_size(s.used),
                    time(s.created_ms),
                    switch(s.vhost.is_some()),
                    if s.scheduled { "yes" } else { "" }.to_owned(),
                ]
            };
            let header = ["NAME", ">SIZE", ">USED", "CREATED", "VHOST", "SCHEDULED"];
            output.show(&snapshots, |snapshots| {
                table(&header, snapshots.iter().map(row))
            })
        }
        Command::Rm { snapshots } => {
            for r in &snapshots {
                let (volume, name) = named(r)?;
                let path = format!("/v1/volumes/{volume}/snapshots/{name}");
                let _: serde_json::Value = client.delete(&path).await?;
            }
            let names: Vec<String> = snapshots.iter().map(ToString::to_string).collect();
            output.done(&names, |names| format!("removed {}", names.join(", ")))
        }
        Command::Rollback { snapshots, group } => match &snapshots[..] {
            [one] if !group => rollback(client, output, one).await,
            _ => rollback_group(client, output, &snapshots, group).await,
        },
        Command::Clone {
            names,
            prefix: Some(prefix),
            ..
        } => clone_group(client, output, &names, &prefix).await,
        Command::Clone { names, .. } => match &names[..] {
            [snapshot, name] if name.snapshot.is_none() => {
                named(snapshot)?;
                clone(client, output, snapshot, &name.volume, None).await
            }
            _ => Err(Failure::usage(
                "a snapshot and the new volume's name are needed: volume@snapshot NAME",
            )),
        },
    }
}
