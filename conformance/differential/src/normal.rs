//! Makes two answers comparable: what each server makes up for itself (uids, times, revisions, generated names, allocated
//! addresses, tokens, its own address) is replaced by a word that says what stood there. Owns no opinion on what differs.

use std::sync::LazyLock;

use regex::{Captures, Regex};
use serde_json::Value;

fn pattern(text: &str) -> Regex {
    Regex::new(text).expect("a valid pattern")
}

static UID: LazyLock<Regex> =
    LazyLock::new(|| pattern(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"));
static TIME: LazyLock<Regex> =
    LazyLock::new(|| pattern(r"20[2-3]\d-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)"));
static GO_TIME: LazyLock<Regex> = LazyLock::new(|| pattern(r"20[2-3]\d-\d\d-\d\d \d\d:\d\d:\d\d(\.\d+)? \+0000 UTC"));
static TOKEN: LazyLock<Regex> = LazyLock::new(|| pattern(r"eyJ[\w-]+\.[\w-]+\.[\w-]+"));
static LOCAL: LazyLock<Regex> = LazyLock::new(|| pattern(r"(127\.0\.0\.1|localhost):\d{4,5}"));
/// From the range of both, or that of the ServiceCIDR which the judge adds.
static CLUSTER_IP: LazyLock<Regex> = LazyLock::new(|| pattern(r"\b10\.9[67]\.\d+\.\d+"));
static PRECONDITION: LazyLock<Regex> =
    LazyLock::new(|| pattern(r"(ResourceVersion in (?:precondition: |object meta: |record \())\d+"));
static SHOWN_VERSION: LazyLock<Regex> = LazyLock::new(|| pattern(r#"(\\?"resourceVersion\\?":\\?")\d{2,}"#));
static HASH: LazyLock<Regex> = LazyLock::new(|| pattern(r"(hash=)[0-9A-F]{128}"));
static ADDRESS: LazyLock<Regex> = LazyLock::new(|| pattern(r"0xc[0-9a-f]{6,}"));
static AGE: LazyLock<Regex> = LazyLock::new(|| pattern(r"^(\d+[smhd]){1,2}$"));
static ACCESS: LazyLock<Regex> = LazyLock::new(|| pattern(r"kube-api-access-[bcdfghjklmnpqrstvwxz2456789]{5}"));
static GENERATED: LazyLock<Regex> = LazyLock::new(|| pattern(r"(Not Valid-|judge-)[bcdfghjklmnpqrstvwxz2456789]{5}\b"));
static RANDOM: LazyLock<Regex> = LazyLock::new(|| pattern(r"[bcdfghjklmnpqrstvwxz2456789]{5}"));
/// Which of several metric sources are too many, upstream tells in the order of a Go map: another each time.
static SOURCE: LazyLock<Regex> =
    LazyLock::new(|| pattern(r"(spec\.metrics\[\d+\]\.)\w+(: Forbidden: must populate the given metric source only)"));

/// A text wherever it stands: a body that is not JSON, a string in one, a header.
pub fn text(text: &str) -> String {
    let text = UID.replace_all(text, "<uid>");
    let text = TIME.replace_all(&text, |found: &Captures<'_>| time(found));
    let text = GO_TIME.replace_all(&text, "<time>");
    let text = TOKEN.replace_all(&text, "<token>");
    let text = LOCAL.replace_all(&text, "<server>");
    let text = CLUSTER_IP.replace_all(&text, "<cluster ip>");
    let text = ACCESS.replace_all(&text, "kube-api-access-<random>");
    let text = GENERATED.replace_all(&text, "${1}<random>");
    let text = PRECONDITION.replace_all(&text, "${1}<rv>");
    let text = SOURCE.replace_all(&text, "${1}<source>${2}");
    let text = SHOWN_VERSION.replace_all(&text, "${1}<rv>");
    // Of what each server derives a document of OpenAPI from; the documents themselves are compared.
    let text = HASH.replace_all(&text, "${1}<hash>");
    ADDRESS.replace_all(&text, "<pointer>").into_owned()
}

/// Fixtures name times outside of this year; whole seconds and microseconds stay apart.
fn time(found: &Captures<'_>) -> String {
    if found[0].starts_with("2030") {
        return found[0].to_owned();
    }
    match found.get(1) {
        Some(fraction) => format!("<time .{}>", fraction.len() - 1),
        None => "<time>".to_owned(),
    }
}

pub fn json(value: &mut Value) {
    own_left_out(value);
    order(value);
    // Also within the event of a watch.
    let table = ["/kind", "/object/kind"].iter().any(|at| value.pointer(at).and_then(Value::as_str) == Some("Table"));
    walk(value, "", table);
}

/// What Skeg has beside upstream's objects, named `skeg:…`, would shift all that comes behind it in a list.
fn own_left_out(value: &mut Value) {
    let own = |name: &Value| name.as_str().is_some_and(|name| name.starts_with("skeg:"));
    if let Some(items) = value.get_mut("items").and_then(Value::as_array_mut) {
        items.retain(|item| !own(&item["metadata"]["name"]));
    }
    if let Some(rows) = value.get_mut("rows").and_then(Value::as_array_mut) {
        rows.retain(|row| !own(&row["cells"][0]));
    }
}

/// Lists that upstream writes in whatever order its maps and its tasks come: each has one here.
fn order(value: &mut Value) {
    let (kind, text) = (sort_of(value).to_owned(), |value: &Value| value.to_string());
    let mut sort = |pointer: &str| {
        if let Some(Value::Array(items)) = value.pointer_mut(pointer) {
            items.sort_by_key(text);
        }
    };
    match &*kind {
        // The rules of bindings, in the order of a cache.
        "SelfSubjectRulesReview" => {
            sort("/status/resourceRules");
            sort("/status/nonResourceRules");
        }
        // Components, in the order in which they were found to live or not.
        "ComponentStatusList" | "ComponentNames" => sort("/items"),
        "ComponentStatusTable" => sort("/rows"),
        _ => {}
    }
}

fn sort_of(value: &Value) -> &str {
    let kind = value["kind"].as_str().unwrap_or_default();
    let columns = value["columnDefinitions"].as_array().map_or(&[][..], Vec::as_slice);
    let names = columns.iter().filter_map(|column| column["name"].as_str());
    let mut items = value["items"].as_array().map_or(&[][..], Vec::as_slice).iter();
    let component = |name| matches!(name, Some("controller-manager" | "scheduler" | "etcd-0"));
    if kind == "PartialObjectMetadataList" && items.all(|item| component(item["metadata"]["name"].as_str())) {
        return "ComponentNames";
    }
    if kind == "Table" && names.eq(["Name", "Status", "Message", "Error"]) { "ComponentStatusTable" } else { kind }
}

fn walk(value: &mut Value, key: &str, table: bool) {
    match value {
        Value::String(found) => *found = string(found, key, table),
        Value::Number(port) => {
            let allocated = port.as_u64().is_some_and(|port| (30000..=32767).contains(&port));
            if allocated && matches!(key, "nodePort" | "healthCheckNodePort") {
                *value = Value::String("<node port>".to_owned());
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| walk(item, key, table)),
        Value::Object(map) => {
            let generate = map.get("generateName").and_then(Value::as_str).map(str::to_owned);
            if let (Some(prefix), Some(Value::String(name))) = (generate, map.get_mut("name"))
                && let Some(suffix) = name.strip_prefix(&prefix)
                && RANDOM.is_match(suffix)
            {
                *name = format!("{prefix}<random>");
            }
            // The causes of a Status, told as SOURCE in its message.
            let text = |key: &str| map.get(key).and_then(Value::as_str);
            if let (Some(field), Some(message)) = (text("field"), text("message")) {
                let told = format!("{field}: {message}");
                if SOURCE.is_match(&told) {
                    let told = SOURCE.replace(&told, "${1}<source>").into_owned();
                    map.insert("field".to_owned(), Value::String(told));
                }
            }
            if map.contains_key("remainingItemCount") && map.contains_key("continue") {
                map.insert("remainingItemCount".to_owned(), Value::String("<count>".to_owned()));
            }
            map.iter_mut().for_each(|(key, item)| walk(item, key, table));
        }
        _ => {}
    }
}

fn string(found: &str, key: &str, table: bool) -> String {
    match key {
        "resourceVersion" if found.len() < 20 && found != "0" && found.parse::<u64>().is_ok() => "<rv>".to_owned(),
        "continue" if !found.is_empty() => "<continue>".to_owned(),
        "cells" if table && AGE.is_match(found) => "<age>".to_owned(),
        _ => text(found),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    #[test]
    fn metric_sources_that_are_too_many_come_in_any_order() {
        let status = |sources: [&str; 2]| {
            let fields = sources.map(|source| format!("spec.metrics[0].{source}"));
            let told = "Forbidden: must populate the given metric source only";
            let message = fields.clone().map(|field| format!("{field}: {told}")).join(", ");
            let causes = fields.map(|field| json!({"field": field, "message": told}));
            let mut status = json!({"message": message, "details": {"causes": causes}});
            super::json(&mut status);
            status
        };
        assert_eq!(status(["pods", "external"]), status(["external", "pods"]));
        assert_eq!(status(["pods", "pods"])["details"]["causes"][0]["field"], "spec.metrics[0].<source>");
    }
}
