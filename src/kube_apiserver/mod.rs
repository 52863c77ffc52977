//! `skeg kube-apiserver`: the API server alone, with kube-apiserver's flags, so that it can stand where that one stands.
//! Without `--etcd-servers` it keeps everything in the embedded engine.
//!
//! ```text
//! flags ─> options (files read, values checked) ─> the server, its listener, and a task that follows the serving certificate
//! ```

mod flags;
mod options;
mod runtime_config;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use skeg_server::pki::Issued;
use skeg_server::{serving, standard};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::options::Options;
use crate::component;

/// The name under which the program is this component and nothing else.
pub const NAME: &str = "kube-apiserver";
/// How often the files of the serving certificate are looked at.
const LOOK: Duration = Duration::from_secs(30);

/// The component.
pub const COMPONENT: component::Component = component::Component {
    name: NAME,
    about: "Serves the Kubernetes API, as kube-apiserver does.",
    flags: flags::FLAGS,
    run: |given, shutdown| Box::pin(async move { serve(options::read(&given)?, shutdown).await }),
};

async fn serve(options: Options, shutdown: CancellationToken) -> anyhow::Result<()> {
    let address = SocketAddr::new(options.bind, options.port);
    let listener = serving::listen(address).await;
    let listener =
        listener.with_context(|| format!("failed to listen on {address}: --secure-port chooses another port"))?;
    let store = crate::datastore::open(&options.datastore, options.data_dir.join("store")).await?.store;
    // What is asked to stop first only stops taking requests after the delay.
    let stop = CancellationToken::new();
    let tasks = TaskTracker::new();
    let server = standard::start(store.clone(), &options.trust, options.server, &tasks, &stop).await;
    let server = server.context("cannot start the API server")?;
    let certificate = serving::tls::ServingCertificate::new(&options.serving)?;
    let hints = options.trust.client_ca.as_deref().map(skeg_server::pki::certificates).unwrap_or_default();
    let tls = Arc::new(serving::tls::server_config(&certificate, &hints)?);
    tasks.spawn(serving::serve(listener, tls, server.service(), options.connections, stop.clone()));
    if let Some(files) = options.serving_files {
        tasks.spawn(follow(files, options.serving, certificate, stop.clone()));
    }
    tracing::info!(%address, "serving");
    shutdown.cancelled().await;
    tokio::time::sleep(options.shutdown_delay).await;
    stop.cancel();
    tasks.close();
    if tokio::time::timeout(Duration::from_secs(12), tasks.wait()).await.is_err() {
        tracing::warn!("some tasks did not end in time");
    }
    drop((server, store));
    Ok(())
}

/// Takes up a serving certificate that was replaced on disk.
async fn follow(
    files: component::CertificateFiles,
    mut current: Issued,
    certificate: serving::tls::ServingCertificate,
    stop: CancellationToken,
) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(LOOK) => {}
        }
        match files.read() {
            Ok(new) if new.certificate_pem == current.certificate_pem && new.key_pem == current.key_pem => {}
            Ok(new) => match certificate.replace(&new) {
                Ok(()) => {
                    tracing::info!("serving with a new certificate");
                    current = new;
                }
                Err(error) => {
                    tracing::warn!(error = &error as &dyn std::error::Error, "the new certificate is not usable")
                }
            },
            // Half of the pair may be there already.
            Err(error) => tracing::warn!("the serving certificate cannot be read: {error:#}"),
        }
    }
}
