use serde_json::json;

use super::*;
use crate::gvk::GroupVersionKind;
use crate::schema::Schema;

fn ty(kind: &'static str) -> TypeRef {
    let group = if kind == "Deployment" { "apps" } else { "" };
    Schema::kubernetes().lookup(&GroupVersionKind::from_static(group, "v1", kind)).unwrap()
}

fn strategic_check(kind: &'static str, current: Value, patch: Value, expected: Value) {
    let Value::Object(map) = patch.clone() else { panic!() };
    let got = strategic_map(&current, map, &ty(kind));
    assert_eq!(got.unwrap(), expected, "{patch}");
}

#[test]
fn json_patches_follow_rfc_6902() {
    let current = json!({"a": {"b": [1, 2, 3]}, "c/d": "x"});
    for (patch, expected) in [
        (json!([{"op": "add", "path": "/a/b/-", "value": 4}]), Some(json!({"a": {"b": [1, 2, 3, 4]}, "c/d": "x"}))),
        (json!([{"op": "add", "path": "/a/b/1", "value": 4}]), Some(json!({"a": {"b": [1, 4, 2, 3]}, "c/d": "x"}))),
        (json!([{"op": "remove", "path": "/a/b/0"}]), Some(json!({"a": {"b": [2, 3]}, "c/d": "x"}))),
        (json!([{"op": "remove", "path": "/a/b/-1"}]), Some(json!({"a": {"b": [1, 2]}, "c/d": "x"}))),
        (json!([{"op": "replace", "path": "/c~1d", "value": 1}]), Some(json!({"a": {"b": [1, 2, 3]}, "c/d": 1}))),
        (json!([{"op": "move", "from": "/c~1d", "path": "/e"}]), Some(json!({"a": {"b": [1, 2, 3]}, "e": "x"}))),
        (
            json!([{"op": "copy", "from": "/a/b/0", "path": "/e"}]),
            Some(json!({"a": {"b": [1, 2, 3]}, "c/d": "x", "e": 1})),
        ),
        (json!([{"op": "test", "path": "/a/b/0", "value": 1}]), Some(current.clone())),
        (json!([{"op": "test", "path": "/a/b/0", "value": 2}]), None),
        (json!([{"op": "remove", "path": "/nope"}]), None),
        (json!([{"op": "add", "path": "/x/y", "value": 1}]), None),
        (json!([{"op": "add", "path": "/a/b/9", "value": 1}]), None),
        (json!([{"op": "what", "path": "/a"}]), None),
    ] {
        let got = json_patch(&current, patch.to_string().as_bytes(), FieldValidation::Warn);
        assert_eq!(got.clone().ok().map(|patched| patched.value), expected, "{patch}");
        if let Err(status) = got {
            assert_eq!((status.code, status.reason.as_str()), (422, "Invalid"));
            assert_eq!(status.message, "the server rejected our request due to an error in our request");
        }
    }
}

#[test]
fn json_patches_are_bounded_and_their_faults_named() {
    let many = Value::Array(vec![json!({"op": "test", "path": "/a", "value": null}); MAX_OPERATIONS + 1]);
    let status = json_patch(&json!({}), many.to_string().as_bytes(), FieldValidation::Warn).unwrap_err();
    assert_eq!(
        (status.code, status.message.as_str()),
        (413, "Request entity too large: The allowed maximum operations in a JSON patch is 10000, got 10001")
    );
    let status = json_patch(&json!({}), b"{}", FieldValidation::Ignore).unwrap_err();
    assert_eq!(status.message, "json: cannot unmarshal object into Go value of type jsonpatch.Patch");
    let patched = json_patch(&json!({}), br#"[{"op":"add","path":"/a","value":1,"foo":2}]"#, FieldValidation::Warn);
    assert_eq!(patched.unwrap().strict, [r#"json patch unknown field "[0].foo""#]);
}

#[test]
fn json_patches_cannot_build_towers() {
    let op = json!({"op": "copy", "from": "/a", "path": "/a/a"});
    let body = Value::Array(vec![op; 2000]).to_string();
    assert_eq!(json_patch(&json!({"a": {}}), body.as_bytes(), FieldValidation::Warn).unwrap_err().code, 422);
    let body = json!([{"op": "add", "path": "/a".repeat(300), "value": 1}]).to_string();
    assert_eq!(json_patch(&json!({"a": {}}), body.as_bytes(), FieldValidation::Warn).unwrap_err().code, 422);
}

#[test]
fn merge_patches_follow_rfc_7386() {
    for (current, patch, expected) in [
        (json!({"a": "b"}), json!({"a": "c"}), json!({"a": "c"})),
        (json!({"a": "b", "b": "c"}), json!({"a": null}), json!({"b": "c"})),
        (json!({"a": ["b"]}), json!({"a": "c"}), json!({"a": "c"})),
        (json!({"a": {"b": "c"}}), json!({"a": {"b": "d", "c": null}}), json!({"a": {"b": "d"}})),
        (json!({"a": "foo"}), json!({"a": {"bb": {"ccc": null}}}), json!({"a": {"bb": {}}})),
        (json!({"e": null}), json!({"a": 1}), json!({"e": null, "a": 1})),
    ] {
        let got = merge_patch(&current, patch.to_string().as_bytes(), FieldValidation::Warn).unwrap();
        assert_eq!(got.value, expected);
    }
    let status = merge_patch(&json!({}), b"[1]", FieldValidation::Ignore).unwrap_err();
    assert_eq!((status.code, status.message.as_str()), (400, "Invalid JSON Patch"));
    let patched = merge_patch(&json!({}), br#"{"a":{"b":1,"b":2}}"#, FieldValidation::Warn).unwrap();
    assert_eq!(patched.strict, [r#"duplicate field "a.b""#]);
}

#[test]
fn strategic_patches_merge_lists_by_key() {
    let pod = |containers: Value| json!({"spec": {"containers": containers}});
    strategic_check(
        "Pod",
        pod(json!([{"name": "a", "image": "1", "env": [{"name": "X", "value": "1"}]}, {"name": "b"}])),
        pod(json!([{"name": "a", "image": "2", "env": [{"name": "Y", "value": "2"}]}])),
        pod(
            json!([{"name": "a", "image": "2", "env": [{"name": "Y", "value": "2"}, {"name": "X", "value": "1"}]}, {"name": "b"}]),
        ),
    );
    strategic_check(
        "Pod",
        pod(json!([{"name": "a"}, {"name": "b"}])),
        pod(json!([{"name": "a", "$patch": "delete"}])),
        pod(json!([{"name": "b"}])),
    );
    strategic_check(
        "Pod",
        pod(json!([{"name": "a"}, {"name": "b"}])),
        pod(json!([{"$patch": "replace"}, {"name": "c"}])),
        pod(json!([{"name": "c"}])),
    );
    // Lists without a strategy are replaced.
    strategic_check(
        "Pod",
        json!({"spec": {"tolerations": [{"key": "a"}]}}),
        json!({"spec": {"tolerations": [{"key": "b"}]}}),
        json!({"spec": {"tolerations": [{"key": "b"}]}}),
    );
    // Lists of primitives with the merge strategy are sets.
    strategic_check(
        "Pod",
        json!({"metadata": {"finalizers": ["a", "b"]}}),
        json!({"metadata": {"finalizers": ["c", "a"]}}),
        json!({"metadata": {"finalizers": ["c", "a", "b"]}}),
    );
}

#[test]
fn strategic_directives_work_as_upstream() {
    strategic_check(
        "Pod",
        json!({"metadata": {"finalizers": ["a", "b", "c"]}}),
        json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["b"]}}),
        json!({"metadata": {"finalizers": ["a", "c"]}}),
    );
    strategic_check(
        "Deployment",
        json!({"spec": {"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}}}}),
        json!({"spec": {"strategy": {"$retainKeys": ["type"], "type": "Recreate"}}}),
        json!({"spec": {"strategy": {"type": "Recreate"}}}),
    );
    strategic_check(
        "Pod",
        json!({"spec": {"volumes": [{"name": "v", "emptyDir": {}}]}}),
        json!({"spec": {"volumes": [{"name": "v", "$retainKeys": ["name", "hostPath"], "hostPath": {"path": "/x"}}]}}),
        json!({"spec": {"volumes": [{"name": "v", "hostPath": {"path": "/x"}}]}}),
    );
    strategic_check(
        "Pod",
        json!({"spec": {"containers": [{"name": "a"}, {"name": "b"}, {"name": "c"}]}}),
        json!({"spec": {"$setElementOrder/containers": [{"name": "c"}, {"name": "d"}, {"name": "a"}],
            "containers": [{"name": "d", "image": "x"}]}}),
        json!({"spec": {"containers": [{"name": "b"}, {"name": "c"}, {"name": "d", "image": "x"}, {"name": "a"}]}}),
    );
    strategic_check(
        "Pod",
        json!({"metadata": {"labels": {"a": "1"}, "annotations": {"x": "y"}}}),
        json!({"metadata": {"labels": {"$patch": "replace", "b": "2"}, "annotations": {"$patch": "delete"}}}),
        json!({"metadata": {"labels": {"b": "2"}, "annotations": {}}}),
    );
    strategic_check(
        "Pod",
        json!({"metadata": {"labels": {"a": "1", "b": "2"}}}),
        json!({"metadata": {"labels": {"a": null, "c": null}}, "spec": {"nodeSelector": {"x": null, "y": "1"}}}),
        json!({"metadata": {"labels": {"b": "2"}}, "spec": {"nodeSelector": {"y": "1"}}}),
    );
}

#[test]
fn bad_strategic_patches_answer_as_upstream() {
    for (current, patch, code, message) in [
        (
            json!({"spec": {"containers": [{"name": "a"}]}}),
            json!({"spec": {"containers": [{"image": "a"}]}}),
            500,
            "map: map[image:a] does not contain declared merge key: name",
        ),
        (
            json!({"metadata": {"labels": {}}}),
            json!({"metadata": {"labels": {"$patch": "x"}}}),
            500,
            "unknown patch type: x in map: map[$patch:x]",
        ),
        (json!({}), json!({"$retainKeys": "x"}), 400, "invalid patch format of retainKeys"),
        (json!({}), json!({"$setElementOrder": []}), 400, "invalid patch format of setElementOrder list"),
    ] {
        let status = strategic(&current, patch.to_string().as_bytes(), &ty("Pod"), FieldValidation::Warn).unwrap_err();
        assert_eq!((i64::from(status.code), status.message.as_str()), (code, message));
    }
}

#[test]
fn a_patch_that_breaks_the_type_is_invalid() {
    let patched = Patched { value: json!({"spec": {"replicas": "x"}}), strict: vec![] };
    let status =
        decode_patched(patched, &ty("Deployment"), FieldValidation::Warn, Origin::Written { live: &json!({}) })
            .unwrap_err();
    assert_eq!(status.code, 422);
    assert!(
        status
            .message
            .starts_with(r#" "" is invalid: patch: Invalid value: "{\"spec\":{\"replicas\":\"x\"}}": json: cannot"#)
    );
}
