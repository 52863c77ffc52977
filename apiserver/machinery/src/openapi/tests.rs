use super::*;

pub(super) fn deployments() -> ResourcePaths {
    let verbs = |verbs: &[&str]| verbs.iter().map(|verb| (*verb).to_owned()).collect();
    ResourcePaths {
        gv: GroupVersion::from_static("apps", "v1"),
        resource: "deployments".into(),
        kind: "Deployment".into(),
        namespaced: true,
        verbs: verbs(&["create", "get", "list", "watch", "update", "patch", "delete", "deletecollection"]),
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
    let document = v3_document(&GroupVersion::from_static("apps", "v1"), &[deployments()]);
    walk(&document, document["components"]["schemas"].as_object().unwrap());
}
