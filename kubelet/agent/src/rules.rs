//! What this node cannot do for a pod, whatever room it has: another operating system, sysctls that reach beyond the pod,
//! features that its runtime lacks. Pure. Reasons and messages are upstream's (pkg/kubelet/{lifecycle,sysctl}).

use crate::agent::NodeView;
use crate::pod;
use k8s_openapi::api::core::v1::Pod;

/// Sysctls that concern nobody but the pod, and since which kernel.
const SAFE: [(&str, (u32, u32)); 12] = [
    ("kernel.shm_rmid_forced", (0, 0)),
    ("net.ipv4.ip_local_port_range", (0, 0)),
    ("net.ipv4.tcp_syncookies", (0, 0)),
    ("net.ipv4.ping_group_range", (0, 0)),
    ("net.ipv4.ip_unprivileged_port_start", (0, 0)),
    ("net.ipv4.ip_local_reserved_ports", (3, 16)),
    ("net.ipv4.tcp_keepalive_time", (4, 5)),
    ("net.ipv4.tcp_fin_timeout", (4, 6)),
    ("net.ipv4.tcp_keepalive_intvl", (4, 5)),
    ("net.ipv4.tcp_keepalive_probes", (4, 5)),
    ("net.ipv4.tcp_rmem", (4, 15)),
    ("net.ipv4.tcp_wmem", (4, 15)),
];

/// What the runtime can do, as far as pods may ask for it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Features {
    /// `supplementalGroupsPolicy: Strict`; none where the runtime does not say.
    pub strict_groups: Option<bool>,
    /// Handlers that can make user namespaces; the default one has no name.
    pub user_namespaces: Vec<String>,
}

/// Refuses a pod with a reason and a message.
pub fn check(pod: &Pod, node: &NodeView, kernel: &str) -> Result<(), (String, String)> {
    let spec = pod::spec(pod);
    let refuse = |reason: &str, message: String| Err((reason.to_string(), message));
    let context = spec.security_context.as_ref();
    for sysctl in context.iter().flat_map(|c| c.sysctls.iter().flatten()) {
        if let Err(why) =
            sysctl_allowed(&sysctl.name, spec.host_network == Some(true), spec.host_ipc == Some(true), kernel)
        {
            return refuse("SysctlForbidden", format!("forbidden sysctl: {why}"));
        }
    }
    let os = pod.metadata.labels.as_ref().and_then(|labels| labels.get("kubernetes.io/os"));
    if os.is_some_and(|os| os != "linux") {
        let text = "Failed to admit pod as the `kubernetes.io/os` label doesn't match node label";
        return refuse("PodOSSelectorNodeLabelDoesNotMatch", text.into());
    }
    if spec.os.as_ref().is_some_and(|os| os.name != "linux") {
        return refuse("PodOSNotSupported", "Failed to admit pod as the OS field doesn't match node OS".into());
    }
    let strict = context.and_then(|c| c.supplemental_groups_policy.as_deref()) == Some("Strict");
    if strict && node.features.strict_groups != Some(true) {
        let text = "SupplementalGroupsPolicy=Strict is not supported in this node";
        return refuse("SupplementalGroupsPolicyNotSupported", text.into());
    }
    Ok(())
}

fn sysctl_allowed(name: &str, host_network: bool, host_ipc: bool, kernel: &str) -> Result<(), String> {
    // Either separator may be used: the first one decides.
    let name = match name.find(['.', '/']) {
        Some(at) if name.as_bytes()[at] == b'/' => name
            .chars()
            .map(|c| match c {
                '/' => '.',
                '.' => '/',
                other => other,
            })
            .collect(),
        _ => name.to_string(),
    };
    let known = SAFE.iter().find(|(safe, since)| *safe == name && version(kernel) >= *since);
    if known.is_none() {
        return Err(format!("{name:?} not allowlisted"));
    }
    if name.starts_with("net.") && host_network {
        return Err(format!("{name:?} not allowed with host net enabled"));
    }
    if name.starts_with("kernel.shm") && host_ipc {
        return Err(format!("{name:?} not allowed with host ipc enabled"));
    }
    Ok(())
}

fn version(kernel: &str) -> (u32, u32) {
    let mut numbers = kernel.split(|c: char| !c.is_ascii_digit()).map(|n| n.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

/// Whether the handler of a pod's runtime class can give it user namespaces of its own; without them such a pod would run
/// as the host's root, so it must not run.
pub fn user_namespaces(pod: &Pod, handler: &str, features: &Features) -> Result<(), String> {
    if pod::spec(pod).host_users != Some(false) || features.user_namespaces.iter().any(|h| h == handler) {
        return Ok(());
    }
    Err(format!("RuntimeClass handler {handler:?} does not support user namespaces"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn verdict(spec: Value, strict_groups: Option<bool>) -> Option<String> {
        let mut spec = spec;
        spec["containers"] = json!([]);
        let pod: Pod = serde_json::from_value(json!({"metadata": {}, "spec": spec})).unwrap();
        let features = Features { strict_groups, ..Default::default() };
        let node = NodeView { features, ..Default::default() };
        check(&pod, &node, "6.18.0-x").err().map(|(reason, message)| format!("{reason}: {message}"))
    }

    #[test]
    fn only_sysctls_of_the_pod_itself_are_taken() {
        let with = |name: &str| json!({"securityContext": {"sysctls": [{"name": name, "value": "1"}]}});
        assert_eq!(verdict(with("kernel.shm_rmid_forced"), None), None);
        assert_eq!(verdict(with("net/ipv4/tcp_syncookies"), None), None);
        let unsafe_one = verdict(with("kernel.msgmax"), None);
        assert_eq!(unsafe_one.as_deref(), Some("SysctlForbidden: forbidden sysctl: \"kernel.msgmax\" not allowlisted"));
        let mut on_host = with("net.ipv4.tcp_syncookies");
        on_host["hostNetwork"] = json!(true);
        assert!(verdict(on_host, None).unwrap().contains("not allowed with host net enabled"));
        assert!(
            sysctl_allowed("net.ipv4.tcp_rmem", false, false, "4.9.1").is_err(),
            "not of the pod alone before 4.15"
        );
    }

    #[test]
    fn what_the_runtime_or_the_system_lacks_is_refused() {
        let strict = || json!({"securityContext": {"supplementalGroupsPolicy": "Strict"}});
        assert!(verdict(strict(), None).unwrap().starts_with("SupplementalGroupsPolicyNotSupported"));
        assert_eq!(verdict(strict(), Some(true)), None);
        assert!(verdict(json!({"os": {"name": "windows"}}), None).unwrap().starts_with("PodOSNotSupported"));
        let pod: Pod =
            serde_json::from_value(json!({"metadata": {}, "spec": {"containers": [], "hostUsers": false}})).unwrap();
        let able = Features { user_namespaces: vec![String::new()], ..Default::default() };
        assert!(user_namespaces(&pod, "", &able).is_ok() && user_namespaces(&pod, "x", &able).is_err());
        assert!(user_namespaces(&pod, "", &Features::default()).is_err());
    }
}
