use super::*;

pub(super) fn deployments() -> ResourcePaths {
    let verbs = |verbs: &[&str]| verbs.iter().map(|verb| (*verb).to_owned()).collect();
    ResourcePaths {
        gv: GroupVersion::from_static("apps", "v1"),
        resource: "deployments".into(),
        kind: "Deployment".into(),
        namespaced: true,
        verbs: verbs(&["create", "get", "list", "watch", "update", "patch", "delete", "deletecollection"]),
        returns_deleted: false,
        subresources: vec![
            SubresourcePaths {
                name: "status".into(),
                gvk: GroupVersionKind::from_static("apps", "v1", "Deployment"),
                verbs: verbs(&["get", "update", "patch"]),
            },
            SubresourcePaths {
                name: "scale".into(),
                gvk: GroupVersionKind::from_static("autoscaling", "v1", "Scale"),
                verbs: verbs(&["get", "update", "patch"]),
            },
        ],
        custom: None,
    }
}

#[test]
fn a_document_has_what_kubectl_looks_for() {
    let document = v3_document(&GroupVersion::from_static("apps", "v1"), &[deployments()]);
    let object = &document["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}"];
    let patch = &object["patch"];
    assert_eq!(patch["operationId"], "patchAppsV1NamespacedDeployment");
    assert_eq!(
        patch["x-kubernetes-group-version-kind"],
        json!({"group": "apps", "kind": "Deployment", "version": "v1"})
    );
    let names: Vec<&str> =
        patch["parameters"].as_array().unwrap().iter().map(|p| p["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["dryRun", "fieldManager", "fieldValidation", "force"]);
    assert!(patch["requestBody"]["content"]["application/strategic-merge-patch+json"].is_object());
    let ids: Vec<&str> =
        ["get", "put", "delete"].iter().map(|verb| object[verb]["operationId"].as_str().unwrap()).collect();
    assert_eq!(
        ids,
        ["readAppsV1NamespacedDeployment", "replaceAppsV1NamespacedDeployment", "deleteAppsV1NamespacedDeployment"]
    );
    let all = &document["paths"]["/apis/apps/v1/deployments"]["get"];
    assert_eq!(all["operationId"], "listAppsV1DeploymentForAllNamespaces");
    let scale = &document["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}/scale"]["put"];
    assert_eq!(scale["x-kubernetes-group-version-kind"]["kind"], "Scale");
}

#[test]
fn operations_are_worded_as_upstream_words_them() {
    let gv = GroupVersion::from_static("", "v1");
    let proxy = SubresourcePaths {
        name: "proxy".into(),
        gvk: GroupVersionKind::from_static("", "v1", "PodProxyOptions"),
        verbs: vec!["connect".into()],
    };
    let resource = |plural: &str, kind: &str, subresources| ResourcePaths {
        gv: gv.clone(),
        resource: plural.into(),
        kind: kind.into(),
        namespaced: true,
        verbs: vec!["create".into(), "delete".into(), "list".into(), "watch".into()],
        returns_deleted: kind == "Pod",
        subresources,
        custom: None,
    };
    let document = v3_document(
        &gv,
        &[
            resource("pods", "Pod", vec![proxy]),
            resource("events", "Event", vec![]),
            resource("endpoints", "Endpoints", vec![]),
        ],
    );
    let of = |path: &str, method: &str| &document["paths"][format!("/api/v1/namespaces/{{namespace}}/{path}")][method];
    assert_eq!(of("pods", "post")["description"], "create a Pod");
    assert_eq!(of("events", "post")["description"], "create an Event");
    assert_eq!(of("endpoints/{name}", "delete")["description"], "delete Endpoints");
    let proxy = of("pods/{name}/proxy", "head");
    assert_eq!(proxy["operationId"], "connectCoreV1HeadNamespacedPodProxy");
    assert_eq!(proxy["description"], "connect HEAD requests to proxy of Pod");
    assert_eq!(proxy["responses"]["200"]["content"], json!({"*/*": {"schema": {"type": "string"}}}));
    let deleted = |path: &str| {
        of(path, "delete")["responses"]["200"]["content"]["application/json"]["schema"]["$ref"].as_str().unwrap()
    };
    assert_eq!(deleted("pods/{name}"), "#/components/schemas/io.k8s.api.core.v1.Pod");
    assert_eq!(deleted("events/{name}"), "#/components/schemas/io.k8s.apimachinery.pkg.apis.meta.v1.Status");
    let watched: Vec<&String> = of("pods", "get")["responses"]["200"]["content"].as_object().unwrap().keys().collect();
    assert_eq!(watched[3], "application/json;stream=watch");
}

#[test]
fn groups_are_named_as_upstream_names_them() {
    let document = v3_information(&Information::Group("rbac.authorization.k8s.io".into()));
    let get = &document["paths"]["/apis/rbac.authorization.k8s.io/"]["get"];
    assert_eq!(get["operationId"], "getRbacAuthorizationAPIGroup");
    assert_eq!(get["tags"], json!(["rbacAuthorization"]));
    let names: Vec<&String> = document["components"]["schemas"].as_object().unwrap().keys().collect();
    let meta = |name: &str| format!("io.k8s.apimachinery.pkg.apis.meta.v1.{name}");
    assert_eq!(names, [&meta("APIGroup"), &meta("GroupVersionForDiscovery"), &meta("ServerAddressByClientCIDR")]);
    let core = v3_document(&GroupVersion::from_static("", "v1"), &[]);
    assert_eq!(core["paths"]["/api/v1/"]["get"]["operationId"], "getCoreV1APIResources");
    assert_eq!(core["paths"]["/api/v1/"]["get"]["tags"], json!(["core_v1"]));
}

#[test]
fn every_reference_of_a_document_resolves() {
    fn walk(value: &Value, schemas: &Map<String, Value>) {
        match value {
            Value::Object(map) => {
                if let Some(Value::String(reference)) = map.get("$ref") {
                    let name = reference.strip_prefix("#/components/schemas/").unwrap();
                    assert!(schemas.contains_key(name), "{name}");
                }
                map.values().for_each(|value| walk(value, schemas));
            }
            Value::Array(items) => items.iter().for_each(|value| walk(value, schemas)),
            _ => {}
        }
    }
    let above = [Information::Core, Information::Groups, Information::Group("apps".into())];
    let apps = v3_document(&GroupVersion::from_static("apps", "v1"), &[deployments()]);
    for document in above.iter().map(v3_information).chain([apps]) {
        walk(&document, document["components"]["schemas"].as_object().unwrap());
    }
}

#[test]
fn what_all_operations_of_a_path_take_is_said_once() {
    let document = v3_document(&GroupVersion::from_static("apps", "v1"), &[deployments()]);
    let item = |path: &str| &document["paths"][format!("/apis/apps/v1/{path}")];
    let names = |of: &Value| -> Vec<String> {
        of.as_array().unwrap().iter().map(|one| one["name"].as_str().unwrap().to_owned()).collect()
    };
    let object = item("namespaces/{namespace}/deployments/{name}");
    assert_eq!(names(&object["parameters"]), ["name", "namespace", "pretty"]);
    assert!(object["get"].get("parameters").is_none());
    // One operation shares all of its parameters with itself.
    let list = names(&item("deployments")["parameters"]);
    assert!(list.contains(&"pretty".to_owned()) && list.contains(&"shardSelector".to_owned()), "{list:?}");
    assert_eq!(object["put"]["parameters"][1]["name"], "fieldManager");
    let text = |method: &str| object[method]["parameters"][1]["description"].as_str().unwrap();
    assert!(text("patch").starts_with(text("put")) && text("patch").contains("required for apply requests"));
}

#[test]
fn watches_have_paths_of_their_own() {
    let document = v3_document(&GroupVersion::from_static("apps", "v1"), &[deployments()]);
    let id = |path: &str| &document["paths"][format!("/apis/apps/v1/watch/{path}")]["get"]["operationId"];
    assert_eq!(id("deployments"), "watchAppsV1DeploymentListForAllNamespaces");
    assert_eq!(id("namespaces/{namespace}/deployments"), "watchAppsV1NamespacedDeploymentList");
    assert_eq!(id("namespaces/{namespace}/deployments/{name}"), "watchAppsV1NamespacedDeployment");
    let event = &document["components"]["schemas"]["io.k8s.apimachinery.pkg.apis.meta.v1.WatchEvent"];
    let groups: Vec<&Value> = event[GVK].as_array().unwrap().iter().map(|kind| &kind["group"]).collect();
    assert_eq!(groups, ["", "apps"]);
}

#[test]
fn lists_and_enumerations_are_described() {
    let document = v3_document(&GroupVersion::from_static("apps", "v1"), &[deployments()]);
    let text = |model: &str, field: &str| {
        document["components"]["schemas"][model]["properties"][field]["description"].as_str().unwrap()
    };
    assert_eq!(text("io.k8s.api.apps.v1.DeploymentList", "items"), "Items is the list of Deployments.");
    let policy = text("io.k8s.api.core.v1.Container", "imagePullPolicy");
    assert!(policy.contains("Possible enum values:\n - `\"Always\"` means"), "{policy}");
}

#[test]
fn what_is_served_beside_the_api_has_documents() {
    let keys = v3_information(&Information::IssuerKeys);
    assert!(keys["components"].get("schemas").is_none());
    let answer = &keys["paths"]["/openid/v1/jwks/"]["get"]["responses"]["200"]["content"];
    assert_eq!(*answer, json!({"application/jwk-set+json": {"schema": {"type": "string"}}}));
    let version = v3_information(&Information::Version);
    let required = &version["components"]["schemas"]["io.k8s.apimachinery.pkg.version.Info"]["required"];
    assert_eq!(required[2], "gitVersion");
}
