//! Embedded resources are whole objects: they say their kind, and their metadata is metadata
//! (apiextensions-apiserver/pkg/apiserver/schema/objectmeta).

use serde_json::{Map, Value};

use super::Node;
use crate::field::{Error, ErrorList, Path};
use crate::gvk::GroupVersion;
use crate::validation;

impl Node {
    /// What is wrong with the embedded resources in `value`.
    pub fn embedded(&self, path: &Path, value: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        self.check_embedded(path, value, &mut errors);
        errors
    }

    fn check_embedded(&self, path: &Path, value: &Value, errors: &mut ErrorList) {
        match value {
            Value::Object(members) => {
                if self.embedded {
                    check_resource(path, members, errors);
                }
                for (name, value) in members {
                    if let Some(node) = self.properties.get(name) {
                        node.check_embedded(&path.child(name), value, errors);
                    } else if let Some(node) = self.member(name) {
                        node.check_embedded(&path.key(name), value, errors);
                    }
                }
            }
            Value::Array(items) => {
                for (index, item) in items.iter().enumerate() {
                    if let Some(node) = &self.items {
                        node.check_embedded(&path.index(index), item, errors);
                    }
                }
            }
            _ => {}
        }
    }
}

fn check_resource(path: &Path, members: &Map<String, Value>, errors: &mut ErrorList) {
    for name in ["apiVersion", "kind"] {
        let at = path.child(name);
        match members.get(name) {
            None => errors.push(Error::required(&at, "")),
            Some(Value::String(text)) if text.is_empty() => {
                errors.push(Error::invalid(&at, "", "must not be empty"));
            }
            Some(Value::String(text)) if name == "apiVersion" => {
                if let Err(error) = GroupVersion::parse(text) {
                    errors.push(Error::invalid(&at, text.as_str(), error.to_string()));
                }
            }
            Some(Value::String(text)) => {
                let problems = validation::is_dns1035_label(&text.to_lowercase());
                if !problems.is_empty() {
                    let detail = format!("may have mixed case, but should otherwise match: {}", problems.join(","));
                    errors.push(Error::invalid(&at, text.as_str(), detail));
                }
            }
            Some(value) => errors.push(Error::invalid(&at, value.clone(), "must be a string")),
        }
    }
    let at = path.child("metadata");
    match members.get("metadata") {
        None | Some(Value::Null) => {}
        Some(Value::Object(metadata)) => {
            let mut metadata = metadata.clone();
            // A name may be missing here.
            if metadata.get("name").and_then(Value::as_str).unwrap_or("").is_empty() {
                metadata.insert("name".into(), "fakename".into());
            }
            let namespaced = metadata.get("namespace").and_then(Value::as_str).is_some_and(|name| !name.is_empty());
            let metadata = Value::Object(metadata);
            errors.extend(validation::object_meta(&metadata, namespaced, validation::name_is_path_segment, &at));
        }
        Some(other) => errors.push(Error::invalid(&at, other.clone(), "must be an object")),
    }
}
