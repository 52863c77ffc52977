//! Fills cluster roles that collect the rules of others by label (upstream: pkg/controller/clusterroleaggregation).

use std::sync::Arc;

use async_trait::async_trait;
use serde::Deserialize;
use serde_json::{Value, json};
use skeg_controller_runtime::{
    Controller, Error, Meta, Object, Outcome, Resource, Selector, Store, Str, WorkQueue, run_controller,
};

use crate::context::Context;

/// A cluster role.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct ClusterRole {
    metadata: Meta,
    rules: Option<Vec<Value>>,
    aggregation_rule: Option<Aggregation>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Aggregation {
    cluster_role_selectors: Option<Vec<Selector>>,
}

impl Object for ClusterRole {
    const RESOURCE: Resource = Resource::new("rbac.authorization.k8s.io", "v1", "ClusterRole", "clusterroles", false);
    fn meta(&self) -> &Meta {
        &self.metadata
    }
}

/// The rules that a role ought to have: those of the roles that its selectors choose, by name, each rule once. `None`: it
/// collects nothing, or has them.
fn plan(role: &ClusterRole, all: &[Arc<ClusterRole>]) -> Option<Vec<Value>> {
    let selectors = role.aggregation_rule.as_ref()?.cluster_role_selectors.as_deref().unwrap_or_default();
    let mut others: Vec<&Arc<ClusterRole>> = all.iter().filter(|r| r.metadata.name != role.metadata.name).collect();
    others.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
    let mut rules: Vec<Value> = Vec::new();
    for selector in selectors {
        for other in others.iter().filter(|o| selector.matches(&o.metadata.labels)) {
            for rule in other.rules.iter().flatten() {
                if !rules.contains(rule) {
                    rules.push(rule.clone());
                }
            }
        }
    }
    (role.rules.as_deref().unwrap_or_default() != rules).then_some(rules)
}

struct Roles {
    roles: Arc<Store<ClusterRole>>,
}

pub(crate) async fn run(context: Context) {
    let queue = Arc::new(WorkQueue::new());
    let roles = context.stores.get::<ClusterRole>();
    let (line, all) = (queue.clone(), roles.clone());
    roles.subscribe(move |change| {
        let changed = change.object();
        if changed.aggregation_rule.is_some() {
            line.add(changed.metadata.key());
        }
        // Whatever has changed may be collected by any of the collectors.
        all.list().iter().filter(|r| r.aggregation_rule.is_some()).for_each(|r| line.add(r.metadata.key()));
    });
    run_controller(Arc::new(Roles { roles }), queue, 2, context.shutdown).await;
}

#[async_trait]
impl Controller for Roles {
    type Key = Str;
    fn name(&self) -> &'static str {
        "clusterrole-aggregation-controller"
    }
    async fn synced(&self) {
        self.roles.synced().await;
    }
    async fn reconcile(&self, key: &Str) -> Result<Outcome, Error> {
        let Some(role) = self.roles.get(key).filter(|r| !r.metadata.deleting()) else { return Ok(Outcome::Done) };
        if let Some(rules) = plan(&role, &self.roles.list()) {
            self.roles.patch_exact(&role.metadata, "", json!({"rules": rules})).await?;
        }
        Ok(Outcome::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn role(name: &str, label: &str, verbs: &[&str]) -> Arc<ClusterRole> {
        let rules: Vec<Value> = verbs.iter().map(|v| json!({"verbs": [v]})).collect();
        let metadata = json!({"name": name, "labels": {label: "true"}});
        Arc::new(serde_json::from_value(json!({"metadata": metadata, "rules": rules})).unwrap())
    }

    fn collector(selectors: Value, rules: Value) -> ClusterRole {
        serde_json::from_value(json!({"metadata": {"name": "all", "labels": {"collected": "true"}}, "rules": rules,
            "aggregationRule": {"clusterRoleSelectors": selectors}}))
        .unwrap()
    }

    #[test]
    fn chosen_rules_are_collected_once_each_and_by_name() {
        let all = [role("b", "collected", &["list", "get"]), role("a", "collected", &["get"]), role("c", "x", &["y"])];
        let selectors = json!([{"matchLabels": {"collected": "true"}}]);
        let wanted = json!([{"verbs": ["get"]}, {"verbs": ["list"]}]);
        let planned = plan(&collector(selectors.clone(), json!([{"verbs": ["stale"]}])), &all);
        assert_eq!(planned.map(Value::from), Some(wanted.clone()));
        assert_eq!(plan(&collector(selectors, wanted), &all), None, "all good");
        assert_eq!(plan(&role("plain", "x", &["y"]), &all), None, "a role that collects nothing");
        assert_eq!(plan(&collector(json!([]), json!([{"verbs": ["stale"]}])), &all), Some(Vec::new()));
    }
}
