//! Policy rules: reading them from objects, what one allows, and whether a set of them covers another (upstream
//! component-helpers/auth/rbac/validation, kubernetes/pkg/apis/rbac/v1/evaluation_helpers.go). Pure.

use serde_json::{Value, json};
use skeg_machinery::text::quote;

use super::Rule;
use crate::request::RequestInfo;

fn strings(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().filter_map(|v| v.as_str().map(str::to_owned)).collect()
}

/// The `rules` of a Role or ClusterRole.
pub fn parse(rules: &Value) -> Vec<Rule> {
    rules
        .as_array()
        .into_iter()
        .flatten()
        .map(|rule| Rule {
            verbs: strings(&rule["verbs"]),
            api_groups: strings(&rule["apiGroups"]),
            resources: strings(&rule["resources"]),
            resource_names: strings(&rule["resourceNames"]),
            non_resource_urls: strings(&rule["nonResourceURLs"]),
        })
        .collect()
}

/// The other direction, empty lists left out.
pub fn to_value(rule: &Rule) -> Value {
    let mut value = json!({});
    let lists = [
        ("verbs", &rule.verbs),
        ("apiGroups", &rule.api_groups),
        ("resources", &rule.resources),
        ("resourceNames", &rule.resource_names),
        ("nonResourceURLs", &rule.non_resource_urls),
    ];
    for (name, list) in lists.into_iter().filter(|(name, list)| !list.is_empty() || *name == "verbs") {
        value[name] = json!(list);
    }
    value
}

/// Every verb on everything.
pub fn everything() -> Vec<Rule> {
    let all = || vec!["*".to_owned()];
    vec![
        Rule { verbs: all(), api_groups: all(), resources: all(), ..Default::default() },
        Rule { verbs: all(), non_resource_urls: all(), ..Default::default() },
    ]
}

fn has(list: &[String], wanted: &str) -> bool {
    list.iter().any(|item| item == "*" || item == wanted)
}

fn resource_matches(list: &[String], resource: &str, subresource: &str) -> bool {
    list.iter().any(|item| {
        item == "*"
            || if subresource.is_empty() {
                item == resource
            } else {
                item.split_once('/').is_some_and(|(r, s)| s == subresource && (r == "*" || r == resource))
            }
    })
}

fn url_matches(pattern: &str, path: &str) -> bool {
    pattern == "*" || pattern == path || (pattern.ends_with('*') && path.starts_with(pattern.trim_end_matches('*')))
}

pub fn allows(rule: &Rule, request: &RequestInfo) -> bool {
    if !has(&rule.verbs, &request.verb) {
        return false;
    }
    if !request.is_resource_request {
        return rule.non_resource_urls.iter().any(|pattern| url_matches(pattern, &request.path));
    }
    has(&rule.api_groups, &request.api_group)
        && resource_matches(&rule.resources, &request.resource, &request.subresource)
        && (rule.resource_names.is_empty() || rule.resource_names.contains(&request.name))
}

/// The parts of `servant` that `owner` does not hold; one verb on one resource (and name) or path each.
pub fn uncovered(owner: &[Rule], servant: &[Rule]) -> Vec<Rule> {
    servant.iter().flat_map(breakdown).filter(|part| !owner.iter().any(|rule| covers(rule, part))).collect()
}

fn breakdown(rule: &Rule) -> Vec<Rule> {
    let mut parts = Vec::new();
    for group in &rule.api_groups {
        for resource in &rule.resources {
            for verb in &rule.verbs {
                let part = Rule {
                    verbs: vec![verb.clone()],
                    api_groups: vec![group.clone()],
                    resources: vec![resource.clone()],
                    ..Default::default()
                };
                if rule.resource_names.is_empty() {
                    parts.push(part);
                    continue;
                }
                for name in &rule.resource_names {
                    parts.push(Rule { resource_names: vec![name.clone()], ..part.clone() });
                }
            }
        }
    }
    for url in &rule.non_resource_urls {
        for verb in &rule.verbs {
            parts.push(Rule { verbs: vec![verb.clone()], non_resource_urls: vec![url.clone()], ..Default::default() });
        }
    }
    parts
}

/// Whether `owner` holds `part`, which is one of [`breakdown`].
fn covers(owner: &Rule, part: &Rule) -> bool {
    let all = |mine: &[String], theirs: &[String]| has(mine, "*") || theirs.iter().all(|item| mine.contains(item));
    let resources = has(&owner.resources, "*")
        || part.resources.iter().all(|resource| {
            owner.resources.contains(resource)
                || resource.split_once('/').is_some_and(|(_, sub)| owner.resources.contains(&format!("*/{sub}")))
        });
    let names = owner.resource_names.is_empty()
        || (!part.resource_names.is_empty() && part.resource_names.iter().all(|n| owner.resource_names.contains(n)));
    let urls = part.non_resource_urls.iter().all(|url| {
        owner.non_resource_urls.iter().any(|mine| {
            mine == "*" || mine == url || (mine.ends_with('*') && url.starts_with(mine.trim_end_matches('*')))
        })
    });
    all(&owner.verbs, &part.verbs) && all(&owner.api_groups, &part.api_groups) && resources && names && urls
}

/// Joins rules that differ only in their verbs, as upstream does before it tells them.
pub fn compact(rules: &[Rule]) -> Vec<Rule> {
    let mut compacted: Vec<Rule> = Vec::new();
    for rule in rules {
        let same = compacted.iter_mut().find(|other| {
            other.api_groups == rule.api_groups
                && other.resources == rule.resources
                && other.resource_names == rule.resource_names
                && other.non_resource_urls == rule.non_resource_urls
        });
        match same {
            Some(same) => {
                for verb in &rule.verbs {
                    if !same.verbs.contains(verb) {
                        same.verbs.push(verb.clone());
                    }
                }
            }
            None => compacted.push(rule.clone()),
        }
    }
    compacted
}

/// `{APIGroups:[""], Resources:["pods"], Verbs:["get"]}`
pub fn describe(rule: &Rule) -> String {
    let list = |items: &[String]| format!("[{}]", items.iter().map(|i| quote(i)).collect::<Vec<_>>().join(" "));
    let parts: Vec<String> = [
        ("APIGroups", &rule.api_groups),
        ("Resources", &rule.resources),
        ("NonResourceURLs", &rule.non_resource_urls),
        ("ResourceNames", &rule.resource_names),
        ("Verbs", &rule.verbs),
    ]
    .into_iter()
    .filter(|(_, items)| !items.is_empty())
    .map(|(name, items)| format!("{name}:{}", list(items)))
    .collect();
    format!("{{{}}}", parts.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(text: &str) -> Rule {
        // verbs|groups|resources|names|urls
        let lists: Vec<Vec<String>> = text
            .split('|')
            .map(|list| {
                let core = |s: &str| if s == "core" { String::new() } else { s.to_owned() };
                list.split(',').map(str::trim).filter(|s| !s.is_empty()).map(core).collect()
            })
            .collect();
        let at = |i: usize| lists.get(i).cloned().unwrap_or_default();
        Rule { verbs: at(0), api_groups: at(1), resources: at(2), resource_names: at(3), non_resource_urls: at(4) }
    }

    fn request(text: &str) -> RequestInfo {
        let words: Vec<&str> = text.split(' ').collect();
        if words.len() == 2 {
            return RequestInfo { verb: words[0].into(), path: words[1].into(), ..Default::default() };
        }
        let (resource, subresource) = words[2].split_once('/').unwrap_or((words[2], ""));
        RequestInfo {
            is_resource_request: true,
            verb: words[0].into(),
            api_group: if words[1] == "core" { String::new() } else { words[1].into() },
            resource: resource.into(),
            subresource: subresource.into(),
            name: words.get(3).copied().unwrap_or_default().into(),
            ..Default::default()
        }
    }

    #[test]
    fn a_rule_allows_what_all_its_lists_name() {
        for (given, asked, expect) in [
            ("get,list|core|pods", "get core pods a", true),
            ("get,list|core|pods", "delete core pods a", false),
            ("get|core|pods", "get apps pods a", false),
            ("*|*|*", "anything x y/z n", true),
            ("get|core|pods", "get core pods/log a", false),
            ("get|core|pods/log", "get core pods/log a", true),
            ("get|core|*/log", "get core pods/log a", true),
            ("get|core|*/log", "get core pods a", false),
            ("get|core|pods|a,b", "get core pods a", true),
            ("get|core|pods|a,b", "get core pods c", false),
            ("list|core|pods|a", "list core pods", false),
            ("get||||/healthz,/livez/*", "get /livez/ping", true),
            ("get||||/healthz,/livez/*", "get /healthz/ping", false),
            ("get||||*", "get /anything", true),
            ("get|*|*", "get /healthz", false),
        ] {
            assert_eq!(allows(&rule(given), &request(asked)), expect, "{given} for {asked}");
        }
    }

    #[test]
    fn covering_is_checked_part_by_part() {
        for (owner, servant, missing) in [
            ("*|*|*", "get,delete|apps|deployments", 0),
            ("get|apps|deployments", "get,delete|apps|deployments", 1),
            ("get|core|pods|a", "get|core|pods", 1),
            ("get|core|pods|a", "get|core|pods|a", 0),
            ("get|core|pods", "get|core|pods|a", 0),
            ("get|core|*/status", "get|core|pods/status,nodes/status", 0),
            ("get|core|pods", "get|core|pods/log", 1),
            ("get||||/api/*", "get||||/api/v1", 0),
            ("get||||/api", "get||||/api/*", 1),
        ] {
            assert_eq!(uncovered(&[rule(owner)], &[rule(servant)]).len(), missing, "{owner} over {servant}");
        }
    }

    #[test]
    fn missing_rules_are_told_compactly() {
        let parts = uncovered(&[], &[rule("get,list|core|pods")]);
        let told: Vec<String> = compact(&parts).iter().map(describe).collect();
        assert_eq!(told, [r#"{APIGroups:[""], Resources:["pods"], Verbs:["get" "list"]}"#]);
    }
}
