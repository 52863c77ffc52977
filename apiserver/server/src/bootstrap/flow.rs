//! The default flow schemas and priority levels, as upstream has them (apiserver/pkg/apis/flowcontrol/bootstrap).

use serde_json::{Value, json};
use skeg_machinery::gvk::GroupResource;

use super::objects::{Existing, Initial};

const GROUP: &str = "flowcontrol.apiserver.k8s.io";

/// Name, shares, lendable percent, queues and hand size; without queues, what is too much is refused.
const LEVELS: [(&str, u32, u32, u32, u32); 7] = [
    ("catch-all", 5, 0, 0, 0),
    ("system", 30, 33, 64, 6),
    ("node-high", 40, 25, 64, 6),
    ("leader-election", 10, 0, 16, 4),
    ("workload-high", 40, 50, 128, 6),
    ("workload-low", 100, 90, 128, 6),
    ("global-default", 20, 50, 128, 6),
];

fn initial(resource: &'static str, kind: &str, name: &str, spec: Value) -> Initial {
    let object = json!({
        "apiVersion": format!("{GROUP}/v1"),
        "kind": kind,
        "metadata": { "name": name, "annotations": { "apf.kubernetes.io/autoupdate-spec": "true" } },
        "spec": spec,
    });
    Initial { resource: GroupResource::from_static(GROUP, resource), object, existing: Existing::Keep }
}

fn level(name: &str, spec: Value) -> Initial {
    initial("prioritylevelconfigurations", "PriorityLevelConfiguration", name, spec)
}

fn subjects(kind: &str, names: &[&str]) -> Vec<Value> {
    let field = kind.to_lowercase();
    names.iter().map(|name| json!({ "kind": kind, &field: { "name": name } })).collect()
}

fn groups(names: &[&str]) -> Vec<Value> {
    subjects("Group", names)
}

fn users(names: &[&str]) -> Vec<Value> {
    subjects("User", names)
}

fn system_accounts() -> Vec<Value> {
    vec![json!({ "kind": "ServiceAccount", "serviceAccount": { "name": "*", "namespace": "kube-system" } })]
}

fn on(verbs: &[&str], group: &str, resources: &[&str], cluster: bool) -> Value {
    let mut rule = json!({ "verbs": verbs, "apiGroups": [group], "resources": resources, "namespaces": ["*"] });
    if cluster {
        rule["clusterScope"] = true.into();
    }
    rule
}

/// Rules for every resource and every path.
fn everything(subjects: Vec<Value>) -> Value {
    json!({
        "subjects": subjects,
        "resourceRules": [on(&["*"], "*", &["*"], true)],
        "nonResourceRules": [{ "verbs": ["*"], "nonResourceURLs": ["*"] }],
    })
}

fn schema(name: &str, level: &str, precedence: u32, distinguisher: &str, rules: Value) -> Initial {
    let mut spec = json!({
        "priorityLevelConfiguration": { "name": level },
        "matchingPrecedence": precedence,
        "rules": [rules],
    });
    if !distinguisher.is_empty() {
        spec["distinguisherMethod"] = json!({ "type": distinguisher });
    }
    initial("flowschemas", "FlowSchema", name, spec)
}

pub fn objects() -> Vec<Initial> {
    let mut all = vec![level(
        "exempt",
        json!({ "type": "Exempt", "exempt": { "nominalConcurrencyShares": 0, "lendablePercent": 0 } }),
    )];
    for (name, shares, lendable, queues, hand) in LEVELS {
        let response = if queues == 0 {
            json!({ "type": "Reject" })
        } else {
            json!({ "type": "Queue", "queuing": { "queues": queues, "handSize": hand, "queueLengthLimit": 50 } })
        };
        let limited =
            json!({ "nominalConcurrencyShares": shares, "lendablePercent": lendable, "limitResponse": response });
        all.push(level(name, json!({ "type": "Limited", "limited": limited })));
    }
    let anybody = || groups(&["system:unauthenticated", "system:authenticated"]);
    let nodes = || groups(&["system:nodes"]);
    let probes = json!({
        "subjects": anybody(),
        "nonResourceRules": [{ "verbs": ["get"], "nonResourceURLs": ["/healthz", "/readyz", "/livez"] }],
    });
    let mut leaders = users(&["system:kube-controller-manager", "system:kube-scheduler"]);
    leaders.extend(system_accounts());
    let (coordination, by_user, by_namespace) = ("coordination.k8s.io", "ByUser", "ByNamespace");
    let election = json!({
        "subjects": leaders,
        "resourceRules": [on(&["get", "create", "update"], coordination, &["leases"], false)],
    });
    let heartbeats = json!({
        "subjects": nodes(),
        "resourceRules": [on(&["*"], "", &["nodes", "nodes/status"], true), on(&["*"], coordination, &["leases"], false)],
    });
    let accounts = || groups(&["system:serviceaccounts"]);
    all.extend([
        schema("exempt", "exempt", 1, "", everything(groups(&["system:masters"]))),
        schema("catch-all", "catch-all", 10_000, by_user, everything(anybody())),
        schema("probes", "exempt", 2, "", probes),
        schema("system-leader-election", "leader-election", 100, by_user, election),
        schema("system-node-high", "node-high", 400, by_user, heartbeats),
        schema("system-nodes", "system", 500, by_user, everything(nodes())),
        schema(
            "kube-controller-manager",
            "workload-high",
            800,
            by_namespace,
            everything(users(&["system:kube-controller-manager"])),
        ),
        schema("kube-scheduler", "workload-high", 800, by_namespace, everything(users(&["system:kube-scheduler"]))),
        schema("kube-system-service-accounts", "workload-high", 900, by_namespace, everything(system_accounts())),
        schema("service-accounts", "workload-low", 9000, by_user, everything(accounts())),
        schema("global-default", "global-default", 9900, by_user, everything(anybody())),
    ]);
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_schema_names_a_level_that_is_there() {
        let all = objects();
        let named = |kind: &'static str| all.iter().filter(move |o| o.object["kind"] == kind);
        for schema in named("FlowSchema") {
            let wanted = &schema.object["spec"]["priorityLevelConfiguration"]["name"];
            let found = named("PriorityLevelConfiguration").any(|level| level.object["metadata"]["name"] == *wanted);
            assert!(found, "{wanted}");
        }
        assert_eq!((named("FlowSchema").count(), named("PriorityLevelConfiguration").count()), (11, 8));
    }
}
