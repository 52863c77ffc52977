//! Pods: the life of one (what a create, an update and each subresource may say), graceful deletion. What a spec may say
//! is in `core/podspec`, what a status may say in `status`, the table in `columns`.

mod columns;
mod status;

use std::collections::BTreeSet;

use serde_json::{Value, json};
use skeg_machinery::field::{ErrorList, Path};

use columns::{COLUMNS, cells};
use status::STATUS;

use super::podspec::{self, Pod, defaults};
use crate::builder::{Def, READ_WRITE};
use crate::check::Report;
use crate::columns::Table;
use crate::json::{Read, Write, same};
use crate::names;
use crate::rules::{Metadata, Part, Rules, annotation};
use crate::spec::{Context, ResourceSpec, Verb};

pub fn spec() -> ResourceSpec {
    use Verb::{Create, Delete, Get, Patch, Update};
    const STREAM: &[Verb] = &[Create, Get];
    Def::new("", "v1", "pods", "Pod")
        .short(&["po"])
        .categories(&["all"])
        .special("attach", STREAM, Some(("", "v1", "PodAttachOptions")))
        .special("binding", &[Create], Some(("", "v1", "Binding")))
        .part("ephemeralcontainers", READ_WRITE, EPHEMERAL)
        .special("eviction", &[Create], Some(("policy", "v1", "Eviction")))
        .special("exec", STREAM, Some(("", "v1", "PodExecOptions")))
        .special("log", &[Get], None)
        .special("portforward", STREAM, Some(("", "v1", "PodPortForwardOptions")))
        .special("proxy", &[Create, Delete, Get, Patch, Update], Some(("", "v1", "PodProxyOptions")))
        .part("resize", READ_WRITE, RESIZE)
        .status(STATUS)
        .fields(&[
            ("spec.nodeName", ""),
            ("spec.restartPolicy", ""),
            ("spec.schedulerName", ""),
            ("spec.serviceAccountName", ""),
            ("spec.hostNetwork", "false"),
            ("status.phase", ""),
            ("status.podIP", ""),
            ("status.nominatedNodeName", ""),
        ])
        .columns(Table { columns: COLUMNS, cells })
        .rules(RULES)
        .build()
}

const RULES: Rules = Rules {
    name: names::subdomain,
    defaults: |_, pod| defaults::pod(pod),
    create,
    check,
    check_update,
    warn,
    grace,
    pod_spec: "spec",
    metadata_checks: (1, 1),
    ..Rules::BASE
};

/// A new pod is warned of; nobody reads what an update is told.
fn warn(pod: &Value, old: Option<&Value>) -> Vec<String> {
    if old.is_some() {
        return Vec::new();
    }
    let mut warnings = Vec::new();
    let name = pod.text("metadata.name");
    let problems = names::label(name, false);
    if !name.is_empty() && !problems.is_empty() {
        warnings.push(format!(
            "metadata.name: this is used in the Pod's hostname, which can result in surprising behavior; a DNS \
             label is recommended: [{}]",
            problems.join(" ")
        ));
    }
    warnings.extend(podspec::warnings::pod(&Path::root(), pod));
    warnings
}

/// How long a pod has to end: what was asked for or what it says itself, nothing where no kubelet has it.
fn grace(pod: &Value, requested: Option<i64>) -> Option<i64> {
    let period = requested.unwrap_or_else(|| pod.int("spec.terminationGracePeriodSeconds"));
    let over = matches!(pod.text("status.phase"), "Failed" | "Succeeded");
    Some(match period {
        _ if pod.text("spec.nodeName").is_empty() || over => 0,
        ..0 => 1,
        period => period,
    })
}

fn create(ctx: &Context<'_>, pod: &mut Value) {
    pod.set("status", json!({"phase": "Pending", "qosClass": qos(pod.at("spec"))}));
    if !pod.list("spec.schedulingGates").is_empty() {
        let condition = json!({"type": "PodScheduled", "status": "False", "reason": "SchedulingGated",
            "lastTransitionTime": ctx.now.to_rfc3339_opts(chrono::SecondsFormat::Secs, true),
            "message": "Scheduling is blocked due to non-empty scheduling gates"});
        pod.set("status.conditions", json!([condition]));
    }
    let labels = pod.at("metadata.labels").clone();
    for kind in ["podAffinity", "podAntiAffinity"] {
        let required = format!("spec.affinity.{kind}.requiredDuringSchedulingIgnoredDuringExecution");
        pod.each(&required, |term| merge_label_keys(term, &labels));
        let preferred = format!("spec.affinity.{kind}.preferredDuringSchedulingIgnoredDuringExecution");
        pod.each(&preferred, |term| {
            if let Some(term) = term.at_mut("podAffinityTerm") {
                merge_label_keys(term, &labels);
            }
        });
    }
    pod.each("spec.topologySpreadConstraints", |term| merge_label_keys(term, &labels));
}

/// Makes matchLabelKeys and mismatchLabelKeys requirements of the term's selector (KEP-3633, KEP-3243).
fn merge_label_keys(term: &mut Value, labels: &Value) {
    if !term.has("labelSelector") {
        return;
    }
    let mut added = Vec::new();
    for (member, operator) in [("matchLabelKeys", "In"), ("mismatchLabelKeys", "NotIn")] {
        for key in term.texts(member) {
            if let Some(value) = labels.member("", key) {
                added.push(json!({"key": key, "operator": operator, "values": [value]}));
            }
        }
    }
    if !added.is_empty() {
        let mut all = term.list("labelSelector.matchExpressions").to_vec();
        all.extend(added);
        term.set("labelSelector.matchExpressions", all);
    }
}

/// The quality of service class of a PodSpec.
pub fn qos(spec: &Value) -> &'static str {
    let positive = |map: &Value, name: &str| {
        map.map("").and_then(|map| map.get(name)).and_then(crate::check::quantity).filter(|q| !q.is_zero())
    };
    let mut any = false;
    let mut guaranteed = true;
    let all: Vec<&Value> = if spec.has("resources") {
        vec![spec.at("resources")]
    } else {
        spec.list("containers").iter().chain(spec.list("initContainers")).map(|c| c.at("resources")).collect()
    };
    for of in all {
        for name in ["cpu", "memory"] {
            let (limit, request) = (positive(of.at("limits"), name), positive(of.at("requests"), name));
            any |= limit.is_some() || request.is_some();
            guaranteed &= limit.is_some() && request.is_none_or(|request| Some(request) == limit);
        }
    }
    match (any, guaranteed) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}

fn context(pod: &Value) -> Pod<'_> {
    let name = pod.opt_text("metadata.name").filter(|name| !name.is_empty());
    Pod { name, is_pod: true, mirror: annotation(pod, podspec::MIRROR).is_some() }
}

fn metadata_and_spec(pod: &Value) -> ErrorList {
    let mut e = ErrorList::new();
    podspec::annotations(&mut e, &Path::new("metadata").child("annotations"), pod);
    let path = Path::new("spec");
    podspec::spec(&mut e, &path, pod.at("spec"), context(pod));
    if pod.text("spec.serviceAccountName").is_empty() {
        for (index, volume) in pod.list("spec.volumes").iter().enumerate() {
            for (nth, source) in volume.list("projected.sources").iter().enumerate() {
                if source.has("serviceAccountToken") {
                    let at = path.child("volumes").index(index).child("projected").child("sources").index(nth);
                    let detail = "must not be specified when serviceAccountName is not set";
                    e.forbidden(&at.child("serviceAccountToken"), detail);
                }
            }
        }
    }
    for list in ["containers", "initContainers"] {
        for (index, container) in pod.at("spec").list(list).iter().enumerate() {
            podspec::containers::untrimmed_image(&mut e, &path.child(list).index(index), container);
        }
    }
    e
}

fn check(pod: &Value) -> ErrorList {
    let mut e = metadata_and_spec(pod);
    let path = Path::new("spec");
    if !pod.list("spec.ephemeralContainers").is_empty() {
        e.forbidden(&path.child("ephemeralContainers"), "cannot be set on create");
    }
    if !pod.text("spec.nodeName").is_empty() && !pod.list("spec.schedulingGates").is_empty() {
        e.forbidden(&path.child("nodeName"), "cannot be set until all schedulingGates have been cleared");
    }
    e
}

const CHANGEABLE: &str = "pod updates may not change fields other than `spec.containers[*].image`,\
`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),\
`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)\n";

fn check_update(pod: &Value, old: &Value) -> ErrorList {
    let mut e = metadata_and_spec(pod);
    annotation_changes(&mut e, pod, old);
    let path = Path::new("spec");
    for list in ["containers", "initContainers"] {
        let (new, old) = (pod.at("spec").list(list), old.at("spec").list(list));
        if new.len() != old.len() {
            e.forbidden(&path.child(list), "pod updates may not add or remove containers");
            return e;
        }
    }
    let faults = e.len();
    deadline_change(&mut e, &path, pod, old);
    if e.len() > faults {
        return e;
    }
    for toleration in old.list("spec.tolerations") {
        let mut plain = toleration.clone();
        plain.remove("tolerationSeconds");
        let kept = pod.list("spec.tolerations").iter().any(|new| {
            let mut new = new.clone();
            new.remove("tolerationSeconds");
            same(&new, &plain)
        });
        if !kept {
            let detail = "existing toleration can not be modified except its tolerationSeconds";
            e.forbidden(&path.child("tolerations"), detail);
        }
    }
    let gates: BTreeSet<&str> = old.list("spec.schedulingGates").iter().map(|gate| gate.text("name")).collect();
    for (index, gate) in pod.list("spec.schedulingGates").iter().enumerate() {
        let name = gate.text("name");
        if !gates.contains(name) {
            let detail = format!("only deletion is allowed, but found new scheduling gate '{name}'");
            e.forbidden(&path.child("schedulingGates").index(index).child("name"), detail);
        }
    }
    if same(pod.at("spec"), old.at("spec")) {
        return e;
    }
    let mut munged = pod.at("spec").clone();
    let before = old.at("spec");
    for list in ["containers", "initContainers"] {
        let images: Vec<String> = before.list(list).iter().map(|c| c.text("image").to_owned()).collect();
        let mut images = images.into_iter();
        munged.each(list, |container| container.set("image", images.next().unwrap_or_default()));
    }
    for field in ["activeDeadlineSeconds", "schedulingGates", "tolerations"] {
        munged.copy_from(field, before);
    }
    if before.int("terminationGracePeriodSeconds") < 0 && munged.int("terminationGracePeriodSeconds") == 1 {
        munged.copy_from("terminationGracePeriodSeconds", before);
    }
    if !gates.is_empty() {
        gated_changes(&mut e, &path, &mut munged, before);
    }
    if !same(&munged, before) {
        e.forbidden(&path, format!("{CHANGEABLE}{}", difference(before, &munged)));
    }
    e
}

/// Which members differ, for a human: the text is not an API.
pub fn difference(old: &Value, new: &Value) -> String {
    let mut lines = Vec::new();
    let keys: BTreeSet<&str> = old.entries("").chain(new.entries("")).map(|(key, _)| key).collect();
    for key in keys {
        let (a, b) = (old.at(key), new.at(key));
        if !same(a, b) {
            lines.push(format!("-  {key}: {a}\n+  {key}: {b}\n"));
        }
    }
    lines.concat()
}

fn deadline_change(e: &mut ErrorList, path: &Path, pod: &Value, old: &Value) {
    let at = path.child("activeDeadlineSeconds");
    let before = old.opt_int("spec.activeDeadlineSeconds");
    match pod.opt_int("spec.activeDeadlineSeconds") {
        Some(seconds) => {
            if !(0..=i64::from(i32::MAX)).contains(&seconds) {
                e.invalid(&at, seconds, "must be between 0 and 2147483647, inclusive");
            }
            if before.is_some_and(|before| before < seconds) {
                e.invalid(&at, seconds, "must be less than or equal to previous value");
            }
        }
        None if before.is_some() => {
            e.invalid(&at, Value::Null, "must not update from a positive integer to nil value");
        }
        None => {}
    }
}

/// A gated pod's node selection may get tighter.
fn gated_changes(e: &mut ErrorList, path: &Path, munged: &mut Value, before: &Value) {
    if !same(munged.at("nodeSelector"), before.at("nodeSelector")) {
        let kept =
            before.entries("nodeSelector").all(|(key, value)| munged.member("nodeSelector", key) == value.as_str());
        if !kept {
            let detail = "only additions to spec.nodeSelector are allowed (no mutations or deletions)";
            e.invalid(&path.child("nodeSelector"), munged.at("nodeSelector").clone(), detail);
        }
        munged.copy_from("nodeSelector", before);
    }
    let terms = "affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms";
    let (new_terms, old_terms) = (munged.list(terms).to_vec(), before.list(terms));
    let at = path
        .child("affinity")
        .child("nodeAffinity")
        .child("requiredDuringSchedulingIgnoredDuringExecution")
        .child("nodeSelectorTerms");
    if !old_terms.is_empty() && old_terms.len() != new_terms.len() {
        let detail = "no additions/deletions to non-empty NodeSelectorTerms list are allowed";
        e.invalid(&at, new_terms.clone(), detail);
    } else {
        for (index, (new, old)) in new_terms.iter().zip(old_terms).enumerate() {
            let starts = |member: &str| {
                let (new, old) = (new.list(member), old.list(member));
                new.len() >= old.len() && new.iter().zip(old).all(|(new, old)| same(new, old))
            };
            let was_empty = old.list("matchExpressions").is_empty() && old.list("matchFields").is_empty();
            let is_empty = new.list("matchExpressions").is_empty() && new.list("matchFields").is_empty();
            if (was_empty && !is_empty) || !starts("matchExpressions") || !starts("matchFields") {
                e.invalid(&at.index(index), new.clone(), "only additions are allowed (no mutations or deletions)");
            }
        }
    }
    munged.copy_from("affinity.nodeAffinity", before);
    if !before.has("affinity") && munged.map("affinity").is_some_and(serde_json::Map::is_empty) {
        munged.remove("affinity");
    }
}

fn annotation_changes(e: &mut ErrorList, pod: &Value, old: &Value) {
    const APP_ARMOR: &str = "container.apparmor.security.beta.kubernetes.io/";
    let path = Path::new("metadata").child("annotations");
    for (key, value) in old.entries("metadata.annotations") {
        if annotation(pod, key) == value.as_str() {
            continue;
        }
        if key.starts_with(APP_ARMOR) {
            e.forbidden(&path.key(key), "may not remove or update AppArmor annotations");
        }
        if key == podspec::MIRROR {
            e.forbidden(&path.key(key), "may not remove or update mirror pod annotation");
        }
    }
    for (key, _) in pod.entries("metadata.annotations").filter(|(key, _)| annotation(old, key).is_none()) {
        if key.starts_with(APP_ARMOR) {
            e.forbidden(&path.key(key), "may not add AppArmor annotations");
        }
        if key == podspec::MIRROR {
            e.forbidden(&path.key(key), "may not add mirror pod annotation");
        }
    }
}

const EPHEMERAL: Part = Part {
    open: &["spec"],
    metadata: Metadata::ForStatus,
    metadata_checks: (1, 1),
    resets: &[],
    prepare: |_, pod, old| {
        if let Some(spec) = pod.at_mut("spec") {
            defaults::drop_disabled(spec);
        }
        let containers = pod.at("spec.ephemeralContainers").clone();
        pod.copy_from("spec", old);
        if containers.is_null() {
            pod.remove("spec.ephemeralContainers");
        } else {
            pod.set("spec.ephemeralContainers", containers);
        }
    },
    check: |pod, old| {
        let mut e = metadata_and_spec(pod);
        if annotation(old, podspec::MIRROR).is_some() {
            e.clear();
            e.forbidden(&Path::root(), "static pods do not support ephemeral containers");
            return e;
        }
        let path = Path::new("spec").child("ephemeralContainers");
        for before in old.list("spec.ephemeralContainers") {
            let name = before.text("name");
            match pod.list("spec.ephemeralContainers").iter().find(|new| new.text("name") == name) {
                None => {
                    e.forbidden(&path, format!("existing ephemeral containers \"{name}\" may not be removed\n"));
                }
                Some(new) if !same(new, before) => {
                    let detail = format!(
                        "existing ephemeral containers \"{name}\" may not be changed\n{}",
                        difference(before, new)
                    );
                    e.forbidden(&path, detail);
                }
                Some(_) => {}
            }
        }
        e
    },
    ..Part::STATUS
};

const RESIZE: Part = Part {
    open: &["spec"],
    metadata: Metadata::ForStatus,
    metadata_checks: (1, 1),
    resets: &[],
    prepare: |_, pod, old| {
        for list in ["containers", "initContainers"] {
            let path = format!("spec.{list}");
            let (new, before) = (pod.list(&path), old.list(&path));
            let aligned = new.len() == before.len()
                && new.iter().zip(before).all(|(new, old)| new.text("name") == old.text("name"));
            if !aligned {
                return;
            }
        }
        let sent = pod.at("spec").clone();
        pod.copy_from("spec", old);
        pod.copy_from("spec.resources", &json!({ "spec": sent }));
        for list in ["containers", "initContainers"] {
            let mut new = sent.list(list).iter();
            pod.each(&format!("spec.{list}"), |container| {
                if let Some(new) = new.next() {
                    container.copy_from("resources", new);
                    container.copy_from("resizePolicy", new);
                }
            });
        }
    },
    check: check_resize,
    ..Part::STATUS
};

fn check_resize(pod: &Value, old: &Value) -> ErrorList {
    let mut e = metadata_and_spec(pod);
    let whole = |detail: &str| {
        let mut e = ErrorList::new();
        e.forbidden(&Path::root(), detail);
        e
    };
    if annotation(old, podspec::MIRROR).is_some() {
        return whole("static pods cannot be resized");
    }
    if old.text("spec.os.name") == "windows" {
        return whole("windows pods cannot be resized");
    }
    let path = Path::new("spec");
    let class = match old.text("status.qosClass") {
        "" => qos(old.at("spec")),
        class => class,
    };
    if class != qos(pod.at("spec")) {
        let detail = "Pod QOS Class may not change as a result of resizing";
        e.invalid(&path, pod.text("status.qosClass"), detail);
    }
    let running = old.list("status.containerStatuses").iter().find(|status| status.has("state.running"));
    if running.is_some_and(|status| !status.has("resources")) {
        e.forbidden(&path, "Pod running on node without support for resize");
    }
    let mut munged = pod.at("spec").clone();
    for (list, added, moved) in [
        (
            "containers",
            "containers may not be added or removed on resize",
            "containers may not be renamed or reordered on resize",
        ),
        (
            "initContainers",
            "initContainers may not be added or removed on resize",
            "initContainers may not be renamed or reordered on resize",
        ),
    ] {
        let (new, before) = (pod.at("spec").list(list), old.at("spec").list(list));
        if new.len() != before.len() {
            e.forbidden(&path.child(list), added);
            return e;
        }
        for (index, (new, before)) in new.iter().zip(before).enumerate() {
            let at = path.child(list).index(index);
            if new.text("name") != before.text("name") {
                e.forbidden(&at.child("name"), moved);
            }
            for (member, detail) in
                [("requests", "resource requests cannot be removed"), ("limits", "resource limits cannot be removed")]
            {
                let kept = before
                    .at("resources")
                    .entries(member)
                    .all(|(name, _)| new.at("resources").map(member).is_some_and(|map| map.contains_key(name)));
                if !kept {
                    e.forbidden(&at.child("resources").child(member), detail);
                }
            }
        }
        let mut before = before.iter();
        munged.each(list, |container| {
            if let Some(before) = before.next() {
                keep_compute(container, before);
                container.copy_from("resizePolicy", before);
            }
        });
    }
    keep_compute(&mut munged, old.at("spec"));
    if e.is_empty() && !same(&munged, old.at("spec")) {
        e.forbidden(&path, "only cpu and memory resources are mutable");
    }
    e
}

/// Puts cpu and memory back to what they were, so that what is left of a difference is what may not change.
fn keep_compute(holder: &mut Value, before: &Value) {
    for member in ["resources.requests", "resources.limits"] {
        for name in ["cpu", "memory"] {
            holder.copy_from(&format!("{member}.{name}"), before);
        }
    }
}
