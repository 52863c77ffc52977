//! Object metadata and label selectors, over JSON. The rules of apimachinery/pkg/api/validation and
//! apis/meta/v1/validation; kinds add their own in the catalog.

use serde_json::Value;

use super::{FIELD_IMMUTABLE, TOTAL_ANNOTATION_SIZE, is_qualified_name, is_valid_label_value, name_is_dns_label};
use crate::field::{Error, ErrorList, Path};
use crate::gvk::GroupVersion;

fn text<'a>(object: &'a Value, key: &str) -> &'a str {
    object.get(key).and_then(Value::as_str).unwrap_or("")
}

fn array<'a>(object: &'a Value, key: &str) -> &'a [Value] {
    object.get(key).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// Validates `metadata` of an object to be created, or of any object at rest.
pub fn object_meta(
    meta: &Value,
    namespaced: bool,
    name_fn: impl Fn(&str, bool) -> Vec<String>,
    path: &Path,
) -> ErrorList {
    let mut errors = ErrorList::new();
    let (name, generate_name, namespace) = (text(meta, "name"), text(meta, "generateName"), text(meta, "namespace"));
    if !generate_name.is_empty() {
        let at = path.child("generateName");
        errors.extend(name_fn(generate_name, true).into_iter().map(|m| Error::invalid(&at, generate_name, m)));
    }
    let at = path.child("name");
    if name.is_empty() {
        errors.push(Error::required(&at, "name or generateName is required"));
    } else {
        errors.extend(name_fn(name, false).into_iter().map(|message| Error::invalid(&at, name, message)));
    }
    let at = path.child("namespace");
    match (namespaced, namespace.is_empty()) {
        (true, true) => errors.push(Error::required(&at, "")),
        (true, false) => {
            let messages = name_is_dns_label(namespace, false);
            errors.extend(messages.into_iter().map(|message| Error::invalid(&at, namespace, message)));
        }
        (false, false) => errors.push(Error::forbidden(&at, "not allowed on this type")),
        (false, true) => {}
    }
    let generation = meta.get("generation").and_then(Value::as_i64).unwrap_or(0);
    errors.extend(nonnegative(generation, &path.child("generation")));
    errors.extend(common(meta, path));
    let names: Vec<&str> = array(meta, "finalizers").iter().filter_map(Value::as_str).collect();
    // Upstream reports finalizers before managedFields.
    let managed = managed_fields(meta, path);
    errors.extend(finalizers(&names, &path.child("finalizers")));
    errors.extend(managed);
    errors
}

fn common(meta: &Value, path: &Path) -> ErrorList {
    let mut errors = labels(meta.get("labels").unwrap_or(&Value::Null), &path.child("labels"));
    errors.extend(annotations(meta.get("annotations").unwrap_or(&Value::Null), &path.child("annotations")));
    errors.extend(owner_references(array(meta, "ownerReferences"), &path.child("ownerReferences")));
    errors
}

/// Validates `metadata` of an update against what is stored.
pub fn object_meta_update(new: &Value, old: &Value, path: &Path) -> ErrorList {
    let mut errors = ErrorList::new();
    if old.get("deletionTimestamp").is_some_and(|at| !at.is_null()) {
        let old: Vec<&Value> = array(old, "finalizers").iter().collect();
        let mut extra: Vec<&str> =
            array(new, "finalizers").iter().filter(|f| !old.contains(f)).filter_map(Value::as_str).collect();
        extra.sort_unstable();
        extra.dedup();
        if !extra.is_empty() {
            let list: Vec<String> = extra.iter().map(|name| crate::text::quote(name)).collect();
            let detail = format!(
                "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
                list.join(", ")
            );
            errors.push(Error::forbidden(&path.child("finalizers"), detail));
        }
    }
    if text(new, "resourceVersion").is_empty() {
        errors.push(Error::invalid(&path.child("resourceVersion"), "", "must be specified for an update"));
    }
    let generation = |meta: &Value| meta.get("generation").and_then(Value::as_i64).unwrap_or(0);
    if generation(new) < generation(old) {
        errors.push(Error::invalid(&path.child("generation"), generation(new), "must not be decremented"));
    }
    for key in ["name", "namespace", "uid"] {
        errors.extend(immutable_field(&text(new, key).into(), &text(old, key).into(), &path.child(key)));
    }
    for key in ["creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds"] {
        let get = |meta: &Value| meta.get(key).cloned().unwrap_or(Value::Null);
        errors.extend(immutable_field(&get(new), &get(old), &path.child(key)));
    }
    errors.extend(common(new, path));
    errors.extend(managed_fields(new, path));
    errors
}

/// `field is immutable` if the values differ.
pub fn immutable_field(new: &Value, old: &Value, path: &Path) -> ErrorList {
    if new == old { ErrorList::new() } else { vec![Error::invalid(path, new.clone(), FIELD_IMMUTABLE)].into() }
}

pub fn nonnegative(value: i64, path: &Path) -> ErrorList {
    if value >= 0 {
        return ErrorList::new();
    }
    vec![Error::invalid(path, value, "must be greater than or equal to 0")].into()
}

/// A JSON map of labels; anything else has none.
pub fn labels(map: &Value, path: &Path) -> ErrorList {
    let mut errors = ErrorList::new();
    for (key, value) in map.as_object().into_iter().flatten() {
        errors.extend(is_qualified_name(key).into_iter().map(|message| Error::invalid(path, key.as_str(), message)));
        let value = value.as_str().unwrap_or("");
        errors.extend(is_valid_label_value(value).into_iter().map(|message| Error::invalid(path, value, message)));
    }
    errors
}

pub fn annotations(map: &Value, path: &Path) -> ErrorList {
    let mut errors = ErrorList::new();
    let mut size = 0;
    for (key, value) in map.as_object().into_iter().flatten() {
        let messages = is_qualified_name(&key.to_lowercase());
        errors.extend(messages.into_iter().map(|message| Error::invalid(path, key.as_str(), message)));
        size += key.len() + value.as_str().map_or(0, str::len);
    }
    if size > TOTAL_ANNOTATION_SIZE {
        errors.push(Error::too_long(path, TOTAL_ANNOTATION_SIZE as i64));
    }
    errors
}

pub fn owner_references(references: &[Value], path: &Path) -> ErrorList {
    let mut errors = ErrorList::new();
    let mut controller: Option<String> = None;
    for reference in references {
        let (api_version, kind) = (text(reference, "apiVersion"), text(reference, "kind"));
        let version = GroupVersion::parse(api_version).unwrap_or_default();
        if version.version.is_empty() {
            errors.push(Error::invalid(&path.child("apiVersion"), api_version, "version must not be empty"));
        }
        for key in ["kind", "name", "uid"] {
            if text(reference, key).is_empty() {
                errors.push(Error::invalid(&path.child(key), "", "must not be empty"));
            }
        }
        if api_version == "v1" && kind == "Event" {
            let detail = "/v1, Kind=Event is disallowed from being an owner";
            errors.push(Error::invalid(path, reference.clone(), detail));
        }
        if reference.get("controller") == Some(&Value::Bool(true)) {
            let this = format!("{kind}/{}", text(reference, "name"));
            match &controller {
                None => controller = Some(this),
                Some(first) => {
                    let detail = format!(
                        "Only one reference can have Controller set to true. Found \"true\" in references for {first} and {this}"
                    );
                    errors.push(Error::invalid(path, references.to_vec(), detail));
                }
            }
        }
    }
    errors
}

pub fn finalizers(names: &[&str], path: &Path) -> ErrorList {
    let mut errors = ErrorList::new();
    for name in names {
        errors.extend(is_qualified_name(name).into_iter().map(|message| Error::invalid(path, *name, message)));
    }
    if names.contains(&"orphan") && names.contains(&"foregroundDeletion") {
        let detail = "finalizer orphan and foregroundDeletion cannot be both set";
        errors.push(Error::invalid(path, names.iter().map(|name| Value::from(*name)).collect::<Vec<_>>(), detail));
    }
    errors
}

/// Finalizers that have no domain are standard ones (pkg/apis/core/validation).
pub fn standard_finalizers(meta: &Value, path: &Path) -> ErrorList {
    let mut errors = ErrorList::new();
    for (index, name) in array(meta, "finalizers").iter().filter_map(Value::as_str).enumerate() {
        if !name.contains('/') && !matches!(name, "kubernetes" | "orphan" | "foregroundDeletion") {
            let detail = "name is neither a standard finalizer name nor is it fully qualified";
            errors.push(Error::invalid(&path.child("finalizers").index(index), name, detail));
        }
    }
    errors
}

/// The entries of `metadata.managedFields`.
pub fn managed_fields(meta: &Value, path: &Path) -> ErrorList {
    let mut errors = ErrorList::new();
    for (index, entry) in array(meta, "managedFields").iter().enumerate() {
        let path = path.child("managedFields").index(index);
        let operation = text(entry, "operation");
        if operation != "Apply" && operation != "Update" {
            errors.push(Error::invalid(&path.child("operation"), operation, "must be `Apply` or `Update`"));
        }
        let fields_type = text(entry, "fieldsType");
        if !fields_type.is_empty() && fields_type != "FieldsV1" {
            errors.push(Error::invalid(&path.child("fieldsType"), fields_type, "must be `FieldsV1`"));
        }
        errors.extend(field_manager(text(entry, "manager"), &path.child("manager")));
        if text(entry, "subresource").len() > 256 {
            errors.push(Error::too_long(&path.child("subresource"), 256));
        }
    }
    errors
}

/// The name of a field manager, from options or managedFields.
pub fn field_manager(manager: &str, path: &Path) -> ErrorList {
    let mut errors = ErrorList::new();
    if manager.len() > 128 {
        errors.push(Error::too_long(path, 128));
    }
    for (at, c) in manager.char_indices().filter(|(_, c)| c.is_control()) {
        let detail = format!("invalid character U+{:04X} (at position {at})", c as u32);
        errors.push(Error::invalid(path, manager, detail));
    }
    errors
}

/// The `dryRun` option.
pub fn dry_run(values: &[&str], path: &Path) -> ErrorList {
    if values.iter().all(|value| *value == "All") {
        return ErrorList::new();
    }
    let shown: Vec<Value> = values.iter().map(|value| Value::from(*value)).collect();
    vec![Error::not_supported(path, shown, &["All"])].into()
}

/// The `fieldValidation` option.
pub fn field_validation(value: &str, path: &Path) -> ErrorList {
    if ["", "Ignore", "Strict", "Warn"].contains(&value) {
        return ErrorList::new();
    }
    vec![Error::not_supported(path, value, &["", "Ignore", "Strict", "Warn"])].into()
}

/// A metav1.LabelSelector as JSON; null is fine. `allow_invalid_values` spares stored objects that have them.
pub fn label_selector(selector: &Value, allow_invalid_values: bool, path: &Path) -> ErrorList {
    let mut errors = ErrorList::new();
    if let Some(map) = selector.get("matchLabels") {
        errors.extend(labels(map, &path.child("matchLabels")));
    }
    for (index, expression) in array(selector, "matchExpressions").iter().enumerate() {
        let path = path.child("matchExpressions").index(index);
        let values = array(expression, "values");
        let operator = text(expression, "operator");
        match operator {
            "In" | "NotIn" if values.is_empty() => {
                let detail = "must be specified when `operator` is 'In' or 'NotIn'";
                errors.push(Error::required(&path.child("values"), detail));
            }
            "Exists" | "DoesNotExist" if !values.is_empty() => {
                let detail = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
                errors.push(Error::forbidden(&path.child("values"), detail));
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            _ => errors.push(Error::invalid(&path.child("operator"), operator, "not a valid selector operator")),
        }
        let key = text(expression, "key");
        let at = path.child("key");
        errors.extend(is_qualified_name(key).into_iter().map(|message| Error::invalid(&at, key, message)));
        if !allow_invalid_values {
            for (index, value) in values.iter().enumerate() {
                let (at, value) = (path.child("values").index(index), value.as_str().unwrap_or(""));
                errors
                    .extend(is_valid_label_value(value).into_iter().map(|message| Error::invalid(&at, value, message)));
            }
        }
    }
    errors
}
