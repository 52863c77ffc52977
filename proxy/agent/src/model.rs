//! What the agent keeps of Services, EndpointSlices and Nodes: the few fields that plans and DNS answers read.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use k8s_openapi::api::core::v1::{LoadBalancerStatus, Node, ServiceSpec};
use k8s_openapi::api::discovery::v1::EndpointSlice;

/// Namespace and name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectKey {
    pub namespace: Arc<str>,
    pub name: Arc<str>,
}

impl ObjectKey {
    /// A key of its two parts.
    pub fn new(namespace: &str, name: &str) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// Transport protocol of a service port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    Tcp = 6,
    Udp = 17,
    Sctp = 132,
}

impl Protocol {
    fn parse(name: Option<&str>) -> Option<Self> {
        match name {
            None | Some("TCP") => Some(Protocol::Tcp),
            Some("UDP") => Some(Protocol::Udp),
            Some("SCTP") => Some(Protocol::Sctp),
            Some(_) => None,
        }
    }
}

/// A Service as it is watched: without the conditions of its status, which may hold what typed clients cannot read (a null time),
/// and one such Service would end the watch of all.
pub type Service = kube::api::Object<ServiceSpec, ServiceStatus>;

/// What matters of a Service's status.
#[derive(Clone, Debug, Default, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceStatus {
    pub load_balancer: Option<LoadBalancerStatus>,
}

/// A Service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceView {
    /// Empty for headless and ExternalName services.
    pub cluster_ips: Vec<IpAddr>,
    /// `clusterIP: None`.
    pub headless: bool,
    pub external_name: Option<String>,
    pub ports: Vec<ServicePort>,
    pub external_ips: Vec<IpAddr>,
    /// Load-balancer addresses that the node must answer for (`ipMode: VIP`).
    pub ingress_ips: Vec<IpAddr>,
    pub source_ranges: Vec<IpNet>,
    /// Seconds that a client sticks to its endpoint; 0 is no affinity.
    pub affinity: u32,
    pub internal_local: bool,
    pub external_local: bool,
    pub health_check_node_port: Option<u16>,
    /// Another proxy serves it, or none: see [`NOT_PROXIED`].
    pub foreign: bool,
}

/// One port of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    pub name: String,
    pub protocol: Protocol,
    pub port: u16,
    /// 0 when there is none.
    pub node_port: u16,
}

impl ServiceView {
    /// The fields that matter; malformed addresses and ports are left out, as the API server would not admit them.
    pub fn project(service: &Service) -> Self {
        let spec = &service.spec;
        let kind = spec.type_.as_deref().unwrap_or("ClusterIP");
        let external = kind == "ExternalName";
        let headless = spec.cluster_ip.as_deref() == Some("None");
        let single = spec.cluster_ip.iter().filter(|_| spec.cluster_ips.is_none());
        let cluster_ips = spec.cluster_ips.iter().flatten().chain(single);
        let has_nodes = kind == "NodePort" || kind == "LoadBalancer";
        let affinity = match spec.session_affinity.as_deref() {
            Some("ClientIP") => {
                let config = spec.session_affinity_config.as_ref().and_then(|c| c.client_ip.as_ref());
                config.and_then(|c| c.timeout_seconds).map_or(10_800, |t| t.max(1) as u32)
            }
            _ => 0,
        };
        let labels = service.metadata.labels.as_ref();
        Self {
            cluster_ips: if external || headless { vec![] } else { cluster_ips.filter_map(|i| vip(i)).collect() },
            headless,
            external_name: spec.external_name.clone().filter(|_| external),
            ports: spec.ports.iter().flatten().filter_map(project_port).collect(),
            external_ips: if external {
                vec![]
            } else {
                spec.external_ips.iter().flatten().filter_map(|i| vip(i)).collect()
            },
            ingress_ips: if kind == "LoadBalancer" { ingress_ips(service) } else { vec![] },
            source_ranges: source_ranges(service),
            affinity,
            internal_local: spec.internal_traffic_policy.as_deref() == Some("Local"),
            external_local: spec.external_traffic_policy.as_deref() == Some("Local"),
            health_check_node_port: spec.health_check_node_port.filter(|_| has_nodes).and_then(port),
            foreign: labels.is_some_and(not_proxied),
        }
    }
}

/// Labels of Services and EndpointSlices that the cluster's service proxy leaves alone, whatever their values.
const NOT_PROXIED: [&str; 2] = ["service.kubernetes.io/service-proxy-name", "service.kubernetes.io/headless"];

fn not_proxied(labels: &BTreeMap<String, String>) -> bool {
    NOT_PROXIED.iter().any(|label| labels.contains_key(*label))
}

fn project_port(p: &k8s_openapi::api::core::v1::ServicePort) -> Option<ServicePort> {
    Some(ServicePort {
        name: p.name.clone().unwrap_or_default(),
        protocol: Protocol::parse(p.protocol.as_deref())?,
        port: port(p.port)?,
        node_port: p.node_port.and_then(port).unwrap_or(0),
    })
}

fn port(port: i32) -> Option<u16> {
    u16::try_from(port).ok().filter(|p| *p != 0)
}

/// An address that traffic may be diverted from: never one of the host's own by nature.
fn vip(text: &str) -> Option<IpAddr> {
    let ip: IpAddr = text.parse().ok()?;
    let link_local = match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    };
    (!ip.is_loopback() && !ip.is_unspecified() && !ip.is_multicast() && !link_local).then_some(ip)
}

fn ingress_ips(service: &Service) -> Vec<IpAddr> {
    let balancer = service.status.as_ref().and_then(|s| s.load_balancer.as_ref());
    let ingress = balancer.and_then(|b| b.ingress.as_ref()).into_iter().flatten();
    let ours = ingress.filter(|i| i.ip_mode.as_deref().is_none_or(|mode| mode == "VIP"));
    ours.filter_map(|i| vip(i.ip.as_deref()?)).collect()
}

fn source_ranges(service: &Service) -> Vec<IpNet> {
    let spec = service.spec.load_balancer_source_ranges.as_ref();
    let parse = |text: &str| text.trim().parse::<IpNet>().ok().map(|n| n.trunc());
    spec.into_iter().flatten().filter_map(|r| parse(r)).collect()
}

/// An EndpointSlice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SliceView {
    /// Name of the Service in the slice's namespace.
    pub service: Arc<str>,
    pub ipv6: bool,
    /// Not for the service proxy: see [`NOT_PROXIED`].
    pub foreign: bool,
    pub ports: Vec<SlicePort>,
    pub endpoints: Vec<EndpointView>,
}

/// One port of a slice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlicePort {
    pub name: String,
    pub protocol: Protocol,
    pub port: u16,
}

/// One endpoint of a slice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointView {
    pub address: IpAddr,
    pub ready: bool,
    pub serving: bool,
    pub terminating: bool,
    pub node: Option<Arc<str>>,
    pub hostname: Option<Box<str>>,
    pub zone_hints: Box<[Box<str>]>,
    pub node_hints: Box<[Box<str>]>,
}

impl SliceView {
    /// The fields that matter; None for slices of no service or of host names.
    pub fn project(slice: &EndpointSlice) -> Option<Self> {
        let labels = slice.metadata.labels.as_ref()?;
        let service = labels.get("kubernetes.io/service-name")?;
        let ipv6 = match slice.address_type.as_str() {
            "IPv4" => false,
            "IPv6" => true,
            _ => return None,
        };
        let ports = slice.ports.iter().flatten().filter_map(|p| {
            Some(SlicePort {
                name: p.name.clone().unwrap_or_default(),
                protocol: Protocol::parse(p.protocol.as_deref())?,
                port: port(p.port?)?,
            })
        });
        let endpoints = slice.endpoints.iter().flatten().filter_map(|e| {
            let conditions = e.conditions.as_ref();
            let ready = conditions.and_then(|c| c.ready).unwrap_or(true);
            let hints = e.hints.as_ref();
            Some(EndpointView {
                address: vip(e.addresses.first()?)?,
                ready,
                serving: conditions.and_then(|c| c.serving).unwrap_or(ready),
                terminating: conditions.and_then(|c| c.terminating).unwrap_or(false),
                node: e.node_name.as_deref().map(Arc::from),
                hostname: e.hostname.as_deref().map(Box::from),
                zone_hints: hints
                    .and_then(|h| h.for_zones.as_ref())
                    .into_iter()
                    .flatten()
                    .map(|z| z.name.as_str().into())
                    .collect(),
                node_hints: hints
                    .and_then(|h| h.for_nodes.as_ref())
                    .into_iter()
                    .flatten()
                    .map(|n| n.name.as_str().into())
                    .collect(),
            })
        });
        Some(Self {
            service: service.as_str().into(),
            ipv6,
            foreign: not_proxied(labels),
            ports: ports.collect(),
            endpoints: endpoints.collect(),
        })
    }
}

/// A Node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeView {
    pub pod_cidrs: Vec<IpNet>,
    pub internal_ips: Vec<IpAddr>,
    pub zone: Option<String>,
    /// It is being deleted, or its machine is about to be: load balancers should send nothing here.
    pub leaving: bool,
}

/// The taint of a node that the cluster autoscaler takes away.
const TO_BE_DELETED: &str = "ToBeDeletedByClusterAutoscaler";

impl NodeView {
    /// The fields that matter.
    pub fn project(node: &Node) -> Self {
        let spec = node.spec.as_ref();
        let many = spec.and_then(|s| s.pod_cidrs.as_ref()).filter(|c| !c.is_empty());
        let one = spec.and_then(|s| s.pod_cidr.as_ref()).filter(|_| many.is_none());
        let addresses = node.status.as_ref().and_then(|s| s.addresses.as_ref()).into_iter().flatten();
        let labels = node.metadata.labels.as_ref();
        Self {
            pod_cidrs: many.into_iter().flatten().chain(one).filter_map(|c| c.parse().ok()).collect(),
            internal_ips: addresses
                .filter(|a| a.type_ == "InternalIP")
                .filter_map(|a| a.address.parse().ok())
                .collect(),
            zone: labels.and_then(|l| l.get("topology.kubernetes.io/zone")).cloned(),
            leaving: node.metadata.deletion_timestamp.is_some()
                || spec.and_then(|s| s.taints.as_ref()).is_some_and(|t| t.iter().any(|t| t.key == TO_BE_DELETED)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_without_a_time_hides_no_service() {
        let json = serde_json::json!({
            "metadata": {"name": "a", "namespace": "b"},
            "spec": {"clusterIP": "10.96.0.7", "ports": [{"port": 80}]},
            "status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]},
                "conditions": [{"type": "A", "status": "True", "lastTransitionTime": null, "reason": "", "message": ""}]},
        });
        let service: Service = serde_json::from_value(json).expect("readable");
        assert_eq!(ServiceView::project(&service).cluster_ips, ["10.96.0.7".parse::<IpAddr>().expect("an address")]);
        assert_eq!(ingress_ips(&service), ["192.0.2.1".parse::<IpAddr>().expect("an address")]);
    }
}
