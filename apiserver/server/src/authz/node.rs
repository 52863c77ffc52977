//! The Node authorizer: a kubelet may read what the pods on its node refer to and write what is its own (upstream
//! plugin/pkg/auth/authorizer/node). What it may change of its own objects is [`crate::admission`]'s NodeRestriction.

use std::collections::HashSet;
use std::sync::{Arc, LazyLock, RwLock};

use async_trait::async_trait;
use futures::StreamExt;
use futures::stream::BoxStream;
use skeg_machinery::gvk::GroupResource;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::node_graph::{Graph, Kind};
use super::{Authorizer, Decision, Rule, rules};
use crate::bootstrap::policy;
use crate::request::{RequestInfo, UserInfo};
use crate::resources::{Change, Resources};

const NODES: &str = "system:nodes";
const USER_PREFIX: &str = "system:node:";
const LEASE_NAMESPACE: &str = "kube-node-lease";

/// The node that a user is; `Some("")` for a member of system:nodes without a proper name.
pub fn node_of(user: &UserInfo) -> Option<&str> {
    let name = user.name.strip_prefix(USER_PREFIX)?;
    user.groups.iter().any(|group| group == NODES).then_some(name)
}

/// Further rules of every node, as upstream's NodeRules: those of the role system:node.
static NODE_RULES: LazyLock<Vec<Rule>> = LazyLock::new(|| {
    let role = policy::objects().into_iter().find(|o| o.resource == "clusterroles" && o.name() == "system:node");
    rules::parse(&role.expect("the policy has system:node").object["rules"])
});

const FOLLOWED: [(&str, &str, Kind); 4] = [
    ("", "pods", Kind::Pod),
    ("", "persistentvolumes", Kind::Volume),
    ("storage.k8s.io", "volumeattachments", Kind::Attachment),
    ("resource.k8s.io", "resourceslices", Kind::ResourceSlice),
];

pub struct NodeAuthorizer {
    graph: RwLock<Graph>,
    synced: watch::Sender<usize>,
}

impl NodeAuthorizer {
    pub fn new() -> Arc<Self> {
        Arc::new(NodeAuthorizer { graph: RwLock::default(), synced: watch::Sender::new(0) })
    }

    /// Follows what the graph is made of until `shutdown`.
    pub async fn run(self: Arc<Self>, resources: Arc<dyn Resources>, shutdown: CancellationToken) {
        let follow = FOLLOWED.map(|(group, resource, kind)| {
            let resources_of = GroupResource::from_static(group, resource);
            // A pod without a node gives nobody access.
            let changes = match kind {
                Kind::Pod => resources.follow_having(&resources_of, "spec.nodeName"),
                _ => resources.follow(&resources_of),
            };
            self.clone().follow(resource, kind, changes)
        });
        tokio::select! {
            _ = futures::future::join_all(follow) => {}
            () = shutdown.cancelled() => {}
        }
    }

    /// Returns when everything has been listed once.
    pub async fn wait_synced(&self) {
        let mut synced = self.synced.subscribe();
        let _ = synced.wait_for(|count| *count >= FOLLOWED.len()).await;
    }

    async fn follow(self: Arc<Self>, resource: &'static str, kind: Kind, mut changes: BoxStream<'static, Change>) {
        let (mut listed, mut relisting, mut counted) = (HashSet::new(), true, false);
        while let Some(change) = changes.next().await {
            let mut graph = self.graph.write().expect("no panic while the graph is locked");
            match change {
                Change::Restart => {
                    listed.clear();
                    relisting = true;
                }
                Change::Applied(object) => {
                    let key = graph.apply(resource, &object);
                    if relisting {
                        listed.insert(key);
                    }
                }
                Change::Deleted(object) => {
                    let text = |name: &str| object["metadata"][name].as_str().unwrap_or_default().to_owned();
                    graph.remove(&(kind, text("namespace"), text("name")));
                }
                Change::Synced => {
                    for key in graph.keys(kind) {
                        if !listed.contains(&key) {
                            graph.remove(&key);
                        }
                    }
                    listed = HashSet::new();
                    relisting = false;
                    if !counted {
                        counted = true;
                        self.synced.send_modify(|count| *count += 1);
                    }
                }
            }
        }
    }

    /// Whether something on `node` refers to the object of the request.
    fn related(&self, node: &str, kind: Kind, request: &RequestInfo) -> Result<(), String> {
        if request.name.is_empty() {
            return Err("No Object name found".into());
        }
        let graph = self.graph.read().expect("no panic while the graph is locked");
        if graph.related(node, kind, &request.namespace, &request.name) {
            return Ok(());
        }
        Err(format!("no relationship found between node '{node}' and this object"))
    }

    fn decide(&self, node: &str, request: &RequestInfo) -> Result<(), String> {
        let verb = request.verb.as_str();
        if request.is_resource_request {
            match (request.api_group.as_str(), request.resource.as_str()) {
                ("", "secrets") => return self.read_related(node, Kind::Secret, request),
                ("", "configmaps") => return self.read_related(node, Kind::ConfigMap, request),
                ("", "persistentvolumeclaims") if request.subresource == "status" => {
                    return match verb {
                        "update" | "patch" => self.related(node, Kind::Claim, request),
                        _ => Err("can only get/update/patch this type".into()),
                    };
                }
                ("", "persistentvolumeclaims") => return self.get_related(node, Kind::Claim, request),
                ("", "persistentvolumes") => return self.get_related(node, Kind::Volume, request),
                ("resource.k8s.io", "resourceclaims") => return self.get_related(node, Kind::ResourceClaim, request),
                ("storage.k8s.io", "volumeattachments") => return self.get_related(node, Kind::Attachment, request),
                ("", "serviceaccounts") => return self.service_account(node, request),
                ("coordination.k8s.io", "leases") => return lease(node, request),
                ("storage.k8s.io", "csinodes") => return csi_node(node, request),
                ("resource.k8s.io", "resourceslices") => return self.resource_slice(node, request),
                ("", "nodes") => return own_node(node, request),
                ("", "pods") => return self.pod(node, request),
                // Served to nodes by the rules of their role only where the feature is on, which it is not by default.
                ("certificates.k8s.io", "podcertificaterequests") => return Err(String::new()),
                _ => {}
            }
        }
        if NODE_RULES.iter().any(|rule| rules::allows(rule, request)) { Ok(()) } else { Err(String::new()) }
    }

    fn get_related(&self, node: &str, kind: Kind, request: &RequestInfo) -> Result<(), String> {
        if request.verb != "get" {
            return Err("can only get individual resources of this type".into());
        }
        if !request.subresource.is_empty() {
            return Err("cannot get subresource".into());
        }
        self.related(node, kind, request)
    }

    fn read_related(&self, node: &str, kind: Kind, request: &RequestInfo) -> Result<(), String> {
        if !matches!(request.verb.as_str(), "get" | "list" | "watch") {
            return Err("can only read resources of this type".into());
        }
        if !request.subresource.is_empty() {
            return Err("cannot read subresource".into());
        }
        if request.namespace.is_empty() {
            return Err("can only read namespaced object of this type".into());
        }
        self.related(node, kind, request)
    }

    fn service_account(&self, node: &str, request: &RequestInfo) -> Result<(), String> {
        if request.verb == "get" && request.subresource.is_empty() {
            return self.read_related(node, Kind::ServiceAccount, request);
        }
        if request.verb != "create" || request.name.is_empty() {
            return Err("can only create tokens for individual service accounts".into());
        }
        if request.subresource != "token" {
            return Err("can only create token subresource of serviceaccount".into());
        }
        self.related(node, Kind::ServiceAccount, request)
    }

    fn resource_slice(&self, node: &str, request: &RequestInfo) -> Result<(), String> {
        if !request.subresource.is_empty() {
            return Err("cannot authorize ResourceSlice subresources".into());
        }
        match request.verb.as_str() {
            "create" => Ok(()),
            "get" | "update" | "patch" | "delete" => self.related(node, Kind::ResourceSlice, request),
            "watch" | "list" | "deletecollection" if selects(request, "spec.nodeName", node) => Ok(()),
            "watch" | "list" | "deletecollection" => {
                Err("can only list/watch/deletecollection resourceslices with nodeName field selector".into())
            }
            _ => Err(
                "only the following verbs are allowed for a ResourceSlice: get, watch, list, create, update, patch, \
                      delete, deletecollection"
                    .into(),
            ),
        }
    }

    fn pod(&self, node: &str, request: &RequestInfo) -> Result<(), String> {
        match (request.subresource.as_str(), request.verb.as_str()) {
            ("", "get") => self.related(node, Kind::Pod, request),
            ("", "list" | "watch") if selects(request, "spec.nodeName", node) => Ok(()),
            ("", "list" | "watch") if !request.name.is_empty() => self.related(node, Kind::Pod, request),
            ("", "list" | "watch") => Err("can only list/watch pods with spec.nodeName field selector".into()),
            ("", "create" | "delete") | ("status", "update" | "patch") | ("eviction", "create") => Ok(()),
            _ => Err(String::new()),
        }
    }
}

fn lease(node: &str, request: &RequestInfo) -> Result<(), String> {
    let verb = request.verb.as_str();
    if !matches!(verb, "get" | "create" | "update" | "patch" | "delete") {
        return Err("can only get, create, update, patch, or delete a node lease".into());
    }
    if request.namespace != LEASE_NAMESPACE {
        return Err(format!("can only access leases in the \"{LEASE_NAMESPACE}\" system namespace"));
    }
    if verb != "create" && request.name != node {
        return Err("can only access node lease with the same name as the requesting node".into());
    }
    Ok(())
}

fn csi_node(node: &str, request: &RequestInfo) -> Result<(), String> {
    let verb = request.verb.as_str();
    if !matches!(verb, "get" | "create" | "update" | "patch" | "delete") {
        return Err("can only get, create, update, patch, or delete a CSINode".into());
    }
    if !request.subresource.is_empty() {
        return Err("cannot authorize CSINode subresources".into());
    }
    if verb != "create" && request.name != node {
        return Err("can only access CSINode with the same name as the requesting node".into());
    }
    Ok(())
}

fn own_node(node: &str, request: &RequestInfo) -> Result<(), String> {
    match (request.subresource.as_str(), request.verb.as_str()) {
        ("", "create" | "update" | "patch") | ("status", "update" | "patch") => Ok(()),
        ("", "get" | "list" | "watch") if request.name == node => Ok(()),
        ("", "get" | "list" | "watch") if request.name.is_empty() => {
            Err(format!("node '{node}' cannot read all nodes, only its own Node object"))
        }
        ("", "get" | "list" | "watch") => {
            Err(format!("node '{node}' cannot read '{}', only its own Node object", request.name))
        }
        _ => Err(String::new()),
    }
}

/// Whether the field selector pins `field` to `value`.
fn selects(request: &RequestInfo, field: &str, value: &str) -> bool {
    let terms = request.field_selector.as_deref().unwrap_or_default().split(',');
    terms
        .filter_map(|term| term.split_once('='))
        .any(|(key, wanted)| key == field && wanted.strip_prefix('=').unwrap_or(wanted) == value)
}

#[async_trait]
impl Authorizer for NodeAuthorizer {
    async fn authorize(&self, user: &UserInfo, request: &RequestInfo) -> Decision {
        let Some(node) = node_of(user) else { return Decision::NoOpinion(String::new()) };
        if node.is_empty() {
            return Decision::NoOpinion(format!("unknown node for user \"{}\"", user.name));
        }
        match self.decide(node, request) {
            Ok(()) => Decision::Allow(String::new()),
            Err(reason) => Decision::NoOpinion(reason),
        }
    }

    async fn rules_for(&self, user: &UserInfo, _: &str) -> Result<Vec<Rule>, String> {
        match node_of(user) {
            Some(_) => Err("node authorizer does not support user rule resolution".into()),
            None => Ok(Vec::new()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::fake::Memory;
    use serde_json::json;

    async fn authorizer() -> Arc<NodeAuthorizer> {
        let pod = json!({"metadata": {"namespace": "team", "name": "web"},
                         "spec": {"nodeName": "a", "serviceAccountName": "robot", "imagePullSecrets": [{"name": "pull"}]}});
        let authorizer = NodeAuthorizer::new();
        authorizer.clone().run(Arc::new(Memory::with(vec![("", "pods", pod)])), CancellationToken::new()).await;
        authorizer.wait_synced().await;
        authorizer
    }

    fn request(text: &str) -> RequestInfo {
        // verb group resource[/subresource] namespace name [fieldSelector]
        let words: Vec<&str> = text.split(' ').collect();
        let at = |i: usize| words.get(i).copied().filter(|w| *w != "-").unwrap_or_default().to_owned();
        let (resource, subresource) = words[2].split_once('/').unwrap_or((words[2], ""));
        RequestInfo {
            is_resource_request: true,
            verb: at(0),
            api_group: at(1),
            resource: resource.into(),
            subresource: subresource.into(),
            namespace: at(3),
            name: at(4),
            field_selector: words.get(5).map(|s| s.to_string()),
            ..Default::default()
        }
    }

    #[tokio::test]
    async fn a_node_reaches_its_own_and_nothing_of_others() {
        let authorizer = authorizer().await;
        for (asked, expect) in [
            ("get - secrets team pull", true),
            ("get - secrets team other", false),
            ("list - secrets team -", false),
            ("create - secrets team pull", false),
            ("get - pods team web", true),
            ("list - pods - - spec.nodeName=a", true),
            ("list - pods - - spec.nodeName=b", false),
            ("list - pods - -", false),
            ("update - pods/status team web", true),
            ("create - pods/eviction team web", true),
            ("create - serviceaccounts/token team robot", true),
            ("create - serviceaccounts/token team admin", false),
            ("get - nodes - a", true),
            ("get - nodes - b", false),
            ("delete - nodes - a", false),
            ("patch - nodes/status - a", true),
            ("update coordination.k8s.io leases kube-node-lease a", true),
            ("update coordination.k8s.io leases kube-node-lease b", false),
            ("update coordination.k8s.io leases team a", false),
            ("list - services - -", true),
            ("create - events team x", true),
            ("get apps deployments team x", false),
            ("create certificates.k8s.io certificatesigningrequests - -", true),
        ] {
            let user = UserInfo { name: "system:node:a".into(), groups: vec![NODES.into()], ..Default::default() };
            let allowed = matches!(authorizer.authorize(&user, &request(asked)).await, Decision::Allow(_));
            assert_eq!(allowed, expect, "{asked}");
        }
    }

    #[tokio::test]
    async fn who_is_not_in_the_nodes_group_is_no_node() {
        let user = UserInfo { name: "system:node:a".into(), ..Default::default() };
        let decision = authorizer().await.authorize(&user, &request("get - secrets team pull")).await;
        assert_eq!(decision, Decision::NoOpinion(String::new()));
    }
}
