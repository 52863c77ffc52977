//! Cluster DNS, answered on every node from the agent's own watch.
//!
//! ```text
//!   Event ──> Zone (pure index) <── Server: UDP and TCP on the DNS address, port 53 ──> upstream resolvers
//! ```
//!
//! The address is the cluster IP of the Service `kube-dns`, bound to the loopback interface of every node: a pod's
//! question never leaves its node. The service proxy leaves that address alone.

mod forward;
mod server;
#[cfg(test)]
mod tests;
mod zone;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::http::StatusCode;
use k8s_openapi::api::core::v1::Service;
use kube::api::PostParams;
use kube::{Api, Client};
use serde_json::json;
use tokio::net::{TcpListener, UdpSocket};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use self::forward::Forwarder;
use self::server::Server;
use self::zone::Zone;
use crate::feed::{Event, Source};
use crate::{Config, Error};

/// Where the node says whether DNS is ready, as upstream's server does.
const READY_PORT: u16 = 8181;
const PORT: u16 = 53;

/// Serves until `shutdown`; the address stays bound to the loopback interface.
pub async fn run(
    config: &Config,
    client: Client,
    mut events: mpsc::Receiver<Event>,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    crate::network::claim_address(config.dns_ip).await?;
    let server = Arc::new(Server::new(new_zone(config)?, Forwarder::new(resolvers(config))));
    let addr = SocketAddr::new(config.dns_ip, PORT);
    let refused = |source| Error::Listen { addr, source };
    let udp = UdpSocket::bind(addr).await.map_err(refused)?;
    let tcp = TcpListener::bind(addr).await.map_err(refused)?;
    let mut tasks = JoinSet::new();
    tasks.spawn(server.clone().serve_udp(udp, shutdown.clone()));
    tasks.spawn(server.clone().serve_tcp(tcp, shutdown.clone()));
    tasks.spawn(serve_ready(config.clone(), server.clone(), shutdown.clone()));
    tasks.spawn(publish(config.clone(), client, shutdown.clone()));
    let (mut services, mut slices) = (false, false);
    let mut batch = Vec::new();
    loop {
        tokio::select! {
            () = shutdown.cancelled() => break,
            received = events.recv_many(&mut batch, 256) => if received == 0 { break },
        }
        let mut zone = server.zone.write().expect("nothing panics with the zone locked");
        for event in batch.drain(..) {
            match event {
                Event::Service(key, view) => zone.set_service(key, view),
                Event::Slice { service, name, slice } => zone.set_slice(service, name, slice),
                Event::Synced(Source::Services) => services = true,
                Event::Synced(Source::Slices) => slices = true,
                Event::Synced(Source::Nodes) | Event::Node(..) => {}
            }
        }
        zone.ready = services && slices;
    }
    shutdown.cancel();
    while tasks.join_next().await.is_some() {}
    Ok(())
}

fn new_zone(config: &Config) -> Result<Zone, Error> {
    let serial = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs() as u32);
    let networks = [&config.cluster_cidr[..], &config.service_cidr[..]].concat();
    Zone::new(&config.cluster_domain, config.dns_ip, networks, serial)
        .map_err(|reason| Error::Domain { domain: config.cluster_domain.clone(), reason })
}

fn resolvers(config: &Config) -> Vec<SocketAddr> {
    config.upstream_resolvers.clone().unwrap_or_else(|| {
        let text = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
        let found = forward::resolv_conf(&text, config.dns_ip);
        if found.is_empty() {
            tracing::warn!("/etc/resolv.conf names no resolver: only cluster names are answered");
        }
        found
    })
}

/// Answers `/ready`: 200 once the cluster's names are known.
async fn serve_ready(config: Config, server: Arc<Server>, shutdown: CancellationToken) {
    let app = axum::Router::new().route(
        "/ready",
        axum::routing::get(move || {
            let ready = server.zone.read().expect("nothing panics with the zone locked").ready;
            async move { if ready { (StatusCode::OK, "OK") } else { (StatusCode::SERVICE_UNAVAILABLE, "not synced") } }
        }),
    );
    let addr = SocketAddr::new(config.dns_ip, READY_PORT);
    let served = match TcpListener::bind(addr).await {
        Ok(listener) => axum::serve(listener, app).with_graceful_shutdown(shutdown.cancelled_owned()).await,
        Err(e) => Err(e),
    };
    if let Err(error) = served {
        tracing::warn!(%error, %addr, "DNS readiness is not served");
    }
}

/// Makes the Service `kube-dns` exist, for those who look for it. Every node tries; the first one succeeds.
async fn publish(config: Config, client: Client, shutdown: CancellationToken) {
    let api: Api<Service> = Api::namespaced(client, "kube-system");
    let service = serde_json::from_value(json!({
        "metadata": {
            "name": "kube-dns",
            "labels": {"k8s-app": "kube-dns", "kubernetes.io/cluster-service": "true", "kubernetes.io/name": "CoreDNS"},
        },
        "spec": {
            "clusterIP": config.dns_ip,
            "ports": [
                {"name": "dns", "port": 53, "protocol": "UDP", "targetPort": 53},
                {"name": "dns-tcp", "port": 53, "protocol": "TCP", "targetPort": 53},
            ],
        },
    }));
    let service: Service = service.expect("a literal Service");
    let mut wait = Duration::from_secs(1);
    loop {
        match api.create(&PostParams::default(), &service).await {
            Ok(_) => return,
            Err(kube::Error::Api(status)) if status.code == 409 => return,
            Err(kube::Error::Api(status)) if status.code == 403 && !status.message.contains("namespace") => {
                tracing::debug!(message = %status.message, "may not create the Service kube-dns");
            }
            Err(e) => tracing::debug!(error = %crate::chain(&e), "the Service kube-dns is not created yet"),
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(wait) => wait = (wait * 2).min(Duration::from_secs(60)),
        }
    }
}
