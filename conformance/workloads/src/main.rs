//! Runs the same workloads on whatever control plane a kubeconfig names, and prints the state that they end in without what
//! differs from run to run. hack/interop compares what Skeg's and upstream's parts bring about.
//!
//! ```text
//! scenario ─ manifests, changes, waits ─┐
//!                                       ├─> API server <─ the controllers and the scheduler under test
//! hollow ── nodes' leases and status, ──┘        │
//!           pods' status                         └─> state ─> lines on stdout
//! ```

mod cluster;
mod hollow;
mod resources;
mod scenario;
mod state;

use anyhow::Context;
use tokio_util::sync::CancellationToken;

use crate::cluster::Cluster;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let kubeconfig = arguments.next().context("workloads KUBECONFIG")?;
    // The only failure is that a provider is installed already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let cluster = Cluster::connect(kubeconfig.as_ref()).await?;
    let stop = CancellationToken::new();
    let nodes = hollow::Nodes::default();
    let hollow = tokio::spawn(hollow::run(cluster.clone(), nodes.clone(), stop.clone()));
    let outcome = scenario::run(&cluster, &nodes).await;
    stop.cancel();
    hollow.await?;
    for line in outcome? {
        println!("{line}");
    }
    Ok(())
}
