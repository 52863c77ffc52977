//! Faults: whatever is lost, late or interrupted, every loop converges, with no duplicate and no orphan.
//!
//! The loops run against an API server in memory whose nodes are a task that starts, ends and removes pods. Time is
//! virtual: waiting costs nothing.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use skeg_controller_runtime::testing::{FakeApi, FakeClock, Faults};
use skeg_controller_runtime::{Stores, Timestamp};
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::context::run_loops;

const PODS: &str = "/api/v1/pods";
const SETS: &str = "/apis/apps/v1/replicasets";

/// One process: its stores and loops, until it is stopped.
struct Process {
    stop: CancellationToken,
    running: tokio::task::JoinHandle<()>,
}

impl Process {
    fn start(api: &FakeApi, controllers: &[&str]) -> Self {
        let stop = CancellationToken::new();
        let stores = Stores::new(api.client(), stop.clone());
        let config = Config { controllers: controllers.iter().map(|c| (*c).to_owned()).collect(), ..Config::default() };
        let clock = FakeClock::at("2026-01-01T00:10:00Z".parse::<Timestamp>().unwrap());
        let ticking = clock.clone();
        let (api, over) = (api.clone(), stop.clone());
        let running = tokio::spawn(async move {
            let loops = run_loops(config, stores.clone(), Arc::new(clock), over.clone());
            let nodes = async {
                loop {
                    tokio::select! {
                        () = over.cancelled() => return,
                        () = tokio::time::sleep(Duration::from_millis(500)) => {}
                    }
                    ticking.advance(1);
                    act_as_nodes(&api);
                }
            };
            tokio::join!(loops, nodes);
            stores.join().await;
        });
        Self { stop, running }
    }
    async fn stop(self) {
        self.stop.cancel();
        self.running.await.unwrap();
    }
}

/// Binds, starts, ends and removes pods.
fn act_as_nodes(api: &FakeApi) {
    for pod in api.list(PODS) {
        let name = pod["metadata"]["name"].as_str().unwrap();
        let leaving = pod["metadata"].get("deletionTimestamp").is_some();
        let phase = pod.pointer("/status/phase").and_then(Value::as_str).unwrap_or("");
        if leaving {
            api.edit(PODS, "n", name, |p| p["metadata"]["deletionGracePeriodSeconds"] = json!(0));
        } else if phase.is_empty() {
            let ends = pod.pointer("/metadata/labels/job").is_some();
            let affinity = "/spec/affinity/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution/nodeSelectorTerms/0/matchFields/0/values/0";
            let node = pod.pointer(affinity).cloned().unwrap_or(json!("node-0"));
            api.edit(PODS, "n", name, |p| {
                p["spec"]["nodeName"] = node;
                let phase = if ends { "Succeeded" } else { "Running" };
                p["status"] = json!({"phase": phase, "podIPs": [{"ip": "10.0.0.1"}], "conditions": [
                    {"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}]});
            });
        }
    }
}

fn template(image: &str, label: &str) -> Value {
    json!({"metadata": {"labels": {label: "x"}}, "spec": {"containers": [{"name": "c", "image": image}]}})
}

fn owned(api: &FakeApi, collection: &str) -> Vec<(String, String)> {
    let owner =
        |o: &Value| o.pointer("/metadata/ownerReferences/0/name").and_then(Value::as_str).unwrap_or("").to_owned();
    let mut out: Vec<_> =
        api.list(collection).iter().map(|o| (owner(o), o["metadata"]["name"].as_str().unwrap().to_owned())).collect();
    out.sort();
    out
}

/// Runs until the world satisfies `done` and has been quiet for a while; panics after ten virtual minutes.
async fn settle(api: &FakeApi, controllers: &[&str], done: &dyn Fn(&FakeApi) -> Result<(), String>) {
    let filter = tracing_subscriber::EnvFilter::from_default_env();
    let _ = tracing_subscriber::fmt().with_env_filter(filter).with_test_writer().try_init();
    let process = Process::start(api, controllers);
    let (mut quiet, mut writes, mut why) = (0, 0, String::new());
    for _ in 0..600 {
        tokio::time::sleep(Duration::from_secs(1)).await;
        match done(api) {
            Ok(()) if api.writes() == writes => quiet += 1,
            Ok(()) => quiet = 0,
            Err(text) => {
                quiet = 0;
                why = text;
            }
        }
        writes = api.writes();
        if quiet > 30 {
            return process.stop().await;
        }
    }
    panic!("did not settle: {why}; pods {:?}", owned(api, PODS));
}

fn expect(
    what: &str,
    is: impl PartialEq + std::fmt::Debug,
    wanted: impl std::fmt::Debug,
    equal: bool,
) -> Result<(), String> {
    let _ = &is;
    if equal { Ok(()) } else { Err(format!("{what}: {is:?}, wanted {wanted:?}")) }
}

/// A situation: objects to begin with, changes to make then, and what must come of it.
struct Situation {
    name: &'static str,
    controllers: &'static [&'static str],
    begin: Vec<(&'static str, Value)>,
    change: fn(&FakeApi),
    done: fn(&FakeApi) -> Result<(), String>,
}

const DEPLOYMENTS: &str = "/apis/apps/v1/deployments";
const STATEFUL: &str = "/apis/apps/v1/statefulsets";
const DAEMONS: &str = "/apis/apps/v1/daemonsets";
const JOBS: &str = "/apis/batch/v1/jobs";
const BUDGETS: &str = "/apis/policy/v1/poddisruptionbudgets";
const QUOTAS: &str = "/api/v1/resourcequotas";
const CLAIMS: &str = "/api/v1/persistentvolumeclaims";
const VOLUMES: &str = "/api/v1/persistentvolumes";
const SLICES: &str = "/apis/discovery.k8s.io/v1/endpointslices";

fn named(name: &str, spec: Value) -> Value {
    json!({"metadata": {"name": name, "namespace": "n"}, "spec": spec})
}

fn situations() -> Vec<Situation> {
    let selector = json!({"matchLabels": {"app": "x"}});
    vec![
        Situation {
            name: "a deployment is rolled over",
            controllers: &["deployment-controller", "replicaset-controller"],
            begin: vec![(
                DEPLOYMENTS,
                named(
                    "web",
                    json!({"replicas": 3, "selector": selector, "template": template("old", "app"), "strategy": {
                        "type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 1}}}),
                ),
            )],
            change: |api| {
                api.edit(DEPLOYMENTS, "n", "web", |d| d["spec"]["template"] = template("new", "app"));
            },
            done: |api| {
                let images: Vec<Value> =
                    api.list(PODS).iter().map(|p| p["spec"]["containers"][0]["image"].clone()).collect();
                let wanted = vec![json!("new"); 3];
                let equal = images == wanted;
                expect("images", images, wanted, equal)?;
                let sets = api.list(SETS).len();
                expect("replica sets", sets, "at most 2", sets <= 2)
            },
        },
        Situation {
            name: "a replica set is scaled",
            controllers: &["replicaset-controller"],
            begin: vec![(
                SETS,
                named("rs", json!({"replicas": 4, "selector": selector, "template": template("i", "app")})),
            )],
            change: |api| {
                api.edit(SETS, "n", "rs", |s| s["spec"]["replicas"] = json!(2));
            },
            done: |api| {
                let pods = api.list(PODS).len();
                expect("pods", pods, 2, pods == 2)?;
                let counted = api.list(SETS)[0].pointer("/status/availableReplicas").cloned();
                let equal = counted == Some(json!(2));
                expect("available", counted, 2, equal)
            },
        },
        Situation {
            name: "a stateful set is updated",
            controllers: &["statefulset-controller"],
            begin: vec![(
                STATEFUL,
                named(
                    "db",
                    json!({"replicas": 3, "serviceName": "db", "selector": selector, "template": template("old", "app"),
                        "updateStrategy": {"type": "RollingUpdate"},
                        "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {}}]}),
                ),
            )],
            change: |api| {
                api.edit(STATEFUL, "n", "db", |s| s["spec"]["template"] = template("new", "app"));
            },
            done: |api| {
                let names: Vec<String> =
                    owned(api, PODS).into_iter().map(|(owner, pod)| format!("{owner} {pod}")).collect();
                let equal = names == ["db db-0", "db db-1", "db db-2"];
                expect("pods", names, "three of db", equal)?;
                let old = api.list(PODS).iter().filter(|p| p["spec"]["containers"][0]["image"] == "old").count();
                expect("outdated", old, 0, old == 0)?;
                let claims = api.list("/api/v1/persistentvolumeclaims").len();
                expect("claims", claims, 3, claims == 3)
            },
        },
        Situation {
            name: "a daemon set is updated",
            controllers: &["daemonset-controller"],
            begin: vec![
                ("/api/v1/nodes", json!({"metadata": {"name": "node-1"}, "spec": {}})),
                ("/api/v1/nodes", json!({"metadata": {"name": "node-2"}, "spec": {}})),
                (
                    DAEMONS,
                    named(
                        "ds",
                        json!({"selector": selector, "template": template("old", "app"),
                        "updateStrategy": {"type": "RollingUpdate"}}),
                    ),
                ),
            ],
            change: |api| {
                api.edit(DAEMONS, "n", "ds", |d| d["spec"]["template"] = template("new", "app"));
            },
            done: |api| {
                let mut at: Vec<String> = api
                    .list(PODS)
                    .iter()
                    .map(|p| format!("{} {}", p["spec"]["nodeName"], p["spec"]["containers"][0]["image"]))
                    .collect();
                at.sort();
                let equal = at == ["\"node-1\" \"new\"", "\"node-2\" \"new\""];
                expect("pods", at, "a new one on each node", equal)
            },
        },
        Situation {
            name: "a job counts every pod once",
            controllers: &["job-controller"],
            begin: vec![(
                JOBS,
                named(
                    "job",
                    json!({"parallelism": 2, "completions": 4, "selector": {"matchLabels": {"job": "x"}},
                        "template": template("i", "job")}),
                ),
            )],
            change: |_| {},
            done: |api| {
                let job = &api.list(JOBS)[0];
                let succeeded = job.pointer("/status/succeeded").cloned();
                let equal = succeeded == Some(json!(4));
                expect("succeeded", succeeded, 4, equal)?;
                let pods = api.list(PODS).len();
                expect("pods", pods, 4, pods == 4)?;
                let held = api
                    .list(PODS)
                    .iter()
                    .filter(|p| p["metadata"]["finalizers"].as_array().is_some_and(|f| !f.is_empty()))
                    .count();
                expect("uncounted", held, 0, held == 0)
            },
        },
        Situation {
            name: "a service has one slice",
            controllers: &["endpointslice-controller", "endpoints-controller", "replicaset-controller"],
            begin: vec![
                (
                    "/api/v1/services",
                    named("svc", json!({"selector": {"app": "x"}, "clusterIP": "10.0.0.1", "ports": [{"port": 80}]})),
                ),
                (SETS, named("rs", json!({"replicas": 2, "selector": selector, "template": template("i", "app")}))),
            ],
            change: |_| {},
            done: |api| {
                let slices = api.list(SLICES);
                let shown: Vec<Value> = slices
                    .iter()
                    .map(|s| {
                        json!([
                            s["metadata"]["name"],
                            s["metadata"]["deletionTimestamp"],
                            s["ports"],
                            s["endpoints"].as_array().map(Vec::len)
                        ])
                    })
                    .collect();
                expect("slices", shown, 1, slices.len() == 1)?;
                let endpoints = slices[0]["endpoints"].as_array().map_or(0, Vec::len);
                expect("endpoints", endpoints, 2, endpoints == 2)?;
                let objects = api.list("/api/v1/endpoints").len();
                expect("v1 endpoints", objects, 1, objects == 1)
            },
        },
        claims_and_volumes(),
        Situation {
            name: "a budget counts healthy pods",
            controllers: &["disruption-controller", "replicaset-controller"],
            begin: vec![
                (BUDGETS, named("pdb", json!({"minAvailable": 1, "selector": selector}))),
                (SETS, named("rs", json!({"replicas": 3, "selector": selector, "template": template("i", "app")}))),
            ],
            change: |api| {
                api.edit(SETS, "n", "rs", |s| s["spec"]["replicas"] = json!(2));
            },
            done: |api| {
                let status = api.list(BUDGETS)[0]["status"].clone();
                let seen = (status["currentHealthy"].as_i64(), status["disruptionsAllowed"].as_i64());
                expect("healthy, allowed", seen, (2, 1), seen == (Some(2), Some(1)))
            },
        },
        Situation {
            name: "a quota counts what there is",
            controllers: &["resourcequota-controller", "replicaset-controller"],
            begin: vec![
                (QUOTAS, named("q", json!({"hard": {"pods": "9", "count/replicasets.apps": "9"}}))),
                (SETS, named("rs", json!({"replicas": 3, "selector": selector, "template": template("i", "app")}))),
            ],
            change: |api| {
                api.edit(SETS, "n", "rs", |s| s["spec"]["replicas"] = json!(2));
            },
            done: |api| {
                let used = api.list(QUOTAS)[0]["status"]["used"].clone();
                let wanted = json!({"pods": "2", "count/replicasets.apps": "1"});
                let equal = used == wanted;
                expect("used", used, wanted, equal)
            },
        },
    ]
}

/// Two claims, two volumes; one claim goes, at whatever moment.
fn claims_and_volumes() -> Situation {
    let modes = json!(["ReadWriteOnce"]);
    let volume = |name: &str, size: &str| {
        let spec =
            json!({"capacity": {"storage": size}, "accessModes": modes, "persistentVolumeReclaimPolicy": "Retain"});
        (VOLUMES, json!({"metadata": {"name": name}, "spec": spec}))
    };
    let claim = |name: &str| {
        let spec = json!({"accessModes": modes, "resources": {"requests": {"storage": "1Gi"}}, "storageClassName": ""});
        let mut claim = named(name, spec);
        claim["metadata"]["finalizers"] = json!(["kubernetes.io/pvc-protection"]);
        (CLAIMS, claim)
    };
    Situation {
        name: "claims and volumes are bound one to one",
        controllers: &[
            "persistentvolume-binder-controller",
            "persistentvolumeclaim-protection-controller",
            "persistentvolume-protection-controller",
        ],
        begin: vec![volume("small", "1Gi"), volume("large", "5Gi"), claim("a"), claim("b")],
        change: |api| api.delete(CLAIMS, "n", "a", json!({})),
        done: |api| {
            let claims = api.list(CLAIMS);
            let names: Vec<&Value> = claims.iter().map(|c| &c["metadata"]["name"]).collect();
            expect("claims", &names, "b", names == ["b"])?;
            let (claim, uid) = (&claims[0], &claims[0]["metadata"]["uid"]);
            expect("claim", &claim["status"]["phase"], "Bound", claim["status"]["phase"] == "Bound")?;
            let (ours, others): (Vec<Value>, Vec<Value>) =
                api.list(VOLUMES).into_iter().partition(|v| v["spec"]["claimRef"]["uid"] == *uid);
            let names: Vec<&Value> = ours.iter().map(|v| &v["metadata"]["name"]).collect();
            expect("volumes of b", &names, 1, names == [&claim["spec"]["volumeName"]])?;
            let phases = (ours[0]["status"]["phase"].clone(), others[0]["status"]["phase"].clone());
            let free = phases.1 == "Available" || phases.1 == "Released";
            let equal = phases.0 == "Bound" && free;
            expect("phases", phases, "one bound, one free", equal)
        },
    }
}

fn begun(situation: &Situation) -> FakeApi {
    let api = FakeApi::new();
    for (collection, object) in &situation.begin {
        api.create(collection, object.clone());
    }
    api
}

/// A process that dies when it has made `writes` more writes.
async fn crash_after(api: &FakeApi, controllers: &[&str], writes: usize) {
    api.set_faults(Faults { writes_left: Some(writes), ..Faults::default() });
    let process = Process::start(api, controllers);
    tokio::time::sleep(Duration::from_secs(20)).await;
    process.stop().await;
    api.set_faults(Faults::default());
}

#[tokio::test(start_paused = true)]
async fn without_faults_every_loop_settles() {
    for situation in situations() {
        let api = begun(&situation);
        let process = Process::start(&api, situation.controllers);
        tokio::time::sleep(Duration::from_secs(30)).await;
        process.stop().await;
        (situation.change)(&api);
        eprintln!("{}", situation.name);
        settle(&api, situation.controllers, &situation.done).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_crash_after_any_write_leaves_no_duplicate_and_no_orphan() {
    for situation in situations() {
        for writes in 0..14 {
            let api = begun(&situation);
            crash_after(&api, situation.controllers, writes).await;
            (situation.change)(&api);
            crash_after(&api, situation.controllers, writes).await;
            eprintln!("{} after {writes} writes", situation.name);
            settle(&api, situation.controllers, &situation.done).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn lost_events_and_broken_watches_change_nothing() {
    for situation in situations() {
        for every in [1, 2, 3, 5] {
            let api = begun(&situation);
            api.set_faults(Faults { break_every: Some(every), ..Faults::default() });
            let process = Process::start(&api, situation.controllers);
            tokio::time::sleep(Duration::from_secs(60)).await;
            (situation.change)(&api);
            tokio::time::sleep(Duration::from_secs(60)).await;
            process.stop().await;
            api.set_faults(Faults::default());
            eprintln!("{}, each {every}. event lost", situation.name);
            settle(&api, situation.controllers, &situation.done).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_stale_view_never_makes_a_pod_twice() {
    let selector = json!({"matchLabels": {"app": "x"}});
    let api = FakeApi::new();
    let process = Process::start(&api, &["replicaset-controller"]);
    tokio::time::sleep(Duration::from_secs(2)).await;
    api.create(SETS, named("rs", json!({"replicas": 3, "selector": selector, "template": template("i", "app")})));
    // From here on no watch says anything: what the loop knows of its pods is what it wrote.
    api.set_faults(Faults { hold_watches: true, ..Faults::default() });
    tokio::time::sleep(Duration::from_secs(120)).await;
    assert_eq!(api.list(PODS).len(), 3);
    api.set_faults(Faults::default());
    tokio::time::sleep(Duration::from_secs(120)).await;
    assert_eq!(api.list(PODS).len(), 3);
    process.stop().await;
}
