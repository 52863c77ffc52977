//! Short ways to ask a Pod what the agent asks all the time.

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};
use k8s_openapi::jiff::Timestamp;
use std::sync::LazyLock;

/// Annotation that says where a pod comes from: `api` or `file`.
pub const SOURCE: &str = "kubernetes.io/config.source";
/// Annotation that carries a static pod's hash.
pub const CONFIG_HASH: &str = "kubernetes.io/config.hash";
/// Annotation of a mirror pod: its static pod's hash.
pub const MIRROR: &str = "kubernetes.io/config.mirror";

static NO_SPEC: LazyLock<PodSpec> = LazyLock::new(PodSpec::default);

/// The spec, or an empty one.
pub fn spec(pod: &Pod) -> &PodSpec {
    pod.spec.as_ref().unwrap_or(&NO_SPEC)
}

/// UID.
pub fn uid(pod: &Pod) -> &str {
    pod.metadata.uid.as_deref().unwrap_or_default()
}

/// Name.
pub fn name(pod: &Pod) -> &str {
    pod.metadata.name.as_deref().unwrap_or_default()
}

/// Namespace.
pub fn namespace(pod: &Pod) -> &str {
    pod.metadata.namespace.as_deref().unwrap_or_default()
}

/// `name_namespace(uid)`, as messages name a pod.
pub fn title(pod: &Pod) -> String {
    format!("{}_{}({})", name(pod), namespace(pod), uid(pod))
}

/// Init containers, sidecars among them.
pub fn init_containers(pod: &Pod) -> &[Container] {
    spec(pod).init_containers.as_deref().unwrap_or_default()
}

/// Ephemeral containers as ordinary ones.
pub fn ephemeral_containers(pod: &Pod) -> Vec<Container> {
    let list = spec(pod).ephemeral_containers.as_deref().unwrap_or_default();
    list.iter()
        .filter_map(|ephemeral| serde_json::to_value(ephemeral).ok())
        .filter_map(|value| serde_json::from_value(value).ok())
        .collect()
}

/// A container of any kind by name.
pub fn find_container(pod: &Pod, name: &str) -> Option<Container> {
    let found = spec(pod).containers.iter().chain(init_containers(pod)).find(|c| c.name == name);
    found.cloned().or_else(|| ephemeral_containers(pod).into_iter().find(|c| c.name == name))
}

/// Whether an init container keeps running beside the others.
pub fn is_sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

/// The pod's restart policy.
pub fn restart_policy(pod: &Pod) -> &str {
    spec(pod).restart_policy.as_deref().unwrap_or("Always")
}

/// Whether the pod uses the host's network.
pub fn host_network(pod: &Pod) -> bool {
    spec(pod).host_network == Some(true)
}

fn annotation<'a>(pod: &'a Pod, key: &str) -> Option<&'a str> {
    pod.metadata.annotations.as_ref()?.get(key).map(String::as_str)
}

/// Whether the pod comes from a manifest file.
pub fn is_static(pod: &Pod) -> bool {
    annotation(pod, SOURCE).is_some_and(|source| source != "api")
}

/// The hash of the static pod that this API object mirrors.
pub fn mirrors(pod: &Pod) -> Option<&str> {
    annotation(pod, MIRROR)
}

/// A static pod's hash.
pub fn config_hash(pod: &Pod) -> Option<&str> {
    annotation(pod, CONFIG_HASH)
}

/// When deletion was asked for.
pub fn deletion(pod: &Pod) -> Option<Timestamp> {
    pod.metadata.deletion_timestamp.as_ref().map(|time| time.0)
}

/// Whether the API says that the pod has come to its end.
pub fn is_terminal(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|s| s.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

/// Whether a container that ended with `exit_code` is to be started again.
pub fn should_restart(pod: &Pod, container: &Container, exit_code: i32) -> bool {
    if let Some(policy) = container.restart_policy.as_deref() {
        for rule in container.restart_policy_rules.iter().flatten() {
            let Some(codes) = &rule.exit_codes else { continue };
            let listed = codes.values.iter().flatten().any(|code| *code == exit_code);
            if (codes.operator == "In" && listed) || (codes.operator == "NotIn" && !listed) {
                return rule.action == "Restart";
            }
        }
        return policy == "Always" || (policy == "OnFailure" && exit_code != 0);
    }
    match restart_policy(pod) {
        "Never" => false,
        "OnFailure" => exit_code != 0,
        _ => true,
    }
}

/// The seconds a pod has to end: what its deletion says, or its spec.
pub fn grace_seconds(pod: &Pod) -> i64 {
    pod.metadata.deletion_grace_period_seconds.or(spec(pod).termination_grace_period_seconds).unwrap_or(30)
}
