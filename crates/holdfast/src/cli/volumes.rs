//! `holdfast volume …` and `trash …`.

use super::{
    args::{self, Properties},
    client::Client,
    failure::Failure,
    files, images, limits, modes,
    output::{Output, duration, pairs, switch, table, time},
    policy, snapshots,
};
use api_types::{
    Connect, CreateVolume, Importing, Restore, TrashEntry, UpdateVolume, Volume, VolumeUsage,
};
use types::{
    Name, VolumeRef,
    size::{format_size, parse_size},
};

type Result<T> = std::result::Result<T, Failure>;

/// `holdfast volume …`.
pub(crate) async fn volume(client: &Client, output: Output, command: args::Volume) -> Result<()> {
    use args::Volume as Command;
    match command {
        Command::Create {
            name,
            size_,
            size,
            properties,
            read_only,
            quota,
            policy,
            backend,
            file,
            reuse,
        } => {
            let request = CreateVolume {
                file: file.spec(backend, reuse).map_err(Failure::usage)?,
                size: size_.or(size),
                read_only: read_only.then_some(true),
                quota,
                snapshot_policy: policy.into(),
                ..create(&name, properties)
            };
            made(output, &client.post("/v1/volumes", &request).await?)
        }
        Command::Clone { source, name, size } => clone(client, output, &source, &name, size).await,
        Command::Ls => ls(client, output).await,
        Command::Info { name } => {
            let volume: Volume = client.get(&format!("/v1/volumes/{name}")).await?;
            output.show(&volume, details)
        }
        Command::Rm {
            name,
            force,
            keep: true,
        } => files::forget(client, output, &name, force).await,
        Command::Rm { name, force, .. } => {
            let entry: TrashEntry = client
                .delete(&format!("/v1/volumes/{name}?force={force}"))
                .await?;
            output.done(&entry, |entry| {
                if entry.until_ms <= entry.removed_ms {
                    return format!("removed '{name}' and its file");
                }
                format!(
                    "moved '{name}' to the trash as {}, until {}",
                    entry.id,
                    time(entry.until_ms)
                )
            })
        }
        Command::Convert {
            name,
            backend,
            file,
            keep,
        } => files::convert(client, output, &name, backend, file, keep).await,
        Command::Adopt {
            name,
            image,
            backend,
            file,
        } => files::adopt(client, output, &name, image, backend, file).await,
        Command::Release { name, image } => files::release(client, output, &name, image).await,
        Command::Resize {
            name,
            size,
            allow_data_loss,
        } => {
            let size = new_size(client, &name, &size).await?;
            let update = UpdateVolume {
                size: Some(size),
                allow_data_loss,
                ..Default::default()
            };
            changed(client, output, &name, &update).await
        }
        Command::Rename { old, new } => {
            let update = UpdateVolume {
                name: Some(new.to_string()),
                ..Default::default()
            };
            changed(client, output, &old, &update).await
        }
        Command::Set { name, properties } => {
            changed(client, output, &name, &parse_properties(&properties)?).await
        }
        Command::Poweroff { name, decision } => {
            modes::power_off(client, output, &name, decision).await
        }
        Command::Commit { name } => modes::decide(client, output, &name, "commit").await,
        Command::Discard { name } => modes::decide(client, output, &name, "discard").await,
        Command::Rollback { snapshot } => snapshots::rollback(client, output, &snapshot).await,
        Command::Import {
            image,
            name,
            how,
            properties,
        } => images::import(client, output, &image, &name, &how, properties).await,
        Command::PauseImport { name } => images::pause(client, output, &name, "pause").await,
        Command::ResumeImport { name } => images::pause(client, output, &name, "resume").await,
        Command::Export {
            sources,
            image,
            how,
        } => images::export(client, output, &sources, &image, how).await,
        Command::Du { names } => du(client, output, names).await,
        Command::Connect { name } => {
            let connect: Connect = client.get(&format!("/v1/connect/{name}")).await?;
            output.show(&connect, connect_text)
        }
    }
}

/// Over vhost-user-blk first, if it is served so: it is the faster way.
fn connect_text(c: &Connect) -> String {
    let vhost = match &c.vhost {
        Some(v) => format!(
            "QEMU, vhost-user-blk (here for a guest of 4 GiB):\n  {}\n\nlibvirt, vhost-user-blk:\n  {}",
            v.qemu,
            v.libvirt.replace('\n', "\n  ")
        ),
        None => format!(
            "vhost-user-blk:\n  not served; 'holdfast vhost on {}' does so: faster, for guests of this host",
            c.name
        ),
    };
    format!(
        "{vhost}\n\nNBD URI:\n  {}\n\nQEMU, NBD:\n  {}\n\nlibvirt, NBD:\n  {}\n\nfio:\n  {}\n\nnbdinfo:\n  {}",
        c.uri,
        c.qemu,
        c.libvirt.replace('\n', "\n  "),
        c.fio,
        c.nbdinfo
    )
}

fn create(name: &Name, properties: Properties) -> CreateVolume {
    CreateVolume {
        name: name.to_string(),
        codec: properties.codec,
        dedup: properties.dedup(),
        ..Default::default()
    }
}

fn made(output: Output, volume: &Volume) -> Result<()> {
    output.done(volume, |v| {
        format!("made '{}', {}", v.name, format_size(v.size))
    })
}

async fn changed(
    client: &Client,
    output: Output,
    name: &Name,
    update: &UpdateVolume,
) -> Result<()> {
    let volume: Volume = client.patch(&format!("/v1/volumes/{name}"), update).await?;
    output.done(&volume, details)
}

pub(super) async fn clone(
    client: &Client,
    output: Output,
    source: &VolumeRef,
    name: &Name,
    size: Option<u64>,
) -> Result<()> {
    let request = CreateVolume {
        name: name.to_string(),
        from: Some(source.to_string()),
        size,
        ..Default::default()
    };
    made(output, &client.post("/v1/volumes", &request).await?)
}

async fn ls(client: &Client, output: Output) -> Result<()> {
    let volumes: Vec<Volume> = client.get("/v1/volumes").await?;
    let row = |v: &Volume| {
        vec![
            v.name.clone(),
            format_size(v.size),
            format_size(v.used),
            v.snapshots.to_string(),
            v.connections.to_string(),
            switch(v.vhost.is_some()),
            kept_as(v),
            origin(v),
        ]
    };
    let header = [
        "NAME",
        ">SIZE",
        ">USED",
        ">SNAPSHOTS",
        ">CLIENTS",
        "VHOST",
        "CODEC",
        "ORIGIN",
    ];
    output.show(&volumes, |volumes| table(&header, volumes.iter().map(row)))
}

/// What it was cloned from, or how far its import is.
fn origin(v: &Volume) -> String {
    match &v.importing {
        Some(importing) if importing.paused => format!("paused at {} %", percent(importing)),
        Some(importing) => format!("importing {} %", percent(importing)),
        None => v.origin.clone().unwrap_or_default(),
    }
}

fn percent(importing: &Importing) -> u128 {
    u128::from(importing.done) * 100 / u128::from(importing.total.max(1))
}

pub(super) fn importing_line(importing: &Importing) -> String {
    let mut line = format!(
        "{} % ({} of {}), {} saved",
        percent(importing),
        format_size(importing.done),
        format_size(importing.total),
        format_size(importing.saved)
    );
    if let Some(left) = importing.left_s {
        let (rate, left) = (format_size(importing.rate), duration(left * 1000));
        line.push_str(&format!(", {rate}/s, {left} left"));
    }
    if importing.paused {
        line.push_str(", paused");
    }
    if let Some(error) = &importing.error {
        line.push_str(&format!("; it does not go on: {error}"));
    }
    line
}

/// The codec, or what a plain file is.
fn kept_as(v: &Volume) -> String {
    match &v.file {
        Some(file) => format!("file:{}", file.format),
        None => v.codec.to_string(),
    }
}

fn details(v: &Volume) -> String {
    let mut lines = vec![
        ("name", v.name.clone()),
        ("id", v.id.to_string()),
        (
            "size",
            format!("{} ({} bytes)", format_size(v.size), v.size),
        ),
        ("used", format_size(v.used)),
    ];
    match &v.file {
        Some(file) => lines.extend([
            ("backend", "file".to_owned()),
            ("file", file.path.clone()),
            ("format", file.format.to_string()),
            ("driver", file.driver.to_string()),
        ]),
        None => lines.extend([
            ("backend", "store".to_owned()),
            ("dirty", format_size(v.dirty)),
            ("codec", v.codec.to_string()),
            ("dedup", switch(v.dedup)),
            (
                "quota",
                v.quota.map_or_else(|| "none".to_owned(), format_size),
            ),
        ]),
    }
    lines.extend([
        ("read-only", switch(v.read_only)),
        ("limits", limits::describe(v.limits)),
        ("snapshots", v.snapshots.to_string()),
        ("clients", v.connections.to_string()),
        ("vhost", v.vhost.clone().unwrap_or_else(|| "off".to_owned())),
        ("created", time(v.created_ms)),
    ]);
    lines.extend(modes::lines(v));
    lines.extend(policy::lines(v));
    if let Some(importing) = &v.importing {
        lines.push(("importing", importing_line(importing)));
        let image = format!("{} ({})", importing.path, importing.format);
        lines.push(("image", image));
    }
    if let Some(origin) = &v.origin {
        lines.push(("origin", origin.clone()));
    }
    pairs(&lines)
}

/// A size, or `+SIZE` on top of what it is.
async fn new_size(client: &Client, name: &Name, text: &str) -> Result<u64> {
    let (grow, number) = match text.strip_prefix('+') {
        Some(number) => (true, number),
        None => (false, text),
    };
    let size = parse_size(number).map_err(Failure::usage)?;
    if !grow {
        return Ok(size);
    }
    let volume: Volume = client.get(&format!("/v1/volumes/{name}")).await?;
    volume
        .size
        .checked_add(size)
        .ok_or_else(|| Failure::usage(format!("'{text}' is too large")))
}

fn parse_properties(properties: &[String]) -> Result<UpdateVolume> {
    let mut update = UpdateVolume::default();
    for property in properties {
        let (key, value) = property.split_once('=').unwrap_or((property, ""));
        let on = || match value {
            "on" | "true" | "yes" => Ok(Some(true)),
            "off" | "false" | "no" => Ok(Some(false)),
            _ => Err(Failure::usage(format!(
                "'{property}': write {key}=on or {key}=off"
            ))),
        };
        match key {
            "codec" => update.codec = Some(value.parse().map_err(Failure::usage)?),
            "dedup" => update.dedup = on()?,
            "read-only" => update.read_only = on()?,
            "mode" => update.mode = Some(value.parse().map_err(Failure::usage)?),
            "independent" => update.independent = on()?,
            "quota" if value == "none" => update.quota = Some(0),
            "quota" => update.quota = Some(parse_size(value).map_err(Failure::usage)?),
            _ if policy::set(&mut update.snapshot_policy, key, value) => {}
            _ if limits::set(&mut update.limits, key, value)? => {}
            _ => {
                let message = format!(
                    "'{key}' is no property: there are codec, dedup, independent, mode, quota, read-only, snapshots.schedule, snapshots.keep, snapshots.pattern, snapshots.group, and limits such as iops or write-bps"
                );
                return Err(Failure::usage(message));
            }
        }
    }
    Ok(update)
}

async fn du(client: &Client, output: Output, mut names: Vec<VolumeRef>) -> Result<()> {
    if names.is_empty() {
        let volumes: Vec<Volume> = client.get("/v1/volumes").await?;
        names = volumes.iter().filter_map(|v| v.name.parse().ok()).collect();
    }
    let mut usages: Vec<VolumeUsage> = Vec::new();
    for name in names {
        usages.push(client.get(&format!("/v1/usage/{name}")).await?);
    }
    let row = |u: &VolumeUsage| {
        vec![
            u.name.clone(),
            format_size(u.size),
            format_size(u.used),
            format_size(u.stored),
            format_size(u.unique),
        ]
    };
    let header = ["NAME", ">SIZE", ">USED", ">STORED", ">UNIQUE"];
    output.show(&usages, |usages| table(&header, usages.iter().map(row)))
}

/// `holdfast trash …`.
pub(crate) async fn trash(client: &Client, output: Output, command: args::Trash) -> Result<()> {
    use args::Trash as Command;
    match command {
        Command::Ls => {
            let entries: Vec<TrashEntry> = client.get("/v1/trash").await?;
            let row = |e: &TrashEntry| {
                vec![
                    e.id.to_string(),
                    e.name.clone(),
                    format_size(e.size),
                    format_size(e.used),
                    e.snapshots.to_string(),
                    time(e.removed_ms),
                    time(e.until_ms),
                ]
            };
            let header = [
                ">ID",
                "NAME",
                ">SIZE",
                ">USED",
                ">SNAPSHOTS",
                "REMOVED",
                "UNTIL",
            ];
            output.show(&entries, |entries| table(&header, entries.iter().map(row)))
        }
        Command::Restore { entry, name } => {
            let id = trashed(client, &entry).await?;
            let request = Restore {
                name: name.map(Into::into),
            };
            let volume: Volume = client
                .post(&format!("/v1/trash/{id}/restore"), &request)
                .await?;
            output.done(&volume, |v| format!("restored '{}'", v.name))
        }
        Command::Rm { entry } => {
            let id = trashed(client, &entry).await?;
            let gone: serde_json::Value = client.delete(&format!("/v1/trash/{id}")).await?;
            output.done(&gone, |_| format!("removed '{entry}' for good"))
        }
        Command::Empty => {
            let gone: Vec<TrashEntry> = client.delete("/v1/trash").await?;
            output.done(&gone, |gone| {
                format!("removed {} volume(s) for good", gone.len())
            })
        }
    }
}

/// The number of an entry of the trash, from its number or its name.
async fn trashed(client: &Client, entry: &str) -> Result<u64> {
    let entries: Vec<TrashEntry> = client.get("/v1/trash").await?;
    let mut named = entries.iter().filter(|e| e.name == entry);
    match (named.next(), named.next()) {
        (Some(only), None) => Ok(only.id),
        (Some(_), Some(_)) => Err(Failure::new(
            4,
            format!(
                "several volumes named '{entry}' are in the trash; give the number that 'trash ls' shows"
            ),
        )),
        (None, _) => entry.parse().map_err(|_| {
            Failure::new(
                3,
                format!("there is no volume '{entry}' in the trash; see 'trash ls'"),
            )
        }),
    }
}
