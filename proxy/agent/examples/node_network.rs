//! The network side of one node against any API server, for trying it out in a network namespace:
//!
//! `node_network KUBECONFIG NODE_NAME NODE_IP CNI_CONF_DIR [none|vxlan]`, ended by Ctrl-C; `teardown` after the arguments
//! removes what it left.

use skeg_proxy::Config;
use tokio_util::sync::CancellationToken;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    tracing_subscriber::fmt().with_env_filter(tracing_subscriber::EnvFilter::from_default_env()).init();
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [kubeconfig, name, ip, conf_dir, rest @ ..] = &args[..] else {
        return Err("arguments: KUBECONFIG NODE_NAME NODE_IP CNI_CONF_DIR [none|vxlan] [teardown]".into());
    };
    let mut config = Config::new(name, ip.parse()?);
    config.cni_conf_dir = conf_dir.into();
    config.cni_state_dir = std::path::Path::new(conf_dir).join("addresses");
    config.overlay = rest.first().map_or(Ok(skeg_proxy::Overlay::None), |o| o.parse())?;
    if rest.iter().any(|a| a == "teardown") {
        return Ok(skeg_proxy::teardown(&config).await?);
    }
    let kubeconfig = kube::config::Kubeconfig::read_from(kubeconfig)?;
    let options = kube::config::KubeConfigOptions::default();
    let client = kube::Client::try_from(kube::Config::from_custom_kubeconfig(kubeconfig, &options).await?)?;
    let shutdown = CancellationToken::new();
    let stop = shutdown.clone();
    tokio::spawn(async move {
        let _ = tokio::signal::ctrl_c().await;
        stop.cancel();
    });
    Ok(skeg_proxy::run(config, client, shutdown).await?)
}
