//! What rules (x-kubernetes-validations) may be in a definition: expressions that compile against the schema where they
//! are, and whose estimated costs, times how often their part of an object may occur, stay within limits
//! (apiextensions-apiserver/pkg/apis/apiextensions/validation/{validation,cel_validation}.go).

use std::sync::Arc;

use serde_json::{Value, json};
use skeg_cel::escape;
use skeg_cel::schema::{Declared, MAX_REQUEST, declare};
use skeg_machinery::field::{Error, ErrorList, Path};

use super::embeds;
use crate::custom::rules::{Compiled, MEMBER, compile};
use crate::json::Read;

/// What one rule may cost, and all of a schema.
const PER_RULE: u64 = 10_000_000;
const PER_SCHEMA: u64 = 100_000_000;

/// What rules at a level of a schema see.
#[derive(Clone)]
pub struct Position {
    /// Absent where expressions above cannot see it, such as a field whose name is none in them.
    declared: Option<Arc<Declared>>,
    /// How many values of this schema an object has at most; absent where that is unbounded.
    cardinality: Option<u64>,
    /// The list above in which an element's old value is not known.
    uncorrelatable: Option<Path>,
}

impl Position {
    pub fn root(schema: &Value) -> Position {
        Position { declared: declare(schema, true).map(Arc::new), cardinality: Some(1), uncorrelatable: None }
    }

    /// Of a property of `schema`.
    pub fn property(&self, schema: &Value, name: &str) -> Position {
        let declared = self.declared.as_deref().and_then(|all| all.fields.get(&escape(name)?).cloned());
        self.inner(schema, declared)
    }

    pub fn values(&self, schema: &Value) -> Position {
        self.inner(schema, self.element())
    }

    /// Of the items of `schema`, which is at `path`.
    pub fn items(&self, schema: &Value, path: &Path) -> Position {
        let mut inner = self.inner(schema, self.element());
        if schema.text("x-kubernetes-list-type") != "map" {
            inner.uncorrelatable.get_or_insert_with(|| path.clone());
        }
        inner
    }

    fn element(&self) -> Option<Arc<Declared>> {
        self.declared.as_deref()?.element.clone()
    }

    fn inner(&self, schema: &Value, declared: Option<Arc<Declared>>) -> Position {
        let most = most_elements(schema);
        let cardinality = self.cardinality.zip(most).map(|(a, b)| a.saturating_mul(b));
        Position { declared, cardinality, uncorrelatable: self.uncorrelatable.clone() }
    }
}

/// By how much a schema multiplies what is below it; absent without a limit.
fn most_elements(schema: &Value) -> Option<u64> {
    let limit = |member: &str| schema.at(member).as_i64().map(|most| u64::try_from(most).unwrap_or(0));
    match schema.text("type") {
        "object" if !schema.at("additionalProperties").is_null() => limit("maxProperties"),
        "array" => limit("maxItems"),
        _ => Some(1),
    }
}

/// The rules found so far.
pub struct Costs {
    errors: ErrorList,
    total: u64,
    most_expensive: Vec<(Path, u64)>,
    known: bool,
}

impl Costs {
    /// `known`: single rules are not judged by their cost.
    pub fn new(known: bool) -> Costs {
        Costs { errors: ErrorList::new(), total: 0, most_expensive: Vec::new(), known }
    }

    /// The rules of one level.
    pub fn check(&mut self, path: &Path, schema: &Value, position: &Position) {
        let texts = schema.list(MEMBER);
        if texts.is_empty() {
            return;
        }
        let declared = position.declared.clone().or_else(|| declare(schema, embeds(schema)).map(Arc::new));
        let Some(declared) = declared else {
            let why = "internal error: failed to construct type information for x-kubernetes-validations rules: unable to convert structural schema to CEL declarations";
            self.errors.push(Error::internal(&path.child(MEMBER), why));
            return;
        };
        for (index, rule) in compile(schema, &declared).iter().enumerate() {
            let text = &texts[index];
            let at = path.child(MEMBER).index(index);
            let own = |compiled: &Compiled| compiled.cost;
            let cost = rule.rule.as_ref().and_then(|rule| rule.as_ref().ok()).map_or(0, own);
            let cost = cost.saturating_mul(position.cardinality.unwrap_or_else(|| cardinality(&declared)));
            self.observe(&at.child("rule"), "estimated rule cost", cost);
            if let Some(Err(why)) = &rule.rule {
                self.errors.push(Error::invalid(&at.child("rule"), shown(text), why));
            }
            match &rule.message_expression {
                Some(Ok(compiled)) => {
                    let at = at.child("messageExpression");
                    self.observe(&at, "estimated messageExpression cost", compiled.cost);
                }
                Some(Err(why)) => {
                    self.errors.push(Error::invalid(&at.child("messageExpression"), shown(text), why));
                }
                None => {}
            }
            if let (true, Some(above)) = (rule.uses_old, &position.uncorrelatable) {
                let why = format!("oldSelf cannot be used on the uncorrelatable portion of the schema within {above}");
                self.errors.push(Error::invalid(&at.child("rule"), text.text("rule"), why));
            }
            if !rule.uses_old && text.has("optionalOldSelf") {
                let why = "may not be set if oldSelf is not used in rule";
                self.errors.push(Error::invalid(&at.child("optionalOldSelf"), text.flag("optionalOldSelf"), why));
            }
        }
    }

    fn observe(&mut self, at: &Path, what: &str, cost: u64) {
        if !self.known && cost > PER_RULE {
            self.errors.push(Error::forbidden(at, exceeds(what, cost, PER_RULE)));
        }
        self.total = self.total.saturating_add(cost);
        if cost >= PER_SCHEMA / 100 {
            self.most_expensive.push((at.clone(), cost));
            self.most_expensive.sort_by_key(|(_, cost)| std::cmp::Reverse(*cost));
            self.most_expensive.truncate(4);
        }
    }

    /// Tells what was found of the schema at `path`.
    pub fn finish(self, e: &mut ErrorList, path: &Path) {
        e.extend(self.errors);
        if self.total <= PER_SCHEMA {
            return;
        }
        for (at, _) in &self.most_expensive {
            let why = "contributed to estimated rule cost total exceeding cost limit for entire OpenAPIv3 schema";
            e.push(Error::forbidden(at, why));
        }
        let what = "x-kubernetes-validations estimated rule cost total for entire OpenAPIv3 schema";
        e.push(Error::forbidden(path, exceeds(what, self.total, PER_SCHEMA)));
    }
}

/// How many values of at least this size the largest request may hold.
fn cardinality(declared: &Declared) -> u64 {
    MAX_REQUEST / (declared.min_size + 1)
}

/// A rule as upstream's internal type is shown.
fn shown(rule: &Value) -> Value {
    json!({
        "Rule": rule.text("rule"),
        "Message": rule.text("message"),
        "MessageExpression": rule.text("messageExpression"),
        "Reason": rule.opt_text("reason"),
        "FieldPath": rule.text("fieldPath"),
        "OptionalOldSelf": rule.at("optionalOldSelf"),
    })
}

fn exceeds(what: &str, cost: u64, limit: u64) -> String {
    let factor = cost as f64 / limit as f64;
    let factor = if factor > 100.0 {
        "more than 100x".to_owned()
    } else if factor < 1.5 {
        format!("{factor:.6}x")
    } else {
        format!("{factor:.1}x")
    };
    format!(
        "{what} exceeds budget by factor of {factor} (try simplifying the rule, or adding maxItems, maxProperties, and maxLength where arrays, maps, and strings are declared)"
    )
}
