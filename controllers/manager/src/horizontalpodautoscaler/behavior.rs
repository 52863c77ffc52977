//! How fast and how far the number of replicas may move (upstream: normalizeDesiredReplicasWithBehaviors). Pure.

use serde::Deserialize;
use skeg_controller_runtime::{Timestamp, clock};

use super::calculator::{TOLERANCE, Tolerance};

/// spec.behavior.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Behavior {
    pub scale_up: Option<Rules>,
    pub scale_down: Option<Rules>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Rules {
    pub stabilization_window_seconds: Option<i64>,
    /// `Max`, `Min` or `Disabled`.
    pub select_policy: Option<String>,
    pub policies: Option<Vec<Policy>>,
    pub tolerance: Option<skeg_controller_runtime::quantity::Quantity>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Policy {
    /// `Pods` or `Percent`.
    #[serde(rename = "type")]
    pub kind: String,
    pub value: i64,
    pub period_seconds: i64,
}

/// What was recommended and what was done, oldest first, as far back as the rules look.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    pub recommended: Vec<(Timestamp, i64)>,
    /// By how many replicas it was changed.
    pub changes: Vec<(Timestamp, i64)>,
}

impl Memory {
    /// Forgets what no rule looks back to.
    pub fn trim(&mut self, now: Timestamp) {
        let recent = |(at, _): &(Timestamp, i64)| clock::after(*at, 3600) > now;
        self.recommended.retain(recent);
        self.changes.retain(recent);
    }
    fn changed(&self, now: Timestamp, seconds: i64, up: bool) -> i64 {
        let recent = |(at, by): &&(Timestamp, i64)| clock::after(*at, seconds) > now && (*by > 0) == up;
        self.changes.iter().filter(recent).map(|(_, by)| by.abs()).sum()
    }
}

impl Behavior {
    pub fn tolerance(&self) -> Tolerance {
        let of = |rules: &Option<Rules>| {
            rules.as_ref().and_then(|r| r.tolerance).map_or(TOLERANCE, |q| q.nanos as f64 / 1e9)
        };
        Tolerance { down: of(&self.scale_down), up: of(&self.scale_up) }
    }
}

/// The number of replicas, and what limits it: (type-independent reason, message); `None`: nothing does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limited {
    pub replicas: i64,
    /// Recommendations of the past keep it from moving.
    pub stabilized: Option<(&'static str, &'static str)>,
    pub limit: Option<(&'static str, &'static str)>,
}

/// What comes of a recommendation. It is remembered.
pub fn limit(
    now: Timestamp,
    behavior: Option<&Behavior>,
    memory: &mut Memory,
    (least, most): (i64, i64),
    current: i64,
    wanted: i64,
) -> Limited {
    let rules = |of: fn(&Behavior) -> &Option<Rules>| behavior.and_then(|b| of(b).clone()).unwrap_or_default();
    let (up, down) = (rules(|b| &b.scale_up), rules(|b| &b.scale_down));
    let (steady, stabilized) = stabilize(now, &up, &down, memory, current, wanted);
    memory.recommended.push((now, wanted));
    memory.trim(now);
    let (mut replicas, mut limit) = (steady, None);
    if steady > current {
        // Without any rules a doubling at a time, or four.
        let fastest = if behavior.is_none() { (2 * current).max(4) } else { highest(now, &up, memory, current) };
        if steady > fastest {
            replicas = fastest;
            limit =
                Some(("ScaleUpLimit", "the desired replica count is increasing faster than the maximum scale rate"));
        }
        if replicas > most {
            replicas = most;
            limit = Some(("TooManyReplicas", "the desired replica count is more than the maximum replica count"));
        }
    } else if steady < current {
        let slowest = lowest(now, &down, memory, current);
        if steady < slowest {
            replicas = slowest;
            limit =
                Some(("ScaleDownLimit", "the desired replica count is decreasing faster than the maximum scale rate"));
        }
    }
    if replicas > most {
        replicas = most;
        limit = Some(("TooManyReplicas", "the desired replica count is more than the maximum replica count"));
    }
    if replicas < least {
        replicas = least;
        limit = Some(("TooFewReplicas", "the desired replica count is less than the minimum replica count"));
    }
    Limited { replicas, stabilized, limit }
}

fn stabilize(
    now: Timestamp,
    up: &Rules,
    down: &Rules,
    memory: &Memory,
    current: i64,
    wanted: i64,
) -> (i64, Option<(&'static str, &'static str)>) {
    let since = |seconds: i64| {
        memory.recommended.iter().filter(move |(at, _)| clock::after(*at, seconds) > now).map(|(_, n)| *n)
    };
    let up_seconds = up.stabilization_window_seconds.unwrap_or(0);
    let down_seconds = down.stabilization_window_seconds.unwrap_or(300);
    let ceiling = since(up_seconds).chain([wanted]).min().unwrap_or(wanted);
    let floor = since(down_seconds).chain([wanted]).max().unwrap_or(wanted);
    // Up as far as all of the window agrees, down as far as any of it allows.
    let steady = current.max(ceiling).min(floor);
    if steady == wanted {
        return (steady, None);
    }
    let why = if wanted >= current {
        (
            "ScaleUpStabilized",
            "recent recommendations were lower than current one, applying the lowest recent recommendation",
        )
    } else {
        (
            "ScaleDownStabilized",
            "recent recommendations were higher than current one, applying the highest recent recommendation",
        )
    };
    (steady, Some(why))
}

/// Without rules: four pods or a doubling each 15 seconds, whichever is more.
fn highest(now: Timestamp, rules: &Rules, memory: &Memory, current: i64) -> i64 {
    let usual = || {
        vec![
            Policy { kind: "Pods".to_owned(), value: 4, period_seconds: 15 },
            Policy { kind: "Percent".to_owned(), value: 100, period_seconds: 15 },
        ]
    };
    let select = rules.select_policy.as_deref().unwrap_or("Max");
    if select == "Disabled" {
        return current;
    }
    let policies = rules.policies.clone().unwrap_or_else(usual);
    let limits = policies.iter().map(|p| {
        let added = memory.changed(now, p.period_seconds, true);
        let removed = memory.changed(now, p.period_seconds, false);
        let start = current - added + removed;
        if p.kind == "Pods" { start + p.value } else { (start as f64 * (1.0 + p.value as f64 / 100.0)).ceil() as i64 }
    });
    let chosen = if select == "Min" { limits.min() } else { limits.max() };
    chosen.unwrap_or(current).max(current)
}

/// Without rules: all at once.
fn lowest(now: Timestamp, rules: &Rules, memory: &Memory, current: i64) -> i64 {
    let usual = || vec![Policy { kind: "Percent".to_owned(), value: 100, period_seconds: 15 }];
    let select = rules.select_policy.as_deref().unwrap_or("Max");
    if select == "Disabled" {
        return current;
    }
    let policies = rules.policies.clone().unwrap_or_else(usual);
    let limits = policies.iter().map(|p| {
        let added = memory.changed(now, p.period_seconds, true);
        let removed = memory.changed(now, p.period_seconds, false);
        let start = current - added + removed;
        if p.kind == "Pods" { start - p.value } else { (start as f64 * (1.0 - p.value as f64 / 100.0)) as i64 }
    });
    let chosen = if select == "Min" { limits.max() } else { limits.min() };
    chosen.unwrap_or(current).min(current).max(0)
}
