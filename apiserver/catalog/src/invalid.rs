//! Invalid objects and what exactly is said about them, as `field: message` lines in upstream's words.

use serde_json::{Value, json};

use crate::json::{Read, Write};
use crate::tests::{create, fixture, named, to_storage, update};

fn lines(errors: &skeg_machinery::field::ErrorList) -> Vec<String> {
    errors.iter().map(ToString::to_string).collect()
}

/// The fixture with `changes` (path, value; null removes), created.
fn refused(resource: &str, changes: &[(&str, Value)], expected: &[&str]) {
    let spec = named(resource);
    let mut object = fixture(&spec);
    for (path, value) in changes {
        change(&mut object, path, value.clone());
    }
    let object = to_storage(&spec, object);
    let (_, errors) = create(&spec, object);
    assert_eq!(lines(&errors), expected, "{resource} {changes:?}");
}

/// The stored fixture with `changes`, updated.
fn update_refused(resource: &str, changes: &[(&str, Value)], expected: &[&str]) {
    let spec = named(resource);
    let (old, _) = create(&spec, fixture(&spec));
    let mut object = old.clone();
    for (path, value) in changes {
        change(&mut object, path, value.clone());
    }
    let (_, errors) = update(&spec, object, &old);
    let found: Vec<String> =
        lines(&errors).into_iter().map(|line| line.split('\n').next().unwrap_or("").to_owned()).collect();
    assert_eq!(found, expected, "{resource} {changes:?}");
}

/// A dotted path in which numbers are places of a list.
fn change(object: &mut Value, path: &str, value: Value) {
    let steps: Vec<&str> = path.split('.').collect();
    let (last, way) = steps.split_last().unwrap();
    let mut at = object;
    for step in way {
        at = match (step.parse::<usize>(), at) {
            (Ok(index), Value::Array(items)) => &mut items[index],
            (_, value) => {
                if !value.is_object() {
                    *value = json!({});
                }
                value.as_object_mut().unwrap().entry(*step).or_insert(Value::Null)
            }
        };
    }
    match (last.parse::<usize>(), at) {
        (Ok(index), Value::Array(items)) => items[index] = value,
        (_, at) if value.is_null() => at.remove(last),
        (_, at) => at.set(last, value),
    }
}

const LABEL: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";

#[test]
fn containers() {
    let c = "spec.containers.0";
    let at = |rest: &str| format!("{c}.{rest}");
    for (path, value, expected) in [
        ("spec.containers".to_owned(), json!([]), vec!["spec.containers: Required value".to_owned()]),
        (at("name"), json!("Web"), vec![format!("spec.containers[0].name: Invalid value: \"Web\": {LABEL}")]),
        (at("image"), json!(""), vec!["spec.containers[0].image: Required value".into()]),
        (
            at("image"),
            json!(" web "),
            vec!["spec.containers[0].image: Invalid value: \" web \": must not have leading or trailing whitespace".into()],
        ),
        (
            at("imagePullPolicy"),
            json!("Sometimes"),
            vec!["spec.containers[0].imagePullPolicy: Unsupported value: \"Sometimes\": supported values: \"Always\", \"IfNotPresent\", \"Never\"".into()],
        ),
        (
            at("ports.0.containerPort"),
            json!(70000),
            vec!["spec.containers[0].ports[0].containerPort: Invalid value: 70000: must be between 1 and 65535, inclusive".into()],
        ),
        (
            at("ports.0.protocol"),
            json!("ICMP"),
            vec!["spec.containers[0].ports[0].protocol: Unsupported value: \"ICMP\": supported values: \"SCTP\", \"TCP\", \"UDP\"".into()],
        ),
        (
            at("env.0.name"),
            json!("a=b"),
            vec!["spec.containers[0].env[0].name: Invalid value: \"a=b\": a valid environment variable name must consist only of printable ASCII characters other than '='".into()],
        ),
        (
            at("env.0.valueFrom.fieldRef.fieldPath"),
            json!("spec.nope"),
            vec!["spec.containers[0].env[0].valueFrom.fieldRef.fieldPath: Invalid value: \"spec.nope\": error converting fieldPath: field label not supported: spec.nope".into()],
        ),
        (
            at("env.0.valueFrom.secretKeyRef"),
            json!({"name": "s", "key": "k"}),
            vec!["spec.containers[0].env[0].valueFrom: Invalid value: \"\": may not have more than one field specified at a time".into()],
        ),
        (
            at("resources.requests"),
            json!({"cpu": "1"}),
            vec!["spec.containers[0].resources.requests: Invalid value: \"1\": must be less than or equal to cpu limit of 500m".into()],
        ),
        (
            at("resources.limits.pods"),
            json!("1"),
            vec![
                "spec.containers[0].resources.limits[pods]: Invalid value: \"pods\": must be a standard resource for containers".into(),
                "spec.containers[0].resources.requests[pods]: Invalid value: \"pods\": must be a standard resource for containers".into(),
            ],
        ),
        (
            at("volumeMounts.0.name"),
            json!("nope"),
            vec!["spec.containers[0].volumeMounts[0].name: Not found: \"nope\"".into()],
        ),
        (
            at("volumeMounts.1.mountPath"),
            json!("/etc/web"),
            vec!["spec.containers[0].volumeMounts[1].mountPath: Invalid value: \"/etc/web\": must be unique".into()],
        ),
        (
            at("readinessProbe.exec"),
            json!({"command": ["true"]}),
            vec!["spec.containers[0].readinessProbe.httpGet: Forbidden: may not specify more than 1 handler type".into()],
        ),
        (
            at("livenessProbe"),
            json!({"tcpSocket": {"port": 0}, "successThreshold": 2}),
            vec![
                "spec.containers[0].livenessProbe.tcpSocket.port: Invalid value: 0: must be between 1 and 65535, inclusive".into(),
                "spec.containers[0].livenessProbe.successThreshold: Invalid value: 2: must be 1".into(),
            ],
        ),
        (
            at("lifecycle.preStop.sleep.seconds"),
            json!(31),
            vec!["spec.containers[0].lifecycle.preStop.sleep: Invalid value: 31: must be non-negative and less than terminationGracePeriodSeconds (30)".into()],
        ),
        (
            at("securityContext"),
            json!({"runAsUser": -1, "privileged": true, "allowPrivilegeEscalation": false}),
            vec![
                "spec.containers[0].securityContext.runAsUser: Invalid value: -1: must be between 0 and 2147483647, inclusive".into(),
                "spec.containers[0].securityContext: Invalid value: {\"runAsUser\":-1,\"privileged\":true,\"allowPrivilegeEscalation\":false}: cannot set `allowPrivilegeEscalation` to false and `privileged` to true".into(),
            ],
        ),
    ] {
        let expected: Vec<&str> = expected.iter().map(String::as_str).collect();
        refused("pods", &[(&path, value)], &expected);
    }
}

#[test]
fn pod_specs() {
    for (path, value, expected) in [
        (
            "spec.restartPolicy",
            json!("Maybe"),
            "spec.restartPolicy: Unsupported value: \"Maybe\": supported values: \"Always\", \"OnFailure\", \"Never\"",
        ),
        (
            "spec.dnsPolicy",
            json!("None"),
            "spec.dnsConfig: Required value: must provide `dnsConfig` when `dnsPolicy` is None",
        ),
        (
            "spec.tolerations.0.value",
            json!("x"),
            "spec.tolerations[0].operator: Invalid value: \"x\": value must be empty when `operator` is 'Exists'",
        ),
        (
            "spec.affinity.nodeAffinity",
            json!({"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": []}}),
            "spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms: Required value: must have at least one node selector term",
        ),
        (
            "spec.topologySpreadConstraints.0.maxSkew",
            json!(0),
            "spec.topologySpreadConstraints[0].maxSkew: Invalid value: 0: must be greater than zero",
        ),
        (
            "spec.securityContext.sysctls",
            json!([{"name": "Net", "value": "1"}]),
            "spec.securityContext.sysctls[0].name: Invalid value: \"Net\": must have at most 253 characters and match regex ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$",
        ),
        (
            "spec.initContainers.0.livenessProbe",
            json!({"tcpSocket": {"port": 80}}),
            "spec.initContainers[0].livenessProbe: Forbidden: may not be set for init containers without restartPolicy=Always",
        ),
        (
            "spec.ephemeralContainers",
            json!([{"name": "debug", "image": "busybox"}]),
            "spec.ephemeralContainers: Forbidden: cannot be set on create",
        ),
        (
            "spec.activeDeadlineSeconds",
            json!(0),
            "spec.activeDeadlineSeconds: Invalid value: 0: must be between 1 and 2147483647, inclusive",
        ),
    ] {
        refused("pods", &[(path, value)], &[expected]);
    }
    // A volume in error is not there to be mounted.
    refused(
        "pods",
        &[("spec.volumes.1", json!({"name": "scratch", "emptyDir": {}, "hostPath": {"path": "/tmp", "type": ""}}))],
        &[
            "spec.volumes[1].hostPath: Forbidden: may not specify more than 1 volume type",
            "spec.containers[0].volumeMounts[1].name: Not found: \"scratch\"",
        ],
    );
    refused("pods", &[("spec.hostUsers", json!(false))], &[]);
}

#[test]
fn pod_updates() {
    update_refused("pods", &[("spec.containers.0.image", json!("registry.example/web:2.0"))], &[]);
    update_refused("pods", &[("metadata.labels.app", json!("other"))], &[]);
    update_refused(
        "pods",
        &[("spec.containers.0.command", json!(["sh"]))],
        &[
            "spec: Forbidden: pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)",
        ],
    );
    update_refused(
        "pods",
        &[("spec.initContainers", json!([]))],
        &["spec.initContainers: Forbidden: pod updates may not add or remove containers"],
    );
    update_refused(
        "pods",
        &[("spec.tolerations", json!([]))],
        &["spec.tolerations: Forbidden: existing toleration can not be modified except its tolerationSeconds"],
    );
}

#[test]
fn workloads() {
    refused(
        "deployments.apps",
        &[("spec.template.metadata.labels", json!({"app": "other"}))],
        &[
            "spec.template.metadata.labels: Invalid value: {\"app\":\"other\"}: `selector` does not match template `labels`",
        ],
    );
    refused(
        "deployments.apps",
        &[("spec.template.spec.restartPolicy", json!("Never")), ("spec.replicas", json!(-1))],
        &[
            "spec.replicas: Invalid value: -1: must be greater than or equal to 0",
            "spec.template.spec.restartPolicy: Unsupported value: \"Never\": supported values: \"Always\"",
        ],
    );
    refused(
        "deployments.apps",
        &[("spec.strategy.rollingUpdate", json!({"maxSurge": 0, "maxUnavailable": "0%"}))],
        &["spec.strategy.rollingUpdate.maxUnavailable: Invalid value: \"0%\": may not be 0 when `maxSurge` is 0"],
    );
    update_refused(
        "deployments.apps",
        &[
            ("spec.selector", json!({"matchLabels": {"app": "web", "tier": "x"}})),
            ("spec.template.metadata.labels.tier", json!("x")),
        ],
        &["spec.selector: Invalid value: {\"matchLabels\":{\"app\":\"web\",\"tier\":\"x\"}}: field is immutable"],
    );
    update_refused(
        "statefulsets.apps",
        &[("spec.serviceName", json!("other"))],
        &[
            "spec: Forbidden: updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden",
        ],
    );
    refused(
        "daemonsets.apps",
        &[("spec.updateStrategy.rollingUpdate", json!({"maxSurge": 1, "maxUnavailable": 1}))],
        &[
            "spec.updateStrategy.rollingUpdate.maxSurge: Invalid value: 1: may not be set when maxUnavailable is non-zero",
        ],
    );
    refused(
        "jobs.batch",
        &[("spec.template.spec.restartPolicy", json!("Always"))],
        &["spec.template.spec.restartPolicy: Required value: valid values: \"OnFailure\", \"Never\""],
    );
    update_refused(
        "jobs.batch",
        &[("spec.completions", json!(3))],
        &["spec.completions: Invalid value: 3: field is immutable"],
    );
    refused(
        "cronjobs.batch",
        &[("spec.schedule", json!("*/5 * * *")), ("spec.timeZone", json!("Mars/Olympus"))],
        &[
            "spec.schedule: Invalid value: \"*/5 * * *\": expected exactly 5 fields, found 4: [*/5 * * *]",
            "spec.timeZone: Invalid value: \"Mars/Olympus\": unknown time zone Mars/Olympus",
        ],
    );
}

#[test]
fn services() {
    refused(
        "services",
        &[("spec.ports.0.port", json!(0)), ("spec.ports.0.targetPort", json!(80))],
        &["spec.ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive"],
    );
    refused(
        "services",
        &[("spec.ports", json!([{"port": 80}, {"port": 81}]))],
        &["spec.ports[0].name: Required value", "spec.ports[1].name: Required value"],
    );
    refused(
        "services",
        &[
            ("spec.type", json!("ExternalName")),
            ("spec.externalName", json!("")),
            ("spec.internalTrafficPolicy", Value::Null),
        ],
        &["spec.externalName: Required value"],
    );
    refused(
        "services",
        &[("spec.clusterIP", json!("10.0.0.x"))],
        &[
            "spec.clusterIPs[0]: Invalid value: \"10.0.0.x\": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
        ],
    );
    let spec = named("services");
    let (mut old, _) = create(&spec, fixture(&spec));
    old.set("spec.clusterIP", "10.96.0.5");
    old.set("spec.clusterIPs", json!(["10.96.0.5"]));
    let mut object = old.clone();
    object.set("spec.clusterIP", "10.96.0.6");
    let (_, errors) = update(&spec, object, &old);
    assert_eq!(lines(&errors), ["spec.clusterIPs[0]: Invalid value: [\"10.96.0.6\"]: may not change once set"]);
    let mut left_out = old.clone();
    left_out.remove("spec.clusterIP");
    left_out.remove("spec.clusterIPs");
    let (kept, errors) = update(&spec, left_out, &old);
    assert!(errors.is_empty(), "{errors:?}");
    assert_eq!(kept, old);
}

#[test]
fn configuration() {
    refused(
        "configmaps",
        &[("data", json!({"a b": "", "bin": ""}))],
        &[
            "data[a b]: Invalid value: \"a b\": a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')",
            "data[bin]: Invalid value: \"bin\": duplicate of key present in binaryData",
        ],
    );
    refused(
        "configmaps",
        &[("data.big", json!("x".repeat(1 << 20)))],
        &["<nil>: Too long: may not be more than 1048576 bytes"],
    );
    refused(
        "secrets",
        &[("type", json!("kubernetes.io/tls"))],
        &["data[tls.crt]: Required value", "data[tls.key]: Required value"],
    );
    let spec = named("configmaps");
    let (mut old, _) = create(&spec, fixture(&spec));
    old.set("immutable", true);
    let mut object = old.clone();
    object.set("data.key", "other");
    object.set("immutable", false);
    let (_, errors) = update(&spec, object, &old);
    assert_eq!(
        lines(&errors),
        [
            "immutable: Forbidden: field is immutable when `immutable` is set",
            "data: Forbidden: field is immutable when `immutable` is set"
        ]
    );
    refused(
        "namespaces",
        &[("spec.finalizers", json!(["mine"]))],
        &[
            "spec.finalizers: Invalid value: \"mine\": name is neither a standard finalizer name nor is it fully qualified",
        ],
    );
}

#[test]
fn access() {
    refused(
        "roles.rbac.authorization.k8s.io",
        &[("rules", json!([{"verbs": [], "apiGroups": [""]}]))],
        &[
            "rules[0].verbs: Required value: verbs must contain at least one value",
            "rules[0].resources: Required value: resource rules must supply at least one resource",
        ],
    );
    update_refused(
        "rolebindings.rbac.authorization.k8s.io",
        &[("roleRef.name", json!("other"))],
        &[
            "roleRef: Invalid value: {\"APIGroup\":\"rbac.authorization.k8s.io\",\"Kind\":\"Role\",\"Name\":\"other\"}: cannot change roleRef",
        ],
    );
}

#[test]
fn storage() {
    refused(
        "persistentvolumeclaims",
        &[("spec.resources", json!({})), ("spec.accessModes", json!(["Sometimes"]))],
        &[
            "spec.accessModes: Unsupported value: \"Sometimes\": supported values: \"ReadOnlyMany\", \"ReadWriteMany\", \"ReadWriteOnce\", \"ReadWriteOncePod\"",
            "spec.resources[storage]: Required value",
        ],
    );
    refused(
        "persistentvolumes",
        &[("spec.hostPath", Value::Null)],
        &["spec: Required value: must specify a volume type"],
    );
    update_refused(
        "persistentvolumeclaims",
        &[("spec.accessModes", json!(["ReadWriteMany"]))],
        &[
            "spec: Forbidden: spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims",
        ],
    );
    update_refused(
        "storageclasses.storage.k8s.io",
        &[("provisioner", json!("example.com/slow"))],
        &["provisioner: Invalid value: \"example.com/slow\": field is immutable"],
    );
}

#[test]
fn warnings_of_what_is_deprecated() {
    let warned = |resource: &str, changes: &[(&str, Value)]| {
        let spec = named(resource);
        let mut object = fixture(&spec);
        for (path, value) in changes {
            object.set(path, value.clone());
        }
        let (object, _) = create(&spec, object);
        crate::tests::with_context(|ctx| spec.strategy.warnings(ctx, &object, None))
    };
    assert_eq!(
        warned("services", &[("spec.externalName", json!("a.example"))]),
        ["spec.externalName is ignored when spec.type is not \"ExternalName\""]
    );
    assert_eq!(
        warned("nodes", &[("spec.externalID", json!("a"))]),
        ["spec.externalID: this field is deprecated, and is unused by Kubernetes"]
    );
    let recycled = warned("persistentvolumes", &[("spec.persistentVolumeReclaimPolicy", json!("Recycle"))]);
    assert!(recycled[0].starts_with("spec.persistentVolumeReclaimPolicy: The Recycle reclaim policy"), "{recycled:?}");
    assert_eq!(
        warned("cronjobs.batch", &[("spec.jobTemplate.spec.template.spec.imagePullSecrets", json!([{}]))]),
        ["spec.jobTemplate.spec.template.spec.imagePullSecrets[0].name: invalid empty name \"\""]
    );
}

#[test]
fn what_is_ignored_and_added() {
    let spec = named("persistentvolumeclaims");
    let mut claim = fixture(&spec);
    claim.set("spec.dataSource", json!({"kind": "Recipe", "name": "soup"}));
    let (claim, errors) = create(&spec, claim);
    assert!(errors.is_empty() && claim.at("spec.dataSource").is_null(), "{errors:?} {claim}");

    let spec = named("jobs.batch");
    let mut job = fixture(&spec);
    job.remove("metadata.labels");
    let (job, _) = create(&spec, job);
    assert_eq!(job.at("metadata.labels"), job.at("spec.template.metadata.labels"));
    assert_eq!(job.text("metadata.labels.job-name"), job.text("metadata.name"));

    let spec = named("pods");
    let mut pod = fixture(&spec);
    pod.set("spec.schedulingGroup", json!({"podGroupName": "g"}));
    spec.strategy.default("v1", &mut pod);
    assert!(pod.has("spec.schedulingGroup"), "who sent it owns it");
    let (pod, _) = create(&spec, pod);
    assert!(pod.at("spec.schedulingGroup").is_null());
}

#[test]
fn autoscalers() {
    refused(
        "horizontalpodautoscalers.autoscaling",
        &[("spec.scaleTargetRef.apiVersion", json!("v1"))],
        &["spec.scaleTargetRef.apiVersion: Invalid value: \"v1\": apiVersion must specify API group"],
    );
    refused(
        "horizontalpodautoscalers.autoscaling",
        &[("spec.scaleTargetRef", json!({"apiVersion": "v1", "kind": "ReplicationController", "name": "web"}))],
        &[],
    );
}

#[test]
fn what_an_update_may_not_make_of_a_status_or_a_revision() {
    update_refused(
        "controllerrevisions.apps",
        &[("data", json!({}))],
        &["data: Invalid value: {}: field is immutable"],
    );
}

#[test]
fn names_that_only_some_types_take() {
    let problems = |resource: &str, name: &str, prefix: bool| named(resource).strategy.name_problems(name, prefix);
    assert_eq!(problems("poddisruptionbudgets.policy", "a/b", false), ["may not contain '/'"]);
    assert!(problems("poddisruptionbudgets.policy", "A b", false).is_empty());
    assert!(problems("replicationcontrollers", "A b-", true).is_empty());
    assert_eq!(problems("replicationcontrollers", "A b", false).len(), 1);
    let crd = json!({"spec": {"group": "example.com", "names": {"plural": "widgets"}}});
    let misfits = |name| named("customresourcedefinitions.apiextensions.k8s.io").strategy.name_misfits(&crd, name);
    assert!(misfits("widgets.example.com").is_empty());
    assert_eq!(misfits("widgets-"), ["must be spec.names.plural+\".\"+spec.group"]);
}

#[test]
fn csi_drivers_with_tokens_are_warned_of() {
    let spec = named("csidrivers.storage.k8s.io");
    let ctx_warnings = |object: &Value, old: Option<&Value>| {
        crate::tests::with_context(|ctx| spec.strategy.warnings(ctx, object, old))
    };
    let tokens = json!({"spec": {"tokenRequests": [{"audience": "a"}]}});
    assert_eq!(ctx_warnings(&tokens, None).len(), 1);
    assert!(ctx_warnings(&tokens, Some(&tokens)).is_empty());
    let set = json!({"spec": {"tokenRequests": [{"audience": "a"}], "serviceAccountTokenInSecrets": false}});
    assert!(ctx_warnings(&set, None).is_empty());
}
