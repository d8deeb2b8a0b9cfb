//! Images in and out.

use super::{
    args::{BackingOf, HowToExport, HowToImport, Properties},
    client::Client,
    content,
    failure::Failure,
    jobs,
    output::Output,
    volumes::importing_line,
};
use api_types::{Backing, ExportRequest, ImportRequest, Imported, Job, Volume};
use std::path::{Path, PathBuf};
use types::{ImageFormat, Name, VolumeRef, size::format_size};

type Result<T> = std::result::Result<T, Failure>;

fn absolute(path: &Path) -> Result<String> {
    let path: PathBuf = std::path::absolute(path)?;
    let shown = path.display().to_string();
    path.into_os_string()
        .into_string()
        .map_err(|_| Failure::usage(format!("{shown} is not UTF-8")))
}

/// `holdfast volume import`.
pub(super) async fn import(
    client: &Client,
    output: Output,
    image: &Path,
    name: &Name,
    how: &HowToImport,
    properties: Properties,
) -> Result<()> {
    let backing = how.backing.iter().map(|path| absolute(path));
    let imported: Imported = if image == Path::new("-") {
        let of_a_file = !how.backing.is_empty() || how.data_file.is_some();
        if of_a_file || how.live || how.snapshots {
            let message =
                "--backing, --data-file, --live and --snapshots need an image that is a file";
            return Err(Failure::usage(message));
        }
        content::upload(client, output, name, how, properties).await?
    } else {
        let request = ImportRequest {
            name: name.to_string(),
            path: match image
                .to_str()
                .filter(|text| image::NbdUri::is_meant_by(text))
            {
                Some(uri) => uri.to_owned(),
                None => absolute(image)?,
            },
            size: how.size,
            dedup: properties.dedup(),
            codec: properties.codec,
            format: how.format,
            backing: backing.collect::<Result<_>>()?,
            data_file: how.data_file.as_deref().map(absolute).transpose()?,
            live: how.live,
            snapshots: how.snapshots,
            disk: how.disk,
        };
        let job: Job = client.post("/v1/import", &request).await?;
        jobs::result(jobs::follow(client, output, job).await?)?
    };
    for note in &imported.notes {
        eprintln!("holdfast: note: {note}");
    }
    output.done(&imported, |imported| {
        let all = std::iter::once(&imported.volume).chain(&imported.others);
        let mut text = all.map(imported_line).collect::<Vec<_>>().join("\n");
        if let Some(saved) = imported.saved {
            text.push_str(&format!("; {} saved", format_size(saved)));
        }
        text
    })
}

/// `holdfast volume pause-import` and `resume-import`.
pub(super) async fn pause(client: &Client, output: Output, name: &Name, verb: &str) -> Result<()> {
    let path = format!("/v1/volumes/{name}/import/{verb}");
    let volume: Volume = client.post(&path, &()).await?;
    output.done(&volume, |v| {
        let how_far = v.importing.as_ref().map(importing_line);
        let how_far = how_far.unwrap_or_else(|| "done".to_owned());
        format!("the import of '{}': {how_far}", v.name)
    })
}

fn imported_line(v: &Volume) -> String {
    if let Some(importing) = &v.importing {
        return format!(
            "made '{}', {}: use it now; it is filled from {}, which must stay as it is until 'volume info {}' says no more of it",
            v.name,
            format_size(v.size),
            importing.path,
            v.name
        );
    }
    format!(
        "imported '{}', {}, {} used",
        v.name,
        format_size(v.size),
        format_size(v.used)
    )
}

/// `holdfast volume export`.
pub(super) async fn export(
    client: &Client,
    output: Output,
    sources: &[VolumeRef],
    image: &Path,
    how: HowToExport,
) -> Result<()> {
    let (source, others) = match sources {
        [only] => (only, &[][..]),
        [first, others @ ..] if how.format == Some(ImageFormat::Ova) => (first, others),
        _ => {
            let message =
                "only an OVA has several disks: say --format ova, or export them one by one";
            return Err(Failure::usage(message));
        }
    };
    let raw = how.format.is_none_or(|format| format == ImageFormat::Raw);
    let shaped = how.compress.is_some() || how.subformat.is_some() || how.backing_of.is_some();
    if image == Path::new("-") {
        if !raw || shaped {
            let message = "only a raw image can be written to standard output; name a file";
            return Err(Failure::usage(message));
        }
        return content::download(client, output, source).await;
    }
    let untold = how.format.is_none() && how.backing_of.is_none();
    if let (true, Some(format)) = (untold, format_by_name(image)) {
        return Err(Failure::usage(format!(
            "{} would be a raw image; say --format {format}, or --format raw if that is meant",
            image.display()
        )));
    }
    let backing = how.backing_of.map(|BackingOf { snapshot, file }| {
        let (snapshot, file) = (snapshot.to_string(), absolute(&file)?);
        Ok::<_, Failure>(Backing { snapshot, file })
    });
    let request = ExportRequest {
        source: source.to_string(),
        others: others.iter().map(VolumeRef::to_string).collect(),
        path: absolute(image)?,
        overwrite: how.force,
        format: how.format,
        backing: backing.transpose()?,
        compress: how.compress,
        subformat: how.subformat,
    };
    let job: Job = client.post("/v1/export", &request).await?;
    let job = jobs::follow(client, output, job).await?;
    output.done(&job, |_| {
        let names: Vec<String> = sources.iter().map(|source| format!("'{source}'")).collect();
        format!("exported {} to {}", names.join(", "), image.display())
    })
}

/// What one would take an image for by its name, if that is not raw.
fn format_by_name(image: &Path) -> Option<ImageFormat> {
    let extension = image.extension()?.to_str()?.to_ascii_lowercase();
    let format: ImageFormat = extension.parse().ok()?;
    (format != ImageFormat::Raw).then_some(format)
}
