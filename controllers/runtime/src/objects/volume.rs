//! Volumes, claims and classes, and which volume suits which claim (upstream: component-helpers/storage/volume): the
//! binder of volumes and the scheduler both ask.

use serde::Deserialize;
use serde_json::Value;

use crate::interned::{Str, interned, null_default};
use crate::meta::{Meta, Pairs};
use crate::quantity::Quantity;
use crate::resource::{Obj, Object, Resource, Spec};
use crate::selector::{Requirement, Selector};

/// The binder chose it, not a person.
pub const BOUND_BY_CONTROLLER: &str = "pv.kubernetes.io/bound-by-controller";
/// Both sides of the binding have been written.
pub const BIND_COMPLETED: &str = "pv.kubernetes.io/bind-completed";
/// Who made a volume.
pub const PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";
/// Who is asked to make a volume for a claim.
pub const PROVISIONER: &str = "volume.kubernetes.io/storage-provisioner";
/// The node that the scheduler chose for the first pod of a claim.
pub const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
/// The provisioner of classes whose volumes people make.
pub const NO_PROVISIONER: &str = "kubernetes.io/no-provisioner";
const BETA_CLASS: &str = "volume.beta.kubernetes.io/storage-class";

/// A persistent volume.
pub type PersistentVolume = Obj<VolumeSpec>;

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct VolumeSpec {
    #[serde(deserialize_with = "null_default")]
    pub capacity: Storage,
    #[serde(deserialize_with = "null_default")]
    pub access_modes: Vec<Str>,
    pub claim_ref: Option<ClaimRef>,
    #[serde(rename = "persistentVolumeReclaimPolicy", deserialize_with = "interned")]
    pub reclaim_policy: Str,
    #[serde(rename = "storageClassName", deserialize_with = "interned")]
    pub class: Str,
    #[serde(rename = "volumeMode", deserialize_with = "interned")]
    pub mode: Str,
    #[serde(rename = "volumeAttributesClassName", deserialize_with = "interned")]
    pub attributes_class: Str,
    #[serde(deserialize_with = "null_default")]
    pub node_affinity: NodeAffinity,
}

/// A list of resources of which only the storage is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Storage {
    pub storage: Option<Quantity>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct ClaimRef {
    #[serde(deserialize_with = "interned")]
    pub namespace: Str,
    #[serde(deserialize_with = "null_default")]
    pub name: Str,
    #[serde(deserialize_with = "null_default")]
    pub uid: Str,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct NodeAffinity {
    pub required: Option<NodeSelector>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct NodeSelector {
    #[serde(deserialize_with = "null_default")]
    pub node_selector_terms: Vec<NodeTerm>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct NodeTerm {
    #[serde(deserialize_with = "null_default")]
    pub match_expressions: Vec<Requirement>,
    #[serde(deserialize_with = "null_default")]
    pub match_fields: Vec<Requirement>,
}

impl NodeAffinity {
    /// Whether a node of this name with these labels may use the volume.
    pub fn accepts(&self, node: &str, labels: &Pairs) -> bool {
        let term = |t: &NodeTerm| {
            // As everywhere, a term that says nothing selects nothing.
            (!t.match_expressions.is_empty() || !t.match_fields.is_empty())
                && t.match_expressions.iter().all(|r| r.matches(labels.get(&r.key)))
                && t.match_fields.iter().all(|r| r.key == "metadata.name" && r.matches(Some(node)))
        };
        self.required.as_ref().is_none_or(|s| s.node_selector_terms.iter().any(term))
    }
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct VolumeStatus {
    /// `Pending`, `Available`, `Bound`, `Released` or `Failed`.
    #[serde(deserialize_with = "interned")]
    pub phase: Str,
    #[serde(deserialize_with = "null_default")]
    pub message: Str,
    #[serde(deserialize_with = "null_default")]
    pub reason: Str,
}

impl Spec for VolumeSpec {
    type Status = VolumeStatus;
    const RESOURCE: Resource = Resource::new("", "v1", "PersistentVolume", "persistentvolumes", false);
}

/// A claim.
pub type PersistentVolumeClaim = Obj<ClaimSpec>;

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ClaimSpec {
    #[serde(deserialize_with = "null_default")]
    pub access_modes: Vec<Str>,
    #[serde(deserialize_with = "null_default")]
    pub resources: ClaimResources,
    #[serde(rename = "storageClassName")]
    pub class: Option<Str>,
    #[serde(deserialize_with = "null_default")]
    pub volume_name: Str,
    #[serde(rename = "volumeMode", deserialize_with = "interned")]
    pub mode: Str,
    pub selector: Option<Selector>,
    #[serde(rename = "volumeAttributesClassName", deserialize_with = "interned")]
    pub attributes_class: Str,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default)]
pub struct ClaimResources {
    #[serde(deserialize_with = "null_default")]
    pub requests: Storage,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ClaimStatus {
    /// `Pending`, `Bound` or `Lost`.
    #[serde(deserialize_with = "interned")]
    pub phase: Str,
    #[serde(deserialize_with = "null_default")]
    pub access_modes: Vec<Str>,
    #[serde(deserialize_with = "null_default")]
    pub capacity: Storage,
    #[serde(rename = "currentVolumeAttributesClassName", deserialize_with = "interned")]
    pub attributes_class: Str,
    #[serde(rename = "modifyVolumeStatus", deserialize_with = "null_default")]
    pub modified: Modified,
}

/// A change of a claim's attributes that is under way.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Modified {
    #[serde(rename = "targetVolumeAttributesClassName", deserialize_with = "interned")]
    pub target: Str,
}

impl Spec for ClaimSpec {
    type Status = ClaimStatus;
    const RESOURCE: Resource = Resource::new("", "v1", "PersistentVolumeClaim", "persistentvolumeclaims", true);
}

/// A class of volume attributes: that it is there is all that is known of it.
pub type VolumeAttributesClass = Obj<AttributesSpec>;

#[derive(Clone, Debug, Default, Deserialize)]
pub struct AttributesSpec {}

impl Spec for AttributesSpec {
    type Status = ();
    const RESOURCE: Resource =
        Resource::new("storage.k8s.io", "v1", "VolumeAttributesClass", "volumeattributesclasses", false);
}

/// A storage class.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct StorageClass {
    pub metadata: Meta,
    #[serde(deserialize_with = "interned")]
    pub provisioner: Str,
    #[serde(deserialize_with = "interned")]
    pub volume_binding_mode: Str,
    #[serde(deserialize_with = "interned")]
    pub reclaim_policy: Str,
    #[serde(deserialize_with = "null_default")]
    pub parameters: Pairs,
    #[serde(deserialize_with = "null_default")]
    pub mount_options: Vec<Str>,
    #[serde(deserialize_with = "null_default")]
    pub allowed_topologies: Vec<Topology>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Topology {
    #[serde(deserialize_with = "null_default")]
    pub match_label_expressions: Vec<TopologyLabel>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct TopologyLabel {
    #[serde(deserialize_with = "interned")]
    pub key: Str,
    #[serde(deserialize_with = "null_default")]
    pub values: Vec<Str>,
}

impl StorageClass {
    /// Claims of it wait for their first pod.
    pub fn waits(&self) -> bool {
        self.volume_binding_mode == "WaitForFirstConsumer"
    }
    /// Whether volumes of it may be made for a node with these labels.
    pub fn allows(&self, labels: &Pairs) -> bool {
        let one = |l: &TopologyLabel| labels.get(&l.key).is_some_and(|value| l.values.iter().any(|v| *v == value));
        let term = |t: &Topology| !t.match_label_expressions.is_empty() && t.match_label_expressions.iter().all(one);
        self.allowed_topologies.is_empty() || self.allowed_topologies.iter().any(term)
    }
    /// Marked as the class of claims that name none.
    pub fn is_default(&self) -> bool {
        ["storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"]
            .iter()
            .any(|key| self.metadata.annotation(key) == Some("true"))
    }
}

impl Object for StorageClass {
    const RESOURCE: Resource = Resource::new("storage.k8s.io", "v1", "StorageClass", "storageclasses", false);
    fn meta(&self) -> &Meta {
        &self.metadata
    }
}

impl PersistentVolumeClaim {
    /// Its class; empty: none.
    pub fn class(&self) -> &str {
        self.metadata.annotation(BETA_CLASS).unwrap_or_else(|| self.spec.class.as_deref().unwrap_or(""))
    }
    /// Whether it says which class, be it none.
    pub fn names_class(&self) -> bool {
        self.metadata.annotations.contains_key(BETA_CLASS) || self.spec.class.is_some()
    }
    /// Both sides of its binding have been written.
    pub fn is_bound(&self) -> bool {
        !self.spec.volume_name.is_empty() && self.metadata.annotations.contains_key(BIND_COMPLETED)
    }
    pub fn size(&self) -> Quantity {
        self.spec.resources.requests.storage.unwrap_or_default()
    }
}

fn or_filesystem(mode: &str) -> &str {
    if mode.is_empty() { "Filesystem" } else { mode }
}

impl PersistentVolume {
    pub fn class(&self) -> &str {
        self.metadata.annotation(BETA_CLASS).unwrap_or(&self.spec.class)
    }
    pub fn size(&self) -> Quantity {
        self.spec.capacity.storage.unwrap_or_default()
    }
    /// It is bound to, or reserved for, this claim.
    pub fn is_for(&self, claim: &Meta) -> bool {
        self.spec.claim_ref.as_ref().is_some_and(|r| {
            r.namespace == claim.namespace && r.name == claim.name && (r.uid.is_empty() || r.uid == claim.uid)
        })
    }
    pub fn same_mode(&self, claim: &PersistentVolumeClaim) -> bool {
        or_filesystem(&self.spec.mode) == or_filesystem(&claim.spec.mode)
    }
    /// It can be used in every way that the claim asks for.
    pub fn has_modes(&self, claim: &PersistentVolumeClaim) -> bool {
        claim.spec.access_modes.iter().all(|mode| self.spec.access_modes.contains(mode))
    }
}

/// Where a volume is to be used: name and labels of the node.
pub type NodeSide<'a> = (&'a str, &'a Pairs);

/// The volume for a claim: one that is reserved for it, else the smallest that suits. `node`: it must be usable there;
/// without one, claims that wait for their pod (`waits`) get only what is reserved.
pub fn best_match<'a, T: AsRef<PersistentVolume>>(
    claim: &PersistentVolumeClaim,
    volumes: impl Iterator<Item = &'a T>,
    node: Option<NodeSide<'_>>,
    waits: bool,
) -> Option<&'a T> {
    let mut best: Option<&'a T> = None;
    for candidate in volumes {
        let volume = candidate.as_ref();
        let reserved = volume.is_for(&claim.metadata);
        if (volume.spec.claim_ref.is_some() && !reserved)
            || volume.size().nanos < claim.size().nanos
            || !volume.same_mode(claim)
            || volume.spec.attributes_class != claim.spec.attributes_class
            || volume.metadata.deleting()
        {
            continue;
        }
        let reachable = node.is_none_or(|(name, labels)| volume.spec.node_affinity.accepts(name, labels));
        if reserved && (node.is_some() || volume.has_modes(claim)) {
            return reachable.then_some(candidate);
        }
        let suits = reachable
            && !(node.is_none() && waits)
            && volume.status.phase == "Available"
            && claim.spec.selector.as_ref().is_none_or(|s| s.matches(&volume.metadata.labels))
            && volume.class() == claim.class()
            && volume.has_modes(claim);
        // Without a node, fewer ways of use go before less space.
        let rank = |v: &PersistentVolume| {
            let ways = if node.is_none() { v.spec.access_modes.len() } else { 0 };
            (ways, v.size().nanos)
        };
        if suits && best.is_none_or(|b| rank(volume) < rank(b.as_ref())) {
            best = Some(candidate);
        }
    }
    best
}

/// A claim reference as the API has it.
pub fn reference_to(claim: &Meta) -> Value {
    serde_json::json!({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": claim.namespace, "name": claim.name,
        "uid": claim.uid, "resourceVersion": claim.resource_version.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use serde_json::json;

    fn volume(name: &str, size: &str, spec: Value) -> Arc<PersistentVolume> {
        let mut full =
            json!({"capacity": {"storage": size}, "accessModes": ["ReadWriteOnce"], "storageClassName": "s"});
        for (key, value) in spec.as_object().unwrap() {
            full[key] = value.clone();
        }
        let object = json!({"metadata": {"name": name, "labels": {"name": name}}, "spec": full,
            "status": {"phase": "Available"}});
        Arc::new(serde_json::from_value(object).unwrap())
    }

    fn claim(size: &str, spec: Value) -> PersistentVolumeClaim {
        let mut full = json!({"resources": {"requests": {"storage": size}}, "accessModes": ["ReadWriteOnce"],
            "storageClassName": "s"});
        for (key, value) in spec.as_object().unwrap() {
            full[key] = value.clone();
        }
        serde_json::from_value(json!({"metadata": {"name": "c", "namespace": "n", "uid": "u"}, "spec": full})).unwrap()
    }

    #[test]
    fn a_claim_gets_what_is_reserved_or_the_smallest_that_suits() {
        let taken = json!({"claimRef": {"namespace": "n", "name": "other", "uid": "x"}});
        let ours = json!({"claimRef": {"namespace": "n", "name": "c"}});
        let many = json!({"accessModes": ["ReadWriteOnce", "ReadWriteMany"]});
        let near = json!({"nodeAffinity": {"required": {"nodeSelectorTerms": [
            {"matchExpressions": [{"key": "zone", "operator": "In", "values": ["a"]}]}]}}});
        let all = |volumes: &[(&str, &str, &Value)]| -> Vec<_> {
            volumes.iter().map(|(name, size, spec)| volume(name, size, (*spec).clone())).collect()
        };
        let none = json!({});
        let (a, b): (Pairs, Pairs) = ([("zone", "a")].into_iter().collect(), [("zone", "b")].into_iter().collect());
        for (name, volumes, spec, node, waits, wanted) in [
            ("smallest", all(&[("l", "5Gi", &none), ("s", "2Gi", &none)]), &none, None, false, Some("s")),
            ("too small", all(&[("s", "500Mi", &none)]), &none, None, false, None),
            ("taken", all(&[("t", "1Gi", &taken)]), &none, None, false, None),
            (
                "reserved, though larger",
                all(&[("s", "1Gi", &none), ("r", "9Gi", &ours)]),
                &none,
                None,
                false,
                Some("r"),
            ),
            (
                "fewer ways of use first",
                all(&[("m", "1Gi", &many), ("s", "2Gi", &none)]),
                &none,
                None,
                false,
                Some("s"),
            ),
            ("another class", all(&[("s", "1Gi", &none)]), &json!({"storageClassName": "x"}), None, false, None),
            (
                "a selector",
                all(&[("s", "1Gi", &none), ("l", "2Gi", &none)]),
                &json!({"selector": {"matchLabels": {"name": "l"}}}),
                None,
                false,
                Some("l"),
            ),
            ("block", all(&[("s", "1Gi", &none)]), &json!({"volumeMode": "Block"}), None, false, None),
            ("waits for a pod", all(&[("s", "1Gi", &none)]), &none, None, true, None),
            ("waits, but is reserved", all(&[("r", "1Gi", &ours)]), &none, None, true, Some("r")),
            ("on a node that reaches it", all(&[("n", "1Gi", &near)]), &none, Some(&a), true, Some("n")),
            ("on a node that does not", all(&[("n", "1Gi", &near)]), &none, Some(&b), true, None),
        ] {
            let node = node.map(|labels| ("node", labels));
            let found = best_match(&claim("1Gi", spec.clone()), volumes.iter(), node, waits);
            assert_eq!(found.map(|v| v.metadata.name.as_str()), wanted, "{name}");
        }
    }

    #[test]
    fn a_class_says_where_its_volumes_may_be() {
        let class = |topologies: Value| -> StorageClass {
            serde_json::from_value(json!({"metadata": {"name": "s"}, "allowedTopologies": topologies})).unwrap()
        };
        let labels: Pairs = [("zone", "a")].into_iter().collect();
        assert!(class(json!(null)).allows(&labels));
        let only = |value: &str| class(json!([{"matchLabelExpressions": [{"key": "zone", "values": [value]}]}]));
        assert!(only("a").allows(&labels) && !only("b").allows(&labels));
    }
}
