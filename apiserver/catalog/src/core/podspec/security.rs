//! Security contexts of pods and containers, and what the pod's operating system allows.

use std::collections::BTreeSet;
use std::sync::OnceLock;

use regex::Regex;
use serde_json::Value;
use skeg_machinery::field::{Error, ErrorList, Path};

use super::each_container;
use super::volumes::descending;
use crate::check::Report;
use crate::json::Read;
use crate::names;

const ID_RANGE: &str = "must be between 0 and 2147483647, inclusive";

fn id(e: &mut ErrorList, path: &Path, id: Option<i64>) {
    if let Some(id) = id.filter(|id| !(0..=i64::from(i32::MAX)).contains(id)) {
        e.invalid(path, id, ID_RANGE);
    }
}

/// The pod's security context. Host namespaces are members of the spec in v1, but their errors are told at the context.
pub fn pod(e: &mut ErrorList, path: &Path, spec: &Value) {
    let context = spec.at("securityContext");
    if context.is_null() {
        return;
    }
    for field in ["fsGroup", "runAsUser", "runAsGroup"] {
        id(e, &path.child(field), context.opt_int(field));
    }
    for (index, group) in context.list("supplementalGroups").iter().enumerate() {
        id(e, &path.child("supplementalGroups").index(index), group.as_i64());
    }
    if spec.flag("shareProcessNamespace") && spec.flag("hostPID") {
        let detail = "ShareProcessNamespace and HostPID cannot both be enabled";
        e.invalid(&path.child("shareProcessNamespace"), true, detail);
    }
    sysctls(e, &path.child("sysctls"), spec);
    e.one_of_set(
        &path.child("fsGroupChangePolicy"),
        context.opt_text("fsGroupChangePolicy"),
        &["Always", "OnRootMismatch"],
    );
    seccomp(e, &path.child("seccompProfile"), context.at("seccompProfile"));
    windows_options(e, &path.child("windowsOptions"), context.at("windowsOptions"));
    app_armor(e, &path.child("appArmorProfile"), context.at("appArmorProfile"));
    let policy = context.opt_text("supplementalGroupsPolicy");
    e.one_of_set(&path.child("supplementalGroupsPolicy"), policy, &["Merge", "Strict"]);
    let policy = context.opt_text("seLinuxChangePolicy");
    e.one_of_set(&path.child("seLinuxChangePolicy"), policy, &["Recursive"]);
}

fn sysctls(e: &mut ErrorList, path: &Path, spec: &Value) {
    const PATTERN: &str = "^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$";
    static REGEX: OnceLock<Regex> = OnceLock::new();
    let regex = REGEX.get_or_init(|| Regex::new(PATTERN).expect("the pattern is constant"));
    let mut seen = BTreeSet::new();
    for (index, sysctl) in spec.list("securityContext.sysctls").iter().enumerate() {
        let name = sysctl.text("name");
        let at = path.index(index).child("name");
        if name.is_empty() {
            e.required(&at, "");
        } else if name.len() > 253 || !regex.is_match(name) {
            e.invalid(&at, name, format!("must have at most 253 characters and match regex {PATTERN}"));
        } else if seen.contains(name) {
            e.duplicate(&at, name);
        }
        let dotted = name.replace('/', ".");
        let ipc =
            ["kernel.sem", "kernel.shm", "kernel.msg", "fs.mqueue."].iter().any(|start| dotted.starts_with(start));
        if spec.flag("hostNetwork") && dotted.starts_with("net.") {
            e.invalid(&at, name, "may not be specified when 'hostNetwork' is true");
        } else if spec.flag("hostIPC") && ipc {
            e.invalid(&at, name, "may not be specified when 'hostIPC' is true");
        }
        seen.insert(name);
    }
}

fn seccomp(e: &mut ErrorList, path: &Path, profile: &Value) {
    if profile.is_null() {
        return;
    }
    let kind = profile.text("type");
    match kind {
        "" => e.required(&path.child("type"), "type is required when seccompProfile is set"),
        "Localhost" | "RuntimeDefault" | "Unconfined" => {}
        _ => e.not_supported(&path.child("type"), kind, &["Localhost", "RuntimeDefault", "Unconfined"]),
    }
    let at = path.child("localhostProfile");
    match profile.opt_text("localhostProfile") {
        None if kind == "Localhost" => e.required(&at, "must be set when seccomp type is Localhost"),
        Some(local) if kind == "Localhost" => descending(e, &at, local),
        Some(_) => e.invalid(&at, profile.clone(), "can only be set when seccomp type is Localhost"),
        None => {}
    }
}

fn app_armor(e: &mut ErrorList, path: &Path, profile: &Value) {
    if profile.is_null() {
        return;
    }
    let at = path.child("localhostProfile");
    let local = profile.opt_text("localhostProfile");
    match profile.text("type") {
        "Localhost" => match local {
            None => e.required(&at, "must be set when AppArmor type is Localhost"),
            Some(name) => {
                if name.trim() != name {
                    e.invalid(&at, name, "must not be padded with whitespace");
                } else if name.is_empty() {
                    e.required(&at, "must be set when AppArmor type is Localhost");
                }
                if name.len() > 4095 {
                    e.add(Error::too_long(&at, 4095));
                }
            }
        },
        "RuntimeDefault" | "Unconfined" => {
            if let Some(name) = local {
                e.invalid(&at, name, "can only be set when AppArmor type is Localhost");
            }
        }
        "" => e.required(&path.child("type"), "type is required when appArmorProfile is set"),
        other => e.not_supported(&path.child("type"), other, &["Localhost", "RuntimeDefault", "Unconfined"]),
    }
}

pub fn container(e: &mut ErrorList, path: &Path, context: &Value, host_users: bool) {
    if context.is_null() {
        return;
    }
    for field in ["runAsUser", "runAsGroup"] {
        id(e, &path.child(field), context.opt_int(field));
    }
    if let Some(mount) = context.opt_text("procMount") {
        e.one_of_set(&path.child("procMount"), Some(mount), &["Default", "Unmasked"]);
        if host_users && mount == "Unmasked" {
            e.invalid(&path.child("procMount"), mount, "`hostUsers` must be false to use `Unmasked`");
        }
    }
    seccomp(e, &path.child("seccompProfile"), context.at("seccompProfile"));
    if context.at("allowPrivilegeEscalation").as_bool() == Some(false) {
        if context.flag("privileged") {
            let detail = "cannot set `allowPrivilegeEscalation` to false and `privileged` to true";
            e.invalid(path, context.clone(), detail);
        }
        for _ in context.texts("capabilities.add").iter().filter(|name| **name == "CAP_SYS_ADMIN") {
            let detail = "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN";
            e.invalid(path, context.clone(), detail);
        }
    }
    windows_options(e, &path.child("windowsOptions"), context.at("windowsOptions"));
    app_armor(e, &path.child("appArmorProfile"), context.at("appArmorProfile"));
}

fn windows_options(e: &mut ErrorList, path: &Path, options: &Value) {
    if let Some(name) = options.opt_text("gmsaCredentialSpecName") {
        e.each(&path.child("gmsaCredentialSpecName"), name, names::subdomain(name, false));
    }
    if let Some(spec) = options.opt_text("gmsaCredentialSpec") {
        let at = path.child("gmsaCredentialSpec");
        if spec.is_empty() {
            e.invalid(&at, spec, "gmsaCredentialSpec cannot be an empty string");
        } else if spec.len() > 64 << 10 {
            e.invalid(&at, spec, "gmsaCredentialSpec size must be under 64 KiB");
        }
    }
    if let Some(name) = options.opt_text("runAsUserName") {
        let at = path.child("runAsUserName");
        let parts: Vec<&str> = name.split('\\').collect();
        let user = parts.last().copied().unwrap_or("");
        if name.is_empty() {
            e.invalid(&at, name, "runAsUserName cannot be an empty string");
        } else if name.chars().any(char::is_control) {
            e.invalid(&at, name, "runAsUserName cannot contain control characters");
        } else if parts.len() > 2 {
            e.invalid(&at, name, "runAsUserName cannot contain more than one backslash");
        } else if user.is_empty() {
            e.invalid(&at, name, "runAsUserName's User cannot be empty");
        } else if user.len() > 104 {
            e.invalid(&at, name, "runAsUserName's User length must not be longer than 104 characters");
        }
        if parts.len() <= 2 && !user.is_empty() && user.chars().all(|char| char == '.' || char == ' ') {
            e.invalid(&at, name, "runAsUserName's User cannot contain only periods or spaces");
        }
        if parts.len() <= 2
            && user.contains(['"', '/', ':', ';', '|', '=', ',', '+', '*', '?', '<', '>', '@', '[', ']'])
        {
            let detail = r#"runAsUserName's User cannot contain the following characters: "/\:;|=,+*?<>@[]"#;
            e.invalid(&at, name, detail);
        }
    }
}

/// What a pod of a named operating system may not say.
pub fn operating_system(e: &mut ErrorList, path: &Path, spec: &Value) {
    if !spec.has("os") {
        return;
    }
    let os = spec.text("os.name");
    match os {
        "" => e.required(&path.child("os").child("name"), ""),
        "linux" => linux(e, path, spec),
        "windows" => windows(e, path, spec),
        _ => e.not_supported(&path.child("os"), os, &["linux", "windows"]),
    }
}

fn linux(e: &mut ErrorList, path: &Path, spec: &Value) {
    const DETAIL: &str = "windows options cannot be set for a linux pod";
    if spec.has("securityContext.windowsOptions") {
        e.forbidden(&path.child("securityContext").child("windowsOptions"), DETAIL);
    }
    each_container(spec, path, |at, container| {
        if container.has("securityContext.windowsOptions") {
            e.forbidden(&at.child("securityContext").child("windowsOptions"), DETAIL);
        }
    });
}

fn windows(e: &mut ErrorList, path: &Path, spec: &Value) {
    const DETAIL: &str = "cannot be set for a windows pod";
    let of_context = [
        "appArmorProfile",
        "seLinuxOptions",
        "seccompProfile",
        "fsGroup",
        "fsGroupChangePolicy",
        "sysctls",
        "runAsUser",
        "runAsGroup",
        "supplementalGroups",
        "supplementalGroupsPolicy",
        "seLinuxChangePolicy",
    ];
    for field in of_context {
        if spec.at("securityContext").has(field) {
            e.forbidden(&path.child("securityContext").child(field), DETAIL);
        }
    }
    for field in ["hostUsers", "shareProcessNamespace"] {
        if spec.has(field) {
            e.forbidden(&path.child(field), DETAIL);
        }
    }
    for field in ["hostPID", "hostIPC"] {
        if spec.flag(field) {
            e.forbidden(&path.child(field), DETAIL);
        }
    }
    let of_container = [
        "appArmorProfile",
        "seLinuxOptions",
        "seccompProfile",
        "capabilities",
        "readOnlyRootFilesystem",
        "privileged",
        "allowPrivilegeEscalation",
        "procMount",
        "runAsUser",
        "runAsGroup",
    ];
    each_container(spec, path, |at, container| {
        for field in of_container {
            if container.at("securityContext").has(field) {
                e.forbidden(&at.child("securityContext").child(field), DETAIL);
            }
        }
    });
}

/// Host-process containers of Windows: all of them or none, on the host's network.
pub fn host_process(e: &mut ErrorList, path: &Path, spec: &Value) {
    let pod = spec.at("securityContext.windowsOptions.hostProcess").as_bool();
    let (mut total, mut host) = (0, 0);
    each_container(spec, path, |at, container| {
        total += 1;
        let own = container.at("securityContext.windowsOptions.hostProcess").as_bool();
        if let (Some(pod), Some(own)) = (pod, own)
            && pod != own
        {
            let field = at.child("securityContext").child("windowsOptions").child("hostProcess");
            e.invalid(&field, own, format!("pod hostProcess value must be identical if both are specified, was {pod}"));
        }
        if own.or(pod) == Some(true) {
            host += 1;
        }
    });
    if host == 0 {
        return;
    }
    if host != total {
        let detail = "If pod contains any hostProcess containers then all containers must be HostProcess containers";
        e.invalid(path, "", detail);
    }
    if !spec.flag("hostNetwork") {
        let detail = "hostNetwork must be true if pod contains any hostProcess containers";
        e.invalid(&path.child("hostNetwork"), false, detail);
    }
}

/// User namespaces and the host's namespaces exclude each other.
pub fn host_users(e: &mut ErrorList, path: &Path, spec: &Value) {
    if spec.at("hostUsers").as_bool() != Some(false) {
        return;
    }
    for (field, shown) in [("hostNetwork", "hostNetwork"), ("hostPID", "HostPID"), ("hostIPC", "HostIPC")] {
        if spec.flag(field) {
            e.forbidden(&path.child(shown), "when `hostUsers` is false");
        }
    }
    each_container(spec, path, |at, container| {
        if !container.list("volumeDevices").is_empty() {
            e.forbidden(&at.child("volumeDevices"), "when `hostUsers` is false");
        }
    });
}

pub fn stop_signal(e: &mut ErrorList, path: &Path, signal: &str, spec: &Value) {
    match spec.text("os.name") {
        "" => e.forbidden(path, "may not be set for containers with empty `spec.os.name`"),
        "windows" if !["SIGKILL", "SIGTERM"].contains(&signal) => {
            e.not_supported(path, signal, &["SIGKILL", "SIGTERM"]);
        }
        _ => {}
    }
}
