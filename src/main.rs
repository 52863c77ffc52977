//! The `skeg` binary: reads its arguments, starts what they ask for. Everything else lives in the crates.

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod agent;
mod check;
mod component;
mod control_plane;
mod datastore;
mod images;
mod join;
mod kube_apiserver;
mod kube_controller_manager;
mod kube_scheduler;
mod node;
mod renewal;
mod reset;
mod rotation;
mod server;
mod snapshot;
mod status;
mod token;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use component::{Component, Invocation};
use tokio_util::sync::CancellationToken;

/// A request allocates much and keeps little: glibc's allocator took a quarter of the time of a write.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The Kubernetes version that Skeg speaks.
const KUBERNETES_VERSION: &str = "v1.36.3";

#[derive(Parser)]
#[command(name = "skeg", version = concat!(env!("CARGO_PKG_VERSION"), " (Kubernetes v1.36.3)"), about = "A lightweight Kubernetes: one binary, a whole cluster")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run a server: API server, controllers and scheduler, and a node unless told not to
    Server(server::Args),
    /// Run a node that joins a server
    Agent(agent::Args),
    /// Run the API server alone, with kube-apiserver's flags; so does the program under that name
    #[command(disable_help_flag = true)]
    KubeApiserver(Arguments),
    /// Run the controllers alone, with kube-controller-manager's flags; so does the program under that name
    #[command(disable_help_flag = true)]
    KubeControllerManager(Arguments),
    /// Run the scheduler alone, with kube-scheduler's flags; so does the program under that name
    #[command(disable_help_flag = true)]
    KubeScheduler(Arguments),
    /// Show a cluster's nodes and what is wrong with them
    Status(status::Args),
    /// Say what this machine lacks for running a node, and how to get it
    Check(check::Args),
    /// Print or make join tokens
    Token(token::Args),
    /// Load container images from files, or list them
    Images(images::Args),
    /// Save the state of a cluster to a file, or restore it
    Snapshot(snapshot::Args),
    /// Remove what a stopped server or agent left on this machine
    Reset(reset::Args),
    /// Print the version
    Version,
}

/// A component's own, which it reads itself.
#[derive(clap::Args)]
struct Arguments {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, num_args = 0..)]
    arguments: Vec<String>,
}

/// What runs alone, under upstream's names.
const COMPONENTS: [&Component; 3] =
    [&kube_apiserver::COMPONENT, &kube_controller_manager::COMPONENT, &kube_scheduler::COMPONENT];

/// What is to run, with all that can be wrong in its words settled.
enum Run {
    Command(Box<Command>),
    Component(Invocation),
}

fn main() -> ExitCode {
    let run = match arguments() {
        Ok(run) => run,
        Err(error) => {
            eprintln!("Error: {error:#}");
            return ExitCode::FAILURE;
        }
    };
    let filter = match &run {
        Run::Command(_) => "warn,skeg=info,kube_runtime=error",
        Run::Component(invocation) => invocation.log_filter(),
    };
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::try_from_env("SKEG_LOG").unwrap_or_else(|_| filter.into()))
        .with_writer(std::io::stderr)
        .with_target(false)
        .init();
    // The only failure is that a provider is installed already, which nothing before this line does.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: cannot start threads: {error}");
            return ExitCode::FAILURE;
        }
    };
    let outcome = runtime.block_on(async {
        match run {
            Run::Command(command) => self::run(*command).await,
            Run::Component(invocation) => invocation.run(on_signal()).await,
        }
    });
    runtime.shutdown_timeout(std::time::Duration::from_secs(2));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The command line, read by whoever the program's name or the first word is.
fn arguments() -> anyhow::Result<Run> {
    let mut arguments = std::env::args_os();
    let program = arguments.next();
    if let Some(component) = COMPONENTS.iter().find(|component| component.is_named(program.as_deref())) {
        let arguments: Vec<String> = arguments.map(|one| one.to_string_lossy().into_owned()).collect();
        return component.parse(&arguments).map(Run::Component);
    }
    let (component, given) = match Cli::parse().command {
        Command::KubeApiserver(given) => (&kube_apiserver::COMPONENT, given),
        Command::KubeControllerManager(given) => (&kube_controller_manager::COMPONENT, given),
        Command::KubeScheduler(given) => (&kube_scheduler::COMPONENT, given),
        command => return Ok(Run::Command(Box::new(command))),
    };
    component.parse(&given.arguments).map(Run::Component)
}

async fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::KubeApiserver(_) | Command::KubeControllerManager(_) | Command::KubeScheduler(_) => {
            unreachable!("components have been taken out of the commands")
        }
        Command::Server(args) => server::run(args, on_signal()).await,
        Command::Agent(args) => agent::run(args, on_signal()).await,
        Command::Status(args) => status::run(args).await,
        Command::Check(args) => check::run(&args),
        Command::Token(args) => token::run(args).await,
        Command::Images(args) => images::run(args).await,
        Command::Snapshot(args) => snapshot::run(args).await,
        Command::Reset(args) => reset::run(args).await,
        Command::Version => {
            let commit = option_env!("SKEG_GIT_COMMIT").map(|commit| format!(", commit {commit}")).unwrap_or_default();
            println!("skeg {} (Kubernetes {KUBERNETES_VERSION}{commit})", env!("CARGO_PKG_VERSION"));
            Ok(())
        }
    }
}

/// Cancelled by the first SIGTERM or SIGINT; a second ends the process at once.
fn on_signal() -> CancellationToken {
    let token = CancellationToken::new();
    let cancelled = token.clone();
    tokio::spawn(async move {
        let kind = tokio::signal::unix::SignalKind::terminate();
        let Ok(mut terminate) = tokio::signal::unix::signal(kind) else { return };
        for _ in 0..2 {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = tokio::signal::ctrl_c() => {}
            }
            if cancelled.is_cancelled() {
                std::process::exit(130);
            }
            cancelled.cancel();
        }
    });
    token
}
