//! What a pod's claims say about where it can run, and what becomes of them once it has a node (upstream's VolumeBinding).
//! Pure; the shell writes what is chosen.

use std::collections::HashMap;
use std::sync::Arc;

use serde_json::{Value, json};
use skeg_controller_runtime::objects::{
    BOUND_BY_CONTROLLER, NO_PROVISIONER, PersistentVolume, PersistentVolumeClaim, SELECTED_NODE, StorageClass,
    best_match, reference_to,
};
use skeg_controller_runtime::{Key, Str, key};

use crate::filter::Reason;
use crate::objects::{Node, Pod};

/// Volumes, claims and classes as they are known, with what was promised and is not written yet.
#[derive(Default)]
pub struct Volumes {
    pub claims: HashMap<Key, Arc<PersistentVolumeClaim>>,
    pub volumes: HashMap<Key, Arc<PersistentVolume>>,
    pub classes: HashMap<Key, Arc<StorageClass>>,
    /// Which claim a volume was chosen for.
    promised: HashMap<Key, Key>,
}

/// What is done about a claim when its pod gets a node.
#[derive(Clone, Debug)]
pub enum Choice {
    /// Bind it to this volume.
    Take { volume: Arc<PersistentVolume>, claim: Arc<PersistentVolumeClaim> },
    /// Have a volume made on the node.
    Make { claim: Arc<PersistentVolumeClaim> },
}

impl Choice {
    pub fn claim(&self) -> &Arc<PersistentVolumeClaim> {
        match self {
            Self::Take { claim, .. } | Self::Make { claim } => claim,
        }
    }

    /// The merge patch of the volume or claim; `None`: it says so already.
    pub fn body(&self, node: &str) -> Option<Value> {
        match self {
            Self::Take { volume, claim } => {
                let reserved = volume.is_for(&claim.metadata);
                if reserved && volume.spec.claim_ref.as_ref().is_some_and(|r| r.uid == claim.metadata.uid) {
                    return None;
                }
                let mut body = json!({"spec": {"claimRef": reference_to(&claim.metadata)}});
                if !reserved {
                    body["metadata"] = json!({"annotations": {BOUND_BY_CONTROLLER: "yes"}});
                }
                Some(body)
            }
            Self::Make { claim } => {
                let placed = claim.metadata.annotation(SELECTED_NODE) == Some(node);
                (!placed).then(|| json!({"metadata": {"annotations": {SELECTED_NODE: node}}}))
            }
        }
    }
}

/// What a pod needs of its node, found once for all nodes.
#[derive(Debug, Default)]
pub struct Demand {
    bound: Vec<Arc<PersistentVolume>>,
    /// Bound to a volume that is not there.
    dangling: bool,
    waiting: Vec<Arc<PersistentVolumeClaim>>,
}

impl Volumes {
    /// Whether one pod alone may use the claim.
    pub fn is_exclusive(&self, namespace: &str, claim: &str) -> bool {
        let claim = self.claims.get(&key(namespace, claim));
        claim.is_some_and(|c| c.spec.access_modes.iter().any(|mode| *mode == "ReadWriteOncePod"))
    }

    /// What the pod's claims ask of a node; the error keeps it from all of them.
    pub fn demand(&self, pod: &Pod) -> Result<Demand, Reason> {
        let mut demand = Demand::default();
        for name in &pod.claims {
            let never = |text: String| Err(Reason { text: Str::interned(&text), resolvable: false });
            let Some(claim) = self.claims.get(&key(&pod.meta.namespace, name)) else {
                return never(format!("persistentvolumeclaim {:?} not found", name.as_str()));
            };
            if claim.metadata.deleting() {
                return never(format!("persistentvolumeclaim {:?} is being deleted", name.as_str()));
            }
            if claim.status.phase == "Lost" {
                let volume = claim.spec.volume_name.as_str();
                let text = format!(
                    "persistentvolumeclaim {:?} bound to non-existent persistentvolume {volume:?}",
                    name.as_str()
                );
                return never(text);
            }
            let owner = claim.metadata.controller().filter(|o| o.kind == "Pod");
            if owner.is_some_and(|o| o.name == pod.meta.name && o.uid != pod.meta.uid) {
                let text = format!(
                    "PVC {} was not created for pod {} (pod is not owner)",
                    claim.metadata.key(),
                    pod.meta.key()
                );
                return never(text);
            }
            if claim.is_bound() {
                match self.volumes.get(&claim.spec.volume_name) {
                    Some(volume) => demand.bound.push(volume.clone()),
                    None => demand.dangling = true,
                }
            } else if self.classes.get(claim.class()).is_some_and(|c| c.waits()) && claim.spec.volume_name.is_empty() {
                demand.waiting.push(claim.clone());
            } else {
                return never("pod has unbound immediate PersistentVolumeClaims".to_owned());
            }
        }
        // The smallest first, so that each gets what fits it best.
        demand.waiting.sort_by_key(|c| c.size().nanos);
        Ok(demand)
    }

    /// Why a node cannot serve this demand.
    pub fn refuses(&self, demand: &Demand, node: &Node) -> Option<Reason> {
        let never = |text: &str| Some(Reason { text: Str::interned(text), resolvable: false });
        if demand.dangling {
            return never("node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)");
        }
        let reaches = |v: &Arc<PersistentVolume>| v.spec.node_affinity.accepts(&node.meta.name, &node.meta.labels);
        if !demand.bound.iter().all(reaches) {
            return never("node(s) didn't match PersistentVolume's node affinity");
        }
        match self.choices(demand, node) {
            Some(_) => None,
            None => never("node(s) didn't find available persistent volumes to bind"),
        }
    }

    /// What becomes of the waiting claims on a node; `None`: one of them has no volume there.
    pub fn choices(&self, demand: &Demand, node: &Node) -> Option<Vec<Choice>> {
        let mut chosen: Vec<Choice> = Vec::new();
        for claim in &demand.waiting {
            let place = claim.metadata.annotation(SELECTED_NODE);
            if place.is_some_and(|place| node.meta.name != *place) {
                return None;
            }
            let class = self.classes.get(claim.class())?;
            let free = |v: &&Arc<PersistentVolume>| {
                let promised = self.promised.get(&v.metadata.key()).is_some_and(|c| *c != claim.metadata.key());
                let taken =
                    |c: &Choice| matches!(c, Choice::Take { volume, .. } if volume.metadata.name == v.metadata.name);
                !promised && !chosen.iter().any(taken)
            };
            let side = (node.meta.name.as_str(), &node.meta.labels);
            let found = match place {
                Some(_) => None,
                None => best_match(claim, self.volumes.values().filter(free), Some(side), true),
            };
            chosen.push(match found {
                Some(volume) => Choice::Take { volume: volume.clone(), claim: claim.clone() },
                None if class.provisioner == NO_PROVISIONER || !class.allows(&node.meta.labels) => return None,
                None => Choice::Make { claim: claim.clone() },
            });
        }
        Some(chosen)
    }

    /// Takes volumes out of what others may choose from.
    pub fn promise(&mut self, choices: &[Choice]) {
        for choice in choices {
            if let Choice::Take { volume, claim } = choice {
                self.promised.insert(volume.metadata.key(), claim.metadata.key());
            }
        }
    }

    /// Gives back what was promised and came to nothing.
    pub fn withdraw(&mut self, choices: &[Choice]) {
        for choice in choices {
            if let Choice::Take { volume, claim } = choice
                && self.promised.get(&volume.metadata.key()) == Some(&claim.metadata.key())
            {
                self.promised.remove(&volume.metadata.key());
            }
        }
    }

    /// Whether all these claims are bound; an error if one will not be on this node.
    pub fn all_bound(&self, choices: &[Choice], node: &str) -> Result<bool, String> {
        let mut all = true;
        for choice in choices {
            let asked = &choice.claim().metadata;
            let Some(claim) = self.claims.get(&asked.key()).filter(|c| c.metadata.uid == asked.uid) else {
                return Err(format!("claim {} was deleted", asked.key()));
            };
            if claim.is_bound() {
                let volume = self.volumes.get(&claim.spec.volume_name);
                all &= volume.is_some();
                continue;
            }
            let waited = claim.metadata.resource_version > asked.resource_version;
            let placed = claim.metadata.annotation(SELECTED_NODE) == Some(node);
            if matches!(choice, Choice::Make { .. }) && waited && !placed {
                return Err(format!("provisioning failed for PVC {:?}", asked.name.as_str()));
            }
            all = false;
        }
        Ok(all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(claims: &[&str]) -> Pod {
        let volumes: Vec<Value> =
            claims.iter().map(|c| json!({"name": c, "persistentVolumeClaim": {"claimName": c}})).collect();
        let metadata = json!({"name": "p", "namespace": "n", "uid": "p"});
        serde_json::from_value(json!({"metadata": metadata, "spec": {"volumes": volumes}})).unwrap()
    }

    fn node(name: &str) -> Node {
        serde_json::from_value(json!({"metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}}})).unwrap()
    }

    fn with(claims: &[Value], volumes: &[Value]) -> Volumes {
        let mut all = Volumes::default();
        for (name, mode, provisioner) in [
            ("later", "WaitForFirstConsumer", "p"),
            ("manual", "WaitForFirstConsumer", NO_PROVISIONER),
            ("now", "Immediate", "p"),
        ] {
            let class = json!({"metadata": {"name": name}, "volumeBindingMode": mode, "provisioner": provisioner});
            all.classes.insert(name.into(), Arc::new(serde_json::from_value(class).unwrap()));
        }
        for claim in claims {
            let claim: PersistentVolumeClaim = serde_json::from_value(claim.clone()).unwrap();
            all.claims.insert(claim.metadata.key(), Arc::new(claim));
        }
        for volume in volumes {
            let volume: PersistentVolume = serde_json::from_value(volume.clone()).unwrap();
            all.volumes.insert(volume.metadata.key(), Arc::new(volume));
        }
        all
    }

    fn claim(name: &str, class: &str, volume: &str) -> Value {
        let bound = if volume.is_empty() { json!({}) } else { json!({"pv.kubernetes.io/bind-completed": "yes"}) };
        json!({"metadata": {"name": name, "namespace": "n", "uid": name, "resourceVersion": "5", "annotations": bound},
            "spec": {"storageClassName": class, "volumeName": volume, "accessModes": ["ReadWriteOnce"],
                "resources": {"requests": {"storage": "1Gi"}}}, "status": {"phase": "Pending"}})
    }

    fn volume(name: &str, class: &str, node: &str) -> Value {
        let here = json!({"key": "kubernetes.io/hostname", "operator": "In", "values": [node]});
        json!({"metadata": {"name": name}, "status": {"phase": "Available"}, "spec": {"capacity": {"storage": "1Gi"},
            "storageClassName": class, "accessModes": ["ReadWriteOnce"],
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [here]}]}}}})
    }

    /// Why a pod with these claims cannot run on node a; empty: it can.
    fn why(volumes: &Volumes, claims: &[&str]) -> String {
        let reason = match volumes.demand(&pod(claims)) {
            Ok(demand) => volumes.refuses(&demand, &node("a")),
            Err(reason) => Some(reason),
        };
        reason.map(|r| r.text.to_string()).unwrap_or_default()
    }

    #[test]
    fn a_pod_goes_where_its_claims_can_be_served() {
        let claims = [
            claim("bound", "now", "near"),
            claim("far", "now", "away"),
            claim("gone", "now", "nothing"),
            claim("open", "now", ""),
            claim("later", "later", ""),
            claim("manual", "manual", ""),
        ];
        let here = with(&claims, &[volume("near", "now", "a"), volume("away", "now", "b"), volume("m", "manual", "a")]);
        let there = with(&claims, &[volume("m", "manual", "b")]);
        for (volumes, claim, wanted) in [
            (&here, "bound", ""),
            (&here, "far", "node(s) didn't match PersistentVolume's node affinity"),
            (&here, "gone", "node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)"),
            (&here, "open", "pod has unbound immediate PersistentVolumeClaims"),
            (&here, "none", "persistentvolumeclaim \"none\" not found"),
            (&here, "later", ""),
            (&here, "manual", ""),
            (&there, "manual", "node(s) didn't find available persistent volumes to bind"),
        ] {
            assert_eq!(why(volumes, &[claim]), wanted, "{claim}");
        }
    }

    #[test]
    fn a_volume_is_promised_once() {
        let mut all = with(&[claim("x", "manual", ""), claim("y", "manual", "")], &[volume("m", "manual", "a")]);
        let demand = all.demand(&pod(&["x"])).unwrap();
        let chosen = all.choices(&demand, &node("a")).unwrap();
        assert!(matches!(&chosen[..], [Choice::Take { .. }]));
        assert_eq!(why(&all, &["x", "y"]), "node(s) didn't find available persistent volumes to bind");
        all.promise(&chosen);
        assert_ne!(why(&all, &["y"]), "");
        assert_eq!(why(&all, &["x"]), "", "the same claim may choose it again");
        all.withdraw(&chosen);
        assert_eq!(why(&all, &["y"]), "");
    }

    #[test]
    fn a_claim_that_was_placed_stays_there() {
        let mut placed = claim("x", "later", "");
        placed["metadata"]["annotations"] = json!({SELECTED_NODE: "b"});
        let all = with(&[placed], &[]);
        assert_eq!(why(&all, &["x"]), "node(s) didn't find available persistent volumes to bind");
        let demand = all.demand(&pod(&["x"])).unwrap();
        let chosen = all.choices(&demand, &node("b")).unwrap();
        assert_eq!((chosen[0].body("b"), chosen[0].body("c").is_some()), (None, true));
    }

    #[test]
    fn binding_waits_for_the_claims_and_fails_with_them() {
        let all = with(&[claim("x", "later", "")], &[]);
        let chosen = all.choices(&all.demand(&pod(&["x"])).unwrap(), &node("a")).unwrap();
        assert_eq!(all.all_bound(&chosen, "a"), Ok(false));
        let mut turned_down = claim("x", "later", "");
        turned_down["metadata"]["resourceVersion"] = json!("6");
        assert!(with(&[turned_down], &[]).all_bound(&chosen, "a").is_err());
        assert!(with(&[], &[]).all_bound(&chosen, "a").is_err());
        assert_eq!(with(&[claim("x", "later", "v")], &[volume("v", "later", "a")]).all_bound(&chosen, "a"), Ok(true));
    }
}
