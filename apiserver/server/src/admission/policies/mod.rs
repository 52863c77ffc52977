//! ValidatingAdmissionPolicy and MutatingAdmissionPolicy (apiserver/pkg/admission/plugin/policy): which policies a write
//! is subject to, with which parameters, and what their expressions make of it.

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::Value;
use skeg_machinery::gvk::GroupVersionKind;
use skeg_machinery::labels::Selector;
use skeg_machinery::meta;
use skeg_machinery::status::{Status, StatusCause};
use tokio_util::sync::CancellationToken;

use super::matching::{self, is_exempt, matched};
use super::{Attributes, Plugin};
use crate::authz::Authorizer;
use crate::resources::Resources;
use crate::served::{Served, Types};

mod mutate;
mod policy;
pub mod typecheck;
mod validate;

use policy::{Binding, Bound, Matching, Policies, Policy};

/// What both plug-ins work with.
pub struct Engine {
    pub resources: Arc<dyn Resources>,
    pub types: Arc<dyn Types>,
    pub authorizer: Arc<dyn Authorizer>,
}

/// A policy that a write is subject to through a binding, once for each of its parameters.
struct Invocation<'p> {
    policy: &'p Policy,
    binding: &'p Binding,
    served: Served,
    params: Option<Value>,
}

/// What keeps a policy from being evaluated, or an evaluation that failed.
struct Problem<'p> {
    policy: &'p Policy,
    binding: Option<&'p Binding>,
    why: String,
}

impl Engine {
    async fn matches(
        &self,
        matching: &Matching,
        attributes: &Attributes<'_>,
        object: Option<&Value>,
    ) -> Result<Option<Served>, Status> {
        let namespace = matching.selectors.matches_namespace(attributes, object, &*self.resources).await;
        if let Ok(false) = namespace {
            return Ok(None);
        }
        let selected = matching.selectors.matches_object(object, attributes.old_object);
        if let Ok(false) = selected {
            return Ok(None);
        }
        let types = &*self.types;
        if matched(&matching.excluded, matching.equivalent, attributes, types).is_some() {
            return Ok(None);
        }
        let served = match matching.rules.is_empty() {
            true => Served { resource: attributes.resource.clone(), kind: attributes.kind.clone() },
            false => match matched(&matching.rules, matching.equivalent, attributes, types) {
                Some(served) => served,
                None => return Ok(None),
            },
        };
        namespace?;
        selected?;
        Ok(Some(served))
    }

    /// Everything that is to be evaluated for a write, in order, and what could not be prepared.
    async fn invocations<'p>(
        &self,
        bound: &'p [Bound],
        attributes: &Attributes<'_>,
        object: Option<&Value>,
    ) -> (Vec<Invocation<'p>>, Vec<Problem<'p>>) {
        let (mut invocations, mut problems) = (Vec::new(), Vec::new());
        for Bound { policy, bindings } in bound {
            // A policy without constraints is about nothing.
            let served = match policy.matching.rules.is_empty() {
                true => continue,
                false => self.matches(&policy.matching, attributes, object).await,
            };
            let served = match served {
                Ok(Some(served)) => served,
                Ok(None) => continue,
                Err(status) => {
                    problems.push(Problem { policy, binding: None, why: configured("policy", &status.message) });
                    continue;
                }
            };
            for binding in bindings {
                let about = match &binding.matching {
                    None => Ok(true),
                    Some(matching) => self.matches(matching, attributes, object).await.map(|found| found.is_some()),
                };
                let params = match about {
                    Ok(false) => continue,
                    Ok(true) => self.params(policy, binding, attributes).await,
                    Err(status) => Err(status.message),
                };
                match params {
                    Ok(params) => invocations.extend(params.into_iter().map(|params| Invocation {
                        policy,
                        binding,
                        served: served.clone(),
                        params,
                    })),
                    Err(why) => {
                        problems.push(Problem { policy, binding: Some(binding), why: configured("binding", &why) });
                    }
                }
            }
        }
        (invocations, problems)
    }

    /// The parameters that a binding names; one absent one where the policy has none.
    async fn params(
        &self,
        policy: &Policy,
        binding: &Binding,
        attributes: &Attributes<'_>,
    ) -> Result<Vec<Option<Value>>, String> {
        let reference = &binding.param_ref;
        let Some(kind) = policy.param_kind.as_ref().filter(|_| reference.is_object()) else { return Ok(vec![None]) };
        let text = |field: &str| reference[field].as_str().unwrap_or_default();
        let (resource, namespaced) = self
            .types
            .resource_of(kind)
            .ok_or_else(|| format!("failed to find resource referenced by paramKind: '{kind}'"))?;
        let namespace = match (namespaced, text("namespace")) {
            (false, "") => "",
            (false, _) => return Err("paramRef.namespace must not be provided for a cluster-scoped `paramKind`".into()),
            (true, "") if attributes.namespace.is_empty() => {
                return Err(
                    "cannot use namespaced paramRef in policy binding that matches cluster-scoped resources".into()
                );
            }
            (true, "") => attributes.namespace,
            (true, own) => own,
        };
        let group_resource = resource.group_resource();
        let found = match text("name") {
            "" => {
                let selector = Selector::from_label_selector(&reference["selector"]).map_err(|e| e.to_string())?;
                let mut found = self.resources.list(&group_resource, namespace).await.map_err(|s| s.message)?;
                found.retain(|object| selector.matches_value(object["metadata"].get("labels")));
                found
            }
            name => {
                let found = self.resources.get_cached(&group_resource, namespace, name).await;
                found.map_err(|status| status.message)?.into_iter().collect()
            }
        };
        if found.is_empty() && text("parameterNotFoundAction") == "Deny" {
            return Err("no params found for policy binding with `Deny` parameterNotFoundAction".into());
        }
        let mut params = Vec::with_capacity(found.len());
        for object in found {
            params.push(Some(
                self.in_version(
                    Arc::unwrap_or_clone(object),
                    &Served { resource: resource.clone(), kind: kind.clone() },
                )
                .await?,
            ));
        }
        Ok(params)
    }

    /// A stored object as `to`.
    async fn in_version(&self, object: Value, to: &Served) -> Result<Value, String> {
        let stored = object["apiVersion"].as_str().unwrap_or_default();
        let from = self.types.equivalents(&to.resource, "").into_iter().find(|s| s.kind.api_version() == stored);
        match from {
            Some(from) => self.types.convert(object, &from, to).await.map_err(|status| status.message),
            None => Ok(object),
        }
    }

    /// The namespace that expressions see; a namespace itself has none.
    async fn namespace(&self, attributes: &Attributes<'_>) -> Result<Option<Arc<Value>>, Status> {
        let itself = attributes.kind == GroupVersionKind::from_static("", "v1", "Namespace");
        if attributes.namespace.is_empty() || itself {
            return Ok(None);
        }
        matching::namespace(attributes.namespace, &*self.resources).await.map(Some)
    }

    /// An object of the request in another version.
    async fn seen(
        &self,
        object: Option<&Value>,
        attributes: &Attributes<'_>,
        served: &Served,
    ) -> Result<Option<Value>, Status> {
        let own = Served { resource: attributes.resource.clone(), kind: attributes.kind.clone() };
        match object {
            Some(object) => self.types.convert(object.clone(), &own, served).await.map(Some),
            None => Ok(None),
        }
    }
}

fn configured(what: &str, why: &str) -> String {
    format!("failed to configure {what}: {why}")
}

fn not_ready(attributes: &Attributes<'_>, object: Option<&Value>) -> Status {
    attributes.forbidden(object, "not yet ready to handle request")
}

fn cause(message: &str) -> StatusCause {
    StatusCause { message: message.to_owned(), ..StatusCause::default() }
}

/// The code of a validation's reason.
fn code_of(reason: &str) -> u16 {
    match reason {
        "Forbidden" => 403,
        "Unauthorized" => 401,
        "RequestEntityTooLarge" => 413,
        _ => 422,
    }
}

pub struct ValidatingPolicies {
    engine: Arc<Engine>,
    policies: Policies,
}

pub struct MutatingPolicies {
    engine: Arc<Engine>,
    policies: Policies,
}

impl ValidatingPolicies {
    pub fn new(engine: Arc<Engine>) -> ValidatingPolicies {
        let policies = Policies::new("validatingadmissionpolicies", "validatingadmissionpolicybindings");
        ValidatingPolicies { engine, policies }
    }

    pub async fn run(self: Arc<Self>, shutdown: CancellationToken) {
        self.policies.run(self.engine.resources.clone(), shutdown).await;
    }
}

impl MutatingPolicies {
    pub fn new(engine: Arc<Engine>) -> MutatingPolicies {
        let policies = Policies::new("mutatingadmissionpolicies", "mutatingadmissionpolicybindings");
        MutatingPolicies { engine, policies }
    }

    pub async fn run(self: Arc<Self>, shutdown: CancellationToken) {
        self.policies.run(self.engine.resources.clone(), shutdown).await;
    }
}

#[async_trait]
impl Plugin for ValidatingPolicies {
    fn name(&self) -> &'static str {
        "ValidatingAdmissionPolicy"
    }

    async fn validate(&self, attributes: &Attributes<'_>, object: Option<&Value>) -> Result<(), Status> {
        if is_exempt(attributes) {
            return Ok(());
        }
        let bound = self.policies.current().await.ok_or_else(|| not_ready(attributes, object))?;
        if bound.is_empty() {
            return Ok(());
        }
        validate::run(&self.engine, &bound, attributes, object).await
    }
}

#[async_trait]
impl Plugin for MutatingPolicies {
    fn name(&self) -> &'static str {
        mutate::NAME
    }

    async fn mutate(&self, attributes: &Attributes<'_>, object: &mut Value) -> Result<(), Status> {
        if is_exempt(attributes) {
            return Ok(());
        }
        let bound = self.policies.current().await.ok_or_else(|| not_ready(attributes, Some(object)))?;
        if bound.is_empty() {
            return Ok(());
        }
        attributes.reinvocation.begin(mutate::NAME, object);
        mutate::run(&self.engine, &bound, attributes, object).await?;
        attributes.reinvocation.end(mutate::NAME, object);
        Ok(())
    }
}

/// What tells one invocation from another over both rounds.
fn id_of(invocation: &Invocation<'_>) -> String {
    let params = invocation.params.as_ref().map(|object| format!("{}/{}", meta::namespace(object), meta::name(object)));
    format!("{}|{}|{}", invocation.policy.name, invocation.binding.name, params.unwrap_or_default())
}

#[cfg(test)]
mod tests;
