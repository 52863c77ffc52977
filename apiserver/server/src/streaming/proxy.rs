//! pods/proxy, services/proxy and nodes/proxy: HTTP, upgrades included, to what the path names.

use std::sync::Arc;

use async_trait::async_trait;
use axum::body::Body;
use axum::response::Response;
use http::{HeaderValue, Method, StatusCode, header};
use rand::seq::IndexedRandom;
use serde_json::{Value, json};
use skeg_machinery::gvk::GroupResource;
use skeg_machinery::status::Status;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::kubelet::{Kubelets, core};
use super::links::Links;
use super::tunnel;
use crate::admission::Operation;
use crate::resources::Resources;
use crate::special::{SpecialHandler, SpecialRequest};

/// Serves the proxy subresource of `pods`, `services` or `nodes`.
pub struct Proxy {
    pub kubelets: Arc<Kubelets>,
    pub resource: &'static str,
    /// Trusts anything: what a pod serves is nobody's to vouch for (upstream does the same).
    pub tls: Arc<rustls::ClientConfig>,
}

/// `[scheme:]name[:port]`.
#[derive(Debug, PartialEq, Eq)]
struct Target<'a> {
    https: bool,
    name: &'a str,
    port: &'a str,
}

impl<'a> Target<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        let parts: Vec<&str> = text.split(':').collect();
        match *parts.as_slice() {
            [name] => Some(Self { https: false, name, port: "" }),
            [name, port] => Some(Self { https: false, name, port }),
            [scheme @ ("http" | "https" | ""), name, port] => Some(Self { https: scheme == "https", name, port }),
            _ => None,
        }
        .filter(|target| !target.name.is_empty())
    }
}

#[async_trait]
impl SpecialHandler for Proxy {
    async fn handle(&self, mut request: SpecialRequest) -> Result<Response, Status> {
        let raw = request.info.name.clone();
        let target = Target::parse(&raw).ok_or_else(|| {
            Status::bad_request(format!("invalid {} request {raw:?}", self.resource.trim_end_matches('s')))
        })?;
        let uri = request.request.uri().clone();
        let prefix = format!("/{raw}/proxy");
        let Some(at) = uri.path().find(&prefix) else {
            return Err(Status::bad_request("the path names no proxy"));
        };
        let rest = &uri.path()[at + prefix.len()..];
        if rest.is_empty() && matches!(*request.request.method(), Method::GET | Method::HEAD) {
            return Ok(with_slash(&uri));
        }
        let kind = match self.resource {
            "pods" => "PodProxyOptions",
            "services" => "ServiceProxyOptions",
            _ => "NodeProxyOptions",
        };
        let mut options = json!({"kind": kind, "apiVersion": "v1", "path": rest});
        request.admit(Operation::Connect, None, Some(&mut options), false).await?;
        let mut path = if rest.is_empty() { "/".to_owned() } else { rest.to_owned() };
        if let Some(query) = uri.query() {
            path = format!("{path}?{query}");
        }
        let prefix = &uri.path()[..at + prefix.len()];
        self.forward(&mut request, &target, prefix, &path).await
    }
}

impl Proxy {
    /// Sends the request on to the target; `prefix` is the proxy's own path, of which the target knows nothing.
    async fn forward(
        &self,
        request: &mut SpecialRequest,
        target: &Target<'_>,
        prefix: &str,
        path: &str,
    ) -> Result<Response, Status> {
        let mut headers = request.request.headers().clone();
        let asked = asked_host(&request.request);
        if let Ok(value) = HeaderValue::from_str(&format!("{prefix}{}", path.split('?').next().unwrap_or(path))) {
            headers.insert("x-forwarded-uri", value);
        }
        let client = tunnel::wants_upgrade(&headers).then(|| hyper::upgrade::on(&mut request.request));
        let body = std::mem::take(request.request.body_mut());
        let method = request.request.method().clone();
        let with = |authority: &str, body: Body| {
            // The host that the client asked is what the target hears.
            let host = if asked.is_empty() { authority } else { &asked };
            tunnel::forwarded(&method, path, host, &headers)?.body(body).map_err(Status::internal_error)
        };
        let links =
            |backend: &str| Links { prefix: prefix.to_owned(), backend: backend.to_owned(), asked: asked.clone() };
        if self.resource == "nodes" && (target.port.is_empty() || target.port == "10250") {
            let (io, authority) = self.kubelets.connect(target.name).await?;
            let answer = tunnel::pass(io, with(&authority, body)?, client).await?;
            return Ok(links(&authority).pass(answer));
        }
        let (address, port) =
            self.address(&*request.resources.clone(), &request.info.namespace.clone(), target).await?;
        let authority = if address.contains(':') { format!("[{address}]:{port}") } else { format!("{address}:{port}") };
        let io = dial(&authority).await?;
        if !target.https {
            let answer = tunnel::pass(io, with(&authority, body)?, client).await?;
            return Ok(links(&authority).pass(answer));
        }
        let name = rustls_pki_types::ServerName::try_from(address).map_err(Status::internal_error)?;
        let io = TlsConnector::from(self.tls.clone()).connect(name, io).await.map_err(|e| unavailable(&e))?;
        let answer = tunnel::pass(io, with(&authority, body)?, client).await?;
        Ok(links(&authority).pass(answer))
    }

    /// The address and port to dial.
    async fn address(
        &self,
        resources: &dyn Resources,
        namespace: &str,
        target: &Target<'_>,
    ) -> Result<(String, u16), Status> {
        let object = resources.get(&core(self.resource), namespace, target.name).await?;
        match self.resource {
            "nodes" => {
                let addresses = object["status"]["addresses"].as_array().map(Vec::as_slice).unwrap_or_default();
                let internal = addresses.iter().find(|a| a["type"] == "InternalIP").and_then(|a| a["address"].as_str());
                let port =
                    target.port.parse().map_err(|_| Status::bad_request(format!("invalid port {:?}", target.port)))?;
                internal.map(|a| (a.to_owned(), port)).ok_or_else(|| unavailable(&"the node has no address"))
            }
            "pods" => pod_address(&object, target.port),
            _ => endpoint(resources, namespace, &object, target).await,
        }
    }
}

/// The host that the client asked, empty if it said none.
fn asked_host(request: &http::Request<Body>) -> String {
    let header = request.headers().get(header::HOST).and_then(|h| h.to_str().ok());
    header.or(request.uri().authority().map(|a| a.as_str())).unwrap_or_default().to_owned()
}

/// One of the ready endpoints of a service's port.
async fn endpoint(
    resources: &dyn Resources,
    namespace: &str,
    service: &Value,
    target: &Target<'_>,
) -> Result<(String, u16), Status> {
    let none = || unavailable(&format!("no endpoints available for service {:?}", target.name));
    let ports = service["spec"]["ports"].as_array().map(Vec::as_slice).unwrap_or_default();
    let number = target.port.parse::<u64>().ok();
    let wanted = match target.port {
        "" => ports.first().filter(|_| ports.len() == 1),
        text => ports.iter().find(|p| p["name"] == text || (number.is_some() && p["port"].as_u64() == number)),
    };
    let port_name = match wanted {
        Some(port) => port["name"].as_str().unwrap_or(""),
        None if number.is_none() => target.port,
        None => {
            return Err(unavailable(&format!("no service port {:?} found for service {:?}", target.port, target.name)));
        }
    };
    let slices = GroupResource { group: "discovery.k8s.io".into(), resource: "endpointslices".into() };
    let mut found = Vec::new();
    for slice in resources.list(&slices, namespace).await? {
        if slice["metadata"]["labels"]["kubernetes.io/service-name"] != target.name {
            continue;
        }
        let ports = slice["ports"].as_array().map(Vec::as_slice).unwrap_or_default();
        let Some(port) = ports.iter().find(|p| p["name"].as_str().unwrap_or("") == port_name) else { continue };
        let Some(port) = port["port"].as_u64().and_then(|p| u16::try_from(p).ok()) else { continue };
        let endpoints = slice["endpoints"].as_array().map(Vec::as_slice).unwrap_or_default();
        for endpoint in endpoints.iter().filter(|e| e["conditions"]["ready"].as_bool().unwrap_or(true)) {
            found.extend(endpoint["addresses"][0].as_str().map(|address| (address.to_owned(), port)));
        }
    }
    found.choose(&mut rand::rng()).cloned().ok_or_else(none)
}

fn pod_address(pod: &Value, port: &str) -> Result<(String, u16), Status> {
    let name = pod["metadata"]["name"].as_str().unwrap_or("");
    let ip = pod["status"]["podIP"].as_str().filter(|ip| !ip.is_empty());
    let ip = ip.ok_or_else(|| Status::bad_request(format!("address not allowed: pod {name:?} has no address")))?;
    let port = match port {
        "" => {
            let containers = pod["spec"]["containers"].as_array().map(Vec::as_slice).unwrap_or_default();
            let mut ports =
                containers.iter().flat_map(|c| c["ports"].as_array().map(Vec::as_slice).unwrap_or_default());
            ports.next().and_then(|p| p["containerPort"].as_u64()).and_then(|p| u16::try_from(p).ok()).unwrap_or(80)
        }
        text => text.parse().map_err(|_| Status::bad_request(format!("invalid port {text:?}")))?,
    };
    // Loopback and link-local addresses are the server's own, not the pod's (CVE-2020-8561 and its kind).
    let forbidden = ip.parse::<std::net::IpAddr>().map_or(true, |ip| match ip {
        std::net::IpAddr::V4(v4) => v4.is_loopback() || v4.is_link_local() || v4.is_unspecified() || v4.is_multicast(),
        std::net::IpAddr::V6(v6) => {
            v6.is_loopback() || v6.is_unicast_link_local() || v6.is_unspecified() || v6.is_multicast()
        }
    });
    if forbidden {
        return Err(Status::bad_request("address not allowed"));
    }
    Ok((ip.to_owned(), port))
}

async fn dial(authority: &str) -> Result<TcpStream, Status> {
    let connect = TcpStream::connect(authority);
    match tokio::time::timeout(std::time::Duration::from_secs(10), connect).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) => Err(unavailable(&format!("error trying to reach service: dial tcp {authority}: {error}"))),
        Err(_) => Err(unavailable(&format!("error trying to reach service: dial tcp {authority}: i/o timeout"))),
    }
}

fn unavailable(what: &dyn std::fmt::Display) -> Status {
    Status::service_unavailable(what.to_string())
}

fn with_slash(uri: &http::Uri) -> Response {
    let query = uri.query().map(|q| format!("?{q}")).unwrap_or_default();
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::MOVED_PERMANENTLY;
    if let Ok(location) = header::HeaderValue::from_str(&format!("{}/{query}", uri.path())) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_may_name_scheme_and_port() {
        let table = [
            ("p", Some((false, "p", ""))),
            ("p:80", Some((false, "p", "80"))),
            ("https:p:443", Some((true, "p", "443"))),
            ("http:p:", Some((false, "p", ""))),
            ("ftp:p:21", None),
            (":80", None),
        ];
        for (text, wanted) in table {
            let got = Target::parse(text).map(|t| (t.https, t.name, t.port));
            assert_eq!(got, wanted, "{text}");
        }
    }

    #[test]
    fn a_pod_may_not_name_an_address_of_the_server() {
        for ip in ["127.0.0.1", "169.254.169.254", "::1", "0.0.0.0", "224.0.0.1", "not-an-ip"] {
            let pod = json!({"metadata": {"name": "p"}, "status": {"podIP": ip}});
            assert_eq!(pod_address(&pod, "80").unwrap_err().code, 400, "{ip}");
        }
        let pod = json!({"metadata": {"name": "p"}, "status": {"podIP": "10.244.0.5"}});
        assert_eq!(pod_address(&pod, "").unwrap(), ("10.244.0.5".to_owned(), 80));
    }
}
