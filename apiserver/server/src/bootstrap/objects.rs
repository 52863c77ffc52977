//! The objects of a new cluster, beside the RBAC policy: namespaces, the `kubernetes` service, priority classes and so on.
//! Only what they are; [`super::initial`] writes them.

use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::{Value, json};
use skeg_machinery::gvk::GroupResource;

use crate::pki::Pki;
use crate::pki::join::BootstrapToken;

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
    if address.advertise.is_loopback() {
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
            "reason": "",
            "message": "Kubernetes default Service CIDR is ready",
            "lastTransitionTime": now,
        }] },
    });
    vec![initial("networking.k8s.io", "servicecidrs", object, Existing::Keep)]
}

/// What extension API servers need to know to authenticate who calls them.
pub fn authentication_config(pki: &Pki) -> Vec<Initial> {
    let object = json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": { "name": "extension-apiserver-authentication", "namespace": "kube-system" },
        "data": {
            "client-ca-file": pki.ca.certificate_pem,
            "requestheader-allowed-names": r#"["front-proxy-client"]"#,
            "requestheader-client-ca-file": pki.front_proxy_ca.certificate_pem,
            "requestheader-extra-headers-prefix": r#"["X-Remote-Extra-"]"#,
            "requestheader-group-headers": r#"["X-Remote-Group"]"#,
            "requestheader-uid-headers": r#"["X-Remote-Uid"]"#,
            "requestheader-username-headers": r#"["X-Remote-User"]"#,
        },
    });
    vec![initial("", "configmaps", object, Existing::Overwrite(&["data"]))]
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
