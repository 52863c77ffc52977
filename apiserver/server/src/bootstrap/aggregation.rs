//! ClusterRoles that collect the rules of others by label (upstream pkg/controller/clusterroleaggregation). Only for the
//! default roles, which are whole from the start; later changes are the clusterrole-aggregation controller's.

use serde_json::{Value, json};

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

#[cfg(test)]
mod tests {
    use super::*;

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
}
