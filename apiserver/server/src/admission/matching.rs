//! Which requests a webhook or a policy is about: rules, selectors of namespaces and objects, and the equivalent version
//! that a rule names where the request came in another (apiserver/pkg/admission/plugin/webhook/predicates, policy/matching).

use std::sync::Arc;

use serde_json::Value;
use skeg_machinery::gvk::{GroupResource, GroupVersionResource};
use skeg_machinery::labels::Selector;
use skeg_machinery::status::Status;

use super::{Attributes, Operation, items};
use crate::resources::Resources;
use crate::served::{Served, Types};

const NAMESPACES: GroupResource = GroupResource::from_static("", "namespaces");

/// A RuleWithOperations, and the names that a policy's rule may be about.
#[derive(Clone, Debug)]
pub struct Rule {
    operations: Vec<String>,
    groups: Vec<String>,
    versions: Vec<String>,
    /// Resource and subresource.
    resources: Vec<(String, String)>,
    scope: Scope,
    names: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scope {
    All,
    Cluster,
    Namespaced,
}

impl Rule {
    pub fn from_json(rule: &Value) -> Rule {
        let texts = |field: &str| items(rule, field).filter_map(Value::as_str).map(str::to_owned).collect();
        let split = |text: &str| {
            let (resource, subresource) = text.split_once('/').unwrap_or((text, ""));
            (resource.to_owned(), subresource.to_owned())
        };
        Rule {
            operations: texts("operations"),
            groups: texts("apiGroups"),
            versions: texts("apiVersions"),
            resources: items(rule, "resources").filter_map(Value::as_str).map(split).collect(),
            scope: match rule["scope"].as_str() {
                Some("Cluster") => Scope::Cluster,
                Some("Namespaced") => Scope::Namespaced,
                _ => Scope::All,
            },
            names: texts("resourceNames"),
        }
    }

    fn matches(&self, attributes: &Attributes<'_>, resource: &GroupVersionResource) -> bool {
        let is_namespace = resource.group.is_empty() && resource.resource == "namespaces";
        let namespaced = !is_namespace && !attributes.seen_namespace().is_empty();
        let scope = match self.scope {
            Scope::All => true,
            Scope::Cluster => !namespaced,
            Scope::Namespaced => namespaced,
        };
        let listed = |list: &[String], wanted: &str| list.iter().any(|item| item == "*" || item == wanted);
        let one = |pattern: &str, wanted: &str| pattern == "*" || pattern == wanted;
        scope
            && listed(&self.operations, attributes.operation.word())
            && listed(&self.groups, &resource.group)
            && listed(&self.versions, &resource.version)
            && self
                .resources
                .iter()
                .any(|(name, sub)| one(name, &resource.resource) && one(sub, attributes.subresource))
            && (self.names.is_empty() || self.names.iter().any(|name| name == attributes.name))
    }
}

impl Operation {
    /// As rules and reviews name it.
    pub fn word(self) -> &'static str {
        match self {
            Operation::Create => "CREATE",
            Operation::Update => "UPDATE",
            Operation::Delete => "DELETE",
            Operation::Connect => "CONNECT",
        }
    }
}

/// Which version of the request's resource the rules are about: its own where a rule names it, else, where `equivalent`,
/// that of the first rule that names another version of it.
pub fn matched(rules: &[Rule], equivalent: bool, attributes: &Attributes<'_>, types: &dyn Types) -> Option<Served> {
    if rules.iter().any(|rule| rule.matches(attributes, &attributes.resource)) {
        return Some(Served { resource: attributes.resource.clone(), kind: attributes.kind.clone() });
    }
    if !equivalent || rules.is_empty() {
        return None;
    }
    let mut others = types.equivalents(&attributes.resource, attributes.subresource);
    others.retain(|served| served.resource != attributes.resource);
    rules.iter().find_map(|rule| others.iter().find(|served| rule.matches(attributes, &served.resource)).cloned())
}

/// The selectors of a webhook or of a policy's match constraints. One that cannot be read is an error when it is used.
#[derive(Clone, Debug)]
pub struct Selectors {
    pub namespace: Result<Selector, String>,
    pub object: Result<Selector, String>,
}

impl Selectors {
    /// From `namespaceSelector` and `objectSelector`; absent ones select everything.
    pub fn from_json(value: &Value) -> Selectors {
        let read = |field: &str| match &value[field] {
            Value::Null => Ok(Selector::everything()),
            selector => Selector::from_label_selector(selector).map_err(|error| error.to_string()),
        };
        Selectors { namespace: read("namespaceSelector"), object: read("objectSelector") }
    }

    /// Whether the request's namespace is selected. Cluster-scoped requests always are.
    pub async fn matches_namespace(
        &self,
        attributes: &Attributes<'_>,
        object: Option<&Value>,
        resources: &dyn Resources,
    ) -> Result<bool, Status> {
        if attributes.seen_namespace().is_empty() && attributes.resource.resource != "namespaces" {
            return Ok(true);
        }
        let selector = self.namespace.as_ref().map_err(Status::internal_error)?;
        if selector.is_empty() {
            return Ok(true);
        }
        let writes = matches!(attributes.operation, Operation::Create | Operation::Update);
        if attributes.resource.resource == "namespaces"
            && attributes.subresource.is_empty()
            && writes
            && let Some(object) = object
        {
            return Ok(selector.matches_value(object.get("metadata").and_then(|m| m.get("labels"))));
        }
        let namespace = namespace(attributes.seen_namespace(), resources).await?;
        Ok(selector.matches_value(namespace.get("metadata").and_then(|m| m.get("labels"))))
    }

    /// Whether the object, or the one that it replaces, is selected.
    pub fn matches_object(&self, object: Option<&Value>, old: Option<&Value>) -> Result<bool, Status> {
        let selector = self.object.as_ref().map_err(Status::internal_error)?;
        if selector.is_empty() {
            return Ok(true);
        }
        let selected = |object: Option<&Value>| {
            let metadata = object.and_then(|object| object.get("metadata"));
            metadata.is_some_and(|metadata| selector.matches_value(metadata.get("labels")))
        };
        Ok(selected(object) || selected(old))
    }
}

/// A namespace, from the cache or, when it is too new for that, from the store.
pub async fn namespace(name: &str, resources: &dyn Resources) -> Result<Arc<Value>, Status> {
    match resources.get_cached(&NAMESPACES, "", name).await? {
        Some(namespace) => Ok(namespace),
        None => resources.get(&NAMESPACES, "", name).await.map(Arc::new),
    }
}

/// Configurations of admission itself are not admitted by it, or nobody could repair them.
pub fn is_exempt(attributes: &Attributes<'_>) -> bool {
    attributes.kind.group == "admissionregistration.k8s.io"
        && matches!(
            &*attributes.kind.kind,
            "ValidatingWebhookConfiguration"
                | "MutatingWebhookConfiguration"
                | "ValidatingAdmissionPolicy"
                | "ValidatingAdmissionPolicyBinding"
                | "MutatingAdmissionPolicy"
                | "MutatingAdmissionPolicyBinding"
        )
}

#[cfg(test)]
mod tests;
