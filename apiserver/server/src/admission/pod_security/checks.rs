//! The Pod Security Standards: what a pod of a level and policy version may not say (upstream
//! pod-security-admission/policy). Pure functions from a pod to what is forbidden in it.

use std::collections::BTreeSet;

use serde_json::Value;
use skeg_machinery::text::quote;

use super::super::items;

/// A minor version of Kubernetes 1; the policy as it was then.
pub type Minor = u32;
pub const LATEST: Minor = Minor::MAX;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    pub reason: String,
    pub detail: String,
}

type Check = fn(&Pod<'_>, Minor) -> Option<Violation>;

/// In the order in which upstream tells them; each with the version that it came with.
const BASELINE: [(&str, Minor, Check); 12] = [
    ("appArmorProfile", 0, app_armor),
    ("capabilities_baseline", 0, capabilities_baseline),
    ("hostNamespaces", 0, host_namespaces),
    ("hostPathVolumes", 0, host_path_volumes),
    ("hostPorts", 0, host_ports),
    ("hostProbesAndHostLifecycle", 34, host_probes),
    ("privileged", 0, privileged),
    ("procMount", 0, proc_mount_baseline),
    ("seLinuxOptions", 0, selinux),
    ("seccompProfile_baseline", 0, seccomp_baseline),
    ("sysctls", 0, sysctls),
    ("windowsHostProcess", 0, windows_host_process),
];

/// As above, with the baseline check that is not made any more beside this one.
const RESTRICTED: [(&str, Minor, Check, &str); 7] = [
    ("allowPrivilegeEscalation", 8, allow_privilege_escalation, ""),
    ("capabilities_restricted", 22, capabilities_restricted, "capabilities_baseline"),
    ("procMount_restricted", 35, |pod, _| proc_mount(pod), "procMount"),
    ("restrictedVolumes", 0, restricted_volumes, "hostPathVolumes"),
    ("runAsNonRoot", 0, run_as_non_root, ""),
    ("runAsUser", 23, run_as_user, ""),
    ("seccompProfile_restricted", 19, seccomp_restricted, "seccompProfile_baseline"),
];

/// A pod or pod template: annotations and spec.
pub struct Pod<'a> {
    pub annotations: &'a Value,
    pub spec: &'a Value,
}

/// What the baseline (or, with `restricted`, the restricted) policy of a version forbids in the pod.
pub fn violations(pod: &Pod<'_>, restricted: bool, version: Minor) -> Vec<Violation> {
    let further = || RESTRICTED.iter().filter(|(_, since, ..)| restricted && *since <= version);
    let overridden: BTreeSet<&str> = further().map(|(.., overrides)| *overrides).collect();
    let baseline = BASELINE.iter().filter(|(id, since, _)| *since <= version && !overridden.contains(id));
    let checks = baseline.map(|(_, _, check)| check).chain(further().map(|(_, _, check, _)| check));
    checks.filter_map(|check| check(pod, version)).collect()
}

impl<'a> Pod<'a> {
    fn containers(&self) -> impl Iterator<Item = &'a Value> + use<'a> {
        let spec = self.spec;
        ["initContainers", "containers", "ephemeralContainers"].into_iter().flat_map(move |list| items(spec, list))
    }

    fn context(&self, field: &str) -> &'a Value {
        &self.spec["securityContext"][field]
    }

    fn is_windows(&self) -> bool {
        self.spec["os"]["name"] == "windows"
    }

    /// Pods in a user namespace of their own are trusted with more.
    fn has_user_namespace(&self) -> bool {
        self.spec["hostUsers"] == false
    }

    /// Names of the containers for which `bad` holds.
    fn bad(&self, mut bad: impl FnMut(&'a Value) -> bool) -> Vec<String> {
        self.containers().filter(|container| bad(container)).map(name).collect()
    }
}

fn name(container: &Value) -> String {
    container["name"].as_str().unwrap_or_default().to_owned()
}

fn join_quote<S: AsRef<str>>(texts: impl IntoIterator<Item = S>) -> String {
    texts.into_iter().map(|text| format!("\"{}\"", text.as_ref())).collect::<Vec<_>>().join(", ")
}

fn plural<'t>(one: &'t str, many: &'t str, count: usize) -> &'t str {
    if count == 1 { one } else { many }
}

/// `container "a"` or `containers "a", "b"`.
fn told(containers: &[String]) -> String {
    format!("{} {}", plural("container", "containers", containers.len()), join_quote(containers))
}

/// `pod and container "a"`; `None` when nothing is bad.
fn setters(pod: bool, containers: &[String]) -> Option<String> {
    let mut parts = Vec::new();
    if pod {
        parts.push("pod".to_owned());
    }
    if !containers.is_empty() {
        parts.push(told(containers));
    }
    (!parts.is_empty()).then(|| parts.join(" and "))
}

fn violation(reason: &str, detail: String) -> Option<Violation> {
    Some(Violation { reason: reason.to_owned(), detail })
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn app_armor(pod: &Pod<'_>, _: Minor) -> Option<Violation> {
    let mut values = BTreeSet::new();
    let mut bad = |profile: &Value| {
        let kind = &profile["type"];
        let bad = !profile.is_null() && kind != "RuntimeDefault" && kind != "Localhost";
        if bad {
            values.insert(text(kind));
        }
        bad
    };
    let on_pod = bad(pod.context("appArmorProfile"));
    let containers = pod.bad(|c| bad(&c["securityContext"]["appArmorProfile"]));
    let mut parts: Vec<String> = setters(on_pod, &containers).into_iter().collect();
    let mut values: Vec<String> = values.into_iter().collect();
    let mut annotations: Vec<String> = Vec::new();
    for (key, value) in pod.annotations.as_object().into_iter().flatten() {
        let profile = value.as_str().unwrap_or_default();
        let allowed = profile.is_empty() || profile == "runtime/default" || profile.starts_with("localhost/");
        if key.starts_with("container.apparmor.security.beta.kubernetes.io/") && !allowed {
            annotations.push(format!("{key}={}", quote(profile)));
        }
    }
    if !annotations.is_empty() {
        annotations.sort();
        parts.push(plural("annotation", "annotations", annotations.len()).to_owned());
        values.extend(annotations);
    }
    if parts.is_empty() {
        return None;
    }
    let reason = plural("forbidden AppArmor profile", "forbidden AppArmor profiles", values.len());
    violation(reason, format!("{} must not set AppArmor profile type to {}", parts.join(" and "), join_quote(values)))
}

fn capabilities_baseline(pod: &Pod<'_>, _: Minor) -> Option<Violation> {
    const ALLOWED: [&str; 13] = [
        "AUDIT_WRITE",
        "CHOWN",
        "DAC_OVERRIDE",
        "FOWNER",
        "FSETID",
        "KILL",
        "MKNOD",
        "NET_BIND_SERVICE",
        "SETFCAP",
        "SETGID",
        "SETPCAP",
        "SETUID",
        "SYS_CHROOT",
    ];
    let mut added = BTreeSet::new();
    let containers = pod.bad(|c| {
        let bad: Vec<String> = items(&c["securityContext"]["capabilities"], "add")
            .map(text)
            .filter(|capability| !ALLOWED.contains(&capability.as_str()))
            .collect();
        let is_bad = !bad.is_empty();
        added.extend(bad);
        is_bad
    });
    if containers.is_empty() {
        return None;
    }
    let detail =
        format!("{} must not include {} in securityContext.capabilities.add", told(&containers), join_quote(added));
    violation("non-default capabilities", detail)
}

fn host_namespaces(pod: &Pod<'_>, _: Minor) -> Option<Violation> {
    let used: Vec<String> = ["hostNetwork", "hostPID", "hostIPC"]
        .into_iter()
        .filter(|field| pod.spec[*field] == true)
        .map(|field| format!("{field}=true"))
        .collect();
    if used.is_empty() { None } else { violation("host namespaces", used.join(", ")) }
}

fn host_path_volumes(pod: &Pod<'_>, _: Minor) -> Option<Violation> {
    let volumes: Vec<String> = items(pod.spec, "volumes").filter(|v| !v["hostPath"].is_null()).map(name).collect();
    if volumes.is_empty() {
        return None;
    }
    let what = plural("volume", "volumes", volumes.len());
    violation("hostPath volumes", format!("{what} {}", join_quote(volumes)))
}

fn host_ports(pod: &Pod<'_>, _: Minor) -> Option<Violation> {
    let mut ports = BTreeSet::new();
    let containers = pod.bad(|c| {
        let bad: Vec<String> = items(c, "ports")
            .filter_map(|port| port["hostPort"].as_u64().filter(|port| *port != 0))
            .map(|port| port.to_string())
            .collect();
        let is_bad = !bad.is_empty();
        ports.extend(bad);
        is_bad
    });
    if containers.is_empty() {
        return None;
    }
    let detail = format!(
        "{} {} {} {}",
        told(&containers),
        plural("uses", "use", containers.len()),
        plural("hostPort", "hostPorts", ports.len()),
        ports.into_iter().collect::<Vec<_>>().join(", ")
    );
    violation("hostPort", detail)
}

fn host_probes(pod: &Pod<'_>, _: Minor) -> Option<Violation> {
    let mut hosts = BTreeSet::new();
    let containers: BTreeSet<String> = pod
        .bad(|c| {
            let lifecycle = &c["lifecycle"];
            let handlers = [
                &c["livenessProbe"],
                &c["readinessProbe"],
                &c["startupProbe"],
                &lifecycle["postStart"],
                &lifecycle["preStop"],
            ];
            let bad: Vec<String> = handlers
                .iter()
                .flat_map(|handler| [&handler["httpGet"]["host"], &handler["tcpSocket"]["host"]])
                .map(text)
                .filter(|host| !host.is_empty())
                .collect();
            let is_bad = !bad.is_empty();
            hosts.extend(bad);
            is_bad
        })
        .into_iter()
        .collect();
    if containers.is_empty() {
        return None;
    }
    let containers: Vec<String> = containers.into_iter().collect();
    let detail = format!(
        "{} {} {} {}",
        told(&containers),
        plural("uses", "use", containers.len()),
        plural("probe or lifecycle host", "probe or lifecycle hosts", hosts.len()),
        join_quote(hosts)
    );
    violation("probe or lifecycle host", detail)
}

fn privileged(pod: &Pod<'_>, _: Minor) -> Option<Violation> {
    let containers = pod.bad(|c| c["securityContext"]["privileged"] == true);
    if containers.is_empty() {
        return None;
    }
    violation("privileged", format!("{} must not set securityContext.privileged=true", told(&containers)))
}

fn proc_mount_baseline(pod: &Pod<'_>, version: Minor) -> Option<Violation> {
    if version >= 35 && pod.has_user_namespace() { None } else { proc_mount(pod) }
}

fn proc_mount(pod: &Pod<'_>) -> Option<Violation> {
    let mut kinds = BTreeSet::new();
    let containers = pod.bad(|c| {
        let mount = &c["securityContext"]["procMount"];
        let bad = !mount.is_null() && mount != "Default";
        if bad {
            kinds.insert(text(mount));
        }
        bad
    });
    if containers.is_empty() {
        return None;
    }
    violation(
        "procMount",
        format!("{} must not set securityContext.procMount to {}", told(&containers), join_quote(kinds)),
    )
}

fn selinux(pod: &Pod<'_>, version: Minor) -> Option<Violation> {
    let (mut kinds, mut user, mut role) = (BTreeSet::new(), false, false);
    let mut bad = |options: &Value| {
        let kind = text(&options["type"]);
        let mut allowed = vec!["", "container_t", "container_init_t", "container_kvm_t"];
        if version >= 31 {
            allowed.push("container_engine_t");
        }
        let bad_kind = !allowed.contains(&kind.as_str());
        if bad_kind {
            kinds.insert(kind);
        }
        let (sets_user, sets_role) = (!text(&options["user"]).is_empty(), !text(&options["role"]).is_empty());
        user |= sets_user;
        role |= sets_role;
        bad_kind || sets_user || sets_role
    };
    let on_pod = bad(pod.context("seLinuxOptions"));
    let containers = pod.bad(|c| bad(&c["securityContext"]["seLinuxOptions"]));
    let who = setters(on_pod, &containers)?;
    let mut what = Vec::new();
    if !kinds.is_empty() {
        what.push(format!("{} {}", plural("type", "types", kinds.len()), join_quote(kinds)));
    }
    if user {
        what.push("user may not be set".to_owned());
    }
    if role {
        what.push("role may not be set".to_owned());
    }
    violation("seLinuxOptions", format!("{who} set forbidden securityContext.seLinuxOptions: {}", what.join("; ")))
}

fn good_seccomp(profile: &Value) -> bool {
    profile["type"] == "RuntimeDefault" || profile["type"] == "Localhost"
}

/// Who sets a seccomp profile that is not allowed, and to what.
fn bad_seccomp(pod: &Pod<'_>) -> Option<Violation> {
    let mut kinds = BTreeSet::new();
    let mut bad = |profile: &Value| {
        let bad = !profile.is_null() && !good_seccomp(profile);
        if bad {
            kinds.insert(text(&profile["type"]));
        }
        bad
    };
    let on_pod = bad(pod.context("seccompProfile"));
    let containers = pod.bad(|c| bad(&c["securityContext"]["seccompProfile"]));
    let who = setters(on_pod, &containers)?;
    violation(
        "seccompProfile",
        format!("{who} must not set securityContext.seccompProfile.type to {}", join_quote(kinds)),
    )
}

fn seccomp_baseline(pod: &Pod<'_>, version: Minor) -> Option<Violation> {
    if version >= 19 {
        return bad_seccomp(pod);
    }
    let keys = std::iter::once("seccomp.security.alpha.kubernetes.io/pod".to_owned())
        .chain(pod.containers().map(|c| format!("container.seccomp.security.alpha.kubernetes.io/{}", name(c))));
    let forbidden: BTreeSet<String> = keys
        .filter_map(|key| {
            let value = pod.annotations[&key].as_str()?;
            let allowed = matches!(value, "runtime/default" | "docker/default") || value.starts_with("localhost/");
            (!allowed).then(|| format!("{key}={}", quote(value)))
        })
        .collect();
    if forbidden.is_empty() {
        return None;
    }
    let what = plural("annotation", "annotations", forbidden.len());
    violation("seccompProfile", format!("forbidden {what} {}", forbidden.into_iter().collect::<Vec<_>>().join(", ")))
}

fn seccomp_restricted(pod: &Pod<'_>, version: Minor) -> Option<Violation> {
    if version >= 25 && pod.is_windows() {
        return None;
    }
    if let Some(bad) = bad_seccomp(pod) {
        return Some(bad);
    }
    let on_pod = good_seccomp(pod.context("seccompProfile"));
    let containers = pod.bad(|c| !on_pod && c["securityContext"]["seccompProfile"].is_null());
    if containers.is_empty() {
        return None;
    }
    let detail = format!(
        "pod or {} must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\"",
        told(&containers)
    );
    violation("seccompProfile", detail)
}

fn sysctls(pod: &Pod<'_>, version: Minor) -> Option<Violation> {
    const ALLOWED: [(&str, Minor); 12] = [
        ("kernel.shm_rmid_forced", 0),
        ("net.ipv4.ip_local_port_range", 0),
        ("net.ipv4.tcp_syncookies", 0),
        ("net.ipv4.ping_group_range", 0),
        ("net.ipv4.ip_unprivileged_port_start", 0),
        ("net.ipv4.ip_local_reserved_ports", 27),
        ("net.ipv4.tcp_keepalive_time", 29),
        ("net.ipv4.tcp_fin_timeout", 29),
        ("net.ipv4.tcp_keepalive_intvl", 29),
        ("net.ipv4.tcp_keepalive_probes", 29),
        ("net.ipv4.tcp_rmem", 32),
        ("net.ipv4.tcp_wmem", 32),
    ];
    let forbidden: Vec<String> = items(&pod.spec["securityContext"], "sysctls")
        .map(|sysctl| text(&sysctl["name"]))
        .filter(|name| !ALLOWED.iter().any(|(allowed, since)| allowed == name && *since <= version))
        .collect();
    if forbidden.is_empty() { None } else { violation("forbidden sysctls", forbidden.join(", ")) }
}

fn windows_host_process(pod: &Pod<'_>, _: Minor) -> Option<Violation> {
    let on_pod = pod.context("windowsOptions")["hostProcess"] == true;
    let containers = pod.bad(|c| c["securityContext"]["windowsOptions"]["hostProcess"] == true);
    let who = setters(on_pod, &containers)?;
    violation("hostProcess", format!("{who} must not set securityContext.windowsOptions.hostProcess=true"))
}

fn allow_privilege_escalation(pod: &Pod<'_>, version: Minor) -> Option<Violation> {
    if version >= 25 && pod.is_windows() {
        return None;
    }
    let containers = pod.bad(|c| c["securityContext"]["allowPrivilegeEscalation"] != false);
    if containers.is_empty() {
        return None;
    }
    let detail = format!("{} must set securityContext.allowPrivilegeEscalation=false", told(&containers));
    violation("allowPrivilegeEscalation != false", detail)
}

fn capabilities_restricted(pod: &Pod<'_>, version: Minor) -> Option<Violation> {
    if version >= 25 && pod.is_windows() {
        return None;
    }
    let dropping =
        pod.bad(|c| !items(&c["securityContext"]["capabilities"], "drop").any(|capability| capability == "ALL"));
    let mut added = BTreeSet::new();
    let adding = pod.bad(|c| {
        let bad: Vec<String> =
            items(&c["securityContext"]["capabilities"], "add").map(text).filter(|c| c != "NET_BIND_SERVICE").collect();
        let is_bad = !bad.is_empty();
        added.extend(bad);
        is_bad
    });
    let mut details = Vec::new();
    if !dropping.is_empty() {
        details.push(format!("{} must set securityContext.capabilities.drop=[\"ALL\"]", told(&dropping)));
    }
    if !adding.is_empty() {
        let what = join_quote(added);
        details.push(format!("{} must not include {what} in securityContext.capabilities.add", told(&adding)));
    }
    if details.is_empty() { None } else { violation("unrestricted capabilities", details.join("; ")) }
}

fn restricted_volumes(pod: &Pod<'_>, _: Minor) -> Option<Violation> {
    const ALLOWED: [&str; 9] = [
        "configMap",
        "csi",
        "downwardAPI",
        "emptyDir",
        "ephemeral",
        "image",
        "persistentVolumeClaim",
        "projected",
        "secret",
    ];
    let (mut volumes, mut kinds) = (Vec::new(), BTreeSet::new());
    for volume in items(pod.spec, "volumes") {
        if ALLOWED.iter().any(|kind| !volume[*kind].is_null()) {
            continue;
        }
        volumes.push(name(volume));
        let kind = volume.as_object().into_iter().flatten().find(|(key, value)| *key != "name" && !value.is_null());
        kinds.insert(kind.map_or("unknown", |(key, _)| key.as_str()).to_owned());
    }
    if volumes.is_empty() {
        return None;
    }
    let detail = format!(
        "{} {} {} {} {}",
        plural("volume", "volumes", volumes.len()),
        join_quote(&volumes),
        plural("uses", "use", volumes.len()),
        plural("restricted volume type", "restricted volume types", kinds.len()),
        join_quote(kinds)
    );
    violation("restricted volume types", detail)
}

fn run_as_non_root(pod: &Pod<'_>, version: Minor) -> Option<Violation> {
    if version >= 35 && pod.has_user_namespace() {
        return None;
    }
    let on_pod = pod.context("runAsNonRoot");
    let explicit = pod.bad(|c| c["securityContext"]["runAsNonRoot"] == false);
    if let Some(who) = setters(*on_pod == false, &explicit) {
        return violation("runAsNonRoot != true", format!("{who} must not set securityContext.runAsNonRoot=false"));
    }
    let implicit = pod.bad(|c| *on_pod != true && c["securityContext"]["runAsNonRoot"].is_null());
    if implicit.is_empty() {
        return None;
    }
    let detail = format!("pod or {} must set securityContext.runAsNonRoot=true", told(&implicit));
    violation("runAsNonRoot != true", detail)
}

fn run_as_user(pod: &Pod<'_>, version: Minor) -> Option<Violation> {
    if version >= 35 && pod.has_user_namespace() {
        return None;
    }
    let containers = pod.bad(|c| c["securityContext"]["runAsUser"] == 0);
    let who = setters(*pod.context("runAsUser") == 0, &containers)?;
    violation("runAsUser=0", format!("{who} must not set runAsUser=0"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn told_of(annotations: Value, spec: Value, restricted: bool, version: Minor) -> String {
        let pod = Pod { annotations: &annotations, spec: &spec };
        let told = violations(&pod, restricted, version);
        told.iter().map(|v| format!("{} ({})", v.reason, v.detail)).collect::<Vec<_>>().join(", ")
    }

    fn restricted_pod() -> Value {
        json!({
            "securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [{"name": "c", "securityContext": {
                "allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}}}],
        })
    }

    #[test]
    fn a_plain_pod_is_baseline_and_a_careful_one_restricted() {
        let plain = json!({"containers": [{"name": "c"}]});
        assert_eq!(told_of(json!({}), plain.clone(), false, LATEST), "");
        assert_eq!(
            told_of(json!({}), plain, true, LATEST),
            "allowPrivilegeEscalation != false (container \"c\" must set securityContext.allowPrivilegeEscalation=false), \
             unrestricted capabilities (container \"c\" must set securityContext.capabilities.drop=[\"ALL\"]), \
             runAsNonRoot != true (pod or container \"c\" must set securityContext.runAsNonRoot=true), \
             seccompProfile (pod or container \"c\" must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\")"
        );
        assert_eq!(told_of(json!({}), restricted_pod(), true, LATEST), "");
    }

    #[test]
    fn each_baseline_control_is_told() {
        let container = |context: Value| json!({"containers": [{"name": "c", "securityContext": context}]});
        for (spec, expect) in [
            (
                container(json!({"privileged": true})),
                "privileged (container \"c\" must not set securityContext.privileged=true)",
            ),
            (
                container(json!({"capabilities": {"add": ["NET_RAW", "CHOWN"]}})),
                "non-default capabilities (container \"c\" must not include \"NET_RAW\" in securityContext.capabilities.add)",
            ),
            (
                container(json!({"procMount": "Unmasked"})),
                "procMount (container \"c\" must not set securityContext.procMount to \"Unmasked\")",
            ),
            (
                container(json!({"seccompProfile": {"type": "Unconfined"}})),
                "seccompProfile (container \"c\" must not set securityContext.seccompProfile.type to \"Unconfined\")",
            ),
            (
                container(json!({"seLinuxOptions": {"type": "spc_t", "user": "u"}})),
                "seLinuxOptions (container \"c\" set forbidden securityContext.seLinuxOptions: type \"spc_t\"; user may not be set)",
            ),
            (
                container(json!({"appArmorProfile": {"type": "Unconfined"}})),
                "forbidden AppArmor profile (container \"c\" must not set AppArmor profile type to \"Unconfined\")",
            ),
            (
                json!({"hostNetwork": true, "hostPID": true, "containers": []}),
                "host namespaces (hostNetwork=true, hostPID=true)",
            ),
            (
                json!({"containers": [], "volumes": [{"name": "v", "hostPath": {"path": "/"}}]}),
                "hostPath volumes (volume \"v\")",
            ),
            (
                json!({"containers": [{"name": "a", "ports": [{"hostPort": 80}]}, {"name": "b", "ports": [{"hostPort": 80}]}]}),
                "hostPort (containers \"a\", \"b\" use hostPort 80)",
            ),
            (
                json!({"containers": [{"name": "c", "livenessProbe": {"httpGet": {"host": "1.2.3.4"}}}]}),
                "probe or lifecycle host (container \"c\" uses probe or lifecycle host \"1.2.3.4\")",
            ),
            (
                json!({"containers": [], "securityContext": {"sysctls": [{"name": "kernel.msgmax"}]}}),
                "forbidden sysctls (kernel.msgmax)",
            ),
            (
                json!({"containers": [], "securityContext": {"windowsOptions": {"hostProcess": true}}}),
                "hostProcess (pod must not set securityContext.windowsOptions.hostProcess=true)",
            ),
        ] {
            assert_eq!(told_of(json!({}), spec, false, LATEST), expect);
        }
    }

    #[test]
    fn each_restricted_control_is_told() {
        let with = |path: &[&str], value: Value| {
            let mut spec = restricted_pod();
            skeg_machinery::meta::set(&mut spec, path, value);
            spec
        };
        for (spec, expect) in [
            (
                with(&["volumes"], json!([{"name": "v", "nfs": {}}])),
                "restricted volume types (volume \"v\" uses restricted volume type \"nfs\")",
            ),
            (
                with(&["volumes"], json!([{"name": "v", "hostPath": {}}])),
                "restricted volume types (volume \"v\" uses restricted volume type \"hostPath\")",
            ),
            (with(&["securityContext", "runAsUser"], json!(0)), "runAsUser=0 (pod must not set runAsUser=0)"),
            (
                with(&["securityContext", "runAsNonRoot"], json!(false)),
                "runAsNonRoot != true (pod must not set securityContext.runAsNonRoot=false)",
            ),
        ] {
            assert_eq!(told_of(json!({}), spec, true, LATEST), expect);
        }
    }

    #[test]
    fn older_policies_ask_for_less_and_user_namespaces_are_trusted_with_more() {
        let probing = json!({"containers": [{"name": "c", "livenessProbe": {"tcpSocket": {"host": "h"}}}]});
        assert_eq!(told_of(json!({}), probing, false, 33), "");
        let sysctl = json!({"containers": [], "securityContext": {"sysctls": [{"name": "net.ipv4.tcp_rmem"}]}});
        assert_eq!(told_of(json!({}), sysctl.clone(), false, 32), "");
        assert_ne!(told_of(json!({}), sysctl, false, 31), "");
        let mut own = restricted_pod();
        own["hostUsers"] = false.into();
        own["securityContext"]["runAsNonRoot"] = Value::Null;
        assert_eq!(told_of(json!({}), own.clone(), true, 35), "");
        assert_ne!(told_of(json!({}), own, true, 34), "");
    }
}
