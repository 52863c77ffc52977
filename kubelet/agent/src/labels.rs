//! The labels and annotations by which containers of this kubelet are known, as upstream's kubelet writes them
//! (pkg/kubelet/kuberuntime/labels.go): after a restart they say which container belongs to what.

use k8s_openapi::api::core::v1::{Container, Pod};
use std::collections::{BTreeMap, HashMap};

/// Name of the pod.
pub const POD_NAME: &str = "io.kubernetes.pod.name";
/// Namespace of the pod.
pub const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
/// UID of the pod.
pub const POD_UID: &str = "io.kubernetes.pod.uid";
/// Name of the container.
pub const CONTAINER_NAME: &str = "io.kubernetes.container.name";
const HASH: &str = "io.kubernetes.container.hash";
const RESTART_COUNT: &str = "io.kubernetes.container.restartCount";
const TERMINATION_PATH: &str = "io.kubernetes.container.terminationMessagePath";
const TERMINATION_POLICY: &str = "io.kubernetes.container.terminationMessagePolicy";
const PRE_STOP: &str = "io.kubernetes.container.preStopHandler";
const PORTS: &str = "io.kubernetes.container.ports";
const POD_GRACE: &str = "io.kubernetes.pod.terminationGracePeriod";
const POD_DELETION_GRACE: &str = "io.kubernetes.pod.deletionGracePeriod";

type Map = HashMap<String, String>;

fn identity(pod: &Pod) -> [(String, String); 3] {
    [
        (POD_NAME.into(), pod.metadata.name.clone().unwrap_or_default()),
        (POD_NAMESPACE.into(), pod.metadata.namespace.clone().unwrap_or_default()),
        (POD_UID.into(), pod.metadata.uid.clone().unwrap_or_default()),
    ]
}

/// Labels of a pod's sandbox: the pod's own and its identity.
pub fn sandbox(pod: &Pod) -> Map {
    let mut labels: Map = pod.metadata.labels.clone().unwrap_or_default().into_iter().collect();
    labels.extend(identity(pod));
    labels
}

/// Labels of a container.
pub fn container(pod: &Pod, name: &str) -> Map {
    let mut labels: Map = identity(pod).into_iter().collect();
    labels.insert(CONTAINER_NAME.into(), name.into());
    labels
}

/// Annotations of a container: what has to be known to end or judge it when its pod is gone.
pub fn container_annotations(pod: &Pod, container: &Container, restarts: u32) -> Map {
    let mut map = Map::from([
        (HASH.to_string(), format!("{:x}", hash(container))),
        (RESTART_COUNT.to_string(), restarts.to_string()),
        (TERMINATION_PATH.to_string(), container.termination_message_path.clone().unwrap_or_default()),
        (TERMINATION_POLICY.to_string(), container.termination_message_policy.clone().unwrap_or_default()),
    ]);
    if let Some(seconds) = pod.metadata.deletion_grace_period_seconds {
        map.insert(POD_DELETION_GRACE.into(), seconds.to_string());
    }
    if let Some(seconds) = pod.spec.as_ref().and_then(|s| s.termination_grace_period_seconds) {
        map.insert(POD_GRACE.into(), seconds.to_string());
    }
    if let Some(handler) = container.lifecycle.as_ref().and_then(|l| l.pre_stop.as_ref())
        && let Ok(json) = serde_json::to_string(handler)
    {
        map.insert(PRE_STOP.into(), json);
    }
    if let Some(ports) = container.ports.as_ref().filter(|p| !p.is_empty())
        && let Ok(json) = serde_json::to_string(ports)
    {
        map.insert(PORTS.into(), json);
    }
    map
}

/// What a container's annotations say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Recorded {
    /// Hash of the container's definition when it was created.
    pub hash: u64,
    /// How often it had been restarted before.
    pub restarts: u32,
    /// Path of the termination message in the container.
    pub termination_path: String,
    /// Whether to take the log's end for a termination message if there is none.
    pub fallback_to_logs: bool,
    /// The pod's grace period in seconds.
    pub grace: Option<i64>,
}

/// Reads a container's annotations.
pub fn recorded(annotations: &Map) -> Recorded {
    let get = |key: &str| annotations.get(key).map(String::as_str).unwrap_or_default();
    Recorded {
        hash: u64::from_str_radix(get(HASH), 16).unwrap_or(0),
        restarts: get(RESTART_COUNT).parse().unwrap_or(0),
        termination_path: get(TERMINATION_PATH).to_string(),
        fallback_to_logs: get(TERMINATION_POLICY) == "FallbackToLogsOnError",
        grace: get(POD_DELETION_GRACE).parse().or_else(|_| get(POD_GRACE).parse()).ok(),
    }
}

/// The hash of what cannot change without a restart: name and image. The same number as upstream's, so that either
/// kubelet can take over the other's containers.
pub fn hash(container: &Container) -> u64 {
    let mut picked = BTreeMap::from([("name", container.name.as_str())]);
    if let Some(image) = container.image.as_deref().filter(|i| !i.is_empty()) {
        picked.insert("image", image);
    }
    let json = serde_json::to_string(&picked).unwrap_or_default();
    // Go escapes these three in JSON strings.
    let json = json.replace('<', "\\u003c").replace('>', "\\u003e").replace('&', "\\u0026");
    let dumped: Vec<String> = json.bytes().map(|b| b.to_string()).collect();
    fnv32a(format!("([]uint8)[{}]", dumped.join(" ")).as_bytes()).into()
}

fn fnv32a(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_upstreams() {
        // Upstream's own table: pkg/kubelet/container/helpers_test.go, TestHashContainer.
        let container =
            Container { name: "test_container".into(), image: Some("foo/image:v1".into()), ..Default::default() };
        assert_eq!(hash(&container), 0x8e45_cbd0);
    }

    #[test]
    fn what_is_recorded_is_read_back() {
        let mut pod = Pod::default();
        pod.metadata.deletion_grace_period_seconds = Some(5);
        let container = Container {
            name: "c".into(),
            termination_message_path: Some("/dev/termination-log".into()),
            termination_message_policy: Some("FallbackToLogsOnError".into()),
            ..Default::default()
        };
        let read = recorded(&container_annotations(&pod, &container, 3));
        assert_eq!(
            read,
            Recorded {
                hash: hash(&container),
                restarts: 3,
                termination_path: "/dev/termination-log".into(),
                fallback_to_logs: true,
                grace: Some(5),
            }
        );
    }
}
