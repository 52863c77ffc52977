//! Which flow schema and priority level a request belongs to, told in its answer as upstream tells it. Only names the
//! level: how much is served at once is limited in [`crate::server`].

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use chrono::{SecondsFormat, Utc};
use futures::StreamExt;
use http::{HeaderMap, HeaderValue};
use serde_json::{Value, json};
use skeg_machinery::gvk::GroupResource;
use skeg_machinery::meta;
use skeg_machinery::text::quote;
use tokio_util::sync::CancellationToken;

use crate::request::{RequestInfo, UserInfo};
use crate::resources::{Change, Resources};

const GROUP: &str = "flowcontrol.apiserver.k8s.io";
const CONSUMER: &str = "api-priority-and-fairness-config-consumer-v1";

/// The flow schemas in the order that they are tried, and the uids of the levels.
#[derive(Default)]
struct Table {
    schemas: Vec<Arc<Value>>,
    levels: HashMap<String, HeaderValue>,
}

#[derive(Default)]
pub struct Priorities {
    table: ArcSwap<Table>,
}

impl Priorities {
    /// Follows the objects until `shutdown`.
    pub async fn follow(&self, resources: Arc<dyn Resources>, shutdown: CancellationToken) {
        let schemas = GroupResource::from_static(GROUP, "flowschemas");
        let levels = GroupResource::from_static(GROUP, "prioritylevelconfigurations");
        let mut changes = futures::stream::select(
            resources.follow(&schemas).map(|change| (true, change)),
            resources.follow(&levels).map(|change| (false, change)),
        );
        let mut found: [HashMap<String, Arc<Value>>; 2] = Default::default();
        let mut synced = [false, false];
        let mut told = HashMap::new();
        loop {
            let (is_schema, change) = tokio::select! {
                Some(change) = changes.next() => change,
                () = shutdown.cancelled() => return,
            };
            let objects = &mut found[usize::from(is_schema)];
            let was_synced = matches!(change, Change::Synced);
            match change {
                Change::Restart => objects.clear(),
                Change::Applied(object) => {
                    objects.insert(meta::name(&object).to_owned(), Arc::new(object));
                }
                Change::Deleted(object) => {
                    objects.remove(meta::name(&object));
                }
                Change::Synced => {}
            }
            self.table.store(Arc::new(Table::of(&found[1], &found[0])));
            // Nothing is dangling before both lists are whole.
            synced[usize::from(is_schema)] |= was_synced;
            if synced == [true, true] {
                tell(&*resources, &found[1], &found[0], &mut told).await;
            }
        }
    }

    /// Adds the two headers for this request, where its schema is known.
    pub fn label(&self, user: &UserInfo, request: &RequestInfo, headers: &mut HeaderMap) {
        let table = self.table.load();
        let Some(schema) = table.schemas.iter().find(|schema| matches(schema, user, request)) else { return };
        let level = meta::str_at(schema, &["spec", "priorityLevelConfiguration", "name"]);
        let (Ok(schema), Some(level)) = (HeaderValue::from_str(meta::uid(schema)), table.levels.get(level)) else {
            return;
        };
        headers.insert("x-kubernetes-pf-flowschema-uid", schema);
        headers.insert("x-kubernetes-pf-prioritylevel-uid", level.clone());
    }
}

/// Tells in the status of each schema whether its level is there, where that is not told yet; of each state of it once.
async fn tell(
    resources: &dyn Resources,
    schemas: &HashMap<String, Arc<Value>>,
    levels: &HashMap<String, Arc<Value>>,
    told: &mut HashMap<String, (String, bool)>,
) {
    told.retain(|name, _| schemas.contains_key(name));
    for schema in schemas.values() {
        let level = meta::str_at(schema, &["spec", "priorityLevelConfiguration", "name"]);
        let found = levels.contains_key(level);
        let Some(mut condition) = dangling(schema, found) else { continue };
        let state = (meta::resource_version(schema).to_owned(), found);
        if told.insert(meta::name(schema).to_owned(), state.clone()) == Some(state) {
            continue;
        }
        condition["lastTransitionTime"] = json!(Utc::now().to_rfc3339_opts(SecondsFormat::Secs, true));
        let object = json!({
            "apiVersion": format!("{GROUP}/v1"),
            "kind": "FlowSchema",
            "metadata": {"name": meta::name(schema)},
            "status": {"conditions": [condition]},
        });
        let of = GroupResource::from_static(GROUP, "flowschemas");
        if let Err(status) = resources.apply_status(&UserInfo::loopback(), &of, object, CONSUMER).await {
            tracing::debug!(schema = meta::name(schema), status.message, "a flow schema's condition was not written");
        }
    }
}

/// The condition that a schema lacks (apiserver/pkg/util/flowcontrol/apf_controller.go); `None` where it has it.
fn dangling(schema: &Value, found: bool) -> Option<Value> {
    let level = quote(meta::str_at(schema, &["spec", "priorityLevelConfiguration", "name"]));
    let named = format!("This FlowSchema references the PriorityLevelConfiguration object named {level}");
    let wanted = if found {
        json!({"type": "Dangling", "status": "False", "reason": "Found", "message": format!("{named} and it exists")})
    } else {
        let message = format!("{named} but there is no such object");
        json!({"type": "Dangling", "status": "True", "reason": "NotFound", "message": message})
    };
    let conditions = meta::array_at(schema, &["status", "conditions"]);
    let has = conditions.iter().any(|condition| {
        wanted.as_object().into_iter().flatten().all(|(member, value)| condition.get(member) == Some(value))
    });
    (!has).then_some(wanted)
}

impl Table {
    fn of(schemas: &HashMap<String, Arc<Value>>, levels: &HashMap<String, Arc<Value>>) -> Table {
        let mut schemas: Vec<Arc<Value>> = schemas.values().cloned().collect();
        let precedence = |schema: &Value| meta::i64_at(schema, &["spec", "matchingPrecedence"]).unwrap_or(1000);
        schemas.sort_by(|a, b| precedence(a).cmp(&precedence(b)).then_with(|| meta::name(a).cmp(meta::name(b))));
        let uid = |level: &Arc<Value>| HeaderValue::from_str(meta::uid(level)).ok();
        let levels = levels.iter().filter_map(|(name, level)| Some((name.clone(), uid(level)?))).collect();
        Table { schemas, levels }
    }
}

/// Whether any rule of the schema is about this request (apiserver/pkg/util/flowcontrol/rule.go).
fn matches(schema: &Value, user: &UserInfo, request: &RequestInfo) -> bool {
    meta::array_at(schema, &["spec", "rules"]).iter().any(|rule| {
        let about = if request.is_resource_request {
            meta::array_at(rule, &["resourceRules"]).iter().any(|rule| resource_matches(rule, request))
        } else {
            meta::array_at(rule, &["nonResourceRules"]).iter().any(|rule| {
                has(rule, "verbs", &request.verb)
                    && meta::array_at(rule, &["nonResourceURLs"]).iter().any(|url| url_matches(url, &request.path))
            })
        };
        about && meta::array_at(rule, &["subjects"]).iter().any(|subject| subject_matches(subject, user))
    })
}

/// Whether the list named `field` holds `wanted` or "*".
fn has(rule: &Value, field: &str, wanted: &str) -> bool {
    meta::array_at(rule, &[field])
        .iter()
        .any(|item| matches!(item.as_str(), Some(text) if text == "*" || text == wanted))
}

fn resource_matches(rule: &Value, request: &RequestInfo) -> bool {
    let resource = match request.subresource.as_str() {
        "" => request.resource.clone(),
        subresource => format!("{}/{subresource}", request.resource),
    };
    let scope = if request.namespace.is_empty() {
        meta::bool_at(rule, &["clusterScope"]).unwrap_or(false)
    } else {
        has(rule, "namespaces", &request.namespace)
    };
    scope
        && has(rule, "verbs", &request.verb)
        && has(rule, "apiGroups", &request.api_group)
        && has(rule, "resources", &resource)
}

fn url_matches(url: &Value, path: &str) -> bool {
    let url = url.as_str().unwrap_or("");
    match url.strip_suffix("/*") {
        Some(prefix) => path.strip_prefix(prefix).is_some_and(|rest| rest.starts_with('/')),
        None => url == "*" || url == path,
    }
}

fn subject_matches(subject: &Value, user: &UserInfo) -> bool {
    let named = |kind: &str| meta::str_at(subject, &[kind, "name"]);
    match meta::str_at(subject, &["kind"]) {
        "User" => named("user") == "*" || named("user") == user.name,
        "Group" => named("group") == "*" || user.groups.iter().any(|group| group == named("group")),
        "ServiceAccount" => {
            let namespace = meta::str_at(subject, &["serviceAccount", "namespace"]);
            let prefix = format!("system:serviceaccount:{namespace}:");
            let account = user.name.strip_prefix(&prefix);
            account.is_some_and(|account| named("serviceAccount") == "*" || named("serviceAccount") == account)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schema(name: &str, precedence: i64, rule: Value) -> Arc<Value> {
        Arc::new(json!({"metadata": {"name": name, "uid": format!("uid-{name}")}, "spec": {
            "matchingPrecedence": precedence, "priorityLevelConfiguration": {"name": "low"}, "rules": [rule]}}))
    }

    #[test]
    fn a_schema_says_whether_its_level_is_there() {
        let mut low = Value::clone(&schema("low", 1, json!({})));
        let condition = dangling(&low, true).unwrap();
        assert_eq!((&condition["status"], &condition["reason"]), (&json!("False"), &json!("Found")));
        low["status"] = json!({"conditions": [condition]});
        assert_eq!(dangling(&low, true), None);
        let gone = dangling(&low, false).unwrap();
        assert_eq!(
            gone["message"],
            "This FlowSchema references the PriorityLevelConfiguration object named \"low\" but there is no such object"
        );
    }

    #[test]
    fn the_first_schema_in_order_of_precedence_labels_the_request() {
        let everyone = json!([{"kind": "Group", "group": {"name": "*"}}]);
        let robots = json!([{"kind": "ServiceAccount", "serviceAccount": {"namespace": "ns", "name": "*"}}]);
        let any =
            json!({"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "clusterScope": true, "namespaces": ["*"]});
        let pods = json!({"verbs": ["get"], "apiGroups": [""], "resources": ["pods"], "namespaces": ["*"]});
        let health = json!({"verbs": ["get"], "nonResourceURLs": ["/healthz", "/readyz/*"]});
        let rule = |subjects: &Value, resources: &Value| json!({"subjects": subjects, "resourceRules": [resources], "nonResourceRules": [health]});
        let schemas = [schema("all", 9000, rule(&everyone, &any)), schema("robots", 10, rule(&robots, &pods))];
        let schemas = schemas.into_iter().map(|s| (meta::name(&s).to_owned(), s)).collect();
        let low = Arc::new(json!({"metadata": {"name": "low", "uid": "uid-low"}}));
        let priorities = Priorities::default();
        priorities.table.store(Arc::new(Table::of(&schemas, &HashMap::from([("low".to_owned(), low)]))));

        let label = |name: &str, verb: &str, resource: &str, path: &str| {
            let user = UserInfo { name: name.into(), groups: vec!["g".into()], ..Default::default() };
            let request = RequestInfo {
                is_resource_request: !resource.is_empty(),
                verb: verb.into(),
                resource: resource.into(),
                namespace: "x".into(),
                path: path.into(),
                ..Default::default()
            };
            let mut headers = HeaderMap::new();
            priorities.label(&user, &request, &mut headers);
            headers.get("x-kubernetes-pf-flowschema-uid").map(|v| v.to_str().unwrap().to_owned())
        };
        let robot = "system:serviceaccount:ns:r";
        assert_eq!(label(robot, "get", "pods", "").as_deref(), Some("uid-robots"));
        assert_eq!(label(robot, "list", "pods", "").as_deref(), Some("uid-all"));
        assert_eq!(label("eve", "get", "pods", "").as_deref(), Some("uid-all"));
        assert_eq!(label("eve", "get", "", "/readyz/etcd").as_deref(), Some("uid-all"));
        assert_eq!(label("eve", "get", "", "/elsewhere"), None);
    }
}
