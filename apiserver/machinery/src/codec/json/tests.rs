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
    let role = ty("rbac.authorization.k8s.io", "v1", "ClusterRole");
    assert_eq!(
        read(&role, r#"{"rules":[]}"#, FieldValidation::Strict).unwrap().value,
        json!({"metadata": {}, "rules": null})
    );
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
