//! What is left to do about a terminating namespace, and the conditions that say so.

use hashbrown::HashMap;
use serde_json::{Value, json};
use skeg_controller_runtime::objects::{Condition, condition};
use skeg_controller_runtime::{Meta, Resource, Timestamp, clock};

pub const FINALIZER: &str = "kubernetes";

/// What one pass over the namespace's content found.
#[derive(Clone, Debug, Default)]
pub struct Content {
    /// Objects that remain, by resource.
    pub remaining: HashMap<Resource, usize>,
    /// How many remaining objects carry each finalizer.
    pub finalizers: HashMap<String, usize>,
    pub discovery_failure: Option<String>,
    pub deletion_failures: Vec<String>,
    /// The longest that a remaining object may take, in seconds.
    pub estimate: i64,
}

/// Seconds that an object with a finalizer is given before the next look.
const FINALIZER_ESTIMATE: i64 = 15;

impl Content {
    /// Counts objects of `resource` that a delete left behind.
    pub fn add(&mut self, resource: &Resource, left: &[Meta]) {
        if left.is_empty() {
            return;
        }
        *self.remaining.entry(resource.clone()).or_default() += left.len();
        for object in left {
            for finalizer in &object.finalizers {
                *self.finalizers.entry(finalizer.to_string()).or_default() += 1;
            }
            let held = if object.finalizers.is_empty() { 0 } else { FINALIZER_ESTIMATE };
            self.estimate = self.estimate.max(object.deletion_grace.unwrap_or(0)).max(held);
        }
    }
    /// Nothing is left and nothing failed: the namespace may go.
    pub fn is_clear(&self) -> bool {
        self.remaining.is_empty() && self.deletion_failures.is_empty() && self.discovery_failure.is_none()
    }

    /// The five conditions, in upstream's order: (type, failed, reason, message).
    fn conditions(&self) -> Vec<(&'static str, bool, &'static str, String)> {
        let joined = |mut parts: Vec<String>| {
            parts.sort();
            parts.join(", ")
        };
        let remaining = joined(
            self.remaining
                .iter()
                .map(|(r, n)| format!("{}.{} has {n} resource instances", r.plural, r.group))
                .collect(),
        );
        let finalizers =
            joined(self.finalizers.iter().map(|(f, n)| format!("{f} in {n} resource instances")).collect());
        let row = |kind, failed: bool, bad: &'static str, good: &'static str, message: String, fine: &str| {
            (kind, failed, if failed { bad } else { good }, if failed { message } else { fine.to_owned() })
        };
        vec![
            row(
                "NamespaceDeletionDiscoveryFailure",
                self.discovery_failure.is_some(),
                "DiscoveryFailed",
                "ResourcesDiscovered",
                format!("Discovery failed for some groups, {}", self.discovery_failure.as_deref().unwrap_or("")),
                "All resources successfully discovered",
            ),
            row(
                "NamespaceDeletionGroupVersionParsingFailure",
                false,
                "GroupVersionParsingFailed",
                "ParsedGroupVersions",
                String::new(),
                "All legacy kube types successfully parsed",
            ),
            row(
                "NamespaceDeletionContentFailure",
                !self.deletion_failures.is_empty(),
                "ContentDeletionFailed",
                "ContentDeleted",
                format!(
                    "Failed to delete all resource types, {} remaining: {}",
                    self.deletion_failures.len(),
                    self.deletion_failures.join(", ")
                ),
                "All content successfully deleted, may be waiting on finalization",
            ),
            row(
                "NamespaceContentRemaining",
                !self.remaining.is_empty(),
                "SomeResourcesRemain",
                "ContentRemoved",
                format!("Some resources are remaining: {remaining}"),
                "All content successfully removed",
            ),
            row(
                "NamespaceFinalizersRemaining",
                !self.finalizers.is_empty(),
                "SomeFinalizersRemain",
                "ContentHasNoFinalizers",
                format!("Some content in the namespace has finalizers remaining: {finalizers}"),
                "All content-preserving finalizers finished",
            ),
        ]
    }

    /// The namespace's conditions after this pass; `None` if they say so already.
    pub fn status(&self, now: Timestamp, current: &[Condition]) -> Option<Value> {
        let mut changed = false;
        let mut out = Vec::new();
        for (kind, failed, reason, message) in self.conditions() {
            let status = if failed { "True" } else { "False" };
            let old = condition(current, kind);
            let since = match old {
                Some(c) if c.status == status => c.last_transition_time.unwrap_or(now),
                _ => now,
            };
            changed |= !old.is_some_and(|c| c.status == status && c.reason == reason && c.message == message.as_str());
            out.push(json!({
                "type": kind, "status": status, "reason": reason, "message": message,
                "lastTransitionTime": clock::rfc3339(since),
            }));
        }
        changed.then(|| Value::Array(out))
    }
}
