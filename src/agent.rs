//! `skeg agent`: a node that joins a server.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;
use arc_swap::ArcSwap;
use tokio_util::sync::CancellationToken;

use crate::rotation;

#[derive(clap::Args)]
pub struct Args {
    /// The server's address, e.g. https://10.0.0.1:6443
    #[arg(long)]
    server: String,
    /// The join token that `skeg token` prints on the server
    #[arg(long, env = "SKEG_TOKEN", required_unless_present = "token_file")]
    token: Option<String>,
    /// A file that holds the join token
    #[arg(long)]
    token_file: Option<PathBuf>,
    #[command(flatten)]
    node: crate::node::NodeArgs,
}

pub async fn run(args: Args, shutdown: CancellationToken) -> anyhow::Result<()> {
    let token = match (args.token, args.token_file) {
        (Some(token), _) => token,
        (None, Some(file)) => std::fs::read_to_string(&file)
            .with_context(|| format!("cannot read the join token in {}", file.display()))?,
        (None, None) => anyhow::bail!("give the join token with --token or --token-file"),
    };
    crate::node::refuse_without_root()?;
    let settings = args.node.settings()?;
    let joined = tokio::select! {
        joined = crate::join::join(&args.server, &token, &settings) => joined?,
        () = shutdown.cancelled() => return Ok(()),
    };
    let current = Arc::new(ArcSwap::from_pointee(joined.client));
    let (kubelet, network) = (rotation::following(current.clone()), rotation::following(current.clone()));
    // Ends with the node, whichever way that ends.
    let stop = shutdown.child_token();
    let rotating = rotation::run(joined.identity, current, stop.clone());
    let node = async {
        let ended = crate::node::run(settings, kubelet, network, Some(joined.server_tls), shutdown).await;
        stop.cancel();
        ended
    };
    tokio::join!(node, rotating).0
}
