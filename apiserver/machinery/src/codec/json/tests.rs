use super::*;
use crate::schema::Schema;
use serde_json::json;

fn ty(group: &'static str, version: &'static str, kind: &'static str) -> TypeRef {
    Schema::kubernetes().lookup(&GroupVersionKind::from_static(group, version, kind)).unwrap()
}

fn read(kind: &TypeRef, body: &str, validation: FieldValidation) -> Result<Decoded, DecodeError> {
    decode(body.as_bytes(), kind, validation, Limits::default())
}

#[test]
fn a_pod_comes_out_as_go_writes_it() {
    let pod = ty("", "v1", "Pod");
    let body = r#"{"spec":{"containers":[{"image":"b","name":"a","env":[],"command":null,
        "resources":{"limits":{"memory":"1024Mi","cpu":0.5}},"ports":[{"containerPort":80,"hostPort":0}]}],
        "hostNetwork":false,"terminationGracePeriodSeconds":0},
        "metadata":{"name":"x","labels":{"b":"1","a":null},"annotations":{},"creationTimestamp":null},
        "apiVersion":"v1","kind":"Pod"}"#;
    let decoded = read(&pod, body, FieldValidation::Strict).unwrap();
    let expected = concat!(
        r#"{"kind":"Pod","apiVersion":"v1","metadata":{"name":"x","labels":{"a":"","b":"1"}},"#,
        r#""spec":{"containers":[{"name":"a","image":"b","ports":[{"containerPort":80}],"#,
        r#""resources":{"limits":{"cpu":"500m","memory":"1Gi"}}}],"terminationGracePeriodSeconds":0},"status":{}}"#
    );
    assert_eq!(String::from_utf8_lossy(&encode(&decoded.value, &pod)), expected);
    assert_eq!(crate::text::json(&decoded.value), expected);
}

#[test]
fn members_that_go_always_writes_are_there() {
    let deployment = ty("apps", "v1", "Deployment");
    let decoded = read(&deployment, r#"{"spec":{"selector":{}}}"#, FieldValidation::Strict).unwrap();
    assert_eq!(
        decoded.value,
        json!({"metadata": {}, "spec": {"selector": {}, "template": {"metadata": {}, "spec": {"containers": null}}, "strategy": {}},
            "status": {}})
    );
}

#[test]
fn an_empty_list_that_is_always_written_is_one_until_it_is_stored() {
    let role = ty("rbac.authorization.k8s.io", "v1", "ClusterRole");
    let decoded = read(&role, r#"{"metadata":{"finalizers":[]},"rules":[]}"#, FieldValidation::Strict).unwrap().value;
    assert_eq!(decoded, json!({"metadata": {}, "rules": []}));
    assert_eq!(String::from_utf8_lossy(&encode(&decoded, &role)), r#"{"metadata":{},"rules":[]}"#);
    assert_eq!(String::from_utf8_lossy(&encode_settled(&decoded, &role)), r#"{"metadata":{},"rules":null}"#);
    let class = ty("resource.k8s.io", "v1", "ResourceSlice");
    let nested = json!({"metadata": {}, "spec": {"pool": {}, "driver": "d", "devices": [{"name": "a", "taints": []}]}});
    assert!(!String::from_utf8_lossy(&encode_settled(&nested, &class)).contains("[]"));
}

#[test]
fn empty_lists_that_code_makes_stay_lists() {
    let list = ty("", "v1", "PodList");
    let value = json!({"items": [], "metadata": {"resourceVersion": "1"}, "apiVersion": "v1", "kind": "PodList"});
    let expected = r#"{"kind":"PodList","apiVersion":"v1","metadata":{"resourceVersion":"1"},"items":[]}"#;
    assert_eq!(String::from_utf8_lossy(&encode(&value, &list)), expected);
}

#[test]
fn strict_errors_read_as_upstream() {
    let pod = ty("", "v1", "Pod");
    let body = r#"{"spec":{"containers":[{"name":"a","nope":1,"name":"b"}],"nodeSelector":{"a":"1","a":"2"},
        "volumes":[{"name":"v","hostpath":{}}]},"Kind":"x","nope":{"a":1},"metadata":{"labels":{}}}"#;
    let expected = [
        r#"unknown field "spec.containers[0].nope""#,
        r#"duplicate field "spec.containers[0].name""#,
        r#"duplicate field "spec.nodeSelector.a""#,
        r#"unknown field "spec.volumes[0].hostpath""#,
        r#"unknown field "Kind""#,
        r#"unknown field "nope""#,
    ];
    let error = read(&pod, body, FieldValidation::Strict).unwrap_err();
    assert_eq!(error.to_string(), format!("strict decoding error: {}", expected.join(", ")));
    assert_eq!(read(&pod, body, FieldValidation::Warn).unwrap().warnings, expected);
    assert!(read(&pod, body, FieldValidation::Ignore).unwrap().warnings.is_empty());
}

#[test]
fn wrong_types_read_as_go() {
    let pod = ty("", "v1", "Pod");
    let deployment = ty("apps", "v1", "Deployment");
    let quantity = "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'";
    for (kind, body, expected) in [
        (
            &deployment,
            r#"{"spec":{"replicas":"3"}}"#,
            "json: cannot unmarshal string into Go struct field DeploymentSpec.spec.replicas of type int32",
        ),
        (
            &deployment,
            r#"{"spec":{"replicas":1.5}}"#,
            "json: cannot unmarshal number 1.5 into Go struct field DeploymentSpec.spec.replicas of type int32",
        ),
        (
            &deployment,
            r#"{"spec":{"template":{"spec":{"containers":{"name":"a"}}}}}"#,
            "json: cannot unmarshal object into Go struct field PodSpec.spec.template.spec.containers of type []v1.Container",
        ),
        (
            &pod,
            r#"{"spec":{"containers":[{"env":[{"name":"A","value":1}]}]}}"#,
            "json: cannot unmarshal number into Go struct field EnvVar.spec.containers.env.value of type string",
        ),
        (
            &pod,
            r#"{"spec":{"containers":[{"imagePullPolicy":true}]}}"#,
            "json: cannot unmarshal bool into Go struct field Container.spec.containers.imagePullPolicy of type v1.PullPolicy",
        ),
        (
            &pod,
            r#"{"spec":{"volumes":[{"hostPath":"x"}]}}"#,
            "json: cannot unmarshal string into Go struct field Volume.spec.volumes.VolumeSource.hostPath of type v1.HostPathVolumeSource",
        ),
        (
            &pod,
            r#"{"spec":{"hostNetwork":"yes"},"metadata":1}"#,
            "json: cannot unmarshal string into Go struct field PodSpec.spec.hostNetwork of type bool",
        ),
        (&pod, r#"{"spec":{"containers":[{"resources":{"limits":{"cpu":"1 x"}}}]}}"#, quantity),
        (
            &pod,
            r#"{"metadata":{"creationTimestamp":"x"}}"#,
            r#"parsing time "x" as "2006-01-02T15:04:05Z07:00": cannot parse "x" as "2006""#,
        ),
        (
            &pod,
            r#"{"spec":{"containers":[{"livenessProbe":{"httpGet":{"port":true}}}]}}"#,
            "json: cannot unmarshal bool into Go struct field HTTPGetAction.spec.containers.livenessProbe.ProbeHandler.httpGet.port of type int32",
        ),
        (&pod, "[]", "json: cannot unmarshal array into Go value of type v1.Pod"),
    ] {
        assert_eq!(read(kind, body, FieldValidation::Strict).unwrap_err().to_string(), expected, "{body}");
    }
}

#[test]
fn syntax_errors_read_as_go() {
    let pod = ty("", "v1", "Pod");
    for (body, expected) in [
        ("", "unexpected end of JSON input"),
        ("{", "unexpected end of JSON input"),
        ("{a", "invalid character 'a' looking for beginning of object key string"),
        (r#"{"a" 1}"#, "invalid character '1' after object key"),
        (r#"{"a":1 "b"}"#, "invalid character '\"' after object key:value pair"),
        (r#"{"a":[1 2]}"#, "invalid character '2' after array element"),
        (r#"{"a":tru}"#, "invalid character '}' in literal true (expecting 'e')"),
        (r#"{"a":"\x"}"#, "invalid character 'x' in string escape code"),
        ("{\"a\":\"\n\"}", "invalid character '\\n' in string literal"),
        (r#"{"a":01}"#, "invalid character '1' after object key:value pair"),
        (r#"{"a":-}"#, "invalid character '}' in numeric literal"),
        (r#"{} x"#, "invalid character 'x' after top-level value"),
        (
            r#"{"spec":{"containers":[{"resources":{"limits":{"cpu":"x"}}}]},}"#,
            "invalid character '}' looking for beginning of object key string",
        ),
    ] {
        assert_eq!(
            read(&pod, body, FieldValidation::Strict).unwrap_err(),
            DecodeError::Syntax(expected.into()),
            "{body}"
        );
    }
}

#[test]
fn bodies_are_bounded() {
    let pod = ty("", "v1", "Pod");
    let deep = format!("{{\"x\":{}1{}}}", "[".repeat(5000), "]".repeat(5000));
    assert_eq!(
        read(&pod, &deep, FieldValidation::Ignore).unwrap_err(),
        DecodeError::Syntax("exceeded max depth".into())
    );
    let limits = Limits { max_bytes: 4, ..Limits::default() };
    let error = decode(b"{    }", &pod, FieldValidation::Ignore, limits).unwrap_err();
    assert_eq!(error, DecodeError::TooLarge { limit: 4 });
}

#[test]
fn deep_schemas_within_the_bound_decode() {
    let crd = ty("apiextensions.k8s.io", "v1", "CustomResourceDefinition");
    let levels = 118;
    let schema =
        r#"{"type":"object","properties":{"a":"#.repeat(levels) + r#"{"type":"string"}"# + &"}}".repeat(levels);
    let body = format!(r#"{{"spec":{{"versions":[{{"name":"v1","schema":{{"openAPIV3Schema":{schema}}}}}]}}}}"#);
    let decoded = read(&crd, &body, FieldValidation::Strict).unwrap();
    assert_eq!(
        decode(&encode(&decoded.value, &crd), &crd, FieldValidation::Strict, Limits::default()).unwrap(),
        decoded
    );
    let any = format!("{}1{}", "[".repeat(250), "]".repeat(250));
    assert!(parse(any.as_bytes(), Limits::default()).is_ok());
}

#[test]
fn mutilated_bodies_never_panic() {
    let pod = ty("", "v1", "Pod");
    let body = br#"{"kind":"Pod","apiVersion":"v1","metadata":{"name":"x","labels":{"a":"\u00e9\ud83d\ude00"},"creationTimestamp":"2020-01-01T00:00:00Z"},
        "spec":{"containers":[{"name":"a","resources":{"limits":{"cpu":"1.5Gi"}},"ports":[{"containerPort":80}]}]}}"#;
    let value = read(&pod, std::str::from_utf8(body).unwrap(), FieldValidation::Ignore).unwrap().value;
    let proto = crate::codec::protobuf::encode(&value, &pod);
    // A small generator of its own: the same bytes on every run.
    let mut state = 1u64;
    let mut next = |bound: usize| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 33) as usize % bound
    };
    for _ in 0..5_000 {
        let (mut json, mut message) = (body.to_vec(), proto.to_vec());
        for _ in 0..1 + next(3) {
            let (at, byte) = (next(json.len()), next(256) as u8);
            json[at] = byte;
            let (at, byte) = (next(message.len()), next(256) as u8);
            message[at] = byte;
        }
        json.truncate(json.len() - next(3));
        let _ = decode(&json, &pod, FieldValidation::Strict, Limits::default());
        let _ = interpret(&json);
        if let Ok(header) = crate::header::scan(&json, &["spec.nodeName", "metadata.labels"]) {
            crate::header::splice_at(&json, header.splice, 1);
        }
        let _ = crate::codec::protobuf::decode(&message, &pod, usize::MAX);
    }
}

#[test]
fn kinds_are_read_before_types() {
    assert_eq!(interpret(br#"{"kind":"Pod","x":[{}],"apiVersion":"v1"}"#).unwrap(), ("v1".into(), "Pod".into()));
    assert_eq!(interpret(b"{}").unwrap(), (String::new(), String::new()));
    assert_eq!(
        interpret(b"{").unwrap_err().to_string(),
        "couldn't get version/kind; json parse error: unexpected end of JSON input"
    );
}

#[test]
fn the_answer_to_a_bad_body_names_what_was_found() {
    let error = DecodeError::Strict(vec!["unknown field \"spec.foo\"".into()]);
    let gvk = GroupVersionKind::from_static("apps", "v1", "Deployment");
    assert_eq!(
        error.to_status(Some(&gvk), "Deployment", b"{}").message,
        "Deployment in version \"v1\" cannot be handled as a Deployment: strict decoding error: unknown field \"spec.foo\""
    );
    let status = DecodeError::Syntax("bad".into()).to_status(None, "Pod", b"x: 1");
    assert_eq!(status.message, "the object provided is unrecognized (must be of type Pod): bad (783a2031)");
}

fn widget() -> TypeRef {
    use crate::schema::{ElementSpec, FieldSpec, ListType, SchemaBuilder, TypeSpec};
    let field = |json: &str, element| FieldSpec {
        json: json.into(),
        element,
        required: false,
        nullable: false,
        atomic: false,
        default_json: String::new(),
    };
    let mut spec = vec![
        field("size", ElementSpec::Integer),
        field("ratio", ElementSpec::Number),
        field("port", ElementSpec::IntOrString),
        field("free", ElementSpec::Struct("Free".into())),
        field("any", ElementSpec::Any),
        field(
            "parts",
            ElementSpec::List {
                element: Box::new(ElementSpec::Struct("Part".into())),
                list_type: ListType::Map,
                keys: vec!["id".into()],
            },
        ),
    ];
    spec.push(FieldSpec { default_json: "\"blue\"".into(), ..field("color", ElementSpec::String) });
    spec.push(FieldSpec { nullable: true, ..field("note", ElementSpec::String) });
    let types = [
        (
            "Widget",
            vec![
                field("apiVersion", ElementSpec::String),
                field("kind", ElementSpec::String),
                field("metadata", ElementSpec::Struct("io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta".into())),
                field("spec", ElementSpec::Struct("WidgetSpec".into())),
            ],
            false,
        ),
        ("WidgetSpec", spec, false),
        ("Free", vec![field("x", ElementSpec::Integer)], true),
        ("Part", vec![field("id", ElementSpec::String), field("n", ElementSpec::Integer)], false),
    ];
    let mut builder = SchemaBuilder::new();
    for (name, fields, preserve_unknown) in types {
        builder.add_type(TypeSpec { name: name.into(), fields, preserve_unknown, ..TypeSpec::default() });
    }
    let gvk = GroupVersionKind::from_static("example.com", "v1", "Widget");
    builder.add_kind(gvk.clone(), "Widget");
    builder.build().lookup(&gvk).unwrap()
}

#[test]
fn custom_resources_are_pruned_and_keep_what_validation_must_see() {
    let widget = widget();
    let body = r#"{"kind":"Widget","apiVersion":"example.com/v1","metadata":{"name":"w","nope":1,"labels":{}},
        "spec":{"size":"big","ratio":1.5,"port":"http","nope":1,"free":{"y":1,"x":2},"any":{"b":[1.0],"a":null},
        "parts":[{"id":"a","nope":1}],"color":null,"note":null}}"#;
    let decoded = read(&widget, body, FieldValidation::Warn).unwrap();
    assert_eq!(
        decoded.warnings,
        [r#"unknown field "metadata.nope""#, r#"unknown field "spec.nope""#, r#"unknown field "spec.parts[0].nope""#]
    );
    let mut value = decoded.value;
    crate::codec::default::apply(&mut value, &widget);
    assert_eq!(
        String::from_utf8_lossy(&encode(&value, &widget)),
        concat!(
            r#"{"apiVersion":"example.com/v1","kind":"Widget","metadata":{"name":"w"},"spec":{"any":{"a":null,"b":[1]},"#,
            r#""color":"blue","free":{"x":2,"y":1},"note":null,"parts":[{"id":"a"}],"port":"http","ratio":1.5,"size":"big"}}"#
        )
    );
    // Metadata is typed as everywhere.
    let error = read(&widget, r#"{"metadata":{"generation":"x"}}"#, FieldValidation::Warn).unwrap_err();
    assert_eq!(
        error.to_string(),
        "json: cannot unmarshal string into Go struct field ObjectMeta.metadata.generation of type int64"
    );
}

#[test]
fn custom_resources_are_applied_by_their_list_types() {
    let (widget, gvk) = (widget(), GroupVersionKind::from_static("example.com", "v1", "Widget"));
    let object = |spec: Value| json!({"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": "w"}, "spec": spec});
    let apply = |manager, live: Option<&Value>, spec| {
        let now = "2026-01-01T00:00:00Z";
        let writer =
            crate::apply::Writer { manager, gvk: &gvk, subresource: "", now, reset_fields: &[], in_version: None };
        let applied = crate::apply::apply(live, &object(spec), &widget, &writer, false).unwrap();
        decode_value(&applied, &widget, FieldValidation::Ignore).unwrap().value
    };
    let first = apply("a", None, json!({"parts": [{"id": "x", "n": 1}], "any": {"deep": 1}}));
    assert_eq!(
        first["metadata"]["managedFields"][0]["fieldsV1"],
        json!({"f:spec": {"f:any": {"f:deep": {}}, "f:parts": {"k:{\"id\":\"x\"}": {".": {}, "f:id": {}, "f:n": {}}}}})
    );
    let second = apply("b", Some(&first), json!({"parts": [{"id": "y"}]}));
    assert_eq!(second["spec"]["parts"], json!([{"id": "x", "n": 1}, {"id": "y"}]));
}

#[test]
fn bytes_may_be_a_list_of_numbers() {
    let map = ty("", "v1", "ConfigMap");
    let decoded = read(&map, r#"{"binaryData":{"a":[1,null,255]}}"#, FieldValidation::Strict).unwrap();
    assert_eq!(decoded.value["binaryData"], json!({"a": "AQD/"}));
    let told = read(&map, r#"{"binaryData":{"a":[256]}}"#, FieldValidation::Strict).unwrap_err().to_string();
    assert!(told.contains("cannot unmarshal number 256") && told.ends_with("of type uint8"), "{told}");
}
