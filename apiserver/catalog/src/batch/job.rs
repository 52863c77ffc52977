//! Jobs.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use skeg_machinery::field::{Error, ErrorList, Path};
use skeg_machinery::validation as rules;

use super::job_spec::{self, parse_indexes};
use crate::apps::{mismatch, name_warning};
use crate::builder::Def;
use crate::check::{IMMUTABLE, Report, selects};
use crate::columns::{self, AGE, NAME, Row, Table, condition_true, containers, human, name, text, time, wide};
use crate::json::{Read, Write, same};
use crate::rules::{Part, Rules};
use crate::spec::{GcPolicy, ResourceSpec};

const NAME_LABELS: [&str; 2] = ["job-name", "batch.kubernetes.io/job-name"];
const UID_LABELS: [&str; 2] = ["controller-uid", "batch.kubernetes.io/controller-uid"];

pub fn spec() -> ResourceSpec {
    Def::new("batch", "v1", "jobs", "Job")
        .categories(&["all"])
        .status(Part { prepare: |_, job, _| own_labels(job), ..Part::status(check_status) })
        .fields(&[])
        .unknown_field(|label| format!("field label {label:?} not supported for Job"))
        .computed_field("status.successful", |job| job.int("status.succeeded").to_string())
        .columns(Table {
            columns: const {
                &[
                    NAME,
                    text("Status"),
                    text("Completions"),
                    text("Duration"),
                    AGE,
                    wide("Containers"),
                    wide("Images"),
                    wide("Selector"),
                ]
            },
            cells,
        })
        .rules(Rules {
            defaults: |_, job| {
                if !job.has("spec") {
                    job.set("spec", json!({}));
                }
                if let Some(spec) = job.at_mut("spec") {
                    job_spec::set_defaults(spec);
                }
                if job.has("metadata.uid") {
                    own_labels(job);
                }
            },
            create: |_, job| {
                job.set("status", json!({}));
                let labeled = job.has("spec.template.metadata.labels");
                if !job.flag("spec.manualSelector") {
                    generate_selector(job);
                }
                if labeled {
                    own_labels(job);
                }
            },
            late_defaults: Some(own_labels),
            update: |_, job, _| own_labels(job),
            check: |job| check(job, true),
            check_update,
            warn: |job, old| {
                let mut all = name_warning(job, old);
                all.extend(job_spec::warnings(&Path::new("spec"), job.at("spec"), job, old));
                all
            },
            gc: GcPolicy::Orphan,
            delete_warning: Some(
                "child pods are preserved by default when jobs are deleted; set propagationPolicy=Background to remove \
                 them or set propagationPolicy=Orphan to suppress this warning",
            ),
            pod_spec: "spec.template.spec",
            metadata_checks: (1, 0),
            ..Rules::BASE
        })
        .build()
}

/// A job without labels has those of its pods. Upstream has that as a default of decoding, by which both are one map: what is
/// generated for the pods is the job's too, and is its own only when it is read where its pods had no labels before.
fn own_labels(job: &mut Value) {
    let labels = job.at("spec.template.metadata.labels").clone();
    if !labels.is_null() && job.entries("metadata.labels").count() == 0 {
        job.set("metadata.labels", labels);
    }
}

/// Labels and a selector that no other job has.
fn generate_selector(job: &mut Value) {
    let (own, uid) = (job.text("metadata.name").to_owned(), job.text("metadata.uid").to_owned());
    let mut labels = job.map("spec.template.metadata.labels").cloned().unwrap_or_default();
    for (keys, value) in [(NAME_LABELS, &own), (UID_LABELS, &uid)] {
        for key in keys {
            labels.entry(key).or_insert_with(|| value.clone().into());
        }
    }
    job.set("spec.template.metadata.labels", labels);
    let mut selector = job.map("spec.selector.matchLabels").cloned().unwrap_or_default();
    selector.entry(UID_LABELS[1]).or_insert_with(|| uid.into());
    job.set("spec.selector.matchLabels", selector);
}

fn check(job: &Value, prefixed: bool) -> ErrorList {
    let mut e = ErrorList::new();
    let path = Path::new("spec");
    let spec = job.at("spec");
    generated(&mut e, job, prefixed);
    job_spec::check(&mut e, &path, spec);
    if spec.at("selector").is_null() {
        e.required(&path.child("selector"), "");
    } else {
        e.selector(&path.child("selector"), spec.at("selector"));
    }
    let labels = spec.at("template.metadata.labels");
    if selects(spec.at("selector"), labels) == Some(false) {
        mismatch(&mut e, &path.child("template"), labels);
    }
    if spec.text("completionMode") == "Indexed" && spec.int("completions") > 0 {
        let own = job.text("metadata.name");
        let longest = format!("{own}-{}", spec.int("completions") - 1);
        if !rules::is_dns1123_label(&longest).is_empty() {
            let detail = format!("will not able to create pod with invalid DNS label: {longest}");
            e.invalid(&Path::new("metadata").child("name"), own, detail);
        }
    }
    e
}

fn generated(e: &mut ErrorList, job: &Value, prefixed: bool) {
    if job.flag("spec.manualSelector") || !job.has("spec.selector") {
        return;
    }
    let (own, uid) = (job.text("metadata.name"), job.text("metadata.uid"));
    e.need(&Path::new("metadata").child("uid"), uid);
    let at = Path::new("spec").child("template").child("metadata").child("labels");
    let labels = job.at("spec.template.metadata.labels");
    let mut expected = serde_json::Map::new();
    for index in 0..if prefixed { 2 } else { 1 } {
        for (key, value) in [(UID_LABELS[index], uid), (NAME_LABELS[index], own)] {
            match labels.member("", key) {
                None => e.required(&at.key(key), &format!("must be '{value}'")),
                Some(found) if found != value => {
                    e.invalid(&at.key(key), labels.clone(), format!("must be '{value}'"));
                }
                Some(_) => {}
            }
            expected.insert(key.into(), value.into());
        }
    }
    let selector = job.at("spec.selector");
    if selects(selector, &Value::Object(expected)) == Some(false) {
        e.invalid(&Path::new("spec").child("selector"), selector.clone(), "`selector` not auto-generated");
    }
}

fn check_update(job: &Value, old: &Value) -> ErrorList {
    let labels = old.at("spec.template.metadata.labels");
    let prefixed = [NAME_LABELS[1], UID_LABELS[1]].iter().all(|key| labels.member("", key).is_some());
    let mut e = check(job, prefixed);
    // The second look at how ObjectMeta changed comes after the whole job.
    e.all(rules::object_meta_update(job.at("metadata"), old.at("metadata"), &Path::new("metadata")));
    let path = Path::new("spec");
    let (spec, before) = (job.at("spec"), old.at("spec"));
    if spec.text("completionMode") != "Indexed" {
        e.immutable(&path.child("completions"), spec.at("completions"), before.at("completions"));
    } else if !same(spec.at("completions"), before.at("completions"))
        && spec.has("completions")
        && spec.int("completions") != spec.int("parallelism")
    {
        let detail = "can only be modified in tandem with spec.parallelism";
        e.invalid(&path.child("completions"), spec.int("completions"), detail);
    }
    e.immutable(&path.child("selector"), spec.at("selector"), before.at("selector"));
    template_change(&mut e, &path.child("template"), job, old);
    for member in ["completionMode", "podFailurePolicy", "backoffLimitPerIndex", "managedBy", "successPolicy"] {
        e.immutable(&path.child(member), spec.at(member), before.at(member));
    }
    e
}

/// The template is fixed, but for where and with what a suspended job that has no pods will run.
fn template_change(e: &mut ErrorList, path: &Path, job: &Value, old: &Value) {
    let (new, mut before) = (job.at("spec.template"), old.at("spec.template").clone());
    let suspended = old.flag("spec.suspend");
    let stopped = !old.has("status.startTime") || condition_true(old, "status.conditions", "Suspended");
    let open = suspended && stopped && old.int("status.active") == 0;
    if open {
        for member in [
            "spec.affinity.nodeAffinity",
            "spec.nodeSelector",
            "spec.tolerations",
            "metadata.annotations",
            "metadata.labels",
            "spec.schedulingGates",
        ] {
            before.copy_from(member, new);
        }
        for list in ["spec.containers", "spec.initContainers"] {
            let mut found = new.list(list).iter();
            before.each(list, |container| {
                if let Some(new) = found.next().filter(|new| new.text("name") == container.text("name")) {
                    container.copy_from("resources", new);
                }
            });
        }
    }
    if !same(new, &before) {
        let at = if open { Path::new("spec").child("template.spec") } else { path.clone() };
        let value = if open { new.at("spec").clone() } else { new.clone() };
        e.invalid(&at, value, IMMUTABLE);
    }
}

fn plain(e: &mut ErrorList, path: &Path, detail: &str) {
    let mut error = Error::invalid(path, Value::Null, detail);
    error.value = None;
    e.add(error);
}

/// The status rules hold where an update makes a status break them; one that was broken before may stay.
fn check_status(job: &Value, old: &Value) -> ErrorList {
    let mut e = ErrorList::new();
    let path = Path::new("status");
    let status = job.at("status");
    let before = old.at("status");
    e.non_negatives(&path, status, &["active", "succeeded", "failed", "ready", "terminating"]);
    uncounted_pods(&mut e, &path.child("uncountedTerminatedPods"), status.at("uncountedTerminatedPods"));
    let is = |job: &Value, kind: &str| condition_true(job, "status.conditions", kind);
    let conditions = path.child("conditions");
    let (complete, failed) = (is(job, "Complete"), is(job, "Failed"));
    let finished = complete || failed;
    let met = is(job, "SuccessCriteriaMet");
    if !same(status.at("conditions"), before.at("conditions")) {
        if complete && failed {
            plain(&mut e, &conditions, "cannot set Complete=True and Failed=true conditions");
        }
        if complete && is(job, "FailureTarget") {
            plain(&mut e, &conditions, "cannot set Complete=True and FailureTarget=true conditions");
        }
        if failed && !is(job, "FailureTarget") && !is(old, "Failed") {
            plain(&mut e, &conditions, "cannot set Failed=True condition without the FailureTarget=true condition");
        }
        if complete && !met && !is(old, "Complete") {
            let detail = "cannot set Complete=True condition without the SuccessCriteriaMet=true condition";
            plain(&mut e, &conditions, detail);
        }
        for kind in ["Failed", "Complete", "FailureTarget"] {
            if is(old, kind) && !is(job, kind) {
                plain(&mut e, &conditions, &format!("cannot disable the terminal {kind}=True condition"));
            }
        }
        if is(old, "SuccessCriteriaMet") && !met {
            plain(&mut e, &conditions, "cannot disable the SuccessCriteriaMet=True condition");
        }
    }
    if met && failed {
        plain(&mut e, &conditions, "cannot set SuccessCriteriaMet=True and Failed=true conditions");
    }
    if met && is(job, "FailureTarget") {
        plain(&mut e, &conditions, "cannot set SuccessCriteriaMet=True and FailureTarget=true conditions");
    }
    status_times(&mut e, &path, job, old, complete);
    if finished && !is(old, "Complete") && !is(old, "Failed") {
        if status.int("active") > 0 {
            e.invalid(&path.child("active"), status.int("active"), "active>0 is invalid for finished job");
        }
        if !status.has("startTime") {
            e.required(&path.child("startTime"), "startTime is required for finished job");
        }
        if status.int("terminating") > 0 {
            let value = status.int("terminating");
            e.invalid(&path.child("terminating"), value, "terminating>0 is invalid for finished job");
        }
        let uncounted = status.at("uncountedTerminatedPods");
        if !uncounted.list("succeeded").is_empty() || !uncounted.list("failed").is_empty() {
            let at = path.child("uncountedTerminatedPods");
            e.invalid(&at, uncounted.clone(), "must be empty for finished job");
        }
    }
    status_indexes(&mut e, &path, job, old);
    for (member, detail) in
        [("failed", "cannot decrease the failed counter"), ("succeeded", "cannot decrease the succeeded counter")]
    {
        if status.int(member) < before.int(member) && !old.flag("spec.suspend") {
            e.invalid(&path.child(member), status.int(member), detail);
        }
    }
    if status.opt_int("ready").is_some_and(|ready| ready > status.int("active")) && !same(status, before) {
        e.invalid(&path.child("ready"), status.int("ready"), "cannot set more ready pods than active");
    }
    e
}

/// Each pod is waiting to be counted once.
fn uncounted_pods(e: &mut ErrorList, path: &Path, uncounted: &Value) {
    let mut seen = BTreeSet::new();
    for member in ["succeeded", "failed"] {
        let at = path.child(member);
        for (index, uid) in uncounted.texts(member).into_iter().enumerate() {
            if uid.is_empty() {
                e.invalid(&at.index(index), uid, "must not be empty");
            } else if !seen.insert(uid) {
                e.duplicate(&at.index(index), uid);
            }
        }
    }
}

fn status_times(e: &mut ErrorList, path: &Path, job: &Value, old: &Value, complete: bool) {
    let (status, before) = (job.at("status"), old.at("status"));
    let at = path.child("completionTime");
    let done = status.at("completionTime");
    if !same(done, before.at("completionTime")) {
        if !done.is_null() && !complete {
            e.invalid(&at, done.clone(), "cannot set completionTime when there is no Complete=True condition");
        }
        if before.has("completionTime") && !done.is_null() {
            e.invalid(&at, done.clone(), IMMUTABLE);
        }
        let (start, end) = (time(status.text("startTime")), time(status.text("completionTime")));
        if start.zip(end).is_some_and(|(start, end)| end < start) {
            e.invalid(&at, done.clone(), "must be equal to or after `startTime`");
        }
    }
    if done.is_null() && complete && !condition_true(old, "status.conditions", "Complete") {
        e.required(&at, "completionTime is required for Complete jobs");
    }
    if before.has("startTime") && !same(status.at("startTime"), before.at("startTime")) && !job.flag("spec.suspend") {
        let detail = "field is immutable for unsuspended job once set";
        e.invalid(&path.child("startTime"), status.at("startTime").clone(), detail);
    }
}

fn status_indexes(e: &mut ErrorList, path: &Path, job: &Value, old: &Value) {
    let status = job.at("status");
    let indexed = job.text("spec.completionMode") == "Indexed";
    for (member, detail) in [
        ("completedIndexes", "cannot set non-empty completedIndexes when non-indexed completion mode"),
        ("failedIndexes", "cannot set non-null failedIndexes when backoffLimitPerIndex is null"),
    ] {
        let Some(indexes) = status.opt_text(member) else { continue };
        if old.at("status").opt_text(member) == Some(indexes) {
            continue;
        }
        let at = path.child(member);
        let per_index = job.has("spec.backoffLimitPerIndex");
        let (unfit, parsed) = match member {
            "completedIndexes" => (!indexes.is_empty() && !indexed, true),
            _ => (!per_index, per_index),
        };
        if parsed
            && job.has("spec.completions")
            && let Err(problem) = parse_indexes(indexes, job.int("spec.completions"))
        {
            e.invalid(&at, indexes, format!("error parsing {member}: {problem}"));
        }
        if unfit {
            e.invalid(&at, indexes, detail);
        }
    }
}

fn cells(job: &Value, row: &Row) -> Vec<Value> {
    let succeeded = job.int("status.succeeded");
    let completions = match (job.opt_int("spec.completions"), job.int("spec.parallelism")) {
        (Some(completions), _) => format!("{succeeded}/{completions}"),
        (None, parallelism) if parallelism > 1 => format!("{succeeded}/1 of {parallelism}"),
        (None, _) => format!("{succeeded}/1"),
    };
    let (start, end) = (time(job.text("status.startTime")), time(job.text("status.completionTime")));
    let duration = start.map_or(String::new(), |start| human(end.unwrap_or(row.now) - start));
    let is = |kind: &str| condition_true(job, "status.conditions", kind);
    let status = if is("Complete") {
        "Complete"
    } else if is("Failed") {
        "Failed"
    } else if job.has("metadata.deletionTimestamp") {
        "Terminating"
    } else {
        ["Suspended", "FailureTarget", "SuccessCriteriaMet"].into_iter().find(|kind| is(kind)).unwrap_or("Running")
    };
    let [names, images] = containers(job, "spec.template.spec");
    vec![
        name(job),
        status.into(),
        completions.into(),
        duration.into(),
        row.age(job),
        names,
        images,
        columns::selector(job.at("spec.selector")).into(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::{fixture, named, with_context};

    /// What validation sees of a new job.
    fn prepared(change: impl Fn(&mut Value)) -> Value {
        let spec = named("jobs.batch");
        let mut job = fixture(&spec);
        job.remove("metadata.uid");
        change(&mut job);
        spec.strategy.default("v1", &mut job);
        job.set("metadata.uid", "u");
        with_context(|ctx| spec.strategy.prepare_for_create(ctx, &mut job));
        job
    }

    fn labels(job: &Value) -> Vec<&str> {
        job.entries("metadata.labels").map(|(key, _)| key).collect()
    }

    #[test]
    fn a_job_has_the_labels_of_its_pods_and_what_is_generated_last_where_they_had_none() {
        let mut plain = prepared(|_| {});
        assert_eq!(labels(&plain), [""; 0], "nothing that validation could tell twice");
        own_labels(&mut plain);
        assert_eq!(labels(&plain).len(), 4);

        let shared = prepared(|job| job.set("spec.template.metadata.labels", json!({"app": "a"})));
        assert_eq!(shared.at("metadata.labels"), shared.at("spec.template.metadata.labels"));
        assert_eq!(labels(&shared).len(), 5);

        let own = prepared(|job| {
            job.set("metadata.labels", json!({"app": "a"}));
            job.set("spec.template.metadata.labels", json!({"app": "a"}));
        });
        assert_eq!(labels(&own), ["app"]);
    }

    #[test]
    fn an_invalid_name_is_told_of_the_pods_labels_only() {
        let job = prepared(|job| job.set("metadata.name", "not valid"));
        let told: Vec<String> = check(&job, true).iter().map(|error| error.field.clone()).collect();
        assert_eq!(told, ["spec.template.labels"; 2], "once for each key");
        assert!(!job.has("metadata.labels"));
    }
}
