//! The resources that the scenario makes and the comparison reads, and where they are.

/// Where the workloads are.
pub const NAMESPACE: &str = "shop";

/// Kind, group and version, plural, and whether its objects are in a namespace.
#[rustfmt::skip]
const RESOURCES: [(&str, &str, &str, bool); 22] = [
    ("Node", "api/v1", "nodes", false),
    ("PersistentVolume", "api/v1", "persistentvolumes", false),
    ("ConfigMap", "api/v1", "configmaps", true),
    ("Endpoints", "api/v1", "endpoints", true),
    ("PersistentVolumeClaim", "api/v1", "persistentvolumeclaims", true),
    ("Pod", "api/v1", "pods", true),
    ("ReplicationController", "api/v1", "replicationcontrollers", true),
    ("ResourceQuota", "api/v1", "resourcequotas", true),
    ("Secret", "api/v1", "secrets", true),
    ("ServiceAccount", "api/v1", "serviceaccounts", true),
    ("Service", "api/v1", "services", true),
    ("ControllerRevision", "apis/apps/v1", "controllerrevisions", true),
    ("DaemonSet", "apis/apps/v1", "daemonsets", true),
    ("Deployment", "apis/apps/v1", "deployments", true),
    ("ReplicaSet", "apis/apps/v1", "replicasets", true),
    ("StatefulSet", "apis/apps/v1", "statefulsets", true),
    ("HorizontalPodAutoscaler", "apis/autoscaling/v2", "horizontalpodautoscalers", true),
    ("CronJob", "apis/batch/v1", "cronjobs", true),
    ("Job", "apis/batch/v1", "jobs", true),
    ("EndpointSlice", "apis/discovery.k8s.io/v1", "endpointslices", true),
    ("PodDisruptionBudget", "apis/policy/v1", "poddisruptionbudgets", true),
    ("Namespace", "api/v1", "namespaces", false),
];

/// The path of a kind's collection; the namespace is of no account for those that are in none.
pub fn collection(kind: &str, namespace: &str) -> String {
    let found = RESOURCES.iter().find(|(known, ..)| *known == kind);
    let (_, group, plural, namespaced) = found.unwrap_or_else(|| panic!("no manifest has a {kind}"));
    if *namespaced { format!("/{group}/namespaces/{namespace}/{plural}") } else { format!("/{group}/{plural}") }
}

/// The collections whose objects are compared, by plural and path.
pub fn compared() -> impl Iterator<Item = (&'static str, String)> {
    let all = RESOURCES.iter().filter(|(kind, ..)| *kind != "Namespace");
    all.map(|&(kind, _, plural, _)| (plural, collection(kind, NAMESPACE)))
}
