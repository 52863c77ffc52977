//! What a pod asks for in all, as the scheduler and quotas count it (upstream component-helpers/resource). Pure.

use std::collections::BTreeMap;

use serde_json::Value;
use skeg_machinery::quantity::Quantity;

use super::items;

pub type ResourceList = BTreeMap<String, Quantity>;

/// A `requests` or `limits` map; entries that are no quantity are left out.
pub fn list(value: &Value) -> ResourceList {
    let entries = value.as_object().into_iter().flatten();
    entries.filter_map(|(name, value)| Some((name.clone(), Quantity::from_json(value).ok()?))).collect()
}

pub fn add(total: &mut ResourceList, more: &ResourceList) {
    for (name, quantity) in more {
        match total.get_mut(name) {
            Some(sum) => sum.add(quantity),
            None => {
                total.insert(name.clone(), quantity.clone());
            }
        }
    }
}

fn max(total: &mut ResourceList, other: &ResourceList) {
    for (name, quantity) in other {
        match total.get(name) {
            Some(most) if most.nanos() >= quantity.nanos() => {}
            _ => {
                total.insert(name.clone(), quantity.clone());
            }
        }
    }
}

/// The pod's sum of `requests` or `limits`: containers and sidecars together, or the most that starting up takes.
pub fn total(pod: &Value, field: &str) -> ResourceList {
    let spec = &pod["spec"];
    let mut sum = ResourceList::new();
    for container in items(spec, "containers") {
        add(&mut sum, &list(&container["resources"][field]));
    }
    let (mut sidecars, mut starting) = (ResourceList::new(), ResourceList::new());
    for container in items(spec, "initContainers") {
        let mut needs = list(&container["resources"][field]);
        if container["restartPolicy"] == "Always" {
            add(&mut sum, &needs);
            add(&mut sidecars, &needs);
            needs = sidecars.clone();
        } else {
            add(&mut needs, &sidecars);
        }
        max(&mut starting, &needs);
    }
    max(&mut sum, &starting);
    for (name, quantity) in list(&spec["resources"][field]) {
        if name == "cpu" || name == "memory" || name.starts_with("hugepages-") {
            sum.insert(name, quantity);
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn start_up_counts_where_it_takes_more_than_running_does() {
        let container = |cpu: &str| json!({"resources": {"requests": {"cpu": cpu}}});
        let mut sidecar = container("100m");
        sidecar["restartPolicy"] = "Always".into();
        let pod = json!({"spec": {"containers": [container("200m"), container("300m")],
                                  "initContainers": [sidecar, container("1")]}});
        assert_eq!(total(&pod, "requests")["cpu"].to_string(), "1100m");
        let pod = json!({"spec": {"containers": [container("2")], "initContainers": [container("1")]}});
        assert_eq!(total(&pod, "requests")["cpu"].to_string(), "2");
    }
}
