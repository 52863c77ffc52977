//! Roles and ClusterRoles.

use serde_json::Value;
use skeg_machinery::field::{ErrorList, Path};

use super::GROUP;
use crate::builder::Def;
use crate::check::{Report, selects};
use crate::columns;
use crate::json::Read;
use crate::names;
use crate::rules::Rules;
use crate::spec::ResourceSpec;

const RULES: Rules =
    Rules { name: names::path_segment, create_on_update: true, metadata_checks: (1, 1), ..Rules::PLAIN };

pub fn role() -> ResourceSpec {
    Def::new(GROUP, "v1", "roles", "Role")
        .columns(columns::DEFAULT)
        .rules(Rules { check: |role| check(role, true), check_update: |role, _| check(role, true), ..RULES })
        .build()
}

pub fn cluster_role() -> ResourceSpec {
    Def::new(GROUP, "v1", "clusterroles", "ClusterRole")
        .cluster()
        .columns(columns::DEFAULT)
        .rules(Rules { check: check_cluster, check_update: |role, _| check_cluster(role), ..RULES })
        .build()
}

fn check_cluster(role: &Value) -> ErrorList {
    let mut e = check(role, false);
    if role.has("aggregationRule") {
        let at = Path::new("aggregationRule").child("clusterRoleSelectors");
        let selectors = role.list("aggregationRule.clusterRoleSelectors");
        if selectors.is_empty() {
            e.required(&at, "at least one clusterRoleSelector required if aggregationRule is non-nil");
        }
        for (index, selector) in selectors.iter().enumerate() {
            e.selector(&at.index(index), selector);
            if selects(selector, &Value::Null).is_none() {
                e.invalid(&at.index(index), Value::Null, "invalid label selector.");
            }
        }
    }
    e
}

fn check(role: &Value, namespaced: bool) -> ErrorList {
    let mut e = ErrorList::new();
    for (index, rule) in role.list("rules").iter().enumerate() {
        let at = Path::new("rules").index(index);
        if rule.list("verbs").is_empty() {
            e.required(&at.child("verbs"), "verbs must contain at least one value");
        }
        let urls = rule.list("nonResourceURLs");
        let any = |member: &str| !rule.list(member).is_empty();
        if !urls.is_empty() {
            let field = at.child("nonResourceURLs");
            if namespaced {
                e.invalid(&field, urls.to_vec(), "namespaced rules cannot apply to non-resource URLs");
            }
            if any("apiGroups") || any("resources") || any("resourceNames") {
                let detail = "rules cannot apply to both regular resources and non-resource URLs";
                e.invalid(&field, urls.to_vec(), detail);
            }
            continue;
        }
        if !any("apiGroups") {
            e.required(&at.child("apiGroups"), "resource rules must supply at least one api group");
        }
        if !any("resources") {
            e.required(&at.child("resources"), "resource rules must supply at least one resource");
        }
    }
    e
}
