//! Running the rules of a schema on an object, in one walk over both.
//!
//! Ratcheting (KEP-4008): a rule that does not ask for the old value and fails on a part that did not change is a warning.

use std::collections::BTreeMap;

use serde_json::Value;
use skeg_cel::schema::{Declared, declare};
use skeg_cel::{Activation, Budget, EvalError, PER_CALL, Type, Value as CelValue, admission, escape};
use skeg_machinery::field::{Error, ErrorList, ErrorType, Path};
use skeg_machinery::structural::{Node, Old};
use skeg_machinery::text::quote;

use super::{Compiled, MEMBER, OLD_SELF, Rule, SELF, compile};
use crate::json::Read;

/// The longest message that an expression may make, in bytes.
const LONGEST_MESSAGE: usize = 5 * 1024;
const OUT_OF_BUDGET: &str =
    "validation failed due to running out of cost budget, no further validation rules will be run";

/// The rules of a schema and of all beneath it.
pub struct Validator {
    rules: Vec<Rule>,
    ty: Type,
    /// The schema's own type, which errors show for a value.
    kind: String,
    properties: BTreeMap<String, Validator>,
    additional: Option<Box<Validator>>,
    items: Option<Box<Validator>>,
    /// By which elements of a list are told apart; only then have they old values.
    keys: Option<Vec<String>>,
}

/// No further rule may be run.
struct Stop;

impl Validator {
    /// Of the schema of a whole object; `None` when it has no rules.
    pub fn new(schema: &Value) -> Option<Validator> {
        if !has_rules(schema) {
            return None;
        }
        build(schema, &declare(schema, true)?)
    }
}

/// Whether a schema or anything in it has rules.
pub fn has_rules(schema: &Value) -> bool {
    !schema.list(MEMBER).is_empty()
        || schema.as_object().is_some_and(|members| {
            let properties = members.get("properties").and_then(Value::as_object);
            let below = ["items", "additionalProperties"].iter().filter_map(|name| members.get(*name));
            below.chain(properties.into_iter().flat_map(|all| all.values())).any(has_rules)
        })
}

fn build(schema: &Value, declared: &Declared) -> Option<Validator> {
    let below = |name: &str| {
        let schema = schema.as_object()?.get(name).filter(|schema| schema.is_object())?;
        build(schema, declared.element.as_deref()?).map(Box::new)
    };
    let mut properties = BTreeMap::new();
    for (name, schema) in schema["properties"].as_object().into_iter().flatten() {
        let own;
        let declared = match escape(name) {
            // A field of unknown type is not looked at.
            Some(escaped) => declared.fields.get(&escaped).map(|field| &**field),
            None => {
                own = declare(schema, false);
                own.as_ref()
            }
        };
        if let Some(validator) = declared.and_then(|declared| build(schema, declared)) {
            properties.insert(name.clone(), validator);
        }
    }
    let keys = (schema.text("x-kubernetes-list-type") == "map")
        .then(|| schema.texts("x-kubernetes-list-map-keys").into_iter().map(str::to_owned).collect());
    let validator = Validator {
        rules: compile(schema, declared),
        ty: declared.ty.clone(),
        kind: schema.text("type").to_owned(),
        additional: below("additionalProperties"),
        items: below("items"),
        properties,
        keys,
    };
    let used = !validator.rules.is_empty()
        || !validator.properties.is_empty()
        || validator.additional.is_some()
        || validator.items.is_some();
    used.then_some(validator)
}

/// A walk over one object.
pub struct Run<'a> {
    left: u64,
    errors: ErrorList,
    warn: &'a dyn Fn(String),
}

/// What ratcheting knows of a value: what stood in its place, and the nearest value above it of which that is known.
#[derive(Clone, Copy, Default)]
struct Place<'a> {
    old: Option<Old<'a>>,
    above: Option<(Old<'a>, &'a Value)>,
}

impl<'a> Place<'a> {
    fn unchanged(self, value: &Value) -> bool {
        match (self.old, self.above) {
            (Some(old), _) => old.unchanged(value),
            (None, Some((old, value))) => old.unchanged(value),
            (None, None) => false,
        }
    }

    fn member(self, of: &'a Value, name: &str) -> Place<'a> {
        match self.old {
            None => self,
            // Both objects are of the version that was asked for.
            Some(_) if self.above.is_none() && matches!(name, "apiVersion" | "kind") => Place::default(),
            Some(old) => Place { old: old.key(name), above: Some((old, of)) },
        }
    }

    fn element(self, of: &'a Value, item: &Value) -> Place<'a> {
        match self.old {
            None => self,
            Some(old) => Place { old: old.index(item), above: Some((old, of)) },
        }
    }
}

impl<'a> Run<'a> {
    /// What the rules forbid. `warn` is told what was let pass because it was so before.
    pub fn check(
        validator: &'a Validator,
        object: &'a Value,
        old: Option<(&'a Value, &'a Node)>,
        warn: &'a dyn Fn(String),
    ) -> ErrorList {
        let mut run = Run { left: admission::PER_REQUEST, errors: ErrorList::new(), warn };
        let place = Place { old: old.map(|(value, node)| Old { value, node }), above: None };
        // Stopped or not, what was found is the answer.
        let _ = run.value(validator, &Path::root(), object, old.map(|(value, _)| value), place);
        run.errors
    }

    fn value(
        &mut self,
        validator: &'a Validator,
        path: &Path,
        value: &'a Value,
        old: Option<&'a Value>,
        place: Place<'a>,
    ) -> Result<(), Stop> {
        if value.is_null() {
            return Ok(());
        }
        self.rules(validator, path, value, old.filter(|old| !old.is_null()), place)?;
        match value {
            Value::Array(items) => {
                let Some(below) = &validator.items else { return Ok(()) };
                for (index, item) in items.iter().enumerate() {
                    let old = old.and_then(|old| same_element(validator.keys.as_deref()?, old, item));
                    self.value(below, &path.index(index), item, old, place.element(value, item))?;
                }
            }
            Value::Object(members) => {
                for (name, member) in members {
                    let (below, path) = match (&validator.additional, validator.properties.get(name)) {
                        (Some(below), _) => (&**below, path.key(name)),
                        (None, Some(below)) => (below, path.child(name)),
                        (None, None) => continue,
                    };
                    let old = old.and_then(|old| old.as_object()?.get(name));
                    self.value(below, &path, member, old, place.member(value, name))?;
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn invalid(&mut self, path: &Path, validator: &Validator, detail: impl Into<String>) {
        self.errors.push(Error::invalid(path, validator.kind.as_str(), detail));
    }

    fn rules(
        &mut self,
        validator: &'a Validator,
        path: &Path,
        value: &'a Value,
        old: Option<&'a Value>,
        place: Place<'a>,
    ) -> Result<(), Stop> {
        if validator.rules.is_empty() {
            return Ok(());
        }
        if self.left == 0 {
            self.invalid(path, validator, OUT_OF_BUDGET);
            return Err(Stop);
        }
        for rule in &validator.rules {
            let compiled = match &rule.rule {
                Some(Ok(compiled)) => compiled,
                Some(Err(why)) => {
                    self.invalid(path, validator, format!("rule compile error: {why}"));
                    continue;
                }
                None => continue,
            };
            // A rule about a change needs something to compare with, unless it says otherwise.
            if rule.uses_old && old.is_none() && !rule.optional_old {
                continue;
            }
            let mut activation = Activation::default();
            activation.set(SELF, CelValue::typed(value, &validator.ty));
            let before = old.map(|old| CelValue::typed(old, &validator.ty));
            if rule.optional_old {
                activation.set(OLD_SELF, CelValue::Optional(before.map(Into::into)));
            } else if let Some(before) = before {
                activation.set(OLD_SELF, before);
            }
            if self.holds(validator, path, rule, compiled, &activation)? {
                continue;
            }
            let error = self.failure(validator, path, value, rule, &activation)?;
            if !rule.uses_old && place.unchanged(value) {
                (self.warn)(error.to_string());
            } else {
                self.errors.push(error);
            }
        }
        Ok(())
    }

    /// Whether nothing more is to be said of a rule: it holds, or could not be evaluated.
    fn holds(
        &mut self,
        validator: &Validator,
        path: &Path,
        rule: &Rule,
        compiled: &'a Compiled,
        activation: &Activation<'a>,
    ) -> Result<bool, Stop> {
        let mut budget = Budget::new(PER_CALL);
        let outcome = compiled.program.eval(activation, &mut budget);
        match self.left.checked_sub(budget.spent()) {
            Some(left) => self.left = left,
            None => {
                self.invalid(path, validator, OUT_OF_BUDGET);
                return Err(Stop);
            }
        }
        let shown = &rule.shown;
        match outcome {
            Ok(value) => return Ok(value.as_bool() == Some(true)),
            Err(EvalError::OverBudget) => {
                let error = EvalError::OverBudget;
                let detail = format!(
                    "'{error}': no further validation rules will be run due to call cost exceeds limit for rule: {shown}"
                );
                self.invalid(path, validator, detail);
                return Err(Stop);
            }
            Err(EvalError::Failed(why)) if why.starts_with("no such overload") => {
                let detail = format!(
                    "'{why}': call arguments did not match a supported operator, function or macro signature for rule: {shown}"
                );
                self.invalid(path, validator, detail);
            }
            Err(EvalError::Failed(why)) => self.invalid(path, validator, format!("{why} evaluating rule: {shown}")),
        }
        Ok(true)
    }

    fn failure(
        &mut self,
        validator: &Validator,
        path: &Path,
        value: &Value,
        rule: &'a Rule,
        activation: &Activation<'a>,
    ) -> Result<Error, Stop> {
        let at = rule.at.as_ref().map_or_else(|| path.clone(), |below| path.child(below));
        let mut detail = None;
        if let Some(Ok(compiled)) = &rule.message_expression {
            detail = self.message(validator, &at, compiled, activation)?;
        }
        let detail = detail.unwrap_or_else(|| match &rule.message {
            Some(message) => message.clone(),
            None => format!("failed rule: {}", rule.shown),
        });
        let container = matches!(validator.kind.as_str(), "object" | "array");
        let shown = (!container).then(|| value.clone());
        let error = |error_type, value, detail| Error { error_type, field: at.to_string(), value, detail };
        Ok(match rule.reason.as_deref() {
            Some("FieldValueForbidden") => Error::forbidden(&at, detail),
            Some("FieldValueRequired") => Error::required(&at, detail),
            Some("FieldValueDuplicate") => error(ErrorType::Duplicate, shown, String::new()),
            _ => error(ErrorType::Invalid, shown, detail),
        })
    }

    /// What a message expression makes; `None` where that is no message.
    fn message(
        &mut self,
        validator: &Validator,
        at: &Path,
        compiled: &'a Compiled,
        activation: &Activation<'a>,
    ) -> Result<Option<String>, Stop> {
        let mut budget = Budget::new(PER_CALL);
        let outcome = compiled.program.eval(activation, &mut budget);
        let Some(left) = self.left.checked_sub(budget.spent()) else {
            let detail = "messageExpression evaluation failed due to running out of cost budget, no further validation rules will be run";
            self.invalid(at, validator, detail);
            return Err(Stop);
        };
        self.left = left;
        if outcome.as_ref().is_err_and(|error| *error == EvalError::OverBudget) {
            let detail = format!(
                "no further validation rules will be run due to call cost exceeds limit for messageExpression: {}",
                quote(&compiled.text)
            );
            self.invalid(at, validator, detail);
            return Err(Stop);
        }
        let text = outcome.ok().and_then(|value| value.as_str().map(|text| text.trim().to_owned()));
        Ok(text.filter(|text| !text.is_empty() && text.len() <= LONGEST_MESSAGE && !text.contains('\n')))
    }
}

/// The element of a list before the update that has the same keys.
fn same_element<'a>(keys: &[String], old: &'a Value, item: &Value) -> Option<&'a Value> {
    let same = |old: &&Value| keys.iter().all(|key| old.get(key) == item.get(key));
    old.as_array()?.iter().find(same)
}
