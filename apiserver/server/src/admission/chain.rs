//! The plug-ins one after another, and those that ask to see a write again after a later one changed it
//! (apiserver/pkg/admission/reinvocation.go).
//!
//! ```text
//! mutate, in order ─┬─ nobody asks ──────────────────────────> done
//!                   └─ a webhook or policy changed something ─> mutate again, once: built-in plug-ins all,
//!                                                              webhooks and policies those that want it
//! ```

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use serde_json::Value;
use skeg_machinery::status::Status;

use super::{Attributes, Plugin};

/// What is remembered between the first and the second round of one write.
#[derive(Default)]
pub struct Reinvocation(Mutex<State>);

#[derive(Default)]
struct State {
    second_round: bool,
    wanted: bool,
    /// By the plug-in's name.
    plugins: std::collections::BTreeMap<&'static str, Asked>,
}

/// What one plug-in asked: its webhooks, or its policies.
#[derive(Default)]
struct Asked {
    last_output: Option<Value>,
    /// Asked already, and willing to be asked again.
    before: BTreeSet<String>,
    again: BTreeSet<String>,
}

impl Asked {
    fn require(&mut self) {
        self.again.append(&mut self.before);
    }
}

impl Reinvocation {
    fn with<T>(&self, plugin: &'static str, f: impl FnOnce(&mut Asked) -> T) -> T {
        let mut state = self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        f(state.plugins.entry(plugin).or_default())
    }

    /// The start of a round of `plugin`: a change made since its last one concerns all that it asked before.
    pub fn begin(&self, plugin: &'static str, object: &Value) {
        if self.is_second_round() {
            self.with(plugin, |asked| {
                if asked.last_output.as_ref() != Some(object) {
                    asked.require();
                }
            });
        }
    }

    /// The end of a round of `plugin`, with what it leaves.
    pub fn end(&self, plugin: &'static str, object: &Value) {
        self.with(plugin, |asked| asked.last_output = Some(object.clone()));
    }

    /// Whether `one` of the plug-in's is to be asked in this round.
    pub fn is_due(&self, plugin: &'static str, one: &str) -> bool {
        !self.is_second_round() || self.with(plugin, |asked| asked.again.contains(one))
    }

    /// `one` of the plug-in's changed the object: all those asked before it are to see it again.
    pub fn changed(&self, plugin: &'static str) {
        self.with(plugin, Asked::require);
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).wanted = true;
    }

    /// `one` was asked, and may be asked again.
    pub fn asked(&self, plugin: &'static str, one: &str) {
        self.with(plugin, |asked| asked.before.insert(one.to_owned()));
    }

    fn is_second_round(&self) -> bool {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).second_round
    }

    fn begin_second_round(&self) -> bool {
        let mut state = self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        state.second_round = state.wanted;
        state.wanted
    }
}

/// All plug-ins change the object, some of them twice.
pub async fn mutate(
    plugins: &[Arc<dyn Plugin>],
    attributes: &Attributes<'_>,
    object: &mut Value,
) -> Result<(), Status> {
    for plugin in plugins {
        plugin.mutate(attributes, object).await?;
    }
    if attributes.reinvocation.begin_second_round() {
        for plugin in plugins {
            plugin.mutate(attributes, object).await?;
        }
    }
    Ok(())
}

/// All plug-ins hear of a delete before any judges it.
pub async fn before_delete(plugins: &[Arc<dyn Plugin>], attributes: &Attributes<'_>) -> Result<(), Status> {
    for plugin in plugins {
        plugin.before_delete(attributes).await?;
    }
    Ok(())
}

/// All plug-ins judge the write.
pub async fn validate(
    plugins: &[Arc<dyn Plugin>],
    attributes: &Attributes<'_>,
    object: Option<&Value>,
) -> Result<(), Status> {
    for plugin in plugins {
        plugin.validate(attributes, object).await?;
    }
    Ok(())
}
