//! The apiextensions.k8s.io group: CustomResourceDefinitions as objects. What they make servable is `custom`'s and the
//! server's.

mod schema;
pub mod status;

use std::collections::BTreeSet;

use serde_json::{Value, json};
use skeg_machinery::field::{Error, ErrorList, Path};
use skeg_machinery::jsonpath::JsonPath;
use skeg_machinery::structural::is_known_format;
use skeg_machinery::text::quote;
use skeg_machinery::validation as rules;

use crate::admissionregistration::check_client;
use crate::builder::Def;
use crate::check::{IMMUTABLE, Report};
use crate::columns::{self, condition_true};
use crate::json::{Read, Write};
use crate::rules::{Part, Rules};
use crate::spec::ResourceSpec;

pub fn custom_resource_definition() -> ResourceSpec {
    Def::new("apiextensions.k8s.io", "v1", "customresourcedefinitions", "CustomResourceDefinition")
        .cluster()
        .short(&["crd", "crds"])
        .categories(&["api-extensions"])
        .status(Part::status(|crd, _| {
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
    let spec = crd.at("spec");
    let own = crd.text("metadata.name");
    if old.is_none() && own != format!("{}.{}", spec.text("names.plural"), spec.text("group")) {
        let detail = "must be spec.names.plural+\".\"+spec.group";
        e.invalid(&Path::new("metadata").child("name"), own, detail);
    }
    let group = spec.text("group");
    if e.need(&path.child("group"), group) {
        let problems = rules::is_dns1123_subdomain(group);
        if !problems.is_empty() {
            e.invalid(&path.child("group"), group, problems.join(","));
        } else if !group.contains('.') {
            e.invalid(&path.child("group"), group, "should be a domain with at least one dot");
        }
    }
    e.one_of(&path.child("scope"), spec.text("scope"), &["Cluster", "Namespaced"]);
    if spec.flag("preserveUnknownFields") && !old.is_some_and(|old| old.flag("spec.preserveUnknownFields")) {
        let detail =
            "cannot set to true, set x-kubernetes-preserve-unknown-fields to true in spec.versions[*].schema instead";
        e.invalid(&path.child("preserveUnknownFields"), true, detail);
    }
    versions(&mut e, &path.child("versions"), spec, old.map(|old| old.at("spec")));
    check_names(&mut e, &path.child("names"), spec.at("names"));
    conversion(&mut e, &path.child("conversion"), spec.at("conversion"));
    if let Some(old) = old.filter(|old| condition_true(old, "status.conditions", "Established")) {
        for member in ["group", "scope", "names.plural", "names.kind"] {
            if spec.at(member) != old.at("spec").at(member) {
                let at = member.split('.').fold(path.clone(), |path, name| path.child(name));
                e.invalid(&at, spec.at(member).clone(), IMMUTABLE);
            }
        }
    }
    check_approval(&mut e, crd, old);
    check_status(&mut e, crd);
    stored_versions(&mut e, crd);
    e
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
    for version in crd.list("spec.versions") {
        let name = version.text("name");
        known.insert(name);
        if version.flag("storage") && !stored.contains(&name) {
            e.invalid(&path, value.clone(), format!("must have the storage version {name}"));
        }
    }
    for (index, name) in stored.into_iter().enumerate().filter(|(_, name)| !known.contains(name)) {
        let detail = format!(
            "missing from spec.versions; {name} was previously a storage version, and must remain in spec.versions until a storage migration ensures no data remains persisted in {name} and removes {name} from status.storedVersions"
        );
        e.invalid(&path.index(index), name, detail);
    }
}

fn versions(e: &mut ErrorList, path: &Path, spec: &Value, old: Option<&Value>) {
    let all = spec.list("versions");
    for (index, version) in all.iter().enumerate() {
        if !version.has("schema.openAPIV3Schema") {
            e.required(&path.index(index).child("schema").child("openAPIV3Schema"), "");
        }
    }
    for (index, version) in all.iter().enumerate() {
        let at = path.index(index);
        let name = version.text("name");
        let problems = rules::is_dns1035_label(name);
        if !problems.is_empty() {
            e.invalid(&at.child("name"), name, problems.join(","));
        }
        let before = old.and_then(|old| old.list("versions").iter().find(|other| other.text("name") == name));
        check_version(e, &at, version, before);
        selectable_fields(e, &at.child("selectableFields"), version);
    }
    let names: BTreeSet<&str> = all.iter().map(|version| version.text("name")).collect();
    let value = spec.at("versions");
    if names.len() < all.len() {
        e.invalid(path, value.clone(), "must contain unique version names");
    }
    if all.iter().filter(|version| version.flag("storage")).count() != 1 {
        e.invalid(path, value.clone(), "must have exactly one version marked as storage version");
    }
}

fn check_version(e: &mut ErrorList, path: &Path, version: &Value, before: Option<&Value>) {
    if let Some(warning) = version.opt_text("deprecationWarning") {
        let at = path.child("deprecationWarning");
        let problem = if !version.flag("deprecated") {
            "can only be set for deprecated versions"
        } else if warning.len() > 256 {
            "must be <= 256 characters long"
        } else if warning.is_empty() {
            "must not be an empty string"
        } else {
            ""
        };
        if !problem.is_empty() {
            e.invalid(&at, warning, problem);
        }
    }
    let root = version.at("schema.openAPIV3Schema");
    if !root.is_null() {
        let status =
            version.at("subresources").map("").is_some_and(|parts| parts.get("status").is_some_and(Value::is_object));
        let known = before.is_some_and(|before| before.at("schema.openAPIV3Schema") == root);
        schema::check(e, &path.child("schema").child("openAPIV3Schema"), root, status, known);
    }
    if version.has("subresources.scale") {
        scale(e, &path.child("subresources").child("scale"), version.at("subresources.scale"));
    }
    for (index, column) in version.list("additionalPrinterColumns").iter().enumerate() {
        let at = path.child("additionalPrinterColumns").index(index);
        e.need(&at.child("name"), column.text("name"));
        let types = ["boolean", "date", "integer", "number", "string"];
        match column.text("type") {
            "" => e.required(&at.child("type"), "must be one of boolean,date,integer,number,string"),
            kind if !types.contains(&kind) => {
                e.invalid(&at.child("type"), kind, "must be one of boolean,date,integer,number,string");
            }
            _ => {}
        }
        let path = column.text("jsonPath");
        if e.need(&at.child("jsonPath"), path) {
            simple_path(e, &at.child("jsonPath"), path);
        }
    }
}

/// Each leads to a scalar of the schema, outside of metadata, and none is there twice.
fn selectable_fields(e: &mut ErrorList, path: &Path, version: &Value) {
    const MOST: usize = 8;
    let mut seen = BTreeSet::new();
    for (index, field) in version.list("selectableFields").iter().enumerate() {
        let at = path.index(index).child("jsonPath");
        let target = field.text("jsonPath");
        if !e.need(&at, target) {
            continue;
        }
        let parsed = JsonPath::parse(target).ok();
        let Some(names) = parsed.as_ref().and_then(JsonPath::members).filter(|names| !names.is_empty()) else {
            e.invalid(&at, target, "is an invalid path: does not refer to a valid field");
            continue;
        };
        let below = |schema: &'_ Value, name: &&str| -> Option<Value> {
            let own = schema.map("properties").and_then(|all| all.get(*name)).cloned();
            own.or_else(|| Some(schema.at("additionalProperties").clone()).filter(Value::is_object))
        };
        let root = version.at("schema.openAPIV3Schema").clone();
        let found = names.iter().try_fold(root, |schema, name| below(&schema, name));
        if names[0] == "metadata" {
            e.invalid(&at, target, "must not point to fields in metadata");
        } else {
            match found {
                None => {
                    e.invalid(&at, target, "is an invalid path: does not refer to a valid field");
                    continue;
                }
                Some(found) if !["string", "boolean", "integer"].contains(&found.text("type")) => {
                    let detail = "must point to a field of type string, boolean or integer. Enum string fields and strings with formats are allowed.";
                    e.invalid(&at, target, detail);
                }
                Some(_) => {}
            }
        }
        if !seen.insert(names.join(".")) {
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
    } else if webhook.has("clientConfig") {
        e.forbidden(&at, "should not be set when strategy is not set to Webhook");
    }
}
