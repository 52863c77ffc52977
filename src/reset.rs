//! `skeg reset`: takes back what a node left on its machine: containers, mounts, rules, interfaces, and its data.

use std::path::PathBuf;

use anyhow::Context;

#[derive(clap::Args)]
pub struct Args {
    /// The data directory of the server or agent, which must be stopped
    #[arg(long)]
    data_dir: PathBuf,
    /// Keep the store, keys and images
    #[arg(long)]
    keep_data: bool,
}

pub async fn run(args: Args) -> anyhow::Result<()> {
    if !args.data_dir.exists() {
        return Ok(());
    }
    crate::node::refuse_without_root()?;
    let data_dir = args.data_dir.canonicalize()?;
    let agent = data_dir.join("agent");
    if agent.exists() {
        skeg_kubelet::teardown(&agent).await.context("cannot remove all pods and their containerd")?;
        let network = skeg_proxy::Config {
            cni_conf_dir: agent.join("cni/net.d"),
            cni_state_dir: agent.join("cni/networks"),
            ..skeg_proxy::Config::new("", std::net::IpAddr::from([0, 0, 0, 0]))
        };
        skeg_proxy::teardown(&network).await.context("cannot remove the pod network")?;
    }
    if !args.keep_data {
        std::fs::remove_dir_all(&data_dir).with_context(|| format!("cannot remove {}", data_dir.display()))?;
    }
    Ok(())
}
