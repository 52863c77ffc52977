//! The objects of a new cluster, beside the RBAC policy: namespaces, the `kubernetes` service, priority classes and so on.
//! Only what they are; [`super::initial`] writes them.

use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::{Value, json};
use skeg_machinery::gvk::GroupResource;

use crate::pki::join::BootstrapToken;
use crate::trust::Trust;

/// An object and what becomes of one that is there already.
#[derive(Clone, Debug)]
pub struct Initial {
    pub resource: GroupResource,
    pub object: Value,
    pub existing: Existing,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Existing {
    /// People may change it.
    Keep,
    /// These fields are the server's own: what differs is written again.
    Overwrite(&'static [&'static str]),
}

fn initial(group: &'static str, resource: &'static str, object: Value, existing: Existing) -> Initial {
    Initial { resource: GroupResource::from_static(group, resource), object, existing }
}

pub fn namespaces() -> Vec<Initial> {
    ["default", "kube-system", "kube-public", "kube-node-lease"]
        .map(|name| {
            let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
            initial("", "namespaces", object, Existing::Keep)
        })
        .into()
}

pub fn priority_classes() -> Vec<Initial> {
    [
        ("system-node-critical", 2_000_001_000, "Used for system critical pods that must not be moved from their current node."),
        (
            "system-cluster-critical",
            2_000_000_000,
            "Used for system critical pods that must run in the cluster, but can be moved to another node if necessary.",
        ),
    ]
    .map(|(name, value, description)| {
        let object = json!({
            "apiVersion": "scheduling.k8s.io/v1",
            "kind": "PriorityClass",
            "metadata": { "name": name },
            "value": value,
            "description": description,
            "preemptionPolicy": "PreemptLowerPriority",
        });
        initial("scheduling.k8s.io", "priorityclasses", object, Existing::Overwrite(&["description"]))
    })
    .into()
}

/// Where this server is reached, and what it offers under.
#[derive(Clone, Debug)]
pub struct Address {
    pub advertise: IpAddr,
    pub port: u16,
    /// Of the `kubernetes` service.
    pub service: IpAddr,
    /// Whether the service leads here; otherwise somebody else says where to.
    pub published: bool,
}

pub fn kubernetes_service(address: &Address) -> Vec<Initial> {
    let ports = json!([{ "name": "https", "port": address.port, "protocol": "TCP" }]);
    let family = if address.advertise.is_ipv6() { "IPv6" } else { "IPv4" };
    let metadata = |labels: Value| json!({ "name": "kubernetes", "namespace": "default", "labels": labels });
    let service = json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata(json!({ "component": "apiserver", "provider": "kubernetes" })),
        "spec": {
            "type": "ClusterIP",
            "clusterIP": address.service.to_string(),
            "ipFamilyPolicy": "SingleStack",
            "sessionAffinity": "None",
            "ports": [{ "name": "https", "port": 443, "protocol": "TCP", "targetPort": address.port }],
        },
    });
    let endpoints = json!({
        "apiVersion": "v1",
        "kind": "Endpoints",
        "metadata": metadata(json!({ "endpointslice.kubernetes.io/skip-mirror": "true" })),
        "subsets": [{ "addresses": [{ "ip": address.advertise.to_string() }], "ports": ports }],
    });
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": metadata(json!({ "kubernetes.io/service-name": "kubernetes" })),
        "addressType": family,
        "endpoints": [{ "addresses": [address.advertise.to_string()], "conditions": { "ready": true } }],
        "ports": ports,
    });
    // An endpoint must not be a loopback address; a server that only listens there has a service without endpoints.
    if address.advertise.is_loopback() || !address.published {
        return vec![initial("", "services", service, Existing::Keep)];
    }
    vec![
        initial("", "services", service, Existing::Keep),
        initial("", "endpoints", endpoints, Existing::Overwrite(&["subsets"])),
        initial("discovery.k8s.io", "endpointslices", slice, Existing::Overwrite(&["endpoints", "ports"])),
    ]
}

pub fn service_cidr(networks: &[IpNet], now: &str) -> Vec<Initial> {
    let cidrs: Vec<String> = networks.iter().map(|network| network.trunc().to_string()).collect();
    let object = json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "ServiceCIDR",
        "metadata": { "name": "kubernetes" },
        "spec": { "cidrs": cidrs },
        "status": { "conditions": [{
            "type": "Ready",
            "status": "True",
            "message": "Kubernetes default Service CIDR is ready",
            "lastTransitionTime": now,
        }] },
    });
    vec![initial("networking.k8s.io", "servicecidrs", object, Existing::Keep)]
}

/// What extension API servers need to know to authenticate who calls them.
pub fn authentication_config(trust: &Trust) -> Vec<Initial> {
    let mut data = serde_json::Map::new();
    if let Some(ca) = &trust.client_ca {
        data.insert("client-ca-file".to_owned(), json!(ca));
    }
    if let Some(proxy) = &trust.front_proxy {
        let list = |names: &[String]| json!(json!(names).to_string());
        // Headers as people write them.
        let headers = |names: &[String]| list(&names.iter().map(|name| canonical(name)).collect::<Vec<_>>());
        data.insert("requestheader-allowed-names".to_owned(), list(&proxy.allowed_names));
        data.insert("requestheader-client-ca-file".to_owned(), json!(proxy.ca));
        data.insert("requestheader-extra-headers-prefix".to_owned(), headers(&proxy.headers.extra_prefixes));
        data.insert("requestheader-group-headers".to_owned(), headers(&proxy.headers.groups));
        data.insert("requestheader-uid-headers".to_owned(), headers(&proxy.headers.uids));
        data.insert("requestheader-username-headers".to_owned(), headers(&proxy.headers.users));
    }
    let object = json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": { "name": "extension-apiserver-authentication", "namespace": "kube-system" },
        "data": data,
    });
    vec![initial("", "configmaps", object, Existing::Overwrite(&["data"]))]
}

/// A header's name as Go writes it: each word with a capital.
fn canonical(name: &str) -> String {
    let word = |word: &str| {
        let (first, rest) = word.split_at(word.chars().next().map_or(0, char::len_utf8));
        first.to_ascii_uppercase() + rest
    };
    name.split('-').map(word).collect::<Vec<_>>().join("-")
}

/// The join token as a bootstrap token, and what bootstrappers may do with it: ask for a kubelet's client certificate,
/// which is approved for them, as kubeadm sets it up.
pub fn join_token(token: &BootstrapToken) -> Vec<Initial> {
    let secret = json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": { "name": format!("bootstrap-token-{}", token.id), "namespace": "kube-system" },
        "type": crate::authn::bootstrap_token::SECRET_TYPE,
        "stringData": {
            "token-id": token.id,
            "token-secret": token.secret,
            "usage-bootstrap-authentication": "true",
            "description": "Joins nodes to this cluster.",
        },
    });
    let binding = |name: &str, role: &str, group: &str| {
        let object = json!({
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRoleBinding",
            "metadata": { "name": name },
            "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role },
            "subjects": [{ "apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": group }],
        });
        initial("rbac.authorization.k8s.io", "clusterrolebindings", object, Existing::Keep)
    };
    // A machine that joins has nothing but the token, which tells it whether to trust the CA that it reads.
    let reader = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRole",
        "metadata": { "name": "skeg:ca-reader" },
        "rules": [{ "verbs": ["get"], "nonResourceURLs": ["/cacerts"] }],
    });
    let nodeclient = "system:certificates.k8s.io:certificatesigningrequests:nodeclient";
    let selfnodeclient = "system:certificates.k8s.io:certificatesigningrequests:selfnodeclient";
    vec![
        initial("", "secrets", secret, Existing::Keep),
        initial("rbac.authorization.k8s.io", "clusterroles", reader, Existing::Keep),
        binding("skeg:ca-reader", "skeg:ca-reader", "system:unauthenticated"),
        binding("skeg:node-bootstrapper", "system:node-bootstrapper", "system:bootstrappers"),
        // A node's agent is its service proxy as well.
        binding("skeg:node-proxier", "system:node-proxier", "system:nodes"),
        binding("skeg:node-autoapprove-bootstrap", nodeclient, "system:bootstrappers"),
        binding("skeg:node-autoapprove-certificate-rotation", selfnodeclient, "system:nodes"),
    ]
}
