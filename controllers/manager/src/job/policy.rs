//! What a pod's failure means under a job's failure policy, and when its success policy is met.

use k8s_openapi::api::batch::v1::{PodFailurePolicy, PodFailurePolicyRule, SuccessPolicy};
use skeg_controller_runtime::objects::Pod;

use super::indexes::{self, Indexes};

/// What a rule says about a failed pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It counts towards the back-off limit.
    Count,
    Ignore,
    FailIndex,
    /// The job fails, for this reason.
    FailJob(String),
}

/// The first matching rule's verdict.
pub fn judge(policy: Option<&PodFailurePolicy>, pod: &Pod) -> Verdict {
    let rules = policy.map_or(&[][..], |p| &p.rules);
    for (index, rule) in rules.iter().enumerate() {
        if let Some(found) = matched(rule, pod) {
            let message = format!("{found} matching {} rule at index {index}", rule.action);
            return match rule.action.as_str() {
                "FailJob" => Verdict::FailJob(message),
                "FailIndex" => Verdict::FailIndex,
                "Ignore" => Verdict::Ignore,
                _ => Verdict::Count,
            };
        }
    }
    Verdict::Count
}

fn matched(rule: &PodFailurePolicyRule, pod: &Pod) -> Option<String> {
    let name = pod.metadata.key();
    if let Some(codes) = &rule.on_exit_codes {
        let statuses = pod.status.containers.iter().chain(pod.status.init_containers.iter());
        let found = statuses
            .filter(|s| codes.container_name.as_ref().is_none_or(|n| s.name == *n))
            .filter_map(|s| Some((s, s.terminated?.0)))
            .find(|(_, code)| *code != 0 && (codes.operator == "In") == codes.values.contains(code));
        return found.map(|(s, code)| format!("Container {} for pod {name} failed with exit code {code}", s.name));
    }
    rule.on_pod_conditions.iter().flatten().find_map(|pattern| {
        let wanted = pattern.status.as_deref().unwrap_or("True");
        let condition = pod.condition(&pattern.type_).filter(|c| c.status == wanted)?;
        Some(format!("Pod {name} has condition {}", condition.kind))
    })
}

/// The message of the first rule that these completed indexes satisfy.
pub fn success(policy: Option<&SuccessPolicy>, completed: &Indexes, completions: i64) -> Option<String> {
    policy?.rules.iter().enumerate().find_map(|(index, rule)| {
        let wanted = rule.succeeded_indexes.as_deref().map(|text| indexes::parse(text, completions));
        let counted = match &wanted {
            Some(wanted) => wanted.intersection(completed).count(),
            None => completed.len(),
        };
        let enough = match (rule.succeeded_count, &wanted) {
            (Some(count), _) => counted >= usize::try_from(count).unwrap_or(usize::MAX),
            (None, Some(wanted)) => counted == wanted.len(),
            (None, None) => false,
        };
        enough.then(|| format!("Matched rules at index {index}"))
    })
}
