//! CustomResourceDefinitions as upstream stores them: in v1beta1, whose spec has what all versions share only once (upstream
//! apiextensions-apiserver/pkg/apis/apiextensions/{v1,v1beta1}/conversion.go). Both directions, over trees.

use serde_json::{Map, Value};

pub const V1: &str = "apiextensions.k8s.io/v1";
pub const V1BETA1: &str = "apiextensions.k8s.io/v1beta1";
pub const KIND: &str = "CustomResourceDefinition";

/// Fields of a version, and what the spec calls them, in the order of the spec before and behind the versions.
const SHARED: [(&str, &str); 4] = [
    ("schema", "validation"),
    ("subresources", "subresources"),
    ("additionalPrinterColumns", "additionalPrinterColumns"),
    ("selectableFields", "selectableFields"),
];

/// v1 to v1beta1, with fields in Go's order.
pub fn to_v1beta1(mut object: Value) -> Value {
    object["apiVersion"] = V1BETA1.into();
    let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut) else { return object };
    let mut versions = spec.remove("versions").unwrap_or_default();
    let list = versions.as_array_mut().map(Vec::as_mut_slice).unwrap_or_default();
    let first = list.first().and_then(|version| version.get("name")).cloned();
    let mut shared = Map::new();
    for (field, above) in SHARED {
        let mut values = list.iter().map(|version| version.get(field).unwrap_or(&Value::Null));
        let Some(one) = values.next().cloned() else { continue };
        if values.all(|value| *value == one) {
            list.iter_mut().filter_map(Value::as_object_mut).for_each(|version| drop(version.shift_remove(field)));
            if !one.is_null() {
                shared.insert(above.to_owned(), one);
            }
        }
    }
    let mut out = Map::new();
    let mut put = |name: &str, value: Option<Value>| {
        if let Some(value) = value {
            out.insert(name.to_owned(), value);
        }
    };
    put("group", spec.remove("group"));
    put("version", first);
    put("names", spec.remove("names"));
    put("scope", spec.remove("scope"));
    put("validation", shared.remove("validation"));
    put("subresources", shared.remove("subresources"));
    for version in list.iter_mut() {
        rename_path(version.get_mut("additionalPrinterColumns"), "jsonPath", "JSONPath");
    }
    put("versions", Some(versions));
    let mut columns = shared.remove("additionalPrinterColumns");
    rename_path(columns.as_mut(), "jsonPath", "JSONPath");
    put("additionalPrinterColumns", columns);
    put("selectableFields", shared.remove("selectableFields"));
    put("conversion", spec.remove("conversion").map(conversion_to_v1beta1));
    put("preserveUnknownFields", Some(spec.remove("preserveUnknownFields").unwrap_or(Value::Bool(false))));
    *spec = out;
    object
}

/// v1beta1 to v1; whoever encodes it puts fields in order.
pub fn to_v1(mut object: Value) -> Value {
    object["apiVersion"] = V1.into();
    let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut) else { return object };
    let first = spec.remove("version");
    let versions = spec.entry("versions").or_insert_with(|| Value::Array(Vec::new()));
    if let (Some(list), Some(name)) = (versions.as_array_mut(), first)
        && list.is_empty()
    {
        list.push(serde_json::json!({"name": name, "served": true, "storage": true}));
    }
    let mut versions = versions.take();
    for (field, above) in SHARED {
        let Some(value) = spec.remove(above) else { continue };
        for version in versions.as_array_mut().into_iter().flatten().filter_map(Value::as_object_mut) {
            version.insert(field.to_owned(), value.clone());
        }
    }
    for version in versions.as_array_mut().into_iter().flatten() {
        rename_path(version.get_mut("additionalPrinterColumns"), "JSONPath", "jsonPath");
    }
    spec.insert("versions".to_owned(), versions);
    if let Some(conversion) = spec.remove("conversion") {
        spec.insert("conversion".to_owned(), conversion_to_v1(conversion));
    }
    if spec.get("preserveUnknownFields") == Some(&Value::Bool(false)) {
        spec.remove("preserveUnknownFields");
    }
    object
}

fn rename_path(columns: Option<&mut Value>, from: &str, to: &str) {
    for column in columns.and_then(Value::as_array_mut).into_iter().flatten().filter_map(Value::as_object_mut) {
        if let Some(path) = column.shift_remove(from) {
            column.insert(to.to_owned(), path);
        }
    }
}

fn conversion_to_v1beta1(mut conversion: Value) -> Value {
    let Some(map) = conversion.as_object_mut() else { return conversion };
    if let Some(Value::Object(mut webhook)) = map.remove("webhook") {
        for (field, above) in
            [("clientConfig", "webhookClientConfig"), ("conversionReviewVersions", "conversionReviewVersions")]
        {
            if let Some(value) = webhook.remove(field) {
                map.insert(above.to_owned(), value);
            }
        }
    }
    conversion
}

fn conversion_to_v1(mut conversion: Value) -> Value {
    let Some(map) = conversion.as_object_mut() else { return conversion };
    let (config, versions) = (map.remove("webhookClientConfig"), map.remove("conversionReviewVersions"));
    if config.is_some() || versions.is_some() {
        let fields = [("clientConfig", config), ("conversionReviewVersions", versions)];
        let webhook: Map<_, _> =
            fields.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect();
        map.insert("webhook".to_owned(), webhook.into());
    }
    conversion
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn v1(versions: Value) -> Value {
        json!({"kind": KIND, "apiVersion": V1, "metadata": {"name": "widgets.example.com"}, "spec": {
            "group": "example.com", "names": {"plural": "widgets", "kind": "Widget"}, "scope": "Namespaced",
            "versions": versions,
            "conversion": {"strategy": "Webhook", "webhook": {
                "clientConfig": {"url": "https://a"}, "conversionReviewVersions": ["v1"]}},
        }})
    }

    #[test]
    fn what_all_versions_share_is_in_the_spec() {
        let schema = json!({"openAPIV3Schema": {"type": "object"}});
        let columns = json!([{"name": "N", "type": "string", "jsonPath": ".spec.n"}]);
        let version = |name: &str, columns: &Value| {
            json!({"name": name, "served": true, "storage": name == "v1", "schema": schema,
                "additionalPrinterColumns": columns})
        };
        let object = v1(json!([version("v1", &columns), version("v2", &json!([]))]));
        let stored = to_v1beta1(object.clone());
        let spec = &stored["spec"];
        let fields: Vec<&String> = spec.as_object().unwrap().keys().collect();
        let wanted =
            ["group", "version", "names", "scope", "validation", "versions", "conversion", "preserveUnknownFields"];
        assert_eq!(fields, wanted);
        assert_eq!((&spec["version"], &spec["validation"]), (&json!("v1"), &schema));
        assert_eq!(spec["versions"][0]["additionalPrinterColumns"][0]["JSONPath"], ".spec.n");
        assert!(spec["versions"][0].get("schema").is_none());
        assert_eq!(spec["conversion"]["webhookClientConfig"]["url"], "https://a");
        assert_eq!(to_v1(stored), object);
    }

    #[test]
    fn a_definition_of_old_has_one_version_that_it_only_names() {
        let old = json!({"kind": KIND, "apiVersion": V1BETA1, "spec": {"group": "g", "version": "v1",
            "validation": {"openAPIV3Schema": {"type": "object"}}, "subresources": {"status": {}}}});
        let read = to_v1(old);
        let version = json!({"name": "v1", "served": true, "storage": true,
            "schema": {"openAPIV3Schema": {"type": "object"}}, "subresources": {"status": {}}});
        assert_eq!(read["spec"], json!({"group": "g", "versions": [version]}));
    }
}
