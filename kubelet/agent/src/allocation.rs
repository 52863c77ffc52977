//! Which resources pods were granted, and which of them are in force. A pod's spec says what is wanted; what it was granted
//! stays until the node has room for more (KEP-1287). Kept in a file per pod, so that a restart forgets no decision.
//!
//! Does not decide: `pods` asks `admission`. Does not act: that is `resize`.

use crate::pod;
use crate::quantity::{milli_of, value_of};
use k8s_openapi::api::core::v1::{Container, Pod, ResourceRequirements};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};

/// Resources of a pod and of its containers by name.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct PodResources {
    /// Of the pod as a whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<ResourceRequirements>,
    /// Of its containers.
    #[serde(default)]
    pub containers: BTreeMap<String, ResourceRequirements>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
struct Record {
    granted: PodResources,
    #[serde(default)]
    actuated: PodResources,
}

/// What pods were granted, by UID.
pub struct Allocations {
    dir: PathBuf,
    records: Mutex<HashMap<String, Record>>,
}

/// CPU and memory, requested and limited; only these can be resized.
pub type Compute = [Option<i64>; 4];

/// The numbers of a container's resources; where it has no limit, that of its pod counts.
pub fn compute(of: Option<&ResourceRequirements>, pod: Option<&ResourceRequirements>) -> Compute {
    let requests = of.and_then(|r| r.requests.as_ref());
    let limits = of.and_then(|r| r.limits.as_ref());
    let shared = pod.and_then(|r| r.limits.as_ref());
    [
        milli_of(requests, "cpu"),
        milli_of(limits, "cpu").or_else(|| milli_of(shared, "cpu")),
        value_of(requests, "memory"),
        value_of(limits, "memory").or_else(|| value_of(shared, "memory")),
    ]
}

/// A container's resources with the limits that it has from its pod.
pub fn effective(of: Option<&ResourceRequirements>, pod: Option<&ResourceRequirements>) -> ResourceRequirements {
    let mut made = of.cloned().unwrap_or_default();
    for name in ["cpu", "memory"] {
        if let Some(limit) = pod.and_then(|r| r.limits.as_ref()?.get(name)) {
            made.limits.get_or_insert_default().entry(name.to_string()).or_insert_with(|| limit.clone());
        }
    }
    made
}

fn containers(pod: &Pod) -> impl Iterator<Item = &Container> {
    pod::init_containers(pod).iter().chain(&pod::spec(pod).containers)
}

/// What a pod's spec asks for.
pub fn of_spec(pod: &Pod) -> PodResources {
    PodResources {
        pod: pod::spec(pod).resources.clone(),
        containers: containers(pod).map(|c| (c.name.clone(), c.resources.clone().unwrap_or_default())).collect(),
    }
}

/// Whether two pods differ in resources that can be resized.
pub fn differ(a: &Pod, b: &Pod) -> bool {
    let (of_a, of_b) = (pod::spec(a).resources.as_ref(), pod::spec(b).resources.as_ref());
    let other = |name: &str| containers(b).find(|c| c.name == name).and_then(|c| c.resources.as_ref());
    compute(of_a, None) != compute(of_b, None)
        || containers(a).any(|c| compute(c.resources.as_ref(), None) != compute(other(&c.name), None))
}

/// The pod with these resources instead of those its spec asks for.
pub fn with(pod: &Pod, granted: &PodResources) -> Pod {
    let mut made = pod.clone();
    if let Some(spec) = &mut made.spec {
        spec.resources.clone_from(&granted.pod);
        for container in spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten()) {
            if let Some(resources) = granted.containers.get(&container.name) {
                container.resources = Some(resources.clone());
            }
        }
    }
    made
}

impl Allocations {
    /// Those kept beneath `data_dir`.
    pub fn load(data_dir: &Path) -> Self {
        let dir = data_dir.join("allocations");
        let mut records = HashMap::new();
        for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
            let uid = entry.file_name().to_string_lossy().into_owned();
            match fs::read(entry.path()).map(|bytes| serde_json::from_slice(&bytes)) {
                Ok(Ok(record)) => {
                    records.insert(uid, record);
                }
                Ok(Err(error)) => tracing::warn!(uid, %error, "allocation cannot be read"),
                Err(error) => tracing::warn!(uid, %error, "allocation cannot be read"),
            }
        }
        Self { dir, records: Mutex::new(records) }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Record>> {
        self.records.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn change(&self, uid: &str, edit: impl FnOnce(&mut Record)) {
        let mut records = self.lock();
        let record = records.entry(uid.to_string()).or_default();
        let before = record.clone();
        edit(record);
        if *record != before
            && let Err(error) = self.save(uid, record)
        {
            tracing::warn!(uid, %error, "allocation not saved: a restart will not know of it");
        }
    }

    fn save(&self, uid: &str, record: &Record) -> io::Result<()> {
        fs::create_dir_all(&self.dir)?;
        let temporary = self.dir.with_extension(format!("{uid}.new"));
        fs::write(&temporary, serde_json::to_vec(record)?)?;
        fs::rename(temporary, self.dir.join(uid))
    }

    /// The pod as it was granted: the pod itself where nothing else was decided.
    pub fn granted(&self, pod: &Pod) -> Pod {
        match self.lock().get(pod::uid(pod)) {
            Some(record) => {
                let made = with(pod, &record.granted);
                // Another way to write the same number is no resize.
                if differ(pod, &made) { made } else { pod.clone() }
            }
            None => pod.clone(),
        }
    }

    /// Whether a pod was granted anything.
    pub fn knows(&self, uid: &str) -> bool {
        self.lock().contains_key(uid)
    }

    /// Grants a pod what its spec asks for.
    pub fn grant(&self, pod: &Pod) {
        self.change(pod::uid(pod), |record| record.granted = of_spec(pod));
    }

    /// What is in force, as far as this agent has put it there.
    pub fn actuated(&self, uid: &str) -> PodResources {
        self.lock().get(uid).map(|record| record.actuated.clone()).unwrap_or_default()
    }

    /// The resources of a container of a pod were put in force, with the limits that it has from the pod.
    pub fn container_actuated(&self, pod: &Pod, container: &Container) {
        let resources = effective(container.resources.as_ref(), pod::spec(pod).resources.as_ref());
        self.change(pod::uid(pod), |record| {
            record.actuated.containers.insert(container.name.clone(), resources);
        });
    }

    /// The pod's own resources were put in force.
    pub fn pod_actuated(&self, pod: &Pod) {
        self.change(pod::uid(pod), |record| record.actuated.pod.clone_from(&pod::spec(pod).resources));
    }

    /// Forgets a pod.
    pub fn forget(&self, uid: &str) {
        if self.lock().remove(uid).is_some()
            && let Err(error) = fs::remove_file(self.dir.join(uid))
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(uid, %error, "allocation not removed");
        }
    }

    /// Forgets all pods but those that are `known`.
    pub fn retain(&self, known: impl Fn(&str) -> bool) {
        let gone: Vec<String> = self.lock().keys().filter(|uid| !known(uid)).cloned().collect();
        for uid in gone {
            self.forget(&uid);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(cpu: &str) -> Pod {
        serde_json::from_value(json!({"metadata": {"uid": "u"}, "spec": {"containers": [
            {"name": "c", "resources": {"requests": {"cpu": cpu}}}]}}))
        .unwrap()
    }

    #[test]
    fn a_grant_stays_until_the_next_and_over_a_restart() {
        let dir = std::env::temp_dir().join(format!("skeg-allocations-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let cpu =
            |pod: &Pod| pod::spec(pod).containers[0].resources.clone().unwrap().requests.unwrap()["cpu"].0.clone();
        let allocations = Allocations::load(&dir);
        assert_eq!(cpu(&allocations.granted(&pod("1"))), "1", "nothing was decided");
        allocations.grant(&pod("1"));
        allocations.container_actuated(&pod("1"), &pod::spec(&pod("1")).containers[0]);
        assert_eq!(cpu(&allocations.granted(&pod("2"))), "1");
        assert_eq!(cpu(&allocations.granted(&pod("1000m"))), "1000m", "the same number");
        let again = Allocations::load(&dir);
        assert_eq!(cpu(&again.granted(&pod("2"))), "1");
        assert!(again.actuated("u").containers.contains_key("c"));
        again.grant(&pod("2"));
        assert_eq!(cpu(&again.granted(&pod("2"))), "2");
        again.retain(|uid| uid != "u");
        assert!(!again.knows("u") && !Allocations::load(&dir).knows("u"));
        fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn a_container_without_a_limit_has_its_pods() {
        let limits =
            |cpu: &str| serde_json::from_value::<ResourceRequirements>(json!({"limits": {"cpu": cpu}})).unwrap();
        assert_eq!(compute(None, Some(&limits("2"))), [None, Some(2000), None, None]);
        assert_eq!(compute(Some(&limits("1")), Some(&limits("2"))), [None, Some(1000), None, None]);
    }
}
