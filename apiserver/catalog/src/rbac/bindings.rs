//! RoleBindings and ClusterRoleBindings.

use serde_json::{Value, json};
use skeg_machinery::field::{ErrorList, Path};

use super::GROUP;
use crate::builder::Def;
use crate::check::Report;
use crate::columns::{AGE, Column, NAME, Row, Table, name, text, wide};
use crate::json::{Read, Write};
use crate::names;
use crate::rules::Rules;
use crate::spec::ResourceSpec;

const COLUMNS: &[Column] = &[NAME, text("Role"), AGE, wide("Users"), wide("Groups"), wide("ServiceAccounts")];
const RULES: Rules = Rules {
    name: names::path_segment,
    create_on_update: true,
    defaults: set_defaults,
    metadata_checks: (1, 1),
    ..Rules::PLAIN
};

pub fn role_binding() -> ResourceSpec {
    Def::new(GROUP, "v1", "rolebindings", "RoleBinding")
        .columns(Table { columns: COLUMNS, cells })
        .rules(Rules {
            check: |binding| check(binding, true),
            check_update: |binding, old| check_update(binding, old, true),
            ..RULES
        })
        .build()
}

pub fn cluster_role_binding() -> ResourceSpec {
    Def::new(GROUP, "v1", "clusterrolebindings", "ClusterRoleBinding")
        .cluster()
        .columns(Table { columns: COLUMNS, cells })
        .rules(Rules {
            check: |binding| check(binding, false),
            check_update: |binding, old| check_update(binding, old, false),
            ..RULES
        })
        .build()
}

fn set_defaults(_: &str, binding: &mut Value) {
    binding.default_zero("roleRef.apiGroup", GROUP);
    binding.each("subjects", |subject| {
        if matches!(subject.text("kind"), "User" | "Group") {
            subject.default_zero("apiGroup", GROUP);
        }
    });
}

fn check_update(binding: &Value, old: &Value, namespaced: bool) -> ErrorList {
    let mut e = check(binding, namespaced);
    if binding.at("roleRef") != old.at("roleRef") {
        // Shown as Go shows a struct without names for JSON.
        let part = |name| binding.at("roleRef").text(name);
        let shown = json!({"APIGroup": part("apiGroup"), "Kind": part("kind"), "Name": part("name")});
        e.invalid(&Path::new("roleRef"), shown, "cannot change roleRef");
    }
    e
}

fn check(binding: &Value, namespaced: bool) -> ErrorList {
    let mut e = ErrorList::new();
    let at = Path::new("roleRef");
    let (group, kind, role) =
        (binding.text("roleRef.apiGroup"), binding.text("roleRef.kind"), binding.text("roleRef.name"));
    if group != GROUP {
        e.not_supported(&at.child("apiGroup"), group, &[GROUP]);
    }
    let kinds: &[&str] = if namespaced { &["Role", "ClusterRole"] } else { &["ClusterRole"] };
    if !kinds.contains(&kind) {
        e.not_supported(&at.child("kind"), kind, kinds);
    }
    if e.need(&at.child("name"), role) {
        e.path_segment(&at.child("name"), role);
    }
    for (index, subject) in binding.list("subjects").iter().enumerate() {
        check_subject(&mut e, &Path::new("subjects").index(index), subject, namespaced);
    }
    e
}

fn check_subject(e: &mut ErrorList, path: &Path, subject: &Value, namespaced: bool) {
    let (name, group) = (subject.text("name"), subject.text("apiGroup"));
    e.need(&path.child("name"), name);
    match subject.text("kind") {
        "ServiceAccount" => {
            if !name.is_empty() {
                e.each(&path.child("name"), name, names::subdomain(name, false));
            }
            if !group.is_empty() {
                e.not_supported(&path.child("apiGroup"), group, &[""]);
            }
            if !namespaced {
                e.need(&path.child("namespace"), subject.text("namespace"));
            }
        }
        "User" | "Group" => {
            if group != GROUP {
                e.not_supported(&path.child("apiGroup"), group, &[GROUP]);
            }
        }
        kind => e.not_supported(&path.child("kind"), kind, &["ServiceAccount", "User", "Group"]),
    }
}

fn cells(binding: &Value, row: &Row) -> Vec<Value> {
    let of = |kind: &str| {
        let all: Vec<String> = binding
            .list("subjects")
            .iter()
            .filter(|subject| subject.text("kind") == kind)
            .map(|subject| match (kind, subject.text("namespace")) {
                ("ServiceAccount", namespace) if !namespace.is_empty() => {
                    format!("{namespace}/{}", subject.text("name"))
                }
                _ => subject.text("name").to_owned(),
            })
            .collect();
        Value::from(all.join(", "))
    };
    let role = format!("{}/{}", binding.text("roleRef.kind"), binding.text("roleRef.name"));
    vec![name(binding), role.into(), row.age(binding), of("User"), of("Group"), of("ServiceAccount")]
}
