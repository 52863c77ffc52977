//! Which pods make way for a critical one that the node has no room for (upstream: pkg/kubelet/preemption). Pure.

use crate::agent::NodeView;
use crate::pod;
use crate::quantity::{milli_of, value_of};
use crate::resources::{self, Qos, totals};
use k8s_openapi::api::core::v1::Pod;

/// From this priority on a pod is critical.
pub const CRITICAL: i32 = 2_000_000_000;

/// CPU in thousandths, bytes of memory, pods.
type Needs = [i64; 3];

/// Whether a pod is admitted at the cost of others.
pub fn is_critical(pod: &Pod) -> bool {
    pod::is_static(pod) || pod::spec(pod).priority.is_some_and(|p| p >= CRITICAL)
}

fn gives(pod: &Pod) -> Needs {
    let of = totals(pod);
    [of.cpu_request, of.memory_request, 1]
}

fn preemptable(by: &Pod, other: &Pod) -> bool {
    let priority = |p: &Pod| pod::spec(p).priority.unwrap_or(0);
    (is_critical(by) && !is_critical(other)) || priority(by) > priority(other)
}

/// What is missing for `pod` besides `others`.
fn missing(pod: &Pod, others: &[&Pod], node: &NodeView, max_pods: u32) -> Needs {
    let used = others.iter().map(|p| gives(p)).fold([0; 3], |a, b| [a[0] + b[0], a[1] + b[1], a[2] + b[2]]);
    let capacity = [
        milli_of(Some(&node.allocatable), "cpu").unwrap_or(i64::MAX),
        value_of(Some(&node.allocatable), "memory").unwrap_or(i64::MAX),
        i64::from(max_pods),
    ];
    let wanted = gives(pod);
    std::array::from_fn(|i| if wanted[i] == 0 { 0 } else { (wanted[i] + used[i] - capacity[i]).max(0) })
}

fn subtract(needs: Needs, pods: &[&Pod]) -> Needs {
    pods.iter().map(|p| gives(p)).fold(needs, |n, g| std::array::from_fn(|i| (n[i] - g[i]).max(0)))
}

/// How far a pod's end would be from what is needed: 0 is all of it.
fn distance(needs: Needs, pod: &Pod) -> f64 {
    let gives = gives(pod);
    needs
        .iter()
        .zip(gives)
        .filter(|(need, _)| **need > 0)
        .map(|(need, gives)| ((*need - gives).max(0) as f64 / *need as f64).powi(2))
        .sum()
}

/// Few pods of `pods` that give what is needed; none if all of them together do not.
fn nearest(mut pods: Vec<&Pod>, mut needs: Needs) -> Option<Vec<&Pod>> {
    let mut chosen = Vec::new();
    while needs.iter().any(|need| *need > 0) {
        let rank = |p: &&Pod| (distance(needs, p), gives(p)[1], gives(p)[0]);
        let best = (0..pods.len())
            .min_by(|a, b| rank(&pods[*a]).partial_cmp(&rank(&pods[*b])).unwrap_or(std::cmp::Ordering::Equal))?;
        let pod = pods.swap_remove(best);
        needs = subtract(needs, &[pod]);
        chosen.push(pod);
    }
    Some(chosen)
}

/// The pods that have to go so that `pod` fits; none if that cannot be had. Best-effort pods go before burstable ones, and
/// those before guaranteed ones.
pub fn victims<'a>(pod: &Pod, others: &[&'a Pod], node: &NodeView, max_pods: u32) -> Option<Vec<&'a Pod>> {
    let needs = missing(pod, others, node, max_pods);
    let of = |class: Qos| -> Vec<&'a Pod> {
        others.iter().copied().filter(|o| preemptable(pod, o) && resources::qos(o) == class).collect()
    };
    let (best_effort, burstable, guaranteed) = (of(Qos::BestEffort), of(Qos::Burstable), of(Qos::Guaranteed));
    let of_guaranteed = nearest(guaranteed, subtract(subtract(needs, &best_effort), &burstable))?;
    let of_burstable = nearest(burstable, subtract(subtract(needs, &best_effort), &of_guaranteed))?;
    let of_best_effort = nearest(best_effort, subtract(subtract(needs, &of_burstable), &of_guaranteed))?;
    Some(of_best_effort.into_iter().chain(of_burstable).chain(of_guaranteed).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

    fn pod(name: &str, cpu: &str, limit: &str, priority: i32) -> Pod {
        let list = |value: &str| {
            if value.is_empty() { serde_json::json!({}) } else { serde_json::json!({"cpu": value, "memory": "1Mi"}) }
        };
        serde_json::from_value(
            serde_json::json!({"metadata": {"name": name}, "spec": {"priority": priority, "containers": [
            {"name": "c", "resources": {"requests": list(cpu), "limits": list(limit)}}]}}),
        )
        .unwrap()
    }

    #[test]
    fn the_fewest_and_least_assured_pods_make_way() {
        let node = NodeView { allocatable: [("cpu".to_string(), Quantity("1".into()))].into(), ..Default::default() };
        let critical = pod("critical", "500m", "", CRITICAL);
        let (small, large) = (pod("small", "200m", "", 0), pod("large", "600m", "", 0));
        let (sure, other) = (pod("sure", "600m", "600m", 0), pod("other", "900m", "", CRITICAL));
        let names = |others: &[&Pod], max: u32| {
            victims(&critical, others, &node, max)
                .map(|list| list.iter().map(|p| pod::name(p).to_string()).collect::<Vec<_>>().join(" "))
        };
        assert_eq!(names(&[&small], 9).as_deref(), Some(""), "there is room");
        assert_eq!(names(&[&small, &large], 9).as_deref(), Some("large"));
        assert_eq!(names(&[&sure, &small, &small], 9).as_deref(), Some("sure"), "the others are not enough");
        assert_eq!(names(&[&other], 9), None, "another critical pod stays");
        assert_eq!(names(&[&pod("idle", "", "", 0)], 1).as_deref(), Some("idle"), "a pod is room as well");
    }
}
