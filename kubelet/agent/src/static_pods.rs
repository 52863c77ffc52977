//! Pods from manifest files.
//!
//! Task: watches the directory and sends the whole set whenever it changes.

use crate::pod::{CONFIG_HASH, SOURCE};
use k8s_openapi::api::core::v1::{Pod, Toleration};
use notify::Watcher;
use sha2::{Digest, Sha256};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;

/// Reads a manifest as the static pod of a node. The UID depends on node, file and content, so that a change is a new pod.
pub fn parse(text: &str, file: &Path, node: &str) -> Result<Pod, String> {
    let mut pod: Pod = serde_yaml_ng::from_str(text).map_err(|e| e.to_string())?;
    let Some(spec) = pod.spec.as_mut() else { return Err("it has no spec".into()) };
    let mut hash = Sha256::new();
    hash.update(node.as_bytes());
    hash.update(file.as_os_str().as_encoded_bytes());
    hash.update(text.as_bytes());
    let hash: String = hash.finalize().iter().take(16).map(|b| format!("{b:02x}")).collect();
    defaults(spec, node);
    let meta = &mut pod.metadata;
    let name = meta.name.take().filter(|n| !n.is_empty()).ok_or("it has no name")?;
    meta.name = Some(format!("{name}-{}", node.to_lowercase()));
    meta.namespace = Some(meta.namespace.take().filter(|n| !n.is_empty()).unwrap_or_else(|| "default".into()));
    // Like every UID, and yet the same after a restart.
    let id = meta.uid.take().filter(|u| !u.is_empty()).unwrap_or_else(|| hash.clone());
    meta.uid = Some(id);
    let annotations = meta.annotations.get_or_insert_default();
    annotations.insert(CONFIG_HASH.into(), hash);
    annotations.insert(SOURCE.into(), "file".into());
    annotations.insert("kubernetes.io/config.seen".into(), k8s_openapi::jiff::Timestamp::now().to_string());
    pod.status = None;
    Ok(pod)
}

/// What the API server would fill in.
fn defaults(spec: &mut k8s_openapi::api::core::v1::PodSpec, node: &str) {
    spec.node_name = Some(node.into());
    spec.restart_policy.get_or_insert_with(|| "Always".into());
    spec.dns_policy.get_or_insert_with(|| "ClusterFirst".into());
    spec.termination_grace_period_seconds.get_or_insert(30);
    spec.scheduler_name.get_or_insert_with(|| "default-scheduler".into());
    spec.security_context.get_or_insert_default();
    spec.enable_service_links.get_or_insert(true);
    let tolerations = spec.tolerations.get_or_insert_default();
    if !tolerations.iter().any(|t| t.operator.as_deref() == Some("Exists") && t.key.is_none()) {
        tolerations.push(Toleration {
            operator: Some("Exists".into()),
            effect: Some("NoExecute".into()),
            ..Default::default()
        });
    }
    for container in spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten()) {
        container.termination_message_path.get_or_insert_with(|| "/dev/termination-log".into());
        container.termination_message_policy.get_or_insert_with(|| "File".into());
        for port in container.ports.iter_mut().flatten() {
            port.protocol.get_or_insert_with(|| "TCP".into());
        }
        for probe in [&mut container.liveness_probe, &mut container.readiness_probe, &mut container.startup_probe] {
            if let Some(get) = probe.as_mut().and_then(|p| p.http_get.as_mut()) {
                get.scheme.get_or_insert_with(|| "HTTP".into());
                get.path.get_or_insert_with(|| "/".into());
            }
        }
        if let Some(resources) = &mut container.resources
            && let Some(limits) = resources.limits.clone()
        {
            let requests = resources.requests.get_or_insert_default();
            for (name, quantity) in limits {
                requests.entry(name).or_insert(quantity);
            }
        }
    }
}

fn read_all(dir: &Path, node: &str) -> Vec<Pod> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    let mut files: Vec<PathBuf> = entries.filter_map(|e| Some(e.ok()?.path())).filter(|p| p.is_file()).collect();
    files.retain(|p| !p.file_name().is_some_and(|n| n.to_string_lossy().starts_with('.')));
    files.sort();
    let mut pods = Vec::new();
    for file in files {
        let parsed = fs::read_to_string(&file).map_err(|e| e.to_string()).and_then(|text| parse(&text, &file, node));
        match parsed {
            Ok(pod) => pods.push(pod),
            Err(error) => tracing::warn!(file = %file.display(), error, "manifest is not a pod"),
        }
    }
    pods
}

/// Watches a directory until `shutdown`.
pub async fn watch(dir: PathBuf, node: String, pods: mpsc::Sender<Vec<Pod>>, shutdown: CancellationToken) {
    let changed = std::sync::Arc::new(Notify::new());
    let poke = changed.clone();
    if let Err(error) = fs::create_dir_all(&dir) {
        tracing::warn!(dir = %dir.display(), %error, "static pod directory cannot be made");
    }
    let watcher = notify::recommended_watcher(move |_: notify::Result<notify::Event>| poke.notify_one());
    let _watcher = match watcher {
        Ok(mut watcher) => match watcher.watch(&dir, notify::RecursiveMode::NonRecursive) {
            Ok(()) => Some(watcher),
            Err(error) => {
                tracing::warn!(dir = %dir.display(), %error, "static pod directory is not watched, but read every 20 s");
                None
            }
        },
        Err(error) => {
            tracing::warn!(%error, "static pod directory is not watched, but read every 20 s");
            None
        }
    };
    let mut last: Option<Vec<(Option<String>, Option<String>)>> = None;
    loop {
        let found = read_all(&dir, &node);
        let identity = found.iter().map(|p| (p.metadata.name.clone(), p.metadata.uid.clone())).collect();
        if last.as_ref() != Some(&identity) {
            last = Some(identity);
            if pods.send(found).await.is_err() {
                return;
            }
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = changed.notified() => tokio::time::sleep(Duration::from_millis(100)).await,
            () = tokio::time::sleep(Duration::from_secs(20)), if _watcher.is_none() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_becomes_a_pod_of_its_node() {
        let text = "apiVersion: v1\nkind: Pod\nmetadata: {name: web}\nspec: {containers: [{name: c, image: x}]}\n";
        let pod = parse(text, Path::new("/m/web.yaml"), "Node1").unwrap();
        assert_eq!(pod.metadata.name.as_deref(), Some("web-node1"));
        assert_eq!(pod.metadata.namespace.as_deref(), Some("default"));
        assert!(crate::pod::is_static(&pod));
        let changed = parse(&text.replace("image: x", "image: y"), Path::new("/m/web.yaml"), "Node1").unwrap();
        assert_ne!(pod.metadata.uid, changed.metadata.uid);
        assert!(parse("kind: Pod\nmetadata: {name: a}", Path::new("/m"), "n").is_err());
    }
}
