//! A v3 path item or schema as its v2 counterpart. What v2 cannot say is left out the way that upstream leaves it out,
//! since kubectl refuses a whole document for one schema that it cannot read.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value, json};

const METHODS: [&str; 7] = ["get", "put", "post", "delete", "options", "head", "patch"];

/// What both versions say alike about a schema. There are no defaults: upstream publishes none in v2.
const SHARED: [&str; 19] = [
    "description",
    "enum",
    "example",
    "exclusiveMaximum",
    "exclusiveMinimum",
    "externalDocs",
    "format",
    "maxItems",
    "maxLength",
    "maxProperties",
    "maximum",
    "minItems",
    "minLength",
    "minProperties",
    "minimum",
    "multipleOf",
    "pattern",
    "title",
    "uniqueItems",
];

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

fn take(from: &mut Map<String, Value>, name: &str) -> Option<Value> {
    from.get_mut(name).map(Value::take)
}

fn is_true(schema: &Map<String, Value>, name: &str) -> bool {
    schema.get(name) == Some(&Value::Bool(true))
}

/// See apiextensions-apiserver/pkg/controller/openapi/v2/conversion.go for custom resources.
pub(super) fn schema(schema: Value) -> Value {
    let mut old = object(schema);
    let mut new = Map::new();
    if let Some(model) = reference(&old) {
        // A reference is read without type and members, but with its text and extensions.
        new.insert("$ref".into(), format!("#/definitions/{model}").into());
        new.extend(old.into_iter().filter(|(name, _)| name == "description" || name.starts_with("x-")));
        return Value::Object(new);
    }
    let kind = old.get("x-kubernetes-group-version-kind").cloned();
    if let Some(kind) = kind.filter(|_| is_true(&old, "x-kubernetes-preserve-unknown-fields")) {
        // A whole custom resource: kubectl takes nothing for what is not named, so nothing is named.
        return json!({"type": "object", "x-kubernetes-group-version-kind": kind});
    }
    let untyped = is_true(&old, "nullable");
    let members = !untyped && !is_true(&old, "x-kubernetes-preserve-unknown-fields");
    let mut of_type = take(&mut old, "type").or_else(|| among_types(&old)).filter(|_| !untyped);
    let items = take(&mut old, "items").filter(|_| members);
    match of_type.as_ref().and_then(Value::as_str) {
        Some("array") if items.is_none() => of_type = None,
        Some("object") if !members => of_type = None,
        _ => {}
    }
    if let Some(of_type) = of_type {
        new.insert("type".into(), of_type);
    }
    if let Some(items) = items {
        new.insert("items".into(), self::schema(items));
    }
    let mut required = take(&mut old, "required");
    if let Some(value) = take(&mut old, "additionalProperties") {
        if value.get("nullable") == Some(&Value::Bool(true)) {
            required = None;
        }
        let value = if value.is_boolean() { value } else { self::schema(value) };
        new.insert("additionalProperties".into(), value);
    }
    if let Some(properties) = take(&mut old, "properties").filter(|_| members) {
        new.insert("properties".into(), self::properties(object(properties), &mut required).into());
    }
    if let Some(required) = required.filter(|names| names.as_array().is_some_and(|names| !names.is_empty())) {
        new.insert("required".into(), required);
    }
    new.extend(old.into_iter().filter(|(name, _)| SHARED.contains(&name.as_str()) || name.starts_with("x-")));
    Value::Object(new)
}

/// The members; one that may be null, which v2 cannot say, is required no longer.
fn properties(properties: Map<String, Value>, required: &mut Option<Value>) -> Map<String, Value> {
    let converted = |(name, property): (String, Value)| {
        if property.get("nullable") == Some(&Value::Bool(true))
            && let Some(Value::Array(names)) = required
        {
            names.retain(|required| required.as_str() != Some(&name));
        }
        (name, schema(property))
    };
    properties.into_iter().map(converted).collect()
}

/// The model that a schema refers to, by itself or, for the sake of siblings, as the only part of `allOf`.
fn reference(schema: &Map<String, Value>) -> Option<String> {
    let direct = schema.get("$ref");
    let wrapped = || match schema.get("allOf")?.as_array()?.as_slice() {
        [only] => only.get("$ref"),
        _ => None,
    };
    let reference = direct.or_else(wrapped)?.as_str()?;
    Some(reference.strip_prefix("#/components/schemas/")?.to_owned())
}

/// Of several types v2 gets one: the string that quantities and such are also written as.
fn among_types(schema: &Map<String, Value>) -> Option<Value> {
    let types = schema.get("oneOf")?.as_array()?;
    types.iter().find_map(|one| one.get("type").filter(|name| *name == "string")).cloned()
}

/// What is said of many paths alike is added to `shared`, and referred to.
pub(super) fn path_item(item: Value, shared: &mut Shared) -> Value {
    let mut convert = |(name, value): (String, Value)| match name.as_str() {
        "parameters" => Some((name, parameters(value, shared).into())),
        method if METHODS.contains(&method) => Some((name, operation(object(value), shared))),
        _ => None,
    };
    Value::Object(object(item).into_iter().filter_map(&mut convert).collect())
}

fn operation(mut operation: Map<String, Value>, shared: &mut Shared) -> Value {
    let (produces, responses) = responses(take(&mut operation, "responses").unwrap_or_default());
    let (consumes, body) = match take(&mut operation, "requestBody").map(object) {
        Some(mut body) => {
            let (media, schema) = content(&mut body);
            let mut parameter = json!({"name": "body", "in": "body"});
            if is_true(&body, "required") {
                parameter["required"] = true.into();
            }
            parameter["schema"] = schema;
            (media, Some(shared.refer(parameter)))
        }
        // Discovery takes what it gives; reads of resources take anything; texts say nothing of it.
        None if operation.contains_key("x-kubernetes-action") => (vec!["*/*".into()], None),
        None if responses.pointer("/200/schema/type").is_some() => (Vec::new(), None),
        None => (produces.clone(), None),
    };
    let own = take(&mut operation, "parameters").map(|own| parameters(own, shared)).unwrap_or_default();
    let all: Vec<Value> = body.into_iter().chain(own).collect();
    let mut new = Map::new();
    if !all.is_empty() {
        new.insert("parameters".into(), all.into());
    }
    if !consumes.is_empty() {
        new.insert("consumes".into(), consumes.into());
    }
    new.insert("produces".into(), produces.into());
    new.insert("responses".into(), responses);
    new.insert("schemes".into(), json!(["https"]));
    let kept = |name: &str| {
        matches!(name, "deprecated" | "description" | "operationId" | "summary" | "tags") || name.starts_with("x-")
    };
    new.extend(operation.into_iter().filter(|(name, _)| kept(name)));
    new.sort_keys();
    Value::Object(new)
}

fn array(value: Value) -> Vec<Value> {
    match value {
        Value::Array(items) => items,
        _ => Vec::new(),
    }
}

/// The media types of a body and the one schema of it all. Server-side apply comes last: generated clients send the
/// first that they are offered.
fn content(body: &mut Map<String, Value>) -> (Vec<Value>, Value) {
    let mut media = Vec::new();
    let mut schema = Value::Null;
    for (name, mut entry) in take(body, "content").map(object).unwrap_or_default() {
        media.push(name);
        if schema.is_null() {
            schema = entry.get_mut("schema").map(|schema| self::schema(schema.take())).unwrap_or_default();
        }
    }
    media.sort_by_key(|name| (name.contains("apply-patch"), name.contains(";stream=")));
    (media.into_iter().map(Value::String).collect(), schema)
}

/// What the responses come as, and themselves.
fn responses(responses: Value) -> (Vec<Value>, Value) {
    let mut produces = Vec::new();
    let convert = |(code, response): (String, Value)| {
        let mut response = object(response);
        let (media, schema) = content(&mut response);
        let mut new = json!({"description": take(&mut response, "description")});
        if !schema.is_null() {
            new["schema"] = schema;
        }
        if produces.is_empty() {
            produces = media;
        }
        (code, new)
    };
    let responses = object(responses).into_iter().map(convert).collect();
    if produces.is_empty() {
        produces.push("*/*".into());
    }
    (produces, Value::Object(responses))
}

/// Parameters say their type themselves in v2.
fn parameters(parameters: Value, shared: &mut Shared) -> Vec<Value> {
    let convert = |parameter: Value| {
        let mut old = object(parameter);
        let mut schema = old.remove("schema").map(object).unwrap_or_default();
        let mut new = Map::new();
        for name in ["uniqueItems", "type", "format"] {
            new.extend(schema.remove(name).map(|value| (name.to_owned(), value)));
        }
        for name in ["description", "name", "in", "required"] {
            new.extend(old.remove(name).map(|value| (name.to_owned(), value)));
        }
        shared.refer(Value::Object(new))
    };
    array(parameters).into_iter().map(convert).collect()
}

/// Parameters that paths refer to instead of repeating them (kube-openapi/pkg/builder/parameters.go), by name.
#[derive(Default)]
pub(super) struct Shared(pub BTreeMap<String, Value>);

impl Shared {
    /// A reference, but for what is told of one type only, and for what older kubectls look for in place to know what a
    /// server can do. Its members come in the order that Go writes them, since the name holds a hash of that text.
    fn refer(&mut self, parameter: Value) -> Value {
        let text = |pointer: &str| parameter.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
        let in_place = match (text("/in"), text("/name")) {
            ("query" | "path", "name") | ("query", "fieldValidation" | "dryRun") => true,
            ("body", _) => !text("/schema/$ref").starts_with("#/definitions/io.k8s.apimachinery"),
            _ => false,
        };
        if in_place {
            return parameter;
        }
        let written = parameter.to_string().replace('<', "\\u003c").replace('>', "\\u003e").replace('&', "\\u0026");
        let hash = URL_SAFE_NO_PAD.encode(&fnv64(written.as_bytes()).to_be_bytes()[..6]);
        let name = format!("{}-{hash}", text("/name"));
        let reference = json!({"$ref": format!("#/parameters/{name}")});
        self.0.entry(name).or_insert(parameter);
        reference
    }
}

fn fnv64(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| hash.wrapping_mul(0x0100_0000_01b3) ^ u64::from(*byte))
}
