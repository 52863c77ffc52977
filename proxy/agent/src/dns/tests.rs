//! Questions and their answers: from the zone alone, and through the server with an upstream of our own.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use hickory_proto::op::{Edns, Message, Query, ResponseCode};
use hickory_proto::rr::{Name, RecordType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio_util::sync::CancellationToken;

use super::forward::{Forwarder, resolv_conf};
use super::server::Server;
use super::zone::{Answer, Zone};
use crate::model::{EndpointView, ObjectKey, Protocol, ServicePort, ServiceView, SlicePort, SliceView};

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn endpoint(address: &str, hostname: Option<&str>, ready: bool) -> EndpointView {
    EndpointView {
        address: ip(address),
        ready,
        serving: ready,
        terminating: false,
        node: None,
        hostname: hostname.map(Box::from),
        zone_hints: Box::default(),
        node_hints: Box::default(),
    }
}

fn set(zone: &mut Zone, namespace: &str, name: &str, service: ServiceView, endpoints: Vec<EndpointView>) {
    let key = ObjectKey::new(namespace, name);
    let ports = vec![SlicePort { name: "http".into(), protocol: Protocol::Tcp, port: 8080 }];
    let slice = SliceView { service: name.into(), ipv6: false, foreign: false, ports, endpoints };
    zone.set_service(key.clone(), Some(Arc::new(service)));
    zone.set_slice(key, "slice".into(), Some(Arc::new(slice)));
}

fn zone() -> Zone {
    let networks = ["10.244.0.0/16", "10.96.0.0/16"].map(|n| n.parse().unwrap()).to_vec();
    let mut zone = Zone::new("cluster.local", ip("10.96.0.10"), networks, 1).unwrap();
    zone.ready = true;
    let port = |name: &str, protocol, port| ServicePort { name: name.into(), protocol, port, node_port: 0 };
    let ports = vec![port("http", Protocol::Tcp, 80), port("dns", Protocol::Udp, 53)];
    let plain = ServiceView { ports, ..ServiceView::default() };
    let cluster = |ips: &[&str]| ServiceView { cluster_ips: ips.iter().map(|i| ip(i)).collect(), ..plain.clone() };
    set(&mut zone, "default", "kubernetes", cluster(&["10.96.0.1"]), vec![]);
    set(&mut zone, "shop", "web", cluster(&["10.96.3.4", "fd00::4"]), vec![]);
    let headless = ServiceView { headless: true, ..plain.clone() };
    let pods = vec![
        endpoint("10.244.1.5", Some("db-0"), true),
        endpoint("10.244.1.6", None, true),
        endpoint("10.244.1.7", Some("db-2"), false),
    ];
    set(&mut zone, "shop", "db", headless.clone(), pods);
    set(&mut zone, "shop", "empty", headless, vec![]);
    let external = ServiceView { external_name: Some("example.org".into()), ..ServiceView::default() };
    set(&mut zone, "shop", "partner", external.clone(), vec![]);
    let inside = ServiceView { external_name: Some("web.shop.svc.cluster.local".into()), ..external };
    set(&mut zone, "shop", "alias", inside, vec![]);
    zone
}

/// The answer to `name TYPE` as words.
fn ask(zone: &Zone, question: &str) -> String {
    let (name, kind) = question.split_once(' ').unwrap();
    let mut name = Name::from_ascii(name).unwrap();
    name.set_fqdn(true);
    let show = |records: &[hickory_proto::rr::Record]| {
        let mut all: Vec<String> = records.iter().map(|r| format!("{} {}", r.record_type(), r.data)).collect();
        all.sort();
        all.join(", ")
    };
    match zone.answer(&name, kind.parse().unwrap()) {
        Answer::Records { answers, additionals } if additionals.is_empty() => show(&answers),
        Answer::Records { answers, additionals } => format!("{} + {}", show(&answers), show(&additionals)),
        Answer::Alias { target, .. } => format!("alias {target}"),
        other => format!("{other:?}"),
    }
}

#[test]
fn cluster_names_are_answered_by_the_specification() {
    let table = [
        ("dns-version.cluster.local TXT", "TXT 1.1.0"),
        ("kubernetes.default.svc.cluster.local A", "A 10.96.0.1"),
        ("KuberNetes.Default.SVC.cluster.LOCAL A", "A 10.96.0.1"),
        ("kubernetes.default.svc.cluster.local AAAA", "NoData"),
        ("kubernetes.default.svc.cluster.local MX", "NoData"),
        ("web.shop.svc.cluster.local A", "A 10.96.3.4"),
        ("web.shop.svc.cluster.local AAAA", "AAAA fd00::4"),
        (
            "_http._tcp.web.shop.svc.cluster.local SRV",
            "SRV 0 100 80 web.shop.svc.cluster.local. + A 10.96.3.4, AAAA fd00::4",
        ),
        (
            "_dns._udp.kubernetes.default.svc.cluster.local SRV",
            "SRV 0 100 53 kubernetes.default.svc.cluster.local. + A 10.96.0.1",
        ),
        ("_http._udp.web.shop.svc.cluster.local SRV", "NxDomain"),
        ("_http._tcp.web.shop.svc.cluster.local A", "NoData"),
        ("_tcp.web.shop.svc.cluster.local A", "NoData"),
        ("db.shop.svc.cluster.local A", "A 10.244.1.5, A 10.244.1.6"),
        ("db-0.db.shop.svc.cluster.local A", "A 10.244.1.5"),
        ("10-244-1-6.db.shop.svc.cluster.local A", "A 10.244.1.6"),
        ("db-2.db.shop.svc.cluster.local A", "NxDomain"),
        (
            "_http._tcp.db.shop.svc.cluster.local SRV",
            "SRV 0 50 8080 10-244-1-6.db.shop.svc.cluster.local., SRV 0 50 8080 db-0.db.shop.svc.cluster.local. \
             + A 10.244.1.5, A 10.244.1.6",
        ),
        ("empty.shop.svc.cluster.local A", "NxDomain"),
        ("partner.shop.svc.cluster.local A", "alias example.org."),
        ("partner.shop.svc.cluster.local CNAME", "CNAME example.org."),
        ("10-244-0-5.shop.pod.cluster.local A", "A 10.244.0.5"),
        ("not-an-address.shop.pod.cluster.local A", "NxDomain"),
        ("nothing.shop.svc.cluster.local A", "NxDomain"),
        ("web.nowhere.svc.cluster.local A", "NxDomain"),
        ("shop.svc.cluster.local A", "NoData"),
        ("nowhere.svc.cluster.local A", "NxDomain"),
        ("svc.cluster.local A", "NoData"),
        ("cluster.local NS", "NS ns.dns.cluster.local."),
        ("ns.dns.cluster.local A", "A 10.96.0.10"),
        ("4.3.96.10.in-addr.arpa PTR", "PTR web.shop.svc.cluster.local."),
        ("5.1.244.10.in-addr.arpa PTR", "PTR db-0.db.shop.svc.cluster.local."),
        ("9.9.244.10.in-addr.arpa PTR", "NxDomain"),
        ("8.8.8.8.in-addr.arpa PTR", "Forward"),
        (
            "4.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa PTR",
            "PTR web.shop.svc.cluster.local.",
        ),
        ("example.org A", "Forward"),
        ("notcluster.local A", "Forward"),
    ];
    let zone = zone();
    for (question, expected) in table {
        assert_eq!(ask(&zone, question), expected, "{question}");
    }
}

#[test]
fn before_the_cluster_is_known_its_names_are_not_denied() {
    let mut zone = zone();
    zone.ready = false;
    assert_eq!(ask(&zone, "later.shop.svc.cluster.local A"), "NotReady");
    assert_eq!(ask(&zone, "4.3.96.10.in-addr.arpa PTR"), "NotReady");
    assert_eq!(ask(&zone, "example.org A"), "Forward");
}

#[test]
fn what_is_deleted_is_no_longer_answered() {
    let mut zone = zone();
    let key = ObjectKey::new("shop", "web");
    zone.set_service(key.clone(), None);
    zone.set_slice(key, "slice".into(), None);
    assert_eq!(ask(&zone, "web.shop.svc.cluster.local A"), "NxDomain");
    assert_eq!(ask(&zone, "4.3.96.10.in-addr.arpa PTR"), "NxDomain");
}

#[test]
fn resolv_conf_never_leads_back_here() {
    let text = "search x\nnameserver 10.96.0.10\nnameserver 1.1.1.1\n# nameserver 2.2.2.2\nnameserver fd00::53\n";
    assert_eq!(resolv_conf(text, ip("10.96.0.10")), ["1.1.1.1:53", "[fd00::53]:53"].map(|a| a.parse().unwrap()));
}

/// An upstream that answers every A question with 192.0.2.1 and counts.
async fn upstream(asked: Arc<std::sync::atomic::AtomicUsize>) -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let addr = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let mut buf = vec![0; 512];
        loop {
            let (len, client) = socket.recv_from(&mut buf).await.unwrap();
            asked.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            let query = Message::from_vec(&buf[..len]).unwrap();
            let mut answer = Message::response(query.metadata.id, query.metadata.op_code);
            answer.queries = query.queries.clone();
            let name = query.queries[0].name().clone();
            let data = hickory_proto::rr::RData::A(hickory_proto::rr::rdata::A([192, 0, 2, 1].into()));
            answer.add_answer(hickory_proto::rr::Record::from_rdata(name, 60, data));
            socket.send_to(&answer.to_vec().unwrap(), client).await.unwrap();
        }
    });
    addr
}

struct Running {
    udp: SocketAddr,
    tcp: SocketAddr,
    asked: Arc<std::sync::atomic::AtomicUsize>,
    _stop: tokio_util::sync::DropGuard,
}

async fn start(zone: Zone) -> Running {
    let asked = Arc::default();
    let forwarder = Forwarder::new(vec![upstream(Arc::clone(&asked)).await]);
    let server = Arc::new(Server::new(zone, forwarder));
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (udp, tcp) = (socket.local_addr().unwrap(), listener.local_addr().unwrap());
    let stop = CancellationToken::new();
    tokio::spawn(server.clone().serve_udp(socket, stop.clone()));
    tokio::spawn(server.serve_tcp(listener, stop.clone()));
    Running { udp, tcp, asked, _stop: stop.drop_guard() }
}

fn query(name: &str, kind: RecordType, edns: Option<u16>) -> Message {
    let mut query = Message::query();
    query.metadata.recursion_desired = true;
    query.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    if let Some(size) = edns {
        let mut edns = Edns::new();
        edns.set_max_payload(size);
        query.set_edns(edns);
    }
    query
}

async fn over_udp(server: SocketAddr, query: &Message) -> (Message, usize) {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.send_to(&query.to_vec().unwrap(), server).await.unwrap();
    let mut buf = vec![0; 65_536];
    let len = socket.recv(&mut buf).await.unwrap();
    (Message::from_vec(&buf[..len]).unwrap(), len)
}

async fn over_tcp(server: SocketAddr, query: &Message) -> Message {
    let mut stream = TcpStream::connect(server).await.unwrap();
    let bytes = query.to_vec().unwrap();
    stream.write_u16(bytes.len() as u16).await.unwrap();
    stream.write_all(&bytes).await.unwrap();
    let mut answer = vec![0; stream.read_u16().await.unwrap().into()];
    stream.read_exact(&mut answer).await.unwrap();
    Message::from_vec(&answer).unwrap()
}

fn texts(message: &Message) -> Vec<String> {
    message.answers.iter().map(|r| format!("{} {}", r.name, r.data)).collect()
}

#[tokio::test]
async fn cluster_answers_have_authority_and_negative_ones_a_soa() {
    let server = start(zone()).await;
    let (answer, _) = over_udp(server.udp, &query("web.shop.svc.cluster.local.", RecordType::A, None)).await;
    assert!(answer.metadata.authoritative && answer.metadata.recursion_available);
    assert_eq!(texts(&answer), ["web.shop.svc.cluster.local. 10.96.3.4"]);
    assert_eq!(answer.answers[0].ttl, 5);
    for (name, code) in [
        ("none.shop.svc.cluster.local.", ResponseCode::NXDomain),
        ("kubernetes.default.svc.cluster.local.", ResponseCode::NoError),
    ] {
        let (answer, _) = over_udp(server.udp, &query(name, RecordType::AAAA, None)).await;
        assert_eq!(answer.metadata.response_code, code);
        assert_eq!(answer.authorities[0].record_type(), RecordType::SOA);
    }
    assert_eq!(server.asked.load(std::sync::atomic::Ordering::SeqCst), 0);
}

#[tokio::test]
async fn other_names_are_forwarded_once_and_then_remembered() {
    let server = start(zone()).await;
    for _ in 0..3 {
        let (answer, _) = over_udp(server.udp, &query("example.org.", RecordType::A, Some(1232))).await;
        assert_eq!(texts(&answer), ["example.org. 192.0.2.1"]);
        assert!(!answer.metadata.authoritative);
    }
    assert_eq!(server.asked.load(std::sync::atomic::Ordering::SeqCst), 1);
}

#[tokio::test]
async fn aliases_bring_the_addresses_of_their_target() {
    let server = start(zone()).await;
    let (answer, _) = over_udp(server.udp, &query("partner.shop.svc.cluster.local.", RecordType::A, None)).await;
    assert_eq!(texts(&answer), ["partner.shop.svc.cluster.local. example.org.", "example.org. 192.0.2.1"]);
    let (answer, _) = over_udp(server.udp, &query("alias.shop.svc.cluster.local.", RecordType::A, None)).await;
    let alias = "alias.shop.svc.cluster.local. web.shop.svc.cluster.local.";
    assert_eq!(texts(&answer), [alias, "web.shop.svc.cluster.local. 10.96.3.4"]);
}

#[tokio::test]
async fn what_does_not_fit_a_datagram_is_truncated_and_whole_over_tcp() {
    let mut zone = zone();
    let pods = (1..=200).map(|i| endpoint(&format!("10.244.9.{i}"), None, true)).collect();
    set(&mut zone, "shop", "many", ServiceView { headless: true, ..ServiceView::default() }, pods);
    let server = start(zone).await;
    for (edns, limit) in [(None, 512), (Some(4096), 1232)] {
        let question = query("many.shop.svc.cluster.local.", RecordType::A, edns);
        let (answer, len) = over_udp(server.udp, &question).await;
        assert!(answer.metadata.truncation && len <= limit, "{len} bytes");
        let answer = over_tcp(server.tcp, &question).await;
        assert!(!answer.metadata.truncation);
        assert_eq!(answer.answers.len(), 200);
    }
}

#[tokio::test]
async fn odd_questions_get_the_right_refusal() {
    let server = start(zone()).await;
    let mut two = query("a.example.", RecordType::A, None);
    two.add_query(Query::query(Name::from_ascii("b.example.").unwrap(), RecordType::A));
    let mut update = query("a.example.", RecordType::A, None);
    update.metadata.op_code = hickory_proto::op::OpCode::Notify;
    let mut chaos = query("version.bind.", RecordType::TXT, None);
    chaos.queries[0].set_query_class(hickory_proto::rr::DNSClass::CH);
    for (question, code) in
        [(two, ResponseCode::FormErr), (update, ResponseCode::NotImp), (chaos, ResponseCode::Refused)]
    {
        let (answer, _) = over_udp(server.udp, &question).await;
        assert_eq!(answer.metadata.response_code, code);
        assert_eq!(answer.metadata.id, question.metadata.id);
    }
}
