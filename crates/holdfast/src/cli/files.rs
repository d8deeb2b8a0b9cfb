//! Volumes that are plain files.

use super::{
    args::{Backend, FileOptions},
    client::Client,
    failure::{DAMAGED, Failure},
    jobs,
    output::{self, Output},
};
use api_types::{Adopt, Convert, Finding, Job, Release, Released, VerifyReport, Volume};
use types::Name;

type Result<T> = std::result::Result<T, Failure>;

/// `holdfast volume convert`.
pub(super) async fn convert(
    client: &Client,
    output: Output,
    name: &Name,
    backend: Backend,
    file: FileOptions,
    keep: bool,
) -> Result<()> {
    let file = file.spec(backend, false).map_err(Failure::usage)?;
    let request = Convert { file, keep };
    let path = format!("/v1/volumes/{name}/convert");
    let job: Job = client.post(&path, &request).await?;
    let volume: Volume = jobs::result(jobs::follow(client, output, job).await?)?;
    output.done(&volume, |volume| match &volume.file {
        Some(file) => format!("'{name}' is the file {} now", file.path),
        None => format!("'{name}' is in the store now"),
    })
}

/// `holdfast volume adopt`.
pub(super) async fn adopt(
    client: &Client,
    output: Output,
    name: &Name,
    image: String,
    backend: Backend,
    file: FileOptions,
) -> Result<()> {
    let Backend::File(directory) = backend else {
        return Err(Failure::usage(
            "a file is adopted as a file: --backend file[:DIRECTORY]; 'volume import' copies one into the store",
        ));
    };
    let request = Adopt {
        name: name.to_string(),
        path: image,
        directory,
        format: file.file_format,
        driver: file.driver,
    };
    let volume: Volume = client.post("/v1/adopt", &request).await?;
    output.done(&volume, |volume| {
        let path = volume.file.as_ref().map_or("", |file| &file.path);
        format!("adopted '{name}': its file is {path} now")
    })
}

/// `holdfast volume release`.
pub(super) async fn release(
    client: &Client,
    output: Output,
    name: &Name,
    image: Option<String>,
) -> Result<()> {
    let request = Release { path: image };
    let path = format!("/v1/volumes/{name}/release");
    let released: Released = client.post(&path, &request).await?;
    output.done(&released, |released| {
        format!("released '{name}': its file is {} now", released.path)
    })
}

/// `holdfast volume rm --keep`.
pub(super) async fn forget(
    client: &Client,
    output: Output,
    name: &Name,
    force: bool,
) -> Result<()> {
    let path = format!("/v1/volumes/{name}/forget?force={force}");
    let released: Released = client.post(&path, &()).await?;
    output.done(&released, |released| {
        format!("removed '{name}'; its file stays: {}", released.path)
    })
}

/// `holdfast verify`.
pub(super) async fn verify(client: &Client, output: Output) -> Result<()> {
    let report: VerifyReport = client.get("/v1/verify").await?;
    if output.json {
        output.show(&report, |_| String::new())?;
    } else {
        for finding in &report.findings {
            output::print(&Finding::to_string(finding))?;
        }
    }
    let errors = report.findings.len();
    if report.has_errors() {
        let message = format!("{errors} finding(s) in {} file volume(s)", report.volumes);
        return Err(Failure::new(DAMAGED, message));
    }
    Ok(())
}
