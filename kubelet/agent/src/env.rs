//! Environment variables: references, `$(NAME)` expansion, service variables, fields of the pod. Pure but for the lookup
//! of ConfigMaps and Secrets, which is passed in.

use crate::quantity::ResourceList;
use crate::volumes::Volumes;
use crate::{env_file, pod, resources};
use async_trait::async_trait;
use k8s_openapi::api::core::v1::{Container, EnvVarSource, Pod};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// The bytes of a ConfigMap or Secret by key.
pub type Values = Arc<BTreeMap<String, Vec<u8>>>;

/// Looks up what pods refer to.
#[async_trait]
pub trait Lookup: Send + Sync {
    /// A ConfigMap of the namespace; none if there is none.
    async fn config_map(&self, namespace: &str, name: &str) -> Result<Option<Values>, String>;
    /// A Secret of the namespace; none if there is none.
    async fn secret(&self, namespace: &str, name: &str) -> Result<Option<Values>, String>;
}

/// A Service as far as variables are made of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServicePorts {
    /// Name.
    pub name: String,
    /// Namespace.
    pub namespace: String,
    /// Cluster address.
    pub ip: String,
    /// (name, port, protocol).
    pub ports: Vec<(String, i32, String)>,
}

/// What else the variables of a container depend on.
pub struct Context<'a> {
    /// The pod.
    pub pod: &'a Pod,
    /// Its addresses.
    pub pod_ips: &'a [String],
    /// The node's addresses.
    pub node_ips: &'a [String],
    /// What the node can give, for limits that are not set.
    pub allocatable: &'a ResourceList,
    /// Services of all namespaces.
    pub services: &'a [ServicePorts],
    /// Volumes that are ready, for files of variables.
    pub volumes: &'a Volumes,
}

/// The variables of a container in order, each name once.
pub async fn variables(
    context: &Context<'_>,
    container: &Container,
    lookup: &dyn Lookup,
) -> Result<Vec<(String, String)>, String> {
    let namespace = pod::namespace(context.pod);
    let links = pod::spec(context.pod).enable_service_links != Some(false);
    let services = service_variables(context.services, namespace, links);
    let mut result: Vec<(String, String)> = Vec::new();
    let mut known: HashMap<String, String> = HashMap::new();
    for source in container.env_from.iter().flatten() {
        let prefix = source.prefix.as_deref().unwrap_or_default();
        let found = if let Some(from) = &source.config_map_ref {
            let optional = from.optional == Some(true);
            need(lookup.config_map(namespace, &from.name).await?, optional, "configmap", &from.name)?
        } else if let Some(from) = &source.secret_ref {
            let optional = from.optional == Some(true);
            need(lookup.secret(namespace, &from.name).await?, optional, "secret", &from.name)?
        } else {
            None
        };
        for (key, value) in found.iter().flat_map(|values| values.iter()) {
            set(&mut result, &mut known, &format!("{prefix}{key}"), String::from_utf8_lossy(value).into_owned());
        }
    }
    for variable in container.env.iter().flatten() {
        let value = match (&variable.value, &variable.value_from) {
            (Some(value), _) if !value.is_empty() => {
                Some(expand(value, &|name| known.get(name).or_else(|| services.get(name)).cloned()))
            }
            (_, Some(source)) => reference(context, container, source, lookup).await?,
            _ => Some(String::new()),
        };
        if let Some(value) = value {
            set(&mut result, &mut known, &variable.name, value);
        }
    }
    for (name, value) in services {
        if !known.contains_key(&name) {
            result.push((name, value));
        }
    }
    Ok(result)
}

fn set(result: &mut Vec<(String, String)>, known: &mut HashMap<String, String>, name: &str, value: String) {
    if known.insert(name.to_string(), value.clone()).is_some() {
        result.retain(|(n, _)| n != name);
    }
    result.push((name.to_string(), value));
}

fn need(found: Option<Values>, optional: bool, kind: &str, name: &str) -> Result<Option<Values>, String> {
    match found {
        None if !optional => Err(format!("{kind} {name:?} not found")),
        found => Ok(found),
    }
}

async fn reference(
    context: &Context<'_>,
    container: &Container,
    source: &EnvVarSource,
    lookup: &dyn Lookup,
) -> Result<Option<String>, String> {
    let namespace = pod::namespace(context.pod);
    if let Some(field) = &source.field_ref {
        return field_value(context.pod, &field.field_path, context.pod_ips, context.node_ips).map(Some);
    }
    if let Some(field) = &source.resource_field_ref {
        let of =
            field.container_name.as_deref().filter(|n| !n.is_empty()).and_then(|n| pod::find_container(context.pod, n));
        let divisor = field.divisor.as_ref().map(|d| d.0.as_str());
        return resources::field_value(of.as_ref().unwrap_or(container), &field.resource, divisor, context.allocatable)
            .map(Some)
            .ok_or_else(|| format!("unsupported container resource : {}", field.resource));
    }
    if let Some(from) = &source.file_key_ref {
        let volume = context.volumes.get(&from.volume_name);
        let volume =
            volume.ok_or_else(|| format!("cannot find the volume {:?} referenced by FileKeyRef", from.volume_name))?;
        let value = env_file::value(&volume.path, &from.path, &from.key)?;
        return match value.is_empty() {
            true if from.optional == Some(true) => Ok(None),
            true => Err(format!("environment variable key {:?} not found in file {:?}", from.key, from.path)),
            false => Ok(Some(value)),
        };
    }
    let (found, name, key, optional, kind, title) = if let Some(from) = &source.config_map_key_ref {
        let found = lookup.config_map(namespace, &from.name).await?;
        (found, &from.name, &from.key, from.optional == Some(true), "configmap", "ConfigMap")
    } else if let Some(from) = &source.secret_key_ref {
        let found = lookup.secret(namespace, &from.name).await?;
        (found, &from.name, &from.key, from.optional == Some(true), "secret", "Secret")
    } else {
        return Ok(Some(String::new()));
    };
    let Some(values) = need(found, optional, kind, name)? else { return Ok(None) };
    match values.get(key) {
        Some(value) => Ok(Some(String::from_utf8_lossy(value).into_owned())),
        None if optional => Ok(None),
        None => Err(format!("couldn't find key {key} in {title} {namespace}/{name}")),
    }
}

/// A field of the pod by the path that the downward API allows.
pub fn field_value(pod: &Pod, path: &str, pod_ips: &[String], node_ips: &[String]) -> Result<String, String> {
    let meta = &pod.metadata;
    let subscript = |map: &Option<BTreeMap<String, String>>, prefix: &str| {
        let key = path.strip_prefix(prefix)?.strip_suffix("']")?;
        Some(map.as_ref().and_then(|m| m.get(key)).cloned().unwrap_or_default())
    };
    Ok(match path {
        "metadata.name" => pod::name(pod).to_string(),
        "metadata.namespace" => pod::namespace(pod).to_string(),
        "metadata.uid" => pod::uid(pod).to_string(),
        "metadata.labels" => format_map(meta.labels.as_ref()),
        "metadata.annotations" => format_map(meta.annotations.as_ref()),
        "spec.nodeName" => pod::spec(pod).node_name.clone().unwrap_or_default(),
        "spec.serviceAccountName" => pod::spec(pod).service_account_name.clone().unwrap_or_default(),
        "status.hostIP" => node_ips.first().cloned().unwrap_or_default(),
        "status.hostIPs" => node_ips.join(","),
        "status.podIP" => pod_ips.first().cloned().unwrap_or_default(),
        "status.podIPs" => pod_ips.join(","),
        _ => {
            return subscript(&meta.labels, "metadata.labels['")
                .or_else(|| subscript(&meta.annotations, "metadata.annotations['"))
                .ok_or_else(|| format!("unsupported fieldPath: {path}"));
        }
    })
}

/// `key="value"` lines, sorted.
fn format_map(map: Option<&BTreeMap<String, String>>) -> String {
    let lines: Vec<String> = map.into_iter().flatten().map(|(k, v)| format!("{k}={}", go_quote(v))).collect();
    lines.join("\n")
}

/// A string as Go's %q prints it.
fn go_quote(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c.is_control() => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// Replaces `$(NAME)` by its value where it has one; `$$` is a dollar.
pub fn expand(text: &str, value: &dyn Fn(&str) -> Option<String>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some((name, after)) = rest.strip_prefix('(').and_then(|r| r.split_once(')')) {
            match value(name) {
                Some(value) => out.push_str(&value),
                None => out.push_str(&format!("$({name})")),
            }
            rest = after;
        } else {
            out.push('$');
        }
    }
    out.push_str(rest);
    out
}

/// Variables that name the services of a namespace, and the API server's in every namespace.
pub fn service_variables(services: &[ServicePorts], namespace: &str, links: bool) -> BTreeMap<String, String> {
    let mut map = BTreeMap::new();
    let master = services.iter().filter(|s| s.namespace == "default" && s.name == "kubernetes");
    let own = services.iter().filter(|s| links && s.namespace == namespace);
    for service in master.chain(own) {
        let upper = |s: &str| s.to_uppercase().replace('-', "_");
        let name = upper(&service.name);
        let ip = &service.ip;
        let host = if ip.contains(':') { format!("[{ip}]") } else { ip.clone() };
        let Some((_, first, first_protocol)) = service.ports.first() else { continue };
        map.insert(format!("{name}_SERVICE_HOST"), ip.clone());
        map.insert(format!("{name}_SERVICE_PORT"), first.to_string());
        let url = |port: &i32, protocol: &str| format!("{}://{host}:{port}", protocol.to_lowercase());
        map.insert(format!("{name}_PORT"), url(first, first_protocol));
        for (port_name, port, protocol) in &service.ports {
            if !port_name.is_empty() {
                map.insert(format!("{name}_SERVICE_PORT_{}", upper(port_name)), port.to_string());
            }
            let prefix = format!("{name}_PORT_{port}_{}", protocol.to_uppercase());
            map.insert(prefix.clone(), url(port, protocol));
            map.insert(format!("{prefix}_PROTO"), protocol.to_lowercase());
            map.insert(format!("{prefix}_PORT"), port.to_string());
            map.insert(format!("{prefix}_ADDR"), ip.clone());
        }
    }
    map
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fixed;

    #[async_trait]
    impl Lookup for Fixed {
        async fn config_map(&self, _: &str, name: &str) -> Result<Option<Values>, String> {
            let values = BTreeMap::from([("a".to_string(), b"1".to_vec()), ("b".to_string(), b"2".to_vec())]);
            Ok((name == "there").then(|| Arc::new(values)))
        }
        async fn secret(&self, _: &str, _: &str) -> Result<Option<Values>, String> {
            Ok(None)
        }
    }

    async fn check(env: serde_json::Value) -> Result<String, String> {
        let pod: Pod = serde_json::from_value(serde_json::json!({
            "metadata": {"name": "p", "namespace": "ns", "labels": {"x": "y"}}, "spec": {"containers": [], "nodeName": "n"},
        }))
        .unwrap();
        let mut container = env;
        container["name"] = "c".into();
        let container: Container = serde_json::from_value(container).unwrap();
        let ports = vec![(String::new(), 443, "TCP".to_string())];
        let services =
            [ServicePorts { name: "kubernetes".into(), namespace: "default".into(), ip: "10.0.0.1".into(), ports }];
        let allocatable = ResourceList::new();
        let context = Context {
            pod: &pod,
            pod_ips: &["10.1.0.2".into()],
            node_ips: &["192.0.2.1".into()],
            allocatable: &allocatable,
            services: &services,
            volumes: &Volumes::new(),
        };
        let list = variables(&context, &container, &Fixed).await?;
        let shown = list.into_iter().filter(|(k, _)| !k.starts_with("KUBERNETES")).map(|(k, v)| format!("{k}={v}"));
        Ok(shown.collect::<Vec<_>>().join(" "))
    }

    #[tokio::test]
    async fn variables_come_from_everywhere_and_expand() {
        for (env, expected) in [
            (
                serde_json::json!({"env": [{"name": "A", "value": "x"}, {"name": "B", "value": "$(A)-$$(A)-$(NONE)"}]}),
                "A=x B=x-$(A)-$(NONE)",
            ),
            (
                serde_json::json!({"envFrom": [{"prefix": "P_", "configMapRef": {"name": "there"}}], "env": [{"name": "P_a", "value": "9"}]}),
                "P_b=2 P_a=9",
            ),
            (
                serde_json::json!({"env": [{"name": "N", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['x']"}}}]}),
                "N=y",
            ),
            (
                serde_json::json!({"env": [{"name": "N", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}]}),
                "N=10.1.0.2",
            ),
            (serde_json::json!({"env": [{"name": "H", "value": "$(KUBERNETES_SERVICE_HOST)"}]}), "H=10.0.0.1"),
            (
                serde_json::json!({"env": [{"name": "S", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k", "optional": true}}}]}),
                "",
            ),
        ] {
            assert_eq!(check(env).await.unwrap(), expected);
        }
        let missing =
            serde_json::json!({"env": [{"name": "S", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}]});
        assert_eq!(check(missing).await.unwrap_err(), "secret \"s\" not found");
        let key = serde_json::json!({"env": [{"name": "S", "valueFrom": {"configMapKeyRef": {"name": "there", "key": "z"}}}]});
        assert_eq!(check(key).await.unwrap_err(), "couldn't find key z in ConfigMap ns/there");
    }
}
