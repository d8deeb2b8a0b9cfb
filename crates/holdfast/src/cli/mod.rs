//! The command line: a client of the daemon's API, and the few commands that need none.

mod args;
mod client;
mod content;
mod diff;
mod failure;
mod files;
mod health;
mod images;
mod jobs;
mod limits;
mod modes;
mod output;
mod policy;
mod snapshots;
mod store;
mod vhost;
mod volumes;

use crate::daemon;
use args::{Cli, Command};
use clap::{CommandFactory, Parser};
use client::Client;
use failure::Failure;
use output::Output;
use serde_json::json;
use std::{path::Path, process::ExitCode};
use tracing_subscriber::EnvFilter;
use types::NoProgress;

/// Runs what the command line says.
pub(crate) fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("holdfast: {failure}");
            ExitCode::from(failure.code)
        }
    }
}

fn run(cli: Cli) -> Result<(), Failure> {
    let output = Output {
        json: cli.json,
        quiet: cli.quiet,
    };
    match cli.command {
        Command::Init(init) => make_store(output, &init),
        Command::Serve(serve) => serve_store(cli.socket, serve),
        Command::Check(args::Check {
            dir: Some(dir),
            how,
        }) => {
            start_log(args::LogFormat::Text, "warn")?;
            let report = daemon::check_closed(&dir, &how.into(), &NoProgress)?;
            health::verdict(output, &report)
        }
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "holdfast", &mut script);
            output::print(String::from_utf8_lossy(&script).trim_end())
        }
        Command::Man { dir } => write_manual(&dir),
        command => {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            let answer = runtime.block_on(ask(&Client::new(cli.socket), output, command));
            // A reader of standard input may wait for ever.
            runtime.shutdown_background();
            answer
        }
    }
}

async fn ask(client: &Client, output: Output, command: Command) -> Result<(), Failure> {
    match command {
        Command::Volume(command) => volumes::volume(client, output, command).await,
        Command::Snapshot(command) => snapshots::snapshot(client, output, command).await,
        Command::Diff { from, to, summary } => diff::run(client, output, &from, &to, summary).await,
        Command::Trash(command) => volumes::trash(client, output, command).await,
        Command::Store(command) => store::run(client, output, command).await,
        Command::Job(command) => jobs::run(client, output, command).await,
        Command::Nbd(command) => store::nbd(client, output, command).await,
        Command::Vhost(command) => vhost::run(client, output, command).await,
        Command::Check(check) => health::check(client, output, check.how).await,
        Command::Verify => files::verify(client, output).await,
        Command::Scrub(command) => health::scrub(client, output, command).await,
        Command::Events { follow } => store::events(client, output, follow).await,
        Command::Init(_)
        | Command::Serve(_)
        | Command::Completions { .. }
        | Command::Man { .. } => Ok(()),
    }
}

fn make_store(output: Output, init: &args::Init) -> Result<(), Failure> {
    let mut options = volume::InitOptions {
        trash_keep_s: Some(init.trash_keep),
        ..volume::InitOptions::default()
    };
    let defaults = &mut options.defaults;
    defaults.codec = init.properties.codec.unwrap_or(defaults.codec);
    defaults.dedup = init.properties.dedup().unwrap_or(defaults.dedup);
    let manifest = daemon::init(&init.dir, &options)?;
    let dir = init.dir.display();
    let answer = json!({ "id": manifest.id.to_string(), "path": dir.to_string() });
    output.done(&answer, |_| {
        format!(
            "made the store {}; serve it with: holdfast serve {dir}",
            manifest.id
        )
    })
}

fn serve_store(socket: std::path::PathBuf, serve: args::Serve) -> Result<(), Failure> {
    start_log(serve.log_format, &serve.log)?;
    let options = daemon::ServeOptions {
        dir: serve.dir,
        socket,
        nbd_socket: serve.nbd_socket,
        nbd_listen: serve.nbd_listen,
        vhost_dir: serve.vhost_dir,
        config: serve.config,
    };
    daemon::serve(&options).map_err(|e| match e.downcast::<api_types::ApiError>() {
        Ok(e) => e.into(),
        Err(e) => Failure::internal(format!("{e:#}")),
    })
}

fn start_log(format: args::LogFormat, filter: &str) -> Result<(), Failure> {
    // What it warns of is what we ask it for: that freed clusters are left alone.
    let filter = EnvFilter::try_new(format!("imago=error,{filter}"))
        .map_err(|e| Failure::usage(format!("'{filter}' is no log filter: {e}")))?;
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    match format {
        args::LogFormat::Text => log.with_ansi(false).init(),
        args::LogFormat::Json => log.json().init(),
    }
    Ok(())
}

fn write_manual(dir: &Path) -> Result<(), Failure> {
    std::fs::create_dir_all(dir)?;
    Ok(clap_mangen::generate_to(Cli::command(), dir)?)
}
