//! The metrics endpoints: `/metrics/resource`, `/metrics/cadvisor`, `/metrics/probes` and the agent's own `/metrics`, with
//! upstream's names. Pure: values to text.

use super::text::Text;
use super::{ContainerUse, PodUse, Snapshot, Usage};
use crate::agent::PodView;
use crate::observed::State;
use crate::pod;
use k8s_openapi::jiff::Timestamp;
use std::collections::BTreeMap;
use std::sync::Mutex;

fn seconds(nanos: u64) -> f64 {
    nanos as f64 / 1e9
}

fn unix(at: Timestamp) -> f64 {
    at.as_millisecond() as f64 / 1e3
}

type OfUsage = fn(&Usage) -> f64;

/// `/metrics/resource`: what metrics-server reads.
pub fn resource(of: &Snapshot) -> String {
    let mut text = Text::default();
    let at = Some(of.at.as_millisecond());
    let container_families: [(&str, &str, &str, OfUsage); 3] = [
        (
            "container_cpu_usage_seconds_total",
            "counter",
            "[STABLE] Cumulative cpu time consumed by the container in core-seconds",
            |u| seconds(u.cpu.nanos),
        ),
        (
            "container_memory_working_set_bytes",
            "gauge",
            "[STABLE] Current working set of the container in bytes",
            |u| u.memory.working_set as f64,
        ),
        (
            "container_swap_usage_bytes",
            "gauge",
            "[ALPHA] Current amount of the container swap usage in bytes. Reported only on non-windows systems",
            |u| u.memory.swap as f64,
        ),
    ];
    let each = |text: &mut Text, name: &str, value: &dyn Fn(&ContainerUse) -> f64, at: Option<i64>| {
        for pod in &of.pods {
            for c in &pod.containers {
                let labels = [("container", &*c.name), ("namespace", &*pod.namespace), ("pod", &*pod.name)];
                text.sample(name, &labels, value(c), at);
            }
        }
    };
    for (name, kind, help, value) in container_families {
        text.family(name, kind, help);
        each(&mut text, name, &|c| value(&c.usage), at);
    }
    let name = "container_start_time_seconds";
    text.family(name, "gauge", "[STABLE] Start time of the container since unix epoch in seconds");
    each(&mut text, name, &|c| unix(c.started), None);
    let (cpu, memory, swap): (OfUsage, OfUsage, OfUsage) =
        (|u| seconds(u.cpu.nanos), |u| u.memory.working_set as f64, |u| u.memory.swap as f64);
    let help = "[STABLE] Cumulative cpu time consumed by the node in core-seconds";
    text.single("node_cpu_usage_seconds_total", "counter", help, cpu(&of.usage), at);
    let help = "[STABLE] Current working set of the node in bytes";
    text.single("node_memory_working_set_bytes", "gauge", help, memory(&of.usage), at);
    let help = "[ALPHA] Current swap usage of the node in bytes. Reported only on non-windows systems";
    text.single("node_swap_usage_bytes", "gauge", help, swap(&of.usage), at);
    for (name, kind, help, value) in [
        (
            "pod_cpu_usage_seconds_total",
            "counter",
            "[STABLE] Cumulative cpu time consumed by the pod in core-seconds",
            cpu,
        ),
        ("pod_memory_working_set_bytes", "gauge", "[STABLE] Current working set of the pod in bytes", memory),
        (
            "pod_swap_usage_bytes",
            "gauge",
            "[ALPHA] Current amount of the pod swap usage in bytes. Reported only on non-windows systems",
            swap,
        ),
    ] {
        text.family(name, kind, help);
        for pod in &of.pods {
            text.sample(name, &[("namespace", &pod.namespace), ("pod", &pod.name)], value(&pod.usage), at);
        }
    }
    let help = "[STABLE] 1 if there was an error while getting container metrics, 0 otherwise";
    text.single("resource_scrape_error", "gauge", help, 0.0, None);
    text.finish()
}

/// One row of `/metrics/cadvisor`: whose usage, under which labels.
struct Row<'a> {
    labels: Vec<(&'a str, &'a str)>,
    usage: &'a Usage,
    container: Option<&'a ContainerUse>,
}

fn rows(of: &Snapshot) -> Vec<Row<'_>> {
    let whole = |id, usage| Row {
        labels: vec![("container", ""), ("id", id), ("image", ""), ("name", ""), ("namespace", ""), ("pod", "")],
        usage,
        container: None,
    };
    let mut rows = vec![whole("/", &of.usage)];
    rows.extend(of.pods_usage.as_ref().map(|usage| whole("/kubepods", usage)));
    for pod in &of.pods {
        let labels = |container, id, image, name| {
            let (namespace, pod) = (pod.namespace.as_str(), pod.name.as_str());
            vec![
                ("container", container),
                ("id", id),
                ("image", image),
                ("name", name),
                ("namespace", namespace),
                ("pod", pod),
            ]
        };
        rows.push(Row { labels: labels("", &pod.path, "", ""), usage: &pod.usage, container: None });
        for c in &pod.containers {
            rows.push(Row { labels: labels(&c.name, &c.path, &c.image, &c.id), usage: &c.usage, container: Some(c) });
        }
    }
    rows
}

type Family = (&'static str, &'static str, &'static str, fn(&Usage) -> Option<f64>);

const CADVISOR: [Family; 18] = [
    ("container_cpu_user_seconds_total", "counter", "Cumulative user cpu time consumed in seconds.", |u| {
        Some(seconds(u.cpu.user_nanos))
    }),
    ("container_cpu_system_seconds_total", "counter", "Cumulative system cpu time consumed in seconds.", |u| {
        Some(seconds(u.cpu.system_nanos))
    }),
    ("container_cpu_cfs_periods_total", "counter", "Number of elapsed enforcement period intervals.", |u| {
        u.cpu.throttling.map(|t| t.0 as f64)
    }),
    ("container_cpu_cfs_throttled_periods_total", "counter", "Number of throttled period intervals.", |u| {
        u.cpu.throttling.map(|t| t.1 as f64)
    }),
    (
        "container_cpu_cfs_throttled_seconds_total",
        "counter",
        "Total time duration the container has been throttled.",
        |u| u.cpu.throttling.map(|t| seconds(t.2)),
    ),
    ("container_memory_usage_bytes", "gauge", "Current memory usage in bytes, including all memory.", |u| {
        Some(u.memory.usage as f64)
    }),
    ("container_memory_working_set_bytes", "gauge", "Current working set in bytes.", |u| {
        Some(u.memory.working_set as f64)
    }),
    ("container_memory_rss", "gauge", "Size of RSS in bytes.", |u| Some(u.memory.rss as f64)),
    ("container_memory_cache", "gauge", "Number of bytes of page cache memory.", |u| Some(u.memory.cache as f64)),
    ("container_memory_mapped_file", "gauge", "Size of memory mapped files in bytes.", |u| {
        Some(u.memory.mapped as f64)
    }),
    ("container_memory_swap", "gauge", "Container swap usage in bytes.", |u| Some(u.memory.swap as f64)),
    ("container_memory_failcnt", "counter", "Number of memory usage hits limits", |u| Some(u.memory.fail_count as f64)),
    ("container_memory_max_usage_bytes", "gauge", "Maximum memory usage recorded in bytes", |u| {
        u.memory.max_usage.map(|v| v as f64)
    }),
    ("container_spec_memory_limit_bytes", "gauge", "Memory limit for the container.", |u| {
        Some(u.memory.limit.unwrap_or(0) as f64)
    }),
    ("container_oom_events_total", "counter", "Count of out of memory events observed for the container", |u| {
        Some(u.oom_kills as f64)
    }),
    ("container_processes", "gauge", "Number of processes running inside the container.", |u| Some(u.processes as f64)),
    ("container_threads", "gauge", "Number of threads running inside the container", |u| Some(u.threads as f64)),
    (
        "container_pressure_cpu_waiting_seconds_total",
        "counter",
        "Total time duration tasks in the container have waited due to CPU congestion.",
        |u| u.cpu.pressure.map(|p| p.some.total as f64 / 1e6),
    ),
];

/// `/metrics/cadvisor`: every container, pod and the machine in cAdvisor's words.
pub fn cadvisor(of: &Snapshot) -> String {
    let mut text = Text::default();
    let at = Some(of.at.as_millisecond());
    let rows = rows(of);
    text.single("cadvisor_version_info", "gauge", "A metric with a constant '1' value.", 1.0, None);
    let name = "container_cpu_usage_seconds_total";
    text.family(name, "counter", "Cumulative cpu time consumed in seconds.");
    for row in &rows {
        let mut labels = row.labels.clone();
        labels.insert(1, ("cpu", "total"));
        text.sample(name, &labels, seconds(row.usage.cpu.nanos), at);
    }
    for (name, kind, help, value) in CADVISOR {
        text.family(name, kind, help);
        for row in &rows {
            if let Some(value) = value(row.usage) {
                text.sample(name, &row.labels, value, at);
            }
        }
    }
    for (name, help, value) in [
        (
            "container_start_time_seconds",
            "Start time of the container since unix epoch in seconds.",
            (|c| unix(c.started)) as fn(&ContainerUse) -> f64,
        ),
        ("container_fs_usage_bytes", "Number of bytes that are consumed by the container on this filesystem.", |c| {
            (c.logs.used + c.root.map_or(0, |r| r.used)) as f64
        }),
        (
            "container_fs_limit_bytes",
            "Number of bytes that can be consumed by the container on this filesystem.",
            |c| c.logs.capacity as f64,
        ),
        ("container_fs_inodes_total", "Number of Inodes", |c| c.logs.inodes as f64),
        ("container_fs_inodes_free", "Number of available Inodes", |c| c.logs.inodes_free as f64),
    ] {
        text.family(name, "gauge", help);
        for row in &rows {
            if let Some(container) = row.container {
                text.sample(name, &row.labels, value(container), at);
            }
        }
    }
    faults(&mut text, &rows, at);
    network(&mut text, &of.pods, at);
    text.single("machine_cpu_cores", "gauge", "Number of logical CPU cores.", of.cpus as f64, None);
    let help = "Amount of memory installed on the machine.";
    text.single("machine_memory_bytes", "gauge", help, of.memory_capacity as f64, None);
    let help = "1 if there was an error while getting container metrics, 0 otherwise";
    text.single("container_scrape_error", "gauge", help, 0.0, None);
    text.finish()
}

fn faults(text: &mut Text, rows: &[Row], at: Option<i64>) {
    let name = "container_memory_failures_total";
    text.family(name, "counter", "Cumulative count of memory allocation failures.");
    for row in rows {
        for (kind, count) in [("pgfault", row.usage.memory.faults), ("pgmajfault", row.usage.memory.major_faults)] {
            let mut labels = row.labels.clone();
            labels.insert(1, ("failure_type", kind));
            labels.push(("scope", "hierarchy"));
            text.sample(name, &labels, count as f64, at);
        }
    }
}

fn network(text: &mut Text, pods: &[PodUse], at: Option<i64>) {
    let words = ["bytes", "packets", "errors", "packets_dropped"];
    for (direction, verb) in [("receive", "received"), ("transmit", "transmitted")] {
        for (index, word) in words.iter().enumerate() {
            let name = format!("container_network_{direction}_{word}_total");
            text.family(&name, "counter", &format!("Cumulative count of {} {verb}", word.replace('_', " ")));
            for pod in pods {
                for i in &pod.interfaces {
                    let counters = if direction == "receive" { i.received } else { i.sent };
                    let labels = [
                        ("container", ""),
                        ("id", &*pod.path),
                        ("image", ""),
                        ("interface", &*i.name),
                        ("name", ""),
                        ("namespace", &*pod.namespace),
                        ("pod", &*pod.name),
                    ];
                    text.sample(&name, &labels, counters[index] as f64, at);
                }
            }
        }
    }
}

/// What a counted probe was: namespace, pod, its UID, container, type and result.
pub type ProbeKey = [String; 6];

/// Outcomes of probes, counted.
#[derive(Default)]
pub struct ProbeCounts(Mutex<BTreeMap<ProbeKey, u64>>);

impl ProbeCounts {
    /// Counts one.
    pub fn count(&self, key: ProbeKey) {
        *self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).entry(key).or_default() += 1;
    }

    /// Forgets a pod that is gone.
    pub fn forget(&self, uid: &str) {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).retain(|key, _| key[2] != uid);
    }

    /// `/metrics/probes`.
    pub fn text(&self) -> String {
        let mut text = Text::default();
        let name = "prober_probe_total";
        text.family(
            name,
            "counter",
            "[BETA] Cumulative number of a liveness, readiness or startup probe for a container by result.",
        );
        for (key, count) in self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).iter() {
            let [namespace, pod, uid, container, kind, result] = key;
            let labels = [
                ("container", &**container),
                ("namespace", &**namespace),
                ("pod", &**pod),
                ("pod_uid", &**uid),
                ("probe_type", &**kind),
                ("result", &**result),
            ];
            text.sample(name, &labels, *count as f64, None);
        }
        text.finish()
    }
}

/// `/metrics`: the agent itself.
pub fn agent(of: &Snapshot, pods: &[PodView], started: Timestamp, dropped_events: u64, open_files: usize) -> String {
    let mut text = Text::default();
    let version = crate::node::VERSION;
    let name = "kubernetes_build_info";
    text.family(name, "gauge", "[BETA] A metric with a constant '1' value labeled by the version that is spoken.");
    text.sample(name, &[("git_version", version), ("major", "1"), ("minor", "36")], 1.0, None);
    text.family("kubelet_node_name", "gauge", "[ALPHA] The node's name. The count is always 1.");
    text.sample("kubelet_node_name", &[("node", &of.node)], 1.0, None);
    let running = pods.iter().filter(|view| view.observed.sandboxes.iter().any(|s| s.ready)).count();
    let help = "[ALPHA] Number of pods that have a running pod sandbox";
    text.single("kubelet_running_pods", "gauge", help, running as f64, None);
    let name = "kubelet_running_containers";
    text.family(name, "gauge", "[ALPHA] Number of containers currently running");
    for state in [State::Created, State::Exited, State::Running, State::Unknown] {
        let count = pods.iter().flat_map(|v| &v.observed.containers).filter(|c| c.state == state).count();
        text.sample(name, &[("container_state", state.name())], count as f64, None);
    }
    let name = "kubelet_active_pods";
    text.family(name, "gauge", "[ALPHA] The number of pods the kubelet considers active and which are being considered when admitting new pods.");
    for (label, is_static) in [("", false), ("true", true)] {
        let active = pods.iter().filter(|v| !pod::is_terminal(&v.pod) && pod::is_static(&v.pod) == is_static).count();
        text.sample(name, &[("static", label)], active as f64, None);
    }
    let name = "kubelet_container_restarts_total";
    let restarts: i64 = pods
        .iter()
        .flat_map(|v| v.status.container_statuses.iter().flatten())
        .map(|s| i64::from(s.restart_count))
        .sum();
    text.single(
        name,
        "gauge",
        "[ALPHA] Restarts of the containers of the pods that are here now",
        restarts as f64,
        None,
    );
    let help = "[ALPHA] Events that were lost to a full queue";
    text.single("kubelet_events_dropped_total", "counter", help, dropped_events as f64, None);
    let usage = &of.agent_usage;
    let help = "Total user and system CPU time spent in seconds.";
    text.single("process_cpu_seconds_total", "counter", help, seconds(usage.cpu.nanos), None);
    let help = "Resident memory size in bytes.";
    text.single("process_resident_memory_bytes", "gauge", help, usage.memory.usage as f64, None);
    let help = "Start time of the process since unix epoch in seconds.";
    text.single("process_start_time_seconds", "gauge", help, unix(started), None);
    text.single("process_open_fds", "gauge", "Number of open file descriptors.", open_files as f64, None);
    text.finish()
}

#[cfg(test)]
mod tests {
    use super::super::summary::tests::sample;
    use super::*;

    #[test]
    fn resource_metrics_are_those_that_metrics_server_reads() {
        let text = resource(&sample());
        for line in [
            "container_cpu_usage_seconds_total{container=\"c\",namespace=\"ns\",pod=\"p\"} 2 1000000",
            "container_memory_working_set_bytes{container=\"c\",namespace=\"ns\",pod=\"p\"} 60 1000000",
            "pod_memory_working_set_bytes{namespace=\"ns\",pod=\"p\"} 60 1000000",
            "node_memory_working_set_bytes 60 1000000",
            "container_start_time_seconds{container=\"c\",namespace=\"ns\",pod=\"p\"} 1000",
            "resource_scrape_error 0",
        ] {
            assert!(text.lines().any(|l| l == line), "{line}\n{text}");
        }
    }

    #[test]
    fn cadvisor_metrics_have_a_row_for_each_container_and_pod() {
        let text = cadvisor(&sample());
        let of = |container: &str, id: &str| {
            format!("container_cpu_usage_seconds_total{{container=\"{container}\",cpu=\"total\",id=\"{id}\"")
        };
        for start in [of("c", "/kubepods/podu/id"), of("", "/kubepods/podu"), of("", "/")] {
            assert!(text.lines().any(|l| l.starts_with(&start)), "{start}\n{text}");
        }
        assert!(text.contains("\nmachine_cpu_cores 2\n"));
    }

    #[test]
    fn probes_are_counted_until_their_pod_is_gone() {
        let counts = ProbeCounts::default();
        let key = || ["ns", "p", "u", "c", "Liveness", "successful"].map(str::to_string);
        counts.count(key());
        counts.count(key());
        assert!(counts.text().contains("pod_uid=\"u\",probe_type=\"Liveness\",result=\"successful\"} 2"));
        counts.forget("u");
        assert!(!counts.text().contains("pod_uid"));
    }
}
