//! The status of a quota, given what its namespace holds.

use serde_json::{Map, Value, json};
use skeg_controller_runtime::Timestamp;
use skeg_controller_runtime::quantity::Quantity;

use super::Quota;
use super::usage::{self, Amounts, Kind, Scope};

/// The kinds that this quota counts, each once.
pub fn kinds(hard: &Value) -> Vec<Kind> {
    let mut kinds: Vec<Kind> =
        hard.as_object().into_iter().flatten().filter_map(|(name, _)| usage::counted_by(name)).collect();
    kinds.sort();
    kinds.dedup();
    kinds
}

/// The objects of one kind in the quota's namespace.
pub struct Observed {
    pub kind: Kind,
    pub objects: Vec<Value>,
}

/// status: what may be used, and what is. What could not be observed stays as it was.
pub fn status(now: Timestamp, quota: &Quota, observed: &[Observed]) -> Value {
    let hard = quota.spec["hard"].as_object().cloned().unwrap_or_default();
    let scopes = usage::scopes(&quota.spec);
    let mut used = Map::new();
    for (name, _) in &hard {
        let kind = usage::counted_by(name);
        let seen = observed.iter().find(|o| Some(&o.kind) == kind.as_ref());
        match (seen, quota.status["used"].get(name)) {
            (Some(seen), _) => {
                used.insert(name.clone(), json!(sum(now, seen, &scopes, name).to_string()));
            }
            (None, Some(before)) => {
                used.insert(name.clone(), before.clone());
            }
            (None, None) => {}
        }
    }
    json!({"hard": hard, "used": used})
}

fn sum(now: Timestamp, seen: &Observed, scopes: &[Scope], name: &str) -> Quantity {
    let inside = |object: &&Value| scopes.iter().all(|scope| scope.holds(&seen.kind, object));
    let amount = |object: &Value| -> Option<Quantity> {
        let used: Amounts = usage::of(&seen.kind, object, now);
        used.get(name).copied()
    };
    seen.objects.iter().filter(inside).filter_map(amount).fold(Quantity::default(), Quantity::plus)
}

/// Whether two lists of amounts say the same, however they are written.
pub fn same_amounts(a: &Value, b: &Value) -> bool {
    let empty = Map::new();
    let (a, b) = (a.as_object().unwrap_or(&empty), b.as_object().unwrap_or(&empty));
    let nanos = |v: &Value| serde_json::from_value::<Quantity>(v.clone()).ok().map(|q| q.nanos);
    a.len() == b.len() && a.iter().all(|(name, amount)| b.get(name).is_some_and(|other| nanos(amount) == nanos(other)))
}
