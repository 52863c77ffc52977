//! The small language of table columns: constants and constructors for definitions, and cell texts that many types
//! share (pkg/printers/internalversion). The columns of a type are in the type's own file.

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::Value;
use skeg_machinery::table::ColumnDefinition;

use crate::described::describe;
use crate::json::Read;
use crate::spec::Columns;

/// One column: name, type, format, priority.
pub type Column = (&'static str, &'static str, &'static str, i32);

pub const NAME: Column = ("Name", "string", "name", 0);
pub const AGE: Column = ("Age", "string", "", 0);

pub const fn text(name: &'static str) -> Column {
    (name, "string", "", 0)
}

pub const fn int(name: &'static str) -> Column {
    (name, "integer", "", 0)
}

pub const fn boolean(name: &'static str) -> Column {
    (name, "boolean", "", 0)
}

/// Shown with `-o wide` only.
pub const fn wide(name: &'static str) -> Column {
    (name, "string", "", 1)
}

/// Columns and what fills them.
#[derive(Clone, Copy)]
pub struct Table {
    pub columns: &'static [Column],
    pub cells: fn(&Value, &Row) -> Vec<Value>,
}

/// What cells are computed from beside the object.
pub struct Row {
    pub now: DateTime<Utc>,
}

/// The columns of one type.
pub struct Printed {
    pub table: Table,
    pub group: &'static str,
    pub kind: &'static str,
}

/// The columns of autoscaling/v1 Scale, whatever it is the scale of.
pub const SCALE: Printed = Printed {
    table: Table {
        columns: &[text("Name"), int("Desired"), int("Available"), AGE],
        cells: |scale, row| {
            let count = |path| scale.at(path).as_i64().unwrap_or(0).into();
            vec![name(scale), count("spec.replicas"), count("status.replicas"), row.age(scale)]
        },
    },
    group: "autoscaling",
    kind: "Scale",
};

impl Columns for Printed {
    fn definitions(&self) -> Vec<ColumnDefinition> {
        self.table
            .columns
            .iter()
            .map(|&(name, kind, format, priority)| ColumnDefinition {
                name: name.into(),
                column_type: kind.into(),
                format: format.into(),
                description: describe(self.group, self.kind, name).into(),
                priority,
            })
            .collect()
    }

    fn cells(&self, object: &Value, now: DateTime<Utc>) -> Vec<Value> {
        (self.table.cells)(object, &Row { now })
    }

    fn rows_of_nothing(&self) -> Value {
        if self.table.columns == DEFAULT.columns { Value::Null } else { Value::Array(Vec::new()) }
    }
}

/// For types without a printer: Name and Created At.
pub const DEFAULT: Table = Table {
    columns: &[NAME, ("Created At", "date", "", 0)],
    cells: |object, _| vec![name(object), object.at("metadata.creationTimestamp").clone()],
};

/// Name and Age.
pub const NAME_AGE: Table = Table { columns: &[NAME, AGE], cells: |object, row| vec![name(object), row.age(object)] };

pub fn name(object: &Value) -> Value {
    object.text("metadata.name").into()
}

/// A text cell, or `missing` where the path is absent or empty.
pub fn or(object: &Value, path: &str, missing: &str) -> Value {
    match object.text(path) {
        "" => missing.into(),
        text => text.into(),
    }
}

/// An optional flag as the cell says it: `default` where it is absent.
pub fn flag(object: &Value, path: &str, default: bool) -> Value {
    object.at(path).as_bool().unwrap_or(default).into()
}

pub fn count(object: &Value, path: &str) -> Value {
    let count = match object.at(path) {
        Value::Array(items) => items.len(),
        Value::Object(map) => map.len(),
        _ => 0,
    };
    count.into()
}

impl Row {
    pub fn age(&self, object: &Value) -> Value {
        self.since(object, "metadata.creationTimestamp").into()
    }

    /// Time since a timestamp in the object, `<unknown>` where it is absent.
    pub fn since(&self, object: &Value, path: &str) -> String {
        match time(object.text(path)) {
            Some(then) => human(self.now - then),
            None => "<unknown>".into(),
        }
    }
}

pub fn time(text: &str) -> Option<DateTime<Utc>> {
    DateTime::parse_from_rfc3339(text).ok().map(|time| time.with_timezone(&Utc))
}

/// apimachinery's `duration.HumanDuration`: 5s, 3m12s, 5h, 2d3h, 3y40d.
pub fn human(delta: TimeDelta) -> String {
    let seconds = delta.num_seconds();
    if seconds < -1 {
        return "<invalid>".into();
    }
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86400);
    let two = |big: i64, unit: &str, small: i64, small_unit: &str| match small {
        0 => format!("{big}{unit}"),
        small => format!("{big}{unit}{small}{small_unit}"),
    };
    match seconds {
        ..0 => "0s".into(),
        0..120 => format!("{seconds}s"),
        _ if minutes < 10 => two(minutes, "m", seconds % 60, "s"),
        _ if minutes < 180 => format!("{minutes}m"),
        _ if hours < 8 => two(hours, "h", minutes % 60, "m"),
        _ if hours < 48 => format!("{hours}h"),
        _ if hours < 192 => two(days, "d", hours % 24, "h"),
        _ if days < 730 => format!("{days}d"),
        _ if days < 2920 => two(days / 365, "y", days % 365, "d"),
        _ => format!("{}y", days / 365),
    }
}

/// Names and images of the containers below a pod spec.
pub fn containers(object: &Value, spec: &str) -> [Value; 2] {
    let all = object.at(spec).list("containers");
    let joined = |field: &str| all.iter().map(|container| container.text(field)).collect::<Vec<_>>().join(",").into();
    [joined("name"), joined("image")]
}

/// `labels.FormatLabels`: sorted `k=v`, `<none>` where there is none.
pub fn labels(map: &Value) -> String {
    let mut pairs: Vec<String> =
        map.entries("").map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or(""))).collect();
    pairs.sort();
    if pairs.is_empty() { "<none>".into() } else { pairs.join(",") }
}

/// `metav1.FormatLabelSelector`: the selector's text, `<none>` where it selects everything or is absent.
pub fn selector(selector: &Value) -> String {
    match selector_text(selector) {
        Some(text) if text.is_empty() => "<none>".into(),
        Some(text) => text,
        None => "<error>".into(),
    }
}

/// `labels.Selector.String()` of a LabelSelector, requirements sorted by key; `None` where it does not parse.
pub fn selector_text(selector: &Value) -> Option<String> {
    let mut requirements: Vec<(String, String)> = selector
        .entries("matchLabels")
        .map(|(key, value)| (key.to_owned(), format!("{key}={}", value.as_str().unwrap_or(""))))
        .collect();
    for expression in selector.list("matchExpressions") {
        let key = expression.text("key");
        let mut values = expression.texts("values");
        values.sort_unstable();
        let text = match (expression.text("operator"), values.is_empty()) {
            ("In", false) => format!("{key} in ({})", values.join(",")),
            ("NotIn", false) => format!("{key} notin ({})", values.join(",")),
            ("Exists", true) => key.to_owned(),
            ("DoesNotExist", true) => format!("!{key}"),
            _ => return None,
        };
        requirements.push((key.to_owned(), text));
    }
    requirements.sort_by(|a, b| a.0.cmp(&b.0));
    Some(requirements.into_iter().map(|(_, text)| text).collect::<Vec<_>>().join(","))
}

/// The first three of a list, and how many more there are.
pub fn first_three(all: &[String]) -> String {
    match all.len() {
        0 => "<unset>".into(),
        1..=3 => all.join(","),
        count => format!("{} + {} more...", all[..3].join(","), count - 3),
    }
}

/// Whether the condition list at `path` has `condition` as True.
pub fn condition_true(object: &Value, path: &str, condition: &str) -> bool {
    object
        .list(path)
        .iter()
        .find(|item| item.text("type") == condition)
        .is_some_and(|item| item.text("status") == "True")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn ages_read_as_upstream() {
        for (seconds, expected) in [
            (-5, "<invalid>"),
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (125, "2m5s"),
            (600, "10m"),
            (3 * 3600, "3h"),
            (3 * 3600 + 300, "3h5m"),
            (9 * 3600 + 300, "9h"),
            (3 * 86400, "3d"),
            (3 * 86400 + 3600, "3d1h"),
            (100 * 86400, "100d"),
            (800 * 86400, "2y70d"),
            (3000 * 86400, "8y"),
        ] {
            assert_eq!(human(TimeDelta::seconds(seconds)), expected, "{seconds}");
        }
    }

    #[test]
    fn selectors_are_sorted_by_key() {
        let value = json!({"matchLabels": {"b": "1"}, "matchExpressions": [
            {"key": "a", "operator": "In", "values": ["y", "x"]}, {"key": "c", "operator": "DoesNotExist"}]});
        assert_eq!(selector(&value), "a in (x,y),b=1,!c");
        assert_eq!(selector(&Value::Null), "<none>");
    }
}
