//! The data path with real packets: a node in a network namespace of its own, pods on its bridge, a client outside.
//!
//! They need root and the `ip` program, and run when SKEG_TEST_NODE=1.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns, unshare};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::Config;
use crate::feed::{Event, Source};
use crate::model::{EndpointView, ObjectKey, Protocol, ServicePort, ServiceView, SlicePort, SliceView};
use crate::services::{Index, NodeContext, layouts};

fn enabled(test: &str) -> bool {
    let enabled = std::env::var("SKEG_TEST_NODE").is_ok_and(|v| v == "1");
    if !enabled {
        eprintln!("skipped {test}: set SKEG_TEST_NODE=1 to run it, as root");
    }
    enabled
}

fn sh(command: &str) {
    let out = Command::new("sh").args(["-ec", command]).output().unwrap();
    assert!(out.status.success(), "{command}: {}", String::from_utf8_lossy(&out.stderr));
}

/// Waits until the commands print no line that matches.
fn no_line(commands: &str, pattern: &str) {
    let started = Instant::now();
    loop {
        let out = Command::new("sh").args(["-c", &format!("({commands}) | grep -E '{pattern}'")]).output().unwrap();
        if out.stdout.is_empty() {
            assert_eq!(out.status.code(), Some(1), "{}", String::from_utf8_lossy(&out.stderr));
            return;
        }
        let found = String::from_utf8_lossy(&out.stdout);
        assert!(started.elapsed() < Duration::from_secs(5), "still there: {found}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Runs `test` on a thread of its own in a new network namespace.
fn in_new_namespace(test: impl FnOnce() + Send + 'static) {
    let thread = std::thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        sh("ip link set lo up");
        test();
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// A network namespace that is joined to the node by a veth pair.
struct Host {
    holder: Child,
    ip: IpAddr,
}

impl Drop for Host {
    fn drop(&mut self) {
        self.holder.kill().unwrap();
        self.holder.wait().unwrap();
    }
}

impl Host {
    /// `link` prepares the node's end, whose name is `name`.
    fn new(name: &str, ip: &str, gateway: &str, link: &str) -> Self {
        let mut command = Command::new("unshare");
        let holder = command.args(["--net", "sh", "-c", "echo; exec sleep 600"]).stdout(Stdio::piped()).spawn();
        let mut holder = holder.unwrap();
        holder.stdout.take().unwrap().read_exact(&mut [0]).unwrap();
        let pid = holder.id();
        sh(&format!(
            "ip link add {name} type veth peer name eth0 netns {pid}; {link}; ip link set {name} up
             nsenter -t {pid} -n sh -ec 'ip link set lo up; ip addr add {ip}/24 dev eth0; ip link set eth0 up
             ip route add default via {gateway}'"
        ));
        Self { holder, ip: ip.parse().unwrap() }
    }

    fn pod(name: &str, ip: &str) -> Self {
        Self::new(
            name,
            ip,
            "10.244.1.1",
            &format!("ip link set {name} master cni0; bridge link set dev {name} hairpin on"),
        )
    }

    /// Runs something in the namespace.
    fn enter<T: Send + 'static>(&self, run: impl FnOnce() -> T + Send + 'static) -> T {
        let file = std::fs::File::open(format!("/proc/{}/ns/net", self.holder.id())).unwrap();
        let thread = std::thread::spawn(move || {
            setns(file, CloneFlags::CLONE_NEWNET).unwrap();
            run()
        });
        thread.join().unwrap()
    }

    /// Serves TCP 8080 and UDP 5353; answers with its own name and the client's address.
    fn serve(&self, name: &'static str) {
        self.enter(move || {
            let tcp = TcpListener::bind("0.0.0.0:8080").unwrap();
            let udp = UdpSocket::bind("0.0.0.0:5353").unwrap();
            std::thread::spawn(move || {
                for stream in tcp.incoming() {
                    let mut stream = stream.unwrap();
                    let peer = stream.peer_addr().unwrap().ip();
                    let _ = stream.write_all(format!("{name} {peer}").as_bytes());
                }
            });
            std::thread::spawn(move || {
                let mut buf = [0; 16];
                while let Ok((_, peer)) = udp.recv_from(&mut buf) {
                    let _ = udp.send_to(format!("{name} {}", peer.ip()).as_bytes(), peer);
                }
            });
        });
    }
}

/// What one connection got: `name source`, or the kind of error.
fn connect(dest: SocketAddr) -> String {
    let connected = TcpStream::connect_timeout(&dest, Duration::from_secs(2));
    let answer = connected.and_then(|mut stream| {
        stream.set_read_timeout(Some(Duration::from_secs(2)))?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    });
    answer.unwrap_or_else(|e| e.kind().to_string())
}

/// The different answers to forty connections, sorted.
fn answers(dest: &str) -> Vec<String> {
    let dest = dest.parse().unwrap();
    let mut all: Vec<String> = (0..40).map(|_| connect(dest)).collect();
    all.sort();
    all.dedup();
    all
}

fn endpoint(ip: IpAddr, node: &str) -> EndpointView {
    EndpointView {
        address: ip,
        ready: true,
        serving: true,
        terminating: false,
        node: Some(node.into()),
        hostname: None,
        zone_hints: Box::default(),
        node_hints: Box::default(),
    }
}

fn slice(endpoints: Vec<EndpointView>) -> SliceView {
    let port = |name: &str, protocol, port| SlicePort { name: name.into(), protocol, port };
    SliceView {
        service: "web".into(),
        ipv6: false,
        foreign: false,
        ports: vec![port("http", Protocol::Tcp, 8080), port("echo", Protocol::Udp, 5353)],
        endpoints,
    }
}

fn service() -> ServiceView {
    let port = |name: &str, protocol, port, node_port| ServicePort { name: name.into(), protocol, port, node_port };
    ServiceView {
        cluster_ips: vec!["10.96.0.1".parse().unwrap()],
        ports: vec![port("http", Protocol::Tcp, 80, 30080), port("echo", Protocol::Udp, 53, 0)],
        ..ServiceView::default()
    }
}

/// A node with its proxy running, in the current namespace.
struct Node {
    events: mpsc::Sender<Event>,
    runtime: tokio::runtime::Runtime,
    config: Config,
    marker: u16,
}

impl Node {
    fn new() -> Self {
        sh("ip link add cni0 type bridge; ip addr add 10.244.1.1/24 dev cni0; ip link set cni0 up");
        sh("ip addr add 192.0.2.1/32 dev lo");
        let config = Config::new("node-1", "192.0.2.1".parse().unwrap());
        crate::sysctl::prepare(&config);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(crate::network::route_services(&config)).unwrap();
        let node = NodeContext { name: "node-1".into(), ..NodeContext::default() };
        let index = Index::new(node, layouts(&config));
        let (events, receiver) = mpsc::channel(16);
        let task = config.clone();
        runtime.spawn(async move {
            crate::services::run(&task, index, receiver, CancellationToken::new()).await.unwrap();
        });
        let node = Self { events, runtime, config, marker: 100 };
        node.send(Event::Synced(Source::Services));
        node.send(Event::Synced(Source::Slices));
        node
    }

    fn send(&self, event: Event) {
        self.runtime.block_on(self.events.send(event)).unwrap();
    }

    /// Waits until a server of the node answers with this status.
    fn answers_http(&self, server: &str, path: &str, status: &str) {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let ask = async || {
            let mut stream = tokio::net::TcpStream::connect(server).await?;
            stream.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes()).await?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await?;
            Ok::<_, std::io::Error>(answer)
        };
        self.runtime.block_on(async {
            let started = Instant::now();
            loop {
                let answer = ask().await.unwrap_or_else(|e| e.to_string());
                if answer.split(' ').nth(1) == Some(status) {
                    return;
                }
                assert!(
                    started.elapsed() < Duration::from_secs(5),
                    "{server}{path} does not answer {status}: {answer}"
                );
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
    }

    /// Sets the service and waits until a service that was set after it is in force.
    fn set(&mut self, service: ServiceView, endpoints: Vec<EndpointView>) {
        let key = ObjectKey::new("default", "web");
        self.send(Event::Service(key.clone(), Some(Arc::new(service))));
        self.send(Event::Slice { service: key, name: "s".into(), slice: Some(Arc::new(slice(endpoints))) });
        self.marker += 1;
        let mut marker = ServiceView { cluster_ips: vec!["10.96.0.2".parse().unwrap()], ..ServiceView::default() };
        let port = ServicePort { name: "m".into(), protocol: Protocol::Tcp, port: self.marker, node_port: 0 };
        marker.ports.push(port);
        self.send(Event::Service(ObjectKey::new("default", "marker"), Some(Arc::new(marker))));
        let wanted = format!("10.96.0.2 . tcp . {} :", self.marker);
        self.runtime.block_on(async {
            let started = Instant::now();
            loop {
                let out = Command::new("nft").args(["-n", "list", "map", "ip", "skeg-services", "services"]).output();
                let listed = String::from_utf8_lossy(&out.unwrap().stdout).replace(" 6 ", " tcp ");
                if listed.contains(&wanted) {
                    // What follows the transaction, as the sweep of stale flows, is done when the loop waits again.
                    tokio::task::yield_now().await;
                    return;
                }
                assert!(started.elapsed() < Duration::from_secs(10), "not programmed: {listed}");
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
    }
}

#[test]
fn services_carry_real_connections() {
    if !enabled("services_carry_real_connections") {
        return;
    }
    in_new_namespace(|| {
        let mut node = Node::new();
        let (a, b) = (Host::pod("pod-a", "10.244.1.5"), Host::pod("pod-b", "10.244.1.6"));
        let c = Host::pod("pod-c", "10.244.1.9");
        let outside = Host::new("eth0x", "198.18.0.2", "198.18.0.1", "ip addr add 198.18.0.1/24 dev eth0x");
        a.serve("a");
        b.serve("b");
        let both = || vec![endpoint(a.ip, "node-1"), endpoint(b.ip, "node-1")];

        node.set(service(), both());
        assert_eq!(c.enter(|| answers("10.96.0.1:80")), ["a 10.244.1.9", "b 10.244.1.9"]);
        assert_eq!(a.enter(|| answers("10.96.0.1:80")), ["a 10.244.1.1", "b 10.244.1.5"], "a pod reaches itself");
        assert_eq!(answers("10.96.0.1:80"), ["a 10.244.1.1", "b 10.244.1.1"], "from the host, without default route");
        assert_eq!(outside.enter(|| answers("198.18.0.1:30080")), ["a 10.244.1.1", "b 10.244.1.1"]);
        assert_eq!(c.enter(|| answers("10.244.1.1:30080")), ["a 10.244.1.9", "b 10.244.1.9"]);

        let health = ServiceView { external_local: true, health_check_node_port: Some(30999), ..service() };
        node.set(health, both());
        node.answers_http("198.18.0.1:10256", "/healthz", "200");
        node.answers_http("198.18.0.1:30999", "/", "200");
        assert_eq!(outside.enter(|| answers("198.18.0.1:30080")), ["a 198.18.0.2", "b 198.18.0.2"]);

        node.set(ServiceView { affinity: 60, ..service() }, both());
        let first = c.enter(|| answers("10.96.0.1:80"));
        assert_eq!(first.len(), 1, "{first:?}");
        let (gone, left) = if first[0].starts_with('a') { ("a", b.ip) } else { ("b", a.ip) };
        node.set(ServiceView { affinity: 60, ..service() }, vec![endpoint(left, "node-1")]);
        let second = c.enter(|| answers("10.96.0.1:80"));
        assert!(second.len() == 1 && !second[0].starts_with(gone), "{second:?}");

        let elsewhere = vec![endpoint(a.ip, "node-2")];
        node.set(ServiceView { health_check_node_port: Some(30999), ..service() }, elsewhere);
        node.answers_http("198.18.0.1:30999", "/", "503");
        let leaving = crate::model::NodeView { leaving: true, ..Default::default() };
        node.send(Event::Node("node-1".into(), Some(Arc::new(leaving))));
        node.answers_http("198.18.0.1:10256", "/healthz", "503");
        node.answers_http("198.18.0.1:10256", "/livez", "200");

        node.set(service(), vec![]);
        for dest in ["10.96.0.1:80", "10.96.0.77:80", "10.244.1.1:30080"] {
            let started = Instant::now();
            assert_eq!(c.enter(move || connect(dest.parse().unwrap())), "connection refused", "{dest}");
            assert_eq!(connect(dest.parse().unwrap()), "connection refused", "{dest} from the host");
            assert!(started.elapsed() < Duration::from_millis(500), "{dest} was refused late");
        }
        sh("test -z \"$(nft list ruleset 2>&1 >/dev/null)\"");
        let Node { runtime, config, events, .. } = node;
        drop(events);
        runtime.block_on(crate::teardown(&config)).unwrap();
        no_line("ip link; ip route; nft list tables", "cni0|skeg|10.96|10.244");
    });
}

#[test]
fn a_udp_client_follows_the_endpoints() {
    if !enabled("a_udp_client_follows_the_endpoints") {
        return;
    }
    in_new_namespace(|| {
        let mut node = Node::new();
        let (a, b, c) =
            (Host::pod("pod-a", "10.244.1.5"), Host::pod("pod-b", "10.244.1.6"), Host::pod("pod-c", "10.244.1.9"));
        a.serve("a");
        b.serve("b");
        let socket = Arc::new(c.enter(|| UdpSocket::bind("0.0.0.0:4000").unwrap()));
        socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
        let ask = || {
            let mut buf = [0; 64];
            // Each datagram is of one flow: the port stays the same.
            for _ in 0..4 {
                socket.send_to(b"?", "10.96.0.1:53").unwrap();
                if let Ok(n) = socket.recv(&mut buf) {
                    return String::from_utf8_lossy(&buf[..n]).into_owned();
                }
            }
            "silence".into()
        };
        node.set(service(), vec![endpoint(a.ip, "node-1")]);
        assert_eq!(ask(), "a 10.244.1.9");
        node.set(service(), vec![endpoint(b.ip, "node-1")]);
        // Stale flows are forgotten right after the rules have changed, which is what `set` waits for.
        let started = Instant::now();
        while ask() != "b 10.244.1.9" {
            assert!(started.elapsed() < Duration::from_secs(5), "the flow still leads to the old endpoint");
        }
    });
}

/// A node whose pod network runs in a namespace of its own.
struct Routed {
    host: Host,
    events: mpsc::Sender<Event>,
    config: Config,
    _stop: tokio_util::sync::DropGuard,
}

impl Routed {
    /// Node `n`: address 172.31.0.n, pods 10.244.n.0/24; its link is on the bridge `underlay` of the current namespace.
    fn new(n: u8, overlay: crate::Overlay, dir: &std::path::Path) -> Self {
        let join = format!("ip link set n{n} master underlay");
        let host = Host::new(&format!("n{n}"), &format!("172.31.0.{n}"), "172.31.0.254", &join);
        let mut config = Config::new(format!("node-{n}"), host.ip);
        config.overlay = overlay;
        config.cni_conf_dir = dir.join(format!("node-{n}"));
        config.cni_state_dir = dir.join(format!("addresses-{n}"));
        // A host that forwards nothing by default.
        host.enter(|| sh("iptables -P FORWARD DROP"));
        let (events, receiver) = mpsc::channel(16);
        let (stop, task) = (CancellationToken::new(), config.clone());
        let guard = stop.clone().drop_guard();
        host.enter(move || {
            std::thread::spawn(move || {
                crate::sysctl::prepare(&task);
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                runtime.block_on(crate::network::claim_address(task.dns_ip)).unwrap();
                runtime.block_on(crate::network::run(&task, receiver, stop)).unwrap();
            });
        });
        Self { host, events, config, _stop: guard }
    }

    fn tell(&self, event: Event) {
        self.events.blocking_send(event).unwrap();
    }

    /// Attaches a pod through the configuration that the agent wrote and the distribution's plugin; returns its address.
    fn attach(&self, plugins: &str) -> (Child, IpAddr) {
        let path = self.config.cni_conf_dir.join("10-skeg.conflist");
        let started = Instant::now();
        while !path.exists() {
            assert!(started.elapsed() < Duration::from_secs(5), "no CNI configuration");
            std::thread::sleep(Duration::from_millis(5));
        }
        let list: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        let mut conf = list["plugins"][0].clone();
        conf["cniVersion"] = list["cniVersion"].clone();
        conf["name"] = list["name"].clone();
        let mut command = Command::new("unshare");
        let mut pod =
            command.args(["--net", "sh", "-c", "echo; exec sleep 600"]).stdout(Stdio::piped()).spawn().unwrap();
        pod.stdout.take().unwrap().read_exact(&mut [0]).unwrap();
        let (netns, plugins) = (format!("/proc/{}/ns/net", pod.id()), plugins.to_owned());
        let output = self.host.enter(move || {
            let mut plugin = Command::new(format!("{plugins}/bridge"))
                .envs([("CNI_COMMAND", "ADD"), ("CNI_CONTAINERID", "pod"), ("CNI_IFNAME", "eth0")])
                .envs([("CNI_NETNS", &netns), ("CNI_PATH", &plugins)])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            plugin.stdin.take().unwrap().write_all(conf.to_string().as_bytes()).unwrap();
            plugin.wait_with_output().unwrap().stdout
        });
        let result: serde_json::Value = serde_json::from_slice(&output).unwrap();
        let address = result["ips"][0]["address"].as_str().unwrap_or_else(|| panic!("{result}"));
        (pod, address.split('/').next().unwrap().parse().unwrap())
    }
}

#[test]
fn pods_of_two_nodes_reach_each_other_routed_and_over_vxlan() {
    let plugins =
        ["/usr/lib/cni", "/opt/cni/bin"].into_iter().find(|p| std::path::Path::new(p).join("bridge").exists());
    let (true, Some(plugins)) = (enabled("pods_of_two_nodes_reach_each_other_routed_and_over_vxlan"), plugins) else {
        return;
    };
    for overlay in [crate::Overlay::None, crate::Overlay::Vxlan] {
        in_new_namespace(move || {
            sh("ip link add underlay type bridge; ip addr add 172.31.0.254/24 dev underlay; ip link set underlay up");
            let dir = std::env::temp_dir().join(format!("skeg-node-test-{}-{overlay:?}", std::process::id()));
            let nodes = [1, 2].map(|n| Routed::new(n, overlay, &dir));
            for node in &nodes {
                for n in [1u8, 2] {
                    let view = crate::model::NodeView {
                        pod_cidrs: vec![format!("10.244.{n}.0/24").parse().unwrap()],
                        internal_ips: vec![IpAddr::from([172, 31, 0, n])],
                        zone: None,
                        leaving: false,
                    };
                    node.tell(Event::Node(format!("node-{n}").into(), Some(Arc::new(view))));
                }
                node.tell(Event::Synced(Source::Nodes));
            }
            let [(pod_a, a), (pod_b, b)] = [0, 1].map(|i| nodes[i].attach(plugins));
            let (pod_a, pod_b) = (Host { holder: pod_a, ip: a }, Host { holder: pod_b, ip: b });
            pod_b.serve("b");
            let across = pod_a.enter(move || connect(SocketAddr::new(b, 8080)));
            assert_eq!(across, format!("b {a}"), "{overlay:?}: the source stays the pod's");
            let underlay = TcpListener::bind("172.31.0.254:9000").unwrap();
            let out = pod_a
                .enter(|| TcpStream::connect_timeout(&"172.31.0.254:9000".parse().unwrap(), Duration::from_secs(2)));
            assert!(out.is_ok(), "{out:?}");
            assert_eq!(underlay.accept().unwrap().1.ip(), nodes[0].host.ip, "what leaves the cluster is masqueraded");

            nodes[0].tell(Event::Node("node-2".into(), None));
            nodes[0].host.enter(|| no_line("ip route", "10.244.2"));
            if overlay == crate::Overlay::Vxlan {
                nodes[0]
                    .host
                    .enter(|| no_line("bridge fdb show dev skeg-vxlan; ip neigh show dev skeg-vxlan", "172.31|10.244"));
            }
            for node in nodes {
                // What is removed does not depend on the former configuration.
                let config = Config { cluster_cidr: vec![], dns_ip: [10, 0, 0, 1].into(), ..node.config.clone() };
                node.host.enter(move || {
                    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                    runtime.block_on(crate::teardown(&config)).unwrap();
                    no_line("ip link; ip addr; ip route; iptables -S; nft list tables", "cni0|skeg|10.244|10.96");
                });
                assert!(!node.config.cni_conf_dir.join("10-skeg.conflist").exists());
            }
            std::fs::remove_dir_all(dir).unwrap();
        });
    }
}

#[test]
fn the_kernel_takes_and_lists_every_rule_of_both_families() {
    if !enabled("the_kernel_takes_and_lists_every_rule_of_both_families") {
        return;
    }
    in_new_namespace(|| {
        use skeg_nft::{Kernel, Nft};
        let mut config = Config::new("node-1", "192.0.2.1".parse().unwrap());
        config.cluster_cidr.push("fd00:1::/48".parse().unwrap());
        config.service_cidr.push("fd00:2::/112".parse().unwrap());
        let mut index = Index::new(NodeContext { name: "node-1".into(), ..NodeContext::default() }, layouts(&config));
        let key = ObjectKey::new("default", "web");
        let everything = ServiceView {
            cluster_ips: ["10.96.0.1", "fd00:2::1"].map(|i| i.parse().unwrap()).to_vec(),
            ingress_ips: ["198.51.100.1", "2001:db8::1"].map(|i| i.parse().unwrap()).to_vec(),
            source_ranges: ["203.0.113.0/24", "198.18.0.0/15", "2001:db8::/32"].map(|n| n.parse().unwrap()).to_vec(),
            affinity: 86_400,
            external_local: true,
            ..service()
        };
        let both = |here: &str, there: &str| {
            vec![endpoint(here.parse().unwrap(), "node-1"), endpoint(there.parse().unwrap(), "node-2")]
        };
        let v6 = SliceView { ipv6: true, ..slice(both("fd00:1::5", "fd00:1::6")) };
        index.set_service(key.clone(), Some(Arc::new(everything)));
        index.set_slice(key.clone(), "4".into(), Some(Arc::new(slice(both("10.244.1.5", "10.244.2.5")))));
        index.set_slice(key.clone(), "6".into(), Some(Arc::new(v6)));
        let mut kernel = Kernel::open().unwrap();
        for whole in index.whole() {
            kernel.apply(&whole.replace()).unwrap();
        }
        for whole in index.whole() {
            let left = whole.adopt(&mut kernel).unwrap();
            assert!(left.is_empty(), "{:?}", left.commands);
        }
        sh("test -z \"$(nft list ruleset 2>&1 >/dev/null)\"");
        index.set_service(key.clone(), Some(Arc::new(service())));
        index.set_slice(key, "4".into(), None);
        for transaction in index.flush().transactions {
            kernel.apply(&transaction).unwrap();
        }
        for whole in index.whole() {
            let left = whole.adopt(&mut kernel).unwrap();
            assert!(left.is_empty(), "{:?}", left.commands);
        }
    });
}
