//! What there is in a cluster as lines of text, one for each field, in an order and without what differs from run to run: uids,
//! revisions, times, random names and addresses, and which of several equal nodes a pod came to.

use std::sync::LazyLock;

use regex::Regex;
use serde_json::Value;

use crate::cluster::Cluster;
use crate::resources::compared;

pub async fn of(cluster: &Cluster, title: &str) -> anyhow::Result<Vec<String>> {
    let mut lines = vec![format!("# {title}")];
    for (kind, path) in compared() {
        let mut found: Vec<String> =
            cluster.list(&path).await?.iter().flat_map(|object| leaves(kind, object)).collect();
        found.sort();
        lines.extend(found);
    }
    Ok(lines)
}

/// One object: its kind and name, and then a field and what is in it, for each. Which item of a list it is is not said.
pub fn leaves(kind: &str, object: &Value) -> Vec<String> {
    let name = plain(object["metadata"]["name"].as_str().unwrap_or_default());
    let mut lines = Vec::new();
    walk(object, "", &mut |path, value| {
        if !is_left_out(kind, path) {
            lines.push(format!("{kind} {name} {path} {value}"));
        }
    });
    lines
}

fn walk(value: &Value, path: &str, leaf: &mut impl FnMut(&str, String)) {
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            fields.iter().for_each(|(name, value)| walk(value, &format!("{path}.{name}"), leaf));
        }
        Value::Array(items) if !items.is_empty() => {
            items.iter().for_each(|item| walk(item, &format!("{path}[]"), leaf));
        }
        Value::String(_) if HASHES.iter().any(|label| path.ends_with(label)) => leaf(path, "<hash>".to_owned()),
        Value::String(text) => leaf(path, format!("{:?}", plain(text))),
        other => leaf(path, other.to_string()),
    }
}

/// What may be different in each run.
fn is_left_out(kind: &str, path: &str) -> bool {
    let names = ["uid", "resourceVersion", "nodeName", "volumeName"];
    path.starts_with(".metadata.managedFields")
        || path.rsplit('.').next().is_some_and(|last| names.contains(&last))
        // Which of two equal volumes a claim came to.
        || path == ".spec.claimRef.name"
        // How many changes were written at once.
        || (kind == "endpointslices" && path == ".metadata.generation")
        || path == ".metadata.annotations.endpoints.kubernetes.io/last-change-trigger-time"
}

/// Labels that hold the hash of a template, which says no more than that two templates are the same. Upstream's is of what Go has
/// in memory and changes with its releases; what bears the hash in its name is told apart by its fields.
const HASHES: [&str; 3] = [".pod-template-hash", ".controller-revision-hash", ".controller.kubernetes.io/hash"];

/// Uids, times, the minutes that a CronJob's Jobs are named after, addresses, hashes and random endings of names.
static RANDOM: LazyLock<Vec<(Regex, &str)>> = LazyLock::new(|| {
    [
        (r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "<uid>"),
        (r"\b\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?Z?", "<time>"),
        (r"\bhourly-\d{8}", "hourly-<minute>"),
        (r"\b10\.(200|100|96)(\.\d+){2}\b", "<address>"),
        (r"\b(web|agent|db)-[bcdfghjklmnpqrstvwxz2456789]{7,10}\b", "$1-<hash>"),
        (r"\b(web-<hash>|agent|old|good|bad|web|db|kube-api-access|hourly-<minute>)-[bcdfghjklmnpqrstvwxz2456789]{5}\b", "$1-<random>"),
    ]
    .map(|(pattern, by)| (Regex::new(pattern).expect("the patterns are good"), by))
    .into()
});

fn plain(text: &str) -> String {
    RANDOM.iter().fold(text.to_owned(), |text, (pattern, by)| pattern.replace_all(&text, *by).into_owned())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_differs_from_run_to_run_is_left_out() {
        let pod = json!({"metadata": {"name": "web-7d9f8b6c5-x2x4z", "uid": "9f1b6c1e-0000-4000-8000-000000000001",
            "labels": {"pod-template-hash": "7d9f8b6c5"},
            "creationTimestamp": "2026-01-01T00:00:00Z", "managedFields": [{"manager": "m"}], "resourceVersion": "7"},
            "spec": {"nodeName": "one", "replicas": 2, "empty": {}}, "status": {"podIPs": [{"ip": "10.200.1.2"}]}});
        let wanted = [
            ".metadata.creationTimestamp \"<time>\"",
            ".metadata.labels.pod-template-hash <hash>",
            ".metadata.name \"web-<hash>-<random>\"",
            ".spec.empty {}",
            ".spec.replicas 2",
            ".status.podIPs[].ip \"<address>\"",
        ];
        let mut found = leaves("pods", &pod);
        found.sort();
        assert_eq!(found, wanted.map(|line| format!("pods web-<hash>-<random> {line}")));
    }
}
