//! Webhook configurations as they are called: parsed once, in the order of their calls, kept up with the stored objects.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use futures::StreamExt;
use serde_json::Value;
use skeg_cel::admission::Scope;
use skeg_machinery::gvk::GroupResource;
use skeg_machinery::meta;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::admission::conditions::Conditions;
use crate::admission::items;
use crate::admission::matching::{Rule, Selectors};
use crate::resources::{Change, Resources};
use crate::webhook::ClientConfig;

/// How long a request waits for configurations to be read after a start (upstream's admission handler).
const WAIT: Duration = Duration::from_secs(10);

/// One webhook of a configuration.
pub struct Hook {
    /// Unique among all of its kind.
    pub id: String,
    pub name: String,
    pub client: ClientConfig,
    pub rules: Vec<Rule>,
    pub selectors: Selectors,
    pub conditions: Conditions,
    /// Failing calls are let pass.
    pub fails_open: bool,
    /// Requests in another version of a named resource count too.
    pub equivalent: bool,
    pub side_effects: String,
    pub timeout: Duration,
    pub review_versions: Vec<String>,
    /// Wants to see what others changed after it.
    pub reinvoked: bool,
}

impl Hook {
    fn from_json(id: String, hook: &Value) -> Hook {
        let text = |field: &str| hook[field].as_str().unwrap_or_default();
        Hook {
            id,
            name: text("name").to_owned(),
            client: ClientConfig::from_json(&hook["clientConfig"]),
            rules: items(hook, "rules").map(Rule::from_json).collect(),
            selectors: Selectors::from_json(hook),
            conditions: Conditions::compile(hook, &Scope::new(false)),
            fails_open: text("failurePolicy") == "Ignore",
            equivalent: text("matchPolicy") == "Equivalent",
            side_effects: text("sideEffects").to_owned(),
            timeout: Duration::from_secs(hook["timeoutSeconds"].as_u64().unwrap_or(10)),
            review_versions: items(hook, "admissionReviewVersions")
                .filter_map(Value::as_str)
                .map(str::to_owned)
                .collect(),
            reinvoked: text("reinvocationPolicy") == "IfNeeded",
        }
    }
}

/// The webhooks of one configuration, in its order.
fn hooks_of(configuration: &Value) -> Vec<Arc<Hook>> {
    let mut named: HashMap<&str, usize> = HashMap::new();
    let mut hooks = Vec::new();
    for hook in items(configuration, "webhooks") {
        let name = hook["name"].as_str().unwrap_or_default();
        let place = named.entry(name).or_default();
        let id = format!("{}/{name}/{place}", meta::name(configuration));
        *place += 1;
        hooks.push(Arc::new(Hook::from_json(id, hook)));
    }
    hooks
}

/// All webhooks of one kind of configuration, those of configurations in the order of their names.
pub struct Hooks {
    resource: GroupResource,
    current: ArcSwap<Vec<Arc<Hook>>>,
    synced: watch::Sender<bool>,
}

impl Hooks {
    pub fn new(resource: &'static str) -> Hooks {
        let resource = GroupResource::from_static("admissionregistration.k8s.io", resource);
        Hooks { resource, current: ArcSwap::default(), synced: watch::Sender::new(false) }
    }

    /// What is to be asked now; `None` when the configurations could not be read in time.
    pub async fn current(&self) -> Option<Arc<Vec<Arc<Hook>>>> {
        if !*self.synced.borrow() {
            let mut synced = self.synced.subscribe();
            tokio::time::timeout(WAIT, synced.wait_for(|synced| *synced)).await.ok()?.ok()?;
        }
        Some(self.current.load_full())
    }

    /// Follows the configurations until the shutdown.
    pub async fn run(&self, resources: Arc<dyn Resources>, shutdown: CancellationToken) {
        let mut changes = resources.follow(&self.resource);
        let mut found: BTreeMap<String, Vec<Arc<Hook>>> = BTreeMap::new();
        let mut listing = true;
        loop {
            let change = tokio::select! {
                Some(change) = changes.next() => change,
                () = shutdown.cancelled() => return,
            };
            match change {
                Change::Restart => {
                    found.clear();
                    listing = true;
                }
                Change::Applied(configuration) => {
                    found.insert(meta::name(&configuration).to_owned(), hooks_of(&configuration));
                }
                Change::Deleted(configuration) => {
                    found.remove(meta::name(&configuration));
                }
                Change::Synced => listing = false,
            }
            if !listing {
                self.current.store(Arc::new(found.values().flatten().cloned().collect()));
                self.synced.send_replace(true);
            }
        }
    }

    #[cfg(test)]
    pub fn set(&self, configurations: &[Value]) {
        self.current.store(Arc::new(configurations.iter().flat_map(hooks_of).collect()));
        self.synced.send_replace(true);
    }
}
