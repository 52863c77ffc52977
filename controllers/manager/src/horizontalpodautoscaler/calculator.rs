//! How many replicas a metric asks for (upstream: pkg/controller/podautoscaler/replica_calculator.go). Pure. Amounts are
//! thousandths.

use std::collections::BTreeMap;
use std::sync::Arc;

use skeg_controller_runtime::objects::{Phase, Pod};
use skeg_controller_runtime::{Str, Timestamp, clock};

/// A share of the target that is close enough to it.
pub const TOLERANCE: f64 = 0.1;
/// CPU use of a pod that started this recently says little.
const INITIALIZATION_SECONDS: i64 = 300;
/// A pod that was never ready since then is starting.
const READINESS_DELAY_SECONDS: i64 = 30;

/// What a pod used: thousandths, measured until `at` over `window` seconds.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    pub value: i64,
    pub at: Option<Timestamp>,
    pub window: i64,
}

pub type Samples = BTreeMap<Str, Sample>;

/// What a metric is to be: a share of the requests in percent, or an amount for each pod.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Target {
    Utilization(i64),
    Average(i64),
}

/// What a metric says.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Verdict {
    pub replicas: i64,
    /// In percent of the requests, where that is asked for.
    pub utilization: Option<i64>,
    pub average: i64,
}

#[derive(Clone, Copy, PartialEq)]
enum State {
    Counts,
    Unready,
    Missing,
    Ignored,
}

fn state(now: Timestamp, pod: &Pod, sample: Option<&Sample>, cpu: bool) -> State {
    if pod.metadata.deleting() || pod.status.phase == Phase::Failed {
        return State::Ignored;
    }
    if pod.status.phase == Phase::Pending {
        return State::Unready;
    }
    let Some(sample) = sample else { return State::Missing };
    if !cpu {
        return State::Counts;
    }
    let (Some(ready), Some(started)) = (pod.condition("Ready"), pod.status.start_time) else { return State::Unready };
    let changed = ready.last_transition_time.unwrap_or(started);
    let unready = if clock::after(started, INITIALIZATION_SECONDS) > now {
        ready.status == "False" || sample.at.is_some_and(|at| at < clock::after(changed, sample.window))
    } else {
        ready.status == "False" && clock::after(started, READINESS_DELAY_SECONDS) > changed
    };
    if unready { State::Unready } else { State::Counts }
}

/// Tolerated deviations, below and above.
#[derive(Clone, Copy, Debug)]
pub struct Tolerance {
    pub down: f64,
    pub up: f64,
}

impl Default for Tolerance {
    fn default() -> Self {
        Self { down: TOLERANCE, up: TOLERANCE }
    }
}

impl Tolerance {
    fn covers(self, ratio: f64) -> bool {
        (1.0 - self.down..=1.0 + self.up).contains(&ratio)
    }
}

/// The question about one metric of the pods.
pub struct Question<'a> {
    pub now: Timestamp,
    pub current: i64,
    pub pods: &'a [Arc<Pod>],
    pub samples: &'a Samples,
    pub target: Target,
    /// Start-up is told apart for this resource only.
    pub cpu: bool,
    pub tolerance: Tolerance,
    /// What each pod asked for, in thousandths; the error names what is missing.
    pub requests: &'a dyn Fn(&Pod) -> Result<i64, String>,
}

/// The answer, or why there is none.
pub fn answer(question: &Question<'_>) -> Result<Verdict, String> {
    let mut values: BTreeMap<&str, i64> = BTreeMap::new();
    let (mut unready, mut missing, mut ready) = (Vec::new(), Vec::new(), 0);
    for pod in question.pods {
        match state(question.now, pod, question.samples.get(&pod.metadata.name), question.cpu) {
            State::Counts => {
                ready += 1;
                values.insert(&pod.metadata.name, question.samples[&pod.metadata.name].value);
            }
            State::Unready => unready.push(pod),
            State::Missing => missing.push(pod),
            State::Ignored => {}
        }
    }
    if values.is_empty() {
        return Err("did not receive metrics for targeted pods (pods might be unready)".to_owned());
    }
    let measure = |values: &BTreeMap<&str, i64>| measure(question, values);
    let (ratio, verdict) = measure(&values)?;
    let grows_with_unready = !unready.is_empty() && ratio > 1.0;
    if !grows_with_unready && missing.is_empty() {
        let steady = question.tolerance.covers(ratio);
        let replicas = if steady { question.current } else { ceil(ratio * f64::from(ready)) };
        return Ok(Verdict { replicas, ..verdict });
    }
    // Pods that say nothing are taken as what speaks against the change.
    for pod in missing {
        let assumed = if ratio < 1.0 { assumed_when_shrinking(question, pod)? } else { 0 };
        values.insert(&pod.metadata.name, assumed);
    }
    if grows_with_unready {
        unready.iter().for_each(|pod| {
            values.insert(&pod.metadata.name, 0);
        });
    }
    let (careful, _) = measure(&values)?;
    let turned = (ratio < 1.0 && careful > 1.0) || (ratio > 1.0 && careful < 1.0);
    let replicas = ceil(careful * values.len() as f64);
    let against = (careful < 1.0 && replicas > question.current) || (careful > 1.0 && replicas < question.current);
    let stay = question.tolerance.covers(careful) || turned || against;
    Ok(Verdict { replicas: if stay { question.current } else { replicas }, ..verdict })
}

fn assumed_when_shrinking(question: &Question<'_>, pod: &Pod) -> Result<i64, String> {
    match question.target {
        Target::Average(amount) => Ok(amount),
        Target::Utilization(percent) => Ok((question.requests)(pod)? * percent.max(100) / 100),
    }
}

/// How far the pods are from the target, and what they use.
fn measure(question: &Question<'_>, values: &BTreeMap<&str, i64>) -> Result<(f64, Verdict), String> {
    let total: i64 = values.values().sum();
    let count = i64::try_from(values.len()).unwrap_or(i64::MAX);
    let average = total / count;
    let verdict = Verdict { replicas: 0, utilization: None, average };
    let percent = match question.target {
        Target::Average(amount) => return Ok((average as f64 / amount.max(1) as f64, verdict)),
        Target::Utilization(percent) => percent,
    };
    let mut requested = 0;
    for pod in question.pods.iter().filter(|p| values.contains_key(p.metadata.name.as_str())) {
        requested += (question.requests)(pod)?;
    }
    if requested == 0 {
        return Err("no metrics returned matched known pods".to_owned());
    }
    let utilization = total * 100 / requested;
    let verdict = Verdict { utilization: Some(utilization), ..verdict };
    Ok((utilization as f64 / percent.max(1) as f64, verdict))
}

fn ceil(replicas: f64) -> i64 {
    replicas.ceil() as i64
}
