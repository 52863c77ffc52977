//! What the server says of a CustomResourceDefinition: accepted names and conditions
//! (apiextensions-apiserver/pkg/controller/{status,establish,apiapproval,nonstructuralschema}). Decides; the server
//! writes it and serves by it.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use skeg_machinery::text::quote;

use crate::columns::condition_true;
use crate::json::{Read, Write};

/// Keeps a definition until its objects are gone.
pub const FINALIZER: &str = "customresourcecleanup.apiextensions.k8s.io";
/// The annotation that says who approved a definition of a protected group.
pub const APPROVED: &str = "api-approved.kubernetes.io";

/// The status that `crd` should have next beside the `others`, all as they are now, at `now` (RFC 3339); `None` when
/// nothing is left to do.
pub fn next(crd: &Value, others: &[&Value], now: &str) -> Option<Value> {
    let mut new = crd.clone();
    let accepted = accept_names(&mut new, others, now);
    approve(&mut new, now);
    // Established only after everybody has seen that the names are accepted.
    let settled = new.at("status") == crd.at("status");
    if accepted && settled && !condition_true(&new, "status.conditions", "Established") {
        let established =
            condition("Established", "True", "InitialNamesAccepted", "the initial names have been accepted");
        set_condition(&mut new, established, now);
    }
    (new.at("status") != crd.at("status")).then(|| new.at("status").clone())
}

/// Whether a definition is served: its names are its own, or were when it was established.
pub fn is_served(crd: &Value) -> bool {
    let holds = |name| condition_true(crd, "status.conditions", name);
    (holds("NamesAccepted") || holds("Established")) && !crd.text("status.acceptedNames.plural").is_empty()
}

/// Whether its objects are being removed, so that none may be created.
pub fn is_terminating(crd: &Value) -> bool {
    condition_true(crd, "status.conditions", "Terminating")
}

/// Takes over the requested names that no other definition of the group has; whether all were free.
fn accept_names(crd: &mut Value, others: &[&Value], now: &str) -> bool {
    let (wanted, current) = (crd.at("spec.names").clone(), crd.at("status.acceptedNames").clone());
    if same_names(&wanted, &current) {
        return condition_true(crd, "status.conditions", "NamesAccepted");
    }
    let (resources, kinds) = taken(crd.text("spec.group"), others);
    let free = |name: &str, own: &str, taken: &BTreeSet<&str>| {
        if name == own || !taken.contains(name) { None } else { Some(format!("{} is already in use", quote(name))) }
    };
    let mut names = current.clone();
    let mut conflict: Option<(&str, String)> = None;
    for (member, reason) in [("plural", "PluralConflict"), ("singular", "SingularConflict")] {
        match free(wanted.text(member), current.text(member), &resources) {
            Some(message) => conflict = Some((reason, message)),
            None => names.set(member, wanted.text(member)),
        }
    }
    let own = current.texts("shortNames");
    if wanted.texts("shortNames") != own {
        let short = wanted.texts("shortNames");
        let used = short.iter().filter(|name| !own.contains(name)).filter_map(|name| free(name, "", &resources));
        let used: Vec<String> = used.collect();
        match used.len() {
            0 => names.copy_from("shortNames", &wanted),
            1 => conflict = Some(("ShortNamesConflict", used[0].clone())),
            _ => conflict = Some(("ShortNamesConflict", format!("[{}]", used.join(", ")))),
        }
    }
    for (member, reason) in [("kind", "KindConflict"), ("listKind", "ListKindConflict")] {
        match free(wanted.text(member), current.text(member), &kinds) {
            Some(message) => conflict = Some((reason, message)),
            None => names.set(member, wanted.text(member)),
        }
    }
    names.copy_from("categories", &wanted);
    crd.set("status.acceptedNames", names);
    let accepted = conflict.is_none();
    let (status, reason, message) = match conflict {
        None => ("True", "NoConflicts", "no conflicts found".to_owned()),
        Some((reason, message)) => ("False", reason, message),
    };
    set_condition(crd, condition("NamesAccepted", status, reason, &message), now);
    let known = crd.list("status.conditions").iter().any(|known| known.text("type") == "Established");
    if accepted && !condition_true(crd, "status.conditions", "Established") {
        let installing = condition("Established", "False", "Installing", "the initial names have been accepted");
        set_condition(crd, installing, now);
    } else if !known {
        let not = condition("Established", "False", "NotAccepted", "not all names are accepted");
        set_condition(crd, not, now);
    }
    accepted
}

fn same_names(wanted: &Value, current: &Value) -> bool {
    ["plural", "singular", "kind", "listKind"].iter().all(|member| wanted.text(member) == current.text(member))
        && ["shortNames", "categories"].iter().all(|member| wanted.texts(member) == current.texts(member))
}

/// The names that other definitions of a group have: of resources, of kinds.
fn taken<'a>(group: &str, others: &[&'a Value]) -> (BTreeSet<&'a str>, BTreeSet<&'a str>) {
    let (mut resources, mut kinds) = (BTreeSet::new(), BTreeSet::new());
    for other in others.iter().filter(|other| other.text("spec.group") == group) {
        let names = other.at("status.acceptedNames");
        resources.extend([names.text("plural"), names.text("singular")]);
        resources.extend(names.texts("shortNames"));
        kinds.extend([names.text("kind"), names.text("listKind")]);
    }
    (resources, kinds)
}

/// Groups of the Kubernetes project need an approval, or a reason why they have none.
pub fn is_protected(group: &str) -> bool {
    ["k8s.io", "kubernetes.io"].iter().any(|owner| group == *owner || group.ends_with(&format!(".{owner}")))
}

/// The state of the approval: reason and message; `Ok` when it conforms.
pub fn approval(annotation: &str) -> Result<String, (&'static str, String)> {
    const SEE: &str = "see https://github.com/kubernetes/enhancements/pull/1111";
    if annotation.is_empty() {
        return Err((
            "MissingAnnotation",
            format!("protected groups must have approval annotation {APPROVED:?}, {SEE}"),
        ));
    }
    if annotation.starts_with("unapproved") {
        return Err(("UnapprovedAnnotation", format!("not approved: {}", quote(annotation))));
    }
    let host = annotation.split_once("://").filter(|(scheme, _)| !scheme.is_empty());
    match host.map(|(_, rest)| rest.split('/').next().unwrap_or("")) {
        Some(host) if !host.is_empty() => Ok(format!("approved in {annotation}")),
        _ => {
            let with = "with either a URL or a reason starting with \"unapproved\"";
            Err((
                "InvalidAnnotation",
                format!("protected groups must have approval annotation {APPROVED:?} {with}, {SEE}"),
            ))
        }
    }
}

fn approve(crd: &mut Value, now: &str) {
    const TYPE: &str = "KubernetesAPIApprovalPolicyConformant";
    if !is_protected(crd.text("spec.group")) {
        return;
    }
    let state = approval(crd.member("metadata.annotations", APPROVED).unwrap_or(""));
    let new = match &state {
        Ok(message) => condition(TYPE, "True", "ApprovedAnnotation", message),
        Err((reason, message)) => condition(TYPE, "False", reason, message),
    };
    set_condition(crd, new, now);
}

/// A condition without its time.
pub fn condition(kind: &str, status: &str, reason: &str, message: &str) -> Value {
    json!({"type": kind, "status": status, "lastTransitionTime": null, "reason": reason, "message": message})
}

/// Puts a condition in; its time is that of the last change of its status.
pub fn set_condition(crd: &mut Value, mut new: Value, now: &str) {
    let mut all = crd.list("status.conditions").to_vec();
    new.set("lastTransitionTime", now);
    match all.iter_mut().find(|known| known.text("type") == new.text("type")) {
        None => all.push(new),
        Some(known) => {
            if known.text("status") == new.text("status") && known.has("lastTransitionTime") {
                new.copy_from("lastTransitionTime", known);
            }
            for member in ["status", "lastTransitionTime", "reason", "message"] {
                known.copy_from(member, &new);
            }
        }
    }
    crd.set("status.conditions", all);
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: &str = "2026-01-02T03:04:05Z";

    fn crd(plural: &str, kind: &str) -> Value {
        let list = format!("{kind}List");
        json!({"spec": {"group": "example.com", "names": {"plural": plural, "singular": plural, "kind": kind, "listKind": list}},
            "status": {}})
    }

    fn conditions(status: &Value) -> Vec<String> {
        let one = |c: &Value| format!("{}={} {}", c.text("type"), c.text("status"), c.text("reason"));
        status.list("conditions").iter().map(one).collect()
    }

    fn settle(crd: &mut Value) {
        while let Some(status) = next(crd, &[], NOW) {
            crd.set("status", status);
        }
    }

    #[test]
    fn free_names_are_accepted_and_then_nothing_is_left_to_do() {
        let mut one = crd("foos", "Foo");
        let status = next(&one, &[], NOW).unwrap();
        assert_eq!(conditions(&status), ["NamesAccepted=True NoConflicts", "Established=False Installing"]);
        assert_eq!(status.text("acceptedNames.listKind"), "FooList");
        one.set("status", status);
        assert!(is_served(&one));
        let status = next(&one, &[], NOW).unwrap();
        assert_eq!(conditions(&status), ["NamesAccepted=True NoConflicts", "Established=True InitialNamesAccepted"]);
        one.set("status", status);
        assert!(is_served(&one));
        assert_eq!(next(&one, &[], "2027-01-01T00:00:00Z"), None);
    }

    #[test]
    fn a_taken_name_is_not_accepted_until_it_is_free() {
        let mut first = crd("foos", "Foo");
        settle(&mut first);
        let mut second = crd("bars", "Foo");
        let status = next(&second, &[&first], NOW).unwrap();
        assert_eq!(conditions(&status), ["NamesAccepted=False ListKindConflict", "Established=False NotAccepted"]);
        assert_eq!((status.text("acceptedNames.plural"), status.text("acceptedNames.kind")), ("bars", ""));
        second.set("status", status);
        assert!(!is_served(&second));
        settle(&mut second);
        assert_eq!(
            conditions(second.at("status")),
            ["NamesAccepted=True NoConflicts", "Established=True InitialNamesAccepted"]
        );
    }

    #[test]
    fn an_established_definition_stays_so_when_its_new_names_are_taken() {
        let mut first = crd("foos", "Foo");
        settle(&mut first);
        let mut second = crd("bars", "Bar");
        settle(&mut second);
        second.set("spec.names.shortNames", json!(["foos"]));
        let status = next(&second, &[&first], NOW).unwrap();
        assert_eq!(
            conditions(&status),
            ["NamesAccepted=False ShortNamesConflict", "Established=True InitialNamesAccepted"]
        );
        second.set("status", status);
        assert!(is_served(&second));
    }

    #[test]
    fn groups_of_the_project_need_an_approval() {
        assert!(is_protected("x.k8s.io") && !is_protected("xk8s.io"));
        assert!(approval("https://github.com/kubernetes/enhancements/pull/1").is_ok());
        assert_eq!(approval("unapproved, test").unwrap_err().0, "UnapprovedAnnotation");
        assert_eq!(approval("nope").unwrap_err().0, "InvalidAnnotation");
    }
}
