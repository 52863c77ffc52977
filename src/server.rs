//! `skeg server`: the control plane, and a node beside it unless told not to.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use anyhow::Context;
use skeg_kubelet::ServerTls;
use tokio_util::sync::CancellationToken;

use crate::control_plane;

#[derive(clap::Args)]
pub struct Args {
    /// Address to listen on
    #[arg(long, default_value = "0.0.0.0")]
    pub bind_address: IpAddr,
    /// Port to listen on
    #[arg(long, default_value_t = 6443)]
    pub https_listen_port: u16,
    /// Further names and addresses for the serving certificate
    #[arg(long = "tls-san", value_delimiter = ',')]
    pub tls_sans: Vec<String>,
    /// A file of static tokens: token,user,uid,"group1,group2" in each line
    #[arg(long)]
    pub token_auth_file: Option<PathBuf>,
    /// Where to write the administrator's kubeconfig [default: kubeconfig in the data directory]
    #[arg(long)]
    pub write_kubeconfig: Option<PathBuf>,
    #[command(flatten)]
    pub datastore: crate::datastore::DatastoreArgs,
    /// Run no node here
    #[arg(long)]
    pub disable_agent: bool,
    /// Run no controllers and no scheduler here
    #[arg(long)]
    pub disable_controllers: bool,
    #[command(flatten)]
    pub node: crate::node::NodeArgs,
}

pub async fn run(args: Args, shutdown: CancellationToken) -> anyhow::Result<()> {
    if !args.disable_agent {
        crate::node::refuse_without_root()?;
    }
    let settings = args.node.clone().settings()?;
    // The node's own task is what a failure of it ends; everything else ends after it.
    let stop = shutdown.child_token();
    let address = SocketAddr::new(args.bind_address, args.https_listen_port);
    let listener = skeg_server::serving::listen(address).await.with_context(|| {
        format!("cannot listen on {address}: is another server running? --https-listen-port chooses another port")
    })?;
    let plane = control_plane::start(&args, &settings, listener, stop.clone()).await?;
    let node = async {
        if args.disable_agent {
            stop.cancelled().await;
            return Ok(());
        }
        let pki = settings.args.data_dir.join("pki");
        let server_tls = ServerTls {
            certificate: pki.join("kubelet-serving.crt"),
            key: pki.join("kubelet-serving.key"),
            client_ca: pki.join("ca.crt"),
        };
        let (kubelet, network) = (plane.node_client(&settings.name), plane.network_client());
        crate::node::run(settings.clone(), kubelet, network, Some(server_tls), stop.clone()).await
    };
    let ended = node.await;
    stop.cancel();
    plane.join().await;
    ended
}
