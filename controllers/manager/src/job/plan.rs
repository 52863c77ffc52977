//! What a job needs next: which pods count, which are made or removed, and what its status says
//! (upstream: pkg/controller/job).
//!
//! Each pod carries a finalizer until it is counted. Counting is: its uid enters `uncountedTerminatedPods`; then the
//! finalizer goes; then the uid leaves and the counter grows. A crash between any two steps neither loses nor doubles.

use std::sync::Arc;

use hashbrown::{HashMap, HashSet};
use serde_json::{Value, json};
use skeg_controller_runtime::objects::{Condition, Job, JobStatus, Phase, Pod, Uncounted, condition};
use skeg_controller_runtime::{Str, Timestamp, clock};

use super::indexes::{self, Indexes};
use super::policy::{self, Verdict};
use crate::replicaset::plan::condition_json;

pub const FINALIZER: &str = "batch.kubernetes.io/job-tracking";
pub const INDEX: &str = "batch.kubernetes.io/job-completion-index";
pub const FAILURES: &str = "batch.kubernetes.io/job-index-failure-count";
pub const IGNORED: &str = "batch.kubernetes.io/job-index-ignored-failure-count";
/// At most this many pods are made, removed or counted in one go.
const BURST: usize = 500;
const FIRST_BACKOFF: i64 = 10;
const LAST_BACKOFF: i64 = 600;

/// A pod to make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewPod {
    pub index: Option<i64>,
    /// With a limit per index: failures so far.
    pub failures: Option<(i64, i64)>,
}

#[derive(Debug, Default, PartialEq)]
pub struct Plan {
    /// Written first.
    pub status: Option<Value>,
    /// Pods that are counted: their finalizer goes after the status is written.
    pub release: Vec<Str>,
    pub delete: Vec<Str>,
    pub create: Vec<NewPod>,
    /// Look again after so many seconds.
    pub after: Option<i64>,
    /// (warning, reason, message).
    pub events: Vec<(bool, String, String)>,
}

pub fn is_indexed(job: &Job) -> bool {
    job.spec.completion_mode == "Indexed"
}
/// Complete or Failed.
pub fn finished(status: &JobStatus) -> bool {
    ["Complete", "Failed"].iter().any(|k| condition(&status.conditions, k).is_some_and(Condition::is_true))
}
/// The completion index of a pod.
pub fn index_of(pod: &Pod) -> Option<i64> {
    pod.metadata.annotation(INDEX).or(pod.metadata.label(INDEX)).and_then(|i| i.parse().ok())
}

struct Planner<'a> {
    now: Timestamp,
    job: &'a Job,
    pods: &'a [Arc<Pod>],
    status: JobStatus,
    completed: Indexes,
    failed_indexes: Indexes,
    out: Plan,
}

/// The next steps of a job that is not finished, given every pod that it owns.
pub fn plan(now: Timestamp, job: &Job, pods: &[Arc<Pod>]) -> Plan {
    let limit = job.spec.completions.unwrap_or(0);
    let mut planner = Planner {
        now,
        job,
        pods,
        status: job.status.clone(),
        completed: indexes::parse(&job.status.completed_indexes, limit),
        failed_indexes: indexes::parse(job.status.failed_indexes.as_deref().unwrap_or(""), limit),
        out: Plan::default(),
    };
    if finished(&job.status) || job.metadata.deleting() {
        planner.release_all();
    } else {
        planner.run();
    }
    planner.out
}

impl<'a> Planner<'a> {
    fn replace_failed_only(&self) -> bool {
        self.job.spec.pod_replacement_policy == "Failed" || self.job.spec.pod_failure_policy.is_some()
    }
    fn has_failed(&self, pod: &Pod) -> bool {
        pod.status.phase == Phase::Failed
            || (!self.replace_failed_only() && pod.metadata.deleting() && pod.status.phase != Phase::Succeeded)
    }
    fn per_index(&self) -> bool {
        self.job.spec.backoff_limit_per_index.is_some()
    }

    /// Nothing counts any more: pods may go.
    fn release_all(&mut self) {
        let held = self.pods.iter().filter(|p| p.metadata.has_finalizer(FINALIZER));
        let ended = held.filter(|p| p.is_terminal() || p.metadata.deleting() || self.job.metadata.deleting());
        self.out.release = ended.map(|p| p.metadata.name.clone()).collect();
        if finished(&self.job.status) {
            let alive = self.pods.iter().filter(|p| p.is_active());
            self.out.delete = alive.map(|p| p.metadata.name.clone()).collect();
        }
    }

    fn run(&mut self) {
        if self.status.start_time.is_none() && !self.job.spec.suspend {
            self.status.start_time = Some(self.now);
        }
        let (succeeded, failed) = self.count();
        let (active, terminating): (Vec<&'a Arc<Pod>>, Vec<&'a Arc<Pod>>) =
            self.pods.iter().filter(|p| !p.is_terminal()).partition(|p| !p.metadata.deleting());
        self.decide(succeeded, failed, &active);
        let target = self.target();
        if target.is_some() || self.job.spec.suspend {
            self.out.delete = active.iter().take(BURST).map(|p| p.metadata.name.clone()).collect();
        } else {
            self.manage(succeeded, &active, &terminating);
        }
        if let Some((kind, reason, message)) = target
            && active.is_empty()
            && terminating.is_empty()
            && self.out.release.is_empty()
        {
            self.finish(&kind, &reason, &message);
        }
        self.suspension(active.is_empty());
        self.status.active = i64::try_from(active.len()).unwrap_or(i64::MAX);
        self.status.terminating = Some(i64::try_from(terminating.len()).unwrap_or(i64::MAX));
        self.status.ready = Some(active.iter().map(|p| i64::from(p.is_ready())).sum());
        let new = to_json(&self.status);
        if new != to_json(&self.job.status) {
            self.out.status = Some(new);
        }
    }

    /// Counts ended pods into the status; returns (succeeded, failed) as they stand with everything counted.
    fn count(&mut self) -> (i64, i64) {
        let uncounted = self.status.uncounted_terminated_pods.clone().unwrap_or_default();
        let held: HashSet<&str> =
            self.pods.iter().filter(|p| p.metadata.has_finalizer(FINALIZER)).map(|p| p.metadata.uid.as_str()).collect();
        let known: HashSet<&str> = uncounted.succeeded.iter().chain(&uncounted.failed).map(Str::as_str).collect();
        // Without their finalizer they are out of reach: now the counters may say so.
        let split = |uids: &[Str]| -> (Vec<Str>, i64) {
            let (stay, done): (Vec<Str>, Vec<Str>) = uids.iter().cloned().partition(|u| held.contains(u.as_str()));
            (stay, i64::try_from(done.len()).unwrap_or(0))
        };
        let (mut succeeded_uids, done) = split(&uncounted.succeeded);
        self.status.succeeded += if is_indexed(self.job) { 0 } else { done };
        let (mut failed_uids, done) = split(&uncounted.failed);
        self.status.failed += done;
        for pod in self.pods.iter().filter(|p| p.metadata.has_finalizer(FINALIZER)) {
            let uid = &pod.metadata.uid;
            let succeeded = pod.status.phase == Phase::Succeeded;
            if !succeeded && !self.has_failed(pod) {
                continue;
            }
            if self.out.release.len() >= BURST {
                break;
            }
            self.out.release.push(pod.metadata.name.clone());
            if known.contains(uid.as_str()) {
                continue;
            }
            if succeeded {
                if is_indexed(self.job) {
                    self.completed.extend(index_of(pod).filter(|i| *i < self.job.spec.completions.unwrap_or(0)));
                } else {
                    succeeded_uids.push(uid.clone());
                }
            } else if policy::judge(self.job.spec.pod_failure_policy.as_ref(), pod) != Verdict::Ignore {
                failed_uids.push(uid.clone());
            }
        }
        if is_indexed(self.job) {
            self.status.completed_indexes = indexes::format(&self.completed).into();
            self.status.succeeded = i64::try_from(self.completed.len()).unwrap_or(i64::MAX);
        }
        let succeeded = self.status.succeeded + i64::try_from(succeeded_uids.len()).unwrap_or(0);
        let failed = self.status.failed + i64::try_from(failed_uids.len()).unwrap_or(0);
        self.status.uncounted_terminated_pods = Some(Uncounted { succeeded: succeeded_uids, failed: failed_uids });
        (succeeded, failed)
    }

    fn set(&mut self, kind: &str, status: &str, reason: &str, message: &str) {
        self.status.conditions.retain(|c| c.kind != kind);
        self.status.conditions.push(Condition {
            kind: kind.into(),
            status: status.into(),
            reason: reason.into(),
            message: message.into(),
            last_transition_time: Some(self.now),
            ..Condition::default()
        });
    }

    /// (condition to end with, reason, message) once the outcome is decided.
    fn target(&self) -> Option<(String, String, String)> {
        let of = |kind: &str, end: &str| {
            let found = condition(&self.status.conditions, kind).filter(|c| c.is_true())?;
            Some((end.to_owned(), found.reason.to_string(), found.message.to_string()))
        };
        of("FailureTarget", "Failed").or_else(|| of("SuccessCriteriaMet", "Complete"))
    }

    /// Notes the outcome as soon as it is certain.
    fn decide(&mut self, succeeded: i64, failed: i64, active: &[&Arc<Pod>]) {
        if self.target().is_some() {
            return;
        }
        if let Some((reason, message)) = self.failure(failed, active) {
            return self.set("FailureTarget", "True", reason, &message);
        }
        let completions = self.job.spec.completions;
        if is_indexed(self.job)
            && let Some(message) =
                policy::success(self.job.spec.success_policy.as_ref(), &self.completed, completions.unwrap_or(0))
        {
            return self.set("SuccessCriteriaMet", "True", "SuccessPolicy", &message);
        }
        let complete = match completions {
            None => succeeded > 0 && active.is_empty(),
            Some(wanted) => succeeded >= wanted,
        };
        if complete {
            let message = "Reached expected number of succeeded pods";
            self.set("SuccessCriteriaMet", "True", "CompletionsReached", message);
        }
    }

    fn failure(&mut self, failed: i64, active: &[&Arc<Pod>]) -> Option<(&'static str, String)> {
        let spec = &self.job.spec;
        for pod in self.pods.iter().filter(|p| p.status.phase == Phase::Failed && p.metadata.has_finalizer(FINALIZER)) {
            if let Verdict::FailJob(message) = policy::judge(spec.pod_failure_policy.as_ref(), pod) {
                return Some(("PodFailurePolicy", message));
            }
        }
        if self.per_index() {
            self.fail_indexes();
            self.status.failed_indexes = Some(indexes::format(&self.failed_indexes).into());
            let count = i64::try_from(self.failed_indexes.len()).unwrap_or(i64::MAX);
            if spec.max_failed_indexes.is_some_and(|max| count > max) {
                let message = "Job has exceeded the specified maximal number of failed indexes".to_owned();
                return Some(("MaxFailedIndexesExceeded", message));
            }
            let ended = i64::try_from(self.completed.len()).unwrap_or(0) + count;
            if count > 0 && ended >= spec.completions.unwrap_or(0) {
                return Some(("FailedIndexes", "Job has failed indexes".to_owned()));
            }
        }
        let limit = spec.backoff_limit.unwrap_or(if self.per_index() { i64::from(i32::MAX) } else { 6 });
        let on_failure = spec.template.spec::<RestartPolicy>().restart_policy == "OnFailure";
        let restarts: i64 = active
            .iter()
            .map(|p| p.status.containers.iter().chain(p.status.init_containers.iter()).map(|c| c.restarts).sum::<i64>())
            .sum();
        let restarted_out = on_failure && if limit == 0 { restarts > 0 } else { restarts >= limit };
        if failed > limit || restarted_out {
            return Some(("BackoffLimitExceeded", "Job has reached the specified backoff limit".to_owned()));
        }
        if let (Some(deadline), Some(start), false) =
            (spec.active_deadline_seconds, self.status.start_time, spec.suspend)
        {
            let due = clock::after(start, deadline);
            if due <= self.now {
                return Some(("DeadlineExceeded", "Job was active longer than specified deadline".to_owned()));
            }
            self.wait(i64::try_from(clock::until(self.now, due).as_secs()).unwrap_or(i64::MAX) + 1);
        }
        None
    }

    fn wait(&mut self, seconds: i64) {
        self.out.after = Some(self.out.after.map_or(seconds, |a| a.min(seconds)));
    }

    fn fail_indexes(&mut self) {
        let limit = self.job.spec.backoff_limit_per_index.unwrap_or(0);
        let spent = |pod: &&Arc<Pod>| match policy::judge(self.job.spec.pod_failure_policy.as_ref(), pod) {
            Verdict::FailIndex => true,
            Verdict::Count => number(pod, FAILURES) >= limit,
            _ => false,
        };
        let counted = self.pods.iter().filter(|p| p.metadata.has_finalizer(FINALIZER) && self.has_failed(p));
        let failed: Vec<i64> = counted.filter(spent).filter_map(|p| index_of(p)).collect();
        self.failed_indexes.extend(failed.into_iter().filter(|i| !self.completed.contains(i)));
    }

    /// How long to wait before making pods again: ten seconds after the first failure since the last success, twice as
    /// long after each further one.
    fn backoff(&self, of: impl Fn(&Pod) -> bool) -> i64 {
        let ended = |p: &Pod| {
            let times = p.status.containers.iter().filter_map(|c| c.terminated.and_then(|t| t.1));
            times.max().or(p.metadata.deleted).or(p.condition("Ready").and_then(|c| c.last_transition_time))
        };
        let succeeded = self.pods.iter().filter(|p| p.status.phase == Phase::Succeeded && of(p));
        let last_success = succeeded.filter_map(|p| ended(p)).max();
        let failures: Vec<Timestamp> = self
            .pods
            .iter()
            .filter(|p| self.has_failed(p) && of(p))
            .filter_map(|p| ended(p).or(p.metadata.created))
            .filter(|t| last_success.is_none_or(|s| *t > s))
            .collect();
        let Some(last) = failures.iter().max() else { return 0 };
        let doublings = u32::try_from(failures.len() - 1).unwrap_or(u32::MAX).min(6);
        let wait = (FIRST_BACKOFF << doublings).min(LAST_BACKOFF);
        let left = clock::until(self.now, clock::after(*last, wait));
        i64::try_from(left.as_millis().div_ceil(1000)).unwrap_or(i64::MAX)
    }

    fn manage(&mut self, succeeded: i64, active: &[&Arc<Pod>], terminating: &[&Arc<Pod>]) {
        let parallelism = self.job.spec.parallelism.unwrap_or(1);
        let have = i64::try_from(active.len()).unwrap_or(i64::MAX);
        let wanted = match self.job.spec.completions {
            None if succeeded > 0 => have.min(parallelism),
            None => parallelism,
            Some(completions) => {
                let failed = i64::try_from(self.failed_indexes.len()).unwrap_or(0);
                (completions - succeeded - failed).min(parallelism).max(0)
            }
        };
        if is_indexed(self.job) && self.remove_strays(active) {
            return;
        }
        if have > wanted {
            let mut ranked = active.to_vec();
            ranked.sort_by_key(|p| (p.is_ready(), p.metadata.created));
            let excess = usize::try_from(have - wanted).unwrap_or(0).min(BURST);
            self.out.delete = ranked.into_iter().take(excess).map(|p| p.metadata.name.clone()).collect();
            return;
        }
        let leaving = if self.replace_failed_only() { i64::try_from(terminating.len()).unwrap_or(0) } else { 0 };
        let missing = usize::try_from(wanted - have - leaving).unwrap_or(0).min(BURST);
        if missing == 0 {
            return;
        }
        if is_indexed(self.job) {
            return self.create_indexes(missing, active, terminating);
        }
        match self.backoff(|_| true) {
            0 => self.out.create = vec![NewPod { index: None, failures: None }; missing],
            seconds => self.wait(seconds),
        }
    }

    /// Removes pods of the same or of no valid index. Returns whether there were any.
    fn remove_strays(&mut self, active: &[&Arc<Pod>]) -> bool {
        let mut seen = HashSet::new();
        let limit = self.job.spec.completions.unwrap_or(0);
        let mut sorted = active.to_vec();
        sorted.sort_by_key(|p| (!p.is_ready(), p.metadata.created));
        let mut strays: Vec<Str> = Vec::new();
        for pod in sorted {
            let open = |i: &i64| *i < limit && !self.completed.contains(i) && !self.failed_indexes.contains(i);
            if !index_of(pod).filter(open).is_some_and(|i| seen.insert(i)) {
                strays.push(pod.metadata.name.clone());
            }
        }
        self.out.delete = strays;
        !self.out.delete.is_empty()
    }

    fn create_indexes(&mut self, missing: usize, active: &[&Arc<Pod>], terminating: &[&Arc<Pod>]) {
        let mut taken: HashSet<i64> = active.iter().filter_map(|p| index_of(p)).collect();
        if self.replace_failed_only() {
            taken.extend(terminating.iter().filter_map(|p| index_of(p)));
        }
        let free = (0..self.job.spec.completions.unwrap_or(0))
            .filter(|i| !taken.contains(i) && !self.completed.contains(i) && !self.failed_indexes.contains(i));
        let free: Vec<i64> = free.take(missing).collect();
        if !self.per_index() {
            match self.backoff(|_| true) {
                0 => self.out.create = free.into_iter().map(|i| NewPod { index: Some(i), failures: None }).collect(),
                seconds => self.wait(seconds),
            }
            return;
        }
        let mut last: HashMap<i64, &Arc<Pod>> = HashMap::new();
        for pod in self.pods.iter().filter(|p| self.has_failed(p)) {
            let Some(index) = index_of(pod) else { continue };
            let worse = |old: &&Arc<Pod>| total(old) >= total(pod);
            if !last.get(&index).is_some_and(worse) {
                last.insert(index, pod);
            }
        }
        for index in free {
            match self.backoff(|p| index_of(p) == Some(index)) {
                0 => {
                    let failures = last.get(&index).map_or((0, 0), |pod| {
                        let (failed, ignored) = (number(pod, FAILURES), number(pod, IGNORED));
                        match policy::judge(self.job.spec.pod_failure_policy.as_ref(), pod) {
                            Verdict::Ignore => (failed, ignored + 1),
                            _ => (failed + 1, ignored),
                        }
                    });
                    self.out.create.push(NewPod { index: Some(index), failures: Some(failures) });
                }
                seconds => self.wait(seconds),
            }
        }
    }

    fn finish(&mut self, kind: &str, reason: &str, message: &str) {
        // Everything is counted: the uids may go at once.
        if let Some(uncounted) = self.status.uncounted_terminated_pods.take()
            && !(uncounted.succeeded.is_empty() && uncounted.failed.is_empty())
        {
            self.status.uncounted_terminated_pods = Some(uncounted);
            return;
        }
        self.status.uncounted_terminated_pods = Some(Uncounted::default());
        self.set(kind, "True", reason, message);
        if kind == "Complete" {
            self.status.completion_time = Some(self.now);
            self.out.events.push((false, "Completed".to_owned(), "Job completed".to_owned()));
        } else {
            self.out.events.push((true, reason.to_owned(), message.to_owned()));
        }
        self.out.after = None;
    }

    fn suspension(&mut self, stopped: bool) {
        let suspended = condition(&self.status.conditions, "Suspended").map(|c| c.is_true());
        if self.target().is_some() {
            return;
        }
        if self.job.spec.suspend && stopped && suspended != Some(true) {
            self.set("Suspended", "True", "JobSuspended", "Job suspended");
            self.status.start_time = None;
            self.out.events.push((false, "Suspended".to_owned(), "Job suspended".to_owned()));
        } else if !self.job.spec.suspend && suspended == Some(true) {
            self.set("Suspended", "False", "JobResumed", "Job resumed");
            self.status.start_time = Some(self.now);
            self.out.events.push((false, "Resumed".to_owned(), "Job resumed".to_owned()));
        }
    }
}

#[derive(Default, serde::Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct RestartPolicy {
    restart_policy: Str,
}

fn number(pod: &Pod, annotation: &str) -> i64 {
    pod.metadata.annotation(annotation).and_then(|v| v.parse().ok()).unwrap_or(0)
}
fn total(pod: &Pod) -> i64 {
    number(pod, FAILURES) + number(pod, IGNORED)
}

/// As the API has it.
pub fn to_json(status: &JobStatus) -> Value {
    let mut out = json!({});
    if !status.conditions.is_empty() {
        // A condition is probed when it is set, and never again.
        let probed = |condition| {
            let mut condition = condition_json(condition);
            condition["lastProbeTime"] = condition["lastTransitionTime"].clone();
            condition
        };
        out["conditions"] = status.conditions.iter().map(probed).collect();
    }
    for (field, time) in [("startTime", status.start_time), ("completionTime", status.completion_time)] {
        if let Some(time) = time {
            out[field] = json!(clock::rfc3339(time));
        }
    }
    for (field, value) in [("active", status.active), ("succeeded", status.succeeded), ("failed", status.failed)] {
        if value != 0 {
            out[field] = json!(value);
        }
    }
    for (field, value) in [("terminating", status.terminating), ("ready", status.ready)] {
        if let Some(value) = value {
            out[field] = json!(value);
        }
    }
    if !status.completed_indexes.is_empty() {
        out["completedIndexes"] = json!(status.completed_indexes);
    }
    if let Some(failed) = &status.failed_indexes {
        out["failedIndexes"] = json!(failed);
    }
    if let Some(uncounted) = &status.uncounted_terminated_pods {
        let mut lists = json!({});
        for (field, uids) in [("succeeded", &uncounted.succeeded), ("failed", &uncounted.failed)] {
            if !uids.is_empty() {
                lists[field] = json!(uids);
            }
        }
        out["uncountedTerminatedPods"] = lists;
    }
    out
}
