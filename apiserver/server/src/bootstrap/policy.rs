//! The default roles and bindings as objects, read from `policy.txt`. Facts are upstream's
//! (plugin/pkg/auth/authorizer/rbac/bootstrappolicy); the data file says its own format.

use serde_json::{Value, json};

const TEXT: &str = include_str!("policy.txt");
const GROUP: &str = "rbac.authorization.k8s.io";

/// One object and where it lives.
#[derive(Clone, Debug)]
pub struct PolicyObject {
    pub resource: &'static str,
    pub object: Value,
}

impl PolicyObject {
    pub fn name(&self) -> &str {
        self.object["metadata"]["name"].as_str().unwrap_or_default()
    }

    pub fn namespace(&self) -> &str {
        self.object["metadata"]["namespace"].as_str().unwrap_or_default()
    }
}

/// All of them, roles before the bindings to them; aggregated roles already hold their rules.
pub fn objects() -> Vec<PolicyObject> {
    let mut objects: Vec<PolicyObject> = Vec::new();
    for line in TEXT.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
        match line.strip_prefix("  ") {
            None => objects.push(head(line)),
            Some(part) => add(&mut objects.last_mut().expect("a part follows its head").object, part),
        }
    }
    aggregate(&mut objects);
    objects
}

fn head(line: &str) -> PolicyObject {
    let mut words = line.split(' ');
    let (kind, resource) = match words.next() {
        Some("clusterrole") => ("ClusterRole", "clusterroles"),
        Some("role") => ("Role", "roles"),
        Some("clusterrolebinding") => ("ClusterRoleBinding", "clusterrolebindings"),
        _ => ("RoleBinding", "rolebindings"),
    };
    let name = words.next().expect("a head has a name");
    let mut object = json!({
        "apiVersion": format!("{GROUP}/v1"),
        "kind": kind,
        "metadata": {
            "name": name,
            "labels": { "kubernetes.io/bootstrapping": "rbac-defaults" },
            "annotations": { "rbac.authorization.kubernetes.io/autoupdate": "true" },
        },
    });
    if !kind.starts_with("Cluster") {
        let (namespace, name) = name.split_once('/').expect("a namespaced head has both");
        object["metadata"]["namespace"] = namespace.into();
        object["metadata"]["name"] = name.into();
    }
    while let Some(word) = words.next() {
        if let Some(label) = word.strip_prefix('+') {
            object["metadata"]["labels"][format!("{GROUP}/{label}")] = "true".into();
        } else if let Some(label) = word.strip_prefix('<') {
            let selector = json!({"matchLabels": { format!("{GROUP}/{label}"): "true" }});
            object["aggregationRule"] = json!({ "clusterRoleSelectors": [selector] });
        } else if word == "->" {
            object["roleRef"] = json!({ "apiGroup": GROUP, "kind": words.next(), "name": words.next() });
        }
    }
    object[if kind.ends_with("Binding") { "subjects" } else { "rules" }] = json!([]);
    PolicyObject { resource, object }
}

fn add(object: &mut Value, part: &str) {
    let words: Vec<&str> = part.split(' ').collect();
    let list = |text: &str| -> Vec<String> {
        text.split(',').map(|item| if item == "core" { String::new() } else { item.to_owned() }).collect()
    };
    if let Some(subjects) = object.get_mut("subjects").and_then(Value::as_array_mut) {
        let (kind, name) = (words[0], words[1]);
        subjects.push(match name.split_once('/') {
            Some((namespace, name)) if kind == "ServiceAccount" => {
                json!({ "kind": kind, "name": name, "namespace": namespace })
            }
            _ => json!({ "apiGroup": GROUP, "kind": kind, "name": name }),
        });
        return;
    }
    let rule = if words[1] == ":" {
        json!({ "verbs": list(words[0]), "nonResourceURLs": list(words[2]) })
    } else {
        let mut rule = json!({ "verbs": list(words[0]), "apiGroups": list(words[1]), "resources": list(words[2]) });
        if let Some(names) = words.get(3) {
            rule["resourceNames"] = json!(list(names));
        }
        rule
    };
    object["rules"].as_array_mut().expect("a role has rules").push(rule);
}

/// Fills in roles that aggregate others, the way that the clusterrole-aggregation controller does, so that nobody waits.
fn aggregate(objects: &mut [PolicyObject]) {
    // A role may aggregate one that aggregates: twice is as deep as it goes (admin <- edit <- view).
    for _ in 0..3 {
        let roles: Vec<Value> =
            objects.iter().filter(|o| o.resource == "clusterroles").map(|o| o.object.clone()).collect();
        for object in objects.iter_mut().filter(|o| !o.object["aggregationRule"].is_null()) {
            object.object["rules"] = super::aggregation::aggregated(&object.object, roles.iter());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(resource: &str, name: &str) -> Value {
        let all = objects();
        all.iter()
            .find(|o| o.resource == resource && o.name() == name)
            .unwrap_or_else(|| panic!("{name}"))
            .object
            .clone()
    }

    #[test]
    fn every_binding_finds_its_role() {
        let all = objects();
        for binding in all.iter().filter(|o| o.resource.ends_with("bindings")) {
            let (kind, name) = (&binding.object["roleRef"]["kind"], &binding.object["roleRef"]["name"]);
            let namespace = if kind == "Role" { binding.namespace() } else { "" };
            let found = all.iter().any(|o| {
                &o.object["kind"] == kind && &o.object["metadata"]["name"] == name && o.namespace() == namespace
            });
            assert!(found, "{kind} {name}");
        }
        assert_eq!(
            all.iter().filter(|o| o.resource == "clusterroles").count(),
            all.iter().filter(|o| o.object["kind"] == "ClusterRole").count()
        );
    }

    #[test]
    fn objects_read_as_upstream_writes_them() {
        let masters = find("clusterrolebindings", "cluster-admin");
        assert_eq!(masters["subjects"], json!([{"apiGroup": GROUP, "kind": "Group", "name": "system:masters"}]));
        let health = find("clusterroles", "system:public-info-viewer");
        assert_eq!(health["rules"][0]["nonResourceURLs"][0], "/healthz");
        let signer = find("rolebindings", "system:controller:bootstrap-signer");
        assert_eq!(
            signer["subjects"][0],
            json!({"kind": "ServiceAccount", "name": "bootstrap-signer", "namespace": "kube-system"})
        );
        assert_eq!(signer["metadata"]["annotations"]["rbac.authorization.kubernetes.io/autoupdate"], "true");
    }

    #[test]
    fn aggregated_roles_hold_what_they_aggregate() {
        let count = |name: &str| find("clusterroles", name)["rules"].as_array().unwrap().len();
        assert!(count("admin") > count("edit") && count("edit") > count("view") && count("view") > 5);
    }
}
