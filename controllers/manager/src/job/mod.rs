//! Runs jobs to completion (upstream: pkg/controller/job).

mod indexes;
pub mod plan;
mod policy;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::future::join_all;
use serde_json::{Value, json};
use skeg_controller_runtime::objects::{Job, Pod};
use skeg_controller_runtime::{
    Clock, Controller, Error, EventRecorder, Object, Outcome, Store, Str, WorkQueue, run_controller,
};

use crate::claim::{claim, concerned_by_change, index_orphans};
use crate::context::Context;
use crate::pods;
use plan::{FAILURES, FINALIZER, IGNORED, INDEX, NewPod};

struct Jobs {
    jobs: Arc<Store<Job>>,
    pods: Arc<Store<Pod>>,
    events: EventRecorder,
    clock: Arc<dyn Clock>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Key {
    Job(Str),
    /// A pod whose job is gone but whose finalizer is not.
    Orphan(Str),
}

pub(crate) async fn run(context: Context) {
    let queue = Arc::new(WorkQueue::new());
    let jobs = context.stores.get::<Job>();
    let pods = context.stores.get::<Pod>();
    index_orphans(&pods);
    let (line, known) = (queue.clone(), pods.clone());
    jobs.subscribe(move |change| {
        line.add(Key::Job(change.object().metadata.key()));
        if change.is_deleted() {
            for pod in known.by_owner(&change.object().metadata.uid) {
                line.add(Key::Orphan(pod.metadata.key()));
            }
        }
    });
    let (line, owners) = (queue.clone(), jobs.clone());
    pods.subscribe(move |change| {
        for key in concerned_by_change(&owners, change, |j: &Job| j.spec.selector.clone()) {
            line.add(Key::Job(key));
        }
        let pod = change.object();
        if !change.is_deleted() && pod.metadata.has_finalizer(FINALIZER) {
            let held = pod.metadata.controller().is_some_and(|o| {
                o.kind == "Job"
                    && owners.find(&pod.metadata.namespace, &o.name).is_some_and(|j| j.metadata.uid == o.uid)
            });
            if !held {
                // The job's own event may only be late.
                line.add_after(Key::Orphan(pod.metadata.key()), Duration::from_secs(1));
            }
        }
    });
    let controller = Jobs { jobs, pods, events: context.recorder("job-controller"), clock: context.clock.clone() };
    run_controller(Arc::new(controller), queue, 5, context.shutdown).await;
}

#[async_trait]
impl Controller for Jobs {
    type Key = Key;
    fn name(&self) -> &'static str {
        "job-controller"
    }
    async fn synced(&self) {
        self.jobs.synced().await;
        self.pods.synced().await;
    }
    async fn reconcile(&self, key: &Key) -> Result<Outcome, Error> {
        match key {
            Key::Orphan(pod) => self.release_orphan(pod).await.map(|()| Outcome::Done),
            Key::Job(job) => self.sync(job).await,
        }
    }
}

impl Jobs {
    async fn release_orphan(&self, key: &str) -> Result<(), Error> {
        let Some(pod) = self.pods.get(key) else { return Ok(()) };
        if let Some(owner) = pod.metadata.controller().filter(|o| o.kind == "Job") {
            let job = self.jobs.fetch(&pod.metadata.namespace, &owner.name).await?;
            if job.is_some_and(|j| j.metadata.uid == owner.uid) {
                return Ok(());
            }
        }
        self.release(&pod).await
    }

    async fn sync(&self, key: &str) -> Result<Outcome, Error> {
        let Some(job) = self.jobs.get(key) else { return Ok(Outcome::Done) };
        let managed_elsewhere =
            !job.spec.managed_by.is_empty() && job.spec.managed_by != "kubernetes.io/job-controller";
        if managed_elsewhere {
            return Ok(Outcome::Done);
        }
        let owned = claim(&self.jobs, &*job, &job.spec.selector, &self.pods).await?;
        let job = self.jobs.get(key).unwrap_or(job);
        let plan = plan::plan(self.clock.now(), &job, &owned);
        if let Some(status) = &plan.status {
            self.jobs.write_status(&job.metadata, &plan::to_json(&job.status), status).await?;
        }
        let about = job.object_ref();
        for (warning, reason, message) in plan.events {
            if warning {
                self.events.warning(&about, &reason, message);
            } else {
                self.events.normal(&about, &reason, message);
            }
        }
        let named = |names: &[Str]| -> Vec<Arc<Pod>> {
            owned.iter().filter(|p| names.contains(&p.metadata.name)).cloned().collect()
        };
        let released = named(&plan.release);
        let mut first = join_all(released.iter().map(|p| self.release(p))).await.into_iter().find_map(Result::err);
        let gone = named(&plan.delete);
        let deleted = join_all(gone.iter().map(|p| pods::delete(&self.pods, &self.events, &about, p))).await;
        first = first.or(deleted.into_iter().find_map(Result::err));
        let (_, error) = pods::slow_start(plan.create.len(), |i| {
            let body = body(&job, &plan.create[i]);
            let about = &about;
            let namespace = &job.metadata.namespace;
            async move { pods::create(&self.pods, &self.events, about, namespace, &body).await.map(|_| ()) }
        })
        .await;
        match first.or(error) {
            Some(error) if error.is_namespace_terminating() => Ok(Outcome::Done),
            Some(error) => Err(error),
            None => {
                Ok(plan.after.map_or(Outcome::Done, |s| Outcome::After(Duration::from_secs(s.max(1).unsigned_abs()))))
            }
        }
    }

    /// Takes the tracking finalizer off.
    async fn release(&self, pod: &Pod) -> Result<(), Error> {
        let finalizers: Vec<&Str> = pod.metadata.finalizers.iter().filter(|f| **f != FINALIZER).collect();
        if finalizers.len() == pod.metadata.finalizers.len() {
            return Ok(());
        }
        match self.pods.patch_exact(&pod.metadata, "", json!({"metadata": {"finalizers": finalizers}})).await {
            Ok(_) => Ok(()),
            Err(error) if error.is_not_found() => Ok(()),
            Err(error) => Err(error),
        }
    }
}

/// A pod of the job, for its index if it has one.
fn body(job: &Job, new: &NewPod) -> Value {
    let mut body = pods::from_template(&job.spec.template, &job.controller_ref());
    let mut finalizers = body["metadata"].get("finalizers").and_then(Value::as_array).cloned().unwrap_or_default();
    finalizers.push(json!(FINALIZER));
    body["metadata"]["finalizers"] = Value::Array(finalizers);
    let name = &job.metadata.name;
    let Some(index) = new.index else {
        body["metadata"]["generateName"] = json!(format!("{name}-"));
        return body;
    };
    let text = index.to_string();
    let prefix: String = name.chars().take(57usize.saturating_sub(text.len() + 1)).collect();
    body["metadata"]["generateName"] = json!(format!("{prefix}-{index}-"));
    body["metadata"]["labels"][INDEX] = json!(text);
    if !body["metadata"].get("annotations").is_some_and(Value::is_object) {
        body["metadata"]["annotations"] = json!({});
    }
    body["metadata"]["annotations"][INDEX] = json!(text);
    if let Some((failures, ignored)) = new.failures {
        body["metadata"]["annotations"][FAILURES] = json!(failures.to_string());
        if ignored > 0 {
            body["metadata"]["annotations"][IGNORED] = json!(ignored.to_string());
        }
    }
    body["spec"]["hostname"] = json!(format!("{name}-{index}"));
    let path = format!("metadata.labels['{INDEX}']");
    let variable = json!({"name": "JOB_COMPLETION_INDEX", "valueFrom": {"fieldRef": {"fieldPath": path}}});
    for list in ["containers", "initContainers"] {
        for container in body["spec"].get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
            let env = container.get("env").and_then(Value::as_array).cloned().unwrap_or_default();
            if !env.iter().any(|v| v["name"] == "JOB_COMPLETION_INDEX") {
                container["env"] = env.into_iter().chain([variable.clone()]).collect();
            }
        }
    }
    body
}
