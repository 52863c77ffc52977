//! Connections to kubelets: which node, which address, with the API server's own certificate.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use serde_json::Value;
use skeg_machinery::gvk::GroupResource;
use skeg_machinery::status::Status;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::resources::Resources;

const CONNECT: Duration = Duration::from_secs(10);
/// Upstream's --kubelet-preferred-address-types.
const ADDRESS_TYPES: [&str; 5] = ["Hostname", "InternalDNS", "InternalIP", "ExternalDNS", "ExternalIP"];

/// Opens connections to the kubelets of the cluster's nodes.
pub struct Kubelets {
    pub resources: Arc<dyn Resources>,
    /// Trusts what kubelets serve with, and has the API server's client certificate. Only HTTP/1.1 can be upgraded.
    pub tls: ArcSwap<ClientConfig>,
    /// Which kinds of addresses are dialled, the best first; empty: the internal one, then upstream's order.
    pub address_types: Vec<String>,
}

/// `pods`, `nodes`, … of the core group.
pub fn core(resource: &str) -> GroupResource {
    GroupResource { group: String::new().into(), resource: resource.to_owned().into() }
}

fn unreachable(what: impl std::fmt::Display) -> Status {
    Status::internal_error(what)
}

impl Kubelets {
    /// The pod and the name of the node that it is bound to.
    pub async fn pod(&self, namespace: &str, name: &str) -> Result<(Value, String), Status> {
        let pod = self.resources.get(&core("pods"), namespace, name).await?;
        match pod["spec"]["nodeName"].as_str().unwrap_or("") {
            "" => Err(Status::bad_request(format!("pod {name} does not have a host assigned"))),
            node => {
                let node = node.to_owned();
                Ok((pod, node))
            }
        }
    }

    /// A TLS connection to a node's kubelet, and the authority (`address:port`) it was opened to.
    pub async fn connect(&self, node: &str) -> Result<(TlsStream<TcpStream>, String), Status> {
        let object = self.resources.get_cached(&core("nodes"), "", node).await?;
        let object = object.ok_or_else(|| Status::not_found(&core("nodes"), node))?;
        let port = object["status"]["daemonEndpoints"]["kubeletEndpoint"]["Port"].as_u64().unwrap_or(10250);
        let address = address(&object, &self.address_types)
            .ok_or_else(|| unreachable(format!("no preferred addresses found for node {node:?}")))?;
        let authority = match address.parse::<IpAddr>() {
            Ok(IpAddr::V6(_)) => format!("[{address}]:{port}"),
            _ => format!("{address}:{port}"),
        };
        let failed =
            |what: &dyn std::fmt::Display| unreachable(format!("error dialing backend: dial tcp {authority}: {what}"));
        let stream = match tokio::time::timeout(CONNECT, TcpStream::connect(&authority)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return Err(failed(&error)),
            Err(_) => return Err(failed(&"i/o timeout")),
        };
        // Small frames of a terminal must not wait for more.
        let _ = stream.set_nodelay(true);
        let name = ServerName::try_from(address).map_err(|e| failed(&e))?;
        match tokio::time::timeout(CONNECT, TlsConnector::from(self.tls.load_full()).connect(name, stream)).await {
            Ok(Ok(stream)) => Ok((stream, authority)),
            Ok(Err(error)) => Err(failed(&error)),
            Err(_) => Err(failed(&"TLS handshake timeout")),
        }
    }
}

/// The first address that can be dialled; a host name only when it is the only thing known.
fn address(node: &Value, wanted: &[String]) -> Option<String> {
    let addresses = node["status"]["addresses"].as_array()?;
    let of = |kind: &str| {
        let found = addresses.iter().find(|a| a["type"] == kind)?;
        found["address"].as_str().map(str::to_owned)
    };
    if !wanted.is_empty() {
        return wanted.iter().find_map(|kind| of(kind));
    }
    of("InternalIP").or_else(|| ADDRESS_TYPES.iter().find_map(|kind| of(kind)))
}
