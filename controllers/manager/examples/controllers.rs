//! Runs the controllers against the cluster of the current kubeconfig until interrupted:
//! `KUBECONFIG=… cargo run -p skeg-controllers --example controllers -- [CLUSTER_CIDR] [CA_CERT CA_KEY]`

use skeg_controllers::{Config, Signing};
use tokio_util::sync::CancellationToken;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    tracing_subscriber::fmt().with_env_filter(tracing_subscriber::EnvFilter::from_default_env()).init();
    let mut args = std::env::args().skip(1);
    let mut config = Config::default();
    if let Some(cidr) = args.next() {
        config.cluster_cidr.push(cidr.parse()?);
    }
    if let (Some(cert), Some(key)) = (args.next(), args.next()) {
        config.root_ca_pem = std::fs::read_to_string(&cert)?;
        config.signing = Some(Signing {
            ca_cert_pem: config.root_ca_pem.clone(),
            ca_key_pem: std::fs::read_to_string(key)?,
            duration: std::time::Duration::from_secs(365 * 24 * 3600),
        });
    }
    let client = kube::Client::try_default().await?;
    let shutdown = CancellationToken::new();
    let stop = shutdown.clone();
    let interrupted = tokio::spawn(async move {
        if tokio::signal::ctrl_c().await.is_ok() {
            stop.cancel();
        }
    });
    skeg_controllers::run(config, client, shutdown).await?;
    interrupted.abort();
    Ok(())
}
