//! Makes what every cluster has: namespaces, the default policy, priority classes, and how to reach this server from
//! inside. Safe to repeat at every start; what a user changed and may change stays.

use std::net::IpAddr;
use std::sync::Arc;

use futures::StreamExt;
use serde_json::{Value, json};
use skeg_machinery::gvk::GroupResource;
use skeg_machinery::status::Status;

use super::policy::{self, PolicyObject};
use crate::authz::rules;
use crate::request::UserInfo;
use crate::resources::{Resources, WriteOptions};

/// Objects written at once; the store commits those that wait together.
const AT_ONCE: usize = 64;

const RBAC: &str = "rbac.authorization.k8s.io";

/// What the cluster is told about itself.
#[derive(Clone, Debug)]
pub struct ClusterOptions {
    /// Addresses at which pods reach this server, and the port.
    pub addresses: Vec<IpAddr>,
    pub port: u16,
    /// First address of each service network: the `kubernetes` service's.
    pub service_addresses: Vec<IpAddr>,
    pub client_ca_pem: String,
    pub front_proxy_ca_pem: String,
}

/// The server itself, as a user.
pub fn myself() -> UserInfo {
    let groups = vec!["system:masters".to_owned(), "system:authenticated".to_owned()];
    UserInfo { name: "system:apiserver".into(), groups, ..UserInfo::default() }
}

fn resource(group: &'static str, resource: &'static str) -> GroupResource {
    GroupResource { group: group.into(), resource: resource.into() }
}

/// Brings everything up; the first error ends it.
pub async fn run(resources: Arc<dyn Resources>, options: &ClusterOptions) -> Result<(), Status> {
    let namespaces = ["default", "kube-system", "kube-public", "kube-node-lease"];
    let namespaces = namespaces.map(|name| (resource("", "namespaces"), "", json!({"metadata": {"name": name}})));
    ensure_all(&resources, namespaces).await?;
    let classes = [("system-cluster-critical", 2_000_000_000), ("system-node-critical", 2_000_001_000)];
    let classes = classes.map(|(name, value)| {
        let description = format!(
            "Used for system critical pods that {}.",
            match name {
                "system-node-critical" => "must not be moved from their current node",
                _ => "must run in the cluster, but can be moved to another node if necessary",
            }
        );
        let object = json!({"metadata": {"name": name}, "value": value, "description": description});
        (resource("scheduling.k8s.io", "priorityclasses"), "", object)
    });
    let (classes, joining, policy, service, authentication) = futures::join!(
        ensure_all(&resources, classes),
        ensure_all(&resources, joining()),
        reconcile_policy(&resources),
        kubernetes_service(&resources, options),
        extension_authentication(&resources, options),
    );
    classes.and(joining).and(policy).and(service).and(authentication)
}

/// What lets a machine with a join token become a node: read the CA, ask for a client certificate and have it approved.
fn joining() -> Vec<(GroupResource, &'static str, Value)> {
    let binding = |name: &str, role: &str, group: &str| {
        let object = json!({
            "metadata": {"name": name},
            "roleRef": {"apiGroup": RBAC, "kind": "ClusterRole", "name": role},
            "subjects": [{"apiGroup": RBAC, "kind": "Group", "name": group}],
        });
        (resource(RBAC, "clusterrolebindings"), "", object)
    };
    let approve = "system:certificates.k8s.io:certificatesigningrequests";
    let reader = json!({
        "metadata": {"name": "skeg:ca-reader"},
        "rules": [{"verbs": ["get"], "nonResourceURLs": ["/cacerts"]}],
    });
    vec![
        (resource(RBAC, "clusterroles"), "", reader),
        binding("skeg:ca-reader", "skeg:ca-reader", "system:unauthenticated"),
        binding("skeg:node-bootstrap", "system:node-bootstrapper", "system:bootstrappers"),
        binding("skeg:approve-node-bootstrap", &format!("{approve}:nodeclient"), "system:bootstrappers"),
        binding("skeg:approve-node-renewal", &format!("{approve}:selfnodeclient"), "system:nodes"),
    ]
}

async fn ensure_all(
    resources: &Arc<dyn Resources>,
    objects: impl IntoIterator<Item = (GroupResource, &'static str, Value)>,
) -> Result<(), Status> {
    let writes = objects.into_iter().map(|(resource, namespace, object)| {
        let resources = resources.clone();
        async move { ensure(&*resources, &resource, namespace, object).await }
    });
    let mut done = futures::stream::iter(writes).buffer_unordered(AT_ONCE);
    while let Some(result) = done.next().await {
        result?;
    }
    Ok(())
}

/// Creates the object unless there is one of its name.
async fn ensure(
    resources: &dyn Resources,
    resource: &GroupResource,
    namespace: &str,
    object: Value,
) -> Result<(), Status> {
    let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    if resources.get_cached(resource, namespace, &name).await?.is_some() {
        return Ok(());
    }
    match resources.create(&myself(), resource, namespace, object, &WriteOptions::default()).await {
        Err(status) if !status.is_already_exists() => Err(status),
        _ => Ok(()),
    }
}

/// Creates default roles and bindings, and gives back what an existing one lacks (upstream's reconciliation: nothing is
/// taken away, and objects whose autoupdate annotation is "false" are left alone).
async fn reconcile_policy(resources: &Arc<dyn Resources>) -> Result<(), Status> {
    let writes = policy::objects().into_iter().map(|wanted| {
        let resources = resources.clone();
        async move { reconcile(&*resources, wanted).await }
    });
    let mut done = futures::stream::iter(writes).buffer_unordered(AT_ONCE);
    while let Some(result) = done.next().await {
        result?;
    }
    Ok(())
}

async fn reconcile(resources: &dyn Resources, wanted: PolicyObject) -> Result<(), Status> {
    let kind = resource(RBAC, wanted.resource);
    let (namespace, name) = (wanted.namespace().to_owned(), wanted.name().to_owned());
    let Some(live) = resources.get_cached(&kind, &namespace, &name).await? else {
        return ensure(resources, &kind, namespace_of(&namespace), wanted.object).await;
    };
    if completed(&live, &wanted.object).is_none() {
        return Ok(());
    }
    let mut edit = |live: &mut Value| {
        if let Some(better) = completed(live, &wanted.object) {
            *live = better;
        }
        Ok(())
    };
    resources.modify(&kind, &namespace, &name, false, &mut edit).await.map(|_| ())
}

/// Default roles live in these namespaces.
fn namespace_of(namespace: &str) -> &'static str {
    match namespace {
        "kube-system" => "kube-system",
        "kube-public" => "kube-public",
        _ => "",
    }
}

/// The live object with what it lacks of the wanted one; `None`: nothing.
fn completed(live: &Value, wanted: &Value) -> Option<Value> {
    const AUTOUPDATE: &str = "rbac.authorization.kubernetes.io/autoupdate";
    if live["metadata"]["annotations"][AUTOUPDATE] == "false" {
        return None;
    }
    let mut better = live.clone();
    if wanted["rules"].is_array() && live["aggregationRule"].is_null() {
        let missing = rules::uncovered(&rules::parse(&live["rules"]), &rules::parse(&wanted["rules"]));
        if !missing.is_empty() {
            let list = better["rules"].as_array().cloned().unwrap_or_default();
            better["rules"] = list.into_iter().chain(missing.iter().map(rules::to_value)).collect();
        }
    }
    let have = live["subjects"].as_array().cloned().unwrap_or_default();
    let lacks = |subject: &&Value| {
        !have.iter().any(|h| ["kind", "name", "namespace"].iter().all(|field| h[*field] == subject[*field]))
    };
    let missing: Vec<Value> = wanted["subjects"].as_array().into_iter().flatten().filter(lacks).cloned().collect();
    if !missing.is_empty() {
        better["subjects"] = have.into_iter().chain(missing).collect();
    }
    (better != *live).then_some(better)
}

/// The service by which pods find the API, and its endpoints: this server.
async fn kubernetes_service(resources: &Arc<dyn Resources>, options: &ClusterOptions) -> Result<(), Status> {
    let Some(first) = options.service_addresses.first() else { return Ok(()) };
    let addresses: Vec<String> = options.service_addresses.iter().map(ToString::to_string).collect();
    let families: Vec<&str> =
        options.service_addresses.iter().map(|a| if a.is_ipv4() { "IPv4" } else { "IPv6" }).collect();
    let service = json!({
        "metadata": {"name": "kubernetes", "labels": {"component": "apiserver", "provider": "kubernetes"}},
        "spec": {
            "type": "ClusterIP", "clusterIP": first.to_string(), "clusterIPs": addresses,
            "ipFamilies": families, "ipFamilyPolicy": "SingleStack", "sessionAffinity": "None",
            "ports": [{"name": "https", "protocol": "TCP", "port": 443, "targetPort": options.port}],
        },
    });
    let family = |address: &&IpAddr| address.is_ipv4() == first.is_ipv4();
    let own: Vec<String> = options.addresses.iter().filter(family).map(ToString::to_string).collect();
    let subsets = json!([{
        "addresses": own.iter().map(|ip| json!({"ip": ip})).collect::<Vec<_>>(),
        "ports": [{"name": "https", "port": options.port, "protocol": "TCP"}],
    }]);
    let endpoints = json!({
        "metadata": {"name": "kubernetes", "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"}},
        "subsets": subsets,
    });
    let slice = json!({
        "metadata": {"name": "kubernetes", "labels": {"kubernetes.io/service-name": "kubernetes"}},
        "addressType": if first.is_ipv4() { "IPv4" } else { "IPv6" },
        "endpoints": own.iter().map(|ip| json!({"addresses": [ip], "conditions": {"ready": true}})).collect::<Vec<_>>(),
        "ports": [{"name": "https", "port": options.port, "protocol": "TCP"}],
    });
    ensure(&**resources, &resource("", "services"), "default", service).await?;
    let slices = resource("discovery.k8s.io", "endpointslices");
    keep(&**resources, &resource("", "endpoints"), endpoints, &["subsets"]).await?;
    keep(&**resources, &slices, slice, &["endpoints", "ports"]).await
}

/// Creates the object in `default`, or gives the existing one the wanted `fields`.
async fn keep(resources: &dyn Resources, kind: &GroupResource, wanted: Value, fields: &[&str]) -> Result<(), Status> {
    let name = wanted["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    let Some(live) = resources.get_cached(kind, "default", &name).await? else {
        return ensure(resources, kind, "default", wanted).await;
    };
    if fields.iter().all(|field| live[*field] == wanted[*field]) {
        return Ok(());
    }
    let mut edit = |live: &mut Value| {
        for field in fields {
            live[*field] = wanted[*field].clone();
        }
        Ok(())
    };
    resources.modify(kind, "default", &name, false, &mut edit).await.map(|_| ())
}

/// How extension API servers recognise this one and its users.
async fn extension_authentication(resources: &Arc<dyn Resources>, options: &ClusterOptions) -> Result<(), Status> {
    let data = json!({
        "client-ca-file": options.client_ca_pem,
        "requestheader-client-ca-file": options.front_proxy_ca_pem,
        "requestheader-allowed-names": "[\"front-proxy-client\"]",
        "requestheader-username-headers": "[\"X-Remote-User\"]",
        "requestheader-uid-headers": "[\"X-Remote-Uid\"]",
        "requestheader-group-headers": "[\"X-Remote-Group\"]",
        "requestheader-extra-headers-prefix": "[\"X-Remote-Extra-\"]",
    });
    let object = json!({"metadata": {"name": "extension-apiserver-authentication"}, "data": data});
    ensure(&**resources, &resource("", "configmaps"), "kube-system", object).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reconciliation_adds_what_is_missing_and_takes_nothing_away() {
        let rule = |verb: &str| json!({"verbs": [verb], "apiGroups": [""], "resources": ["pods"]});
        let wanted = json!({"rules": [rule("get"), rule("list")]});
        let live = json!({"metadata": {}, "rules": [rule("get"), rule("delete")]});
        let better = completed(&live, &wanted).unwrap();
        assert_eq!(better["rules"].as_array().unwrap().len(), 3);
        assert_eq!(completed(&better, &wanted), None);
        let kept =
            json!({"metadata": {"annotations": {"rbac.authorization.kubernetes.io/autoupdate": "false"}}, "rules": []});
        assert_eq!(completed(&kept, &wanted), None);
    }

    #[test]
    fn a_binding_gets_its_missing_subjects_back() {
        let subject = |name: &str| json!({"kind": "Group", "name": name});
        let wanted = json!({"subjects": [subject("a"), subject("b")]});
        let live = json!({"metadata": {}, "subjects": [subject("b"), subject("c")]});
        let better = completed(&live, &wanted).unwrap();
        let names: Vec<&str> =
            better["subjects"].as_array().unwrap().iter().map(|s| s["name"].as_str().unwrap()).collect();
        assert_eq!(names, ["b", "c", "a"]);
    }
}
