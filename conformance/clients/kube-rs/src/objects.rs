//! Typed and untyped objects: create, read, update, patch, apply, delete. Not watches, not pods' streams.

use anyhow::{Context, Result};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::core::{ApiResource, DynamicObject, GroupVersionKind};
use kube::discovery::Discovery;
use kube::runtime::{conditions, wait::await_condition};
use kube::{Api, ResourceExt};
use serde_json::json;

use crate::{Cluster, DEADLINE, IMAGE, config_map, data, expect, refused};

pub async fn discovery(cluster: Cluster) -> Result<()> {
    expect("the major version", cluster.client.apiserver_version().await?.major.as_str(), "1")?;
    let discovered = Discovery::new(cluster.client).run_aggregated().await?;
    let kind = GroupVersionKind::gvk("apps", "v1", "Deployment");
    let (resource, capabilities) = discovered.resolve_gvk(&kind).context("no Deployment in discovery")?;
    expect("the plural", resource.plural.as_str(), "deployments")?;
    expect("the subresource", capabilities.subresources.iter().any(|(sub, _)| sub.plural == "scale"), true)
}

pub async fn crud(cluster: Cluster) -> Result<()> {
    let maps = cluster.config_maps();
    let post = PostParams::default();
    let made = maps.create(&post, &config_map("crud", json!({"a": "1"}), "crud")?).await?;
    let mut read = maps.get("crud").await?;
    expect("what is read after it was created", &read, &made)?;
    let again = maps.create(&post, &config_map("crud", json!({}), "")?).await;
    refused("create again", again, 409, "AlreadyExists")?;
    let bad = maps.create(&post, &config_map("No_Name", json!({}), "")?).await;
    refused("create with a bad name", bad, 422, "Invalid")?;
    read.data.get_or_insert_default().insert("a".into(), "2".into());
    expect("the data after an update", data(&maps.replace("crud", &post, &read).await?), json!({"a": "2"}))?;
    refused("update of an old revision", maps.replace("crud", &post, &read).await, 409, "Conflict")?;
    let patches = [
        (Patch::Merge(json!({"data": {"a": null, "b": "3"}})), json!({"b": "3"})),
        (Patch::Strategic(json!({"data": {"c": "4"}})), json!({"b": "3", "c": "4"})),
    ];
    for (patch, wanted) in patches {
        let patched = maps.patch("crud", &PatchParams::default(), &patch).await?;
        expect(&format!("the data after {patch:?}"), data(&patched), wanted)?;
    }
    maps.create(&PostParams { dry_run: true, ..post }, &config_map("other", json!({}), "crud")?).await?;
    let list = maps.list(&ListParams::default().labels("kind=crud")).await?;
    expect("the list by label", list.iter().map(ResourceExt::name_any).collect(), vec!["crud".to_owned()])?;
    let meta = maps.list_metadata(&ListParams::default().labels("kind=crud")).await?;
    expect("the list of metadata", meta.items.len(), 1)?;
    maps.delete("crud", &DeleteParams::default()).await?;
    refused("read after delete", maps.get("crud").await, 404, "NotFound")
}

/// The client that knows no types, and the scale of what it made.
pub async fn dynamic(cluster: Cluster) -> Result<()> {
    let kind = GroupVersionKind::gvk("apps", "v1", "Deployment");
    let untyped: Api<DynamicObject> =
        Api::namespaced_with(cluster.client.clone(), &cluster.namespace, &ApiResource::from_gvk(&kind));
    let labels = json!({"app": "dynamic"});
    let object = serde_json::from_value(json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "dynamic"},
        "spec": {
            "replicas": 0, "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "main", "image": IMAGE}]}},
        },
    }))?;
    let made = untyped.create(&PostParams::default(), &object).await?;
    expect("the default", &made.data["spec"]["template"]["spec"]["restartPolicy"], &json!("Always"))?;
    let typed: Api<Deployment> = Api::namespaced(cluster.client, &cluster.namespace);
    let selector = typed.get_scale("dynamic").await?.status.context("a scale without status")?.selector;
    expect("the selector of the scale", selector.as_deref(), Some("app=dynamic"))?;
    untyped.delete("dynamic", &DeleteParams::default()).await?;
    Ok(())
}

/// Server-side apply: conflicts, force, and fields that go with their owner.
pub async fn applying(cluster: Cluster) -> Result<()> {
    let maps = cluster.config_maps();
    let apply = async |manager: &str, data: serde_json::Value, force: bool| {
        let mut params = PatchParams::apply(manager);
        params.force = force;
        let mut wanted = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "applied"}});
        if !data.is_null() {
            wanted["data"] = data;
        }
        maps.patch("applied", &params, &Patch::Apply(wanted)).await
    };
    apply("one", json!({"a": "1", "b": "1"}), false).await?;
    refused("another manager's field without force", apply("two", json!({"a": "2"}), false).await, 409, "Conflict")?;
    apply("two", json!({"a": "2"}), true).await?;
    let result = apply("one", json!(null), false).await?;
    expect("the data after their manager dropped its fields", data(&result), json!({"a": "2"}))?;
    let managers = result.managed_fields().iter().filter_map(|entry| entry.manager.as_deref()).collect::<Vec<_>>();
    expect("the managers", managers, vec!["two"])
}

pub async fn custom_resource(cluster: Cluster) -> Result<()> {
    let group = format!("{}.example.com", cluster.namespace);
    let name = format!("widgets.{group}");
    let definitions: Api<CustomResourceDefinition> = Api::all(cluster.client.clone());
    let size = json!({"type": "integer", "minimum": 1, "default": 2});
    let definition = serde_json::from_value(json!({
        "metadata": {"name": name},
        "spec": {
            "group": group, "scope": "Namespaced", "names": {"plural": "widgets", "singular": "widget", "kind": "Widget"},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {
                "type": "object", "properties": {"spec": {"type": "object", "properties": {"size": size}}},
            }}}],
        },
    }))?;
    definitions.create(&PostParams::default(), &definition).await?;
    let result = widgets(&cluster, &group, &name, &definitions).await;
    definitions.delete(&name, &DeleteParams::default()).await?;
    result
}

async fn widgets(
    cluster: &Cluster,
    group: &str,
    name: &str,
    definitions: &Api<CustomResourceDefinition>,
) -> Result<()> {
    let established = await_condition(definitions.clone(), name, conditions::is_crd_established());
    tokio::time::timeout(DEADLINE, established).await.context("the definition is not established")??;
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, "v1", "Widget"));
    let widgets: Api<DynamicObject> = Api::namespaced_with(cluster.client.clone(), &cluster.namespace, &resource);
    let widget = |name: &str, spec: serde_json::Value| {
        let mut widget = DynamicObject::new(name, &resource);
        widget.data = json!({"spec": spec});
        widget
    };
    let made = widgets.create(&PostParams::default(), &widget("w", json!({"unknown": 1}))).await?;
    expect("the widget, pruned and defaulted", &made.data["spec"], &json!({"size": 2}))?;
    let small = widgets.create(&PostParams::default(), &widget("x", json!({"size": 0}))).await;
    refused("a widget that is too small", small, 422, "Invalid")
}
