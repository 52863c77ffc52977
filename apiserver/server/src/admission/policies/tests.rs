use serde_json::json;

use super::*;
use crate::admission::chain;
use crate::admission::fake::{Kinds, Memory, Write};
use crate::authz::Masters;

fn engine(objects: Vec<(&str, &str, Value)>) -> Arc<Engine> {
    let memory = Memory::with(objects);
    memory.put("", "namespaces", json!({"metadata": {"name": "a", "labels": {"team": "x"}}}));
    let kinds = Kinds::default().with("apps", &["v1"], "deployments", "Deployment").with(
        "",
        &["v1"],
        "configmaps",
        "ConfigMap",
    );
    Arc::new(Engine { resources: Arc::new(memory), types: Arc::new(kinds), authorizer: Arc::new(Masters) })
}

fn policy(extra: Value) -> Value {
    let mut spec = json!({
        "failurePolicy": "Fail",
        "matchConstraints": {"matchPolicy": "Equivalent", "resourceRules": [{"operations": ["CREATE", "UPDATE"],
            "apiGroups": ["apps"], "apiVersions": ["v1"], "resources": ["deployments"]}]},
    });
    spec.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    json!({"metadata": {"name": "p"}, "spec": spec})
}

fn binding(extra: Value) -> Value {
    let mut spec = json!({"policyName": "p", "validationActions": ["Deny"]});
    spec.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    json!({"metadata": {"name": "b"}, "spec": spec})
}

fn deployment(replicas: i64) -> Write {
    let object = json!({"kind": "Deployment", "apiVersion": "apps/v1", "metadata": {"name": "d", "namespace": "a"},
        "spec": {"replicas": replicas}});
    Write::create("apps", "v1", "deployments", "a", object)
}

/// What a validating policy says of a deployment of three replicas, and with which warnings.
async fn validated(engine: Arc<Engine>, policy: Value, binding: Value) -> (Result<(), Status>, Vec<String>) {
    let plugin = ValidatingPolicies::new(engine);
    plugin.policies.set(&[policy], &[binding]);
    let write = deployment(3);
    let result = plugin.validate(&write.attributes(), Some(&write.object)).await;
    let warnings = write.warnings.lock().unwrap().clone();
    (result, warnings)
}

async fn message(extra: Value) -> String {
    let (result, _) = validated(engine(vec![]), policy(extra), binding(json!({}))).await;
    result.err().map(|status| format!("{} {} {}", status.code, status.reason, status.message)).unwrap_or_default()
}

const DENIED: &str =
    "deployments.apps \"d\" is forbidden: ValidatingAdmissionPolicy 'p' with binding 'b' denied request:";

#[tokio::test]
async fn a_validation_that_does_not_hold_denies_with_its_message() {
    let table = [
        (json!([{"expression": "object.spec.replicas > 1"}]), String::new()),
        (
            json!([{"expression": "object.spec.replicas > 5"}]),
            format!("422 Invalid {DENIED} failed expression: object.spec.replicas > 5"),
        ),
        (
            json!([{"expression": "false", "message": "no", "reason": "Forbidden"}]),
            format!("403 Forbidden {DENIED} no"),
        ),
        (
            json!([{"expression": "false", "messageExpression": "'got ' + string(object.spec.replicas)"}]),
            format!("422 Invalid {DENIED} got 3"),
        ),
        (
            json!([{"expression": "false", "message": "plain", "messageExpression": "'got ' + object.spec.replicas"}]),
            format!("422 Invalid {DENIED} plain"),
        ),
        (
            json!([{"expression": "object.spec.nothing > 1"}]),
            format!(
                "422 Invalid {DENIED} expression 'object.spec.nothing > 1' resulted in error: no such key: nothing"
            ),
        ),
        (
            json!([{"expression": "namespaceObject.metadata.labels['team'] == 'x' && request.operation == 'CREATE'"}]),
            String::new(),
        ),
        (
            json!([{"expression": "authorizer.requestResource.check('get').allowed()"}]),
            format!("422 Invalid {DENIED} failed expression: authorizer.requestResource.check('get').allowed()"),
        ),
    ];
    for (validations, wanted) in table {
        assert_eq!(message(json!({"validations": validations})).await, wanted);
    }
}

#[tokio::test]
async fn conditions_variables_and_failure_policy() {
    let failing = json!([{"expression": "object.spec.nothing == 1"}]);
    assert_eq!(message(json!({"validations": failing, "failurePolicy": "Ignore"})).await, "");
    let skip = json!([{"name": "n", "expression": "object.metadata.name != 'd'"}]);
    assert_eq!(message(json!({"validations": [{"expression": "false"}], "matchConditions": skip})).await, "");
    let variables = json!([{"name": "n", "expression": "object.spec.replicas"}, {"name": "odd", "expression": "variables.n % 2 == 1"}]);
    assert_eq!(message(json!({"variables": variables, "validations": [{"expression": "variables.odd"}]})).await, "");
}

#[tokio::test]
async fn a_binding_says_what_a_failure_does() {
    let warn = binding(json!({"validationActions": ["Warn", "Audit"]}));
    let rules = json!({"validations": [{"expression": "false", "message": "careful"}]});
    let (result, warnings) = validated(engine(vec![]), policy(rules), warn).await;
    assert_eq!(result, Ok(()));
    assert_eq!(warnings, ["Validation failed for ValidatingAdmissionPolicy 'p' with binding 'b': careful"]);
    let elsewhere = binding(json!({"matchResources": {"namespaceSelector": {"matchLabels": {"team": "y"}}}}));
    let (result, _) =
        validated(engine(vec![]), policy(json!({"validations": [{"expression": "false"}]})), elsewhere).await;
    assert_eq!(result, Ok(()));
}

#[tokio::test]
async fn parameters_are_looked_up_by_name_and_missed_as_asked() {
    let rules = json!({"paramKind": {"apiVersion": "v1", "kind": "ConfigMap"},
        "validations": [{"expression": "object.spec.replicas <= int(params.data.most)", "message": "too many"}]});
    let most = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m", "namespace": "a"}, "data": {"most": "2"}});
    let named =
        |name: &str, action: &str| binding(json!({"paramRef": {"name": name, "parameterNotFoundAction": action}}));
    let table = [
        (named("m", "Deny"), "too many"),
        (named("x", "Allow"), ""),
        (
            named("x", "Deny"),
            "failed to configure binding: no params found for policy binding with `Deny` parameterNotFoundAction",
        ),
    ];
    for (binding, wanted) in table {
        let engine = engine(vec![("", "configmaps", most.clone())]);
        let (result, _) = validated(engine, policy(rules.clone()), binding).await;
        let said = result.err().map(|status| status.message).unwrap_or_default();
        assert!(said.ends_with(wanted) && said.is_empty() == wanted.is_empty(), "{said}");
    }
}

async fn mutated(mutations: Value, extra: Value) -> Result<Value, Status> {
    let plugin = MutatingPolicies::new(engine(vec![]));
    let mut spec = json!({"mutations": mutations, "reinvocationPolicy": "Never"});
    spec.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    plugin.policies.set(&[policy(spec)], &[binding(json!({}))]);
    let plugins: Vec<Arc<dyn Plugin>> = vec![Arc::new(plugin)];
    let write = deployment(3);
    let mut object = write.object.clone();
    chain::mutate(&plugins, &write.attributes(), &mut object).await.map(|()| object)
}

fn apply(expression: &str) -> Value {
    json!([{"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": expression}}])
}

#[tokio::test]
async fn mutations_apply_configurations_and_patches_in_order() {
    let object = mutated(apply("Object{spec: Object.spec{replicas: 1337}}"), json!({})).await.unwrap();
    assert_eq!(object["spec"]["replicas"], 1337);
    let labels = apply("Object{metadata: Object.metadata{labels: {'a': string(object.spec.replicas)}}}");
    assert_eq!(mutated(labels, json!({})).await.unwrap()["metadata"]["labels"], json!({"a": "3"}));
    let patch = json!([{"patchType": "JSONPatch", "jsonPatch": {"expression":
        "[JSONPatch{op: 'test', path: '/spec/replicas', value: 3}, JSONPatch{op: 'add', path: '/metadata/labels', value: {'b': 'c'}}]"}}]);
    assert_eq!(mutated(patch, json!({})).await.unwrap()["metadata"]["labels"], json!({"b": "c"}));
}

#[tokio::test]
async fn a_mutation_that_cannot_be_made_denies() {
    let table = [
        (
            "Object{spec: Object.other{replicas: 1}}",
            "type mismatch: unexpected type name \"Object.other\", expected \"Object.spec\", which matches field name path from root Object type",
        ),
        (
            "Object{spec: Object.spec{replicas: object.nothing}}",
            "expression 'Object{spec: Object.spec{replicas: object.nothing}}' resulted in error: no such key: nothing",
        ),
    ];
    for (expression, wanted) in table {
        let status = mutated(apply(expression), json!({})).await.unwrap_err();
        assert_eq!(status.message, format!("policy 'p' with binding 'b' denied request: {wanted}"));
        assert_eq!((status.code, &*status.reason), (403, "Invalid"));
        assert!(mutated(apply(expression), json!({"failurePolicy": "Ignore"})).await.is_ok());
    }
}
