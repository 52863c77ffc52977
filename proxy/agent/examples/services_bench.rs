//! How long 10,000 services take to load, and one change among them. Run it in a network namespace of its own:
//!
//! `unshare --net target/debug/examples/services_bench [SERVICES] [CHANGES]`

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use skeg_nft::{Kernel, Nft};
use skeg_proxy::Config;
use skeg_proxy::model::{EndpointView, ObjectKey, Protocol, ServicePort, ServiceView, SlicePort, SliceView};
use skeg_proxy::services::{Change, Index, NodeContext, layouts};

fn service(n: u32) -> ServiceView {
    ServiceView {
        cluster_ips: vec![IpAddr::V4(Ipv4Addr::from(0x0a60_0100 + n))],
        ports: vec![ServicePort { name: "http".into(), protocol: Protocol::Tcp, port: 80, node_port: 0 }],
        ..ServiceView::default()
    }
}

fn slice(name: &str, n: u32, endpoints: u32) -> SliceView {
    let endpoint = |i: u32| EndpointView {
        address: IpAddr::V4(Ipv4Addr::from(0x0af4_0000 + n * 4 + i)),
        ready: true,
        serving: true,
        terminating: false,
        node: Some(if i == 0 { "bench" } else { "other" }.into()),
        hostname: None,
        zone_hints: Box::default(),
        node_hints: Box::default(),
    };
    SliceView {
        service: name.into(),
        ipv6: false,
        foreign: false,
        ports: vec![SlicePort { name: "http".into(), protocol: Protocol::Tcp, port: 8080 }],
        endpoints: (0..endpoints).map(endpoint).collect(),
    }
}

fn apply(kernel: &mut Kernel, change: Change) -> Duration {
    let started = Instant::now();
    for transaction in &change.transactions {
        kernel.apply(transaction).expect("the kernel takes the transaction");
    }
    started.elapsed()
}

fn main() {
    let mut args = std::env::args().skip(1).map(|a| a.parse::<u32>().expect("a number"));
    let (services, changes) = (args.next().unwrap_or(10_000), args.next().unwrap_or(1_000));
    let config = Config::new("bench", IpAddr::from([192, 168, 0, 1]));
    let node = NodeContext { name: "bench".into(), zone: None, own_vips: BTreeSet::new() };
    let mut index = Index::new(node, layouts(&config));
    let mut kernel = Kernel::open().expect("netlink is available");
    let names: Vec<String> = (0..services).map(|n| format!("service-{n}")).collect();

    let started = Instant::now();
    for (n, name) in (0..).zip(&names) {
        index.set_service(ObjectKey::new("bench", name), Some(Arc::new(service(n))));
        index.set_slice(ObjectKey::new("bench", name), "s".into(), Some(Arc::new(slice(name, n, 3))));
    }
    let transactions = index.whole().iter().map(|whole| whole.replace()).collect();
    let planned = started.elapsed();
    let applied = apply(&mut kernel, Change { transactions, udp_changed: false });
    println!("full load of {services} services with 3 endpoints: plan {planned:?}, kernel {applied:?}");

    let started = Instant::now();
    let mut adopt = |whole: &skeg_proxy::services::Whole| whole.adopt(&mut kernel).expect("the table is listed");
    assert!(index.whole().iter().all(|whole| adopt(whole).is_empty()), "what was applied is found again");
    println!("restart with nothing changed: {:?}", started.elapsed());
    let status = std::fs::read_to_string("/proc/self/status").expect("proc is mounted");
    println!("memory: {}", status.lines().find(|l| l.starts_with("VmRSS")).unwrap_or_default());

    let mut times = Vec::new();
    let mut kernel_times = Vec::new();
    // Each change takes a service from three endpoints to two or back.
    let mut endpoints = vec![3; services as usize];
    for i in 0..changes {
        let n = (i * 7919) % services;
        let name = &names[n as usize];
        let started = Instant::now();
        endpoints[n as usize] = 5 - endpoints[n as usize];
        index.set_slice(
            ObjectKey::new("bench", name),
            "s".into(),
            Some(Arc::new(slice(name, n, endpoints[n as usize]))),
        );
        kernel_times.push(apply(&mut kernel, index.flush()));
        times.push(started.elapsed());
    }
    for (what, times) in [("plan and kernel", &mut times), ("kernel", &mut kernel_times)] {
        times.sort_unstable();
        let at = |share: usize| times[(times.len() - 1) * share / 100];
        println!("one change, {what}: p50 {:?} p99 {:?} max {:?}", at(50), at(99), at(100));
    }
}
