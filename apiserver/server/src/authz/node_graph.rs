//! What each node may read because of the pods on it: secrets, config maps, claims and their volumes, service accounts.
//! An index kept by following pods, volumes, attachments and resource slices. Pure: changes in, answers out.

use std::collections::{HashMap, HashSet};

use serde_json::Value;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    Pod,
    Secret,
    ConfigMap,
    Claim,
    Volume,
    ServiceAccount,
    ResourceClaim,
    Attachment,
    ResourceSlice,
    PodCertificateRequest,
}

/// Namespace "" for cluster-scoped objects.
pub type Object = (Kind, String, String);

/// What one followed object adds to the index.
#[derive(Clone, Debug, Default)]
struct Source {
    node: String,
    refers: Vec<Object>,
}

/// A persistent volume: bound to a claim, needing secrets.
#[derive(Clone, Debug, Default)]
struct Volume {
    claim: Option<(String, String)>,
    secrets: Vec<Object>,
}

#[derive(Default)]
pub struct Graph {
    sources: HashMap<Object, Source>,
    /// object -> node -> how many sources on the node refer to it
    nodes: HashMap<Object, HashMap<String, usize>>,
    volumes: HashMap<String, Volume>,
    /// claim -> volumes bound to it
    volumes_of: HashMap<(String, String), HashSet<String>>,
    /// secret -> volumes that need it
    secret_volumes: HashMap<Object, HashSet<String>>,
}

fn text<'a>(value: &'a Value, path: &[&str]) -> &'a str {
    path.iter().fold(value, |v, key| &v[*key]).as_str().unwrap_or_default()
}

fn items<'a>(value: &'a Value, path: &[&str]) -> impl Iterator<Item = &'a Value> + use<'a> {
    path.iter().fold(value, |v, key| &v[*key]).as_array().into_iter().flatten()
}

impl Graph {
    /// Whether something on `node` refers to the object.
    pub fn related(&self, node: &str, kind: Kind, namespace: &str, name: &str) -> bool {
        let object = (kind, namespace.to_owned(), name.to_owned());
        let on_node = |object: &Object| self.nodes.get(object).is_some_and(|nodes| nodes.contains_key(node));
        if on_node(&object) {
            return true;
        }
        let volume_on_node = |volume: &String| {
            let claim = self.volumes.get(volume).and_then(|volume| volume.claim.clone());
            claim.is_some_and(|(namespace, name)| on_node(&(Kind::Claim, namespace, name)))
        };
        match kind {
            Kind::Volume => volume_on_node(&object.2),
            Kind::Secret => self.secret_volumes.get(&object).is_some_and(|volumes| volumes.iter().any(volume_on_node)),
            _ => false,
        }
    }

    pub fn apply(&mut self, resource: &str, object: &Value) -> Object {
        let namespace = text(object, &["metadata", "namespace"]).to_owned();
        let name = text(object, &["metadata", "name"]).to_owned();
        let (kind, source) = match resource {
            "persistentvolumes" => {
                self.remove_volume(&name);
                self.add_volume(&name, object);
                return (Kind::Volume, String::new(), name);
            }
            "pods" => (Kind::Pod, pod(object, &namespace)),
            "volumeattachments" => (Kind::Attachment, on(text(object, &["spec", "nodeName"]))),
            "podcertificaterequests" => (Kind::PodCertificateRequest, on(text(object, &["spec", "nodeName"]))),
            _ => (Kind::ResourceSlice, on(text(object, &["spec", "nodeName"]))),
        };
        let key = (kind, namespace, name);
        self.remove(&key);
        self.add(key.clone(), source);
        key
    }

    pub fn remove(&mut self, key: &Object) {
        if key.0 == Kind::Volume {
            return self.remove_volume(&key.2);
        }
        let Some(source) = self.sources.remove(key) else { return };
        for object in source.refers.iter().chain([key]) {
            let Some(nodes) = self.nodes.get_mut(object) else { continue };
            if let Some(count) = nodes.get_mut(&source.node) {
                *count -= 1;
                if *count == 0 {
                    nodes.remove(&source.node);
                }
            }
            if nodes.is_empty() {
                self.nodes.remove(object);
            }
        }
    }

    /// The followed objects of a kind, to find those that a new list lacks.
    pub fn keys(&self, kind: Kind) -> Vec<Object> {
        if kind == Kind::Volume {
            return self.volumes.keys().map(|name| (Kind::Volume, String::new(), name.clone())).collect();
        }
        self.sources.keys().filter(|key| key.0 == kind).cloned().collect()
    }

    fn add(&mut self, key: Object, source: Source) {
        if source.node.is_empty() {
            return;
        }
        for object in source.refers.iter().chain([&key]) {
            *self.nodes.entry(object.clone()).or_default().entry(source.node.clone()).or_default() += 1;
        }
        self.sources.insert(key, source);
    }

    fn add_volume(&mut self, name: &str, object: &Value) {
        let claim = &object["spec"]["claimRef"];
        let claim = claim["name"].as_str().map(|claimed| (text(claim, &["namespace"]).to_owned(), claimed.to_owned()));
        let home = claim.as_ref().map(|(namespace, _)| namespace.clone()).unwrap_or_default();
        let mut secrets = Vec::new();
        if let Some(spec) = object["spec"].as_object() {
            for source in spec.values() {
                for field in [
                    "secretRef",
                    "controllerPublishSecretRef",
                    "nodeStageSecretRef",
                    "nodePublishSecretRef",
                    "nodeExpandSecretRef",
                ] {
                    let Some(secret) = source[field]["name"].as_str() else { continue };
                    let namespace = source[field]["namespace"].as_str().unwrap_or(&home);
                    secrets.push((Kind::Secret, namespace.to_owned(), secret.to_owned()));
                }
                if let Some(secret) = source["secretName"].as_str() {
                    let namespace = source["secretNamespace"].as_str().unwrap_or(&home);
                    secrets.push((Kind::Secret, namespace.to_owned(), secret.to_owned()));
                }
            }
        }
        for secret in &secrets {
            self.secret_volumes.entry(secret.clone()).or_default().insert(name.to_owned());
        }
        if let Some(claim) = &claim {
            self.volumes_of.entry(claim.clone()).or_default().insert(name.to_owned());
        }
        self.volumes.insert(name.to_owned(), Volume { claim, secrets });
    }

    fn remove_volume(&mut self, name: &str) {
        let Some(volume) = self.volumes.remove(name) else { return };
        for secret in volume.secrets {
            if let Some(volumes) = self.secret_volumes.get_mut(&secret) {
                volumes.remove(name);
            }
        }
        if let Some(claim) = volume.claim
            && let Some(volumes) = self.volumes_of.get_mut(&claim)
        {
            volumes.remove(name);
        }
    }
}

fn on(node: &str) -> Source {
    Source { node: node.into(), refers: Vec::new() }
}

/// What a pod refers to. A mirror pod refers to nothing: the node wrote it itself.
fn pod(object: &Value, namespace: &str) -> Source {
    let mut source = on(text(object, &["spec", "nodeName"]));
    let mirror = &object["metadata"]["annotations"]["kubernetes.io/config.mirror"];
    if source.node.is_empty() || !mirror.is_null() {
        return source;
    }
    let spec = &object["spec"];
    let mut refer = |kind: Kind, name: &str| {
        let object = (kind, namespace.to_owned(), name.to_owned());
        if !name.is_empty() && !source.refers.contains(&object) {
            source.refers.push(object);
        }
    };
    refer(Kind::ServiceAccount, text(spec, &["serviceAccountName"]));
    for secret in items(spec, &["imagePullSecrets"]) {
        refer(Kind::Secret, text(secret, &["name"]));
    }
    let containers = ["initContainers", "containers", "ephemeralContainers"];
    for container in containers.iter().flat_map(|list| items(spec, &[list])) {
        for from in items(container, &["envFrom"]) {
            refer(Kind::Secret, text(from, &["secretRef", "name"]));
            refer(Kind::ConfigMap, text(from, &["configMapRef", "name"]));
        }
        for variable in items(container, &["env"]) {
            refer(Kind::Secret, text(variable, &["valueFrom", "secretKeyRef", "name"]));
            refer(Kind::ConfigMap, text(variable, &["valueFrom", "configMapKeyRef", "name"]));
        }
    }
    let pod_name = text(object, &["metadata", "name"]);
    for volume in items(spec, &["volumes"]) {
        refer(Kind::Claim, text(volume, &["persistentVolumeClaim", "claimName"]));
        if !volume["ephemeral"].is_null() {
            refer(Kind::Claim, &format!("{pod_name}-{}", text(volume, &["name"])));
        }
        refer(Kind::ConfigMap, text(volume, &["configMap", "name"]));
        refer(Kind::Secret, text(volume, &["secret", "secretName"]));
        for part in items(volume, &["projected", "sources"]) {
            refer(Kind::ConfigMap, text(part, &["configMap", "name"]));
            refer(Kind::Secret, text(part, &["secret", "name"]));
        }
        for plugin in ["azureFile", "cephfs", "csi", "flexVolume", "iscsi", "rbd", "scaleIO", "storageos"] {
            for field in ["secretRef", "nodePublishSecretRef"] {
                refer(Kind::Secret, text(volume, &[plugin, field, "name"]));
            }
        }
        refer(Kind::Secret, text(volume, &["azureFile", "secretName"]));
    }
    for claim in items(spec, &["resourceClaims"]) {
        refer(Kind::ResourceClaim, text(claim, &["resourceClaimName"]));
    }
    for claim in items(object, &["status", "resourceClaimStatuses"]) {
        refer(Kind::ResourceClaim, text(claim, &["resourceClaimName"]));
    }
    source
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn web() -> Value {
        json!({
            "metadata": {"namespace": "team", "name": "web"},
            "spec": {
                "nodeName": "a", "serviceAccountName": "robot",
                "imagePullSecrets": [{"name": "pull"}],
                "containers": [{"envFrom": [{"configMapRef": {"name": "env"}}],
                                "env": [{"valueFrom": {"secretKeyRef": {"name": "key"}}}]}],
                "volumes": [
                    {"name": "data", "persistentVolumeClaim": {"claimName": "data"}},
                    {"name": "scratch", "ephemeral": {}},
                    {"name": "all", "projected": {"sources": [{"secret": {"name": "proj"}}, {"configMap": {"name": "ca"}}]}}
                ]
            }
        })
    }

    #[test]
    fn a_node_is_related_to_what_its_pods_refer_to() {
        let mut graph = Graph::default();
        graph.apply("pods", &web());
        for (kind, name) in [
            (Kind::Pod, "web"),
            (Kind::ServiceAccount, "robot"),
            (Kind::Secret, "pull"),
            (Kind::Secret, "key"),
            (Kind::Secret, "proj"),
            (Kind::ConfigMap, "env"),
            (Kind::ConfigMap, "ca"),
            (Kind::Claim, "data"),
            (Kind::Claim, "web-scratch"),
        ] {
            assert!(graph.related("a", kind, "team", name), "{kind:?} {name}");
            assert!(!graph.related("b", kind, "team", name), "{kind:?} {name}");
            assert!(!graph.related("a", kind, "other", name), "{kind:?} {name}");
        }
        assert!(!graph.related("a", Kind::Secret, "team", "unrelated"));
    }

    #[test]
    fn a_claim_leads_to_its_volume_and_that_to_its_secrets() {
        let mut graph = Graph::default();
        graph.apply("pods", &web());
        graph.apply(
            "persistentvolumes",
            &json!({
                "metadata": {"name": "pv"},
                "spec": {"claimRef": {"namespace": "team", "name": "data"},
                         "csi": {"nodePublishSecretRef": {"namespace": "vault", "name": "disk"}}}
            }),
        );
        assert!(graph.related("a", Kind::Volume, "", "pv"));
        assert!(graph.related("a", Kind::Secret, "vault", "disk"));
        assert!(!graph.related("b", Kind::Volume, "", "pv"));
    }

    #[test]
    fn nothing_is_left_of_a_pod_that_is_gone_or_moved() {
        let mut graph = Graph::default();
        let key = graph.apply("pods", &web());
        let mut other = web();
        other["metadata"]["name"] = "web2".into();
        graph.apply("pods", &other);
        graph.remove(&key);
        assert!(graph.related("a", Kind::Secret, "team", "pull"), "another pod still refers to it");
        other["spec"]["imagePullSecrets"] = json!([]);
        graph.apply("pods", &other);
        assert!(!graph.related("a", Kind::Secret, "team", "pull"));
    }

    #[test]
    fn a_mirror_pod_opens_no_secrets() {
        let mut graph = Graph::default();
        let mut mirror = web();
        mirror["metadata"]["annotations"] = json!({"kubernetes.io/config.mirror": "x"});
        graph.apply("pods", &mirror);
        assert!(graph.related("a", Kind::Pod, "team", "web"));
        assert!(!graph.related("a", Kind::Secret, "team", "pull"));
    }
}
