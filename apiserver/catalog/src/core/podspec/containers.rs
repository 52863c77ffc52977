//! Validation of containers: names, images, ports, environment, mounts, probes, lifecycle.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use skeg_machinery::field::{Error, ErrorList, Path};
use skeg_machinery::validation as rules;

use super::volumes::{descending, no_backsteps};
use super::{resources, security};
use crate::check::{Report, quantity};
use crate::json::Read;
use crate::names;

/// What the containers of one pod are checked against.
pub struct Around<'a> {
    pub volumes: BTreeMap<&'a str, &'a Value>,
    pub spec: &'a Value,
    pub claims: BTreeSet<&'a str>,
}

impl Around<'_> {
    fn grace(&self) -> Option<i64> {
        self.spec.opt_int("terminationGracePeriodSeconds")
    }
}

pub fn regular(e: &mut ErrorList, path: &Path, around: &Around<'_>) {
    let containers = around.spec.list("containers");
    if containers.is_empty() {
        e.required(path, "");
        return;
    }
    let mut seen = BTreeSet::new();
    for (index, container) in containers.iter().enumerate() {
        let at = path.index(index);
        common(e, &at, container, around);
        if !seen.insert(container.text("name")) {
            e.duplicate(&at.child("name"), container.text("name"));
        }
        lifecycle_and_probes(e, &at, container, around);
        restart_policy(e, &at, container);
    }
    host_ports(e, path, containers);
}

pub fn init(e: &mut ErrorList, path: &Path, around: &Around<'_>) {
    const NOT_SIDECAR: &str = "may not be set for init containers without restartPolicy=Always";
    let mut seen: BTreeSet<&str> = around.spec.list("containers").iter().map(|c| c.text("name")).collect();
    for (index, container) in around.spec.list("initContainers").iter().enumerate() {
        let at = path.index(index);
        common(e, &at, container, around);
        let sidecar = container.text("restartPolicy") == "Always";
        if container.has("restartPolicy") {
            restart_policy(e, &at, container);
        } else if !container.list("restartPolicyRules").is_empty() {
            e.required(&at.child("restartPolicy"), "must specify restartPolicy when restart rules are used");
        }
        let name = container.text("name");
        if seen.contains(name) {
            e.duplicate(&at.child("name"), name);
        } else if !name.is_empty() {
            seen.insert(name);
        }
        host_ports(e, path, std::slice::from_ref(container));
        if sidecar {
            lifecycle_and_probes(e, &at, container, around);
        } else {
            for member in ["lifecycle", "livenessProbe", "readinessProbe", "startupProbe"] {
                if container.has(member) {
                    e.forbidden(&at.child(member), NOT_SIDECAR);
                }
            }
            for (nth, policy) in container.list("resizePolicy").iter().enumerate() {
                if policy.text("restartPolicy") == "RestartContainer" {
                    let detail = "must not be set to 'RestartContainer' for non-sidecar initContainers";
                    let field = at.child("resizePolicy").index(nth).child("restartPolicy");
                    e.invalid(&field, policy.text("restartPolicy"), detail);
                }
            }
        }
    }
}

pub fn ephemeral(e: &mut ErrorList, path: &Path, around: &Around<'_>) {
    const DETAIL: &str = "cannot be set for an Ephemeral Container";
    let spec = around.spec;
    let others: BTreeSet<&str> =
        spec.list("containers").iter().chain(spec.list("initContainers")).map(|c| c.text("name")).collect();
    let mut seen = others.clone();
    for (index, container) in spec.list("ephemeralContainers").iter().enumerate() {
        let at = path.index(index);
        common(e, &at, container, around);
        untrimmed_image(e, &at, container);
        if !seen.insert(container.text("name")) {
            e.duplicate(&at.child("name"), container.text("name"));
        }
        let target = container.text("targetContainerName");
        if !target.is_empty() && !others.contains(target) {
            e.not_found(&at.child("targetContainerName"), target);
        }
        for member in [
            "ports",
            "resources",
            "resizePolicy",
            "restartPolicy",
            "restartPolicyRules",
            "livenessProbe",
            "readinessProbe",
            "startupProbe",
            "lifecycle",
        ] {
            let value = container.at(member);
            let set = match value {
                Value::Null => false,
                Value::Array(items) => !items.is_empty(),
                Value::Object(map) => !(map.is_empty() && member == "resources"),
                _ => true,
            };
            if set {
                e.forbidden(&at.child(member), DETAIL);
            }
        }
        for (nth, mount) in container.list("volumeMounts").iter().enumerate() {
            for member in ["subPath", "subPathExpr"] {
                if !mount.text(member).is_empty() {
                    e.forbidden(&at.child("volumeMounts").index(nth).child(member), DETAIL);
                }
            }
        }
    }
}

/// What holds for pods only, not for templates.
pub fn untrimmed_image(e: &mut ErrorList, path: &Path, container: &Value) {
    let image = container.text("image");
    if image.trim().len() != image.len() {
        e.invalid(&path.child("image"), image, "must not have leading or trailing whitespace");
    }
}

fn common(e: &mut ErrorList, path: &Path, container: &Value, around: &Around<'_>) {
    let name = container.text("name");
    if e.need(&path.child("name"), name) {
        e.dns_label(&path.child("name"), name);
    }
    e.need(&path.child("image"), container.text("image"));
    let policies = ["File", "FallbackToLogsOnError"];
    e.one_of(&path.child("terminationMessagePolicy"), container.text("terminationMessagePolicy"), &policies);
    ports(e, &path.child("ports"), container.list("ports"));
    env(e, &path.child("env"), container.list("env"));
    env_from(e, &path.child("envFrom"), container.list("envFrom"));
    mounts(e, &path.child("volumeMounts"), container, around);
    devices(e, &path.child("volumeDevices"), container, around);
    let policies = ["Always", "IfNotPresent", "Never"];
    e.one_of(&path.child("imagePullPolicy"), container.text("imagePullPolicy"), &policies);
    resources::validate(e, &path.child("resources"), container.at("resources"), Some(&around.claims));
    resize_policy(e, &path.child("resizePolicy"), container, around.spec.text("restartPolicy"));
    let host_users = around.spec.at("hostUsers").as_bool().unwrap_or(true);
    security::container(e, &path.child("securityContext"), container.at("securityContext"), host_users);
}

fn ports(e: &mut ErrorList, path: &Path, ports: &[Value]) {
    let mut seen = BTreeSet::new();
    for (index, port) in ports.iter().enumerate() {
        let at = path.index(index);
        let name = port.text("name");
        if !name.is_empty() {
            let problems = rules::is_valid_port_name(name);
            if !problems.is_empty() {
                e.each(&at.child("name"), name, problems);
            } else if !seen.insert(name) {
                e.duplicate(&at.child("name"), name);
            }
        }
        match port.int("containerPort") {
            0 => e.required(&at.child("containerPort"), ""),
            number => e.port(&at.child("containerPort"), number),
        }
        if port.int("hostPort") != 0 {
            e.port(&at.child("hostPort"), port.int("hostPort"));
        }
        e.one_of(&at.child("protocol"), port.text("protocol"), &["SCTP", "TCP", "UDP"]);
    }
}

fn host_ports(e: &mut ErrorList, path: &Path, containers: &[Value]) {
    let mut seen = BTreeSet::new();
    for (index, container) in containers.iter().enumerate() {
        for (nth, port) in container.list("ports").iter().enumerate() {
            let number = port.int("hostPort");
            if number == 0 {
                continue;
            }
            let text = format!("{}/{}/{number}", port.text("protocol"), port.text("hostIP"));
            if seen.contains(&text) {
                e.duplicate(&path.index(index).child("ports").index(nth).child("hostPort"), text);
            } else {
                seen.insert(text);
            }
        }
    }
}

const ENV_FIELDS: &[&str] = &[
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];

fn env(e: &mut ErrorList, path: &Path, variables: &[Value]) {
    for (index, variable) in variables.iter().enumerate() {
        let at = path.index(index);
        let name = variable.text("name");
        if e.need(&at.child("name"), name) {
            e.each(&at.child("name"), name, rules::is_relaxed_env_var_name(name));
        }
        if variable.has("valueFrom") {
            value_from(e, &at.child("valueFrom"), variable);
        }
    }
}

fn value_from(e: &mut ErrorList, path: &Path, variable: &Value) {
    let from = variable.at("valueFrom");
    let mut sources = 0;
    if from.has("fieldRef") {
        sources += 1;
        field_ref(e, &path.child("fieldRef"), from.at("fieldRef"), ENV_FIELDS);
    }
    if from.has("resourceFieldRef") {
        sources += 1;
        resource_field_ref(e, &path.child("resourceFieldRef"), from.at("resourceFieldRef"), false);
    }
    for member in ["configMapKeyRef", "secretKeyRef"] {
        if from.has(member) {
            sources += 1;
            key_ref(e, &path.child(member), from.at(member));
        }
    }
    if from.has("fileKeyRef") {
        sources += 1;
        file_key_ref(e, &path.child("fileKeyRef"), from.at("fileKeyRef"));
    }
    if sources == 0 {
        let detail =
            "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`";
        e.invalid(path, "", detail);
    } else if !variable.text("value").is_empty() {
        e.invalid(path, "", "may not be specified when `value` is not empty");
    } else if sources > 1 {
        e.invalid(path, "", "may not have more than one field specified at a time");
    }
}

fn key_ref(e: &mut ErrorList, path: &Path, reference: &Value) {
    let name = reference.text("name");
    e.each(&path.child("name"), name, names::subdomain(name, false));
    let key = reference.text("key");
    if e.need(&path.child("key"), key) {
        e.each(&path.child("key"), key, rules::is_config_map_key(key));
    }
}

fn file_key_ref(e: &mut ErrorList, path: &Path, reference: &Value) {
    let (key, volume, file) = (reference.text("key"), reference.text("volumeName"), reference.text("path"));
    if e.need(&path.child("key"), key) {
        e.each(&path.child("key"), key, rules::is_relaxed_env_var_name(key));
    }
    if e.need(&path.child("volumeName"), volume) {
        e.dns_label(&path.child("volumeName"), volume);
    }
    if e.need(&path.child("path"), file) {
        no_backsteps(e, &path.child("path"), file);
    }
}

/// A field path of the downward API; `plain` are those without a subscript.
pub fn field_ref(e: &mut ErrorList, path: &Path, reference: &Value, plain: &[&str]) {
    const KNOWN: &[&str] = &[
        "metadata.annotations",
        "metadata.labels",
        "metadata.name",
        "metadata.namespace",
        "metadata.uid",
        "spec.nodeName",
        "spec.restartPolicy",
        "spec.serviceAccountName",
        "spec.schedulerName",
        "status.phase",
        "status.hostIP",
        "status.hostIPs",
        "status.podIP",
        "status.podIPs",
    ];
    if !e.need(&path.child("apiVersion"), reference.text("apiVersion")) {
        return;
    }
    let field = reference.text("fieldPath");
    if !e.need(&path.child("fieldPath"), field) {
        return;
    }
    let subscript = field.split_once("['").and_then(|(base, rest)| Some((base, rest.strip_suffix("']")?)));
    let known = match subscript {
        Some((base, _)) => matches!(base, "metadata.annotations" | "metadata.labels"),
        None => KNOWN.contains(&field) || field == "spec.host",
    };
    if reference.text("apiVersion") != "v1" {
        let detail = format!("error converting fieldPath: unsupported pod version: {}", reference.text("apiVersion"));
        e.invalid(&path.child("fieldPath"), field, detail);
        return;
    }
    if !known {
        let detail = format!("error converting fieldPath: field label not supported: {field}");
        e.invalid(&path.child("fieldPath"), field, detail);
        return;
    }
    match subscript {
        Some(("metadata.annotations", key)) => e.qualified_name(path, &key.to_lowercase()),
        Some((_, key)) => e.qualified_name(path, key),
        None if !plain.contains(&field) => e.not_supported(&path.child("fieldPath"), field, plain),
        None => {}
    }
}

/// A resource of a container in the downward API; in a volume it must say which container.
pub fn resource_field_ref(e: &mut ErrorList, path: &Path, reference: &Value, volume: bool) {
    const RESOURCES: &[&str] = &[
        "limits.cpu",
        "limits.ephemeral-storage",
        "limits.memory",
        "requests.cpu",
        "requests.ephemeral-storage",
        "requests.memory",
    ];
    let resource = reference.text("resource");
    let huge = resource.starts_with("requests.hugepages-") || resource.starts_with("limits.hugepages-");
    if volume && reference.text("containerName").is_empty() {
        e.required(&path.child("containerName"), "");
    } else if resource.is_empty() {
        e.required(&path.child("resource"), "");
    } else if !RESOURCES.contains(&resource) && !huge {
        e.not_supported(&path.child("resource"), resource, RESOURCES);
    }
    divisor(e, path, resource, reference.at("divisor"), huge);
}

fn divisor(e: &mut ErrorList, path: &Path, resource: &str, divisor: &Value, huge: bool) {
    const UNITS: &[&str] = &["1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei"];
    let Some(divisor) = quantity(divisor).filter(|divisor| !divisor.is_zero()) else { return };
    let text = divisor.to_string();
    let units = "1, 1k, 1M, 1G, 1T, 1P, 1E, 1Ki, 1Mi, 1Gi, 1Ti, 1Pi, 1Ei";
    let name = match resource.split_once('.') {
        Some((_, "cpu")) => {
            if !["1m", "1"].contains(&text.as_str()) {
                let detail = "only divisor's values 1m and 1 are supported with the cpu resource";
                e.invalid(&path.child("divisor"), resource, detail);
            }
            return;
        }
        Some((_, "memory")) => "memory",
        Some((_, "ephemeral-storage")) => "local ephemeral storage",
        _ if huge => "hugepages",
        _ => return,
    };
    if !UNITS.contains(&text.as_str()) {
        let detail = format!("only divisor's values {units} are supported with the {name} resource");
        e.invalid(&path.child("divisor"), resource, detail);
    }
}

fn env_from(e: &mut ErrorList, path: &Path, sources: &[Value]) {
    for (index, source) in sources.iter().enumerate() {
        let at = path.index(index);
        let prefix = source.text("prefix");
        if !prefix.is_empty() {
            e.each(&at.child("prefix"), prefix, rules::is_relaxed_env_var_name(prefix));
        }
        let mut count = 0;
        for member in ["configMapRef", "secretRef"] {
            if source.has(member) {
                count += 1;
                let name = source.at(member).text("name");
                if e.need(&at.child(member).child("name"), name) {
                    e.each(&at.child(member).child("name"), name, names::subdomain(name, true));
                }
            }
        }
        match count {
            0 => e.invalid(path, "", "must specify one of: `configMapRef` or `secretRef`"),
            1 => {}
            _ => e.invalid(path, "", "may not have more than one field specified at a time"),
        }
    }
}

fn mounts(e: &mut ErrorList, path: &Path, container: &Value, around: &Around<'_>) {
    let devices = container.list("volumeDevices");
    let mut points = BTreeSet::new();
    for (index, mount) in container.list("volumeMounts").iter().enumerate() {
        let at = path.index(index);
        let (name, point) = (mount.text("name"), mount.text("mountPath"));
        e.need(&at.child("name"), name);
        if !around.volumes.contains_key(name) {
            e.not_found(&at.child("name"), name);
        }
        e.need(&at.child("mountPath"), point);
        if !points.insert(point) {
            e.invalid(&at.child("mountPath"), point, "must be unique");
        }
        if devices.iter().any(|device| device.text("name") == name) {
            e.invalid(&at.child("name"), name, "must not already exist in volumeDevices");
        }
        if devices.iter().any(|device| device.text("devicePath") == point) {
            e.invalid(&at.child("mountPath"), point, "must not already exist as a path in volumeDevices");
        }
        let (sub, expression) = (mount.text("subPath"), mount.text("subPathExpr"));
        if !sub.is_empty() {
            descending(e, &path.child("subPath"), sub);
        }
        if !expression.is_empty() {
            if !sub.is_empty() {
                let detail = "subPathExpr and subPath are mutually exclusive";
                e.invalid(&at.child("subPathExpr"), expression, detail);
            }
            descending(e, &path.child("subPathExpr"), expression);
        }
        propagation(e, path, mount, container);
    }
}

fn propagation(e: &mut ErrorList, path: &Path, mount: &Value, container: &Value) {
    let at = path.child("mountPropagation");
    let mode = mount.opt_text("mountPropagation");
    e.one_of_set(&at, mode, &["Bidirectional", "HostToContainer", "None"]);
    if mode == Some("Bidirectional") && !container.flag("securityContext.privileged") {
        e.forbidden(&at, "Bidirectional mount propagation is available only to privileged containers");
    }
    let at = path.child("recursiveReadOnly");
    match mount.opt_text("recursiveReadOnly") {
        None | Some("Disabled") => {}
        Some("Enabled" | "IfPossible") => {
            if !mount.flag("readOnly") {
                e.forbidden(&at, "may only be specified when readOnly is true");
            }
            if mode.is_some_and(|mode| mode != "None") {
                e.forbidden(&at, "may only be specified when mountPropagation is None or not specified");
            }
        }
        Some(other) => e.not_supported(&at, other, &["Disabled", "Enabled", "IfPossible"]),
    }
}

fn devices(e: &mut ErrorList, path: &Path, container: &Value, around: &Around<'_>) {
    let mounts = container.list("volumeMounts");
    let (mut paths, mut seen) = (BTreeSet::new(), BTreeSet::new());
    for (index, device) in container.list("volumeDevices").iter().enumerate() {
        let at = path.index(index);
        let (name, device_path) = (device.text("name"), device.text("devicePath"));
        e.need(&at.child("name"), name);
        if seen.contains(name) {
            e.invalid(&at.child("name"), name, "must be unique");
        }
        match around.volumes.get(name) {
            None => e.not_found(&at.child("name"), name),
            Some(volume) if volume.has("persistentVolumeClaim") || volume.has("ephemeral") => {}
            Some(_) => {
                let detail = "can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode";
                e.invalid(&at.child("name"), name, detail);
            }
        }
        e.need(&at.child("devicePath"), device_path);
        if paths.contains(device_path) {
            e.invalid(&at.child("devicePath"), device_path, "must be unique");
        }
        if device_path.split('/').any(|part| part == "..") {
            e.invalid(&at.child("devicePath"), device_path, "can not contain backsteps ('..')");
        } else {
            paths.insert(device_path);
        }
        if mounts.iter().any(|mount| mount.text("name") == name) {
            e.invalid(&at.child("name"), name, "must not already exist in volumeMounts");
        }
        if mounts.iter().any(|mount| mount.text("mountPath") == device_path) {
            e.invalid(&at.child("devicePath"), device_path, "must not already exist as a path in volumeMounts");
        }
        if !name.is_empty() {
            seen.insert(name);
        }
    }
}

fn lifecycle_and_probes(e: &mut ErrorList, path: &Path, container: &Value, around: &Around<'_>) {
    let at = path.child("lifecycle");
    for member in ["postStart", "preStop"] {
        let hook = container.at("lifecycle").at(member);
        if !hook.is_null() {
            handler(e, &at.child(member), hook, &["exec", "httpGet", "tcpSocket", "sleep"], around.grace());
        }
    }
    if let Some(signal) = container.opt_text("lifecycle.stopSignal") {
        security::stop_signal(e, &at.child("stopSignal"), signal, around.spec);
    }
    for member in ["livenessProbe", "readinessProbe", "startupProbe"] {
        let found = container.at(member);
        if found.is_null() {
            continue;
        }
        let at = path.child(member);
        probe(e, &at, found, around.grace());
        if member != "readinessProbe" && found.int("successThreshold") != 1 {
            e.invalid(&at.child("successThreshold"), found.int("successThreshold"), "must be 1");
        }
        if member == "readinessProbe" && found.has("terminationGracePeriodSeconds") {
            let value = found.int("terminationGracePeriodSeconds");
            e.invalid(&at.child("terminationGracePeriodSeconds"), value, "must not be set for readinessProbes");
        }
    }
}

fn probe(e: &mut ErrorList, path: &Path, probe: &Value, grace: Option<i64>) {
    handler(e, path, probe, &["exec", "httpGet", "tcpSocket", "grpc"], grace);
    let numbers = ["initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"];
    e.non_negatives(path, probe, &numbers);
    if let Some(seconds) = probe.opt_int("terminationGracePeriodSeconds").filter(|seconds| *seconds <= 0) {
        e.invalid(&path.child("terminationGracePeriodSeconds"), seconds, "must be greater than 0");
    }
}

fn handler(e: &mut ErrorList, path: &Path, handler: &Value, kinds: &[&str], grace: Option<i64>) {
    let mut first = true;
    for kind in kinds {
        let action = handler.at(kind);
        if action.is_null() {
            continue;
        }
        let at = path.child(kind);
        if !first {
            e.forbidden(&at, "may not specify more than 1 handler type");
            continue;
        }
        first = false;
        match *kind {
            "exec" if action.list("command").is_empty() => e.required(&at.child("command"), ""),
            "httpGet" => http_get(e, &at, action),
            "tcpSocket" => e.port_or_name(&at.child("port"), action.at("port")),
            "grpc" => e.port(&at.child("port"), action.int("port")),
            "sleep" => {
                if let Some(grace) = grace.filter(|grace| !(0..=*grace).contains(&action.int("seconds"))) {
                    let detail = format!("must be non-negative and less than terminationGracePeriodSeconds ({grace})");
                    e.invalid(&at, action.int("seconds"), detail);
                }
            }
            _ => {}
        }
    }
    if first {
        e.required(path, "must specify a handler type");
    }
}

fn http_get(e: &mut ErrorList, path: &Path, action: &Value) {
    e.need(&path.child("path"), action.text("path"));
    e.port_or_name(&path.child("port"), action.at("port"));
    let scheme = action.text("scheme");
    if !["HTTP", "HTTPS"].contains(&scheme) {
        e.not_supported(&path.child("scheme"), scheme, &["HTTP", "HTTPS"]);
    }
    for header in action.list("httpHeaders") {
        let name = header.text("name");
        e.each(&path.child("httpHeaders"), name, rules::is_http_header_name(name));
    }
}

fn restart_policy(e: &mut ErrorList, path: &Path, container: &Value) {
    let rules = container.list("restartPolicyRules");
    match container.opt_text("restartPolicy") {
        None if !rules.is_empty() => {
            e.required(&path.child("restartPolicy"), "must specify restartPolicy when restart rules are used");
        }
        policy => e.one_of_set(&path.child("restartPolicy"), policy, &["Always", "Never", "OnFailure"]),
    }
    if rules.len() > 20 {
        e.add(Error::too_many(&path.child("restartPolicyRules"), rules.len() as i64, 20));
    }
    for (index, rule) in rules.iter().enumerate() {
        let at = path.child("restartPolicyRules").index(index);
        let action = rule.text("action");
        if !["Restart", "RestartAllContainers"].contains(&action) {
            e.not_supported(&at.child("action"), action, &["Restart", "RestartAllContainers"]);
        }
        let codes = rule.at("exitCodes");
        let at = at.child("exitCodes");
        if codes.is_null() {
            e.required(&at, "must be specified");
            continue;
        }
        if !["In", "NotIn"].contains(&codes.text("operator")) {
            e.not_supported(&at.child("operator"), codes.text("operator"), &["In", "NotIn"]);
        }
        if codes.list("values").len() > 255 {
            e.add(Error::too_many(&at.child("values"), codes.list("values").len() as i64, 255));
        }
    }
}

fn resize_policy(e: &mut ErrorList, path: &Path, container: &Value, pod_policy: &str) {
    let mut seen = BTreeSet::new();
    for (index, policy) in container.list("resizePolicy").iter().enumerate() {
        let resource = policy.text("resourceName");
        if !seen.insert(resource) {
            e.duplicate(&path.index(index), resource);
        }
        e.one_of(path, resource, &["cpu", "memory"]);
        let restart = policy.text("restartPolicy");
        e.one_of(path, restart, &["NotRequired", "RestartContainer"]);
        if pod_policy == "Never" && restart != "NotRequired" {
            e.invalid(path, restart, "must be 'NotRequired' when pod `restartPolicy` is 'Never'");
        }
    }
}
