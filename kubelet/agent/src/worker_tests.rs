//! A worker against the recording fake: what it asks of the runtime, what it tells the API, and that failures are retried.

use super::*;
use crate::agent::NodeView;
use crate::config::Config;
use crate::events::Recorder;
use crate::machine::Machine;
use crate::pull::Puller;
use crate::references::References;
use crate::services::Services;
use crate::volumes::tokens::Tokens;
use http_body_util::BodyExt;
use skeg_cri::FakeRuntime;
use std::sync::Mutex;
use tonic::Code;

/// Requests that reached the API, as `METHOD path body`.
type Requests = Arc<Mutex<Vec<String>>>;

/// A client whose server takes everything and remembers it.
fn api(requests: Requests) -> kube::Client {
    let service = tower::service_fn(move |request: http::Request<kube::client::Body>| {
        let requests = requests.clone();
        async move {
            let (head, body) = request.into_parts();
            let body = body.collect().await.map(|b| b.to_bytes()).unwrap_or_default();
            let line = format!("{} {} {}", head.method, head.uri.path(), String::from_utf8_lossy(&body));
            requests.lock().unwrap().push(line);
            let answer = serde_json::json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}});
            Ok::<_, std::convert::Infallible>(http::Response::new(kube::client::Body::from(
                answer.to_string().into_bytes(),
            )))
        }
    });
    kube::Client::new(service, "default")
}

struct Bench {
    fake: FakeRuntime,
    desired: watch::Sender<Desired>,
    requests: Requests,
    task: tokio::task::JoinHandle<()>,
    agent: Arc<Agent>,
    dir: std::path::PathBuf,
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.task.abort();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

fn bench(name: &str, spec: serde_json::Value, prepare: impl FnOnce(&FakeRuntime)) -> Bench {
    let requests = Requests::default();
    let client = api(requests.clone());
    let fake = FakeRuntime::new();
    fake.add_image("x:1");
    prepare(&fake);
    let dir = std::env::temp_dir().join(format!("skeg-worker-{name}-{}", std::process::id()));
    let mut config = Config::new("n", &dir);
    config.pod_log_dir = dir.join("log/pods");
    let images: Arc<dyn skeg_cri::ImageService> = Arc::new(fake.clone());
    let view = NodeView { ips: vec!["192.0.2.1".into()], network_ready: true, ..Default::default() };
    let agent = Arc::new(Agent {
        config,
        runtime: Arc::new(fake.clone()),
        images: images.clone(),
        runtime_socket: Default::default(),
        cgroups: None,
        machine: Machine::default(),
        recorder: Recorder::discard(),
        references: Arc::new(References::new(client.clone())),
        services: Services::fixed(Vec::new()),
        puller: Puller::new(images, Recorder::discard()),
        tokens: Tokens::new(client.clone()),
        allocations: crate::allocation::Allocations::load(&dir),
        rates: Default::default(),
        probe_counts: Default::default(),
        started: Timestamp::now(),
        node: watch::channel(Arc::new(view)).0,
        pods: Default::default(),
        index: Default::default(),
        client,
    });
    let pod: Pod = serde_json::from_value(serde_json::json!({
        "metadata": {"name": "p", "namespace": "ns", "uid": "u"}, "spec": spec,
    }))
    .unwrap();
    let pod = Arc::new(pod);
    let first = Desired { pod: pod.clone(), removed: false, forced: None, pending: None, granted: None };
    let (desired, rx) = watch::channel(first);
    let wake = Wake { notify: Arc::default(), ended: Arc::default() };
    let reporter = Reporter::start(agent.clone(), &pod);
    let worker = Worker::new(agent.clone(), rx, wake.clone(), reporter);
    let task = tokio::spawn(worker.run());
    tokio::spawn(crate::pleg::run(agent.clone(), tokio_util::sync::CancellationToken::new()));
    Bench { fake, desired, requests, task, agent, dir }
}

impl Bench {
    /// Waits until the pod looks like that. The clock is paused: waiting costs no time.
    async fn until(&self, what: &str, test: impl Fn(&PodView) -> bool) {
        for _ in 0..2000 {
            if self.agent.pod("u").is_some_and(|view| test(&view)) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("never {what}: {:?}", self.agent.pod("u").map(|v| v.status));
    }

    fn phase(view: &PodView) -> &str {
        view.status.phase.as_deref().unwrap_or_default()
    }

    fn count(&self, operation: &str) -> usize {
        self.fake.take_calls().iter().filter(|(op, _)| *op == operation).count()
    }
}

fn one(policy: &str) -> serde_json::Value {
    serde_json::json!({"restartPolicy": policy, "terminationGracePeriodSeconds": 7,
        "containers": [{"name": "c", "image": "x:1", "imagePullPolicy": "IfNotPresent"}]})
}

#[tokio::test(start_paused = true)]
async fn a_pod_is_started_reported_and_ended() {
    let bench = bench("life", one("Always"), |_| {});
    bench.until("running", |v| Bench::phase(v) == "Running").await;
    let id = bench.fake.containers_named("c").pop().unwrap();
    assert_eq!(bench.fake.container_config(&id).unwrap().labels["io.kubernetes.pod.uid"], "u");
    let _ = bench.fake.take_calls();
    let mut pod = (*bench.desired.borrow().pod).clone();
    pod.metadata.deletion_timestamp = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(Timestamp::now()));
    pod.metadata.deletion_grace_period_seconds = Some(7);
    bench.desired.send_modify(|d| d.pod = Arc::new(pod));
    while !bench.task.is_finished() {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let calls = bench.fake.take_calls();
    let order: Vec<&str> = calls
        .iter()
        .map(|(op, _)| *op)
        .filter(|op| ["StopContainer", "StopPodSandbox", "RemovePodSandbox"].contains(op))
        .collect();
    assert_eq!(order, ["StopContainer", "StopPodSandbox", "RemovePodSandbox"]);
    let stop = calls.iter().find(|(op, _)| *op == "StopContainer").unwrap();
    assert!(stop.1.ends_with(" 7") || stop.1.ends_with(" 6"), "the pod's grace is used: {}", stop.1);
    let requests = bench.requests.lock().unwrap();
    assert!(
        requests.iter().any(|r| r.starts_with("PATCH /api/v1/namespaces/ns/pods/p/status") && r.contains("Running"))
    );
    let last = requests.last().unwrap();
    assert!(last.starts_with("DELETE /api/v1/namespaces/ns/pods/p ") && last.contains("\"uid\":\"u\""), "{last}");
}

#[tokio::test(start_paused = true)]
async fn what_fails_is_tried_again() {
    let bench = bench("retry", one("Always"), |fake| {
        fake.fail_next("RunPodSandbox", Code::Unknown, "no network");
        fake.fail_next("CreateContainer", Code::Unknown, "no room");
        fake.fail_next("ListContainers", Code::Unavailable, "no runtime");
    });
    bench.until("running", |v| Bench::phase(v) == "Running").await;
    let calls = bench.fake.take_calls();
    assert_eq!(calls.iter().filter(|(op, _)| *op == "RunPodSandbox").count(), 2);
    assert_eq!(calls.iter().filter(|(op, _)| *op == "CreateContainer").count(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_container_that_ends_is_restarted_and_counted() {
    let bench = bench("restart", one("Always"), |_| {});
    bench.until("running", |v| Bench::phase(v) == "Running").await;
    let first = bench.fake.containers_named("c").pop().unwrap();
    bench.fake.exit(&first, 3);
    bench
        .until("restarted", |v| v.status.container_statuses.iter().flatten().any(|s| s.restart_count == 1 && s.ready))
        .await;
    let view = bench.agent.pod("u").unwrap();
    let last = view.status.container_statuses.as_ref().unwrap()[0].last_state.clone().unwrap();
    assert_eq!(last.terminated.unwrap().exit_code, 3);
    assert_eq!(bench.count("RunPodSandbox"), 1, "the sandbox stays");
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_ran_to_its_end_gives_its_network_back_and_keeps_its_containers() {
    let bench = bench("done", one("Never"), |_| {});
    bench.until("running", |v| Bench::phase(v) == "Running").await;
    bench.fake.exit(&bench.fake.containers_named("c")[0], 0);
    bench.until("succeeded and down", |v| Bench::phase(v) == "Succeeded" && v.sandbox().is_none()).await;
    let calls = bench.fake.take_calls();
    assert!(calls.iter().any(|(op, _)| *op == "StopPodSandbox"));
    assert!(!calls.iter().any(|(op, _)| *op == "RemovePodSandbox"), "logs are still wanted");
}

#[tokio::test(start_paused = true)]
async fn running_containers_are_adopted_not_restarted() {
    let bench = bench("adopt", one("Always"), |_| {});
    bench.until("running", |v| Bench::phase(v) == "Running").await;
    bench.task.abort();
    let _ = bench.fake.take_calls();
    // A new worker over the same runtime, as after a crash of the agent.
    let pod = bench.desired.borrow().pod.clone();
    let wake = Wake { notify: Arc::default(), ended: Arc::default() };
    let reporter = Reporter::start(bench.agent.clone(), &pod);
    let worker = Worker::new(bench.agent.clone(), bench.desired.subscribe(), wake, reporter);
    bench.agent.pods.write().unwrap().clear();
    let task = tokio::spawn(worker.run());
    bench.until("running again", |v| Bench::phase(v) == "Running").await;
    task.abort();
    let calls = bench.fake.take_calls();
    let touched = ["RunPodSandbox", "CreateContainer", "StartContainer", "StopContainer", "StopPodSandbox"];
    assert!(!calls.iter().any(|(op, _)| touched.contains(op)), "{calls:?}");
}

#[tokio::test(start_paused = true)]
async fn limits_change_without_a_restart() {
    let bench = bench("resize", one("Always"), |_| {});
    bench.until("running", |v| Bench::phase(v) == "Running").await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let _ = bench.fake.take_calls();
    let mut pod = (*bench.desired.borrow().pod).clone();
    let spec = pod.spec.as_mut().unwrap();
    spec.containers[0].resources =
        serde_json::from_value(serde_json::json!({"requests": {"cpu": "100m"}, "limits": {"cpu": "200m"}})).unwrap();
    bench.desired.send_modify(|d| d.pod = Arc::new(pod));
    tokio::time::sleep(Duration::from_secs(1)).await;
    let calls = bench.fake.take_calls();
    assert_eq!(
        calls.iter().filter(|(op, _)| *op == "UpdateContainerResources").count(),
        1,
        "once, then it is as wanted"
    );
    assert!(!calls.iter().any(|(op, _)| *op == "StopContainer"));
}
