//! Deletes finished jobs when their time to live is over (upstream: pkg/controller/ttlafterfinished).

use std::sync::Arc;

use async_trait::async_trait;
use skeg_controller_runtime::objects::{Condition, Job, condition};
use skeg_controller_runtime::{
    Clock, Controller, DeleteOptions, Error, Outcome, Propagation, Store, Str, Timestamp, WorkQueue, clock,
    run_controller,
};

use crate::context::Context;

struct Ttl {
    jobs: Arc<Store<Job>>,
    clock: Arc<dyn Clock>,
}

/// When the job is to be deleted, if ever.
fn plan(job: &Job) -> Option<Timestamp> {
    let ttl = job.spec.ttl_seconds_after_finished?;
    let ended = |kind| condition(&job.status.conditions, kind).filter(|c: &&Condition| c.is_true());
    let finished = ended("Complete").or_else(|| ended("Failed"))?.last_transition_time?;
    (!job.metadata.deleting()).then(|| clock::after(finished, ttl))
}

pub(crate) async fn run(context: Context) {
    let queue = Arc::new(WorkQueue::new());
    let jobs = context.stores.get::<Job>();
    let line = queue.clone();
    jobs.subscribe(move |change| {
        if !change.is_deleted() && plan(change.object()).is_some() {
            line.add(change.object().metadata.key());
        }
    });
    let controller = Ttl { jobs, clock: context.clock.clone() };
    run_controller(Arc::new(controller), queue, 2, context.shutdown).await;
}

#[async_trait]
impl Controller for Ttl {
    type Key = Str;
    fn name(&self) -> &'static str {
        "ttl-after-finished-controller"
    }
    async fn synced(&self) {
        self.jobs.synced().await;
    }
    async fn reconcile(&self, key: &Str) -> Result<Outcome, Error> {
        let Some((job, due)) = self.jobs.get(key).and_then(|j| plan(&j).map(|due| (j, due))) else {
            return Ok(Outcome::Done);
        };
        let now = self.clock.now();
        if due > now {
            return Ok(Outcome::After(clock::until(now, due)));
        }
        // The time to live may have been raised since the watch told us.
        let fresh = self.jobs.fetch(&job.metadata.namespace, &job.metadata.name).await?;
        match fresh.filter(|f| f.metadata.uid == job.metadata.uid).and_then(|f| plan(&f).map(|due| (f, due))) {
            Some((fresh, due)) if due <= now => {
                let options = DeleteOptions::uid(&fresh.metadata.uid).propagation(Propagation::Foreground);
                self.jobs.delete(&fresh.metadata, &options).await?;
                Ok(Outcome::Done)
            }
            Some((_, due)) => Ok(Outcome::After(clock::until(now, due))),
            None => Ok(Outcome::Done),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_finished_jobs_with_a_time_to_live_are_due() {
        let job = |ttl: serde_json::Value, ended: bool| -> Job {
            let status = if ended { "True" } else { "False" };
            serde_json::from_value(
                json!({"metadata": {"name": "j"}, "spec": {"ttlSecondsAfterFinished": ttl}, "status": {
                "conditions": [{"type": "Complete", "status": status, "lastTransitionTime": "2026-01-01T00:00:00Z"}]}}),
            )
            .unwrap()
        };
        assert_eq!(plan(&job(json!(60), false)), None);
        assert_eq!(plan(&job(json!(null), true)), None);
        assert_eq!(plan(&job(json!(60), true)), Some("2026-01-01T00:01:00Z".parse().unwrap()));
    }
}
