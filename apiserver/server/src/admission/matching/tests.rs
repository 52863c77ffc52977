use serde_json::json;

use super::*;
use crate::admission::fake::{Kinds, Memory, Write};

fn rule(extra: Value) -> Rule {
    let mut rule = json!({"operations": ["CREATE"], "apiGroups": ["apps"], "apiVersions": ["v1"],
        "resources": ["deployments"]});
    rule.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    Rule::from_json(&rule)
}

fn deployment() -> Write {
    Write::create("apps", "v1", "deployments", "a", json!({"kind": "Deployment", "metadata": {"name": "d"}}))
}

#[test]
fn a_rule_names_operations_groups_versions_resources_and_scope() {
    let status = || deployment().subresource("status");
    let table = [
        ("as is", json!({}), deployment(), true),
        ("another operation", json!({"operations": ["UPDATE"]}), deployment(), false),
        ("any operation", json!({"operations": ["*"]}), deployment().delete(), true),
        ("another group", json!({"apiGroups": ["batch"]}), deployment(), false),
        ("any group", json!({"apiGroups": ["*"]}), deployment(), true),
        ("another version", json!({"apiVersions": ["v2"]}), deployment(), false),
        ("a subresource is not its parent", json!({}), status(), false),
        ("a subresource", json!({"resources": ["deployments/status"]}), status(), true),
        ("all subresources", json!({"resources": ["deployments/*"]}), status(), true),
        ("all subresources and the parent", json!({"resources": ["deployments/*"]}), deployment(), true),
        ("all resources but no subresource", json!({"resources": ["*"]}), status(), false),
        ("everything", json!({"resources": ["*/*"]}), status(), true),
        ("cluster scope", json!({"scope": "Cluster"}), deployment(), false),
        ("namespaced scope", json!({"scope": "Namespaced"}), deployment(), true),
        ("a name", json!({"resourceNames": ["d"]}), deployment(), true),
        ("another name", json!({"resourceNames": ["e"]}), deployment(), false),
    ];
    for (what, extra, write, wanted) in table {
        assert_eq!(rule(extra).matches(&write.attributes(), &write.resource), wanted, "{what}");
    }
}

#[test]
fn a_namespace_is_of_cluster_scope() {
    let namespace = Write::create("", "v1", "namespaces", "", json!({"kind": "Namespace", "metadata": {"name": "a"}}));
    let scoped = |scope: &str| {
        let rule = rule(json!({"apiGroups": [""], "resources": ["namespaces"], "scope": scope}));
        rule.matches(&namespace.attributes(), &namespace.resource)
    };
    assert!(scoped("Cluster") && !scoped("Namespaced"));
}

#[test]
fn an_equivalent_version_matches_only_where_it_may() {
    let kinds = Kinds::default().with("apps", &["v1", "v1beta1"], "deployments", "Deployment");
    let rules = [rule(json!({"apiVersions": ["v1beta1"]}))];
    let write = deployment();
    assert_eq!(matched(&rules, false, &write.attributes(), &kinds), None);
    let served = matched(&rules, true, &write.attributes(), &kinds).unwrap();
    assert_eq!(served.kind.version, "v1beta1");
    assert_eq!(served.resource.version, "v1beta1");
}

#[tokio::test]
async fn selectors_read_the_namespace_and_both_objects() {
    let namespace = json!({"metadata": {"name": "a", "labels": {"team": "x"}}});
    let memory = Memory::with(vec![("", "namespaces", namespace)]);
    let selectors = Selectors::from_json(&json!({
        "namespaceSelector": {"matchLabels": {"team": "x"}}, "objectSelector": {"matchLabels": {"hook": "yes"}},
    }));
    let write = deployment();
    assert!(selectors.matches_namespace(&write.attributes(), None, &memory).await.unwrap());
    let labelled = json!({"metadata": {"labels": {"hook": "yes"}}});
    let plain = json!({"metadata": {}});
    let table = [
        (Some(&labelled), None, true),
        (Some(&plain), Some(&labelled), true),
        (Some(&plain), Some(&plain), false),
        (None, None, false),
    ];
    for (object, old, wanted) in table {
        assert_eq!(selectors.matches_object(object, old).unwrap(), wanted);
    }
}
