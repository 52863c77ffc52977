//! Priority: the number behind a pod's PriorityClass (upstream plugin/pkg/admission/priority).

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::Value;
use skeg_machinery::gvk::GroupResource;
use skeg_machinery::meta;
use skeg_machinery::status::Status;

use super::{Attributes, Operation, Plugin};
use crate::resources::Resources;

const GROUP: &str = "scheduling.k8s.io";
const CLASSES: GroupResource = GroupResource::from_static(GROUP, "priorityclasses");

pub struct Priority {
    pub resources: Arc<dyn Resources>,
}

#[async_trait]
impl Plugin for Priority {
    fn name(&self) -> &'static str {
        "Priority"
    }

    async fn mutate(&self, attributes: &Attributes<'_>, pod: &mut Value) -> Result<(), Status> {
        if !attributes.is("", "pods") {
            return Ok(());
        }
        match attributes.operation {
            Operation::Create => self.establish(attributes, pod).await,
            Operation::Update => {
                for field in ["priority", "preemptionPolicy"] {
                    let kept = attributes.old_object.map_or(&Value::Null, |old| &old["spec"][field]);
                    if pod["spec"][field].is_null() && !kept.is_null() {
                        pod["spec"][field] = kept.clone();
                    }
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    async fn validate(&self, attributes: &Attributes<'_>, class: Option<&Value>) -> Result<(), Status> {
        let Some(class) = class.filter(|_| attributes.is(GROUP, "priorityclasses")) else { return Ok(()) };
        let written = matches!(attributes.operation, Operation::Create | Operation::Update);
        if !written || class["globalDefault"] != true {
            return Ok(());
        }
        if let Some(default) = self.default_class().await?
            && (attributes.operation == Operation::Create || meta::name(&default) != meta::name(class))
        {
            let name = meta::name(&default);
            let why = format!("PriorityClass {name} is already marked as default. Only one default can exist");
            return Err(attributes.forbidden(Some(class), why));
        }
        Ok(())
    }
}

impl Priority {
    async fn default_class(&self) -> Result<Option<Arc<Value>>, Status> {
        let classes = self.resources.list(&CLASSES, "").await?;
        let defaults = classes.into_iter().filter(|class| class["globalDefault"] == true);
        Ok(defaults.min_by_key(|class| class["value"].as_i64()))
    }

    async fn establish(&self, attributes: &Attributes<'_>, pod: &mut Value) -> Result<(), Status> {
        let name = meta::str_at(pod, &["spec", "priorityClassName"]).to_owned();
        let class = if name.is_empty() {
            self.default_class().await?
        } else {
            let mut class = self.resources.get_cached(&CLASSES, "", &name).await?;
            if class.is_none() {
                class = self.resources.get(&CLASSES, "", &name).await.ok().map(Arc::new);
            }
            let Some(class) = class else {
                let why = format!("no PriorityClass with name {name} was found");
                return Err(attributes.forbidden(Some(pod), why));
            };
            Some(class)
        };
        let (priority, policy) = match &class {
            Some(class) => {
                pod["spec"]["priorityClassName"] = meta::name(class).into();
                (class["value"].as_i64().unwrap_or_default(), class["preemptionPolicy"].as_str())
            }
            None => (0, Some("PreemptLowerPriority")),
        };
        if let Some(given) = pod["spec"]["priority"].as_i64().filter(|given| *given != priority) {
            let why = format!(
                "the integer value of priority ({given}) must not be provided in pod spec; priority admission controller \
                 computed {priority} from the given PriorityClass name"
            );
            return Err(attributes.forbidden(Some(pod), why));
        }
        pod["spec"]["priority"] = priority.into();
        let Some(policy) = policy else { return Ok(()) };
        if let Some(given) = pod["spec"]["preemptionPolicy"].as_str().filter(|given| *given != policy) {
            let why = format!(
                "the string value of PreemptionPolicy ({given}) must not be provided in pod spec; priority admission \
                 controller computed {policy} from the given PriorityClass name"
            );
            return Err(attributes.forbidden(Some(pod), why));
        }
        pod["spec"]["preemptionPolicy"] = policy.into();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::fake::{Memory, Write};
    use super::*;
    use serde_json::json;

    fn plugin() -> Priority {
        let class = |name: &str, value: i64, default: bool| json!({"metadata": {"name": name}, "value": value, "globalDefault": default, "preemptionPolicy": "Never"});
        Priority {
            resources: Arc::new(Memory::with(vec![
                (GROUP, "priorityclasses", class("high", 1000, false)),
                (GROUP, "priorityclasses", class("usual", 10, true)),
            ])),
        }
    }

    async fn admit(spec: Value) -> Result<Value, Status> {
        let write = Write::pod("team", json!({"metadata": {"name": "p"}, "spec": spec}));
        let mut pod = write.object.clone();
        plugin().mutate(&write.attributes(), &mut pod).await?;
        Ok(pod["spec"].clone())
    }

    #[tokio::test]
    async fn the_class_gives_number_and_preemption_policy() {
        let high = admit(json!({"priorityClassName": "high"})).await.unwrap();
        assert_eq!(high, json!({"priorityClassName": "high", "priority": 1000, "preemptionPolicy": "Never"}));
        let default = admit(json!({})).await.unwrap();
        assert_eq!((&default["priorityClassName"], &default["priority"]), (&json!("usual"), &json!(10)));
    }

    #[tokio::test]
    async fn an_unknown_class_or_a_number_of_ones_own_is_refused() {
        let unknown = admit(json!({"priorityClassName": "gone"})).await.unwrap_err();
        assert_eq!(unknown.message, "pods \"p\" is forbidden: no PriorityClass with name gone was found");
        assert_eq!(admit(json!({"priorityClassName": "high", "priority": 7})).await.unwrap_err().code, 403);
        admit(json!({"priorityClassName": "high", "priority": 1000})).await.unwrap();
    }

    #[tokio::test]
    async fn there_is_one_default_class() {
        let second = json!({"metadata": {"name": "second"}, "value": 1, "globalDefault": true});
        let write = Write::create(GROUP, "v1", "priorityclasses", "", second);
        let refused = plugin().validate(&write.attributes(), Some(&write.object)).await.unwrap_err();
        assert!(refused.message.contains("PriorityClass usual is already marked as default"));
    }
}
