//! Nodes and their leases.

use serde::Deserialize;

use super::Condition;
use crate::Timestamp;
use crate::interned::{Str, interned, null_default};
use crate::meta::Meta;
use crate::quantity::Quantity;
use crate::resource::{Obj, Resource, Spec};

/// A node as loops see it.
pub type Node = Obj<NodeSpec>;

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct NodeSpec {
    #[serde(deserialize_with = "null_default")]
    pub unschedulable: bool,
    #[serde(deserialize_with = "null_default")]
    pub taints: Vec<Taint>,
    #[serde(rename = "podCIDR", deserialize_with = "null_default")]
    pub pod_cidr: Str,
    #[serde(rename = "podCIDRs", deserialize_with = "null_default")]
    pub pod_cidrs: Vec<Str>,
    #[serde(rename = "providerID", deserialize_with = "null_default")]
    pub provider_id: Str,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct NodeStatus {
    #[serde(deserialize_with = "null_default")]
    pub conditions: Vec<Condition>,
    #[serde(deserialize_with = "null_default")]
    pub allocatable: std::collections::BTreeMap<String, Quantity>,
    #[serde(deserialize_with = "null_default")]
    pub capacity: std::collections::BTreeMap<String, Quantity>,
    #[serde(deserialize_with = "null_default")]
    pub addresses: Vec<NodeAddress>,
    #[serde(deserialize_with = "null_default")]
    pub images: Vec<NodeImage>,
    #[serde(deserialize_with = "null_default")]
    pub declared_features: Vec<Str>,
}

impl Spec for NodeSpec {
    type Status = NodeStatus;
    const RESOURCE: Resource = Resource::new("", "v1", "Node", "nodes", false);
}

impl Node {
    pub fn condition(&self, kind: &str) -> Option<&Condition> {
        super::condition(&self.status.conditions, kind)
    }
    pub fn is_ready(&self) -> bool {
        self.condition("Ready").is_some_and(Condition::is_true)
    }
    pub fn zone(&self) -> Option<&str> {
        self.metadata.label("topology.kubernetes.io/zone")
    }
    pub fn has_taint(&self, key: &str, effect: &str) -> bool {
        self.spec.taints.iter().any(|t| t.key == key && t.effect == effect)
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct NodeAddress {
    #[serde(rename = "type", deserialize_with = "interned")]
    pub kind: Str,
    #[serde(deserialize_with = "null_default")]
    pub address: Str,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct NodeImage {
    #[serde(deserialize_with = "null_default")]
    pub names: Vec<Str>,
    pub size_bytes: i64,
}

/// A taint.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Taint {
    #[serde(deserialize_with = "interned")]
    pub key: Str,
    #[serde(deserialize_with = "interned")]
    pub value: Str,
    /// `NoSchedule`, `PreferNoSchedule` or `NoExecute`.
    #[serde(deserialize_with = "interned")]
    pub effect: Str,
    pub time_added: Option<Timestamp>,
}

impl Taint {
    pub fn new(key: &str, effect: &str) -> Self {
        Self { key: Str::interned(key), value: Str::default(), effect: Str::interned(effect), time_added: None }
    }
    pub fn to_json(&self) -> serde_json::Value {
        let mut out = serde_json::json!({"key": self.key, "effect": self.effect});
        if !self.value.is_empty() {
            out["value"] = serde_json::json!(self.value);
        }
        if let Some(at) = self.time_added {
            out["timeAdded"] = serde_json::json!(crate::clock::rfc3339(at));
        }
        out
    }
}

/// A node's heartbeat (kube-node-lease).
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct NodeLease {
    pub metadata: Meta,
    pub spec: NodeLeaseSpec,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct NodeLeaseSpec {
    pub renew_time: Option<Timestamp>,
}

impl crate::Object for NodeLease {
    const RESOURCE: Resource = Resource::new("coordination.k8s.io", "v1", "Lease", "leases", true);
    const NAMESPACE: &'static str = "kube-node-lease";
    fn meta(&self) -> &Meta {
        &self.metadata
    }
}
