//! What the scripts under `hack/` need that is more than shell: packing a directory as an OCI image archive, serving such
//! archives as a registry, running the conformance tests, and measuring Skeg beside upstream.

mod bench;
mod conformance;
mod oci;
mod registry;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "xtask", about = "Helpers of the scripts under hack/")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Measures Skeg beside upstream's control plane and prints the table of hack/bench.
    Bench(bench::Args),
    /// Packs a directory as an OCI image archive that `skeg images import` reads.
    PackImage {
        /// The root file system of the image.
        #[arg(long)]
        root: PathBuf,
        /// Every name the image is known by, e.g. docker.io/library/busybox:latest.
        #[arg(long = "name", required = true)]
        names: Vec<String>,
        #[arg(long)]
        output: PathBuf,
        #[arg(long, allow_hyphen_values = true)]
        entrypoint: Vec<String>,
        #[arg(long, allow_hyphen_values = true)]
        cmd: Vec<String>,
        #[arg(long)]
        env: Vec<String>,
        #[arg(long)]
        user: Option<String>,
        #[arg(long)]
        workdir: Option<String>,
        #[arg(long)]
        stop_signal: Option<String>,
        #[arg(long)]
        expose: Vec<String>,
        /// An image that the archive holds: the root becomes a layer on top of it, and the archive keeps what it holds.
        #[arg(long)]
        onto: Option<String>,
    },
    /// Serves the images of a directory's archives to container runtimes, read-only.
    ServeImages {
        /// Where the archives (*.tar) are.
        #[arg(long)]
        dir: PathBuf,
        #[arg(long)]
        listen: std::net::SocketAddr,
    },
    /// Runs upstream's conformance tests against a running cluster; hack/conformance calls it.
    Conformance(conformance::Args),
}

fn main() -> anyhow::Result<ExitCode> {
    match Cli::parse().command {
        Command::Bench(args) => bench::run(&args).map(|()| ExitCode::SUCCESS),
        Command::PackImage { root, names, output, entrypoint, cmd, env, user, workdir, stop_signal, expose, onto } => {
            let config = oci::ImageConfig { entrypoint, cmd, env, user, workdir, stop_signal, expose };
            oci::pack(&root, &names, &config, onto.as_deref(), &output)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::ServeImages { dir, listen } => registry::serve(&dir, listen).map(|()| ExitCode::SUCCESS),
        Command::Conformance(args) => conformance::main(&args).map(ExitCode::from),
    }
}
