//! Create, get, update and delete over real HTTP.
#![allow(clippy::unwrap_used)]

use serde_json::{Value, json};
use skeg_testserver::TestServer;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

fn config_map(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"a": "1"}})
}

fn pod(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": {"containers": [{"name": "c", "image": "i"}]}})
}

#[tokio::test]
async fn a_created_object_has_its_system_fields_and_reads_back_the_same() {
    let server = TestServer::start().await;
    let created = server.post(MAPS, &config_map("a")).send().await;
    let object = created.expect(201);
    let metadata = &object["metadata"];
    assert_eq!(metadata["namespace"], "default");
    assert_eq!(metadata["uid"].as_str().unwrap().len(), 36);
    assert!(metadata["creationTimestamp"].as_str().unwrap().ends_with('Z'));
    assert!(metadata["resourceVersion"].as_str().unwrap().parse::<u64>().unwrap() > 0);
    let read = server.get(&format!("{MAPS}/a")).send().await;
    assert_eq!(read.expect(200), object);
    assert_eq!(read.body, created.body);
    assert_eq!(read.header("content-type"), "application/json");
    assert_eq!(read.header("cache-control"), "no-cache, private");
    assert_eq!(read.header("audit-id").len(), 36);
}

#[tokio::test]
async fn a_taken_name_is_already_exists_and_an_absent_one_not_found() {
    let server = TestServer::start().await;
    server.post(MAPS, &config_map("a")).send().await.expect(201);
    let taken = server.post(MAPS, &config_map("a")).send().await.expect(409);
    assert_eq!(taken["reason"], "AlreadyExists");
    assert_eq!(taken["message"], "configmaps \"a\" already exists");
    assert_eq!(taken["details"], json!({"name": "a", "kind": "configmaps"}));
    let absent = server.get(&format!("{MAPS}/b")).send().await.expect(404);
    assert_eq!(absent["message"], "configmaps \"b\" not found");
}

#[tokio::test]
async fn generate_name_makes_a_new_name_each_time() {
    let server = TestServer::start().await;
    let body = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"generateName": "x-"}});
    let first = server.post(MAPS, &body).send().await.expect(201);
    let second = server.post(MAPS, &body).send().await.expect(201);
    let name = first["metadata"]["name"].as_str().unwrap();
    assert!(name.starts_with("x-") && name.len() == 7, "{name}");
    assert_ne!(first["metadata"]["name"], second["metadata"]["name"]);
}

#[tokio::test]
async fn a_dry_run_stores_nothing() {
    let server = TestServer::start().await;
    server.post(&format!("{MAPS}?dryRun=All"), &config_map("a")).send().await.expect(201);
    server.get(&format!("{MAPS}/a")).send().await.expect(404);
    let odd = server.post(&format!("{MAPS}?dryRun=Some"), &config_map("a")).send().await.expect(422);
    assert_eq!(odd["details"]["kind"], "CreateOptions");
}

#[tokio::test]
async fn a_stale_resource_version_is_a_conflict() {
    let server = TestServer::start().await;
    let path = format!("{MAPS}/a");
    let first = server.post(MAPS, &config_map("a")).send().await.expect(201);
    let mut changed = first.clone();
    changed["data"]["a"] = json!("2");
    let second = server.put(&path, &changed).send().await.expect(200);
    assert_ne!(first["metadata"]["resourceVersion"], second["metadata"]["resourceVersion"]);
    assert_eq!(first["metadata"]["uid"], second["metadata"]["uid"]);
    let stale = server.put(&path, &changed).send().await.expect(409);
    assert_eq!(
        stale["message"],
        "Operation cannot be fulfilled on configmaps \"a\": the object has been modified; please apply your changes to \
         the latest version and try again"
    );
    // Without a resourceVersion the newest is replaced.
    server.put(&path, &config_map("a")).send().await.expect(200);
}

#[tokio::test]
async fn an_update_that_changes_nothing_keeps_the_resource_version() {
    let server = TestServer::start().await;
    let first = server.post(MAPS, &config_map("a")).send().await.expect(201);
    let again = server.put(&format!("{MAPS}/a"), &first).send().await.expect(200);
    assert_eq!(first["metadata"]["resourceVersion"], again["metadata"]["resourceVersion"]);
}

#[tokio::test]
async fn an_update_of_an_absent_object_is_not_found() {
    let server = TestServer::start().await;
    server.put(&format!("{MAPS}/a"), &config_map("a")).send().await.expect(404);
}

#[tokio::test]
async fn names_and_namespaces_of_body_and_path_must_agree() {
    let server = TestServer::start().await;
    server.post(MAPS, &config_map("a")).send().await.expect(201);
    let name = server.put(&format!("{MAPS}/a"), &config_map("b")).send().await.expect(400);
    assert_eq!(name["message"], "the name of the object (b) does not match the name on the URL (a)");
    let mut elsewhere = config_map("c");
    elsewhere["metadata"]["namespace"] = json!("other");
    let namespace = server.post(MAPS, &elsewhere).send().await.expect(400);
    assert_eq!(
        namespace["message"],
        "the namespace of the provided object does not match the namespace sent on the request"
    );
}

#[tokio::test]
async fn bodies_of_another_kind_or_version_are_refused() {
    let server = TestServer::start().await;
    let mut other = config_map("a");
    other["kind"] = json!("Secret");
    server.post(MAPS, &other).send().await.expect(400);
    let version = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "a"}});
    let refused = server.post(MAPS, &version).send().await.expect(400);
    assert_eq!(
        refused["message"],
        "the API version in the data (apps/v1) does not match the expected API version (v1)"
    );
    server.ask(http::Method::POST, MAPS).body("application/json", "{").send().await.expect(400);
    server.ask(http::Method::POST, MAPS).body("application/xml", "<a/>").send().await.expect(415);
}

#[tokio::test]
async fn unknown_fields_are_dropped_warned_of_or_refused() {
    let server = TestServer::start().await;
    let mut body = config_map("a");
    body["colour"] = json!("red");
    let strict = server.post(&format!("{MAPS}?fieldValidation=Strict"), &body).send().await.expect(400);
    assert!(strict["message"].as_str().unwrap().contains("unknown field \"colour\""), "{strict}");
    let warned = server.post(MAPS, &body).send().await;
    assert_eq!(warned.header("warning"), "299 - \"unknown field \\\"colour\\\"\"");
    assert!(warned.expect(201).get("colour").is_none());
    body["metadata"]["name"] = json!("b");
    let ignored = server.post(&format!("{MAPS}?fieldValidation=Ignore"), &body).send().await;
    ignored.expect(201);
    assert_eq!(ignored.header("warning"), "");
}

#[tokio::test]
async fn an_invalid_name_is_422_with_its_cause() {
    let server = TestServer::start().await;
    let refused = server.post(MAPS, &config_map("Not_Valid")).send().await.expect(422);
    assert_eq!(refused["reason"], "Invalid");
    assert_eq!(refused["details"]["causes"][0]["field"], "metadata.name");
    let nameless = json!({"apiVersion": "v1", "kind": "ConfigMap"});
    let refused = server.post(MAPS, &nameless).send().await.expect(422);
    assert!(refused["message"].as_str().unwrap().contains("name or generateName is required"), "{refused}");
}

#[tokio::test]
async fn yaml_goes_in_and_out() {
    let server = TestServer::start().await;
    let yaml = "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: a\ndata:\n  k: v\n";
    let created =
        server.ask(http::Method::POST, MAPS).body("application/yaml", yaml).accept("application/yaml").send().await;
    assert_eq!(created.status, 201);
    assert_eq!(created.header("content-type"), "application/yaml");
    let tree: Value = serde_yaml_ng::from_slice(&created.body).unwrap();
    assert_eq!(tree["data"]["k"], "v");
}

#[tokio::test]
async fn deleting_answers_with_a_status_and_a_pod_with_itself() {
    let server = TestServer::start().await;
    let created = server.post(MAPS, &config_map("a")).send().await.expect(201);
    let status = server.delete(&format!("{MAPS}/a")).send().await.expect(200);
    assert_eq!(status["status"], "Success");
    assert_eq!(status["details"], json!({"name": "a", "kind": "configmaps", "uid": created["metadata"]["uid"]}));
    server.get(&format!("{MAPS}/a")).send().await.expect(404);
    let pods = "/api/v1/namespaces/default/pods";
    server.post(pods, &pod("p")).send().await.expect(201);
    let gone = server.delete(&format!("{pods}/p?gracePeriodSeconds=0")).send().await.expect(200);
    assert_eq!(gone["kind"], "Pod");
    server.get(&format!("{pods}/p")).send().await.expect(404);
}

#[tokio::test]
async fn a_scheduled_pod_waits_for_its_grace_period() {
    let server = TestServer::start().await;
    let pods = "/api/v1/namespaces/default/pods";
    let mut scheduled = pod("p");
    scheduled["spec"]["nodeName"] = json!("n");
    let created = server.post(pods, &scheduled).send().await.expect(201);
    let path = format!("{pods}/p");
    let deleting = server.delete(&path).send().await.expect(200);
    assert_eq!(deleting["metadata"]["deletionGracePeriodSeconds"], 30);
    assert!(deleting["metadata"]["deletionTimestamp"].is_string());
    assert_eq!(
        deleting["metadata"]["generation"].as_i64().unwrap(),
        created["metadata"]["generation"].as_i64().unwrap() + 1
    );
    // A longer period changes nothing; a shorter one shortens; zero deletes.
    let same = server.delete(&format!("{path}?gracePeriodSeconds=40")).send().await.expect(200);
    assert_eq!(same["metadata"]["deletionGracePeriodSeconds"], 30);
    let shorter = server.delete(&format!("{path}?gracePeriodSeconds=5")).send().await.expect(200);
    assert_eq!(shorter["metadata"]["deletionGracePeriodSeconds"], 5);
    let gone = server.delete(&format!("{path}?gracePeriodSeconds=0")).send().await.expect(200);
    assert_eq!(gone["metadata"]["deletionGracePeriodSeconds"], 0);
    server.get(&path).send().await.expect(404);
}

#[tokio::test]
async fn finalizers_hold_an_object_until_an_update_empties_them() {
    let server = TestServer::start().await;
    let path = format!("{MAPS}/a");
    let mut body = config_map("a");
    body["metadata"]["finalizers"] = json!(["example.com/hold"]);
    server.post(MAPS, &body).send().await.expect(201);
    let deleting = server.delete(&path).send().await.expect(200);
    assert_eq!(deleting["kind"], "ConfigMap");
    assert!(deleting["metadata"]["deletionTimestamp"].is_string());
    server.get(&path).send().await.expect(200);
    let taken = server.post(MAPS, &config_map("a")).send().await.expect(409);
    assert!(taken["message"].as_str().unwrap().starts_with("object is being deleted: "), "{taken}");
    server.patch(&path, "merge", &json!({"metadata": {"finalizers": null}})).send().await.expect(200);
    server.get(&path).send().await.expect(404);
}

#[tokio::test]
async fn the_propagation_policy_becomes_a_finalizer() {
    let server = TestServer::start().await;
    let sets = "/apis/apps/v1/namespaces/default/replicasets";
    let set = |name: &str| {
        json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": {"name": name}, "spec": {
            "selector": {"matchLabels": {"a": "b"}},
            "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}})
    };
    for (name, policy, finalizer) in [("f", "Foreground", "foregroundDeletion"), ("o", "Orphan", "orphan")] {
        server.post(sets, &set(name)).send().await.expect(201);
        let options = json!({"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": policy});
        let deleting = server.delete(&format!("{sets}/{name}")).json(&options).send().await.expect(200);
        assert_eq!(deleting["metadata"]["finalizers"], json!([finalizer]), "{policy}");
    }
    server.post(sets, &set("b")).send().await.expect(201);
    let gone = server.delete(&format!("{sets}/b?propagationPolicy=Background")).send().await.expect(200);
    assert_eq!(gone["status"], "Success");
}

#[tokio::test]
async fn delete_preconditions_are_checked() {
    let server = TestServer::start().await;
    server.post(MAPS, &config_map("a")).send().await.expect(201);
    let options = json!({"preconditions": {"uid": "0"}});
    let refused = server.delete(&format!("{MAPS}/a")).json(&options).send().await.expect(409);
    assert_eq!(refused["reason"], "Conflict");
    server.get(&format!("{MAPS}/a")).send().await.expect(200);
}

#[tokio::test]
async fn delete_collection_takes_only_what_is_selected() {
    let server = TestServer::start().await;
    for (name, group) in [("a", "x"), ("b", "x"), ("c", "y")] {
        let mut body = config_map(name);
        body["metadata"]["labels"] = json!({"group": group});
        server.post(MAPS, &body).send().await.expect(201);
    }
    let deleted = server.delete(&format!("{MAPS}?labelSelector=group%3Dx")).send().await.expect(200);
    assert_eq!(deleted["items"].as_array().unwrap().len(), 2);
    let left = server.get(MAPS).send().await.expect(200);
    let names: Vec<&str> =
        left["items"].as_array().unwrap().iter().map(|i| i["metadata"]["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["c"]);
}

#[tokio::test]
async fn a_namespace_turns_terminating_and_goes_with_its_last_finalizer() {
    let server = TestServer::start().await;
    let body = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "n"}});
    let created = server.post("/api/v1/namespaces", &body).send().await.expect(201);
    assert_eq!(created["spec"]["finalizers"], json!(["kubernetes"]));
    assert_eq!(created["status"]["phase"], "Active");
    let deleting = server.delete("/api/v1/namespaces/n").send().await.expect(200);
    assert_eq!(deleting["status"]["phase"], "Terminating");
    let mut finalized = deleting.clone();
    finalized["spec"]["finalizers"] = json!([]);
    server.put("/api/v1/namespaces/n/finalize", &finalized).send().await.expect(200);
    server.get("/api/v1/namespaces/n").send().await.expect(404);
}

#[tokio::test]
async fn generation_grows_with_the_spec_and_not_with_the_status() {
    let server = TestServer::start().await;
    let path = "/apis/apps/v1/namespaces/default/deployments";
    let body = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}, "spec": {
        "selector": {"matchLabels": {"a": "b"}},
        "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}});
    let created = server.post(path, &body).send().await.expect(201);
    assert_eq!(created["metadata"]["generation"], 1);
    assert_eq!(created["spec"]["replicas"], 1);
    let mut changed = created.clone();
    changed["spec"]["replicas"] = json!(3);
    changed["status"] = json!({"replicas": 9});
    let changed = server.put(&format!("{path}/d"), &changed).send().await.expect(200);
    assert_eq!(changed["metadata"]["generation"], 2);
    assert!(changed["status"]["replicas"].is_null(), "{changed}");
    let mut status = changed.clone();
    status["status"] = json!({"replicas": 2, "observedGeneration": 2});
    status["spec"]["replicas"] = json!(7);
    let status = server.put(&format!("{path}/d/status"), &status).send().await.expect(200);
    assert_eq!(status["metadata"]["generation"], 2);
    assert_eq!((&status["status"]["replicas"], &status["spec"]["replicas"]), (&json!(2), &json!(3)));
}

#[tokio::test]
async fn scale_reads_and_writes_the_replicas_of_its_parent() {
    let server = TestServer::start().await;
    let path = "/apis/apps/v1/namespaces/default/deployments";
    let body = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}, "spec": {
        "selector": {"matchLabels": {"a": "b"}},
        "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}});
    server.post(path, &body).send().await.expect(201);
    let mut scale = server.get(&format!("{path}/d/scale")).send().await.expect(200);
    assert_eq!(
        (&scale["kind"], &scale["spec"]["replicas"], &scale["status"]["selector"]),
        (&json!("Scale"), &json!(1), &json!("a=b"))
    );
    let shown =
        server.get(&format!("{path}/d/scale")).accept("application/json;as=Table;v=v1;g=meta.k8s.io").send().await;
    let shown = shown.expect(200);
    assert_eq!(shown["columnDefinitions"][1]["name"], "Desired");
    assert_eq!((&shown["rows"][0]["cells"][0], &shown["rows"][0]["cells"][1]), (&json!("d"), &json!(1)));
    assert_eq!(shown["rows"][0]["object"]["kind"], "PartialObjectMetadata");
    scale["spec"]["replicas"] = json!(4);
    let scaled = server.put(&format!("{path}/d/scale"), &scale).send().await.expect(200);
    assert_eq!(scaled["spec"]["replicas"], 4);
    let parent = server.get(&format!("{path}/d")).send().await.expect(200);
    assert_eq!((&parent["spec"]["replicas"], &parent["metadata"]["generation"]), (&json!(4), &json!(2)));
    // The resourceVersion that was read is a precondition.
    server.put(&format!("{path}/d/scale"), &scale).send().await.expect(409);
    let patched =
        server.patch(&format!("{path}/d/scale"), "merge", &json!({"spec": {"replicas": 2}})).send().await.expect(200);
    assert_eq!(patched["spec"]["replicas"], 2);
    server.patch(&format!("{path}/d/scale"), "merge", &json!({"spec": {"replicas": -1}})).send().await.expect(422);
}

#[tokio::test]
async fn an_applied_scale_owns_the_replicas_of_its_parent() {
    let server = TestServer::start().await;
    let path = "/apis/apps/v1/namespaces/default/deployments";
    let body = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}, "spec": {"replicas": 1,
        "selector": {"matchLabels": {"a": "b"}},
        "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}});
    server.patch(&format!("{path}/d?fieldManager=first"), "apply", &body).send().await.expect(201);
    let scale = |replicas: i64| json!({"apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": {"name": "d"}, "spec": {"replicas": replicas}});
    let conflict =
        server.patch(&format!("{path}/d/scale?fieldManager=scaler"), "apply", &scale(3)).send().await.expect(409);
    assert!(conflict["message"].as_str().unwrap().contains(".spec.replicas"), "{conflict}");
    let forced = format!("{path}/d/scale?fieldManager=scaler&force=true");
    let scaled = server.patch(&forced, "apply", &scale(3)).send().await.expect(200);
    assert_eq!((&scaled["kind"], &scaled["spec"]["replicas"]), (&json!("Scale"), &json!(3)));
    let parent = server.get(&format!("{path}/d")).send().await.expect(200);
    assert_eq!(parent["spec"]["replicas"], 3);
    let managers = parent["metadata"]["managedFields"].as_array().unwrap();
    let owner = managers.iter().find(|entry| entry["manager"] == "scaler").unwrap();
    assert_eq!(
        (&owner["operation"], &owner["subresource"], &owner["fieldsV1"]),
        (&json!("Apply"), &json!("scale"), &json!({"f:spec": {"f:replicas": {}}}))
    );
    server.patch(&format!("{path}/none/scale?fieldManager=scaler"), "apply", &scale(1)).send().await.expect(404);
    let wrong = json!({"apiVersion": "v1", "kind": "Scale", "spec": {"replicas": 1}});
    server.patch(&forced, "apply", &wrong).send().await.expect(400);
}

#[tokio::test]
async fn generations_begin_and_grow_as_each_type_counts_them() {
    let server = TestServer::start().await;
    let drivers = "/apis/storage.k8s.io/v1/csidrivers";
    let driver = json!({"apiVersion": "storage.k8s.io/v1", "kind": "CSIDriver", "metadata": {"name": "d"}, "spec": {}});
    let mut driver = server.post(drivers, &driver).send().await.expect(201);
    assert_eq!(driver["metadata"]["generation"], Value::Null);
    driver["spec"]["podInfoOnMount"] = json!(true);
    let driver = server.put(&format!("{drivers}/d"), &driver).send().await.expect(200);
    assert_eq!(driver["metadata"]["generation"], 1);

    let slices = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";
    let slice = json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": {"name": "s"},
        "addressType": "IPv4", "endpoints": []});
    let mut slice = server.post(slices, &slice).send().await.expect(201);
    assert_eq!(slice["metadata"]["generation"], 1);
    slice["metadata"]["labels"] = json!({"a": "b"});
    let mut slice = server.put(&format!("{slices}/s"), &slice).send().await.expect(200);
    assert_eq!(slice["metadata"]["generation"], 2);
    slice["metadata"]["annotations"] = json!({"a": "b"});
    let slice = server.put(&format!("{slices}/s"), &slice).send().await.expect(200);
    assert_eq!(slice["metadata"]["generation"], 2);
}

#[tokio::test]
async fn components_are_looked_up_when_they_are_asked_for() {
    let server = TestServer::start().await;
    let list = server.get("/api/v1/componentstatuses").send().await.expect(200);
    let names: Vec<&str> =
        list["items"].as_array().unwrap().iter().filter_map(|c| c["metadata"]["name"].as_str()).collect();
    assert_eq!(names, ["controller-manager", "etcd-0", "scheduler"]);
    let etcd = server.get("/api/v1/componentstatuses/etcd-0").send().await.expect(200);
    assert_eq!(etcd["conditions"], json!([{"type": "Healthy", "status": "True", "message": "ok"}]));
    let one = server.get("/api/v1/componentstatuses?fieldSelector=metadata.name%3Detcd-0").send().await.expect(200);
    assert_eq!(one["items"].as_array().unwrap().len(), 1);
    let missing = server.get("/api/v1/componentstatuses/judge").send().await.expect(404);
    assert_eq!(missing["message"], "componentstatus \"judge\" not found");
}

#[tokio::test]
async fn what_a_router_refuses_has_no_deprecation() {
    let server = TestServer::start().await;
    let warned = server.get("/api/v1/namespaces/default/endpoints").send().await;
    assert!(warned.header("warning").contains("v1 Endpoints is deprecated"));
    let refused = server.put("/api/v1/namespaces/default/endpoints", &json!({})).send().await;
    refused.expect(405);
    assert_eq!(refused.header("warning"), "");
}

#[tokio::test]
async fn admin_access_to_devices_is_for_labeled_namespaces() {
    let server = TestServer::start().await;
    let path = "/apis/resource.k8s.io/v1/namespaces/shared/resourceclaims";
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shared"}});
    server.post("/api/v1/namespaces", &namespace).send().await.expect(201);
    let request = json!({"name": "gpu", "exactly": {"deviceClassName": "gpu.example.com", "adminAccess": true}});
    let claim = json!({"apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaim", "metadata": {"name": "a"},
        "spec": {"devices": {"requests": [request]}}});
    let refused = server.post(path, &claim).send().await.expect(422);
    assert_eq!(
        refused["message"],
        "ResourceClaim.resource.k8s.io \"a\" is invalid: spec.devices.requests[0].adminAccess: Forbidden: admin access to \
         devices requires the `resource.kubernetes.io/admin-access: true` label on the containing namespace"
    );
    let labels = json!({"metadata": {"labels": {"resource.kubernetes.io/admin-access": "true"}}});
    server.patch("/api/v1/namespaces/shared", "merge", &labels).send().await.expect(200);
    let again = || async { server.post(path, &claim).send().await };
    let mut made = again().await;
    for _ in 0..100 {
        if made.status == 201 {
            break;
        }
        tokio::task::yield_now().await;
        made = again().await;
    }
    made.expect(201);
}

#[tokio::test]
async fn a_job_owns_the_labels_that_it_has_of_its_pods() {
    let server = TestServer::start().await;
    let template = json!({"metadata": {"labels": {"app": "a"}},
        "spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}});
    let job =
        json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "a"}, "spec": {"template": template}});
    let path = "/apis/batch/v1/namespaces/default/jobs";
    let made = server.post(path, &job).send().await.expect(201);
    assert_eq!(
        made["metadata"]["managedFields"][0]["fieldsV1"]["f:metadata"],
        json!({"f:labels": {".": {}, "f:app": {}}})
    );
    assert_eq!(made["metadata"]["labels"].as_object().unwrap().len(), 5);
    let mut bare = job.clone();
    bare["metadata"]["name"] = json!("b");
    bare["spec"]["template"].as_object_mut().unwrap().remove("metadata");
    let made = server.post(path, &bare).send().await.expect(201);
    assert!(made["metadata"]["managedFields"][0]["fieldsV1"].get("f:metadata").is_none());
    assert_eq!(made["metadata"]["labels"].as_object().unwrap().len(), 4);
}

#[tokio::test]
async fn a_finalizer_is_told_of_in_the_order_in_which_a_type_looks() {
    let server = TestServer::start().await;
    let mut map = server.post(MAPS, &config_map("a")).send().await.expect(201);
    map["metadata"]["finalizers"] = json!(["not valid"]);
    let refused = server.put(&format!("{MAPS}/a"), &map).send().await.expect(422);
    let causes = refused["details"]["causes"].as_array().unwrap();
    let fields: Vec<&str> = causes.iter().map(|cause| cause["field"].as_str().unwrap()).collect();
    let (form, own) = ("metadata.finalizers", "metadata.finalizers[0]");
    assert_eq!(fields, [form, own, form, own]);
}

#[tokio::test]
async fn who_deletes_no_jobs_is_not_warned_of_their_pods() {
    let server = TestServer::start().await;
    let path = "/apis/batch/v1/namespaces/default/jobs";
    let deleted = server.delete(path).send().await;
    deleted.expect(200);
    assert!(deleted.header("warning").contains("child pods are preserved by default"));
    let refused = server.delete(&format!("{path}?labelSelector=a%20b")).send().await;
    refused.expect(400);
    assert_eq!(refused.header("warning"), "");
}

const EVENTS: &str = "/api/v1/namespaces/default/events";

fn event(metadata: Value) -> Value {
    let about = json!({"kind": "Pod", "namespace": "default", "name": "web"});
    json!({"apiVersion": "v1", "kind": "Event", "metadata": metadata, "involvedObject": about, "reason": "Started"})
}

#[tokio::test]
async fn an_update_that_creates_is_looked_at_like_one_that_does_not() {
    let server = TestServer::start().await;
    let path = format!("{EVENTS}/a");
    let uid = "3c2a1b00-0000-4000-8000-000000000009";
    let put = |metadata: Value| server.put(&path, &event(metadata)).send();
    let refused = put(json!({"name": "a", "uid": uid})).await.expect(409);
    assert_eq!(
        refused["message"],
        format!(
            "Operation cannot be fulfilled on events \"a\": StorageError: invalid object, Code: 4, Key: \
             /events/default/a, ResourceVersion: 0, AdditionalErrorMsg: Precondition failed: UID in precondition: {uid}, \
             UID in object meta: "
        )
    );
    let refused = put(json!({"name": "a", "resourceVersion": "now"})).await.expect(500);
    assert_eq!(refused["message"], "strconv.ParseUint: parsing \"now\": invalid syntax");
    put(json!({"name": "b"})).await.expect(400);

    let owner = json!({"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": uid});
    let made = put(json!({"name": "a", "resourceVersion": "7", "ownerReferences": [owner, owner]})).await;
    let object = made.expect(201);
    assert_eq!(object["metadata"]["ownerReferences"], json!([owner]));
    assert!(made.header("warning").contains("ownerReferences contains duplicate entries; API server dedups"));
    // Where nothing is created, the name and the namespace are looked at first all the same.
    server.put(&format!("{MAPS}/none"), &config_map("other")).send().await.expect(400);
    server.put(&format!("{MAPS}/none"), &config_map("none")).send().await.expect(404);
}

#[tokio::test]
async fn the_name_of_an_address_is_not_made_up() {
    let server = TestServer::start().await;
    let address = json!({"apiVersion": "networking.k8s.io/v1", "kind": "IPAddress", "metadata": {"generateName": "judge-"},
        "spec": {"parentRef": {"resource": "services", "namespace": "default", "name": "web"}}});
    let refused = server.post("/apis/networking.k8s.io/v1/ipaddresses", &address).send().await.expect(422);
    assert_eq!(refused["details"]["name"], "judge-");
}

#[tokio::test]
async fn a_namespace_is_labelled_with_the_name_it_came_by() {
    let server = TestServer::start().await;
    let make = |base: &str| {
        let body = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"generateName": base}});
        server.post("/api/v1/namespaces", &body).send()
    };
    let made = make("team-").await.expect(201);
    assert_eq!(made["metadata"]["labels"]["kubernetes.io/metadata.name"], made["metadata"]["name"]);
    let refused = make("Not Valid-").await.expect(422);
    assert!(!refused["message"].as_str().unwrap().contains("metadata.labels"), "{refused}");
}
