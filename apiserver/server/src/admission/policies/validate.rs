//! Validation by policies: decisions first, then what the bindings' actions make of them.

use serde_json::Value as Json;
use skeg_cel::admission::PER_REQUEST;
use skeg_cel::{Activation, Budget, Program, Value};
use skeg_machinery::status::Status;

use super::policy::{Bound, Policy, Rules};
use super::{Engine, Problem, cause, code_of};
use crate::admission::Attributes;
use crate::admission::conditions::{Matched, Sight, failure};
use crate::admission::webhooks::review::Question;

/// The longest result of a messageExpression that is shown (celconfig.MaxEvaluatedMessageExpressionSizeBytes).
const MOST_MESSAGE: usize = 5 * 1024;

/// A validation that did not hold, or could not be evaluated under failurePolicy Fail.
struct Failure {
    reason: String,
    message: String,
    /// An audit annotation's error denies whatever the binding's actions are.
    always: bool,
}

pub async fn run(
    engine: &Engine,
    bound: &[Bound],
    attributes: &Attributes<'_>,
    object: Option<&Json>,
) -> Result<(), Status> {
    let (invocations, problems) = engine.invocations(bound, attributes, object).await;
    let mut denied: Option<(String, String)> = None;
    let mut deny = |policy: &str, binding: Option<&str>, failure: Failure| {
        let by = binding.map_or(String::new(), |binding| format!(" with binding '{binding}'"));
        let message = format!("ValidatingAdmissionPolicy '{policy}'{by} denied request: {}", failure.message);
        denied.get_or_insert((failure.reason, message));
    };
    for Problem { policy, binding, why } in problems {
        if !policy.fails_open {
            let failure = Failure { reason: String::new(), message: why, always: true };
            deny(&policy.name, binding.map(|binding| binding.name.as_str()), failure);
        }
    }
    let namespace = if invocations.is_empty() { None } else { engine.namespace(attributes).await? };
    for invocation in &invocations {
        let old = engine.seen(attributes.old_object, attributes, &invocation.served).await?;
        let object = engine.seen(object, attributes, &invocation.served).await?;
        let question = Question { attributes, served: &invocation.served, object: object.as_ref(), old: old.as_ref() };
        let sight = Sight::new(&question, invocation.params.as_ref(), namespace.as_deref(), &engine.authorizer);
        let (policy, binding) = (invocation.policy, invocation.binding);
        for failure in failures(policy, &sight) {
            for action in &binding.actions {
                if action == "Warn" && !failure.always {
                    attributes.warn(format!(
                        "Validation failed for ValidatingAdmissionPolicy '{}' with binding '{}': {}",
                        policy.name, binding.name, failure.message
                    ));
                }
            }
            if failure.always || binding.actions.iter().any(|action| action == "Deny") {
                deny(&policy.name, Some(&binding.name), failure);
            }
        }
    }
    match denied {
        None => Ok(()),
        Some((reason, message)) => Err(refusal(attributes, object, &reason, &message)),
    }
}

fn refusal(attributes: &Attributes<'_>, object: Option<&Json>, reason: &str, message: &str) -> Status {
    let mut status = attributes.forbidden(object, message);
    status.reason = if reason.is_empty() { "Invalid".into() } else { reason.to_owned() };
    status.code = code_of(&status.reason);
    status.with_cause(cause(message))
}

fn failures(policy: &Policy, sight: &Sight<'_>) -> Vec<Failure> {
    let error = |message: String| match policy.fails_open {
        true => Vec::new(),
        false => vec![Failure { reason: String::new(), message, always: false }],
    };
    let rules = match &policy.rules {
        Ok(rules) => rules,
        Err(why) => return error(why.clone()),
    };
    let mut seen = sight.activation();
    match rules.conditions.matched(&seen) {
        Matched::No => return Vec::new(),
        Matched::Unclear(_) if policy.fails_open => return Vec::new(),
        Matched::Unclear(why) => return error(why),
        Matched::Yes => {}
    }
    seen.set_lazy("variables", &rules.variables);
    let mut budget = Budget::new(PER_REQUEST);
    let mut found = validations(policy, rules, &seen, &mut budget);
    found.extend(audits(policy, rules, &seen, &mut budget));
    found
}

fn validations<'a>(policy: &Policy, rules: &'a Rules, seen: &Activation<'a>, budget: &mut Budget) -> Vec<Failure> {
    let mut found = Vec::new();
    for validation in &rules.validations {
        match validation.program.eval(seen, budget) {
            Ok(Value::Bool(true)) => {}
            Ok(_) => {
                let own = validation.message_program.as_ref().and_then(|program| message(program, seen, budget));
                let message = own.unwrap_or_else(|| match validation.message.is_empty() {
                    false => validation.message.clone(),
                    true => format!("failed expression: {}", validation.expression),
                });
                found.push(Failure { reason: validation.reason.clone(), message, always: false });
            }
            Err(_) if policy.fails_open => {}
            Err(error) => {
                let message = failure(&validation.expression, &error);
                found.push(Failure { reason: String::new(), message, always: false });
            }
        }
    }
    found
}

/// What a messageExpression says, where it says something that can be shown.
fn message<'a>(program: &'a Program, seen: &Activation<'a>, budget: &mut Budget) -> Option<String> {
    let value = program.eval(seen, budget).ok()?;
    let text = value.as_str()?.trim();
    (!text.is_empty() && text.len() <= MOST_MESSAGE && !text.contains('\n')).then(|| text.to_owned())
}

/// Audit annotations are published nowhere: there is no audit log. Their errors count all the same.
fn audits<'a>(policy: &Policy, rules: &'a Rules, seen: &Activation<'a>, budget: &mut Budget) -> Vec<Failure> {
    let mut found = Vec::new();
    for (expression, program) in &rules.audits {
        let why = match program.eval(seen, budget) {
            Ok(Value::String(_) | Value::Null) => continue,
            Ok(other) => format!(
                "valueExpression '{expression}' resulted in unsupported return type: {}. Return type must be either string or null.",
                other.type_name()
            ),
            Err(_) if policy.fails_open => continue,
            Err(error) => failure(expression, &error),
        };
        found.push(Failure { reason: String::new(), message: why, always: true });
    }
    found
}
