use std::collections::HashMap;
use std::sync::Mutex;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;
use crate::admission::chain;
use crate::admission::fake::{Kinds, Memory, Write};

type Respond = dyn Fn(&str, &Value) -> Value + Send + Sync;

/// Webhooks over plain HTTP on this machine: what each path answers, and what was asked.
struct Stage {
    port: u16,
    asked: Arc<Mutex<Vec<(String, Value)>>>,
}

impl Stage {
    async fn new(respond: Box<Respond>) -> Stage {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let asked: Arc<Mutex<Vec<(String, Value)>>> = Arc::default();
        let (seen, respond) = (asked.clone(), Arc::new(respond));
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let (seen, respond) = (seen.clone(), respond.clone());
                tokio::spawn(async move {
                    while let Some((path, review)) = request(&mut stream).await {
                        let mut response = respond(&path, &review["request"]);
                        response["uid"] = review["request"]["uid"].clone();
                        seen.lock().unwrap().push((path, review["request"].clone()));
                        let answer = json!({"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1", "response": response});
                        let body = answer.to_string();
                        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
                        let _ = stream.write_all(head.as_bytes()).await;
                    }
                });
            }
        });
        Stage { port, asked }
    }

    fn hook(&self, name: &str, extra: Value) -> Value {
        let mut hook = json!({
            "name": name, "clientConfig": {"url": format!("http://127.0.0.1:{}/{name}", self.port)},
            "rules": [{"operations": ["*"], "apiGroups": ["*"], "apiVersions": ["v1"], "resources": ["*/*"]}],
            "failurePolicy": "Fail", "matchPolicy": "Equivalent", "sideEffects": "None", "timeoutSeconds": 2,
            "namespaceSelector": {}, "objectSelector": {}, "admissionReviewVersions": ["v1"],
        });
        hook.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        hook
    }

    fn paths(&self) -> Vec<String> {
        self.asked.lock().unwrap().iter().map(|(path, _)| path.clone()).collect()
    }
}

async fn request(stream: &mut tokio::net::TcpStream) -> Option<(String, Value)> {
    let mut bytes = Vec::new();
    loop {
        let mut buffer = [0; 4096];
        let read = stream.read(&mut buffer).await.ok().filter(|n| *n > 0)?;
        bytes.extend_from_slice(&buffer[..read]);
        let text = String::from_utf8_lossy(&bytes);
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length =
            head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap().parse::<usize>().unwrap();
        if body.len() == length {
            let path = head.split(['/', '?']).nth(1).unwrap().to_owned();
            return Some((path, serde_json::from_str(body).unwrap()));
        }
    }
}

fn callers(kinds: Kinds) -> Arc<Callers> {
    let memory = Memory::with(vec![("", "namespaces", json!({"metadata": {"name": "a"}}))]);
    let resources: Arc<dyn Resources> = Arc::new(memory);
    let webhooks = Arc::new(Webhooks::new(resources.clone()));
    Arc::new(Callers { resources, types: Arc::new(kinds), webhooks, authorizer: Arc::new(crate::authz::Masters) })
}

fn configuration(name: &str, hooks: Vec<Value>) -> Value {
    json!({"metadata": {"name": name}, "webhooks": hooks})
}

fn mutating(configurations: &[Value]) -> Vec<Arc<dyn Plugin>> {
    let plugin = MutatingWebhooks::new(callers(Kinds::default()));
    plugin.hooks.set(configurations);
    vec![Arc::new(plugin)]
}

fn validating(configurations: &[Value]) -> ValidatingWebhooks {
    let plugin = ValidatingWebhooks::new(callers(Kinds::default()));
    plugin.hooks.set(configurations);
    plugin
}

fn patch(operations: Value) -> Value {
    json!({"allowed": true, "patchType": "JSONPatch", "patch": STANDARD.encode(operations.to_string())})
}

fn add(key: &str) -> Value {
    patch(json!([{"op": "add", "path": format!("/data/{key}"), "value": "yes"}]))
}

fn config_map() -> Write {
    let object =
        json!({"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": "c", "namespace": "a"}, "data": {}});
    Write::create("", "v1", "configmaps", "a", object)
}

async fn mutate(plugins: &[Arc<dyn Plugin>], write: &Write) -> Result<Value, Status> {
    let mut object = write.object.clone();
    chain::mutate(plugins, &write.attributes(), &mut object).await.map(|()| object)
}

#[tokio::test]
async fn patches_are_applied_in_order_and_earlier_hooks_asked_again() {
    let answers = HashMap::from([("first", "one"), ("second", "two")]);
    let stage = Stage::new(Box::new(move |path, _| add(answers[path]))).await;
    let again = json!({"reinvocationPolicy": "IfNeeded"});
    let hooks = vec![stage.hook("first", again), stage.hook("second", json!({}))];
    let object = mutate(&mutating(&[configuration("x", hooks)]), &config_map()).await.unwrap();
    assert_eq!(object["data"], json!({"one": "yes", "two": "yes"}));
    assert_eq!(stage.paths(), ["first", "second", "first"]);
    let request = &stage.asked.lock().unwrap()[1].1;
    assert_eq!(request["object"]["data"], json!({"one": "yes"}));
    assert_eq!((&request["operation"], &request["userInfo"]["username"]), (&json!("CREATE"), &json!("alice")));
    assert_eq!(request["resource"], json!({"group": "", "version": "v1", "resource": "configmaps"}));
}

#[tokio::test]
async fn a_denial_is_worded_as_upstream_words_it() {
    let stage = Stage::new(Box::new(|path, _| match path {
        "silent" => json!({"allowed": false}),
        _ => json!({"allowed": false, "warnings": ["careful"],
            "status": {"metadata": {}, "message": "no", "reason": "because", "code": 403}}),
    }))
    .await;
    let deny = |name| validating(&[configuration("x", vec![stage.hook(name, json!({}))])]);
    let write = config_map();
    let status = deny("silent").validate(&write.attributes(), Some(&write.object)).await.unwrap_err();
    assert_eq!(status.message, "admission webhook \"silent\" denied the request without explanation");
    assert_eq!(status.code, 400);
    let status = deny("loud").validate(&write.attributes(), Some(&write.object)).await.unwrap_err();
    assert_eq!(status.message, "admission webhook \"loud\" denied the request: no");
    assert_eq!((status.code, &*status.reason), (403, "because"));
    assert_eq!(*write.warnings.lock().unwrap(), ["careful"]);
}

#[tokio::test]
async fn the_failure_policy_decides_about_a_hook_that_cannot_be_asked() {
    let stage = Stage { port: 1, asked: Arc::default() };
    let write = config_map();
    let open = validating(&[configuration("x", vec![stage.hook("h", json!({"failurePolicy": "Ignore"}))])]);
    open.validate(&write.attributes(), Some(&write.object)).await.unwrap();
    let closed = validating(&[configuration("x", vec![stage.hook("h", json!({}))])]);
    let status = closed.validate(&write.attributes(), Some(&write.object)).await.unwrap_err();
    assert_eq!(
        status.message,
        "Internal error occurred: failed calling webhook \"h\": failed to call webhook: \
         Post \"http://127.0.0.1:1/h?timeout=2s\": dial tcp 127.0.0.1:1: connect: connection refused"
    );
}

#[tokio::test]
async fn dry_runs_go_only_to_hooks_without_side_effects() {
    let stage = Stage::new(Box::new(|_, _| json!({"allowed": true}))).await;
    let mut write = config_map();
    write.dry_run = true;
    let hooks = vec![stage.hook("pure", json!({"sideEffects": "NoneOnDryRun"}))];
    mutate(&mutating(&[configuration("x", hooks)]), &write).await.unwrap();
    assert_eq!(stage.asked.lock().unwrap()[0].1["dryRun"], json!(true));
    let hooks = vec![stage.hook("old", json!({"sideEffects": "Unknown"}))];
    let status = mutate(&mutating(&[configuration("x", hooks)]), &write).await.unwrap_err();
    assert_eq!(status.message, "admission webhook \"old\" does not support dry run");
}

#[tokio::test]
async fn a_delete_shows_the_old_object_and_takes_no_patch() {
    let stage = Stage::new(Box::new(|_, _| add("x"))).await;
    let plugins = mutating(&[configuration("x", vec![stage.hook("h", json!({}))])]);
    let mut write = config_map().delete();
    write.old = Some(write.object.clone());
    let status = chain::before_delete(&plugins, &write.attributes()).await.unwrap_err();
    assert!(status.message.contains("attempted to modify the object, which is not supported"), "{}", status.message);
    let request = &stage.asked.lock().unwrap()[0].1;
    assert_eq!((&request["object"], &request["oldObject"]), (&Value::Null, &write.object));
}

#[tokio::test]
async fn configurations_of_admission_are_not_admitted() {
    let stage = Stage::new(Box::new(|_, _| json!({"allowed": false}))).await;
    let plugin = validating(&[configuration("x", vec![stage.hook("h", json!({}))])]);
    let object = json!({"kind": "MutatingWebhookConfiguration", "metadata": {"name": "m"}});
    let group = "admissionregistration.k8s.io";
    let write = Write::create(group, "v1", "mutatingwebhookconfigurations", "", object);
    plugin.validate(&write.attributes(), Some(&write.object)).await.unwrap();
    assert_eq!(stage.paths(), Vec::<String>::new());
}

#[tokio::test]
async fn a_hook_sees_the_version_that_its_rule_names() {
    let stage = Stage::new(Box::new(|_, _| patch(json!([{"op": "add", "path": "/x", "value": 1}])))).await;
    let plugin = MutatingWebhooks::new(callers(Kinds::default().with("x.io", &["v1", "v2"], "cars", "Car")));
    plugin.hooks.set(&[configuration("x", vec![stage.hook("h", json!({}))])]);
    let plugins: Vec<Arc<dyn Plugin>> = vec![Arc::new(plugin)];
    let object = json!({"kind": "Car", "apiVersion": "x.io/v2", "metadata": {"name": "c"}});
    let write = Write::create("x.io", "v2", "cars", "a", object);
    let object = mutate(&plugins, &write).await.unwrap();
    assert_eq!((&object["apiVersion"], &object["x"]), (&json!("x.io/v2"), &json!(1)));
    let request = &stage.asked.lock().unwrap()[0].1;
    assert_eq!(request["object"]["apiVersion"], "x.io/v1");
    assert_eq!((&request["kind"]["version"], &request["requestKind"]["version"]), (&json!("v1"), &json!("v2")));
}

#[tokio::test]
async fn match_conditions_choose_the_requests_that_a_hook_is_for() {
    let stage = Stage::new(Box::new(|_, _| json!({"allowed": false}))).await;
    let deny = |conditions: Value, policy: &str| {
        let hook = stage.hook("h", json!({"matchConditions": conditions, "failurePolicy": policy}));
        validating(&[configuration("x", vec![hook])])
    };
    let condition = |expression: &str| json!([{"name": "c", "expression": expression}]);
    let write = config_map();
    let table = [
        (
            condition("object.metadata.name == 'c'"),
            "Fail",
            "admission webhook \"h\" denied the request without explanation",
        ),
        (condition("object.metadata.name != 'c'"), "Fail", ""),
        (condition("object.nothing == 1"), "Ignore", ""),
        (
            condition("object.nothing == 1"),
            "Fail",
            "configmaps \"c\" is forbidden: expression 'object.nothing == 1' resulted in error: no such key: nothing",
        ),
    ];
    for (conditions, policy, wanted) in table {
        let result = deny(conditions, policy).validate(&write.attributes(), Some(&write.object)).await;
        assert_eq!(result.err().map(|status| status.message).unwrap_or_default(), wanted);
    }
}
