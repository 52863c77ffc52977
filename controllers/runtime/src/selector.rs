//! Label selectors.

use serde::Deserialize;

use crate::interned::{Str, interned, null_default};
use crate::meta::Pairs;

/// A metav1.LabelSelector. As upstream's: a default (empty) one matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Selector {
    #[serde(deserialize_with = "null_default")]
    pub match_labels: Pairs,
    #[serde(deserialize_with = "null_default")]
    pub match_expressions: Vec<Requirement>,
}

/// One requirement of a selector.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(default)]
pub struct Requirement {
    #[serde(deserialize_with = "interned")]
    pub key: Str,
    /// `In`, `NotIn`, `Exists`, `DoesNotExist`; node selectors have `Gt` and `Lt` too.
    #[serde(deserialize_with = "interned")]
    pub operator: Str,
    #[serde(deserialize_with = "null_default")]
    pub values: Vec<Str>,
}

impl Requirement {
    pub fn matches(&self, value: Option<&str>) -> bool {
        match (self.operator.as_str(), value) {
            ("In", Some(value)) => self.values.iter().any(|v| *v == value),
            ("NotIn", Some(value)) => !self.values.iter().any(|v| *v == value),
            ("NotIn" | "DoesNotExist", None) => true,
            ("Exists", found) => found.is_some(),
            ("Gt" | "Lt", Some(value)) => {
                let bound = self.values.first().and_then(|v| v.parse::<i64>().ok());
                match (value.parse::<i64>().ok(), bound) {
                    (Some(value), Some(bound)) if self.operator == "Gt" => value > bound,
                    (Some(value), Some(bound)) => value < bound,
                    _ => false,
                }
            }
            _ => false,
        }
    }
}

impl Selector {
    /// A selector of these labels.
    pub fn of_labels(labels: Pairs) -> Self {
        Self { match_labels: labels, match_expressions: Vec::new() }
    }
    pub fn is_empty(&self) -> bool {
        self.match_labels.is_empty() && self.match_expressions.is_empty()
    }
    pub fn matches(&self, labels: &Pairs) -> bool {
        self.match_labels.iter().all(|(key, value)| labels.get(key) == Some(value))
            && self.match_expressions.iter().all(|r| r.matches(labels.get(&r.key)))
    }
    /// As the API prints it in a query or a status (`a=b,c in (d,e),!f`).
    pub fn to_query(&self) -> String {
        let mut parts: Vec<(String, String)> =
            self.match_labels.iter().map(|(k, v)| (k.to_owned(), format!("{k}={v}"))).collect();
        for r in &self.match_expressions {
            let mut values: Vec<&str> = r.values.iter().map(Str::as_str).collect();
            values.sort_unstable();
            let values = values.join(",");
            let text = match r.operator.as_str() {
                "In" => format!("{} in ({values})", r.key),
                "NotIn" => format!("{} notin ({values})", r.key),
                "Exists" => r.key.to_string(),
                _ => format!("!{}", r.key),
            };
            parts.push((r.key.to_string(), text));
        }
        parts.sort();
        parts.into_iter().map(|(_, text)| text).collect::<Vec<_>>().join(",")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selector(json: serde_json::Value) -> Selector {
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn every_requirement_must_hold() {
        let s = selector(serde_json::json!({"matchLabels": {"a": "1"}, "matchExpressions": [
            {"key": "b", "operator": "In", "values": ["x", "y"]}, {"key": "c", "operator": "DoesNotExist"},
            {"key": "d", "operator": "NotIn", "values": ["z"]}]}));
        let labels = |pairs: &[(&str, &str)]| pairs.iter().copied().collect::<Pairs>();
        assert!(s.matches(&labels(&[("a", "1"), ("b", "y")])));
        assert!(!s.matches(&labels(&[("a", "1"), ("b", "z")])));
        assert!(!s.matches(&labels(&[("a", "1"), ("b", "y"), ("c", "")])));
        assert!(!s.matches(&labels(&[("a", "1"), ("b", "y"), ("d", "z")])));
        assert_eq!(s.to_query(), "a=1,b in (x,y),!c,d notin (z)");
    }
}
