//! ClusterRoles that collect the rules of others by label (upstream pkg/controller/clusterroleaggregation). `aggregated`
//! decides; `run` follows the cluster roles and writes what differs.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::StreamExt;
use serde_json::{Value, json};
use skeg_machinery::gvk::GroupResource;
use tokio_util::sync::CancellationToken;

use crate::resources::{Change, Resources};

const CLUSTER_ROLES: GroupResource = GroupResource::from_static("rbac.authorization.k8s.io", "clusterroles");

/// The rules that `role` ought to have: those of the roles that its selectors choose, in order of their names, each once.
pub fn aggregated<'a>(role: &Value, roles: impl Iterator<Item = &'a Value>) -> Value {
    let name = |role: &'a Value| role["metadata"]["name"].as_str().unwrap_or_default();
    let mut roles: Vec<&Value> = roles.filter(|other| other["metadata"]["name"] != role["metadata"]["name"]).collect();
    roles.sort_by_key(|role| name(role));
    let mut rules: Vec<Value> = Vec::new();
    for selector in role["aggregationRule"]["clusterRoleSelectors"].as_array().into_iter().flatten() {
        for other in roles.iter().filter(|other| selects(selector, &other["metadata"]["labels"])) {
            for rule in other["rules"].as_array().into_iter().flatten() {
                if !rules.contains(rule) {
                    rules.push(rule.clone());
                }
            }
        }
    }
    json!(rules)
}

/// Whether a LabelSelector chooses an object with these labels. The empty selector chooses all.
fn selects(selector: &Value, labels: &Value) -> bool {
    let matched = selector["matchLabels"].as_object().into_iter().flatten().all(|(key, value)| labels[key] == *value);
    let expressions = selector["matchExpressions"].as_array();
    matched
        && expressions.into_iter().flatten().all(|term| {
            let label = &labels[term["key"].as_str().unwrap_or_default()];
            let listed = term["values"].as_array().is_some_and(|values| values.contains(label));
            match term["operator"].as_str().unwrap_or_default() {
                "In" => listed,
                "NotIn" => !listed,
                "Exists" => !label.is_null(),
                "DoesNotExist" => label.is_null(),
                _ => false,
            }
        })
}

/// Keeps aggregated roles up to date until `shutdown`.
pub async fn run(resources: Arc<dyn Resources>, shutdown: CancellationToken) {
    let mut changes = resources.follow(&CLUSTER_ROLES);
    let mut roles: BTreeMap<String, Value> = BTreeMap::new();
    let mut synced = false;
    loop {
        let change = tokio::select! {
            change = changes.next() => change,
            () = shutdown.cancelled() => return,
        };
        let name = |role: &Value| role["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        match change {
            None => return,
            Some(Change::Restart) => {
                roles.clear();
                synced = false;
            }
            Some(Change::Applied(role)) => {
                roles.insert(name(&role), slim(role));
            }
            Some(Change::Deleted(role)) => {
                roles.remove(&name(&role));
            }
            Some(Change::Synced) => synced = true,
        }
        if synced {
            write_differences(&roles, resources.as_ref()).await;
        }
    }
}

/// What aggregation reads of a role.
fn slim(mut role: Value) -> Value {
    let metadata = json!({ "name": role["metadata"]["name"].take(), "labels": role["metadata"]["labels"].take() });
    json!({ "metadata": metadata, "rules": role["rules"].take(), "aggregationRule": role["aggregationRule"].take() })
}

async fn write_differences(roles: &BTreeMap<String, Value>, resources: &dyn Resources) {
    for (name, role) in roles.iter().filter(|(_, role)| !role["aggregationRule"].is_null()) {
        let wanted = aggregated(role, roles.values());
        let none = |rules: &Value| rules.as_array().is_none_or(Vec::is_empty);
        if wanted == role["rules"] || (none(&wanted) && none(&role["rules"])) {
            continue;
        }
        // The change comes back through the watch, which settles roles that aggregate this one.
        let written = resources
            .modify(&CLUSTER_ROLES, "", name, false, &mut |live| {
                live["rules"] = wanted.clone();
                Ok(())
            })
            .await;
        if let Err(status) = written {
            tracing::warn!(role = name, error = %status.message, "cannot aggregate the cluster role");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::fake::Memory;

    fn role(name: &str, label: &str, verb: &str) -> Value {
        json!({"metadata": {"name": name, "labels": {label: "true"}}, "rules": [{"verbs": [verb]}]})
    }

    #[test]
    fn rules_of_chosen_roles_are_collected_once_each() {
        let view = json!({
            "metadata": {"name": "view", "labels": {"to-view": "true"}},
            "aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {"to-view": "true"}}]},
            "rules": [{"verbs": ["stale"]}],
        });
        let roles = [
            role("b", "to-view", "list"),
            role("a", "to-view", "get"),
            role("c", "to-view", "get"),
            role("d", "other", "x"),
            view.clone(),
        ];
        assert_eq!(aggregated(&view, roles.iter()), json!([{"verbs": ["get"]}, {"verbs": ["list"]}]));
    }

    #[tokio::test]
    async fn a_difference_is_written() {
        let view = json!({"metadata": {"name": "view"}, "rules": null,
                          "aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {"to-view": "true"}}]}});
        let memory = Arc::new(Memory::with(vec![
            ("rbac.authorization.k8s.io", "clusterroles", role("a", "to-view", "get")),
            ("rbac.authorization.k8s.io", "clusterroles", view),
        ]));
        run(memory.clone(), CancellationToken::new()).await;
        assert_eq!(memory.get(&CLUSTER_ROLES, "", "view").await.unwrap()["rules"], json!([{"verbs": ["get"]}]));
    }
}
