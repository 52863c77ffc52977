//! JSON merge patches between two values.

use serde_json::{Map, Value};

/// The merge patch that turns `old` into `new`; `None` if they are equal. Lists are replaced whole; what `new` lacks
/// becomes null.
pub fn merge_patch(old: &Value, new: &Value) -> Option<Value> {
    if old == new {
        return None;
    }
    let (Value::Object(before), Value::Object(after)) = (old, new) else {
        return Some(new.clone());
    };
    let mut patch = Map::new();
    for (field, value) in after {
        match before.get(field) {
            Some(previous) => {
                if let Some(change) = merge_patch(previous, value) {
                    patch.insert(field.clone(), change);
                }
            }
            None => {
                patch.insert(field.clone(), value.clone());
            }
        }
    }
    for field in before.keys() {
        if !after.contains_key(field) {
            patch.insert(field.clone(), Value::Null);
        }
    }
    Some(Value::Object(patch))
}

#[cfg(test)]
mod tests {
    use super::merge_patch;
    use serde_json::json;

    #[test]
    fn equal_values_need_no_patch() {
        assert_eq!(merge_patch(&json!({"a": [1]}), &json!({"a": [1]})), None);
    }

    #[test]
    fn removed_fields_become_null_and_lists_are_replaced() {
        let patch =
            merge_patch(&json!({"a": 1, "b": {"c": 2, "d": 3}, "l": [1]}), &json!({"b": {"c": 4, "d": 3}, "l": [2]}));
        assert_eq!(patch, Some(json!({"b": {"c": 4}, "l": [2], "a": null})));
    }
}
