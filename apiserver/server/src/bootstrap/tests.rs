//! The whole edge at once: a fresh cluster over a real store, asked over TLS and in the process.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Body;
use http::{Method, Request, StatusCode};
use http_body_util::BodyExt;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use skeg_storage::{Embedded, Options};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::EdgeOptions;
use crate::pki::join::BootstrapToken;
use crate::pki::{Authority, Issued, Pki, PkiOptions, Profile};
use crate::serving::{self, tls};
use crate::trust::Trust;

struct Cluster {
    address: std::net::SocketAddr,
    pki: Pki,
    trust: watch::Sender<Trust>,
    shutdown: CancellationToken,
    tasks: TaskTracker,
    directory: std::path::PathBuf,
    store: Arc<Embedded>,
}

const TOKEN: &str = "abcdef.0123456789abcdef";

async fn cluster(name: &str) -> Cluster {
    let directory = std::env::temp_dir().join(format!("skeg-edge-{name}-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&directory);
    std::fs::create_dir_all(&directory).unwrap();
    let store = Embedded::open(directory.join("db"), Options::default()).unwrap();
    start(directory, Arc::new(store)).await
}

async fn start(directory: std::path::PathBuf, store: Arc<Embedded>) -> Cluster {
    let pki = Pki::load_or_create(&PkiOptions {
        dir: directory.join("pki"),
        node_name: "node-a".into(),
        sans: vec![],
        addresses: vec![],
        service_addresses: vec!["10.43.0.1".parse().unwrap()],
        cluster_domain: "cluster.local".into(),
    })
    .unwrap();
    let listener = serving::listen("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let address = listener.local_addr().unwrap();
    let options = EdgeOptions {
        service_networks: vec!["10.43.0.0/16".parse().unwrap()],
        advertise: "192.0.2.10".parse().unwrap(),
        port: address.port(),
        join_token: BootstrapToken::parse(TOKEN),
        ..EdgeOptions::default()
    };
    let (trust, trusted) = watch::channel(Trust::of(&pki));
    let (tasks, shutdown) = (TaskTracker::new(), CancellationToken::new());
    let server = crate::standard::start(store.clone(), trusted, options, &tasks, &shutdown).await.unwrap();
    let config = tls::live_config(&pki.serving, &[pki.ca.certificate_der()]).unwrap();
    tasks.spawn(serving::serve(listener, config, server.service(), serving::Limits::default(), shutdown.clone()));
    Cluster { address, pki, trust, shutdown, tasks, directory, store }
}

impl Cluster {
    async fn ask(&self, who: Who<'_>, method: Method, path: &str, body: Value) -> (StatusCode, Value) {
        let client = match &who {
            Who::Certificate(issued) => Some(*issued),
            _ => None,
        };
        let mut config = tls::client_config(&[self.pki.ca.certificate_der()], client).unwrap();
        config.alpn_protocols = vec![b"h2".to_vec()];
        let stream = TcpStream::connect(self.address).await.unwrap();
        let name = rustls_pki_types::ServerName::try_from("localhost").unwrap();
        let stream = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap();
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake::<_, _, Body>(TokioExecutor::new(), TokioIo::new(stream))
                .await
                .unwrap();
        tokio::spawn(connection);
        let mut request = Request::builder().method(method).uri(format!("https://localhost{path}"));
        request = request.header("content-type", "application/json");
        if let Who::Token(token) = who {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let body = if body.is_null() { Body::empty() } else { Body::from(body.to_string()) };
        let answer = sender.send_request(request.body(body).unwrap()).await.unwrap();
        let status = answer.status();
        let bytes = answer.into_body().collect().await.unwrap().to_bytes();
        let value = serde_json::from_slice(&bytes).unwrap_or_else(|_| json!(String::from_utf8_lossy(&bytes)));
        (status, value)
    }

    async fn admin(&self, method: Method, path: &str, body: Value) -> (StatusCode, Value) {
        self.ask(Who::Certificate(&self.pki.admin), method, path, body).await
    }

    async fn get(&self, path: &str) -> Value {
        let (status, value) = self.admin(Method::GET, path, Value::Null).await;
        assert_eq!(status, 200, "{path}: {value}");
        value
    }

    async fn stop(self) -> std::path::PathBuf {
        self.shutdown.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        self.directory
    }
}

enum Who<'a> {
    Nobody,
    Certificate(&'a Issued),
    Token(&'a str),
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fresh_cluster_has_what_every_cluster_has_and_a_restart_changes_nothing() {
    let begun = Instant::now();
    let cluster = cluster("fresh").await;
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(5), "{took:?}");
    let names = |list: &Value| -> Vec<String> {
        list["items"].as_array().unwrap().iter().map(|o| o["metadata"]["name"].as_str().unwrap().to_owned()).collect()
    };
    let namespaces = names(&cluster.get("/api/v1/namespaces").await);
    assert_eq!(namespaces, ["default", "kube-node-lease", "kube-public", "kube-system"]);
    let service = cluster.get("/api/v1/namespaces/default/services/kubernetes").await;
    assert_eq!(service["spec"]["clusterIP"], "10.43.0.1");
    let slice = cluster.get("/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/kubernetes").await;
    assert_eq!(slice["ports"][0]["port"], cluster.address.port());
    let classes = names(&cluster.get("/apis/scheduling.k8s.io/v1/priorityclasses").await);
    assert_eq!(classes, ["system-cluster-critical", "system-node-critical"]);
    let roles = cluster.get("/apis/rbac.authorization.k8s.io/v1/clusterroles").await;
    let count = roles["items"].as_array().unwrap().len();
    assert!(count > 60, "{count}");
    let schemas = cluster.get("/apis/flowcontrol.apiserver.k8s.io/v1/flowschemas").await;
    assert_eq!(schemas["items"].as_array().unwrap().len(), 11);
    let config = cluster.get("/api/v1/namespaces/kube-system/configmaps/extension-apiserver-authentication").await;
    assert_eq!(config["data"]["requestheader-allowed-names"], r#"["front-proxy-client"]"#);
    let cidr = cluster.get("/apis/networking.k8s.io/v1/servicecidrs/kubernetes").await;
    assert_eq!(cidr["status"]["conditions"][0]["status"], "True");

    let (path, gone) = ("/api/v1/namespaces/default/services/kubernetes", Value::Null);
    assert_eq!(cluster.admin(Method::DELETE, path, gone).await.0, 200);
    let patience = Instant::now() + Duration::from_secs(10);
    while cluster.admin(Method::GET, path, Value::Null).await.0 != 200 {
        assert!(Instant::now() < patience, "the service is not put back");
    }
    assert_eq!(cluster.get(path).await["spec"]["clusterIP"], "10.43.0.1");

    let versions = |list: &Value| -> Vec<String> {
        list["items"].as_array().unwrap().iter().map(|o| o["metadata"]["resourceVersion"].to_string()).collect()
    };
    let before = versions(&roles);
    let store = cluster.store.clone();
    let cluster = start(cluster.stop().await, store).await;
    let after = versions(&cluster.get("/apis/rbac.authorization.k8s.io/v1/clusterroles").await);
    assert_eq!(before, after);
    std::fs::remove_dir_all(cluster.stop().await).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_do_what_is_settled_over_tls() {
    let cluster = cluster("who").await;
    let pods = "/api/v1/namespaces/default/pods";
    let (status, refused) = cluster.ask(Who::Nobody, Method::GET, pods, Value::Null).await;
    assert_eq!(status, 403);
    assert_eq!(
        refused["message"],
        "pods is forbidden: User \"system:anonymous\" cannot list resource \"pods\" in API group \"\" in the namespace \"default\""
    );
    for path in ["/readyz", "/version", "/cacerts"] {
        assert_eq!(cluster.ask(Who::Nobody, Method::GET, path, Value::Null).await.0, 200, "{path}");
    }
    assert_eq!(cluster.ask(Who::Token("wrong"), Method::GET, pods, Value::Null).await.0, 401);
    let stranger = Authority::create("ca").unwrap().issue(&Profile::client("eve", &["system:masters"])).unwrap();
    assert_eq!(cluster.ask(Who::Certificate(&stranger), Method::GET, pods, Value::Null).await.0, 401);
    assert_eq!(cluster.admin(Method::GET, pods, Value::Null).await.0, 200);
    let scheduler = Who::Certificate(&cluster.pki.scheduler);
    assert_eq!(cluster.ask(scheduler, Method::GET, pods, Value::Null).await.0, 200);
    let scheduler = Who::Certificate(&cluster.pki.scheduler);
    assert_eq!(cluster.ask(scheduler, Method::GET, "/api/v1/namespaces/default/secrets", Value::Null).await.0, 403);
    let joining = cluster.ask(
        Who::Token(TOKEN),
        Method::GET,
        "/apis/certificates.k8s.io/v1/certificatesigningrequests",
        Value::Null,
    );
    assert_eq!(joining.await.0, 200);
    let node = Who::Certificate(&cluster.pki.kubelet);
    let own = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node-a"}});
    let (status, node_object) = cluster.ask(node, Method::POST, "/api/v1/nodes", own).await;
    assert_eq!(status, 201, "{node_object}");
    assert_eq!(node_object["spec"]["taints"][0]["key"], "node.kubernetes.io/not-ready");
    let node = Who::Certificate(&cluster.pki.kubelet);
    let other = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node-b"}});
    assert_eq!(cluster.ask(node, Method::POST, "/api/v1/nodes", other).await.0, 403);
    std::fs::remove_dir_all(cluster.stop().await).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_account_gets_a_token_that_opens_what_it_is_bound_to() {
    let cluster = cluster("account").await;
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "robot"}});
    assert_eq!(cluster.admin(Method::POST, "/api/v1/namespaces/default/serviceaccounts", account).await.0, 201);
    let request =
        json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": 600}});
    let (status, answer) =
        cluster.admin(Method::POST, "/api/v1/namespaces/default/serviceaccounts/robot/token", request).await;
    assert_eq!(status, 201, "{answer}");
    let token = answer["status"]["token"].as_str().unwrap();
    let config = "/api/v1/namespaces/default/configmaps";
    assert_eq!(cluster.ask(Who::Token(token), Method::GET, config, Value::Null).await.0, 403);
    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": {"name": "robot"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "view"},
        "subjects": [{"kind": "ServiceAccount", "name": "robot", "namespace": "default"}],
    });
    let bindings = "/apis/rbac.authorization.k8s.io/v1/namespaces/default/rolebindings";
    assert_eq!(cluster.admin(Method::POST, bindings, binding).await.0, 201);
    let patience = Instant::now() + Duration::from_secs(5);
    while cluster.ask(Who::Token(token), Method::GET, config, Value::Null).await.0 != 200 {
        assert!(Instant::now() < patience, "the binding is never seen");
    }
    let grant = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": "more"},
        "rules": [{"verbs": ["*"], "apiGroups": [""], "resources": ["secrets"]}],
    });
    let roles = "/apis/rbac.authorization.k8s.io/v1/namespaces/default/roles";
    assert_eq!(cluster.ask(Who::Token(token), Method::POST, roles, grant).await.0, 403);
    std::fs::remove_dir_all(cluster.stop().await).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_and_services_are_admitted_as_upstream_admits_them() {
    let cluster = cluster("admit").await;
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}});
    cluster.admin(Method::POST, "/api/v1/namespaces/default/serviceaccounts", account).await;
    let pod = |name: &str, host: bool| {
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
               "spec": {"hostNetwork": host, "containers": [{"name": "c", "image": "busybox"}]}})
    };
    let pods = "/api/v1/namespaces/default/pods";
    let (status, created) = cluster.admin(Method::POST, pods, pod("web", false)).await;
    assert_eq!(status, 201, "{created}");
    let spec = &created["spec"];
    assert_eq!((&spec["serviceAccountName"], &spec["priority"]), (&json!("default"), &json!(0)));
    assert_eq!(spec["tolerations"].as_array().unwrap().len(), 2);
    assert!(spec["volumes"][0]["name"].as_str().unwrap().starts_with("kube-api-access-"));
    let label = json!({"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "baseline"}}});
    let mut namespace = cluster.get("/api/v1/namespaces/default").await;
    namespace["metadata"]["labels"] = label["metadata"]["labels"].clone();
    assert_eq!(cluster.admin(Method::PUT, "/api/v1/namespaces/default", namespace).await.0, 200);
    let patience = Instant::now() + Duration::from_secs(5);
    loop {
        let (status, answer) = cluster.admin(Method::POST, pods, pod("host", true)).await;
        if status == 403 {
            assert!(answer["message"].as_str().unwrap().contains("violates PodSecurity \"baseline:latest\""));
            break;
        }
        assert!(Instant::now() < patience, "the label is never seen");
        cluster.admin(Method::DELETE, &format!("{pods}/host"), json!({"gracePeriodSeconds": 0})).await;
    }
    let services = "/api/v1/namespaces/default/services";
    let service = |name: &str, ip: Value| {
        let mut service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
            "spec": {"type": "NodePort", "selector": {"a": "b"}, "ports": [{"port": 80}]}});
        if !ip.is_null() {
            service["spec"]["clusterIP"] = ip;
        }
        service
    };
    let (status, created) = cluster.admin(Method::POST, services, service("web", Value::Null)).await;
    assert_eq!(status, 201, "{created}");
    let ip = created["spec"]["clusterIP"].clone();
    assert!(created["spec"]["ports"][0]["nodePort"].as_u64().unwrap() >= 30000);
    let (status, refused) = cluster.admin(Method::POST, services, service("other", ip.clone())).await;
    assert_eq!(status, 422);
    assert!(refused["message"].as_str().unwrap().ends_with("provided IP is already allocated"), "{refused}");
    assert_eq!(cluster.admin(Method::DELETE, &format!("{services}/web"), Value::Null).await.0, 200);
    let (status, created) = cluster.admin(Method::POST, services, service("other", ip.clone())).await;
    assert_eq!((status, &created["spec"]["clusterIP"]), (StatusCode::CREATED, &ip));
    std::fs::remove_dir_all(cluster.stop().await).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn reviews_tell_who_one_is_and_what_one_may_do() {
    let cluster = cluster("reviews").await;
    let review =
        |group: &str, kind: &str, spec: Value| json!({"apiVersion": format!("{group}/v1"), "kind": kind, "spec": spec});
    let (authn, authz) = ("authentication.k8s.io", "authorization.k8s.io");
    let path = |group: &str, resource: &str| format!("/apis/{group}/v1/{resource}");
    let whoami = review(authn, "SelfSubjectReview", Value::Null);
    let scheduler = || Who::Certificate(&cluster.pki.scheduler);
    let (status, me) = cluster.ask(scheduler(), Method::POST, &path(authn, "selfsubjectreviews"), whoami).await;
    assert_eq!(status, 201, "{me}");
    assert_eq!(me["status"]["userInfo"]["username"], "system:kube-scheduler");
    assert_eq!(me["status"]["userInfo"]["groups"], json!(["system:authenticated"]));

    for (verb, resource, expect) in [("create", "bindings", true), ("delete", "secrets", false)] {
        let spec = json!({"resourceAttributes": {"namespace": "default", "verb": verb, "resource": resource}});
        let asked = review(authz, "SelfSubjectAccessReview", spec);
        let (_, answer) = cluster.ask(scheduler(), Method::POST, &path(authz, "selfsubjectaccessreviews"), asked).await;
        assert_eq!(answer["status"]["allowed"], expect, "{verb} {resource}: {answer}");
    }
    let spec = json!({"user": "system:kube-scheduler", "resourceAttributes": {"verb": "list", "resource": "pods"}});
    let asked = review(authz, "SubjectAccessReview", spec);
    let (_, answer) = cluster.admin(Method::POST, &path(authz, "subjectaccessreviews"), asked).await;
    assert_eq!(answer["status"]["allowed"], true, "{answer}");
    assert!(answer["status"]["reason"].as_str().unwrap().starts_with("RBAC: allowed by ClusterRoleBinding"));
    let asked = review(authz, "SelfSubjectRulesReview", json!({"namespace": "default"}));
    let (_, answer) = cluster.ask(scheduler(), Method::POST, &path(authz, "selfsubjectrulesreviews"), asked).await;
    let rules = answer["status"]["resourceRules"].as_array().unwrap();
    assert!(
        rules.iter().any(|rule| rule["resources"].as_array().unwrap().contains(&json!("pods/binding"))),
        "{answer}"
    );
    std::fs::remove_dir_all(cluster.stop().await).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_is_bound_gets_a_token_and_is_evicted_within_its_budget() {
    let cluster = cluster("pod").await;
    let namespace = "/api/v1/namespaces/default";
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}});
    cluster.admin(Method::POST, &format!("{namespace}/serviceaccounts"), account).await;
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node-a"}});
    cluster.admin(Method::POST, "/api/v1/nodes", node).await;
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web", "labels": {"app": "web"}},
                     "spec": {"containers": [{"name": "c", "image": "busybox"}]}});
    let (_, pod) = cluster.admin(Method::POST, &format!("{namespace}/pods"), pod).await;
    let target = json!({"apiVersion": "v1", "kind": "Node", "name": "node-a"});
    let binding = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": "web"}, "target": target});
    let (status, answer) = cluster.admin(Method::POST, &format!("{namespace}/pods/web/binding"), binding.clone()).await;
    assert_eq!(status, 201, "{answer}");
    let (status, again) = cluster.admin(Method::POST, &format!("{namespace}/pods/web/binding"), binding).await;
    assert_eq!((status, &again["reason"]), (StatusCode::CONFLICT, &json!("Conflict")), "{again}");
    let bound = cluster.get(&format!("{namespace}/pods/web")).await;
    assert_eq!(
        (&bound["spec"]["nodeName"], &bound["status"]["conditions"][0]["type"]),
        (&json!("node-a"), &json!("PodScheduled"))
    );

    let reference = json!({"apiVersion": "v1", "kind": "Pod", "name": "web", "uid": pod["metadata"]["uid"]});
    let spec = json!({"audiences": ["vault"], "expirationSeconds": 600, "boundObjectRef": reference});
    let request = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec});
    let patience = Instant::now() + Duration::from_secs(5);
    let token = loop {
        let path = format!("{namespace}/serviceaccounts/default/token");
        let (status, answer) =
            cluster.ask(Who::Certificate(&cluster.pki.kubelet), Method::POST, &path, request.clone()).await;
        if status != 201 {
            // The Node authorizer learns of the binding from its watch; the audience is refused by NodeRestriction.
            assert_eq!(status, 403, "{answer}");
            if answer["message"].as_str().unwrap().contains("audience \"vault\" not found in pod spec volume") {
                break cluster.admin(Method::POST, &path, request).await.1["status"]["token"]
                    .as_str()
                    .unwrap()
                    .to_owned();
            }
        }
        assert!(Instant::now() < patience, "the node is never related to the account");
    };
    let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview",
                        "spec": {"token": token, "audiences": ["vault"]}});
    let (_, answer) = cluster.admin(Method::POST, "/apis/authentication.k8s.io/v1/tokenreviews", review).await;
    let user = &answer["status"]["user"];
    assert_eq!(
        (&answer["status"]["audiences"], &user["username"]),
        (&json!(["vault"]), &json!("system:serviceaccount:default:default")),
        "{answer}"
    );
    assert_eq!(user["extra"]["authentication.kubernetes.io/pod-name"], json!(["web"]));
    assert_eq!(user["extra"]["authentication.kubernetes.io/node-name"], json!(["node-a"]));
    assert_eq!(cluster.ask(Who::Token(&token), Method::GET, namespace, Value::Null).await.0, 401);

    let mut running = bound.clone();
    running["status"] = json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]});
    assert_eq!(cluster.admin(Method::PUT, &format!("{namespace}/pods/web/status"), running).await.0, 200);
    let budgets = "/apis/policy/v1/namespaces/default/poddisruptionbudgets";
    let budget = json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "b"},
                        "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "web"}}}});
    let (_, mut budget) = cluster.admin(Method::POST, budgets, budget).await;
    budget["status"] = json!({"observedGeneration": 1, "disruptionsAllowed": 0, "currentHealthy": 1, "desiredHealthy": 1, "expectedPods": 1});
    let (status, answer) = cluster.admin(Method::PUT, &format!("{budgets}/b/status"), budget).await;
    assert_eq!(status, 200, "{answer}");
    let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "web"}});
    let path = format!("{namespace}/pods/web/eviction");
    let (status, refused) = cluster.admin(Method::POST, &path, eviction.clone()).await;
    assert_eq!(status, 429, "{refused}");
    assert_eq!(refused["details"]["causes"][0]["reason"], "DisruptionBudget");
    assert_eq!(cluster.admin(Method::DELETE, &format!("{budgets}/b"), Value::Null).await.0, 200);
    let (status, answer) = cluster.admin(Method::POST, &path, eviction).await;
    assert_eq!(status, 201, "{answer}");
    let evicted = cluster.get(&format!("{namespace}/pods/web")).await;
    assert!(!evicted["metadata"]["deletionTimestamp"].is_null());
    std::fs::remove_dir_all(cluster.stop().await).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_authority_that_is_replaced_counts_without_a_restart() {
    let cluster = cluster("trust").await;
    let other = Authority::create("other").unwrap();
    let masters = Profile::client("system:admin", &["system:masters"]);
    let new = other.issue(&masters).unwrap();
    let config = "/api/v1/namespaces/kube-system/configmaps/extension-apiserver-authentication";
    let ask = async |who: &Issued| cluster.ask(Who::Certificate(who), Method::GET, config, Value::Null).await;
    assert_eq!((ask(&cluster.pki.admin).await.0, ask(&new).await.0.as_u16()), (StatusCode::OK, 401));
    let mut trust = Trust::of(&cluster.pki);
    trust.client_ca = Some(other.certificate_pem.clone());
    cluster.trust.send(trust).unwrap();
    let patience = Instant::now() + Duration::from_secs(5);
    // Extension API servers are told last.
    while ask(&new).await.1["data"]["client-ca-file"] != other.certificate_pem.as_str() {
        assert!(Instant::now() < patience, "the new authority is never taken up");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(ask(&cluster.pki.admin).await.0, 401);
    std::fs::remove_dir_all(cluster.stop().await).unwrap();
}
