//! Gives every node its pod network from the cluster's (upstream: pkg/controller/nodeipam, range allocator).

mod plan;

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use ipnet::IpNet;
use serde_json::json;
use skeg_controller_runtime::objects::Node;
use skeg_controller_runtime::{
    Controller, Error, EventRecorder, Object, Outcome, PatchKind, Store, Str, WorkQueue, run_controller,
};

use crate::context::Context;
use plan::Pool;

struct NodeIpam {
    nodes: Arc<Store<Node>>,
    pools: Arc<Mutex<Vec<Pool>>>,
    events: EventRecorder,
}

fn networks(node: &Node) -> Vec<IpNet> {
    let listed = node.spec.pod_cidrs.iter().filter_map(|c| c.parse().ok()).collect::<Vec<IpNet>>();
    if listed.is_empty() { node.spec.pod_cidr.parse().into_iter().collect() } else { listed }
}

pub(crate) async fn run(context: Context) {
    let config = &context.config;
    if config.cluster_cidr.is_empty() {
        return;
    }
    let mut pools = Vec::new();
    for cluster in &config.cluster_cidr {
        let mask = if cluster.addr().is_ipv6() { config.node_cidr_mask_size_ipv6 } else { config.node_cidr_mask_size };
        match Pool::new(*cluster, mask) {
            Some(pool) => pools.push(pool),
            None => {
                tracing::error!(%cluster, mask, "the node mask does not fit into the cluster CIDR: no pod networks");
                return;
            }
        }
    }
    for pool in &mut pools {
        config.service_cidr.iter().for_each(|net| pool.occupy(net));
    }
    let pools = Arc::new(Mutex::new(pools));
    let queue = Arc::new(WorkQueue::new());
    let nodes = context.stores.get::<Node>();
    let (line, shared) = (queue.clone(), pools.clone());
    nodes.subscribe(move |change| {
        let node = change.object();
        let mut pools = shared.lock().expect("nothing panics with the pools locked");
        for net in networks(node) {
            for pool in pools.iter_mut() {
                if change.is_deleted() { pool.release(&net) } else { pool.occupy(&net) }
            }
        }
        drop(pools);
        if !change.is_deleted() && networks(node).is_empty() {
            line.add(node.metadata.key());
        }
    });
    let controller = NodeIpam { nodes, pools, events: context.recorder("cidrAllocator") };
    run_controller(Arc::new(controller), queue, 2, context.shutdown).await;
}

#[async_trait]
impl Controller for NodeIpam {
    type Key = Str;
    fn name(&self) -> &'static str {
        "node-ipam-controller"
    }
    async fn synced(&self) {
        self.nodes.synced().await;
    }
    async fn reconcile(&self, key: &Str) -> Result<Outcome, Error> {
        let Some(node) = self.nodes.get(key) else { return Ok(Outcome::Done) };
        if !networks(&node).is_empty() {
            return Ok(Outcome::Done);
        }
        let Some(taken) = self.allocate() else {
            let message = format!("Node {} status is now: CIDRNotAvailable", node.metadata.name);
            self.events.normal(&node.object_ref(), "CIDRNotAvailable", message);
            return Ok(Outcome::Again);
        };
        let texts: Vec<String> = taken.iter().map(IpNet::to_string).collect();
        // No version: other fields may change meanwhile, and an assigned network cannot be overwritten.
        let body = json!({"metadata": {"uid": node.metadata.uid}, "spec": {"podCIDR": texts[0], "podCIDRs": texts}});
        match self.nodes.patch(&node.metadata, "", PatchKind::Merge, &body).await {
            Ok(_) => Ok(Outcome::Done),
            Err(error) => {
                self.give_back(&taken);
                if !error.is_conflict() && !error.is_not_found() {
                    let message = format!("Node {} status is now: CIDRAssignmentFailed", node.metadata.name);
                    self.events.normal(&node.object_ref(), "CIDRAssignmentFailed", message);
                }
                Err(error)
            }
        }
    }
}

impl NodeIpam {
    /// One network of each family, or none.
    fn allocate(&self) -> Option<Vec<IpNet>> {
        let mut pools = self.pools.lock().expect("nothing panics with the pools locked");
        let mut taken = Vec::new();
        for index in 0..pools.len() {
            match pools[index].allocate() {
                Some(net) => taken.push(net),
                None => {
                    for (pool, net) in pools.iter_mut().zip(&taken) {
                        pool.release(net);
                    }
                    return None;
                }
            }
        }
        Some(taken)
    }
    fn give_back(&self, taken: &[IpNet]) {
        let mut pools = self.pools.lock().expect("nothing panics with the pools locked");
        for (pool, net) in pools.iter_mut().zip(taken) {
            pool.release(net);
        }
    }
}
