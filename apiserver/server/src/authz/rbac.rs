//! Role-based access control over an index of the RBAC objects, kept by following them. A request looks up the bindings of
//! its user and groups; rules are parsed once per object change.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, RwLock};

use async_trait::async_trait;
use futures::StreamExt;
use serde_json::Value;
use skeg_machinery::gvk::GroupResource;
use skeg_machinery::text::quote;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{Authorizer, Decision, Rule, rules};
use crate::authn::service_account;
use crate::request::{RequestInfo, UserInfo};
use crate::resources::{Change, Resources};

pub const GROUP: &str = "rbac.authorization.k8s.io";
const TYPES: [&str; 4] = ["roles", "clusterroles", "rolebindings", "clusterrolebindings"];

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoleRef {
    pub kind: String,
    pub name: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Subject {
    User(String),
    Group(String),
}

#[derive(Debug)]
struct Binding {
    /// Empty for a ClusterRoleBinding.
    namespace: String,
    name: String,
    role: RoleRef,
    /// Each with its description for reasons.
    subjects: Vec<(Subject, String)>,
}

type Key = (String, String);

#[derive(Default)]
struct Index {
    roles: HashMap<Key, Arc<[Rule]>>,
    bindings: HashMap<Key, Arc<Binding>>,
    /// namespace ("" for cluster bindings) -> subject -> bindings
    by_subject: HashMap<String, HashMap<Subject, Vec<Arc<Binding>>>>,
}

impl Index {
    fn bind(&mut self, binding: Binding) {
        let key = (binding.namespace.clone(), binding.name.clone());
        self.unbind(&key);
        let binding = Arc::new(binding);
        let subjects = self.by_subject.entry(key.0.clone()).or_default();
        for (subject, _) in &binding.subjects {
            subjects.entry(subject.clone()).or_default().push(binding.clone());
        }
        self.bindings.insert(key, binding);
    }

    fn unbind(&mut self, key: &Key) {
        let Some(old) = self.bindings.remove(key) else { return };
        let Some(subjects) = self.by_subject.get_mut(&key.0) else { return };
        for (subject, _) in &old.subjects {
            if let Some(list) = subjects.get_mut(subject) {
                list.retain(|binding| !Arc::ptr_eq(binding, &old));
                if list.is_empty() {
                    subjects.remove(subject);
                }
            }
        }
        if subjects.is_empty() {
            self.by_subject.remove(&key.0);
        }
    }

    fn apply(&mut self, resource: &str, object: &Value) -> Key {
        let key = key_of(object);
        match resource {
            "roles" | "clusterroles" => {
                self.roles.insert(key.clone(), rules::parse(&object["rules"]).into());
            }
            _ => self.bind(parse_binding(object)),
        }
        key
    }

    fn remove(&mut self, resource: &str, key: &Key) {
        match resource {
            "roles" | "clusterroles" => {
                self.roles.remove(key);
            }
            _ => self.unbind(key),
        }
    }

    /// Keys of one type; roles and cluster roles share a map, as bindings do, apart by their namespace.
    fn keys(&self, resource: &str) -> Vec<Key> {
        let clustered = resource.starts_with("cluster");
        let of_type = |key: &&Key| key.0.is_empty() == clustered;
        match resource {
            "roles" | "clusterroles" => self.roles.keys().filter(of_type).cloned().collect(),
            _ => self.bindings.keys().filter(of_type).cloned().collect(),
        }
    }

    fn rules_of(&self, namespace: &str, role: &RoleRef) -> Result<Arc<[Rule]>, String> {
        let (key, what) = match role.kind.as_str() {
            "ClusterRole" => ((String::new(), role.name.clone()), "clusterrole"),
            _ => ((namespace.to_owned(), role.name.clone()), "role"),
        };
        self.roles.get(&key).cloned().ok_or_else(|| format!("{what}.{GROUP} {} not found", quote(&role.name)))
    }

    /// Calls `each` with every binding of the user that counts in `namespace`, until it says false.
    fn visit(&self, user: &UserInfo, namespace: &str, mut each: impl FnMut(&Binding, &Subject) -> bool) {
        let subjects: Vec<Subject> = std::iter::once(Subject::User(user.name.clone()))
            .chain(user.groups.iter().map(|group| Subject::Group(group.clone())))
            .collect();
        let scopes = if namespace.is_empty() { &[""][..] } else { &["", namespace] };
        for scope in scopes {
            let Some(bound) = self.by_subject.get(*scope) else { continue };
            for subject in &subjects {
                for binding in bound.get(subject).into_iter().flatten() {
                    if !each(binding, subject) {
                        return;
                    }
                }
            }
        }
    }
}

fn key_of(object: &Value) -> Key {
    let text = |name: &str| object["metadata"][name].as_str().unwrap_or_default().to_owned();
    (text("namespace"), text("name"))
}

fn parse_binding(object: &Value) -> Binding {
    let (namespace, name) = key_of(object);
    let role = RoleRef {
        kind: object["roleRef"]["kind"].as_str().unwrap_or_default().into(),
        name: object["roleRef"]["name"].as_str().unwrap_or_default().into(),
    };
    let subjects = object["subjects"].as_array().into_iter().flatten();
    let subjects = subjects.filter_map(|subject| {
        let name = subject["name"].as_str()?;
        match subject["kind"].as_str()? {
            "User" => Some((Subject::User(name.into()), format!("User {}", quote(name)))),
            "Group" => Some((Subject::Group(name.into()), format!("Group {}", quote(name)))),
            "ServiceAccount" => {
                let own = subject["namespace"].as_str().filter(|ns| !ns.is_empty()).unwrap_or(&namespace);
                (!own.is_empty()).then(|| {
                    let described = format!("ServiceAccount {}", quote(&format!("{name}/{own}")));
                    (Subject::User(service_account::username(own, name)), described)
                })
            }
            _ => None,
        }
    });
    let subjects = subjects.collect();
    Binding { namespace, name, role, subjects }
}

/// The RBAC authorizer. [`Rbac::run`] keeps it up to date.
pub struct Rbac {
    index: RwLock<Index>,
    synced: watch::Sender<usize>,
}

impl Default for Rbac {
    fn default() -> Self {
        Rbac { index: RwLock::default(), synced: watch::Sender::new(0) }
    }
}

impl Rbac {
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Follows the four types until `shutdown`.
    pub async fn run(self: Arc<Self>, resources: Arc<dyn Resources>, shutdown: CancellationToken) {
        let follow = TYPES.map(|resource| {
            let changes = resources.follow(&GroupResource::from_static(GROUP, resource));
            self.clone().follow(resource, changes)
        });
        tokio::select! {
            _ = futures::future::join_all(follow) => {}
            () = shutdown.cancelled() => {}
        }
    }

    /// Returns when every type has been listed once.
    pub async fn wait_synced(&self) {
        let mut synced = self.synced.subscribe();
        let _ = synced.wait_for(|count| *count >= TYPES.len()).await;
    }

    async fn follow(self: Arc<Self>, resource: &'static str, mut changes: futures::stream::BoxStream<'static, Change>) {
        let (mut listed, mut relisting, mut counted) = (HashSet::new(), true, false);
        while let Some(change) = changes.next().await {
            let mut index = self.index.write().expect("no panic while the index is locked");
            match change {
                Change::Restart => {
                    listed.clear();
                    relisting = true;
                }
                Change::Applied(object) => {
                    let key = index.apply(resource, &object);
                    if relisting {
                        listed.insert(key);
                    }
                }
                Change::Deleted(object) => index.remove(resource, &key_of(&object)),
                Change::Synced => {
                    for key in index.keys(resource) {
                        if !listed.contains(&key) {
                            index.remove(resource, &key);
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

    /// Puts objects into the index at once: what bootstrap is about to create counts from the first request on.
    pub fn preload<'a>(&self, objects: impl IntoIterator<Item = (&'a str, &'a Value)>) {
        let mut index = self.index.write().expect("no panic while the index is locked");
        for (resource, object) in objects {
            index.apply(resource, object);
        }
    }

    /// The rules of a role, for whoever is about to bind it; the error is "… not found".
    pub fn role_rules(&self, namespace: &str, role: &RoleRef) -> Result<Arc<[Rule]>, String> {
        self.index.read().expect("no panic while the index is locked").rules_of(namespace, role)
    }

    /// All rules that the user holds in `namespace`, and what could not be resolved.
    pub fn resolve(&self, user: &UserInfo, namespace: &str) -> (Vec<Rule>, Vec<String>) {
        let index = self.index.read().expect("no panic while the index is locked");
        let (mut rules, mut errors) = (Vec::new(), Vec::new());
        index.visit(user, namespace, |binding, _| {
            match index.rules_of(&binding.namespace, &binding.role) {
                Ok(more) => rules.extend(more.iter().cloned()),
                Err(error) => errors.push(error),
            }
            true
        });
        (rules, errors)
    }

    fn decide(&self, user: &UserInfo, request: &RequestInfo) -> Decision {
        let index = self.index.read().expect("no panic while the index is locked");
        let (mut allowed, mut errors) = (None, Vec::new());
        index.visit(user, &request.namespace, |binding, subject| {
            match index.rules_of(&binding.namespace, &binding.role) {
                Ok(rules) if rules.iter().any(|rule| rules::allows(rule, request)) => {
                    allowed = Some(reason(binding, subject));
                }
                Ok(_) => {}
                Err(error) => errors.push(error),
            }
            allowed.is_none()
        });
        if let Some(reason) = allowed {
            return Decision::Allow(reason);
        }
        Decision::NoOpinion(match errors.len() {
            0 => String::new(),
            1 => format!("RBAC: {}", errors[0]),
            _ => {
                let mut seen = HashSet::new();
                errors.retain(|error| seen.insert(error.clone()));
                if errors.len() == 1 {
                    format!("RBAC: {}", errors[0])
                } else {
                    format!("RBAC: [{}]", errors.join(", "))
                }
            }
        })
    }
}

fn reason(binding: &Binding, subject: &Subject) -> String {
    let described = binding.subjects.iter().find(|(s, _)| s == subject).map_or("", |(_, d)| d.as_str());
    let (kind, name) = if binding.namespace.is_empty() {
        ("ClusterRoleBinding", quote(&binding.name))
    } else {
        ("RoleBinding", quote(&format!("{}/{}", binding.name, binding.namespace)))
    };
    let role = &binding.role;
    format!("RBAC: allowed by {kind} {name} of {} {} to {described}", role.kind, quote(&role.name))
}

#[async_trait]
impl Authorizer for Rbac {
    async fn authorize(&self, user: &UserInfo, request: &RequestInfo) -> Decision {
        self.decide(user, request)
    }

    async fn rules_for(&self, user: &UserInfo, namespace: &str) -> Result<Vec<Rule>, String> {
        let (rules, errors) = self.resolve(user, namespace);
        if rules.is_empty() && !errors.is_empty() { Err(errors.join(", ")) } else { Ok(rules) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn role(kind: &str, namespace: &str, name: &str, verbs: &[&str], resource: &str) -> (&'static str, Value) {
        let rules = json!([{"verbs": verbs, "apiGroups": [""], "resources": [resource]}]);
        let plural = if kind == "Role" { "roles" } else { "clusterroles" };
        (plural, json!({"metadata": {"namespace": namespace, "name": name}, "rules": rules}))
    }

    fn binding(namespace: &str, name: &str, role: (&str, &str), subject: Value) -> (&'static str, Value) {
        let plural = if namespace.is_empty() { "clusterrolebindings" } else { "rolebindings" };
        let object = json!({
            "metadata": {"namespace": namespace, "name": name},
            "roleRef": {"kind": role.0, "name": role.1},
            "subjects": [subject],
        });
        (plural, object)
    }

    fn rbac(objects: &[(&'static str, Value)]) -> Arc<Rbac> {
        let rbac = Rbac::new();
        rbac.preload(objects.iter().map(|(resource, object)| (*resource, object)));
        rbac
    }

    fn ask(rbac: &Rbac, user: &str, groups: &[&str], verb: &str, namespace: &str, resource: &str) -> Decision {
        let user = UserInfo {
            name: user.into(),
            groups: groups.iter().map(|g| g.to_string()).collect(),
            ..Default::default()
        };
        let request = RequestInfo {
            is_resource_request: true,
            verb: verb.into(),
            namespace: namespace.into(),
            resource: resource.into(),
            ..Default::default()
        };
        rbac.decide(&user, &request)
    }

    fn allowed(decision: Decision) -> bool {
        matches!(decision, Decision::Allow(_))
    }

    #[test]
    fn a_role_binding_counts_in_its_namespace_only_and_a_cluster_role_binding_everywhere() {
        let rbac = rbac(&[
            role("ClusterRole", "", "view", &["get"], "pods"),
            binding("team", "viewers", ("ClusterRole", "view"), json!({"kind": "Group", "name": "dev"})),
            binding("", "all", ("ClusterRole", "view"), json!({"kind": "User", "name": "root"})),
        ]);
        assert_eq!(
            ask(&rbac, "alice", &["dev"], "get", "team", "pods"),
            Decision::Allow(
                "RBAC: allowed by RoleBinding \"viewers/team\" of ClusterRole \"view\" to Group \"dev\"".into()
            )
        );
        assert!(!allowed(ask(&rbac, "alice", &["dev"], "get", "other", "pods")));
        assert!(!allowed(ask(&rbac, "alice", &["dev"], "get", "", "pods")));
        assert!(!allowed(ask(&rbac, "alice", &["dev"], "delete", "team", "pods")));
        assert_eq!(
            ask(&rbac, "root", &[], "get", "other", "pods"),
            Decision::Allow(
                "RBAC: allowed by ClusterRoleBinding \"all\" of ClusterRole \"view\" to User \"root\"".into()
            )
        );
    }

    #[test]
    fn a_service_account_subject_is_its_user_name() {
        let rbac = rbac(&[
            role("Role", "team", "reader", &["get"], "configmaps"),
            binding("team", "b", ("Role", "reader"), json!({"kind": "ServiceAccount", "name": "robot"})),
            binding(
                "team",
                "c",
                ("Role", "reader"),
                json!({"kind": "ServiceAccount", "name": "far", "namespace": "x"}),
            ),
        ]);
        assert!(allowed(ask(&rbac, "system:serviceaccount:team:robot", &[], "get", "team", "configmaps")));
        assert!(allowed(ask(&rbac, "system:serviceaccount:x:far", &[], "get", "team", "configmaps")));
        assert!(!allowed(ask(&rbac, "system:serviceaccount:team:far", &[], "get", "team", "configmaps")));
    }

    #[test]
    fn a_binding_to_a_role_that_does_not_exist_is_told() {
        let rbac = rbac(&[binding("", "b", ("ClusterRole", "gone"), json!({"kind": "User", "name": "alice"}))]);
        assert_eq!(
            ask(&rbac, "alice", &[], "get", "team", "pods"),
            Decision::NoOpinion("RBAC: clusterrole.rbac.authorization.k8s.io \"gone\" not found".into())
        );
    }

    #[tokio::test]
    async fn changes_and_relists_are_followed() {
        let rbac = Rbac::new();
        let (_, role_object) = role("Role", "team", "reader", &["get"], "pods");
        let (_, bound) = binding("team", "b", ("Role", "reader"), json!({"kind": "User", "name": "alice"}));
        rbac.preload([("roles", &role_object)]);
        let mut rebound = bound.clone();
        rebound["subjects"][0]["name"] = "bob".into();
        let follow = |changes: Vec<Change>| rbac.clone().follow("rolebindings", futures::stream::iter(changes).boxed());
        follow(vec![Change::Restart, Change::Applied(bound.clone()), Change::Synced]).await;
        assert!(allowed(ask(&rbac, "alice", &[], "get", "team", "pods")));
        follow(vec![Change::Restart, Change::Applied(rebound.clone()), Change::Synced]).await;
        assert!(!allowed(ask(&rbac, "alice", &[], "get", "team", "pods")));
        assert!(allowed(ask(&rbac, "bob", &[], "get", "team", "pods")));
        follow(vec![Change::Restart, Change::Synced]).await;
        assert!(!allowed(ask(&rbac, "bob", &[], "get", "team", "pods")));
    }
}
