//! LimitRanger: defaults and bounds of a namespace's LimitRanges for containers, pods and claims (upstream
//! plugin/pkg/admission/limitranger).

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::{Value, json};
use skeg_machinery::gvk::GroupResource;
use skeg_machinery::meta;
use skeg_machinery::quantity::Quantity;
use skeg_machinery::status::Status;

use super::pod_resources::{self, ResourceList};
use super::{Attributes, Operation, Plugin, aggregate, items, items_mut};
use crate::resources::Resources;

const RANGES: GroupResource = GroupResource::from_static("", "limitranges");
const ANNOTATION: &str = "kubernetes.io/limit-ranger";

pub struct LimitRanger {
    pub resources: Arc<dyn Resources>,
}

#[async_trait]
impl Plugin for LimitRanger {
    fn name(&self) -> &'static str {
        "LimitRanger"
    }

    async fn mutate(&self, attributes: &Attributes<'_>, pod: &mut Value) -> Result<(), Status> {
        if applies(attributes) && attributes.is_any("", "pods") {
            for range in self.resources.list(&RANGES, attributes.namespace).await? {
                fill_in(&range, pod);
            }
        }
        Ok(())
    }

    async fn validate(&self, attributes: &Attributes<'_>, object: Option<&Value>) -> Result<(), Status> {
        let Some(object) = object.filter(|_| applies(attributes)) else { return Ok(()) };
        for range in self.resources.list(&RANGES, attributes.namespace).await? {
            let problems = problems(&range, object, attributes.is_any("", "pods"));
            if !problems.is_empty() {
                return Err(attributes.forbidden(Some(object), aggregate(&problems)));
            }
        }
        Ok(())
    }
}

fn applies(attributes: &Attributes<'_>) -> bool {
    let going = attributes.old_object.is_some_and(|old| !meta::deletion_timestamp(old).is_empty());
    let written = match attributes.operation {
        Operation::Create => attributes.is("", "pods") || attributes.is("", "persistentvolumeclaims"),
        Operation::Update => {
            attributes.is("", "persistentvolumeclaims")
                || (attributes.is_any("", "pods") && attributes.subresource == "resize")
        }
        _ => false,
    };
    written && !going
}

/// Gives containers what the range has for those that say nothing, and notes it in an annotation.
fn fill_in(range: &Value, pod: &mut Value) {
    let (mut requests, mut limits) = (json!({}), json!({}));
    for limit in items(&range["spec"], "limits").filter(|limit| limit["type"] == "Container") {
        for (name, value) in limit["defaultRequest"].as_object().into_iter().flatten() {
            requests[name] = value.clone();
        }
        for (name, value) in limit["default"].as_object().into_iter().flatten() {
            limits[name] = value.clone();
        }
    }
    let mut notes = Vec::new();
    for (list, what) in [("containers", "container"), ("initContainers", "init container")] {
        for container in items_mut(&mut pod["spec"], list) {
            let name = container["name"].as_str().unwrap_or_default().to_owned();
            for (field, word, defaults) in [("requests", "request", &requests), ("limits", "limit", &limits)] {
                let mut set: Vec<&str> = Vec::new();
                for (resource, value) in defaults.as_object().into_iter().flatten() {
                    if container["resources"][field][resource].is_null() {
                        container["resources"][field][resource] = value.clone();
                        set.push(resource);
                    }
                }
                if !set.is_empty() {
                    set.sort_unstable();
                    notes.push(format!("{} {word} for {what} {name}", set.join(", ")));
                }
            }
        }
    }
    if !notes.is_empty() {
        meta::set_annotation(pod, ANNOTATION, &format!("LimitRanger plugin set: {}", notes.join("; ")));
    }
}

fn problems(range: &Value, object: &Value, is_pod: bool) -> Vec<String> {
    let mut problems = Vec::new();
    for limit in items(&range["spec"], "limits") {
        let kind = limit["type"].as_str().unwrap_or_default();
        let mut check = |requests: &ResourceList, limits: &ResourceList| {
            let bounds = Bounds { kind, requests, limits };
            bounds.check(limit, &mut problems);
        };
        match kind {
            "Container" if is_pod => {
                for list in ["containers", "initContainers"] {
                    for container in items(&object["spec"], list) {
                        let of = |field: &str| pod_resources::list(&container["resources"][field]);
                        check(&of("requests"), &of("limits"));
                    }
                }
            }
            "Pod" if is_pod => {
                check(&pod_resources::total(object, "requests"), &pod_resources::total(object, "limits"))
            }
            "PersistentVolumeClaim" if !is_pod => {
                check(&pod_resources::list(&object["spec"]["resources"]["requests"]), &ResourceList::new());
            }
            _ => {}
        }
    }
    problems
}

struct Bounds<'a> {
    kind: &'a str,
    requests: &'a ResourceList,
    limits: &'a ResourceList,
}

impl Bounds<'_> {
    fn check(&self, limit: &Value, problems: &mut Vec<String>) {
        for (name, least) in pod_resources::list(&limit["min"]) {
            problems.extend(self.min(&name, &least));
        }
        for (name, most) in pod_resources::list(&limit["max"]) {
            let claim = self.kind == "PersistentVolumeClaim";
            problems.extend(if claim { self.max_request(&name, &most) } else { self.max(&name, &most) });
        }
        for (name, ratio) in pod_resources::list(&limit["maxLimitRequestRatio"]) {
            problems.extend(self.ratio(&name, &ratio));
        }
    }

    fn min(&self, name: &str, least: &Quantity) -> Option<String> {
        let told = format!("minimum {name} usage per {} is {least}", self.kind);
        let Some(request) = self.requests.get(name) else { return Some(format!("{told}.  No request is specified")) };
        if request.nanos() < least.nanos() {
            return Some(format!("{told}, but request is {request}"));
        }
        let limit = self.limits.get(name).filter(|limit| limit.nanos() < least.nanos())?;
        Some(format!("{told}, but limit is {limit}"))
    }

    fn max_request(&self, name: &str, most: &Quantity) -> Option<String> {
        let told = format!("maximum {name} usage per {} is {most}", self.kind);
        let Some(request) = self.requests.get(name) else { return Some(format!("{told}.  No request is specified")) };
        (request.nanos() > most.nanos()).then(|| format!("{told}, but request is {request}"))
    }

    fn max(&self, name: &str, most: &Quantity) -> Option<String> {
        let told = format!("maximum {name} usage per {} is {most}", self.kind);
        let Some(limit) = self.limits.get(name) else { return Some(format!("{told}.  No limit is specified")) };
        if limit.nanos() > most.nanos() {
            return Some(format!("{told}, but limit is {limit}"));
        }
        let request = self.requests.get(name).filter(|request| request.nanos() > most.nanos())?;
        Some(format!("{told}, but request is {request}"))
    }

    fn ratio(&self, name: &str, most: &Quantity) -> Option<String> {
        let told = format!("{name} max limit to request ratio per {} is {most}", self.kind);
        let Some(request) = self.requests.get(name).filter(|request| !request.is_zero()) else {
            return Some(format!("{told}, but no request is specified or request is 0"));
        };
        let Some(limit) = self.limits.get(name).filter(|limit| !limit.is_zero()) else {
            return Some(format!("{told}, but no limit is specified or limit is 0"));
        };
        let observed = limit.as_f64() / request.as_f64();
        (observed > most.as_f64()).then(|| format!("{told}, but provided ratio is {observed:.6}"))
    }
}

#[cfg(test)]
mod tests {
    use super::super::fake::{Memory, Write};
    use super::*;

    async fn admit(limits: Value, write: Write) -> Result<Value, Status> {
        let range = json!({"metadata": {"namespace": "team", "name": "l"}, "spec": {"limits": [limits]}});
        let plugin = LimitRanger { resources: Arc::new(Memory::with(vec![("", "limitranges", range)])) };
        let mut object = write.object.clone();
        plugin.mutate(&write.attributes(), &mut object).await?;
        plugin.validate(&write.attributes(), Some(&object)).await?;
        Ok(object)
    }

    fn pod(resources: Value) -> Write {
        Write::pod(
            "team",
            json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "resources": resources}]}}),
        )
    }

    #[tokio::test]
    async fn containers_get_the_defaults_and_a_note() {
        let limits = json!({"type": "Container", "default": {"cpu": "500m"}, "defaultRequest": {"cpu": "100m", "memory": "1Mi"}});
        let pod = admit(limits, pod(json!({"requests": {"memory": "5Mi"}}))).await.unwrap();
        let resources = &pod["spec"]["containers"][0]["resources"];
        assert_eq!(*resources, json!({"requests": {"memory": "5Mi", "cpu": "100m"}, "limits": {"cpu": "500m"}}));
        assert_eq!(
            meta::annotation(&pod, ANNOTATION),
            Some("LimitRanger plugin set: cpu request for container c; cpu limit for container c")
        );
    }

    #[tokio::test]
    async fn bounds_are_told_in_upstreams_words() {
        for (limits, resources, expect) in [
            (
                json!({"type": "Container", "max": {"cpu": "1"}}),
                json!({"limits": {"cpu": "2"}}),
                "maximum cpu usage per Container is 1, but limit is 2",
            ),
            (
                json!({"type": "Pod", "max": {"cpu": "1"}}),
                json!({}),
                "maximum cpu usage per Pod is 1.  No limit is specified",
            ),
            (
                json!({"type": "Container", "min": {"memory": "1Mi"}}),
                json!({"requests": {"memory": "1Ki"}}),
                "minimum memory usage per Container is 1Mi, but request is 1Ki",
            ),
            (
                json!({"type": "Container", "maxLimitRequestRatio": {"cpu": "2"}}),
                json!({"requests": {"cpu": "100m"}, "limits": {"cpu": "300m"}}),
                "cpu max limit to request ratio per Container is 2, but provided ratio is 3.000000",
            ),
        ] {
            let refused = admit(limits, pod(resources)).await.unwrap_err();
            assert_eq!(refused.message, format!("pods \"p\" is forbidden: {expect}"));
        }
        admit(json!({"type": "Container", "max": {"cpu": "1"}}), pod(json!({"limits": {"cpu": "1"}}))).await.unwrap();
    }

    #[tokio::test]
    async fn a_claim_has_bounds_too() {
        let claim = Write::create(
            "",
            "v1",
            "persistentvolumeclaims",
            "team",
            json!({"metadata": {"name": "c"}, "spec": {"resources": {"requests": {"storage": "5Gi"}}}}),
        );
        let refused =
            admit(json!({"type": "PersistentVolumeClaim", "max": {"storage": "1Gi"}}), claim).await.unwrap_err();
        assert!(
            refused.message.ends_with("maximum storage usage per PersistentVolumeClaim is 1Gi, but request is 5Gi")
        );
    }
}
