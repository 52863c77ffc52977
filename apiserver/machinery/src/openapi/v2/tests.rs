use serde_json::{Map, Value, json};

use super::*;
use crate::gvk::GroupVersion;
use crate::openapi::{self, tests::deployments};

fn apps(encoding: Encoding) -> Vec<u8> {
    let mut v2 = V2::new(encoding);
    v2.add(openapi::v3_document(&GroupVersion::from_static("apps", "v1"), &[deployments()]));
    v2.finish()
}

fn apps_json() -> Value {
    serde_json::from_slice(&apps(Encoding::Json)).unwrap()
}

#[test]
fn definitions_read_as_upstream_publishes_them() {
    let document = apps_json();
    let definition = |name: &str| {
        let mut definition = document["definitions"][name].clone();
        strip_descriptions(&mut definition);
        definition
    };
    assert_eq!(
        definition("io.k8s.api.apps.v1.DeploymentSpec")["properties"]["template"],
        json!({"$ref": "#/definitions/io.k8s.api.core.v1.PodTemplateSpec"})
    );
    assert_eq!(
        definition("io.k8s.api.core.v1.PodSpec")["properties"]["containers"],
        json!({
            "items": {"$ref": "#/definitions/io.k8s.api.core.v1.Container"}, "type": "array",
            "x-kubernetes-list-map-keys": ["name"], "x-kubernetes-list-type": "map",
            "x-kubernetes-patch-merge-key": "name", "x-kubernetes-patch-strategy": "merge",
        })
    );
    assert_eq!(definition("io.k8s.apimachinery.pkg.api.resource.Quantity"), json!({"type": "string"}));
    assert_eq!(
        definition("io.k8s.apimachinery.pkg.util.intstr.IntOrString"),
        json!({"type": "string", "format": "int-or-string"})
    );
    let deployment = &document["definitions"]["io.k8s.api.apps.v1.Deployment"];
    assert_eq!(
        deployment["x-kubernetes-group-version-kind"],
        json!([{"group": "apps", "kind": "Deployment", "version": "v1"}])
    );
    assert_eq!(deployment["description"], "Deployment enables declarative updates for Pods and ReplicaSets.");
}

fn strip_descriptions(value: &mut Value) {
    match value {
        Value::Object(map) => {
            if map.get("description").is_some_and(Value::is_string) {
                map.remove("description");
            }
            map.values_mut().for_each(strip_descriptions);
        }
        Value::Array(items) => items.iter_mut().for_each(strip_descriptions),
        _ => {}
    }
}

#[test]
fn operations_have_what_kubectl_looks_for() {
    let document = apps_json();
    let paths = &document["paths"];
    let patch = &paths["/apis/apps/v1/namespaces/{namespace}/deployments/{name}"]["patch"];
    // As upstream calls them: the names hold hashes of what they stand for.
    let references: Vec<&str> =
        patch["parameters"].as_array().unwrap().iter().filter_map(|one| one["$ref"].as_str()).collect();
    assert_eq!(
        references,
        ["#/parameters/body-78PwaGsr", "#/parameters/fieldManager-7c6nTn1T", "#/parameters/force-tOGGb0Yi"]
    );
    let places = &paths["/apis/apps/v1/namespaces/{namespace}/deployments/{name}"]["parameters"];
    assert_eq!(places[1]["$ref"], "#/parameters/namespace-vgWSWtn3");
    assert_eq!(document["parameters"]["namespace-vgWSWtn3"]["in"], "path");
    // Older kubectls look for these in place.
    let in_place: Vec<&str> =
        patch["parameters"].as_array().unwrap().iter().filter_map(|one| one["name"].as_str()).collect();
    assert_eq!(in_place, ["dryRun", "fieldValidation"]);
    assert_eq!(patch["consumes"][0], "application/json-patch+json");
    assert_eq!(patch["consumes"][3], "application/apply-patch+yaml");
    assert_eq!(patch["responses"]["201"]["schema"], json!({"$ref": "#/definitions/io.k8s.api.apps.v1.Deployment"}));
    assert_eq!(patch["responses"]["401"], json!({"description": "Unauthorized"}));
    assert_eq!(patch["schemes"], json!(["https"]));
    let list = &paths["/apis/apps/v1/namespaces/{namespace}/deployments"]["get"];
    assert_eq!(list["consumes"], json!(["*/*"]));
    let media = ["application/json", "application/yaml", "application/vnd.kubernetes.protobuf"];
    assert_eq!(list["produces"].as_array().unwrap()[..3], media);
    assert_eq!(list["produces"][3], "application/json;stream=watch");
    let discovery = &paths["/apis/apps/v1/"]["get"];
    assert_eq!(discovery["consumes"], discovery["produces"]);
}

#[track_caller]
fn check(v3: Value, expect: Value) {
    assert_eq!(convert::schema(v3), expect);
}

#[test]
fn what_v2_cannot_say_is_left_out() {
    check(
        json!({"allOf": [{"$ref": "#/components/schemas/a.B"}], "default": {}, "description": "text", "x-a": 1}),
        json!({"$ref": "#/definitions/a.B", "description": "text", "x-a": 1}),
    );
    check(json!({"type": "string", "default": "", "enum": ["A"]}), json!({"type": "string", "enum": ["A"]}));
    check(
        json!({"type": "object", "required": ["a", "b"],
            "properties": {"a": {"type": "string", "nullable": true}, "b": {"type": "integer"}}}),
        json!({"type": "object", "required": ["b"], "properties": {"a": {}, "b": {"type": "integer"}}}),
    );
    check(
        json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true, "properties": {"a": {}}}),
        json!({"x-kubernetes-preserve-unknown-fields": true}),
    );
    check(
        json!({"x-kubernetes-int-or-string": true, "anyOf": [{"type": "integer"}, {"type": "string"}]}),
        json!({"x-kubernetes-int-or-string": true}),
    );
    check(
        json!({"type": "object", "additionalProperties": true}),
        json!({"type": "object", "additionalProperties": true}),
    );
    check(json!({"type": "array"}), json!({}));
}

/// The fields of a message: number to values, integers as their bytes.
fn fields(mut message: &[u8]) -> Vec<(u64, Vec<u8>)> {
    fn varint(from: &mut &[u8]) -> u64 {
        let mut value = 0;
        for shift in (0..).step_by(7) {
            let byte = from[0];
            *from = &from[1..];
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                break;
            }
        }
        value
    }
    let mut all = Vec::new();
    while !message.is_empty() {
        let tag = varint(&mut message);
        let length = match tag & 7 {
            0 => {
                all.push((tag >> 3, varint(&mut message).to_le_bytes().to_vec()));
                continue;
            }
            1 => 8,
            _ => usize::try_from(varint(&mut message)).unwrap(),
        };
        all.push((tag >> 3, message[..length].to_vec()));
        message = &message[length..];
    }
    all
}

fn one(message: &[u8], path: &[u64]) -> Vec<u8> {
    path.iter().fold(message.to_vec(), |message, field| {
        fields(&message).into_iter().find(|(number, _)| number == field).unwrap_or_else(|| panic!("no {field}")).1
    })
}

/// By name, as text and as Go's encoder orders them: what gnostic makes of the same JSON.
#[test]
fn a_schema_is_encoded_as_gnostic_does() {
    let schema = json!({"type": "object", "required": ["a"], "x-b": ["c"],
        "properties": {"a": {"type": "integer", "format": "int32", "minimum": 1, "maxLength": 300}}});
    let mut expect = Vec::new();
    expect.extend(b"\x9a\x01\x01a"); // required
    expect.extend(b"\xb2\x01\x08\x0a\x06object"); // type
    expect.extend(b"\xca\x01\x26\x0a\x24\x0a\x01a\x12\x1f"); // properties
    expect.extend(b"\x12\x05int32\x49\0\0\0\0\0\0\xf0\x3f\x58\xac\x02\xb2\x01\x09\x0a\x07integer");
    expect.extend(b"\xfa\x01\x0f\x0a\x03x-b\x12\x08\x12\x06[\"c\"]\n"); // vendor extension
    assert_eq!(protobuf::schema(&schema).escape_ascii().to_string(), expect.escape_ascii().to_string());
}

#[test]
fn protobuf_has_all_that_json_has() {
    let (document, message) = (apps_json(), apps(Encoding::Protobuf));
    let text = |path: &[u64]| String::from_utf8(one(&message, path)).unwrap();
    assert_eq!((text(&[1]), text(&[2, 1])), ("2.0".to_owned(), "Kubernetes".to_owned()));
    let names = |field: u64, within: u64| -> Vec<String> {
        let entries = fields(&one(&message, &[field]));
        assert!(entries.iter().all(|(number, _)| *number == within));
        entries.iter().map(|(_, entry)| String::from_utf8(one(entry, &[1])).unwrap()).collect()
    };
    let keys = |value: &Value| value.as_object().map(Map::keys).unwrap().cloned().collect::<Vec<_>>();
    assert_eq!(names(8, 2), keys(&document["paths"]));
    assert_eq!(names(9, 1), keys(&document["definitions"]));
    assert_eq!(text(&[12, 1, 1]), "BearerToken");
    assert_eq!(text(&[13, 1, 2, 2, 2]), "authorization");
}

#[test]
fn parameters_are_of_the_message_for_their_place() {
    let item = json!({"parameters": [
        {"in": "body", "name": "body"}, {"in": "header", "name": "h"}, {"in": "query", "name": "q"}, {"in": "path", "name": "p"}]});
    let places: Vec<u64> = fields(&protobuf::path_item(&item))
        .into_iter()
        .map(|(_, parameter)| {
            let (kind, parameter) = fields(&one(&parameter, &[1])).remove(0);
            if kind == 1 { 0 } else { fields(&parameter)[0].0 }
        })
        .collect();
    assert_eq!(places, [0, 1, 3, 4]);
}
