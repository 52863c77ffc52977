//! PodSecurity: a namespace's labels say which Pod Security Standard its pods must meet (upstream
//! pod-security-admission/admission). The standards themselves are in [`checks`].

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use async_trait::async_trait;
use serde_json::Value;
use skeg_machinery::field::{Error, ErrorList, Path};
use skeg_machinery::gvk::{GroupKind, GroupResource};
use skeg_machinery::meta;
use skeg_machinery::status::Status;

use super::{Attributes, Operation, Plugin, items};
use crate::resources::Resources;

pub mod checks;

use checks::{LATEST, Minor, Pod, Violation};

const PREFIX: &str = "pod-security.kubernetes.io/";
const MOST_PODS: usize = 3000;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Level {
    Privileged,
    Baseline,
    Restricted,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Standard {
    level: Level,
    version: Minor,
}

impl std::fmt::Display for Standard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let level = match self.level {
            Level::Privileged => "privileged",
            Level::Baseline => "baseline",
            Level::Restricted => "restricted",
        };
        match self.version {
            LATEST => write!(f, "{level}:latest"),
            minor => write!(f, "{level}:v1.{minor}"),
        }
    }
}

impl Standard {
    fn violations(&self, pod: &Pod<'_>) -> Vec<Violation> {
        match self.level {
            Level::Privileged => Vec::new(),
            level => checks::violations(pod, level == Level::Restricted, self.version),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Policy {
    enforce: Standard,
    warn: Standard,
}

impl Policy {
    /// What the labels ask for, and what is wrong with them. A level that cannot be read enforces the strictest.
    fn of(namespace: &Value) -> (Policy, Vec<Error>) {
        let open = Standard { level: Level::Privileged, version: LATEST };
        let mut policy = Policy { enforce: open, warn: open };
        let mut errors = Vec::new();
        let mut level = |key: &str, fallback: Level| {
            let label = format!("{PREFIX}{key}");
            let text = meta::label(namespace, &label)?;
            let level = match text {
                "privileged" => Level::Privileged,
                "baseline" => Level::Baseline,
                "restricted" => Level::Restricted,
                _ => {
                    let path = Path::new("metadata").child("labels").key(&label);
                    errors.push(Error::invalid(&path, text, "must be one of privileged, baseline, restricted"));
                    return Some((fallback, false));
                }
            };
            Some((level, true))
        };
        let (enforce, _audit, warn) =
            (level("enforce", Level::Restricted), level("audit", Level::Privileged), level("warn", Level::Privileged));
        let mut version = |key: &str| {
            let label = format!("{PREFIX}{key}-version");
            let text = meta::label(namespace, &label)?;
            let minor = match text {
                "latest" => Some(LATEST),
                _ => text
                    .strip_prefix("v1.")
                    .filter(|m| m.bytes().all(|b| b.is_ascii_digit()))
                    .and_then(|m| m.parse().ok()),
            };
            if minor.is_none() {
                let path = Path::new("metadata").child("labels").key(&label);
                errors.push(Error::invalid(&path, text, "must be \"latest\" or \"v1.x\""));
            }
            Some(minor.unwrap_or(LATEST))
        };
        let (enforce_version, _, warn_version) = (version("enforce"), version("audit"), version("warn"));
        policy.enforce.version = enforce_version.unwrap_or(LATEST);
        policy.warn.version = warn_version.unwrap_or(LATEST);
        if let Some((level, _)) = warn {
            policy.warn.level = level;
        }
        if let Some((level, good)) = enforce {
            policy.enforce.level = level;
            // Who enforces more than they warn of is warned of as much.
            if good && warn.is_none() && level > policy.warn.level {
                policy.warn.level = level;
                if warn_version.is_none() {
                    policy.warn.version = policy.enforce.version;
                }
            }
        }
        (policy, errors)
    }
}

fn details(violations: &[Violation]) -> String {
    let told = violations.iter().map(|v| match v.detail.as_str() {
        "" => v.reason.clone(),
        detail => format!("{} ({detail})", v.reason),
    });
    told.collect::<Vec<_>>().join(", ")
}

pub struct PodSecurity {
    pub resources: Arc<dyn Resources>,
}

#[async_trait]
impl Plugin for PodSecurity {
    fn name(&self) -> &'static str {
        "PodSecurity"
    }

    async fn validate(&self, attributes: &Attributes<'_>, object: Option<&Value>) -> Result<(), Status> {
        let Some(object) = object else { return Ok(()) };
        if !matches!(attributes.operation, Operation::Create | Operation::Update) {
            return Ok(());
        }
        let (group, resource) = (attributes.resource.group.as_ref(), attributes.resource.resource.as_ref());
        match (group, resource, attributes.subresource) {
            ("", "namespaces", "") => self.namespace(attributes, object).await,
            ("", "pods", "" | "ephemeralcontainers" | "resize") => self.pod(attributes, object).await,
            _ => match template(group, resource, object).filter(|_| attributes.subresource.is_empty()) {
                Some(template) => self.template(attributes, template).await,
                None => Ok(()),
            },
        }
    }
}

/// The pod template inside of a workload.
fn template<'a>(group: &str, resource: &str, object: &'a Value) -> Option<&'a Value> {
    let template = match (group, resource) {
        ("", "podtemplates") => &object["template"],
        ("", "replicationcontrollers") | ("batch", "jobs") => &object["spec"]["template"],
        ("apps", "deployments" | "replicasets" | "statefulsets" | "daemonsets") => &object["spec"]["template"],
        ("batch", "cronjobs") => &object["spec"]["jobTemplate"]["spec"]["template"],
        _ => return None,
    };
    (!template["spec"].is_null()).then_some(template)
}

fn pod_of(object: &Value) -> Pod<'_> {
    Pod { annotations: &object["metadata"]["annotations"], spec: &object["spec"] }
}

impl PodSecurity {
    async fn policy(&self, namespace: &str) -> Result<Policy, Status> {
        let namespaces = GroupResource::from_static("", "namespaces");
        let found = match self.resources.get_cached(&namespaces, "", namespace).await? {
            Some(found) => found,
            None => {
                let found = self.resources.get(&namespaces, "", namespace).await;
                let failed = |_| Status::internal_error(format!("failed to lookup namespace \"{namespace}\""));
                Arc::new(found.map_err(failed)?)
            }
        };
        Ok(Policy::of(&found).0)
    }

    async fn pod(&self, attributes: &Attributes<'_>, pod: &Value) -> Result<(), Status> {
        let policy = self.policy(attributes.namespace).await?;
        if let Some(old) = attributes.old_object.filter(|_| attributes.operation == Operation::Update)
            && !is_significant(pod, old)
        {
            return Ok(());
        }
        let violations = policy.enforce.violations(&pod_of(pod));
        if !violations.is_empty() {
            let why = format!("violates PodSecurity \"{}\": {}", policy.enforce, details(&violations));
            return Err(attributes.forbidden(Some(pod), why));
        }
        warn(attributes, &policy, pod);
        Ok(())
    }

    /// Nothing is enforced on a template: its pods are what counts. Who writes it is told.
    async fn template(&self, attributes: &Attributes<'_>, template: &Value) -> Result<(), Status> {
        if let Ok(policy) = self.policy(attributes.namespace).await {
            warn(attributes, &policy, template);
        }
        Ok(())
    }

    async fn namespace(&self, attributes: &Attributes<'_>, namespace: &Value) -> Result<(), Status> {
        let (new, errors) = Policy::of(namespace);
        let (old, old_errors) = attributes.old_object.map(Policy::of).unzip();
        if !errors.is_empty() && old_errors.is_none_or(|old| old != errors) {
            let kind = GroupKind::from_static("", "Namespace");
            return Err(Status::invalid(&kind, meta::name(namespace), &ErrorList(errors)));
        }
        let Some(old) = old else { return Ok(()) };
        let (new, old) = (new.enforce, old.enforce);
        let relaxed = new.level == Level::Privileged || (new.version == old.version && new.level <= old.level);
        if new == old || relaxed {
            return Ok(());
        }
        for warning in self.existing_pods(meta::name(namespace), new).await {
            attributes.warn(warning);
        }
        Ok(())
    }

    /// Warnings about pods that are there and would not be let in under the new standard.
    async fn existing_pods(&self, namespace: &str, standard: Standard) -> Vec<String> {
        let Ok(pods) = self.resources.list(&GroupResource::from_static("", "pods"), namespace).await else {
            return vec!["failed to list pods while checking new PodSecurity enforce level".to_owned()];
        };
        // One pod of each controller first; its siblings will be alike.
        let (mut controllers, mut first, mut siblings) = (HashSet::new(), Vec::new(), Vec::new());
        for pod in &pods {
            match meta::controller_of(pod).and_then(|owner| owner["uid"].as_str()) {
                Some(uid) if !controllers.insert(uid) => siblings.push(pod),
                _ => first.push(pod),
            }
        }
        first.extend(siblings);
        let total = first.len();
        first.truncate(MOST_PODS);
        let mut found: BTreeMap<String, (String, usize)> = BTreeMap::new();
        for pod in &first {
            let violations = standard.violations(&pod_of(pod));
            if violations.is_empty() {
                continue;
            }
            let reasons = violations.iter().map(|v| v.reason.as_str()).collect::<Vec<_>>().join(", ");
            let name = meta::name(pod).to_owned();
            let entry = found.entry(reasons).or_insert_with(|| (name.clone(), 0));
            entry.1 += 1;
            if name < entry.0 {
                entry.0 = name;
            }
        }
        let mut warnings = Vec::new();
        if first.len() < total {
            let checked = first.len();
            warnings.push(format!(
                "new PodSecurity enforce level only checked against the first {checked} of {total} existing pods"
            ));
        }
        if !found.is_empty() {
            warnings.push(format!(
                "existing pods in namespace \"{namespace}\" violate the new PodSecurity enforce level \"{standard}\""
            ));
        }
        let mut told: Vec<String> = found
            .into_iter()
            .map(|(reasons, (name, count))| match count {
                1 => format!("{name}: {reasons}"),
                2 => format!("{name} (and 1 other pod): {reasons}"),
                _ => format!("{name} (and {} other pods): {reasons}", count - 1),
            })
            .collect();
        told.sort();
        warnings.extend(told);
        warnings
    }
}

fn warn(attributes: &Attributes<'_>, policy: &Policy, object: &Value) {
    let violations = policy.warn.violations(&pod_of(object));
    if !violations.is_empty() {
        attributes.warn(format!("would violate PodSecurity \"{}\": {}", policy.warn, details(&violations)));
    }
}

/// Whether an update changes what the standards look at: containers come or go, or their images change.
fn is_significant(pod: &Value, old: &Value) -> bool {
    let images = |pod: &Value, list: &str| -> Vec<Value> {
        items(&pod["spec"], list).map(|container| container["image"].clone()).collect()
    };
    let changed = ["containers", "initContainers"].iter().any(|list| images(pod, list) != images(old, list));
    changed
        || items(&pod["spec"], "ephemeralContainers").any(|container| {
            let before = items(&old["spec"], "ephemeralContainers").find(|other| other["name"] == container["name"]);
            before.is_none_or(|before| before["image"] != container["image"])
        })
}

#[cfg(test)]
mod tests {
    use super::super::fake::{Memory, Write};
    use super::*;
    use serde_json::json;

    fn namespace(name: &str, labels: Value) -> Value {
        json!({"kind": "Namespace", "metadata": {"name": name, "labels": labels}})
    }

    fn plugin() -> PodSecurity {
        let label = |key: &str, value: &str| json!({format!("{PREFIX}{key}"): value});
        let running = |name: &str| json!({"metadata": {"namespace": "open", "name": name}, "spec": {"hostPID": true, "containers": []}});
        PodSecurity {
            resources: Arc::new(Memory::with(vec![
                ("", "namespaces", namespace("open", json!({}))),
                ("", "namespaces", namespace("base", label("enforce", "baseline"))),
                ("", "namespaces", namespace("warn", label("warn", "restricted"))),
                ("", "pods", running("b")),
                ("", "pods", running("a")),
            ])),
        }
    }

    async fn ask(write: &Write) -> Result<(), Status> {
        plugin().validate(&write.attributes(), Some(&write.object)).await
    }

    fn host_pod() -> Value {
        json!({"metadata": {"name": "p"}, "spec": {"hostNetwork": true, "containers": [{"name": "c", "image": "i"}]}})
    }

    #[tokio::test]
    async fn a_pod_must_meet_what_its_namespace_enforces() {
        ask(&Write::pod("open", host_pod())).await.unwrap();
        let refused = ask(&Write::pod("base", host_pod())).await.unwrap_err();
        assert_eq!(
            refused.message,
            "pods \"p\" is forbidden: violates PodSecurity \"baseline:latest\": host namespaces (hostNetwork=true)"
        );
        ask(&Write::pod("base", host_pod()).update(host_pod())).await.unwrap();
        let mut other_image = host_pod();
        other_image["spec"]["containers"][0]["image"] = "j".into();
        assert!(ask(&Write::pod("base", other_image).update(host_pod())).await.is_err());
        ask(&Write::pod("base", host_pod()).update(host_pod()).subresource("status")).await.unwrap();
    }

    #[tokio::test]
    async fn a_template_is_warned_about_and_let_in() {
        let deployment = json!({"metadata": {"name": "d"}, "spec": {"template": host_pod()}});
        for (namespace, warned) in [("open", false), ("base", true), ("warn", true)] {
            let write = Write::create("apps", "v1", "deployments", namespace, deployment.clone());
            ask(&write).await.unwrap();
            assert_eq!(!write.warnings.lock().unwrap().is_empty(), warned, "{namespace}");
        }
    }

    #[tokio::test]
    async fn bad_labels_are_refused_and_stricter_ones_tell_of_existing_pods() {
        let write = |labels: Value| Write::create("", "v1", "namespaces", "", namespace("open", labels));
        let bad = ask(&write(json!({format!("{PREFIX}enforce"): "strict"}))).await.unwrap_err();
        assert_eq!(bad.code, 422);
        assert!(bad.message.contains("must be one of privileged, baseline, restricted"), "{}", bad.message);
        assert!(ask(&write(json!({format!("{PREFIX}warn-version"): "1.5"}))).await.is_err());
        let stricter = write(json!({format!("{PREFIX}enforce"): "baseline"})).update(namespace("open", json!({})));
        ask(&stricter).await.unwrap();
        assert_eq!(
            *stricter.warnings.lock().unwrap(),
            [
                "existing pods in namespace \"open\" violate the new PodSecurity enforce level \"baseline:latest\"",
                "a (and 1 other pod): host namespaces",
            ]
        );
    }
}
