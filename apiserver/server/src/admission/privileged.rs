//! Refuses privileged containers where the cluster does not allow them (upstream's --allow-privileged, which its pod
//! validation looks at): in pods, and in the templates of what makes pods.

use async_trait::async_trait;
use serde_json::Value;
use skeg_machinery::field::{Error, ErrorList, Path};
use skeg_machinery::gvk::GroupKind;
use skeg_machinery::status::Status;

use super::{Attributes, Operation, Plugin, items};

pub struct Unprivileged;

/// Where the pod spec is in an object of a resource.
fn spec_path(group: &str, resource: &str) -> Option<&'static [&'static str]> {
    match (group, resource) {
        ("", "pods") => Some(&["spec"]),
        ("", "podtemplates") => Some(&["template", "spec"]),
        ("", "replicationcontrollers")
        | ("apps", "deployments" | "daemonsets" | "replicasets" | "statefulsets")
        | ("batch", "jobs") => Some(&["spec", "template", "spec"]),
        ("batch", "cronjobs") => Some(&["spec", "jobTemplate", "spec", "template", "spec"]),
        _ => None,
    }
}

fn privileged(object: &Value, path: &[&'static str]) -> ErrorList {
    let mut errors = ErrorList::new();
    let (mut spec, mut at) = (object, Path::new(path[0]));
    for (i, name) in path.iter().enumerate() {
        spec = &spec[*name];
        if i > 0 {
            at = at.child(name);
        }
    }
    for list in ["initContainers", "containers", "ephemeralContainers"] {
        for (i, container) in items(spec, list).enumerate() {
            if container["securityContext"]["privileged"] == true {
                let field = at.child(list).index(i).child("securityContext").child("privileged");
                errors.0.push(Error::forbidden(&field, "disallowed by cluster policy"));
            }
        }
    }
    errors
}

#[async_trait]
impl Plugin for Unprivileged {
    fn name(&self) -> &'static str {
        "AllowPrivileged"
    }

    async fn validate(&self, attributes: &Attributes<'_>, object: Option<&Value>) -> Result<(), Status> {
        let writes = matches!(attributes.operation, Operation::Create | Operation::Update);
        let resource = &attributes.resource;
        let (Some(path), Some(object), true) = (spec_path(&resource.group, &resource.resource), object, writes) else {
            return Ok(());
        };
        if !matches!(attributes.subresource, "" | "ephemeralcontainers") {
            return Ok(());
        }
        let errors = privileged(object, path);
        if errors.0.is_empty() {
            return Ok(());
        }
        let kind = GroupKind::new(attributes.kind.group.clone(), attributes.kind.kind.clone());
        Err(Status::invalid(&kind, object["metadata"]["name"].as_str().unwrap_or(attributes.name), &errors))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn privileged_containers_are_found_wherever_pods_are_described() {
        let pod = |privileged: bool| json!({"containers": [{"name": "a"}, {"name": "b", "securityContext": {"privileged": privileged}}]});
        let fields = |object: &Value, group: &str, resource: &str| -> Vec<String> {
            let errors = privileged(object, spec_path(group, resource).unwrap());
            errors.0.iter().map(|error| error.field.to_string()).collect()
        };
        assert_eq!(fields(&json!({"spec": pod(true)}), "", "pods"), ["spec.containers[1].securityContext.privileged"]);
        assert!(fields(&json!({"spec": pod(false)}), "", "pods").is_empty());
        let template = json!({"spec": {"template": {"spec": pod(true)}}});
        assert_eq!(
            fields(&template, "apps", "deployments"),
            ["spec.template.spec.containers[1].securityContext.privileged"]
        );
    }
}
