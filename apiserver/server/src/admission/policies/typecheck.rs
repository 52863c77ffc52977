//! status.typeChecking of validating policies: expressions that compile over objects of any type, tried again over each
//! type that the policy names, with warnings where they do not fit (apiserver/pkg/admission/plugin/policy/validating/
//! typechecking.go). Follows the policies and writes their status; nothing else depends on it.

use std::sync::Arc;

use futures::StreamExt;
use serde_json::{Value, json};
use skeg_cel::admission::Scope;
use skeg_cel::{Type, schema};
use skeg_machinery::gvk::{GroupResource, GroupVersionKind, GroupVersionResource};
use skeg_machinery::meta;
use tokio_util::sync::CancellationToken;

use super::Engine;
use super::policy::param_kind;
use crate::admission::conditions::built_in;
use crate::admission::items;
use crate::resources::Change;

const POLICIES: GroupResource =
    GroupResource::from_static("admissionregistration.k8s.io", "validatingadmissionpolicies");
const DEFINITIONS: GroupResource = GroupResource::from_static("apiextensions.k8s.io", "customresourcedefinitions");
/// How many types a policy is checked against.
const MOST_TYPES: usize = 10;

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field].as_str().unwrap_or_default()
}

/// Writes the status of every policy whose spec was not checked yet, until the shutdown.
pub async fn run(engine: Arc<Engine>, shutdown: CancellationToken) {
    let mut changes = engine.resources.follow(&POLICIES);
    loop {
        let change = tokio::select! {
            Some(change) = changes.next() => change,
            () = shutdown.cancelled() => return,
        };
        let Change::Applied(policy) = change else { continue };
        let generation = meta::generation(&policy);
        if policy["status"]["observedGeneration"].as_i64() == Some(generation) {
            continue;
        }
        let checking = check(&engine, &policy).await;
        let mut edit = |live: &mut Value| {
            if meta::generation(live) == generation {
                live["status"]["observedGeneration"] = json!(generation);
                live["status"]["typeChecking"] = checking.clone();
            }
            Ok(())
        };
        if let Err(status) = engine.resources.modify(&POLICIES, "", meta::name(&policy), false, &mut edit).await
            && !status.is_not_found()
        {
            tracing::warn!(
                policy = meta::name(&policy),
                why = status.message,
                "a policy's status could not be written"
            );
        }
    }
}

/// A TypeChecking: what is wrong with which expression, over which type.
async fn check(engine: &Engine, policy: &Value) -> Value {
    let spec = &policy["spec"];
    let params = match param_kind(spec) {
        Some(kind) => type_of(engine, &kind).await.map(|ty| (kind, ty)),
        None => None,
    };
    let mut types = Vec::new();
    for kind in kinds(engine, spec) {
        if let Some(ty) = type_of(engine, &kind).await {
            types.push((kind, ty));
        }
    }
    let mut warnings = Vec::new();
    for (at, validation) in items(spec, "validations").enumerate() {
        for field in ["expression", "messageExpression"] {
            let expression = text(validation, field);
            if expression.is_empty() {
                continue;
            }
            let found: String = types
                .iter()
                .filter_map(|(kind, ty)| {
                    let params = params.as_ref().map(|(_, ty)| ty.clone());
                    let why = problem(spec, expression, ty, params, field == "expression")?;
                    Some(format!("{kind}: {why}\n"))
                })
                .collect();
            if !found.is_empty() {
                warnings.push(json!({"fieldRef": format!("spec.validations[{at}].{field}"), "warning": found}));
            }
        }
    }
    if warnings.is_empty() { json!({}) } else { json!({"expressionWarnings": warnings}) }
}

/// What a compiler says of an expression over objects of one type.
fn problem(spec: &Value, expression: &str, object: &Type, params: Option<Type>, authorizer: bool) -> Option<String> {
    let mut scope = Scope::new(spec["paramKind"].is_object());
    scope.object = object.clone();
    if let (Some(declared), Some(params)) = (&mut scope.params, params) {
        *declared = params;
    }
    for variable in items(spec, "variables") {
        let ty = scope.compile(text(variable, "expression"), &[]).map_or(Type::Dyn, |program| program.result().clone());
        scope.declare(text(variable, "name"), &ty);
    }
    scope.authorizer = authorizer;
    let why = scope.compile(expression, &[]).err()?;
    Some(why.strip_prefix("compilation failed: ").unwrap_or(&why).to_owned())
}

/// The kinds that a policy's rules name outright, in order.
fn kinds(engine: &Engine, spec: &Value) -> Vec<GroupVersionKind> {
    let texts = |rule: &Value, field: &str| -> Vec<String> {
        let all: Vec<String> = items(rule, field).filter_map(Value::as_str).map(str::to_owned).collect();
        // A wildcard is about types that cannot be told here.
        if all.iter().any(|text| text == "*") { Vec::new() } else { all }
    };
    let mut found: Vec<GroupVersionKind> = Vec::new();
    for rule in items(&spec["matchConstraints"], "resourceRules") {
        for group in texts(rule, "apiGroups") {
            for version in texts(rule, "apiVersions") {
                for resource in texts(rule, "resources") {
                    let (resource, sub) = resource.split_once('/').unwrap_or((&resource, ""));
                    let named = GroupVersionResource::new(group.clone(), version.clone(), resource.to_owned());
                    let served = engine.types.equivalents(&named, sub);
                    found.extend(served.into_iter().filter(|s| s.resource == named).map(|served| served.kind));
                }
            }
        }
    }
    found.sort();
    found.dedup();
    found.truncate(MOST_TYPES);
    found
}

/// The type of objects of a kind: a custom one's by its definition's schema.
async fn type_of(engine: &Engine, kind: &GroupVersionKind) -> Option<Type> {
    if let Some(ty) = built_in(kind) {
        return Some(ty);
    }
    let (resource, _) = engine.types.resource_of(kind)?;
    let name = format!("{}.{}", resource.resource, resource.group);
    let definition = engine.resources.get_cached(&DEFINITIONS, "", &name).await.ok()??;
    let version = items(&definition["spec"], "versions").find(|version| version["name"] == *kind.version)?;
    schema::from_openapi(&version["schema"]["openAPIV3Schema"], true)
}
