//! `skeg status`: what a person wants to know first about a cluster.

use std::path::PathBuf;

use anyhow::{Context, bail};
use k8s_openapi::api::core::v1::Node;
use kube::api::ListParams;
use kube::config::{KubeConfigOptions, Kubeconfig};

#[derive(clap::Args)]
pub struct Args {
    /// How to reach the cluster
    #[arg(long, env = "KUBECONFIG", default_value = "/var/lib/skeg/kubeconfig")]
    kubeconfig: PathBuf,
    /// Succeed only when at least this many nodes are Ready
    #[arg(long)]
    nodes: Option<usize>,
    /// Print nothing, only succeed or fail
    #[arg(long)]
    quiet: bool,
}

/// A client from a kubeconfig file.
pub async fn client(kubeconfig: &std::path::Path) -> anyhow::Result<kube::Client> {
    let read = Kubeconfig::read_from(kubeconfig)
        .with_context(|| format!("{} is not a usable kubeconfig; is the server started?", kubeconfig.display()))?;
    let config = kube::Config::from_custom_kubeconfig(read, &KubeConfigOptions::default()).await?;
    Ok(kube::Client::try_from(config)?)
}

pub async fn run(args: Args) -> anyhow::Result<()> {
    let client = client(&args.kubeconfig).await?;
    let ready = client
        .request_text(http::Request::get("/readyz?verbose").body(Vec::new())?)
        .await
        .context("the API server is not ready")?;
    let nodes = kube::Api::<Node>::all(client).list(&ListParams::default()).await.context("cannot list nodes")?.items;
    let states: Vec<(String, Result<(), String>)> = nodes.iter().map(|n| (name(n), readiness(n))).collect();
    if !args.quiet {
        println!("API server: {}", ready.lines().last().unwrap_or("ready").trim());
        for (name, state) in &states {
            match state {
                Ok(()) => println!("node {name}: Ready"),
                Err(why) => println!("node {name}: not ready: {why}"),
            }
        }
    }
    let ready = states.iter().filter(|(_, state)| state.is_ok()).count();
    match args.nodes {
        Some(wanted) if ready < wanted => bail!("{ready} of {wanted} nodes are Ready"),
        _ => Ok(()),
    }
}

fn name(node: &Node) -> String {
    node.metadata.name.clone().unwrap_or_default()
}

fn readiness(node: &Node) -> Result<(), String> {
    let conditions = node.status.as_ref().and_then(|s| s.conditions.as_ref()).into_iter().flatten();
    match conditions.into_iter().find(|c| c.type_ == "Ready") {
        Some(condition) if condition.status == "True" => Ok(()),
        Some(condition) => Err(condition.message.clone().unwrap_or_default()),
        None => Err("the node agent has not reported yet".to_owned()),
    }
}
