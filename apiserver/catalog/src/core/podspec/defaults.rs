//! Defaults of pods and pod templates (pkg/apis/core/v1/defaults.go and its generated callers). Templates get all but
//! what is a Pod's alone: requests from limits, service links, host ports.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use skeg_machinery::quantity::Quantity;

use super::resources::{aggregate, is_huge};
use crate::check::quantity;
use crate::json::{Read, Write};

/// Defaults of `spec` at a PodSpec, in a template as in a pod.
pub fn pod_spec(spec: &mut Value) {
    spec.default_zero("dnsPolicy", "ClusterFirst");
    spec.default_zero("restartPolicy", "Always");
    spec.default_to("securityContext", json!({}));
    spec.default_to("terminationGracePeriodSeconds", 30);
    spec.default_zero("schedulerName", "default-scheduler");
    service_account(spec);
    spec.each("volumes", volume);
    for list in ["initContainers", "containers", "ephemeralContainers"] {
        spec.each(list, container);
    }
    round_list(spec, "overhead");
    round_list(spec, "resources.limits");
    round_list(spec, "resources.requests");
}

/// Defaults of a PodTemplateSpec at `path`.
pub fn template(object: &mut Value, path: &str) {
    if let Some(template) = object.at_mut(path) {
        if !template.has("spec") {
            template.set("spec", json!({}));
        }
        if !template.has("metadata") {
            template.set("metadata", json!({}));
        }
        if let Some(spec) = template.at_mut("spec") {
            pod_spec(spec);
        }
    }
}

/// The old and the new name of one field, kept alike.
fn service_account(spec: &mut Value) {
    let name = match spec.text("serviceAccountName") {
        "" => spec.text("serviceAccount").to_owned(),
        name => name.to_owned(),
    };
    if name.is_empty() {
        spec.remove("serviceAccount");
    } else {
        spec.set("serviceAccountName", name.clone());
        spec.set("serviceAccount", name);
    }
}

/// What only pods get.
pub fn pod(pod: &mut Value) {
    if !pod.has("spec") {
        pod.set("spec", json!({}));
    }
    let Some(spec) = pod.at_mut("spec") else { return };
    pod_spec(spec);
    for list in ["containers", "initContainers"] {
        spec.each(list, |container| requests_from_limits(container, "resources"));
    }
    pod_level_resources(spec);
    spec.default_to("enableServiceLinks", true);
    if spec.flag("hostNetwork") {
        for list in ["containers", "initContainers"] {
            spec.each(list, |container| {
                container.each("ports", |port| {
                    let inside = port.int("containerPort");
                    port.default_zero("hostPort", inside);
                });
            });
        }
    }
    addresses(pod, "status.podIP", "status.podIPs");
    if !pod.has("status.phase") && pod.has("status") {
        // The phase itself is the strategy's; a decoded status without it stays without it.
        pod.remove("status.phase");
    }
}

/// The single address and the list's first one are the same fact; the single one wins.
fn addresses(object: &mut Value, single: &str, list: &str) {
    let first = object.list(list).first().map_or("", |item| item.text("ip")).to_owned();
    let one = object.text(single).to_owned();
    if one.is_empty() && !first.is_empty() {
        object.set(single, first);
    } else if one != first {
        object.set(list, json!([{"ip": one}]));
    }
}

fn requests_from_limits(holder: &mut Value, path: &str) {
    let limits = holder.at(path).at("limits").clone();
    let Some(limits) = limits.as_object().filter(|limits| !limits.is_empty()) else { return };
    let path = format!("{path}.requests");
    if !holder.has(&path) {
        holder.set(&path, json!({}));
    }
    if let Some(requests) = holder.at_mut(&path).and_then(Value::as_object_mut) {
        for (name, limit) in limits {
            requests.entry(name.clone()).or_insert_with(|| limit.clone());
        }
    }
}

/// Pod-level huge page limits are those of the containers; pod-level requests are what the containers ask for
/// together, else the pod-level limit.
fn pod_level_resources(spec: &mut Value) {
    let stated = |spec: &Value, list: &str| spec.at("resources").map(list).is_some_and(|map| !map.is_empty());
    if !stated(spec, "limits") && !stated(spec, "requests") {
        return;
    }
    let huge: BTreeSet<String> = spec
        .list("containers")
        .iter()
        .chain(spec.list("initContainers"))
        .flat_map(|container| container.entries("resources.limits"))
        .filter(|(name, _)| is_huge(name) && !has_amount(spec, "requests", name))
        .map(|(name, _)| name.to_owned())
        .collect();
    for name in huge {
        default_total(spec, "limits", &name);
    }
    if !stated(spec, "limits") {
        return;
    }
    for name in ["cpu", "memory"] {
        default_total(spec, "requests", name);
    }
    for (name, limit) in spec.map("resources.limits").cloned().unwrap_or_default() {
        if (name == "cpu" || name == "memory" || is_huge(&name)) && !has_amount(spec, "requests", &name) {
            add_amount(spec, "requests", &name, limit);
        }
    }
}

fn has_amount(spec: &Value, list: &str, name: &str) -> bool {
    spec.at("resources").map(list).is_some_and(|map| map.contains_key(name))
}

fn add_amount(spec: &mut Value, list: &str, name: &str, amount: Value) {
    let path = format!("resources.{list}");
    if !spec.has(&path) {
        spec.set(&path, json!({}));
    }
    if let Some(amounts) = spec.at_mut(&path).and_then(Value::as_object_mut) {
        amounts.insert(name.to_owned(), amount);
    }
}

fn default_total(spec: &mut Value, list: &str, name: &str) {
    if has_amount(spec, list, name) {
        return;
    }
    if let Some(total) = aggregate(spec, list, name) {
        add_amount(spec, list, name, total.to_string().into());
    }
}

/// Fields of features that are off are not stored (pkg/api/pod/util.go), though who sent them comes to own them.
pub fn drop_disabled(spec: &mut Value) {
    spec.remove("schedulingGroup");
    for list in ["initContainers", "containers", "ephemeralContainers"] {
        spec.each(list, |container| {
            if !container.has("lifecycle.stopSignal") {
                return;
            }
            container.remove("lifecycle.stopSignal");
            if container.map("lifecycle").is_some_and(serde_json::Map::is_empty) {
                container.remove("lifecycle");
            }
        });
    }
    spec.each("volumes", |volume| {
        volume.each("projected.sources", |source| {
            source.remove("clusterTrustBundle");
            source.remove("podCertificate");
        });
    });
}

pub fn container(container: &mut Value) {
    if container.text("imagePullPolicy").is_empty() {
        container.set("imagePullPolicy", pull_policy(container.text("image")));
    }
    container.default_zero("terminationMessagePath", "/dev/termination-log");
    container.default_zero("terminationMessagePolicy", "File");
    if !container.has("resources") {
        container.set("resources", json!({}));
    }
    container.each("ports", |port| port.default_zero("protocol", "TCP"));
    container.each("env", |env| {
        if let Some(reference) = env.at_mut("valueFrom.fieldRef") {
            reference.default_zero("apiVersion", "v1");
        }
        if let Some(reference) = env.at_mut("valueFrom.fileKeyRef") {
            reference.default_to("optional", false);
        }
        if let Some(reference) = env.at_mut("valueFrom.resourceFieldRef") {
            reference.default_to("divisor", "0");
        }
    });
    round_list(container, "resources.limits");
    round_list(container, "resources.requests");
    for name in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(found) = container.at_mut(name) {
            probe(found);
        }
    }
    for name in ["lifecycle.postStart.httpGet", "lifecycle.preStop.httpGet"] {
        if let Some(found) = container.at_mut(name) {
            http_get(found);
        }
    }
}

fn probe(probe: &mut Value) {
    probe.default_zero("timeoutSeconds", 1);
    probe.default_zero("periodSeconds", 10);
    probe.default_zero("successThreshold", 1);
    probe.default_zero("failureThreshold", 3);
    if let Some(action) = probe.at_mut("httpGet") {
        http_get(action);
    }
    if let Some(action) = probe.at_mut("grpc") {
        action.default_to("service", "");
    }
}

fn http_get(action: &mut Value) {
    action.default_zero("path", "/");
    action.default_zero("scheme", "HTTP");
}

/// Always for the tag `latest` (said or implied), IfNotPresent for other tags, digests and unreadable references.
fn pull_policy(image: &str) -> &'static str {
    let (name, digest) = image.split_once('@').map_or((image, false), |(name, _)| (name, true));
    let (repository, tag) = match name.rsplit_once(':') {
        Some((repository, tag)) if !tag.contains('/') => (repository, Some(tag)),
        _ => (name, None),
    };
    let label = |part: &str| {
        part.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
            && part.as_bytes().first().is_some_and(u8::is_ascii_alphanumeric)
            && part.as_bytes().last().is_some_and(u8::is_ascii_alphanumeric)
    };
    let (host, path) = match repository.split_once('/') {
        Some((host, path)) if host.contains(['.', ':']) || host == "localhost" || host.to_lowercase() != host => {
            (host.split(':').next().unwrap_or(""), path)
        }
        _ => ("localhost", repository),
    };
    let readable = (host.starts_with('[') || host.split('.').all(label))
        && (1..=255).contains(&path.len())
        && path.split('/').all(|part| {
            let plain = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
            part.bytes().all(|byte| plain(&byte) || b"._-".contains(&byte))
                && part.as_bytes().first().is_some_and(plain)
                && part.as_bytes().last().is_some_and(plain)
        });
    match tag {
        _ if !readable => "IfNotPresent",
        Some("latest") => "Always",
        None if !digest => "Always",
        _ => "IfNotPresent",
    }
}

fn volume(volume: &mut Value) {
    let sources = volume
        .as_object()
        .map_or(0, |map| map.iter().filter(|(key, value)| *key != "name" && !value.is_null()).count());
    if sources == 0 {
        volume.set("emptyDir", json!({}));
    }
    if let Some(image) = volume.at_mut("image")
        && image.text("pullPolicy").is_empty()
    {
        let policy = pull_policy(image.text("reference"));
        image.set("pullPolicy", policy);
    }
    for (source, mode) in [("secret", 420), ("configMap", 420), ("downwardAPI", 420), ("projected", 420)] {
        if let Some(found) = volume.at_mut(source) {
            found.default_to("defaultMode", mode);
        }
    }
    volume.each("downwardAPI.items", downward_item);
    volume.each("projected.sources", |source| {
        source.each("downwardAPI.items", downward_item);
        if let Some(token) = source.at_mut("serviceAccountToken") {
            token.default_to("expirationSeconds", 3600);
        }
    });
    if let Some(claim) = volume.at_mut("ephemeral.volumeClaimTemplate") {
        if !claim.has("spec") {
            claim.set("spec", json!({}));
        }
        claim.default_to("spec.volumeMode", "Filesystem");
    }
    storage_source(volume);
}

fn downward_item(item: &mut Value) {
    if let Some(reference) = item.at_mut("fieldRef") {
        reference.default_zero("apiVersion", "v1");
    }
    if let Some(reference) = item.at_mut("resourceFieldRef") {
        reference.default_to("divisor", "0");
    }
}

/// Defaults of the volume sources that PersistentVolumes have too.
pub fn storage_source(holder: &mut Value) {
    if let Some(source) = holder.at_mut("hostPath") {
        source.default_to("type", "");
    }
    if let Some(source) = holder.at_mut("iscsi") {
        source.default_zero("iscsiInterface", "default");
    }
    if let Some(source) = holder.at_mut("rbd") {
        source.default_zero("pool", "rbd");
        source.default_zero("user", "admin");
        source.default_zero("keyring", "/etc/ceph/keyring");
    }
    if let Some(source) = holder.at_mut("azureDisk") {
        source.default_to("cachingMode", "ReadWrite");
        source.default_to("kind", "Shared");
        source.default_to("fsType", "ext4");
        source.default_to("readOnly", false);
    }
    if let Some(source) = holder.at_mut("scaleIO") {
        source.default_zero("storageMode", "ThinProvisioned");
        source.default_zero("fsType", "xfs");
    }
}

/// Rounds the quantities of a resource list up to milli units, as v1 defaulting does.
pub fn round_list(object: &mut Value, path: &str) {
    let Some(list) = object.at_mut(path).and_then(Value::as_object_mut) else { return };
    for value in list.values_mut() {
        let Some(amount) = quantity(value) else { continue };
        if amount.nanos() % 1_000_000 != 0 {
            *value = Quantity::from_milli(amount.milli_value(), amount.format()).to_string().into();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pull_policy_follows_the_tag() {
        for (image, expected) in [
            ("nginx", "Always"),
            ("nginx:latest", "Always"),
            ("nginx:1.2", "IfNotPresent"),
            ("localhost:5000/nginx", "Always"),
            ("localhost:5000/nginx:1", "IfNotPresent"),
            ("nginx@sha256:abc", "IfNotPresent"),
            ("nginx:latest@sha256:abc", "Always"),
            ("Nginx", "IfNotPresent"),
            ("../nginx", "IfNotPresent"),
            ("", "IfNotPresent"),
        ] {
            assert_eq!(pull_policy(image), expected, "{image}");
        }
    }
}
