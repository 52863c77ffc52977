//! `/stats`, `/metrics` and their kin, `/configz`, `/runningpods`, `/checkpoint`.

use super::{Node, Refusal, Target, flag, values};
use crate::Config;
use crate::stats::collect::{Scope, snapshot};
use crate::stats::{metrics, summary};
use axum::body::Body;
use http::{Response, StatusCode, header};
use serde_json::{Value, json};
use skeg_cri::v1;
use std::collections::BTreeMap;
use std::time::Duration;

const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

fn answer(kind: &'static str, body: String) -> Response<Body> {
    let mut response = Response::new(Body::from(body));
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
    response
}

pub(super) fn json_answer(value: &Value) -> Response<Body> {
    answer("application/json", value.to_string())
}

/// `/stats/summary`.
pub(super) async fn stats(node: &Node, query: &str) -> Response<Body> {
    let scope = if flag(query, "only_cpu_and_memory") { Scope::CpuAndMemory } else { Scope::All };
    json_answer(&summary::summary(&snapshot(&node.agent, scope).await, scope))
}

/// `/metrics` and what is beneath it; none if there is no such page.
pub(super) async fn metrics(node: &Node, page: &str) -> Option<Response<Body>> {
    let agent = &node.agent;
    let text = match page {
        "" => {
            let open = std::fs::read_dir("/proc/self/fd").map(Iterator::count).unwrap_or(0);
            let taken = snapshot(agent, Scope::CpuAndMemory).await;
            metrics::agent(&taken, &agent.all_pods(), agent.started, agent.recorder.dropped(), open)
        }
        "resource" => metrics::resource(&snapshot(agent, Scope::CpuAndMemory).await),
        "cadvisor" => metrics::cadvisor(&snapshot(agent, Scope::All).await),
        "probes" => agent.probe_counts.text(),
        _ => return None,
    };
    Some(answer(TEXT, text))
}

/// `/configz`: the configuration in force, as a KubeletConfiguration.
pub(super) fn configz(node: &Node) -> Response<Body> {
    json_answer(&json!({"kubeletconfig": configuration(&node.agent.config)}))
}

fn configuration(config: &Config) -> Value {
    let path = |p: &std::path::Path| p.to_string_lossy().into_owned();
    let endpoint = config.runtime_endpoint.clone();
    let endpoint = endpoint.unwrap_or_else(|| crate::containerd::Paths::new(&config.data_dir).socket);
    json!({
        "enableServer": true,
        "address": config.bind_address.to_string(),
        "port": config.port,
        "tlsCertFile": config.server_tls.as_ref().map(|t| path(&t.certificate)),
        "tlsPrivateKeyFile": config.server_tls.as_ref().map(|t| path(&t.key)),
        "authentication": {
            "x509": {"clientCAFile": config.server_tls.as_ref().map(|t| path(&t.client_ca))},
            "webhook": {"enabled": true},
            "anonymous": {"enabled": false},
        },
        "authorization": {"mode": "Webhook"},
        "enableDebuggingHandlers": true,
        "clusterDomain": config.cluster_domain,
        "clusterDNS": config.cluster_dns.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "nodeStatusUpdateFrequency": "10s",
        "nodeStatusReportFrequency": "5m0s",
        "nodeLeaseDurationSeconds": 40,
        "imageMinimumGCAge": crate::plan::go_duration(
            i64::try_from(config.image_gc_minimum_age.as_secs()).unwrap_or(i64::MAX)),
        "imageGCHighThresholdPercent": config.image_gc_percent.0,
        "imageGCLowThresholdPercent": config.image_gc_percent.1,
        "cgroupRoot": config.cgroup_root,
        "cgroupsPerQOS": true,
        "cgroupDriver": "cgroupfs",
        "maxPods": config.max_pods,
        "resolvConf": path(&config.resolv_conf),
        "cpuCFSQuota": true,
        "cpuCFSQuotaPeriod": "100ms",
        "serializeImagePulls": false,
        "evictionHard": {
            "memory.available": format!("{}Mi", config.eviction.memory_available >> 20),
            "nodefs.available": format!("{}%", config.eviction.nodefs_available_percent),
            "nodefs.inodesFree": format!("{}%", config.eviction.nodefs_inodes_free_percent),
        },
        "evictionPressureTransitionPeriod": "5m0s",
        "containerLogMaxSize": format!("{}Mi", config.container_log_max_size >> 20),
        "containerLogMaxFiles": config.container_log_max_files,
        "podLogsDir": path(&config.pod_log_dir),
        "staticPodPath": config.static_pod_dir.as_deref().map(path),
        "containerRuntimeEndpoint": format!("unix://{}", path(&endpoint)),
        "registerNode": true,
        "registerWithTaints": config.register_with_taints,
        "failCgroupV1": false,
    })
}

/// `/runningpods`: the pods that the runtime runs, whoever wants them.
pub(super) async fn running_pods(node: &Node) -> Result<Response<Body>, Refusal> {
    let filter = v1::ContainerFilter {
        state: Some(v1::ContainerStateValue { state: v1::ContainerState::ContainerRunning as i32 }),
        ..Default::default()
    };
    let mut pods: BTreeMap<(String, String, String), Vec<Value>> = BTreeMap::new();
    for container in node.runtime.list_containers(filter).await? {
        let label = |key: &str| container.labels.get(key).cloned().unwrap_or_default();
        use crate::labels::{CONTAINER_NAME, POD_NAME, POD_NAMESPACE, POD_UID};
        let key = (label(POD_NAMESPACE), label(POD_NAME), label(POD_UID));
        let image = container.image.as_ref().map(|i| i.image.clone()).unwrap_or_default();
        pods.entry(key).or_default().push(json!({"name": label(CONTAINER_NAME), "image": image, "resources": {}}));
    }
    let items: Vec<Value> = pods
        .into_iter()
        .map(|((namespace, name, uid), containers)| {
            json!({"metadata": {"name": name, "namespace": namespace, "uid": uid, "creationTimestamp": null},
                "spec": {"containers": containers}, "status": {}})
        })
        .collect();
    Ok(json_answer(&json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items})))
}

/// `/checkpoint`: writes a container's state to a file of this node.
pub(super) async fn checkpoint(node: &Node, target: &Target<'_>, query: &str) -> Result<Response<Body>, Refusal> {
    let container = node.running(target).await?;
    let timeout = match values(query, "timeout").first() {
        None => 0,
        Some(text) => {
            text.parse().map_err(|_| Refusal::new(StatusCode::BAD_REQUEST, format!("cannot parse timeout {text:?}")))?
        }
    };
    let dir = node.agent.config.data_dir.join("checkpoints");
    let failed = |text: String| Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, text);
    std::fs::create_dir_all(&dir).map_err(|e| failed(format!("cannot make {}: {e}", dir.display())))?;
    let stamp = chrono::Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Secs, true);
    let name = format!("checkpoint-{}_{}-{}-{stamp}.tar", target.pod, target.namespace, target.container);
    let at = dir.join(name).to_string_lossy().into_owned();
    match node.runtime.checkpoint_container(&container, &at, Duration::from_secs(timeout)).await {
        Ok(()) => Ok(json_answer(&json!({"items": [at]}))),
        Err(error) if error.is_unimplemented() => Err(Refusal::new(
            StatusCode::NOT_FOUND,
            format!("checkpointing of {}/{}/{} failed ({error})", target.namespace, target.pod, target.container),
        )),
        Err(error) => Err(failed(format!(
            "checkpointing of {}/{}/{} failed ({error})",
            target.namespace, target.pod, target.container
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_shown_is_the_one_in_force() {
        let mut config = Config::new("n", "/d");
        config.max_pods = 7;
        let shown = configuration(&config);
        assert_eq!((&shown["maxPods"], &shown["imageMinimumGCAge"]), (&json!(7), &json!("2m0s")));
        assert_eq!(shown["evictionHard"]["memory.available"], "100Mi");
        assert_eq!(shown["containerRuntimeEndpoint"], "unix:///d/containerd/containerd.sock");
    }
}
