//! Namespaces, services, endpoints, slices, accounts, quotas, volumes' claims.

use serde::Deserialize;

use super::Condition;
use crate::interned::{Str, interned, null_default};
use crate::meta::{Meta, Pairs};
use crate::resource::{Obj, Object, Resource, Spec};

/// A namespace.
pub type Namespace = Obj<NamespaceSpec>;

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct NamespaceSpec {
    #[serde(deserialize_with = "null_default")]
    pub finalizers: Vec<Str>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct NamespaceStatus {
    /// `Active` or `Terminating`.
    #[serde(deserialize_with = "interned")]
    pub phase: Str,
    #[serde(deserialize_with = "null_default")]
    pub conditions: Vec<Condition>,
}

impl Spec for NamespaceSpec {
    type Status = NamespaceStatus;
    const RESOURCE: Resource = Resource::new("", "v1", "Namespace", "namespaces", false);
}

/// A service.
pub type Service = Obj<ServiceSpec>;

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ServiceSpec {
    #[serde(deserialize_with = "null_default")]
    pub selector: Pairs,
    #[serde(deserialize_with = "null_default")]
    pub ports: Vec<ServicePort>,
    #[serde(rename = "type", deserialize_with = "interned")]
    pub kind: Str,
    #[serde(rename = "clusterIP", deserialize_with = "null_default")]
    pub cluster_ip: Str,
    #[serde(rename = "clusterIPs", deserialize_with = "null_default")]
    pub cluster_ips: Vec<Str>,
    #[serde(deserialize_with = "null_default")]
    pub ip_families: Vec<Str>,
    #[serde(deserialize_with = "interned")]
    pub ip_family_policy: Str,
    #[serde(deserialize_with = "null_default")]
    pub publish_not_ready_addresses: bool,
    #[serde(deserialize_with = "interned")]
    pub traffic_distribution: Str,
    #[serde(deserialize_with = "interned")]
    pub internal_traffic_policy: Str,
    #[serde(deserialize_with = "interned")]
    pub external_traffic_policy: Str,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct NoStatus {}

impl Spec for ServiceSpec {
    type Status = NoStatus;
    const RESOURCE: Resource = Resource::new("", "v1", "Service", "services", true);
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ServicePort {
    #[serde(deserialize_with = "interned")]
    pub name: Str,
    #[serde(deserialize_with = "interned")]
    pub protocol: Str,
    pub port: i32,
    /// A number, or the name of a container's port.
    pub target_port: Option<TargetPort>,
    pub app_protocol: Option<Str>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum TargetPort {
    Number(i32),
    Name(Str),
}

/// Endpoints, with subsets as they came.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Endpoints {
    pub metadata: Meta,
    #[serde(deserialize_with = "null_default")]
    pub subsets: Vec<Subset>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Subset {
    #[serde(deserialize_with = "null_default")]
    pub addresses: Vec<EndpointAddress>,
    #[serde(deserialize_with = "null_default")]
    pub not_ready_addresses: Vec<EndpointAddress>,
    #[serde(deserialize_with = "null_default")]
    pub ports: Vec<EndpointPort>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct EndpointAddress {
    pub ip: Str,
    #[serde(deserialize_with = "null_default")]
    pub hostname: Str,
    #[serde(deserialize_with = "interned")]
    pub node_name: Str,
    pub target_ref: Option<TargetRef>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize)]
#[serde(default)]
pub struct TargetRef {
    #[serde(deserialize_with = "interned")]
    pub kind: Str,
    #[serde(deserialize_with = "interned")]
    pub namespace: Str,
    #[serde(deserialize_with = "null_default")]
    pub name: Str,
    #[serde(deserialize_with = "null_default")]
    pub uid: Str,
}

/// A port of Endpoints or of a slice.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct EndpointPort {
    #[serde(deserialize_with = "interned")]
    pub name: Str,
    #[serde(deserialize_with = "interned")]
    pub protocol: Str,
    pub port: Option<i32>,
    pub app_protocol: Option<Str>,
}

impl Object for Endpoints {
    const RESOURCE: Resource = Resource::new("", "v1", "Endpoints", "endpoints", true);
    fn meta(&self) -> &Meta {
        &self.metadata
    }
}

/// An endpoint slice.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct EndpointSlice {
    pub metadata: Meta,
    #[serde(deserialize_with = "interned")]
    pub address_type: Str,
    #[serde(deserialize_with = "null_default")]
    pub endpoints: Vec<SliceEndpoint>,
    #[serde(deserialize_with = "null_default")]
    pub ports: Vec<EndpointPort>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct SliceEndpoint {
    #[serde(deserialize_with = "null_default")]
    pub addresses: Vec<Str>,
    #[serde(deserialize_with = "null_default")]
    pub conditions: EndpointConditions,
    #[serde(deserialize_with = "null_default")]
    pub hostname: Str,
    pub target_ref: Option<TargetRef>,
    #[serde(deserialize_with = "interned")]
    pub node_name: Str,
    #[serde(deserialize_with = "interned")]
    pub zone: Str,
    pub hints: Option<Hints>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(default)]
pub struct EndpointConditions {
    pub ready: Option<bool>,
    pub serving: Option<bool>,
    pub terminating: Option<bool>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Hints {
    #[serde(deserialize_with = "null_default")]
    pub for_zones: Vec<Named>,
    #[serde(deserialize_with = "null_default")]
    pub for_nodes: Vec<Named>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(default)]
pub struct Named {
    #[serde(deserialize_with = "interned")]
    pub name: Str,
}

impl Object for EndpointSlice {
    const RESOURCE: Resource = Resource::new("discovery.k8s.io", "v1", "EndpointSlice", "endpointslices", true);
    fn meta(&self) -> &Meta {
        &self.metadata
    }
}

crate::metadata_object!(
    /// A service account.
    ServiceAccount, "", "v1", "ServiceAccount", "serviceaccounts", true
);

/// The published root certificates (only ConfigMaps of this name are watched).
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct RootCa {
    pub metadata: Meta,
    #[serde(deserialize_with = "null_default")]
    pub data: Pairs,
}

impl Object for RootCa {
    const RESOURCE: Resource = Resource::new("", "v1", "ConfigMap", "configmaps", true);
    const FIELDS: &'static str = "metadata.name=kube-root-ca.crt";
    fn meta(&self) -> &Meta {
        &self.metadata
    }
}
