//! The workload types: what owns pods.

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::{Condition, IntOrPercent, Template};
use crate::Timestamp;
use crate::interned::{Str, interned, null_default};
use crate::meta::{Meta, Pairs};
use crate::resource::{Obj, Object, Resource, Spec};
use crate::selector::Selector;

/// A deployment.
pub type Deployment = Obj<DeploymentSpec>;

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct DeploymentSpec {
    pub replicas: Option<i64>,
    pub selector: Selector,
    pub template: Template,
    #[serde(deserialize_with = "null_default")]
    pub strategy: UpdateStrategy,
    #[serde(deserialize_with = "null_default")]
    pub min_ready_seconds: i64,
    pub revision_history_limit: Option<i64>,
    #[serde(deserialize_with = "null_default")]
    pub paused: bool,
    pub progress_deadline_seconds: Option<i64>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct UpdateStrategy {
    #[serde(rename = "type", deserialize_with = "interned")]
    pub kind: Str,
    pub rolling_update: Option<RollingUpdate>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct RollingUpdate {
    pub max_unavailable: Option<IntOrPercent>,
    pub max_surge: Option<IntOrPercent>,
    pub partition: Option<i64>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct DeploymentStatus {
    pub observed_generation: i64,
    pub replicas: i64,
    pub updated_replicas: i64,
    pub ready_replicas: i64,
    pub available_replicas: i64,
    pub unavailable_replicas: i64,
    pub terminating_replicas: Option<i64>,
    pub collision_count: Option<i64>,
    #[serde(deserialize_with = "null_default")]
    pub conditions: Vec<Condition>,
}

impl Spec for DeploymentSpec {
    type Status = DeploymentStatus;
    const RESOURCE: Resource = Resource::new("apps", "v1", "Deployment", "deployments", true);
}

/// A replica set.
pub type ReplicaSet = Obj<ReplicaSetSpec>;

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ReplicaSetSpec {
    pub replicas: Option<i64>,
    pub selector: Selector,
    pub template: Template,
    #[serde(deserialize_with = "null_default")]
    pub min_ready_seconds: i64,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ReplicaSetStatus {
    pub replicas: i64,
    pub fully_labeled_replicas: i64,
    pub ready_replicas: i64,
    pub available_replicas: i64,
    pub terminating_replicas: Option<i64>,
    pub observed_generation: i64,
    #[serde(deserialize_with = "null_default")]
    pub conditions: Vec<Condition>,
}

impl Spec for ReplicaSetSpec {
    type Status = ReplicaSetStatus;
    const RESOURCE: Resource = Resource::new("apps", "v1", "ReplicaSet", "replicasets", true);
}

/// A replication controller; its selector is a plain map.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct ReplicationController {
    pub metadata: Meta,
    pub spec: ReplicationControllerSpec,
    pub status: ReplicaSetStatus,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ReplicationControllerSpec {
    pub replicas: Option<i64>,
    #[serde(deserialize_with = "null_default")]
    pub selector: Pairs,
    pub template: Template,
    #[serde(deserialize_with = "null_default")]
    pub min_ready_seconds: i64,
}

impl Object for ReplicationController {
    const RESOURCE: Resource = Resource::new("", "v1", "ReplicationController", "replicationcontrollers", true);
    fn meta(&self) -> &Meta {
        &self.metadata
    }
}

/// A daemon set.
pub type DaemonSet = Obj<DaemonSetSpec>;

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct DaemonSetSpec {
    pub selector: Selector,
    pub template: Template,
    #[serde(deserialize_with = "null_default")]
    pub update_strategy: UpdateStrategy,
    #[serde(deserialize_with = "null_default")]
    pub min_ready_seconds: i64,
    pub revision_history_limit: Option<i64>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct DaemonSetStatus {
    pub current_number_scheduled: i64,
    pub number_misscheduled: i64,
    pub desired_number_scheduled: i64,
    pub number_ready: i64,
    pub observed_generation: i64,
    pub updated_number_scheduled: i64,
    pub number_available: i64,
    pub number_unavailable: i64,
    pub collision_count: Option<i64>,
}

impl Spec for DaemonSetSpec {
    type Status = DaemonSetStatus;
    const RESOURCE: Resource = Resource::new("apps", "v1", "DaemonSet", "daemonsets", true);
}

/// A stateful set.
pub type StatefulSet = Obj<StatefulSetSpec>;

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct StatefulSetSpec {
    pub replicas: Option<i64>,
    pub selector: Selector,
    pub template: Template,
    #[serde(deserialize_with = "null_default")]
    pub volume_claim_templates: Vec<Value>,
    #[serde(deserialize_with = "null_default")]
    pub service_name: Str,
    #[serde(deserialize_with = "interned")]
    pub pod_management_policy: Str,
    #[serde(deserialize_with = "null_default")]
    pub update_strategy: UpdateStrategy,
    pub revision_history_limit: Option<i64>,
    #[serde(deserialize_with = "null_default")]
    pub min_ready_seconds: i64,
    pub persistent_volume_claim_retention_policy: Option<ClaimRetention>,
    pub ordinals: Option<Ordinals>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ClaimRetention {
    /// `Retain` or `Delete`.
    #[serde(deserialize_with = "interned")]
    pub when_deleted: Str,
    #[serde(deserialize_with = "interned")]
    pub when_scaled: Str,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Ordinals {
    pub start: i64,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct StatefulSetStatus {
    pub observed_generation: i64,
    pub replicas: i64,
    pub ready_replicas: i64,
    pub current_replicas: i64,
    pub updated_replicas: i64,
    pub available_replicas: i64,
    #[serde(deserialize_with = "null_default")]
    pub current_revision: Str,
    #[serde(deserialize_with = "null_default")]
    pub update_revision: Str,
    pub collision_count: Option<i64>,
}

impl Spec for StatefulSetSpec {
    type Status = StatefulSetStatus;
    const RESOURCE: Resource = Resource::new("apps", "v1", "StatefulSet", "statefulsets", true);
}

/// A revision of a daemon set's or stateful set's template.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct ControllerRevision {
    pub metadata: Meta,
    pub data: RevisionData,
    pub revision: i64,
}

/// The recorded patch as it came.
#[derive(Clone, Debug, Default)]
pub struct RevisionData(pub Str);

impl RevisionData {
    pub fn value(&self) -> Value {
        serde_json::from_str(&self.0).unwrap_or(Value::Null)
    }
}

impl<'de> Deserialize<'de> for RevisionData {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self(Str::from(Box::<RawValue>::deserialize(deserializer)?.get())))
    }
}

impl Object for ControllerRevision {
    const RESOURCE: Resource = Resource::new("apps", "v1", "ControllerRevision", "controllerrevisions", true);
    fn meta(&self) -> &Meta {
        &self.metadata
    }
}

/// A job.
pub type Job = Obj<JobSpec>;

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct JobSpec {
    pub parallelism: Option<i64>,
    pub completions: Option<i64>,
    pub active_deadline_seconds: Option<i64>,
    pub backoff_limit: Option<i64>,
    pub backoff_limit_per_index: Option<i64>,
    pub max_failed_indexes: Option<i64>,
    pub selector: Selector,
    pub template: Template,
    pub ttl_seconds_after_finished: Option<i64>,
    /// `NonIndexed` or `Indexed`.
    #[serde(deserialize_with = "interned")]
    pub completion_mode: Str,
    #[serde(deserialize_with = "null_default")]
    pub suspend: bool,
    pub pod_failure_policy: Option<k8s_openapi::api::batch::v1::PodFailurePolicy>,
    pub success_policy: Option<k8s_openapi::api::batch::v1::SuccessPolicy>,
    #[serde(deserialize_with = "interned")]
    pub pod_replacement_policy: Str,
    #[serde(deserialize_with = "interned")]
    pub managed_by: Str,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct JobStatus {
    #[serde(deserialize_with = "null_default")]
    pub conditions: Vec<Condition>,
    pub start_time: Option<Timestamp>,
    pub completion_time: Option<Timestamp>,
    pub active: i64,
    pub succeeded: i64,
    pub failed: i64,
    pub terminating: Option<i64>,
    pub ready: Option<i64>,
    #[serde(deserialize_with = "null_default")]
    pub completed_indexes: Str,
    pub failed_indexes: Option<Str>,
    pub uncounted_terminated_pods: Option<Uncounted>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Uncounted {
    #[serde(deserialize_with = "null_default")]
    pub succeeded: Vec<Str>,
    #[serde(deserialize_with = "null_default")]
    pub failed: Vec<Str>,
}

impl Spec for JobSpec {
    type Status = JobStatus;
    const RESOURCE: Resource = Resource::new("batch", "v1", "Job", "jobs", true);
}

/// A cron job.
pub type CronJob = Obj<CronJobSpec>;

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct CronJobSpec {
    #[serde(deserialize_with = "null_default")]
    pub schedule: Str,
    pub time_zone: Option<Str>,
    pub starting_deadline_seconds: Option<i64>,
    #[serde(deserialize_with = "interned")]
    pub concurrency_policy: Str,
    #[serde(deserialize_with = "null_default")]
    pub suspend: bool,
    /// metadata and spec of the jobs to make.
    pub job_template: Template,
    pub successful_jobs_history_limit: Option<i64>,
    pub failed_jobs_history_limit: Option<i64>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct CronJobStatus {
    #[serde(deserialize_with = "null_default")]
    pub active: Vec<Value>,
    pub last_schedule_time: Option<Timestamp>,
    pub last_successful_time: Option<Timestamp>,
}

impl Spec for CronJobSpec {
    type Status = CronJobStatus;
    const RESOURCE: Resource = Resource::new("batch", "v1", "CronJob", "cronjobs", true);
}
