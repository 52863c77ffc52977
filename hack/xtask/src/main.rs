//! What the scripts under `hack/` need that is more than shell: packing a directory as an OCI image archive.

mod oci;

use std::path::PathBuf;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "xtask", about = "Helpers of the scripts under hack/")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Packs a directory as a one-layer OCI image archive that `skeg images import` reads.
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
        #[arg(long, default_value = "")]
        user: String,
        #[arg(long, default_value = "/")]
        workdir: String,
        #[arg(long)]
        stop_signal: Option<String>,
        #[arg(long)]
        expose: Vec<String>,
    },
}

fn main() -> anyhow::Result<()> {
    match Cli::parse().command {
        Command::PackImage { root, names, output, entrypoint, cmd, env, user, workdir, stop_signal, expose } => {
            let config = oci::ImageConfig { entrypoint, cmd, env, user, workdir, stop_signal, expose };
            oci::pack(&root, &names, &config, &output)
        }
    }
}
