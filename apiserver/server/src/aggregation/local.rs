//! An APIService for each group version that this server serves itself, so that `kubectl get apiservices` shows all
//! (kube-aggregator/pkg/controllers/autoregister).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use serde_json::{Value, json};
use skeg_machinery::meta;
use tokio_util::sync::CancellationToken;

use super::{APISERVICES, Aggregation};
use crate::request::UserInfo;
use crate::resources::{Change, WriteOptions};

const MANAGED: &str = "kube-aggregator.kubernetes.io/automanaged";
/// How often the registry is looked at for groups that came or went.
const LOOK: Duration = Duration::from_secs(1);

/// What is served here, and when that last changed.
pub struct Served {
    pub generation: u64,
    /// Group, version, and whether custom resources make it up.
    pub versions: Vec<(String, String, bool)>,
}

/// What is to be done about the APIServices.
#[derive(Debug, PartialEq)]
enum Action {
    Create(Value),
    Delete(String),
}

pub async fn run(
    aggregation: Arc<Aggregation>,
    served: Arc<dyn Fn() -> Served + Send + Sync>,
    shutdown: CancellationToken,
) {
    let mut changes = aggregation.resources.follow(&APISERVICES);
    let mut found: BTreeMap<String, Value> = BTreeMap::new();
    let (mut synced, mut done) = (false, None);
    let mut look = tokio::time::interval(LOOK);
    loop {
        tokio::select! {
            Some(change) = changes.next() => match change {
                Change::Restart => {
                    found.clear();
                    synced = false;
                }
                Change::Applied(service) => {
                    found.insert(meta::name(&service).to_owned(), service);
                }
                Change::Deleted(service) => {
                    found.remove(meta::name(&service));
                    done = None;
                }
                Change::Synced => {
                    synced = true;
                    done = None;
                }
            },
            _ = look.tick() => {
                let now = served();
                if synced && done != Some(now.generation) {
                    for action in plan(&now, &found) {
                        perform(&aggregation, action).await;
                    }
                    done = Some(now.generation);
                }
            }
            () = shutdown.cancelled() => return,
        }
    }
}

fn plan(served: &Served, found: &BTreeMap<String, Value>) -> Vec<Action> {
    let mut actions = Vec::new();
    let mut wanted = Vec::new();
    // The aggregator's own group has none.
    for (group, version, custom) in served.versions.iter().filter(|(group, ..)| group != "apiregistration.k8s.io") {
        let name = format!("{version}.{group}");
        if !found.contains_key(&name) {
            actions.push(Action::Create(api_service(&name, group, version, *custom)));
        }
        wanted.push(name);
    }
    for (name, service) in found {
        let managed = meta::label(service, MANAGED).is_some();
        if managed && !service["spec"]["service"].is_object() && !wanted.contains(name) {
            actions.push(Action::Delete(name.clone()));
        }
    }
    actions
}

fn api_service(name: &str, group: &str, version: &str, custom: bool) -> Value {
    let (group_priority, version_priority) = match custom {
        true => (1000, 100),
        false => (i64::from(crate::registry::group_rank(group)), version_priority(group, version)),
    };
    let managed = if custom { "true" } else { "onstart" };
    let mut spec =
        json!({"groupPriorityMinimum": group_priority, "version": version, "versionPriority": version_priority});
    if !group.is_empty() {
        spec["group"] = json!(group);
    }
    json!({
        "apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService",
        "metadata": {"name": name, "labels": {MANAGED: managed}}, "spec": spec,
    })
}

/// Upstream's priorities (kubernetes/pkg/controlplane/apiserver/aggregator.go): 15 for a first stable version.
fn version_priority(group: &str, version: &str) -> i64 {
    match (group, version) {
        ("", _) => 1,
        ("apiregistration.k8s.io", "v1") => 18,
        ("autoscaling", "v2") => 30,
        ("flowcontrol.apiserver.k8s.io" | "resource.k8s.io", "v1") => 21,
        (_, version) if version.contains("alpha") => 1,
        (_, version) if version.contains("beta") => 9,
        _ => 15,
    }
}

async fn perform(aggregation: &Aggregation, action: Action) {
    let (resources, user) = (&aggregation.resources, UserInfo::loopback());
    let options = WriteOptions { dry_run: false, field_manager: "kube-apiserver".into() };
    let result = match action {
        Action::Create(service) => resources.create(&user, &APISERVICES, "", service, &options).await,
        Action::Delete(name) => resources.delete(&user, &APISERVICES, "", &name, &Value::Null).await,
    };
    if let Err(status) = result
        && !status.is_already_exists()
        && !status.is_not_found()
    {
        tracing::warn!(why = status.message, "an APIService could not be kept");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_served_here_has_an_apiservice_and_what_is_not_has_none() {
        let served = |versions: &[(&str, &str, bool)]| Served {
            generation: 1,
            versions: versions.iter().map(|(g, v, c)| ((*g).to_owned(), (*v).to_owned(), *c)).collect(),
        };
        let core = api_service("v1.", "", "v1", false);
        assert_eq!(core["spec"], json!({"groupPriorityMinimum": 18000, "version": "v1", "versionPriority": 1}));
        let custom = api_service("v1.x.io", "x.io", "v1", true);
        let found: BTreeMap<String, Value> = [("v1.".to_owned(), core), ("v1.x.io".to_owned(), custom.clone())].into();
        let both = served(&[("", "v1", false), ("x.io", "v1", true)]);
        assert_eq!(plan(&both, &found), []);
        assert_eq!(plan(&both, &BTreeMap::new()).len(), 2);
        assert_eq!(plan(&served(&[("", "v1", false)]), &found), [Action::Delete("v1.x.io".into())]);
        let mut remote = custom;
        remote["spec"]["service"] = json!({"name": "s", "namespace": "n"});
        let found = [("v1.x.io".to_owned(), remote)].into();
        assert_eq!(plan(&served(&[]), &found), []);
    }
}
