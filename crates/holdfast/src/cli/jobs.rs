//! Following long work: progress on a terminal, Ctrl-C, its end.

use super::{
    args,
    client::Client,
    failure::{self, Failure},
    output::{Output, duration, pairs, table, time},
};
use api_types::{Job, JobKind, JobState};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::IsTerminal;
use types::size::format_size;

/// Seconds that one question for news waits.
const NEWS: u64 = 10;

/// A progress bar on stderr, if that is a terminal and nobody asked for quiet.
pub(crate) fn bar(output: Output, what: &str) -> ProgressBar {
    let bar = ProgressBar::new(0);
    if output.quiet || !std::io::stderr().is_terminal() {
        bar.set_draw_target(ProgressDrawTarget::hidden());
    }
    let style = ProgressStyle::with_template(
        "{prefix} {wide_bar} {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} {eta} left{msg}",
    );
    if let Ok(style) = style {
        bar.set_style(style);
    }
    bar.set_prefix(what.to_owned());
    bar
}

fn advance(bar: &ProgressBar, job: &Job) {
    if job.total > 0 {
        bar.set_length(job.total);
    }
    bar.set_position(job.done);
    if let Some(saved) = job.saved {
        bar.set_message(format!(", {} saved", format_size(saved)));
    }
}

/// Waits for a job's end; Ctrl-C cancels it.
pub(crate) async fn follow(client: &Client, output: Output, job: Job) -> Result<Job, Failure> {
    let bar = bar(output, kind(job.kind));
    let id = job.id;
    let mut job = job;
    let mut interrupted = false;
    while job.state == JobState::Running {
        advance(&bar, &job);
        tokio::select! {
            news = client.job(id, NEWS) => job = news?,
            // Who asks twice does not wait for the job to tidy up.
            _ = tokio::signal::ctrl_c() => {
                if interrupted {
                    return Err(Failure::interrupted());
                }
                interrupted = true;
                cancel(client, id).await?;
            }
        }
    }
    bar.finish_and_clear();
    match (job.state, &job.error) {
        (JobState::Done, _) => Ok(job),
        (JobState::Cancelled, _) => Err(Failure::interrupted()),
        (_, Some(e)) => Err(e.clone().into()),
        (_, None) => Err(Failure::internal("the job failed")),
    }
}

/// Asks a job to stop; one that has ended meanwhile has its outcome shown as usual.
async fn cancel(client: &Client, id: u64) -> Result<(), Failure> {
    match client.delete::<Job>(&format!("/v1/jobs/{id}")).await {
        Err(e) if e.code != failure::REFUSED => Err(e),
        _ => Ok(()),
    }
}

/// What a job yielded.
pub(crate) fn result<T: serde::de::DeserializeOwned>(job: Job) -> Result<T, Failure> {
    let value = job.result.unwrap_or(serde_json::Value::Null);
    serde_json::from_value(value).map_err(|e| Failure::internal(e.to_string()))
}

fn kind(kind: JobKind) -> &'static str {
    match kind {
        JobKind::Import => "import",
        JobKind::Export => "export",
        JobKind::Collect => "collect",
        JobKind::Check => "check",
        JobKind::Scrub => "scrub",
        JobKind::Convert => "convert",
    }
}

fn state(state: JobState) -> &'static str {
    match state {
        JobState::Running => "running",
        JobState::Done => "done",
        JobState::Failed => "failed",
        JobState::Cancelled => "cancelled",
    }
}

fn progress(job: &Job) -> String {
    match (job.kind, job.total) {
        (JobKind::Import | JobKind::Export, 0) => format_size(job.done),
        (_, 0) => job.done.to_string(),
        (_, total) => format!("{:.0} %", job.done as f64 * 100.0 / total as f64),
    }
}

/// `holdfast job …`.
pub(crate) async fn run(
    client: &Client,
    output: Output,
    command: args::Job,
) -> Result<(), Failure> {
    match command {
        args::Job::Ls => {
            let jobs: Vec<Job> = client.get("/v1/jobs").await?;
            let row = |job: &Job| {
                vec![
                    job.id.to_string(),
                    kind(job.kind).to_owned(),
                    job.subject.clone(),
                    state(job.state).to_owned(),
                    progress(job),
                    time(job.started_ms),
                ]
            };
            let header = [">ID", "KIND", "SUBJECT", "STATE", ">PROGRESS", "STARTED"];
            output.show(&jobs, |jobs| table(&header, jobs.iter().map(row)))
        }
        args::Job::Info { id } => {
            let job: Job = client.get(&format!("/v1/jobs/{id}")).await?;
            output.show(&job, details)
        }
        args::Job::Wait { id } => {
            let job: Job = client.get(&format!("/v1/jobs/{id}")).await?;
            let job = follow(client, output, job).await?;
            output.done(&job, details)
        }
        args::Job::Cancel { id } => {
            let job: Job = client.delete(&format!("/v1/jobs/{id}")).await?;
            output.done(&job, |job| {
                format!("job {} is {}", job.id, state(job.state))
            })
        }
    }
}

fn details(job: &Job) -> String {
    let mut lines = vec![
        ("id", job.id.to_string()),
        ("kind", kind(job.kind).to_owned()),
        ("subject", job.subject.clone()),
        ("state", state(job.state).to_owned()),
        ("progress", progress(job)),
        ("started", time(job.started_ms)),
    ];
    if let Some(saved) = job.saved {
        lines.push(("saved", format_size(saved)));
    }
    if let Some(ended) = job.ended_ms {
        lines.push(("took", duration(ended.saturating_sub(job.started_ms))));
    }
    if let Some(error) = &job.error {
        lines.push(("error", error.to_string()));
    }
    pairs(&lines)
}
