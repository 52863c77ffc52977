//! Scales workloads by the resources that their pods use (upstream: pkg/controller/podautoscaler). Reads metrics.k8s.io,
//! which a metrics server adds to a cluster; metrics of custom.metrics.k8s.io and external.metrics.k8s.io are not read.

mod behavior;
mod calculator;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use hashbrown::HashMap;
use serde::Deserialize;
use serde_json::{Value, json};
use skeg_controller_runtime::objects::Pod;
use skeg_controller_runtime::quantity::{Format, Quantity};
use skeg_controller_runtime::{
    Clock, Controller, Error, EventRecorder, Meta, Obj, Object, Outcome, Resource, Selector, Spec, Store, Str,
    Timestamp, WorkQueue, clock, run_controller,
};

use crate::context::Context;
use crate::discovery::discover;
use behavior::{Behavior, Memory};
use calculator::{Question, Sample, Samples, Target, Tolerance, Verdict};

/// How often each autoscaler is looked at (--horizontal-pod-autoscaler-sync-period).
const PERIOD: Duration = Duration::from_secs(15);

/// A HorizontalPodAutoscaler; its status as it came.
pub type Autoscaler = Obj<AutoscalerSpec>;

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct AutoscalerSpec {
    pub scale_target_ref: ScaleTarget,
    pub min_replicas: Option<i64>,
    pub max_replicas: i64,
    pub metrics: Vec<Value>,
    pub behavior: Option<Behavior>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ScaleTarget {
    pub api_version: String,
    pub kind: String,
    pub name: String,
}

impl Spec for AutoscalerSpec {
    type Status = Value;
    const RESOURCE: Resource =
        Resource::new("autoscaling", "v2", "HorizontalPodAutoscaler", "horizontalpodautoscalers", true);
}

struct Autoscalers {
    autoscalers: Arc<Store<Autoscaler>>,
    pods: Arc<Store<Pod>>,
    memories: Mutex<HashMap<Str, Memory>>,
    events: EventRecorder,
    clock: Arc<dyn Clock>,
}

pub(crate) async fn run(context: Context) {
    let queue = Arc::new(WorkQueue::new());
    let autoscalers = context.stores.get::<Autoscaler>();
    let line = queue.clone();
    autoscalers.subscribe(move |change| {
        // The status is our own; what changes otherwise is looked at soon.
        if change.old().is_none_or(|old| old.metadata.generation != change.object().metadata.generation) {
            line.add(change.object().metadata.key());
        }
    });
    let controller = Autoscalers {
        autoscalers,
        pods: context.stores.get(),
        memories: Mutex::default(),
        events: context.recorder("horizontal-pod-autoscaler"),
        clock: context.clock.clone(),
    };
    run_controller(Arc::new(controller), queue, 5, context.shutdown).await;
}

/// The conditions and current metrics that a look at an autoscaler gathers.
struct Look {
    now: Timestamp,
    conditions: Vec<Value>,
    metrics: Vec<Value>,
}

impl Look {
    fn set(&mut self, kind: &str, status: &str, reason: &str, message: impl Into<String>) {
        let now = clock::rfc3339(self.now);
        let old = self.conditions.iter().position(|c| c["type"] == kind);
        let since = old.map(|at| &self.conditions[at]).filter(|c| c["status"] == status);
        let since = since.map_or_else(|| json!(now), |c| c["lastTransitionTime"].clone());
        let condition = json!({"type": kind, "status": status, "reason": reason, "message": message.into(),
            "lastTransitionTime": since});
        match old {
            Some(at) => self.conditions[at] = condition,
            None => self.conditions.push(condition),
        }
    }
}

/// The status after a look: without a scale (its replicas before) nothing but conditions is known anew.
fn status(old: &Value, look: Look, replicas: Option<i64>, desired: Option<i64>) -> Value {
    let mut status = if old.is_object() { old.clone() } else { json!({}) };
    status["conditions"] = json!(look.conditions);
    let Some(replicas) = replicas else { return status };
    if let Some(fields) = status.as_object_mut() {
        fields.retain(|field, _| field == "conditions" || field == "lastScaleTime");
    }
    status["currentReplicas"] = json!(replicas);
    status["desiredReplicas"] = json!(desired.unwrap_or_else(|| old["desiredReplicas"].as_i64().unwrap_or(0)));
    if !look.metrics.is_empty() {
        status["currentMetrics"] = json!(look.metrics);
    }
    if desired.is_some_and(|desired| desired != replicas) {
        status["lastScaleTime"] = json!(clock::rfc3339(look.now));
    }
    status
}

/// The scale of a target.
struct Scale {
    path: String,
    replicas: i64,
    selector: String,
    body: Value,
}

#[async_trait]
impl Controller for Autoscalers {
    type Key = Str;
    fn name(&self) -> &'static str {
        "horizontal-pod-autoscaler-controller"
    }
    async fn synced(&self) {
        self.autoscalers.synced().await;
        self.pods.synced().await;
    }
    async fn reconcile(&self, key: &Str) -> Result<Outcome, Error> {
        let Some(autoscaler) = self.autoscalers.get(key) else {
            self.memories().remove(key);
            return Ok(Outcome::Done);
        };
        let now = self.clock.now();
        let conditions = autoscaler.status["conditions"].as_array().cloned().unwrap_or_default();
        let mut look = Look { now, conditions, metrics: Vec::new() };
        let (scale, desired) = self.look(&autoscaler, &mut look).await;
        let status = status(&autoscaler.status, look, scale.map(|scale| scale.replicas), desired);
        self.autoscalers.write_status(&autoscaler.metadata, &autoscaler.status, &status).await?;
        Ok(Outcome::After(PERIOD))
    }
}

impl Autoscalers {
    fn memories(&self) -> std::sync::MutexGuard<'_, HashMap<Str, Memory>> {
        self.memories.lock().expect("nothing panics with the table locked")
    }

    /// The target's scale before, and what it was asked to be; `None` where that is not known.
    async fn look(&self, autoscaler: &Autoscaler, look: &mut Look) -> (Option<Scale>, Option<i64>) {
        let about = autoscaler.object_ref();
        let scale = match self.scale(autoscaler).await {
            Ok(scale) => scale,
            Err(why) => {
                self.events.warning(&about, "FailedGetScale", why.clone());
                let text = format!("the HPA controller was unable to get the target's current scale: {why}");
                look.set("AbleToScale", "False", "FailedGetScale", text);
                return (None, None);
            }
        };
        let text = "the HPA controller was able to get the target's current scale";
        look.set("AbleToScale", "True", "SucceededGetScale", text);
        let spec = &autoscaler.spec;
        let (least, most, current) = (spec.min_replicas.unwrap_or(1), spec.max_replicas, scale.replicas);
        let (desired, reason) = if current == 0 && least != 0 {
            let text = "scaling is disabled since the replica count of the target is zero";
            look.set("ScalingActive", "False", "ScalingDisabled", text);
            return (Some(scale), Some(0));
        } else if current > most {
            (most, "Current number of replicas above Spec.MaxReplicas".to_owned())
        } else if current < least {
            (least, "Current number of replicas below Spec.MinReplicas".to_owned())
        } else {
            match self.by_metrics(autoscaler, &scale, look).await {
                Some(found) => found,
                None => return (Some(scale), None),
            }
        };
        if desired != current
            && let Err(error) = self.rescale(&scale, desired).await
        {
            let why = error.message();
            let text = format!("New size: {desired}; reason: {reason}; error: {why}");
            self.events.warning(&about, "FailedRescale", text);
            let text = format!("the HPA controller was unable to update the target scale: {why}");
            look.set("AbleToScale", "False", "FailedUpdateScale", text);
            return (Some(scale), None);
        }
        if desired != current {
            let text = format!("New size: {desired}; reason: {reason}");
            self.events.normal(&about, "SuccessfulRescale", text);
            let text = format!("the HPA controller was able to update the target scale to {desired}");
            look.set("AbleToScale", "True", "SucceededRescale", text);
            let mut memories = self.memories();
            let memory = memories.entry(autoscaler.metadata.key()).or_default();
            memory.changes.push((look.now, desired - current));
        }
        (Some(scale), Some(desired))
    }

    /// (replicas, reason) that the metrics ask for, within the limits.
    async fn by_metrics(&self, autoscaler: &Autoscaler, scale: &Scale, look: &mut Look) -> Option<(i64, String)> {
        let current = scale.replicas;
        let about = autoscaler.object_ref();
        if scale.selector.is_empty() {
            self.events.warning(&about, "SelectorRequired", "selector is required");
            let text = "the HPA target's scale is missing a selector";
            look.set("ScalingActive", "False", "InvalidSelector", text);
            self.events.warning(&about, "FailedComputeMetricsReplicas", "selector is required");
            return None;
        }
        let (mut wanted, mut by, mut failures) = (None::<i64>, String::new(), Vec::new());
        for metric in &autoscaler.spec.metrics {
            match self.metric(autoscaler, scale, metric).await {
                Ok((verdict, name, status)) => {
                    look.metrics.push(status);
                    if wanted.is_none_or(|most| verdict.replicas > most) {
                        wanted = Some(verdict.replicas);
                        by = name;
                    }
                }
                Err((reason, why)) => {
                    // Each metric has its place in the status.
                    look.metrics.push(json!({"type": ""}));
                    self.events.warning(&about, reason, why.clone());
                    failures.push((metric, reason, why));
                }
            }
        }
        if let Some((metric, reason, why)) = failures.first() {
            // What is known may still ask for more, never for less.
            if wanted.is_none_or(|wanted| wanted < current) {
                let text = format!("the HPA was unable to compute the replica count: {why}");
                look.set("ScalingActive", "False", reason, text);
                let (failed, all) = (failures.len(), autoscaler.spec.metrics.len());
                let text = format!(
                    "invalid metrics ({failed} invalid out of {all}), first error is: {}: {why}",
                    failed_get(metric)
                );
                self.events.warning(&about, "FailedComputeMetricsReplicas", text);
                return None;
            }
        }
        let wanted = wanted?;
        let text = format!("the HPA was able to successfully calculate a replica count from {by}");
        look.set("ScalingActive", "True", "ValidMetricFound", text);
        let limits = (autoscaler.spec.min_replicas.unwrap_or(1), autoscaler.spec.max_replicas);
        let mut memories = self.memories();
        let memory = memories
            .entry(autoscaler.metadata.key())
            .or_insert_with(|| Memory { recommended: vec![(look.now, current)], changes: Vec::new() });
        let limited = behavior::limit(look.now, autoscaler.spec.behavior.as_ref(), memory, limits, current, wanted);
        let (reason, text) =
            limited.stabilized.unwrap_or(("ReadyForNewScale", "recommended size matches current size"));
        look.set("AbleToScale", "True", reason, text);
        match limited.limit {
            Some((reason, text)) => look.set("ScalingLimited", "True", reason, text),
            None => {
                let text = "the desired count is within the acceptable range";
                look.set("ScalingLimited", "False", "DesiredWithinRange", text);
            }
        }
        let reason = match limited.replicas.cmp(&current) {
            std::cmp::Ordering::Greater => format!("{by} above target"),
            _ => "All metrics below target".to_owned(),
        };
        Some((limited.replicas, reason))
    }

    async fn scale(&self, autoscaler: &Autoscaler) -> Result<Scale, String> {
        let target = &autoscaler.spec.scale_target_ref;
        let group = target.api_version.split_once('/').map_or("", |(group, _)| group);
        let api = self.autoscalers.api();
        let served = discover(api).await.map_err(|e| e.message())?.resources;
        let same = |r: &Resource| r.group == group && r.kind == *target.kind;
        let Some(resource) = served.into_iter().map(|s| s.resource).find(same) else {
            return Err(format!("no matches for kind {:?} in group {group:?}", target.kind));
        };
        let path = resource.path(&autoscaler.metadata.namespace, &target.name, "scale");
        let body: Value = api.get_path(&path).await.map_err(|e| e.message())?;
        Ok(Scale {
            replicas: body["spec"]["replicas"].as_i64().unwrap_or(0),
            selector: body["status"]["selector"].as_str().unwrap_or("").to_owned(),
            path,
            body,
        })
    }

    async fn rescale(&self, scale: &Scale, replicas: i64) -> Result<(), Error> {
        let mut body = scale.body.clone();
        body["spec"]["replicas"] = json!(replicas);
        self.autoscalers.api().put_path::<Value>(&scale.path, &body).await.map(|_| ())
    }

    /// (verdict, name in messages, status), or (reason, message).
    async fn metric(
        &self,
        autoscaler: &Autoscaler,
        scale: &Scale,
        metric: &Value,
    ) -> Result<(Verdict, String, Value), (&'static str, String)> {
        let (kind, field) = match metric["type"].as_str().unwrap_or("") {
            "Resource" => ("Resource", "resource"),
            "ContainerResource" => ("ContainerResource", "containerResource"),
            "Pods" => return Err(unread("FailedGetPodsMetric", "custom")),
            "Object" => return Err(unread("FailedGetObjectMetric", "custom")),
            "External" => return Err(unread("FailedGetExternalMetric", "external")),
            other => return Err(("InvalidMetricSourceType", format!("unknown metric source type {other:?}"))),
        };
        let reason = if kind == "Resource" { "FailedGetResourceMetric" } else { "FailedGetContainerResourceMetric" };
        let source = &metric[field];
        let (name, container) = (source["name"].as_str().unwrap_or(""), source["container"].as_str());
        let failed = |why: String| (reason, format!("failed to get {name} {}: {why}", describe(&source["target"])));
        let target = target(&source["target"]).map_err(failed)?;
        let namespace = &autoscaler.metadata.namespace;
        let samples = self
            .samples(namespace, &scale.selector, name, container)
            .await
            .map_err(|why| failed(format!("unable to get metrics for resource {name}: {why}")))?;
        let selector = parse_selector(&scale.selector);
        let mut pods = self.pods.in_namespace(namespace);
        pods.retain(|p| selector.matches(&p.metadata.labels));
        let requests = |pod: &Pod| requests(pod, name, container);
        let tolerance = autoscaler.spec.behavior.as_ref().map_or_else(Tolerance::default, Behavior::tolerance);
        let verdict = calculator::answer(&Question {
            now: self.clock.now(),
            current: scale.replicas,
            pods: &pods,
            samples: &samples,
            target,
            cpu: name == "cpu",
            tolerance,
            requests: &requests,
        })
        .map_err(failed)?;
        let mut current = json!({"averageValue": printed(name, verdict.average)});
        if let Some(percent) = verdict.utilization {
            current["averageUtilization"] = json!(percent);
        }
        let mut status = json!({"type": kind, field: {"name": name, "current": current}});
        let mut told = format!("{name} resource");
        if let Some(container) = container {
            status[field]["container"] = json!(container);
            told = format!("{name} container resource");
        }
        let by = if verdict.utilization.is_some() { " utilization (percentage of request)" } else { "" };
        Ok((verdict, format!("{told}{by}"), status))
    }

    /// What the pods used of a resource, as metrics.k8s.io says.
    async fn samples(
        &self,
        namespace: &str,
        selector: &str,
        resource: &str,
        container: Option<&str>,
    ) -> Result<Samples, String> {
        let metrics = Resource::new("metrics.k8s.io", "v1beta1", "PodMetrics", "pods", true);
        let selector: String = selector
            .bytes()
            .map(|b| if b.is_ascii_alphanumeric() { char::from(b).to_string() } else { format!("%{b:02X}") })
            .collect();
        let path = format!("{}?labelSelector={selector}", metrics.path(namespace, "", ""));
        let failed = |e: Error| format!("unable to fetch metrics from resource metrics API: {}", e.message());
        let list: MetricsList = self.autoscalers.api().get_path(&path).await.map_err(failed)?;
        if list.items.is_empty() {
            return Err("no metrics returned from resource metrics API".to_owned());
        }
        Ok(list.items.into_iter().filter_map(|item| item.sample(resource, container)).collect())
    }
}

/// What could not be had, as the message about a whole look begins.
fn failed_get(metric: &Value) -> String {
    let text = |path| metric.pointer(path).and_then(Value::as_str).unwrap_or_default();
    match metric["type"].as_str().unwrap_or_default() {
        "Resource" => format!("failed to get {} resource metric value", text("/resource/name")),
        "ContainerResource" => format!("failed to get {} container metric value", text("/containerResource/container")),
        "External" => format!("failed to get {} external metric value", text("/external/metric/name")),
        kind => format!("failed to get {} metric value", kind.to_lowercase()),
    }
}

fn unread(reason: &'static str, api: &str) -> (&'static str, String) {
    (reason, format!("unable to get metric: {api}.metrics.k8s.io is not read by this autoscaler"))
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct MetricsList {
    items: Vec<PodMetrics>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct PodMetrics {
    metadata: Meta,
    timestamp: Option<Timestamp>,
    window: String,
    containers: Vec<ContainerMetrics>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ContainerMetrics {
    name: String,
    usage: std::collections::BTreeMap<String, Quantity>,
}

impl PodMetrics {
    /// `None` if a container that counts says nothing.
    fn sample(self, resource: &str, container: Option<&str>) -> Option<(Str, Sample)> {
        let mut counted = self.containers.iter().filter(|c| container.is_none_or(|name| c.name == name)).peekable();
        counted.peek()?;
        let mut value = 0;
        for container in counted {
            value += container.usage.get(resource)?.milli();
        }
        Some((self.metadata.name, Sample { value, at: self.timestamp, window: seconds(&self.window) }))
    }
}

/// Whole seconds of a duration as Go prints it (`1m30s`, `30.5s`).
fn seconds(text: &str) -> i64 {
    let (mut total, mut number) = (0.0, String::new());
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            '0'..='9' | '.' => number.push(c),
            'm' if rest.peek() == Some(&'s') => break,
            'h' | 'm' | 's' => {
                let unit = if c == 'h' {
                    3600.0
                } else if c == 'm' {
                    60.0
                } else {
                    1.0
                };
                total += number.parse::<f64>().unwrap_or(0.0) * unit;
                number.clear();
            }
            _ => break,
        }
    }
    total as i64
}

fn target(target: &Value) -> Result<Target, String> {
    if let Some(percent) = target["averageUtilization"].as_i64() {
        return Ok(Target::Utilization(percent));
    }
    let amount = serde_json::from_value::<Quantity>(target["averageValue"].clone()).ok().filter(|q| !q.is_zero());
    let missing =
        || "invalid resource metric source: neither an average utilization target nor an average value target was set";
    amount.map(|q| Target::Average(q.milli())).ok_or_else(|| missing().to_owned())
}

fn describe(target: &Value) -> &'static str {
    if target["averageUtilization"].is_null() { "usage" } else { "utilization" }
}

/// An amount of thousandths as the resource is usually written.
fn printed(resource: &str, milli: i64) -> String {
    let format = if resource == "memory" { Format::BinarySi } else { Format::DecimalSi };
    Quantity { nanos: i128::from(milli) * 1_000_000, format }.to_string()
}

/// What the containers of a pod (or one of them) ask for.
fn requests(pod: &Pod, resource: &str, container: Option<&str>) -> Result<i64, String> {
    let sidecars = pod.spec.init_containers.iter().filter(|c| c.sidecar);
    let counted = pod.spec.containers.iter().chain(sidecars).filter(|c| container.is_none_or(|name| c.name == *name));
    let mut sum = 0;
    for c in counted {
        let amount = c.requests.get(resource);
        if amount == 0 {
            return Err(format!("missing request for {resource} in container {} of Pod {}", c.name, pod.metadata.name));
        }
        sum += if resource == "cpu" { amount } else { amount.saturating_mul(1000) };
    }
    Ok(sum)
}

/// A selector as it stands in the status of a scale (`a=b,c in (d,e),!f`).
fn parse_selector(text: &str) -> Selector {
    let mut parts: Vec<String> = vec![String::new()];
    let mut depth = 0;
    for c in text.chars() {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(String::new());
                continue;
            }
            _ => {}
        }
        parts.last_mut().expect("there is always a part").push(c);
    }
    let requirement = |part: &str| -> Value {
        let values = |list: &str| -> Vec<String> {
            list.trim().trim_matches(['(', ')']).split(',').map(|v| v.trim().to_owned()).collect()
        };
        if let Some((key, list)) = part.split_once(" notin ") {
            json!({"key": key.trim(), "operator": "NotIn", "values": values(list)})
        } else if let Some((key, list)) = part.split_once(" in ") {
            json!({"key": key.trim(), "operator": "In", "values": values(list)})
        } else if let Some((key, value)) = part.split_once("!=") {
            json!({"key": key.trim(), "operator": "NotIn", "values": [value.trim()]})
        } else if let Some((key, value)) = part.split_once('=') {
            json!({"key": key.trim(), "operator": "In", "values": [value.trim_start_matches('=').trim()]})
        } else if let Some(key) = part.strip_prefix('!') {
            json!({"key": key.trim(), "operator": "DoesNotExist"})
        } else {
            json!({"key": part.trim(), "operator": "Exists"})
        }
    };
    let list: Vec<Value> = parts.iter().map(|p| p.trim()).filter(|p| !p.is_empty()).map(requirement).collect();
    serde_json::from_value(json!({"matchExpressions": list})).unwrap_or_default()
}
