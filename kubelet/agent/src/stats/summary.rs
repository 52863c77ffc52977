//! The Summary API (stats.kubelet.k8s.io/v1alpha1). Pure: a snapshot to JSON.

use super::collect::Scope;
use super::{ContainerUse, Cpu, Files, Interface, Memory, PodUse, Pressure, Snapshot, Stall, Usage};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use serde_json::{Map, Value, json};

/// The summary of a snapshot.
pub fn summary(of: &Snapshot, scope: Scope) -> Value {
    let mut node = Map::new();
    node.insert("nodeName".into(), json!(of.node));
    let mut system = vec![system_container("kubelet", &of.agent_usage, of)];
    system.extend(of.pods_usage.as_ref().map(|usage| system_container("pods", usage, of)));
    node.insert("systemContainers".into(), json!(system));
    node.insert("startTime".into(), json!(Time(of.boot)));
    node.insert("cpu".into(), cpu(&of.usage.cpu, of.at));
    node.insert("memory".into(), memory(&of.usage.memory, Some(of.memory_capacity), of.at));
    node.insert("swap".into(), swap(&of.usage.memory, of.at));
    if scope == Scope::All {
        if let Some(pressure) = &of.usage.io_pressure {
            node.insert("io".into(), json!({"time": Time(of.at), "psi": psi(pressure)}));
        }
        node.insert("network".into(), network(&of.interfaces, of.at));
        node.insert("fs".into(), files(&of.files, of.at));
        let images = files(&of.image_files, of.at);
        node.insert("runtime".into(), json!({"imageFs": images, "containerFs": images}));
        let (most, running) = of.processes;
        node.insert("rlimit".into(), json!({"time": Time(of.at), "maxpid": most, "curproc": running}));
    }
    let pods: Vec<Value> = of.pods.iter().map(|p| pod(p, of.at, scope)).collect();
    json!({"node": node, "pods": pods})
}

fn system_container(name: &str, usage: &Usage, of: &Snapshot) -> Value {
    json!({
        "name": name,
        "startTime": Time(of.boot),
        "cpu": cpu(&usage.cpu, of.at),
        "memory": memory(&usage.memory, usage.memory.limit.or(Some(of.memory_capacity)), of.at),
        "swap": swap(&usage.memory, of.at),
    })
}

fn pod(of: &PodUse, at: Timestamp, scope: Scope) -> Value {
    let containers: Vec<Value> = of.containers.iter().map(|c| container(c, at, scope)).collect();
    let mut made = json!({
        "podRef": {"name": of.name, "namespace": of.namespace, "uid": of.uid},
        "startTime": Time(of.started),
        "containers": containers,
        "cpu": cpu(&of.usage.cpu, at),
        "memory": memory(&of.usage.memory, of.usage.memory.limit, at),
        "swap": swap(&of.usage.memory, at),
    });
    if scope == Scope::All {
        if let Some(pressure) = &of.usage.io_pressure {
            made["io"] = json!({"time": Time(at), "psi": psi(pressure)});
        }
        if !of.interfaces.is_empty() {
            made["network"] = network(&of.interfaces, at);
        }
        let volumes: Vec<Value> = of
            .volumes
            .iter()
            .map(|(name, f)| {
                let mut volume = files(f, at);
                volume["name"] = json!(name);
                volume
            })
            .collect();
        if !volumes.is_empty() {
            made["volume"] = json!(volumes);
        }
        made["ephemeral-storage"] = files(&of.ephemeral, at);
        made["process_stats"] = json!({"process_count": of.containers.iter().map(|c| c.usage.processes).sum::<u64>()});
    }
    made
}

fn container(of: &ContainerUse, at: Timestamp, scope: Scope) -> Value {
    let mut made = json!({
        "name": of.name,
        "startTime": Time(of.started),
        "cpu": cpu(&of.usage.cpu, at),
        "memory": memory(&of.usage.memory, of.usage.memory.limit, at),
        "swap": swap(&of.usage.memory, at),
    });
    if scope == Scope::All {
        if let Some(pressure) = &of.usage.io_pressure {
            made["io"] = json!({"time": Time(at), "psi": psi(pressure)});
        }
        if let Some(root) = &of.root {
            made["rootfs"] = files(root, at);
        }
        made["logs"] = files(&of.logs, at);
    }
    made
}

fn cpu(of: &Cpu, at: Timestamp) -> Value {
    let mut made = json!({"time": Time(at), "usageCoreNanoSeconds": of.nanos});
    if let Some(rate) = of.nano_cores {
        made["usageNanoCores"] = json!(rate);
    }
    if let Some(pressure) = &of.pressure {
        made["psi"] = psi(pressure);
    }
    made
}

fn memory(of: &Memory, limit: Option<u64>, at: Timestamp) -> Value {
    let mut made = json!({
        "time": Time(at),
        "usageBytes": of.usage,
        "workingSetBytes": of.working_set,
        "rssBytes": of.rss,
        "pageFaults": of.faults,
        "majorPageFaults": of.major_faults,
    });
    if let Some(limit) = limit {
        made["availableBytes"] = json!(limit.saturating_sub(of.working_set));
    }
    if let Some(pressure) = &of.pressure {
        made["psi"] = psi(pressure);
    }
    made
}

fn swap(of: &Memory, at: Timestamp) -> Value {
    json!({"time": Time(at), "swapUsageBytes": of.swap})
}

fn psi(of: &Pressure) -> Value {
    let one = |stall: &Stall| {
        let [avg10, avg60, avg300] = stall.averages;
        // Nanoseconds, as everything of time is here.
        json!({"total": stall.total * 1000, "avg10": avg10, "avg60": avg60, "avg300": avg300})
    };
    json!({"full": one(&of.full), "some": one(&of.some)})
}

fn network(of: &[Interface], at: Timestamp) -> Value {
    let one = |i: &Interface| {
        json!({"name": i.name, "rxBytes": i.received[0], "rxErrors": i.received[2],
            "txBytes": i.sent[0], "txErrors": i.sent[2]})
    };
    // The one that upstream takes for a pod's own.
    let first = of.iter().find(|i| i.name == "eth0").or(of.first());
    let mut made = first.map(one).unwrap_or_else(|| json!({"name": ""}));
    made["time"] = json!(Time(at));
    made["interfaces"] = of.iter().map(one).collect();
    made
}

fn files(of: &Files, at: Timestamp) -> Value {
    json!({
        "time": Time(at),
        "availableBytes": of.available,
        "capacityBytes": of.capacity,
        "usedBytes": of.used,
        "inodesFree": of.inodes_free,
        "inodes": of.inodes,
        "inodesUsed": of.inodes_used,
    })
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A node with one pod of one container.
    pub fn sample() -> Snapshot {
        let usage = Usage {
            cpu: Cpu { nanos: 2_000_000_000, nano_cores: Some(5), ..Default::default() },
            memory: Memory { usage: 100, working_set: 60, limit: Some(200), ..Default::default() },
            processes: 3,
            ..Default::default()
        };
        let at = Timestamp::from_second(1000).unwrap();
        Snapshot {
            at,
            node: "n".into(),
            boot: Timestamp::from_second(1).unwrap(),
            usage: usage.clone(),
            memory_capacity: 1000,
            cpus: 2,
            interfaces: vec![Interface { name: "eth0".into(), received: [1, 2, 3, 4], sent: [5, 6, 7, 8] }],
            files: Files::default(),
            image_files: Files::default(),
            processes: (99, 9),
            pods_usage: Some(usage.clone()),
            agent_usage: Usage::default(),
            pods: vec![PodUse {
                namespace: "ns".into(),
                name: "p".into(),
                uid: "u".into(),
                path: "/kubepods/podu".into(),
                started: at,
                usage: usage.clone(),
                containers: vec![ContainerUse {
                    name: "c".into(),
                    id: "id".into(),
                    image: "busybox".into(),
                    path: "/kubepods/podu/id".into(),
                    started: at,
                    usage,
                    root: None,
                    logs: Files { used: 7, ..Default::default() },
                }],
                interfaces: Vec::new(),
                volumes: vec![("v".into(), Files { used: 4096, ..Default::default() })],
                ephemeral: Files::default(),
            }],
        }
    }

    #[test]
    fn a_summary_has_upstreams_shape() {
        let all = summary(&sample(), Scope::All);
        let container = &all["pods"][0]["containers"][0];
        assert_eq!(container["memory"]["availableBytes"], 140);
        assert_eq!((&container["cpu"]["usageNanoCores"], &container["logs"]["usedBytes"]), (&json!(5), &json!(7)));
        assert_eq!(all["pods"][0]["volume"][0]["name"], "v");
        assert_eq!(all["node"]["network"]["rxErrors"], 3);
        assert_eq!(all["node"]["memory"]["availableBytes"], 940);
        assert_eq!(all["node"]["systemContainers"][1]["name"], "pods");
        let short = summary(&sample(), Scope::CpuAndMemory);
        assert!(short["node"]["fs"].is_null() && short["pods"][0]["containers"][0]["logs"].is_null());
    }
}
