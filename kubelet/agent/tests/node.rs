//! The whole agent against a real containerd, with an API in memory. Needs root, containerd and runc, so it runs only
//! where `SKEG_TEST_NODE=1` says that the machine is meant for it.

#![allow(clippy::unwrap_used)]

mod support;

use serde_json::{Value, json};
use skeg_kubelet::Config;
use std::path::PathBuf;
use std::time::Duration;
use support::Api;
use tokio_util::sync::CancellationToken;

struct Node {
    api: Api,
    dir: PathBuf,
    config: Config,
    running: Option<(CancellationToken, tokio::task::JoinHandle<Result<(), skeg_kubelet::Error>>)>,
}

impl Node {
    /// A node in a directory of its own; none where the machine is not meant for it.
    fn new(name: &str) -> Option<Self> {
        if std::env::var("SKEG_TEST_NODE").as_deref() != Ok("1") {
            println!("skipped: SKEG_TEST_NODE=1 runs it (as root, with containerd and runc)");
            return None;
        }
        let _ = rustls::crypto::ring::default_provider().install_default();
        let dir = std::env::temp_dir().join(format!("skeg-node-{name}-{}", std::process::id()));
        let mut config = Config::new(name, &dir);
        config.port = 0;
        config.bind_address = "127.0.0.1".parse().unwrap();
        config.node_ip = Some("127.0.0.1".parse().unwrap());
        config.pod_log_dir = dir.join("log/pods");
        config.cgroup_root = format!("/skeg-test-{name}-{}", std::process::id());
        Some(Self { api: Api::new(), dir, config, running: None })
    }

    fn start(&mut self) {
        let stop = CancellationToken::new();
        let task = tokio::spawn(skeg_kubelet::run(self.config.clone(), self.api.client(), stop.clone()));
        self.running = Some((stop, task));
    }

    async fn stop(&mut self) {
        if let Some((stop, task)) = self.running.take() {
            stop.cancel();
            task.await.unwrap().unwrap();
        }
    }

    async fn end(mut self) {
        self.stop().await;
        skeg_kubelet::teardown(&self.dir).await.unwrap();
        std::fs::remove_dir_all(&self.dir).unwrap();
    }

    /// A pod of the pause image, which is always there, on the host's network, which needs no CNI.
    fn pod(&self, name: &str) {
        self.api.put(
            "pods",
            json!({"apiVersion": "v1", "kind": "Pod",
                "metadata": {"name": name, "namespace": "default", "generation": 1},
                "spec": {"nodeName": self.config.node_name, "hostNetwork": true, "terminationGracePeriodSeconds": 5,
                    "containers": [{"name": "c", "image": "registry.k8s.io/pause:3.10.2", "imagePullPolicy": "IfNotPresent",
                        "volumeMounts": [{"name": "d", "mountPath": "/d"}]}],
                    "volumes": [{"name": "d", "emptyDir": {"medium": "Memory"}}]}}),
        );
    }

    async fn until(&self, what: &str, test: impl Fn(&Api) -> bool) {
        for _ in 0..600 {
            if test(&self.api) {
                return;
            }
            if let Some((_, task)) = &self.running {
                assert!(!task.is_finished(), "the agent ended before {what}");
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("never {what}: {:?}", self.api.get("pods", "default", "p"));
    }

    async fn until_ready(&self, pod: &str) -> String {
        self.until("ready", |api| condition(api, pod, "Ready").is_some_and(|c| c == "True")).await;
        let pod = self.api.get("pods", "default", pod).unwrap();
        pod["status"]["containerStatuses"][0]["containerID"].as_str().unwrap().to_string()
    }

    fn containerd(&self) -> i32 {
        std::fs::read_to_string(self.dir.join("containerd/containerd.pid")).unwrap().trim().parse().unwrap()
    }
}

fn condition(api: &Api, pod: &str, kind: &str) -> Option<String> {
    let pod = api.get("pods", "default", pod)?;
    let list = pod["status"]["conditions"].as_array()?.clone();
    let found = list.into_iter().find(|c| c["type"] == kind)?;
    found["status"].as_str().map(str::to_string)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_runs_and_leaves_nothing_behind() {
    let Some(mut node) = Node::new("life") else { return };
    node.pod("p");
    node.start();
    node.until_ready("p").await;
    let registered = node.api.get("nodes", "", "life").unwrap();
    assert_eq!(registered["status"]["nodeInfo"]["operatingSystem"], "linux");
    let mut pod = node.api.get("pods", "default", "p").unwrap();
    let uid = pod["metadata"]["uid"].as_str().unwrap().to_string();
    pod["metadata"]["deletionTimestamp"] = Value::from("2026-01-01T00:00:00Z");
    pod["metadata"]["deletionGracePeriodSeconds"] = 5.into();
    node.api.put("pods", pod);
    node.until("gone", |api| api.get("pods", "default", "p").is_none()).await;
    assert!(!node.dir.join("pods").join(uid).exists(), "its volumes are gone before its object");
    let dir = node.dir.clone();
    node.end().await;
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(dir.to_str().unwrap()), "no mount is left");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_agent_adopts_what_runs() {
    let Some(mut node) = Node::new("adopt") else { return };
    node.pod("p");
    node.start();
    let before = node.until_ready("p").await;
    let containerd = node.containerd();
    node.stop().await;
    node.pod("q");
    node.start();
    node.until_ready("q").await;
    assert_eq!(node.until_ready("p").await, before, "the container was not restarted");
    assert_eq!(node.containerd(), containerd, "nor was containerd");
    node.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn containers_outlive_their_containerd() {
    let Some(mut node) = Node::new("crash") else { return };
    node.pod("p");
    node.start();
    let before = node.until_ready("p").await;
    let old = node.containerd();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(old), nix::sys::signal::Signal::SIGKILL).unwrap();
    node.until("containerd again", |_| node.containerd() != old).await;
    node.pod("q");
    node.until_ready("q").await;
    assert_eq!(node.until_ready("p").await, before);
    node.end().await;
}
