//! `skeg images`: container images of a node, without a registry.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use skeg_cri::{Client, ImageService};

/// How long a container runtime may take to start.
const STARTING: Duration = Duration::from_secs(20);
const PAUSE: Duration = Duration::from_millis(100);

#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
    /// The node's data directory
    #[arg(long, global = true, default_value = "/var/lib/skeg")]
    data_dir: PathBuf,
    /// The runtime's socket, if the node does not run a containerd of its own
    #[arg(long, global = true)]
    container_runtime_endpoint: Option<PathBuf>,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Load OCI or Docker archives
    Import {
        #[arg(required = true)]
        files: Vec<PathBuf>,
    },
    /// List the images of the node
    List,
}

pub async fn run(args: Args) -> anyhow::Result<()> {
    let socket = args.container_runtime_endpoint.unwrap_or_else(|| crate::node::containerd_socket(&args.data_dir));
    if !answers(&socket).await {
        bail!("no container runtime at {}: is the node running, and is --data-dir its own?", socket.display());
    }
    match args.command {
        Command::Import { files } => {
            for file in &files {
                for name in import(&socket, file).await? {
                    println!("{name}");
                }
            }
            Ok(())
        }
        Command::List => list(&socket).await,
    }
}

/// Whether a runtime answers at the socket; one that is just starting is waited for.
async fn answers(socket: &Path) -> bool {
    for _ in 0..STARTING.as_millis() / PAUSE.as_millis() {
        if tokio::net::UnixStream::connect(socket).await.is_ok() {
            return true;
        }
        tokio::time::sleep(PAUSE).await;
    }
    false
}

async fn import(socket: &Path, file: &Path) -> anyhow::Result<Vec<String>> {
    skeg_cri::import_oci_archive(socket, file).await.with_context(|| format!("cannot import {}", file.display()))
}

async fn list(socket: &Path) -> anyhow::Result<()> {
    let client = Client::new(socket);
    let mut rows = Vec::new();
    for image in client.list_images().await? {
        let id = image.id.trim_start_matches("sha256:").chars().take(12).collect::<String>();
        let names = if image.repo_tags.is_empty() { image.repo_digests } else { image.repo_tags };
        rows.extend(names.into_iter().map(|name| (name, id.clone(), image.size)));
    }
    rows.sort();
    let width = rows.iter().map(|(name, ..)| name.len()).max().unwrap_or(0).max(5);
    println!("{:width$}  {:12}  SIZE", "IMAGE", "ID");
    for (name, id, size) in rows {
        println!("{name:width$}  {id:12}  {:.1} MB", size as f64 / 1e6);
    }
    Ok(())
}
