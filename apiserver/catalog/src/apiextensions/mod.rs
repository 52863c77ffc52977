//! The apiextensions.k8s.io group: CustomResourceDefinitions as objects. What they make servable is `custom`'s and the
//! server's.

mod schema;
pub mod status;

use std::collections::BTreeSet;

use serde_json::{Value, json};
use skeg_machinery::field::{Error, ErrorList, Path};
use skeg_machinery::structural::is_known_format;
use skeg_machinery::text::quote;
use skeg_machinery::validation as rules;

use crate::admissionregistration::check_client;
use crate::builder::Def;
use crate::check::Report;
use crate::columns::{self, condition_true};
use crate::custom::rules::named_field;
use crate::json::{Read, Write};
use crate::rules::{Part, Rules};
use crate::spec::ResourceSpec;

pub fn custom_resource_definition() -> ResourceSpec {
    Def::new("apiextensions.k8s.io", "v1", "customresourcedefinitions", "CustomResourceDefinition")
        .cluster()
        .short(&["crd", "crds"])
        .categories(&["api-extensions"])
        .unprinted_status(Part::status(|crd, _| {
            let mut e = ErrorList::new();
            check_status(&mut e, crd);
            e
        }))
        .columns(columns::DEFAULT)
        .rules(Rules {
            defaults,
            create: |_, crd| {
                crd.set("status", json!({"conditions": null, "acceptedNames": {"plural": "", "kind": ""}}));
                store_version(crd);
            },
            name_misfits: other_name,
            check: |crd| check(crd, None),
            update: |_, crd, _| store_version(crd),
            check_update: |crd, old| check(crd, Some(old)),
            warn: warnings,
            unconditional_update: false,
            ..Rules::BASE
        })
        .build()
}

fn defaults(_: &str, crd: &mut Value) {
    if !crd.has("spec") {
        crd.set("spec", json!({}));
    }
    let kind = crd.text("spec.names.kind").to_owned();
    crd.default_zero("spec.names.singular", kind.to_lowercase());
    if !kind.is_empty() {
        crd.default_zero("spec.names.listKind", format!("{kind}List"));
    }
    crd.default_to("spec.conversion", json!({"strategy": "None"}));
    if let Some(service) = crd.at_mut("spec.conversion.webhook.clientConfig.service") {
        service.default_to("port", 443);
    }
    if crd.list("status.storedVersions").is_empty() {
        store_version(crd);
    }
}

/// The storage version is one that objects may be stored in from now on.
fn store_version(crd: &mut Value) {
    let Some(storage) = crd.list("spec.versions").iter().find(|version| version.flag("storage")) else { return };
    let name = storage.text("name").to_owned();
    let mut stored = crd.list("status.storedVersions").to_vec();
    if !stored.iter().any(|version| *version == name) {
        stored.push(name.into());
        crd.set("status.storedVersions", stored);
    }
}

/// Names that were accepted are well formed; conditions may say anything.
fn check_status(e: &mut ErrorList, crd: &Value) {
    check_name_forms(e, &Path::new("status").child("acceptedNames"), crd.at("status.acceptedNames"));
}

fn check(crd: &Value, old: Option<&Value>) -> ErrorList {
    let mut e = ErrorList::new();
    let path = Path::new("spec");
    let spec = hoisted(crd.at("spec"));
    check_group(&mut e, &path.child("group"), spec.text("group"));
    e.one_of(&path.child("scope"), spec.text("scope"), &["Cluster", "Namespaced"]);
    let unchanged = unchanged_schemas(crd, old);
    versions(&mut e, &path, &spec, &unchanged);
    check_names(&mut e, &path.child("names"), spec.at("names"));
    let status = has_status(&spec) || spec.list("versions").iter().any(has_status);
    check_parts(&mut e, &path, &spec, "validation", status, unchanged.contains(first_name(&spec)));
    conversion(&mut e, &path.child("conversion"), spec.at("conversion"));
    if let Some(old) = old {
        check_immutable(&mut e, &path, &spec, old);
    }
    check_status(&mut e, crd);
    stored_versions(&mut e, crd);
    check_approval(&mut e, crd, old);
    check_unknown_fields(&mut e, &path, &spec, old);
    e
}

/// Also what a name is generated from is to be the whole name.
fn other_name(crd: &Value, name: &str) -> Vec<String> {
    let expected = format!("{}.{}", crd.text("spec.names.plural"), crd.text("spec.group"));
    if name == expected { Vec::new() } else { vec!["must be spec.names.plural+\".\"+spec.group".to_owned()] }
}

fn check_group(e: &mut ErrorList, path: &Path, group: &str) {
    if !e.need(path, group) {
        return;
    }
    let problems = rules::is_dns1123_subdomain(group);
    if !problems.is_empty() {
        e.invalid(path, group, problems.join(","));
    } else if !group.contains('.') {
        e.invalid(path, group, "should be a domain with at least one dot");
    }
}

fn check_unknown_fields(e: &mut ErrorList, path: &Path, spec: &Value, old: Option<&Value>) {
    if spec.flag("preserveUnknownFields") && !old.is_some_and(|old| old.flag("spec.preserveUnknownFields")) {
        let detail =
            "cannot set to true, set x-kubernetes-preserve-unknown-fields to true in spec.versions[*].schema instead";
        e.invalid(&path.child("preserveUnknownFields"), true, detail);
    }
}

/// What objects are stored by; the resource's name is part of the definition's own.
fn check_immutable(e: &mut ErrorList, path: &Path, spec: &Value, old: &Value) {
    let established = condition_true(old, "status.conditions", "Established");
    let members = [("scope", established), ("names.kind", established), ("group", true), ("names.plural", true)];
    for (member, _) in members.into_iter().filter(|(_, fixed)| *fixed) {
        let at = member.split('.').fold(path.clone(), |path, name| path.child(name));
        e.immutable(&at, spec.at(member), old.at("spec").at(member));
    }
}

/// The spec as it is checked: what all versions say alike is said once, beside them, the schema as `validation`.
fn hoisted(spec: &Value) -> Value {
    const ALIKE: [(&str, &str); 4] = [
        ("subresources", "subresources"),
        ("schema", "validation"),
        ("additionalPrinterColumns", "additionalPrinterColumns"),
        ("selectableFields", "selectableFields"),
    ];
    let no_items = Value::Array(Vec::new());
    let plain = |value: &Value| if *value == no_items { Value::Null } else { value.clone() };
    let mut new = spec.clone();
    for (member, name) in ALIKE {
        let Some(first) = spec.list("versions").first().map(|version| plain(version.at(member))) else { break };
        if spec.list("versions").iter().all(|version| plain(version.at(member)) == first) {
            new.set(name, first);
            new.each("versions", |version| version.remove(member));
        }
    }
    new
}

/// The versions whose schema an update leaves as it is.
fn unchanged_schemas<'a>(crd: &'a Value, old: Option<&Value>) -> BTreeSet<&'a str> {
    let before = old.map_or(&[][..], |old| old.list("spec.versions"));
    let known = |version: &&Value| {
        let old = before.iter().find(|old| old.text("name") == version.text("name"));
        old.is_some_and(|old| old.at("schema") == version.at("schema"))
    };
    crd.list("spec.versions").iter().filter(known).map(|version| version.text("name")).collect()
}

fn has_status(holder: &Value) -> bool {
    let parts = holder.map("subresources");
    parts.is_some_and(|parts| parts.get("status").is_some_and(Value::is_object))
}

/// The name of the version that comes first.
fn first_name(spec: &Value) -> &str {
    spec.list("versions").first().map_or("", |version| version.text("name"))
}

/// A definition in a group of the Kubernetes project says who approved it; an update may leave what there was.
fn check_approval(e: &mut ErrorList, crd: &Value, old: Option<&Value>) {
    let annotation = |crd: &Value| crd.member("metadata.annotations", status::APPROVED).unwrap_or("").to_owned();
    let state = |text: &str| status::approval(text).map(|_| ()).map_err(|(reason, _)| reason);
    let text = annotation(crd);
    if !status::is_protected(crd.text("spec.group")) || old.is_some_and(|old| state(&annotation(old)) == state(&text)) {
        return;
    }
    let at = Path::new("metadata").child("annotations").key(status::APPROVED);
    match status::approval(&text) {
        Err(("MissingAnnotation", why)) => e.required(&at, &why),
        Err(("InvalidAnnotation", why)) => e.invalid(&at, text, why),
        _ => {}
    }
}

/// Formats that are not enforced are passed over; new ones are told.
fn warnings(crd: &Value, old: Option<&Value>) -> Vec<String> {
    let formats = |crd: &Value| {
        let mut found = Vec::new();
        for version in crd.list("spec.versions") {
            unknown_formats(version.at("schema.openAPIV3Schema"), &mut found);
        }
        found
    };
    let known = old.map(formats).unwrap_or_default();
    let new = formats(crd).into_iter().filter(|format| !known.contains(format));
    new.map(|format| format!("unrecognized format {}", quote(&format))).collect()
}

fn unknown_formats(schema: &Value, found: &mut Vec<String>) {
    if !schema.is_object() {
        return;
    }
    let (kind, format) = (schema.text("type"), schema.text("format"));
    let known = match kind {
        "" | "string" => is_known_format(format),
        "integer" => matches!(format, "int32" | "int64"),
        "number" => matches!(format, "float" | "double"),
        _ => false,
    };
    if !format.is_empty() && !known {
        found.push(format.to_owned());
    }
    for (_, below) in schema.entries("properties") {
        unknown_formats(below, found);
    }
    for member in ["items", "additionalProperties", "not"] {
        unknown_formats(schema.at(member), found);
    }
    for member in ["allOf", "anyOf", "oneOf"] {
        schema.list(member).iter().for_each(|below| unknown_formats(below, found));
    }
}

fn stored_versions(e: &mut ErrorList, crd: &Value) {
    let path = Path::new("status").child("storedVersions");
    let stored = crd.texts("status.storedVersions");
    let value = crd.at("status.storedVersions");
    if stored.is_empty() {
        e.invalid(&path, value.clone(), "must have at least one stored version");
        return;
    }
    let mut known = BTreeSet::new();
    // One version accounts for each: of two with one name the second has none.
    let mut left: BTreeSet<&str> = stored.iter().copied().collect();
    for version in crd.list("spec.versions") {
        let name = version.text("name");
        known.insert(name);
        if version.flag("storage") && !left.contains(name) {
            e.invalid(&path, value.clone(), format!("must have the storage version {name}"));
        }
        left.remove(name);
    }
    for (index, name) in stored.into_iter().enumerate().filter(|(_, name)| !known.contains(name)) {
        let detail = format!(
            "missing from spec.versions; {name} was previously a storage version, and must remain in spec.versions until a storage migration ensures no data remains persisted in {name} and removes {name} from status.storedVersions"
        );
        e.invalid(&path.index(index), name, detail);
    }
}

fn versions(e: &mut ErrorList, spec_path: &Path, spec: &Value, unchanged: &BTreeSet<&str>) {
    let (all, path) = (spec.list("versions"), spec_path.child("versions"));
    let required = !spec.has("validation.openAPIV3Schema");
    for (index, _) in all.iter().enumerate().filter(|(_, one)| required && !one.has("schema.openAPIV3Schema")) {
        e.required(&path.index(index).child("schema").child("openAPIV3Schema"), "");
    }
    let own_parts = all.iter().any(|version| version.has("subresources"));
    for (index, version) in all.iter().enumerate() {
        let (at, name) = (path.index(index), version.text("name"));
        check_version_name(e, &at.child("name"), name);
        check_deprecation(e, &at.child("deprecationWarning"), version);
        let named = all.iter().find(|other| own_parts && other.text("name") == name);
        let status = has_status(named.unwrap_or(spec));
        check_parts(e, &at, version, "schema", status, unchanged.contains(name));
    }
    let names: BTreeSet<&str> = all.iter().map(|version| version.text("name")).collect();
    if names.len() < all.len() {
        e.invalid(&path, shown_versions(spec), "must contain unique version names");
    }
    if all.iter().filter(|version| version.flag("storage")).count() != 1 {
        e.invalid(&path, shown_versions(spec), "must have exactly one version marked as storage version");
    }
    // Internally the first version is also told apart.
    if !first_name(spec).is_empty() {
        check_version_name(e, &spec_path.child("version"), first_name(spec));
    }
}

/// The versions as they are internally.
fn shown_versions(spec: &Value) -> Value {
    let Some(all) = spec.at("versions").as_array() else { return Value::Null };
    let shown = all.iter().map(|version| {
        json!({
            "Name": version.text("name"),
            "Served": version.flag("served"),
            "Storage": version.flag("storage"),
            "Deprecated": version.flag("deprecated"),
            "DeprecationWarning": version.at("deprecationWarning"),
            "Schema": version.at("schema"),
            "Subresources": version.at("subresources"),
            "AdditionalPrinterColumns": version.at("additionalPrinterColumns"),
            "SelectableFields": version.at("selectableFields"),
        })
    });
    shown.collect()
}

fn check_version_name(e: &mut ErrorList, path: &Path, name: &str) {
    let problems = rules::is_dns1035_label(name);
    if !problems.is_empty() {
        e.invalid(path, name, problems.join(","));
    }
}

fn check_deprecation(e: &mut ErrorList, path: &Path, version: &Value) {
    let Some(warning) = version.opt_text("deprecationWarning") else { return };
    let problem = if !version.flag("deprecated") {
        "can only be set for deprecated versions"
    } else if warning.len() > 256 {
        "must be <= 256 characters long"
    } else if warning.is_empty() {
        "must not be an empty string"
    } else {
        return;
    };
    e.invalid(path, warning, problem);
}

/// What a version says of its own, or the spec for all of them. `schema` is what the schema is called there; `status`:
/// whether status is a subresource; `known`: the schema is as it was.
fn check_parts(e: &mut ErrorList, path: &Path, holder: &Value, schema: &str, status: bool, known: bool) {
    let root = holder.at(schema).at("openAPIV3Schema");
    if !root.is_null() {
        schema::check(e, &path.child(schema).child("openAPIV3Schema"), root, status, known);
    }
    if holder.has("subresources.scale") {
        scale(e, &path.child("subresources").child("scale"), holder.at("subresources.scale"));
    }
    for (index, column) in holder.list("additionalPrinterColumns").iter().enumerate() {
        check_column(e, &path.child("additionalPrinterColumns").index(index), column);
    }
    let (at, fields) = (path.child("selectableFields"), holder.list("selectableFields"));
    if !fields.is_empty() && root.is_null() {
        let detail = match schema {
            "validation" => "may only be set when validations.schema is included",
            _ => "may only be set when `version.schema.openAPIV3Schema` is not included",
        };
        e.invalid(&at, "", detail);
    } else {
        selectable_fields(e, &at, fields, root);
    }
}

fn check_column(e: &mut ErrorList, path: &Path, column: &Value) {
    const TYPES: [&str; 5] = ["boolean", "date", "integer", "number", "string"];
    const FORMATS: [&str; 8] = ["byte", "date", "date-time", "double", "float", "int32", "int64", "password"];
    e.need(&path.child("name"), column.text("name"));
    let detail = format!("must be one of {}", TYPES.join(","));
    match column.text("type") {
        "" => e.required(&path.child("type"), &detail),
        kind if !TYPES.contains(&kind) => e.invalid(&path.child("type"), kind, detail),
        _ => {}
    }
    let format = column.text("format");
    if !format.is_empty() && !FORMATS.contains(&format) {
        e.invalid(&path.child("format"), format, format!("must be one of {}", FORMATS.join(",")));
    }
    let (at, target) = (path.child("JSONPath"), column.text("jsonPath"));
    if e.need(&at, target) {
        simple_path(e, &at, target);
    }
}

/// Each leads to a scalar of the schema, outside of metadata, and none is there twice.
fn selectable_fields(e: &mut ErrorList, path: &Path, fields: &[Value], root: &Value) {
    const MOST: usize = 8;
    let mut seen = BTreeSet::new();
    for (index, field) in fields.iter().enumerate() {
        let at = path.index(index).child("jsonPath");
        let target = field.text("jsonPath");
        if !e.need(&at, target) {
            continue;
        }
        let (found, schema) = match named_field(target, root) {
            Ok(found) => found,
            Err(why) => {
                e.invalid(&at, target, format!("is an invalid path: {why}"));
                continue;
            }
        };
        if found.as_str().split(['.', '[']).next() == Some("metadata") {
            e.invalid(&at, target, "must not point to fields in metadata");
        }
        if !["string", "boolean", "integer"].contains(&schema.text("type")) {
            let detail = "must point to a field of type string, boolean or integer. Enum string fields and strings with formats are allowed.";
            e.invalid(&at, target, detail);
        }
        if !seen.insert(found.as_str().to_owned()) {
            e.duplicate(&at, target);
        }
    }
    if seen.len() > MOST {
        e.add(Error::too_many(path, seen.len() as i64, MOST as i64));
    }
}

fn simple_path(e: &mut ErrorList, at: &Path, path: &str) -> bool {
    let good = path.starts_with('.');
    if !good {
        e.invalid(at, path, "must be a simple json path starting with .");
    }
    good
}

fn scale(e: &mut ErrorList, path: &Path, scale: &Value) {
    for (member, start) in [("specReplicasPath", ".spec."), ("statusReplicasPath", ".status.")] {
        let target = scale.text(member);
        let at = path.child(member);
        if e.need(&at, target) && simple_path(e, &at, target) && !target.starts_with(start) {
            let detail = format!("should be a json path under {}", &start[..start.len() - 1]);
            e.invalid(&path.child(member), target, detail);
        }
    }
    let selector = scale.text("labelSelectorPath");
    let at = path.child("labelSelectorPath");
    let good = selector.is_empty()
        || (simple_path(e, &at, selector) && [".spec.", ".status."].iter().any(|start| selector.starts_with(start)));
    if !good && selector.starts_with('.') {
        let detail = "should be a json path under either .spec or .status";
        e.invalid(&path.child("labelSelectorPath"), selector, detail);
    }
}

fn check_names(e: &mut ErrorList, path: &Path, names: &Value) {
    for member in ["plural", "singular", "kind", "listKind"] {
        e.need(&path.child(member), names.text(member));
    }
    check_name_forms(e, path, names);
}

fn check_name_forms(e: &mut ErrorList, path: &Path, names: &Value) {
    let mut label = |at: &Path, name: &str, mixed: bool| {
        let problems = rules::is_dns1035_label(&if mixed { name.to_lowercase() } else { name.to_owned() });
        if !name.is_empty() && !problems.is_empty() {
            let words = if mixed { "may have mixed case, but should otherwise match: " } else { "" };
            e.invalid(at, name, format!("{words}{}", problems.join(",")));
        }
    };
    for member in ["plural", "singular"] {
        label(&path.child(member), names.text(member), false);
    }
    for member in ["kind", "listKind"] {
        label(&path.child(member), names.text(member), true);
    }
    for member in ["shortNames", "categories"] {
        for (index, name) in names.texts(member).into_iter().enumerate() {
            label(&path.child(member).index(index), name, false);
        }
    }
    if !names.text("kind").is_empty() && names.text("kind") == names.text("listKind") {
        let detail = "kind and listKind may not be the same";
        e.invalid(&path.child("listKind"), names.text("listKind"), detail);
    }
}

fn conversion(e: &mut ErrorList, path: &Path, conversion: &Value) {
    let strategy = conversion.text("strategy");
    e.one_of(&path.child("strategy"), strategy, &["None", "Webhook"]);
    let at = path.child("webhookClientConfig");
    let webhook = conversion.at("webhook");
    if strategy == "Webhook" {
        let versions = webhook.texts("conversionReviewVersions");
        let field = path.child("conversionReviewVersions");
        if webhook.at("clientConfig").is_null() {
            e.required(&at, "required when strategy is set to Webhook");
        } else {
            check_client(e, &at, webhook.at("clientConfig"));
        }
        if versions.is_empty() {
            e.required(&field, "");
        } else if !versions.iter().any(|version| ["v1", "v1beta1"].contains(version)) {
            let value = webhook.at("conversionReviewVersions").clone();
            e.invalid(&field, value, "must include at least one of v1, v1beta1");
        }
    } else {
        let versions = path.child("conversionReviewVersions");
        let set = [(at, webhook.has("clientConfig")), (versions, !webhook.list("conversionReviewVersions").is_empty())];
        for (at, _) in set.into_iter().filter(|(_, set)| *set) {
            e.forbidden(&at, "should not be set when strategy is not set to Webhook");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn errors(versions: Value) -> Vec<String> {
        let crd = json!({
            "metadata": {"name": "foos.example.com"},
            "spec": {"group": "example.com", "scope": "Cluster", "conversion": {"strategy": "None"}, "versions": versions,
                "names": {"plural": "foos", "singular": "foo", "kind": "Foo", "listKind": "FooList"}},
            "status": {"storedVersions": ["v1"]},
        });
        check(&crd, None).iter().map(ToString::to_string).collect()
    }

    fn version(name: &str, schema: &Value, fields: &Value) -> Value {
        json!({"name": name, "served": true, "storage": name == "v1", "schema": schema, "selectableFields": fields})
    }

    #[test]
    fn what_all_versions_say_alike_is_told_of_once() {
        let good = json!({"openAPIV3Schema": {"type": "object"}});
        let bad = json!({"openAPIV3Schema": {}});
        let field = json!([{"jsonPath": "a"}]);
        const AT_ROOT: &str = "type: Required value: must not be empty at the root";
        assert_eq!(
            errors(json!([version("v1", &bad, &Value::Null), version("v2", &bad, &Value::Null)])),
            [format!("spec.validation.openAPIV3Schema.{AT_ROOT}")]
        );
        assert_eq!(
            errors(json!([version("v1", &good, &Value::Null), version("v2", &bad, &Value::Null)])),
            [format!("spec.versions[1].schema.openAPIV3Schema.{AT_ROOT}")]
        );
        assert_eq!(
            errors(json!([version("v1", &good, &field)])),
            [
                r#"spec.selectableFields[0].jsonPath: Invalid value: "a": is an invalid path: expected [ or . but got: a"#
            ]
        );
    }
}
