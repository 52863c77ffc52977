//! NodeRestriction: what a kubelet may change of its own node, its pods and their tokens (upstream
//! plugin/pkg/admission/noderestriction). What it may reach at all is the Node authorizer's business.

use std::collections::BTreeSet;
use std::sync::Arc;

use async_trait::async_trait;
use serde_json::Value;
use skeg_machinery::gvk::GroupResource;
use skeg_machinery::meta;
use skeg_machinery::status::Status;
use skeg_machinery::text::quote;

use super::{Attributes, Operation, Plugin, items};
use crate::authz::node::node_of;
use crate::pki::pem_blocks;
use crate::resources::Resources;

const PODS: GroupResource = GroupResource::from_static("", "pods");
const NODES: GroupResource = GroupResource::from_static("", "nodes");
const MIRROR: &str = "kubernetes.io/config.mirror";

pub struct NodeRestriction {
    pub resources: Arc<dyn Resources>,
    /// The API server's own audiences: what an empty audience in a pod means.
    pub audiences: Vec<String>,
}

/// A refusal: its reason as a 403, or a Status of its own.
enum No {
    Because(String),
    Status(Box<Status>),
}

impl From<Status> for No {
    fn from(status: Status) -> Self {
        No::Status(Box::new(status))
    }
}

fn no<T>(why: impl Into<String>) -> Result<T, No> {
    Err(No::Because(why.into()))
}

#[async_trait]
impl Plugin for NodeRestriction {
    fn name(&self) -> &'static str {
        "NodeRestriction"
    }

    async fn validate(&self, attributes: &Attributes<'_>, object: Option<&Value>) -> Result<(), Status> {
        let Some(node) = node_of(attributes.user) else { return Ok(()) };
        let node = node.to_owned();
        let null = Value::Null;
        let decided = if node.is_empty() {
            no(format!("could not determine node from user {}", quote(&attributes.user.name)))
        } else {
            self.decide(&node, attributes, object.unwrap_or(&null)).await
        };
        decided.map_err(|refused| match refused {
            No::Because(why) => attributes.forbidden(object, why),
            No::Status(status) => *status,
        })
    }
}

impl NodeRestriction {
    async fn decide(&self, node: &str, attributes: &Attributes<'_>, object: &Value) -> Result<(), No> {
        let resource = (attributes.resource.group.as_ref(), attributes.resource.resource.as_ref());
        match (resource, attributes.subresource) {
            (("", "pods"), "") => self.pod(node, attributes, object).await,
            (("", "pods"), "status") => pod_status(node, attributes, object),
            (("", "pods"), "eviction") => self.eviction(node, attributes).await,
            (("", "pods"), other) => {
                no(format!("unexpected pod subresource {}, only 'status' and 'eviction' are allowed", quote(other)))
            }
            (("", "nodes"), _) => node_object(node, attributes, object),
            (("", "persistentvolumeclaims"), "status") => claim_status(node, attributes, object),
            (("", "persistentvolumeclaims"), _) => no("may only update PVC status"),
            (("", "serviceaccounts"), "token") if attributes.operation == Operation::Create => {
                self.token(node, attributes, object).await
            }
            (("coordination.k8s.io", "leases"), _) => {
                if attributes.namespace != "kube-node-lease" {
                    return no("can only access leases in the \"kube-node-lease\" system namespace");
                }
                own_name(node, attributes, object, "node lease")
            }
            (("storage.k8s.io", "csinodes"), _) => own_name(node, attributes, object, "CSINode"),
            (("resource.k8s.io", "resourceslices"), _) => resource_slice(node, attributes, object),
            (("certificates.k8s.io", "certificatesigningrequests"), "")
                if attributes.operation == Operation::Create =>
            {
                signing_request(node, object)
            }
            _ => Ok(()),
        }
    }

    async fn pod_on(&self, node: &str, attributes: &Attributes<'_>, name: &str, why: &str) -> Result<Value, No> {
        let pod = self.resources.get(&PODS, attributes.namespace, name).await?;
        if meta::str_at(&pod, &["spec", "nodeName"]) != node {
            return no(why);
        }
        Ok(pod)
    }

    async fn pod(&self, node: &str, attributes: &Attributes<'_>, pod: &Value) -> Result<(), No> {
        let named = quote(node);
        match attributes.operation {
            Operation::Create => self.mirror_pod(node, pod).await,
            Operation::Delete => {
                let why = format!("node {named} can only delete pods with spec.nodeName set to itself");
                self.pod_on(node, attributes, attributes.name, &why).await.map(|_| ())
            }
            _ => no(format!("unexpected operation, node {named} can only create and delete mirror pods")),
        }
    }

    async fn mirror_pod(&self, node: &str, pod: &Value) -> Result<(), No> {
        let named = quote(node);
        if meta::annotation(pod, MIRROR).is_none() {
            return no(format!("pod does not have \"{MIRROR}\" annotation, node {named} can only create mirror pods"));
        }
        if meta::str_at(pod, &["spec", "nodeName"]) != node {
            return no(format!("node {named} can only create pods with spec.nodeName set to itself"));
        }
        let owner = match meta::owner_references(pod) {
            [owner] => owner,
            [] => return no(format!("node {named} can only create pods with an owner reference set to itself")),
            _ => return no(format!("node {named} can only create pods with a single owner reference set to itself")),
        };
        if owner["apiVersion"] != "v1" || owner["kind"] != "Node" || owner["name"] != node {
            return no(format!("node {named} can only create pods with an owner reference set to itself"));
        }
        if owner["controller"] != true {
            return no(format!("node {named} can only create pods with a controller owner reference set to itself"));
        }
        if owner["blockOwnerDeletion"] == true {
            return no(format!("node {named} must not set blockOwnerDeletion on an owner reference"));
        }
        let object = self.resources.get(&NODES, "", node).await?;
        if owner["uid"] != object["metadata"]["uid"] {
            let expected = owner["uid"].as_str().unwrap_or_default();
            return no(format!("node {node} UID mismatch: expected {expected} got {}", meta::uid(&object)));
        }
        match api_reference(&pod["spec"]) {
            Some(what) => no(format!("node {named} can not create pods that reference {what}")),
            None => Ok(()),
        }
    }

    async fn eviction(&self, node: &str, attributes: &Attributes<'_>) -> Result<(), No> {
        if attributes.operation != Operation::Create {
            return no("unexpected operation");
        }
        let why = format!("node {node} can only evict pods with spec.nodeName set to itself");
        self.pod_on(node, attributes, attributes.name, &why).await.map(|_| ())
    }

    async fn token(&self, node: &str, attributes: &Attributes<'_>, request: &Value) -> Result<(), No> {
        let bound = &request["spec"]["boundObjectRef"];
        let name = bound["name"].as_str().unwrap_or_default();
        if bound["apiVersion"] != "v1" || bound["kind"] != "Pod" || name.is_empty() {
            return no("node requested token not bound to a pod");
        }
        let uid = bound["uid"].as_str().unwrap_or_default();
        if uid.is_empty() {
            return no("node requested token with a pod binding without a uid");
        }
        let why = "node requested token bound to a pod scheduled on a different node";
        let pod = self.resources.get(&PODS, attributes.namespace, name).await?;
        if meta::uid(&pod) != uid {
            return no(format!(
                "the UID in the bound object reference ({uid}) does not match the UID in record. The object might have \
                 been deleted and then recreated"
            ));
        }
        if meta::str_at(&pod, &["spec", "nodeName"]) != node {
            return no(why);
        }
        let audiences: Vec<&str> = items(&request["spec"], "audiences").filter_map(Value::as_str).collect();
        if audiences.iter().all(|audience| self.audiences.iter().any(|own| own == audience)) {
            return self.audience_in(&pod, "").await;
        }
        match audiences.as_slice() {
            [one] => self.audience_in(&pod, one).await,
            _ => no("node may only request 0 or 1 audiences"),
        }
    }

    /// Whether the pod asks for a token for `audience`, itself or through a CSI driver.
    async fn audience_in(&self, pod: &Value, audience: &str) -> Result<(), No> {
        let is_asked = |wanted: &Value| {
            let wanted = wanted.as_str().unwrap_or_default();
            wanted == audience || (audience.is_empty() && self.audiences.iter().any(|own| own == wanted))
        };
        let mut drivers = BTreeSet::new();
        for volume in items(&pod["spec"], "volumes") {
            let mut tokens = items(&volume["projected"], "sources").map(|s| &s["serviceAccountToken"]);
            if tokens.any(|token| !token.is_null() && is_asked(&token["audience"])) {
                return Ok(());
            }
            drivers.extend(self.csi_driver(pod, volume).await);
        }
        for driver in drivers {
            let listed = GroupResource::from_static("storage.k8s.io", "csidrivers");
            let Some(driver) = self.resources.get_cached(&listed, "", &driver).await? else { continue };
            if items(&driver["spec"], "tokenRequests").any(|token| is_asked(&token["audience"])) {
                return Ok(());
            }
        }
        no(format!(
            "audience {} not found in pod spec volume, the node is not authorized to request tokens for this audience",
            quote(audience)
        ))
    }

    async fn csi_driver(&self, pod: &Value, volume: &Value) -> Option<String> {
        if let Some(driver) = volume["csi"]["driver"].as_str() {
            return Some(driver.to_owned());
        }
        let claim = match volume["persistentVolumeClaim"]["claimName"].as_str() {
            Some(claim) => claim.to_owned(),
            None if !volume["ephemeral"].is_null() => format!("{}-{}", meta::name(pod), volume["name"].as_str()?),
            None => return None,
        };
        let claims = GroupResource::from_static("", "persistentvolumeclaims");
        let claim = self.resources.get_cached(&claims, meta::namespace(pod), &claim).await.ok()??;
        let volumes = GroupResource::from_static("", "persistentvolumes");
        let name = meta::str_at(&claim, &["spec", "volumeName"]);
        let volume = self.resources.get_cached(&volumes, "", name).await.ok()??;
        volume["spec"]["csi"]["driver"].as_str().map(str::to_owned)
    }
}

/// What of the API a pod spec refers to, in upstream's words; a mirror pod may refer to nothing.
fn api_reference(spec: &Value) -> Option<&'static str> {
    if !spec["serviceAccountName"].as_str().unwrap_or_default().is_empty() {
        return Some("serviceaccounts");
    }
    let containers = ["initContainers", "containers", "ephemeralContainers"];
    let all = || containers.iter().flat_map(|list| items(spec, list));
    let from = |field: &str, key: &str| {
        all().any(|c| {
            items(c, "envFrom").any(|e| !e[field].is_null()) || items(c, "env").any(|e| !e["valueFrom"][key].is_null())
        })
    };
    if items(spec, "imagePullSecrets").next().is_some() || from("secretRef", "secretKeyRef") {
        return Some("secrets");
    }
    if from("configMapRef", "configMapKeyRef") {
        return Some("configmaps");
    }
    if items(spec, "resourceClaims").next().is_some() {
        return Some("resourceclaims");
    }
    for volume in items(spec, "volumes") {
        let has = |field: &str| !volume[field].is_null();
        let projects = |field: &str| items(&volume["projected"], "sources").any(|source| !source[field].is_null());
        if has("secret") || projects("secret") {
            return Some("secrets");
        }
        if has("configMap") || projects("configMap") {
            return Some("configmaps");
        }
        if projects("serviceAccountToken") {
            return Some("serviceaccounts");
        }
        if has("persistentVolumeClaim") || has("ephemeral") {
            return Some("persistentvolumeclaims");
        }
        if projects("clusterTrustBundle") {
            return Some("clustertrustbundles");
        }
        if has("csi") {
            return Some("csidrivers (via inline volumes)");
        }
    }
    None
}

fn pod_status(node: &str, attributes: &Attributes<'_>, pod: &Value) -> Result<(), No> {
    let Some(old) = attributes.old_object.filter(|_| attributes.operation == Operation::Update) else {
        return no("unexpected operation");
    };
    let named = quote(node);
    if meta::str_at(old, &["spec", "nodeName"]) != node {
        return no(format!("node {named} can only update pod status for pods with spec.nodeName set to itself"));
    }
    if meta::labels(old) != meta::labels(pod) {
        return no(format!("node {named} cannot update labels through pod status"));
    }
    if old["status"]["resourceClaimStatuses"] != pod["status"]["resourceClaimStatuses"] {
        return no(format!("node {named} cannot update resource claim statues"));
    }
    if old["status"]["extendedResourceClaimStatus"] != pod["status"]["extendedResourceClaimStatus"] {
        return no(format!("node {named} cannot update extended resource claim status"));
    }
    Ok(())
}

fn own_name(node: &str, attributes: &Attributes<'_>, object: &Value, what: &str) -> Result<(), No> {
    let name = if attributes.operation == Operation::Create { meta::name(object) } else { attributes.name };
    if name == node { Ok(()) } else { no(format!("can only access {what} with the same name as the requesting node")) }
}

fn node_object(node: &str, attributes: &Attributes<'_>, object: &Value) -> Result<(), No> {
    let requested = if attributes.name.is_empty() { meta::name(object) } else { attributes.name };
    if requested != node {
        return no(format!("node {} is not allowed to modify node {}", quote(node), quote(requested)));
    }
    let none = Value::Null;
    let labels = |node: &Value| node["metadata"]["labels"].clone();
    let named = quote(node);
    match attributes.operation {
        Operation::Create => {
            let forbidden = forbidden_labels(&labels(object), &none);
            if !forbidden.is_empty() {
                let forbidden = forbidden.join(", ");
                return no(format!("node {named} is not allowed to set the following labels: {forbidden}"));
            }
            Ok(())
        }
        Operation::Update => {
            let Some(old) = attributes.old_object else { return Ok(()) };
            let list = |node: &Value, path: &[&str]| meta::array_at(node, path).to_vec();
            if list(object, &["spec", "taints"]) != list(old, &["spec", "taints"]) {
                return no(format!("node {named} is not allowed to modify taints"));
            }
            if meta::owner_references(object) != meta::owner_references(old) {
                return no(format!("node {named} is not allowed to modify ownerReferences"));
            }
            let forbidden = forbidden_labels(&labels(object), &labels(old));
            if !forbidden.is_empty() {
                return no(format!("is not allowed to modify labels: {}", forbidden.join(", ")));
            }
            Ok(())
        }
        _ => Ok(()),
    }
}

/// Labels that differ and are not a kubelet's to set.
fn forbidden_labels(new: &Value, old: &Value) -> Vec<String> {
    let keys: BTreeSet<&String> =
        [new, old].into_iter().filter_map(Value::as_object).flat_map(|map| map.keys()).collect();
    keys.into_iter().filter(|key| new[key.as_str()] != old[key.as_str()] && is_forbidden(key)).cloned().collect()
}

fn is_forbidden(label: &str) -> bool {
    let namespace = label.split_once('/').map_or("", |(namespace, _)| namespace);
    let within = |domain: &str| namespace == domain || namespace.ends_with(&format!(".{domain}"));
    const OWN: [&str; 12] = [
        "kubernetes.io/hostname",
        "topology.kubernetes.io/zone",
        "topology.kubernetes.io/region",
        "failure-domain.beta.kubernetes.io/zone",
        "failure-domain.beta.kubernetes.io/region",
        "beta.kubernetes.io/instance-type",
        "node.kubernetes.io/instance-type",
        "kubernetes.io/os",
        "kubernetes.io/arch",
        "beta.kubernetes.io/os",
        "beta.kubernetes.io/arch",
        "node.kubernetes.io/windows-build",
    ];
    if within("node-restriction.kubernetes.io") {
        return true;
    }
    let own = OWN.contains(&label) || within("kubelet.kubernetes.io") || within("node.kubernetes.io");
    (within("kubernetes.io") || within("k8s.io")) && !own
}

fn claim_status(node: &str, attributes: &Attributes<'_>, claim: &Value) -> Result<(), No> {
    let Some(old) = attributes.old_object.filter(|_| attributes.operation == Operation::Update) else {
        return no("unexpected operation");
    };
    let rest = |claim: &Value| {
        let mut rest = claim.clone();
        for field in ["capacity", "conditions", "allocatedResourceStatuses", "allocatedResources"] {
            meta::remove(&mut rest, &["status", field]);
        }
        for field in ["resourceVersion", "managedFields"] {
            meta::remove(&mut rest, &["metadata", field]);
        }
        rest
    };
    if rest(claim) != rest(old) {
        let named = quote(node);
        return no(format!(
            "node {named} is not allowed to update fields other than status.quantity and status.conditions"
        ));
    }
    Ok(())
}

fn resource_slice(node: &str, attributes: &Attributes<'_>, slice: &Value) -> Result<(), No> {
    let home = |slice: &Value| slice["spec"]["nodeName"].as_str().map(str::to_owned);
    match attributes.operation {
        Operation::Create if home(slice).as_deref() != Some(node) => {
            no("can only create ResourceSlice with the same NodeName as the requesting node")
        }
        Operation::Delete if attributes.old_object.is_some_and(|old| home(old).as_deref() != Some(node)) => {
            no("can only delete ResourceSlice with the same NodeName as the requesting node")
        }
        _ => Ok(()),
    }
}

/// A node asks for certificates in its own name only.
fn signing_request(node: &str, request: &Value) -> Result<(), No> {
    use base64::Engine;
    use x509_parser::prelude::FromDer;
    let signer = meta::str_at(request, &["spec", "signerName"]);
    if !matches!(signer, "kubernetes.io/kube-apiserver-client-kubelet" | "kubernetes.io/kubelet-serving") {
        return Ok(());
    }
    let pem = base64::engine::general_purpose::STANDARD.decode(meta::str_at(request, &["spec", "request"]));
    let pem = pem.unwrap_or_default();
    let der = pem_blocks(&String::from_utf8_lossy(&pem), "CERTIFICATE REQUEST").into_iter().next().unwrap_or_default();
    let Ok((_, parsed)) = x509_parser::certification_request::X509CertificationRequest::from_der(&der) else {
        return no("unable to parse csr");
    };
    let wanted = format!("system:node:{node}");
    let name = parsed
        .certification_request_info
        .subject
        .iter_common_name()
        .next()
        .and_then(|n| n.as_str().ok().map(str::to_owned));
    if name.as_deref() != Some(&wanted) {
        return no("can only create a node CSR with CN=system:node:<nodeName> of the requesting node");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::fake::{Memory, Write};
    use super::*;
    use serde_json::json;

    async fn ask(write: Write) -> Result<(), Status> {
        let pod = |name: &str, node: &str| {
            json!({"metadata": {"namespace": "team", "name": name, "uid": format!("{name}-uid")},
                   "spec": {"nodeName": node, "volumes": [
                       {"name": "t", "projected": {"sources": [{"serviceAccountToken": {"path": "token"}}]}},
                       {"name": "v", "projected": {"sources": [{"serviceAccountToken": {"audience": "vault"}}]}}]}})
        };
        let memory = Memory::with(vec![
            ("", "pods", pod("mine", "a")),
            ("", "pods", pod("other", "b")),
            ("", "nodes", json!({"metadata": {"name": "a", "uid": "node-uid"}})),
        ]);
        let plugin = NodeRestriction { resources: Arc::new(memory), audiences: vec!["api".into()] };
        let write = write.user("system:node:a", &["system:nodes"]);
        plugin.validate(&write.attributes(), Some(&write.object)).await
    }

    fn node(labels: Value) -> Value {
        json!({"metadata": {"name": "a", "labels": labels}, "spec": {"taints": []}})
    }

    #[tokio::test]
    async fn a_node_keeps_to_its_own_labels_and_leaves_taints_alone() {
        let write = |new: Value, old: Value| {
            let mut write = Write::create("", "v1", "nodes", "", new).update(old);
            write.name = "a".into();
            write
        };
        let before = node(json!({"example.com/x": "1", "node-restriction.kubernetes.io/team": "red"}));
        let after = node(
            json!({"example.com/x": "2", "kubernetes.io/hostname": "a", "node-restriction.kubernetes.io/team": "red"}),
        );
        ask(write(after, before.clone())).await.unwrap();
        let stolen = node(json!({"example.com/x": "1", "node-restriction.kubernetes.io/team": "blue"}));
        let refused = ask(write(stolen, before)).await.unwrap_err();
        assert!(
            refused.message.ends_with("is not allowed to modify labels: node-restriction.kubernetes.io/team"),
            "{}",
            refused.message
        );
        let mut tainted = node(json!({}));
        tainted["spec"]["taints"] = json!([{"key": "k", "effect": "NoSchedule"}]);
        assert!(
            ask(write(node(json!({})), tainted)).await.unwrap_err().message.contains("not allowed to modify taints")
        );
        let other = Write::create("", "v1", "nodes", "", json!({"metadata": {"name": "b"}}));
        assert!(ask(other).await.unwrap_err().message.contains("node \"a\" is not allowed to modify node \"b\""));
        let role = Write::create("", "v1", "nodes", "", node(json!({"node-role.kubernetes.io/control-plane": ""})));
        assert_eq!(ask(role).await.unwrap_err().code, 403);
    }

    #[tokio::test]
    async fn a_node_creates_mirror_pods_of_its_own_only() {
        let owner = json!([{"apiVersion": "v1", "kind": "Node", "name": "a", "uid": "node-uid", "controller": true}]);
        let pod = json!({"metadata": {"name": "static-a", "annotations": {MIRROR: "h"}, "ownerReferences": owner},
                         "spec": {"nodeName": "a", "containers": [{"name": "c"}]}});
        ask(Write::pod("team", pod.clone())).await.unwrap();
        for (path, value) in [
            (&["spec", "nodeName"][..], json!("b")),
            (&["metadata", "annotations"], json!({})),
            (&["metadata", "ownerReferences"], json!([])),
            (&["spec", "serviceAccountName"], json!("admin")),
            (&["spec", "volumes"], json!([{"name": "s", "secret": {"secretName": "s"}}])),
        ] {
            let mut wrong = pod.clone();
            meta::set(&mut wrong, path, value);
            assert_eq!(ask(Write::pod("team", wrong)).await.unwrap_err().code, 403, "{path:?}");
        }
    }

    #[tokio::test]
    async fn a_node_touches_only_the_pods_that_it_runs() {
        let named = |name: &str| {
            let mut write = Write::pod("team", json!({"metadata": {"name": name}}));
            write.name = name.into();
            write
        };
        ask(named("mine").delete()).await.unwrap();
        assert_eq!(ask(named("other").delete()).await.unwrap_err().code, 403);
        ask(named("mine").subresource("eviction")).await.unwrap();
        assert_eq!(ask(named("other").subresource("eviction")).await.unwrap_err().code, 403);
        assert_eq!(ask(named("mine").subresource("exec")).await.unwrap_err().code, 403);
        let status = |node: &str, label: &str| {
            let pod =
                |label: &str| json!({"metadata": {"name": "p", "labels": {"l": label}}, "spec": {"nodeName": node}});
            Write::pod("team", pod(label)).update(pod("x")).subresource("status")
        };
        ask(status("a", "x")).await.unwrap();
        assert!(ask(status("b", "x")).await.is_err() && ask(status("a", "y")).await.is_err());
    }

    #[tokio::test]
    async fn a_node_gets_tokens_for_its_pods_and_their_audiences() {
        let token = |pod: &str, uid: &str, audience: &str| {
            let spec = json!({"audiences": [audience], "boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": pod, "uid": uid}});
            Write::create("", "v1", "serviceaccounts", "team", json!({"metadata": {"name": "robot"}, "spec": spec}))
                .subresource("token")
        };
        ask(token("mine", "mine-uid", "api")).await.unwrap();
        ask(token("mine", "mine-uid", "vault")).await.unwrap();
        for (pod, uid, audience) in
            [("mine", "mine-uid", "bank"), ("other", "other-uid", "api"), ("mine", "older", "api"), ("mine", "", "api")]
        {
            assert_eq!(ask(token(pod, uid, audience)).await.unwrap_err().code, 403, "{pod} {uid} {audience}");
        }
        let unbound =
            Write::create("", "v1", "serviceaccounts", "team", json!({"metadata": {"name": "robot"}, "spec": {}}))
                .subresource("token");
        assert!(ask(unbound).await.unwrap_err().message.ends_with("node requested token not bound to a pod"));
    }
}
