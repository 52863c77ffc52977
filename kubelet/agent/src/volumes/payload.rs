//! What the files of configMap, secret, downwardAPI and projected volumes contain.

use super::atomic::{File, Payload};
use super::tokens::Tokens;
use crate::env::{Lookup, Values, field_value};
use crate::quantity::ResourceList;
use crate::{pod, resources};
use k8s_openapi::api::core::v1::{DownwardAPIVolumeFile, KeyToPath, Pod, ProjectedVolumeSource, Volume};

/// What payloads are made from.
pub struct Sources<'a> {
    /// The pod.
    pub pod: &'a Pod,
    /// Addresses of the node.
    pub node_ips: &'a [String],
    /// For limits that are not set.
    pub allocatable: &'a ResourceList,
    /// ConfigMaps and Secrets.
    pub lookup: &'a dyn Lookup,
    /// Service-account tokens.
    pub tokens: &'a Tokens,
}

fn mode(mode: Option<i32>, default: Option<i32>) -> u32 {
    u32::try_from(mode.or(default).unwrap_or(0o644)).unwrap_or(0o644) & 0o777
}

/// The payload of a volume; none if it is of another kind.
pub async fn of_volume(sources: &Sources<'_>, volume: &Volume) -> Result<Option<Payload>, String> {
    let mut payload = Payload::new();
    let namespace = pod::namespace(sources.pod);
    if let Some(source) = &volume.config_map {
        let found = sources.lookup.config_map(namespace, &source.name).await?;
        let optional = source.optional == Some(true);
        let described = ("configmap", source.name.as_str());
        keys(&mut payload, found, source.items.as_deref(), source.default_mode, optional, described)?;
    } else if let Some(source) = &volume.secret {
        let name = source.secret_name.clone().unwrap_or_default();
        let found = sources.lookup.secret(namespace, &name).await?;
        let optional = source.optional == Some(true);
        keys(&mut payload, found, source.items.as_deref(), source.default_mode, optional, ("secret", &name))?;
    } else if let Some(source) = &volume.downward_api {
        downward(sources, &mut payload, source.items.as_deref(), source.default_mode)?;
    } else if let Some(source) = &volume.projected {
        projected(sources, &mut payload, source).await?;
    } else {
        return Ok(None);
    }
    Ok(Some(payload))
}

fn keys(
    payload: &mut Payload,
    found: Option<Values>,
    items: Option<&[KeyToPath]>,
    default_mode: Option<i32>,
    optional: bool,
    (kind, name): (&str, &str),
) -> Result<(), String> {
    let Some(values) = found else {
        return if optional { Ok(()) } else { Err(format!("{kind} {name:?} not found")) };
    };
    let file = |data: &[u8], m: Option<i32>| File { data: data.to_vec(), mode: mode(m, default_mode), owner: None };
    match items.filter(|items| !items.is_empty()) {
        None => payload.extend(values.iter().map(|(key, data)| (key.clone(), file(data, None)))),
        Some(items) => {
            for item in items {
                match values.get(&item.key) {
                    Some(data) => {
                        payload.insert(item.path.clone(), file(data, item.mode));
                    }
                    None if optional => {}
                    None => {
                        let what = if kind == "secret" {
                            "references non-existent secret key"
                        } else {
                            "references non-existent config key"
                        };
                        return Err(format!("{what}: {}", item.key));
                    }
                }
            }
        }
    }
    Ok(())
}

fn downward(
    sources: &Sources<'_>,
    payload: &mut Payload,
    items: Option<&[DownwardAPIVolumeFile]>,
    default_mode: Option<i32>,
) -> Result<(), String> {
    for item in items.unwrap_or_default() {
        let text = if let Some(field) = &item.field_ref {
            let ips: Vec<String> =
                sources.pod.status.iter().flat_map(|s| s.pod_ips.iter().flatten().map(|ip| ip.ip.clone())).collect();
            field_value(sources.pod, &field.field_path, &ips, sources.node_ips)?
        } else if let Some(field) = &item.resource_field_ref {
            let name = field.container_name.clone().unwrap_or_default();
            let container =
                pod::find_container(sources.pod, &name).ok_or_else(|| format!("container {name} not found"))?;
            let divisor = field.divisor.as_ref().map(|d| d.0.as_str());
            resources::field_value(&container, &field.resource, divisor, sources.allocatable)
                .ok_or_else(|| format!("unsupported container resource : {}", field.resource))?
        } else {
            continue;
        };
        payload.insert(
            item.path.clone(),
            File { data: text.into_bytes(), mode: mode(item.mode, default_mode), owner: None },
        );
    }
    Ok(())
}

async fn projected(sources: &Sources<'_>, payload: &mut Payload, source: &ProjectedVolumeSource) -> Result<(), String> {
    let namespace = pod::namespace(sources.pod);
    for part in source.sources.iter().flatten() {
        if let Some(from) = &part.config_map {
            let found = sources.lookup.config_map(namespace, &from.name).await?;
            let optional = from.optional == Some(true);
            keys(payload, found, from.items.as_deref(), source.default_mode, optional, ("configmap", &from.name))?;
        } else if let Some(from) = &part.secret {
            let found = sources.lookup.secret(namespace, &from.name).await?;
            let optional = from.optional == Some(true);
            keys(payload, found, from.items.as_deref(), source.default_mode, optional, ("secret", &from.name))?;
        } else if let Some(from) = &part.downward_api {
            downward(sources, payload, from.items.as_deref(), source.default_mode)?;
        } else if let Some(from) = &part.service_account_token {
            let audience = from.audience.as_deref().unwrap_or_default();
            let token = sources.tokens.get(sources.pod, audience, from.expiration_seconds.unwrap_or(3600)).await?;
            let owner = common_user(sources.pod);
            let group = pod::spec(sources.pod).security_context.as_ref().and_then(|c| c.fs_group);
            // Readable for its owner alone where there is one; with a group, ownership adds it.
            let mode = if owner.is_some() || group.is_some() { 0o600 } else { mode(None, source.default_mode) };
            payload.insert(from.path.clone(), File { data: token.into_bytes(), mode, owner });
        } else {
            return Err("projected source is not supported".into());
        }
    }
    Ok(())
}

/// The user as which all containers of the pod run, if it is one.
fn common_user(pod: &Pod) -> Option<u32> {
    let spec = pod::spec(pod);
    let shared = spec.security_context.as_ref().and_then(|c| c.run_as_user);
    let mut users = spec
        .containers
        .iter()
        .chain(pod::init_containers(pod))
        .map(|c| c.security_context.as_ref().and_then(|s| s.run_as_user).or(shared));
    let first = users.next()??;
    if users.all(|user| user == Some(first)) { u32::try_from(first).ok() } else { None }
}
