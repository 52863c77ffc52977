//! Mutation by policies: each expression makes an apply configuration or a JSON patch of the object as the one before
//! left it.

use serde_json::Value as Json;
use skeg_cel::admission::PER_REQUEST;
use skeg_cel::{Activation, Budget, Program, Value};
use skeg_machinery::codec::json::FieldValidation;
use skeg_machinery::status::Status;
use skeg_machinery::{apply, patch};

use super::policy::{Bound, Mutation, Rules};
use super::{Engine, Invocation, Problem, cause, id_of};
use crate::admission::Attributes;
use crate::admission::conditions::{Matched, Sight, failure};
use crate::admission::webhooks::review::Question;
use crate::served::Served;

pub const NAME: &str = "MutatingAdmissionPolicy";

pub async fn run(
    engine: &Engine,
    bound: &[Bound],
    attributes: &Attributes<'_>,
    object: &mut Json,
) -> Result<(), Status> {
    let (invocations, mut problems) = engine.invocations(bound, attributes, Some(object)).await;
    let namespace = if invocations.is_empty() { None } else { engine.namespace(attributes).await? };
    let own = Served { resource: attributes.resource.clone(), kind: attributes.kind.clone() };
    for invocation in &invocations {
        let Invocation { policy, binding, served, .. } = invocation;
        let mut fail = |why: String| problems.push(Problem { policy, binding: Some(binding), why });
        let rules = match &policy.rules {
            Ok(rules) => rules,
            Err(why) => {
                fail(why.clone());
                continue;
            }
        };
        let old = engine.seen(attributes.old_object, attributes, served).await?;
        let mut seen = engine.types.convert(object.clone(), &own, served).await?;
        let turn = Turn { engine, attributes, invocation, rules, old: old.as_ref(), namespace: namespace.as_deref() };
        match turn.condition(&seen) {
            Matched::Yes => {}
            Matched::No => continue,
            Matched::Unclear(why) => {
                fail(why);
                continue;
            }
        }
        let id = id_of(invocation);
        if !attributes.reinvocation.is_due(NAME, &id) {
            continue;
        }
        let before = seen.clone();
        for mutation in &rules.mutations {
            match turn.mutated(mutation, &seen) {
                Ok(new) => seen = engine.types.complete(&new, served)?,
                Err(why) => fail(why),
            }
        }
        if seen != before {
            attributes.reinvocation.changed(NAME);
            *object = engine.types.convert(seen, served, &own).await?;
        }
        if policy.reinvoked {
            attributes.reinvocation.asked(NAME, &id);
        }
    }
    refuse(&problems, attributes, object)
}

/// The first problem of a policy that fails closed is the message; all are causes.
fn refuse(problems: &[Problem<'_>], attributes: &Attributes<'_>, object: &Json) -> Result<(), Status> {
    let mut refusal: Option<Status> = None;
    for Problem { policy, binding, why } in problems.iter().filter(|problem| !problem.policy.fails_open) {
        let message = match binding {
            Some(binding) => format!("policy '{}' with binding '{}' denied request: {why}", policy.name, binding.name),
            None => format!("policy {:?} denied request: {why}", policy.name),
        };
        let status = refusal.take().unwrap_or_else(|| {
            let mut status = attributes.forbidden(Some(object), "");
            status.message = message.clone();
            if binding.is_some() && !why.starts_with("failed to configure") {
                status.reason = "Invalid".into();
            }
            status
        });
        refusal = Some(status.with_cause(cause(&message)));
    }
    refusal.map_or(Ok(()), Err)
}

/// One policy's turn, with one of its parameters.
struct Turn<'a> {
    engine: &'a Engine,
    attributes: &'a Attributes<'a>,
    invocation: &'a Invocation<'a>,
    rules: &'a Rules,
    old: Option<&'a Json>,
    namespace: Option<&'a Json>,
}

impl Turn<'_> {
    fn with_sight<T>(&self, object: &Json, f: impl FnOnce(&Sight<'_>) -> T) -> T {
        let served = &self.invocation.served;
        let question = Question { attributes: self.attributes, served, object: Some(object), old: self.old };
        let params = self.invocation.params.as_ref();
        f(&Sight::new(&question, params, self.namespace, &self.engine.authorizer))
    }

    fn condition(&self, object: &Json) -> Matched {
        if self.rules.conditions.is_empty() {
            return Matched::Yes;
        }
        self.with_sight(object, |sight| self.rules.conditions.matched(&sight.activation()))
    }

    /// The object with one mutation applied.
    fn mutated(&self, mutation: &Mutation, object: &Json) -> Result<Json, String> {
        self.with_sight(object, |sight| {
            let mut seen = sight.activation();
            seen.set_lazy("variables", &self.rules.variables);
            match mutation {
                Mutation::Apply(expression, program) => self.applied(evaluated(expression, program, &seen)?, object),
                Mutation::JsonPatch(expression, program) => patched(evaluated(expression, program, &seen)?, object),
            }
        })
    }

    fn applied(&self, value: Value<'_>, object: &Json) -> Result<Json, String> {
        check_names(&value, "Object").map_err(|why| format!("type mismatch: {why}"))?;
        let mut configuration = value.to_json().map_err(|name| format!("invalid return type: {name}"))?;
        configuration["apiVersion"] = object["apiVersion"].clone();
        configuration["kind"] = object["kind"].clone();
        let kind = &self.invocation.served.kind;
        let ty = self.engine.types.schema(kind).ok_or_else(|| format!("Resource kind {kind} not found"))?;
        let atomic = apply::atomic_fields(&configuration, &ty);
        if !atomic.is_empty() {
            let paths = atomic.join(", ");
            return Err(format!(
                "error applying patch: invalid ApplyConfiguration: may not mutate atomic arrays, maps or structs: {paths}"
            ));
        }
        Ok(apply::merge_configuration(object, &configuration, &ty))
    }
}

/// A literal's type says where it may be: `Object.spec{}` in the field `spec` of `Object{}` only.
fn check_names(value: &Value<'_>, path: &str) -> Result<(), String> {
    let Value::Struct(name, fields) = value else { return Ok(()) };
    if **name != *path {
        return Err(format!(
            "unexpected type name {name:?}, expected {path:?}, which matches field name path from root Object type"
        ));
    }
    fields.iter().try_for_each(|(field, value)| match value {
        Value::List(list) => list.iter().try_for_each(|item| check_names(&item, &format!("{path}.{field}"))),
        value => check_names(value, &format!("{path}.{field}")),
    })
}

fn evaluated<'a>(expression: &str, program: &'a Program, seen: &Activation<'a>) -> Result<Value<'a>, String> {
    program.eval(seen, &mut Budget::new(PER_REQUEST)).map_err(|error| failure(expression, &error))
}

fn patched(value: Value<'_>, object: &Json) -> Result<Json, String> {
    let operations = value.to_json().map_err(|name| format!("type mismatch: {name} in a JSON patch"))?;
    if !operations.is_array() {
        return Err(format!("type mismatch: JSONPatch expression should return array, got {}", value.type_name()));
    }
    let body = operations.to_string();
    let patched = patch::json_patch(object, body.as_bytes(), FieldValidation::Ignore);
    patched.map(|patched| patched.value).map_err(|status| format!("JSON Patch: {}", status.message))
}
