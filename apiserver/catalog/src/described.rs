//! What each column of a table holds, in the words of the API's documentation (pkg/printers/internalversion names the
//! field behind each column). Which columns a type has is the type's own affair.

use std::collections::HashMap;
use std::sync::LazyLock;

/// Types as `# group Kind`, under each its columns: name, tab, text with `\n` and `\\` escaped.
const TEXTS: &str = include_str!("described.txt");

const NAME: &str = "Name must be unique within a namespace. Is required when creating resources, although some resources may allow a client to request the generation of an appropriate name automatically. Name is primarily intended for creation idempotence and configuration definition. Cannot be updated. More info: https://kubernetes.io/docs/concepts/overview/working-with-objects/names#names";
const CREATED: &str = "CreationTimestamp is a timestamp representing the server time when this object was created. It is not guaranteed to be set in happens-before order across separate operations. Clients may not set this value. It is represented in RFC3339 form and is in UTC.\n\nPopulated by the system. Read-only. Null for lists. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#metadata";

type Type = (&'static str, &'static str);

static DESCRIBED: LazyLock<HashMap<Type, Vec<(&'static str, String)>>> = LazyLock::new(|| {
    let mut types: HashMap<Type, Vec<(&str, String)>> = HashMap::new();
    let mut current = ("", "");
    for line in TEXTS.lines() {
        if let Some(ty) = line.strip_prefix("# ") {
            current = ty.split_once(' ').unwrap_or_default();
        } else if let Some((column, text)) = line.split_once('\t') {
            let text = text.replace("\\n", "\n").replace("\\\\", "\\");
            types.entry(current).or_default().push((column, text));
        }
    }
    types
});

/// The description of one column, "" where there is none.
pub fn describe(group: &str, kind: &str, column: &str) -> &'static str {
    let group = match (group, kind) {
        // Both groups' Events are one type to the printer.
        ("" | "events.k8s.io", "Event") | ("", _) => "core",
        (group, _) => group,
    };
    let types: &'static HashMap<Type, Vec<(&str, String)>> = &DESCRIBED;
    let own = types.iter().find(|(ty, _)| **ty == (group, kind));
    let own = own.and_then(|(_, columns)| columns.iter().find(|(name, _)| *name == column));
    match (own, column) {
        (Some((_, text)), _) => text,
        (None, "Name") => NAME,
        (None, "Age" | "Created At") => CREATED,
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::{CREATED, NAME, describe};

    #[test]
    fn a_column_says_what_its_field_is() {
        assert_eq!(describe("", "Pod", "Ready"), "The aggregate readiness state of this pod for accepting traffic.");
        assert_eq!(describe("apps", "StatefulSet", "Ready"), "Number of the pod with ready state");
        assert!(describe("", "Service", "External-IP").starts_with("externalIPs is a list of IP addresses"));
        assert_eq!(describe("events.k8s.io", "Event", "Count"), describe("", "Event", "Count"));
        assert_eq!(describe("", "Pod", "Name"), NAME);
        assert_eq!(describe("rbac.authorization.k8s.io", "ClusterRole", "Created At"), CREATED);
        assert_eq!(describe("", "Pod", "No such column"), "");
    }

    #[test]
    fn every_column_is_described() {
        let all = crate::all();
        let bare = all.iter().flat_map(|spec| {
            let columns = spec.columns.definitions().into_iter();
            columns
                .filter(|column| column.description.is_empty())
                .map(|column| format!("{}: {}", spec.kind, column.name))
        });
        let bare: Vec<String> = bare.collect();
        // Upstream looks for this one in the wrong place.
        assert_eq!(bare, ["RuntimeClass: Handler"]);
    }
}
