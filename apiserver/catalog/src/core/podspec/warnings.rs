//! What is allowed in a pod or a pod template, and warned of (pkg/api/pod, warnings.go). Owns no refusal.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use skeg_machinery::field::Path;
use skeg_machinery::validation::is_valid_label_value;

use super::each_container;
use crate::check::quantity;
use crate::json::Read;
use crate::rules::annotation;

const NO_SELECTOR: &str = "a null labelSelector results in matching no pod";
const SECCOMP: &str = "non-functional in v1.27+; use the \"seccompProfile\" field instead";

/// Node labels that no selector should use any more.
const OLD_LABELS: &[(&str, &str)] = &[
    ("beta.kubernetes.io/arch", "deprecated since v1.14; use \"kubernetes.io/arch\" instead"),
    ("beta.kubernetes.io/os", "deprecated since v1.14; use \"kubernetes.io/os\" instead"),
    (
        "failure-domain.beta.kubernetes.io/region",
        "deprecated since v1.17; use \"topology.kubernetes.io/region\" instead",
    ),
    ("failure-domain.beta.kubernetes.io/zone", "deprecated since v1.17; use \"topology.kubernetes.io/zone\" instead"),
    ("beta.kubernetes.io/instance-type", "deprecated since v1.17; use \"node.kubernetes.io/instance-type\" instead"),
    ("app.kubernetes.io/created-by", "deprecated since v1.9"),
    ("scheduler.alpha.kubernetes.io/preferAvoidPods", "deprecated since v1.22; use Taints and Tolerations instead"),
    ("node-role.kubernetes.io/master", "use \"node-role.kubernetes.io/control-plane\" instead"),
];

const OLD_ANNOTATIONS: &[(&str, &str)] = &[
    (
        "scheduler.alpha.kubernetes.io/critical-pod",
        "non-functional in v1.16+; use the \"priorityClassName\" field instead",
    ),
    ("security.alpha.kubernetes.io/sysctls", "non-functional in v1.11+; use the \"sysctls\" field instead"),
    ("security.alpha.kubernetes.io/unsafe-sysctls", "non-functional in v1.11+; use the \"sysctls\" field instead"),
];

/// (member, name in the path, since when)
const OLD_VOLUMES: &[(&str, &str, &str)] = &[
    ("photonPersistentDisk", "photonPersistentDisk", "deprecated in v1.11, non-functional in v1.16+"),
    ("gitRepo", "gitRepo", "deprecated in v1.11, and disabled by default in v1.33+"),
    ("scaleIO", "scaleIO", "deprecated in v1.16, non-functional in v1.22+"),
    ("flocker", "flocker", "deprecated in v1.22, non-functional in v1.25+"),
    ("storageos", "storageOS", "deprecated in v1.22, non-functional in v1.25+"),
    ("quobyte", "quobyte", "deprecated in v1.22, non-functional in v1.25+"),
    ("glusterfs", "glusterfs", "deprecated in v1.25, non-functional in v1.26+"),
    ("cephfs", "cephfs", "deprecated in v1.28, non-functional in v1.31+"),
    ("rbd", "rbd", "deprecated in v1.28, non-functional in v1.31+"),
];

/// Warnings about a pod (`path` is the root) or a template.
pub fn pod(path: &Path, pod: &Value) -> Vec<String> {
    let mut out = Vec::new();
    let spec = pod.at("spec");
    let at = path.child("spec");
    node_labels(&mut out, &at, spec);
    for (index, constraint) in spec.list("topologySpreadConstraints").iter().enumerate() {
        let at = at.child("topologySpreadConstraints").index(index);
        let key = constraint.text("topologyKey");
        if let Some(problem) = old_label(key) {
            out.push(format!("{}: {key} is {problem}", at.child("topologyKey")));
        }
        no_selector(&mut out, &at, constraint);
    }
    for (key, problem) in OLD_ANNOTATIONS {
        if annotation(pod, key).is_some() {
            out.push(format!("{}: {problem}", path.child("metadata").child("annotations").key(key)));
        }
    }
    volumes(&mut out, &at, spec);
    repeated(&mut out, &at, spec);
    bytes(&mut out, &at.child("overhead"), spec.at("overhead"), &["memory", "ephemeral-storage"]);
    if !spec.has("securityContext.seccompProfile") {
        old_annotation(&mut out, path, pod, "seccomp.security.alpha.kubernetes.io/pod", SECCOMP);
    }
    each_container(spec, &at, |at, container| containers(&mut out, path, &at, pod, container));
    ports(&mut out, &at, spec);
    port_names(&mut out, &at, spec);
    if spec.int("terminationGracePeriodSeconds") < 0 {
        let at = at.child("terminationGracePeriodSeconds");
        out.push(format!("{at}: must be >= 0; negative values are invalid and will be treated as 1"));
    }
    affinity(&mut out, &at.child("affinity"), spec.at("affinity"));
    out
}

/// The warnings about a template, where the object is new or its generation moved.
pub fn template(path: &Path, template: &Value, object: &Value, old: Option<&Value>) -> Vec<String> {
    let still = old.is_some_and(|old| old.int("metadata.generation") == object.int("metadata.generation"));
    if still || template.is_null() { Vec::new() } else { pod(path, template) }
}

fn old_label(key: &str) -> Option<&'static str> {
    OLD_LABELS.iter().find(|(old, _)| *old == key).map(|(_, problem)| *problem)
}

/// A node selector term; `values`: whether the values are looked at too.
pub fn node_term(out: &mut Vec<String>, path: &Path, term: &Value, values: bool) {
    for (index, expression) in term.list("matchExpressions").iter().enumerate() {
        let at = path.child("matchExpressions").index(index);
        let key = expression.text("key");
        if let Some(problem) = old_label(key) {
            out.push(format!("{}: {key} is {problem}", at.child("key")));
        }
        for (nth, value) in expression.texts("values").into_iter().enumerate().filter(|_| values) {
            for problem in is_valid_label_value(value) {
                out.push(format!("{}: {value} is invalid, {problem}", at.child("values").index(nth)));
            }
        }
    }
}

fn node_labels(out: &mut Vec<String>, path: &Path, spec: &Value) {
    for (key, _) in spec.entries("nodeSelector") {
        if let Some(problem) = old_label(key) {
            out.push(format!("{}: {problem}", path.child("nodeSelector").key(key)));
        }
    }
    let at = path.child("affinity").child("nodeAffinity");
    let node = spec.at("affinity.nodeAffinity");
    let required = "requiredDuringSchedulingIgnoredDuringExecution";
    for (index, term) in node.at(required).list("nodeSelectorTerms").iter().enumerate() {
        node_term(out, &at.child(required).child("nodeSelectorTerms").index(index), term, false);
    }
    let preferred = "preferredDuringSchedulingIgnoredDuringExecution";
    for (index, term) in node.list(preferred).iter().enumerate() {
        node_term(out, &at.child(preferred).index(index).child("preference"), term.at("preference"), true);
    }
}

fn no_selector(out: &mut Vec<String>, path: &Path, term: &Value) {
    if !term.has("labelSelector") {
        out.push(format!("{}: {NO_SELECTOR}", path.child("labelSelector")));
    }
}

fn affinity(out: &mut Vec<String>, path: &Path, affinity: &Value) {
    for kind in ["podAffinity", "podAntiAffinity"] {
        let required = "requiredDuringSchedulingIgnoredDuringExecution";
        for (index, term) in affinity.at(kind).list(required).iter().enumerate() {
            no_selector(out, &path.child(kind).child(required).index(index), term);
        }
        let preferred = "preferredDuringSchedulingIgnoredDuringExecution";
        for (index, term) in affinity.at(kind).list(preferred).iter().enumerate() {
            let at = path.child(kind).child(preferred).index(index).child("podAffinityTerm");
            no_selector(out, &at, term.at("podAffinityTerm"));
        }
    }
}

fn volumes(out: &mut Vec<String>, path: &Path, spec: &Value) {
    for (index, volume) in spec.list("volumes").iter().enumerate() {
        let at = path.child("volumes").index(index);
        for (member, shown, since) in OLD_VOLUMES {
            if *member == "cephfs" && volume.has("ephemeral.volumeClaimTemplate") {
                let at = at.child("ephemeral").child("volumeClaimTemplate").child("spec");
                claim(out, &at, volume.at("ephemeral.volumeClaimTemplate.spec"));
            }
            if volume.has(member) {
                out.push(format!("{}: {since}", at.child(shown)));
            }
        }
    }
}

/// A claim's spec: bytes come whole.
pub fn claim(out: &mut Vec<String>, path: &Path, spec: &Value) {
    for list in ["requests", "limits"] {
        let at = path.child("resources").child(list);
        bytes(out, &at, spec.at("resources").at(list), &["storage"]);
    }
}

fn bytes(out: &mut Vec<String>, path: &Path, amounts: &Value, names: &[&str]) {
    for name in names {
        if let Some(amount) = quantity(amounts.at(name)).filter(|amount| amount.milli_value() % 1000 != 0) {
            let problem = format!("fractional byte value \"{amount}\" is invalid, must be an integer");
            out.push(format!("{}: {problem}", path.key(name)));
        }
    }
}

fn repeated(out: &mut Vec<String>, path: &Path, spec: &Value) {
    for (list, member) in [("hostAliases", "ip"), ("imagePullSecrets", "name")] {
        let mut seen = BTreeSet::new();
        for (index, item) in spec.list(list).iter().enumerate() {
            let value = item.text(member);
            if !seen.insert(value) {
                out.push(format!("{}: duplicate {member} {value:?}", path.child(list).index(index).child(member)));
            }
        }
    }
    for (index, secret) in spec.list("imagePullSecrets").iter().enumerate() {
        if secret.text("name").is_empty() {
            let at = path.child("imagePullSecrets").index(index).child("name");
            out.push(format!("{at}: invalid empty name \"\""));
        }
    }
}

fn old_annotation(out: &mut Vec<String>, path: &Path, pod: &Value, key: &str, problem: &str) {
    if annotation(pod, key).is_some() {
        out.push(format!("{}: {problem}", path.child("metadata").child("annotations").key(key)));
    }
}

fn containers(out: &mut Vec<String>, path: &Path, at: &Path, pod: &Value, container: &Value) {
    let name = container.text("name");
    if !container.has("securityContext.seccompProfile") {
        let key = format!("container.seccomp.security.alpha.kubernetes.io/{name}");
        old_annotation(out, path, pod, &key, SECCOMP);
    }
    // A pod's annotation is made a field elsewhere.
    let template = !path.as_str().is_empty();
    if template && !container.has("securityContext.appArmorProfile") {
        let key = format!("container.apparmor.security.beta.kubernetes.io/{name}");
        let profile = pod.at("spec.securityContext.appArmorProfile");
        if annotation(pod, &key).is_some_and(|value| !profile_is(profile, value)) {
            let problem = "deprecated since v1.30; use the \"appArmorProfile\" field instead";
            old_annotation(out, path, pod, &key, problem);
        }
    }
    for name in ["memory", "ephemeral-storage"] {
        for list in ["limits", "requests"] {
            let amounts = container.at("resources").at(list);
            bytes(out, &at.child("resources").child(list), amounts, &[name]);
        }
    }
    environment(out, at, container);
}

/// Whether an AppArmor annotation says what the pod's field says.
fn profile_is(profile: &Value, annotation: &str) -> bool {
    match annotation {
        "unconfined" => profile.text("type") == "Unconfined",
        "runtime/default" => profile.text("type") == "RuntimeDefault",
        other => other.strip_prefix("localhost/").is_some_and(|name| {
            profile.text("type") == "Localhost" && profile.text("localhostProfile") == name && !name.is_empty()
        }),
    }
}

/// A variable that is set twice may build on its first value, and nothing else.
fn environment(out: &mut Vec<String>, path: &Path, container: &Value) {
    let mut seen = BTreeSet::new();
    for (index, item) in container.list("env").iter().enumerate() {
        let (name, value) = (item.text("name"), item.text("value"));
        if seen.insert(name) {
            continue;
        }
        let own = format!("$({name})");
        if item.has("valueFrom") || value == own || !value.contains(&own) {
            let at = path.child("env").index(index);
            out.push(format!("{at}: hides previous definition of {name:?}, which may be dropped when using apply"));
        }
    }
}

/// How Go shows a ContainerPort.
fn shown_port(port: &Value) -> String {
    format!(
        "{{Name:{} HostPort:{} ContainerPort:{} Protocol:{} HostIP:{}}}",
        port.text("name"),
        port.int("hostPort"),
        port.int("containerPort"),
        port.text("protocol"),
        port.text("hostIP")
    )
}

fn ports(out: &mut Vec<String>, path: &Path, spec: &Value) {
    let mut all: BTreeMap<(i64, &str), Vec<(Path, &Value)>> = BTreeMap::new();
    each_container(spec, path, |at, container| {
        for (index, port) in container.list("ports").iter().enumerate() {
            let at = at.child("ports").index(index);
            if !port.text("hostIP").is_empty() && port.int("hostPort") == 0 {
                out.push(format!("{at}: hostIP set without hostPort: {}", shown_port(port)));
            }
            let others = all.entry((port.int("containerPort"), port.text("protocol"))).or_default();
            for (other_at, other) in &*others {
                if let Some(problem) = overlap(port, other) {
                    out.push(format!("{at}: {problem} port definition with {other_at}"));
                }
            }
            others.push((at, port));
        }
    });
}

fn overlap(port: &Value, other: &Value) -> Option<&'static str> {
    let (host, other_host) = (port.int("hostPort"), other.int("hostPort"));
    let (ip, other_ip) = (port.text("hostIP"), other.text("hostIP"));
    if ip == other_ip && host == other_host {
        Some("duplicate")
    } else if host == 0 || other_host == 0 {
        Some("overlapping")
    } else if host == other_host && ip.is_empty() != other_ip.is_empty() {
        Some("dangerously ambiguous")
    } else {
        None
    }
}

fn port_names(out: &mut Vec<String>, path: &Path, spec: &Value) {
    let mut all: BTreeMap<&str, Path> = BTreeMap::new();
    each_container(spec, path, |at, container| {
        for (index, port) in container.list("ports").iter().enumerate() {
            let (at, name) = (at.child("ports").index(index), port.text("name"));
            if name.is_empty() {
                continue;
            }
            match all.get(name) {
                Some(other) => out.push(format!(
                    "{at}: duplicate port name {name:?} with {other}, services and probes that select ports by name \
                     will use {other}"
                )),
                None => {
                    all.insert(name, at);
                }
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_a_template_is_warned_of() {
        let template = json!({"spec": {
            "terminationGracePeriodSeconds": -1,
            "imagePullSecrets": [{}],
            "containers": [{"name": "a", "env": [{"name": "X", "value": "1"}, {"name": "X", "value": "2"}],
                "ports": [{"name": "http", "containerPort": 80, "protocol": "TCP", "hostIP": "::1"}]}],
            "affinity": {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [{"topologyKey": "a"}]}},
        }});
        let object = json!({"metadata": {"generation": 1}});
        let found = super::template(&Path::new("template"), &template, &object, None);
        assert_eq!(
            found,
            [
                "template.spec.imagePullSecrets[0].name: invalid empty name \"\"",
                "template.spec.containers[0].env[1]: hides previous definition of \"X\", which may be dropped when \
                 using apply",
                "template.spec.containers[0].ports[0]: hostIP set without hostPort: {Name:http HostPort:0 \
                 ContainerPort:80 Protocol:TCP HostIP:::1}",
                "template.spec.terminationGracePeriodSeconds: must be >= 0; negative values are invalid and will be \
                 treated as 1",
                "template.spec.affinity.podAffinity.requiredDuringSchedulingIgnoredDuringExecution[0].labelSelector: \
                 a null labelSelector results in matching no pod",
            ]
        );
        assert!(super::template(&Path::new("template"), &template, &object, Some(&object)).is_empty());
    }
}
