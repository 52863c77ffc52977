//! Runs the whole API server, TLS, RBAC and admission included, in a directory until killed, for trying clients by hand:
//! `standard DIRECTORY [PORT]`, then `kubectl --kubeconfig DIRECTORY/admin.kubeconfig`.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use skeg_server::bootstrap::EdgeOptions;
use skeg_server::pki::{Pki, PkiOptions, kubeconfig};
use skeg_server::serving::{self, tls};
use skeg_server::standard;
use skeg_server::trust::Trust;
use skeg_storage::{Embedded, Options};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

#[tokio::main]
async fn main() {
    let started = Instant::now();
    let mut arguments = std::env::args().skip(1);
    let directory = PathBuf::from(arguments.next().expect("usage: standard DIRECTORY [PORT]"));
    let port: u16 = arguments.next().map_or(0, |port| port.parse().expect("a port is a number"));
    std::fs::create_dir_all(&directory).expect("the directory can be made");
    let store = Arc::new(Embedded::open(directory.join("db"), Options::default()).expect("the store opens"));
    let pki = Pki::load_or_create(&PkiOptions {
        dir: directory.join("pki"),
        node_name: "node-a".into(),
        sans: vec![],
        addresses: vec![],
        service_addresses: vec!["10.43.0.1".parse().expect("an address")],
        cluster_domain: "cluster.local".into(),
    })
    .expect("certificates can be made");
    let listener = serving::listen(([127, 0, 0, 1], port).into()).await.expect("the port is free");
    let address = listener.local_addr().expect("a bound socket has an address");
    let options = EdgeOptions {
        service_networks: vec!["10.43.0.0/16".parse().expect("a network")],
        advertise: "127.0.0.1".parse().expect("an address"),
        port: address.port(),
        ..EdgeOptions::default()
    };
    let (_, trust) = tokio::sync::watch::channel(Trust::of(&pki));
    let (tasks, shutdown) = (TaskTracker::new(), CancellationToken::new());
    let server = standard::start(store, trust, options, &tasks, &shutdown).await.expect("the server starts");
    let url = format!("https://{address}");
    let text = kubeconfig::kubeconfig("skeg", &url, &pki.ca.certificate_pem, &pki.admin);
    kubeconfig::write(&directory.join("admin.kubeconfig"), &text).expect("the kubeconfig can be written");
    println!("{url} ready to serve after {:?}", started.elapsed());
    let config = tls::live_config(&pki.serving, &[pki.ca.certificate_der()]).expect("a TLS configuration");
    serving::serve(listener, config, server.service(), serving::Limits::default(), shutdown).await;
}
