//! Admission: plug-ins that change or refuse a write after it is authorized and before it is stored.

use async_trait::async_trait;
use serde_json::Value;
use skeg_machinery::gvk::{GroupVersionKind, GroupVersionResource};
use skeg_machinery::status::Status;

use crate::request::UserInfo;

pub mod certificates;
pub mod chain;
pub mod conditions;
#[cfg(test)]
pub mod fake;
pub mod limit_ranger;
pub mod matching;
pub mod namespace_lifecycle;
pub mod node_restriction;
pub mod pod_defaults;
pub mod pod_resources;
pub mod pod_security;
pub mod policies;
pub mod priority;
pub mod privileged;
pub mod resource_quota;
pub mod service_account;
pub mod service_addresses;
pub mod storage;
pub mod webhooks;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    Create,
    Update,
    Delete,
    Connect,
}

/// One write, as a plug-in sees it. `object` is of the request's version.
pub struct Attributes<'a> {
    pub operation: Operation,
    pub kind: GroupVersionKind,
    pub resource: GroupVersionResource,
    pub subresource: &'a str,
    pub namespace: &'a str,
    pub name: &'a str,
    pub user: &'a UserInfo,
    pub dry_run: bool,
    pub old_object: Option<&'a Value>,
    /// Create, update, patch or delete options.
    pub options: &'a Value,
    pub warnings: &'a std::sync::Mutex<Vec<String>>,
    /// What the plug-ins that may be asked again know of this write.
    pub reinvocation: chain::Reinvocation,
}

#[async_trait]
pub trait Plugin: Send + Sync + 'static {
    fn name(&self) -> &'static str;
    async fn mutate(&self, _attributes: &Attributes<'_>, _object: &mut Value) -> Result<(), Status> {
        Ok(())
    }
    /// The first half of a delete, which has no object to change.
    async fn before_delete(&self, _attributes: &Attributes<'_>) -> Result<(), Status> {
        Ok(())
    }
    async fn validate(&self, _attributes: &Attributes<'_>, _object: Option<&Value>) -> Result<(), Status> {
        Ok(())
    }
}

impl Attributes<'_> {
    /// Whether this write is of the resource itself, in whatever version, and not of a subresource.
    pub fn is(&self, group: &str, resource: &str) -> bool {
        self.subresource.is_empty() && self.is_any(group, resource)
    }

    /// Whether this write is of the resource or of one of its subresources.
    pub fn is_any(&self, group: &str, resource: &str) -> bool {
        self.resource.group == group && self.resource.resource == resource
    }

    /// The namespace that a request is in; that of a namespace itself is its own (upstream's RequestInfo).
    pub fn seen_namespace(&self) -> &str {
        let of_itself = self.namespace.is_empty() && self.is_any("", "namespaces");
        if of_itself { self.name } else { self.namespace }
    }

    pub fn warn(&self, warning: impl Into<String>) {
        self.warnings.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).push(warning.into());
    }

    /// The 403 that a plug-in answers with (apiserver/pkg/admission/errors.go).
    pub fn forbidden(&self, object: Option<&Value>, why: impl std::fmt::Display) -> Status {
        let text = |field: &str| object.and_then(|o| o["metadata"][field].as_str()).filter(|s| !s.is_empty());
        let name = text("name").or_else(|| text("generateName")).unwrap_or(self.name);
        Status::forbidden(&self.resource.group_resource(), name, why)
    }
}

/// Several problems as Go joins them.
pub(crate) fn aggregate(problems: &[String]) -> String {
    let mut distinct: Vec<&str> = Vec::new();
    for problem in problems {
        if !distinct.contains(&problem.as_str()) {
            distinct.push(problem);
        }
    }
    if distinct.len() == 1 { distinct[0].to_owned() } else { format!("[{}]", distinct.join(", ")) }
}

/// The elements of a list field, or nothing.
pub(crate) fn items<'a>(value: &'a Value, field: &str) -> impl Iterator<Item = &'a Value> + use<'a> {
    value[field].as_array().into_iter().flatten()
}

/// The elements of a list field for change, or nothing.
pub(crate) fn items_mut<'a>(value: &'a mut Value, field: &str) -> impl Iterator<Item = &'a mut Value> + use<'a> {
    value.get_mut(field).and_then(Value::as_array_mut).into_iter().flatten()
}

/// The list field, made when absent.
pub(crate) fn list_mut<'a>(value: &'a mut Value, field: &str) -> &'a mut Vec<Value> {
    if !value[field].is_array() {
        value[field] = Value::Array(Vec::new());
    }
    value[field].as_array_mut().expect("it is an array now")
}
