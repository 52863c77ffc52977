//! Starts jobs on a schedule (upstream: pkg/controller/cronjob).

pub mod plan;
mod schedule;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use skeg_controller_runtime::objects::{CronJob, Job};
use skeg_controller_runtime::{
    Clock, Controller, DeleteOptions, Error, EventRecorder, Object, Outcome, Propagation, Store, Str, WorkQueue,
    run_controller,
};

use crate::context::Context;
use schedule::Schedule;

struct CronJobs {
    crons: Arc<Store<CronJob>>,
    jobs: Arc<Store<Job>>,
    events: EventRecorder,
    clock: Arc<dyn Clock>,
}

pub(crate) async fn run(context: Context) {
    let queue = Arc::new(WorkQueue::new());
    let crons = context.stores.get::<CronJob>();
    let jobs = context.stores.get::<Job>();
    let line = queue.clone();
    crons.subscribe(move |change| line.add(change.object().metadata.key()));
    let line = queue.clone();
    jobs.subscribe(move |change| {
        let meta = change.object().meta();
        if let Some(owner) = meta.controller().filter(|o| o.kind == "CronJob") {
            line.add(skeg_controller_runtime::key(&meta.namespace, &owner.name));
        }
    });
    let controller =
        CronJobs { crons, jobs, events: context.recorder("cronjob-controller"), clock: context.clock.clone() };
    run_controller(Arc::new(controller), queue, 5, context.shutdown).await;
}

#[async_trait]
impl Controller for CronJobs {
    type Key = Str;
    fn name(&self) -> &'static str {
        "cronjob-controller"
    }
    async fn synced(&self) {
        self.crons.synced().await;
        self.jobs.synced().await;
    }
    async fn reconcile(&self, key: &Str) -> Result<Outcome, Error> {
        let Some(cron) = self.crons.get(key) else { return Ok(Outcome::Done) };
        let about = cron.object_ref();
        let schedule = match Schedule::parse(&cron.spec.schedule, cron.spec.time_zone.as_deref()) {
            Ok(schedule) => schedule,
            Err(error) => {
                let reason = match error {
                    schedule::Error::Schedule(..) => "UnparseableSchedule",
                    schedule::Error::TimeZone(..) => "UnknownTimeZone",
                };
                self.events.warning(&about, reason, error.to_string());
                return Ok(Outcome::Done);
            }
        };
        let jobs = self.jobs.by_owner(&cron.metadata.uid);
        self.tell_ended(&cron, &jobs);
        let plan = plan::plan(self.clock.now(), &cron, &jobs, &schedule);
        for (warning, reason, message) in plan.events {
            let record = if warning { EventRecorder::warning } else { EventRecorder::normal };
            record(&self.events, &about, reason, message);
        }
        for job in jobs.iter().filter(|j| plan.delete.contains(&j.metadata.name)) {
            let options = DeleteOptions::uid(&job.metadata.uid).propagation(Propagation::Background);
            self.jobs.delete(&job.metadata, &options).await?;
            self.events.normal(&about, "SuccessfulDelete", format!("Deleted job {}", job.metadata.name));
        }
        if let Some(due) = plan.start {
            let body = plan::job(&cron, due, &schedule.rfc3339(due), &cron.controller_ref());
            match self.jobs.create(&cron.metadata.namespace, &body).await {
                Ok(job) => {
                    self.events.normal(&about, "SuccessfulCreate", format!("Created job {}", job.metadata.name));
                }
                // Started before, and not noted: the name tells.
                Err(error) if error.is_already_exists() => {}
                Err(error) if error.is_namespace_terminating() => return Ok(Outcome::Done),
                Err(error) => {
                    self.events.warning(&about, "FailedCreate", format!("Error creating job: {}", error.message()));
                    return Err(error);
                }
            }
        }
        let jobs = self.jobs.by_owner(&cron.metadata.uid);
        let status = plan::status(&cron, &jobs, plan.start);
        self.crons.write_status(&cron.metadata, &plan::current(&cron), &status).await?;
        Ok(plan.after.map_or(Outcome::Done, |s| Outcome::After(Duration::from_secs(s.unsigned_abs()))))
    }
}

impl CronJobs {
    /// Events for jobs that were active when the status was written and are so no longer.
    fn tell_ended(&self, cron: &CronJob, jobs: &[Arc<Job>]) {
        for reference in &cron.status.active {
            let uid = reference.get("uid").and_then(serde_json::Value::as_str).unwrap_or("");
            let name = reference.get("name").and_then(serde_json::Value::as_str).unwrap_or("");
            match jobs.iter().find(|j| j.metadata.uid == *uid) {
                None => {
                    let message = format!("Active job went missing: {name}");
                    self.events.normal(&cron.object_ref(), "MissingJob", message);
                }
                Some(job) => {
                    let ended = job
                        .status
                        .conditions
                        .iter()
                        .find(|c| c.is_true() && (c.kind == "Complete" || c.kind == "Failed"));
                    if let Some(condition) = ended {
                        let message = format!("Saw completed job: {name}, condition: {}", condition.kind);
                        self.events.normal(&cron.object_ref(), "SawCompletedJob", message);
                    }
                }
            }
        }
    }
}
