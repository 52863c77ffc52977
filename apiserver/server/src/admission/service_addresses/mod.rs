//! Cluster IPs and node ports of Services: given when a Service is written, free when it is gone (upstream
//! pkg/registry/core/service/storage/alloc.go). Works between the client's object and the strategy, as a mutating plug-in.
//!
//! ```text
//! write ─ mutate ─> Pool (reserved for 30 s) ─> stored ─ follow ─> Pool (held) and IPAddress objects
//!                    └── networks: the server's own, and those of ServiceCIDRs that are ready ◀─ follow
//! ```
//! The truth is in the stored Services; the pool and the IPAddress objects follow them.

use std::collections::HashSet;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use futures::StreamExt;
use ipnet::IpNet;
use serde_json::{Value, json};
use skeg_machinery::field::{Error, ErrorList, Path};
use skeg_machinery::gvk::{GroupKind, GroupResource};
use skeg_machinery::meta;
use skeg_machinery::status::Status;
use skeg_machinery::text::quote;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{Attributes, Operation, Plugin, items, items_mut};
use crate::request::UserInfo;
use crate::resources::{Change, Resources, WriteOptions};

pub mod pool;

use pool::{Owner, Pool, PoolError, Thing, things_of};

const SERVICES: GroupResource = GroupResource::from_static("", "services");
const ADDRESSES: GroupResource = GroupResource::from_static("networking.k8s.io", "ipaddresses");
const RANGES: GroupResource = GroupResource::from_static("networking.k8s.io", "servicecidrs");
const MANAGED_BY: &str = "ipallocator.k8s.io";

pub struct ServiceAddresses {
    pool: Mutex<Pool>,
    resources: Arc<dyn Resources>,
    synced: watch::Sender<bool>,
}

/// What one write asks of the pool.
struct Request<'a> {
    owner: Owner,
    keep: bool,
    now: Instant,
    old: Option<&'a Value>,
}

impl ServiceAddresses {
    pub fn new(networks: Vec<IpNet>, ports: RangeInclusive<u16>, resources: Arc<dyn Resources>) -> Arc<Self> {
        Arc::new(ServiceAddresses {
            pool: Mutex::new(Pool::new(networks, ports)),
            resources,
            synced: watch::Sender::new(false),
        })
    }

    fn pool(&self) -> std::sync::MutexGuard<'_, Pool> {
        self.pool.lock().expect("no panic while the pool is locked")
    }

    /// Follows the Services until `shutdown`; a write of a Service waits for the first list.
    pub async fn run(self: Arc<Self>, shutdown: CancellationToken) {
        let mut changes = self.resources.follow(&SERVICES);
        let mut ranges = self.resources.follow(&RANGES).fuse();
        let mut listed = HashSet::new();
        let mut tidy = tokio::time::interval(Duration::from_secs(60));
        loop {
            let change = tokio::select! {
                biased;
                Some(change) = ranges.next() => {
                    self.range(change);
                    continue;
                }
                change = changes.next() => change,
                _ = tidy.tick() => {
                    self.pool().expire(Instant::now());
                    continue;
                }
                () = shutdown.cancelled() => return,
            };
            match change {
                None => return,
                Some(Change::Restart) => listed.clear(),
                Some(Change::Applied(service)) => {
                    let owner = owner_of(&service);
                    let things = things_of(&service);
                    self.pool().stored(&owner, &things);
                    self.record(&owner, &things, &service).await;
                    listed.insert(owner);
                }
                Some(Change::Deleted(service)) => {
                    let owner = owner_of(&service);
                    self.pool().removed(&owner);
                    self.unrecord(&things_of(&service), &owner).await;
                    listed.remove(&owner);
                }
                Some(Change::Synced) => {
                    let gone: Vec<Owner> = self.pool().owners().into_iter().filter(|o| !listed.contains(o)).collect();
                    for owner in gone {
                        self.pool().removed(&owner);
                    }
                    self.drop_orphans().await;
                    self.synced.send_replace(true);
                }
            }
        }
    }

    /// Addresses are given from the networks of ServiceCIDRs that are ready and stay.
    fn range(&self, change: Change) {
        match change {
            Change::Applied(object) => self.pool().set_added(meta::name(&object), networks_of(&object)),
            Change::Deleted(object) => self.pool().set_added(meta::name(&object), Vec::new()),
            Change::Restart | Change::Synced => {}
        }
    }

    pub async fn wait_synced(&self) {
        let _ = self.synced.subscribe().wait_for(|synced| *synced).await;
    }

    /// Makes the IPAddress objects of a Service that are not there, and removes those that it no longer has.
    async fn record(&self, owner: &Owner, things: &[Thing], service: &Value) {
        for thing in things {
            let Thing::Address(address) = thing else { continue };
            let name = address.to_string();
            if let Ok(Some(_)) = self.resources.get_cached(&ADDRESSES, "", &name).await {
                continue;
            }
            let object = address_object(*address, &owner.0, &owner.1);
            let options = WriteOptions { field_manager: "kube-apiserver".into(), ..Default::default() };
            match self.resources.create(&UserInfo::loopback(), &ADDRESSES, "", object, &options).await {
                Ok(_) => {}
                Err(status) if status.is_already_exists() => {}
                Err(status) => {
                    tracing::debug!(address = name, error = %status.message, "cannot record the service address")
                }
            }
        }
        // Only a Service that gave something up (its type changed) can have addresses too many.
        if service["spec"]["type"] == "ExternalName" {
            let Ok(recorded) = self.resources.list(&ADDRESSES, "").await else { return };
            let mine = recorded.iter().filter(|object| parent_of(object) == *owner);
            let stale: Vec<Thing> = mine.filter_map(|o| Some(Thing::Address(meta::name(o).parse().ok()?))).collect();
            self.unrecord(&stale, owner).await;
        }
    }

    async fn unrecord(&self, things: &[Thing], owner: &Owner) {
        for thing in things {
            let Thing::Address(address) = thing else { continue };
            let name = address.to_string();
            let Ok(recorded) = self.resources.get(&ADDRESSES, "", &name).await else { continue };
            if parent_of(&recorded) == *owner {
                let _ = self.resources.delete(&UserInfo::loopback(), &ADDRESSES, "", &name, &json!({})).await;
            }
        }
    }

    /// IPAddress objects of our making whose Service is not there any more.
    async fn drop_orphans(&self) {
        let Ok(recorded) = self.resources.list(&ADDRESSES, "").await else { return };
        for object in
            recorded.iter().filter(|o| meta::label(o, "ipaddress.kubernetes.io/managed-by") == Some(MANAGED_BY))
        {
            let (namespace, name) = parent_of(object);
            let held = self.pool().owners().contains(&(namespace.clone(), name.clone()));
            if !held {
                let _ =
                    self.resources.delete(&UserInfo::loopback(), &ADDRESSES, "", meta::name(object), &json!({})).await;
            }
        }
    }

    /// Whether the Service that the pool holds something for is really still there: a delete may not have come by yet.
    async fn is_stale(&self, owner: &Owner, thing: Thing) -> bool {
        let held = match self.resources.get(&SERVICES, &owner.0, &owner.1).await {
            Ok(service) => things_of(&service).contains(&thing),
            Err(status) => !status.is_not_found(),
        };
        if !held {
            self.pool().removed(owner);
        }
        !held
    }
}

/// The networks that a ServiceCIDR gives addresses from.
fn networks_of(range: &Value) -> Vec<IpNet> {
    let ready = items(&range["status"], "conditions").any(|c| c["type"] == "Ready" && c["status"] == "True");
    if !ready || !range["metadata"]["deletionTimestamp"].is_null() {
        return Vec::new();
    }
    strings(&range["spec"]["cidrs"]).iter().filter_map(|cidr| cidr.parse().ok()).collect()
}

fn owner_of(service: &Value) -> Owner {
    (meta::namespace(service).to_owned(), meta::name(service).to_owned())
}

fn parent_of(address: &Value) -> Owner {
    let parent = |field: &str| meta::str_at(address, &["spec", "parentRef", field]).to_owned();
    (parent("namespace"), parent("name"))
}

fn address_object(address: IpAddr, namespace: &str, name: &str) -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "IPAddress",
        "metadata": {
            "name": address.to_string(),
            "labels": {
                "ipaddress.kubernetes.io/ip-family": family_of(address),
                "ipaddress.kubernetes.io/managed-by": MANAGED_BY,
            },
        },
        "spec": { "parentRef": { "group": "", "resource": "services", "namespace": namespace, "name": name } },
    })
}

fn family_of(address: IpAddr) -> &'static str {
    if address.is_ipv6() { "IPv6" } else { "IPv4" }
}

fn other_family(family: &str) -> &'static str {
    if family == "IPv4" { "IPv6" } else { "IPv4" }
}

fn strings(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().filter_map(|v| v.as_str().map(str::to_owned)).collect()
}

fn invalid(service: &Value, error: Error) -> Status {
    let mut errors = ErrorList::new();
    errors.0.push(error);
    Status::invalid(&GroupKind::from_static("", "Service"), meta::name(service), &errors)
}

fn spec() -> Path {
    Path::new("spec")
}

#[async_trait]
impl Plugin for ServiceAddresses {
    fn name(&self) -> &'static str {
        "ServiceAddresses"
    }

    async fn mutate(&self, attributes: &Attributes<'_>, service: &mut Value) -> Result<(), Status> {
        let written = matches!(attributes.operation, Operation::Create | Operation::Update);
        if !written || !attributes.is("", "services") {
            return Ok(());
        }
        self.wait_synced().await;
        // A name that is still to be generated is nobody's: it gets reservations of its own.
        let name = if meta::name(service).is_empty() {
            format!("{}{:016x}", meta::generate_name(service), rand::random::<u64>())
        } else {
            meta::name(service).to_owned()
        };
        let request = Request {
            owner: (attributes.namespace.to_owned(), name),
            keep: !attributes.dry_run,
            now: Instant::now(),
            old: attributes.old_object,
        };
        if let Some(old) = request.old {
            keep_allocated(service, old);
        }
        normalize(service, request.old);
        if !self.settle_families(service, &request)? {
            return Ok(());
        }
        self.addresses(service, &request).await?;
        let taken = self.node_ports(service, &request).await?;
        self.health_port(service, &request, &taken)
    }
}

/// The first port that a dry run is told is the one behind it (upstream: portallocator's AllocateNext).
const BEFORE_DUMMY_PORTS: u16 = 32768;

/// What the client left out stays as it was (upstream's patchAllocatedValues).
fn keep_allocated(service: &mut Value, old: &Value) {
    let kind = |service: &Value| service["spec"]["type"].as_str().unwrap_or_default().to_owned();
    let empty = |value: &Value| value.as_str().is_none_or(str::is_empty);
    if kind(old) != "ExternalName" && kind(service) != "ExternalName" {
        if empty(&service["spec"]["clusterIP"]) && !empty(&old["spec"]["clusterIP"]) {
            service["spec"]["clusterIP"] = old["spec"]["clusterIP"].clone();
        }
        if strings(&service["spec"]["clusterIPs"]).is_empty() && !strings(&old["spec"]["clusterIPs"]).is_empty() {
            service["spec"]["clusterIPs"] = old["spec"]["clusterIPs"].clone();
        }
    }
    if has_node_ports(old) && has_node_ports(service) {
        let ports = |service: &Value| -> HashSet<u64> {
            items(&service["spec"], "ports").filter_map(|p| p["nodePort"].as_u64()).filter(|p| *p != 0).collect()
        };
        let used: HashSet<u64> = ports(old).intersection(&ports(service)).copied().collect();
        for port in items_mut(&mut service["spec"], "ports") {
            let before = items(&old["spec"], "ports").find(|p| p["name"] == port["name"]);
            let before = before.and_then(|p| p["nodePort"].as_u64()).filter(|p| *p != 0 && !used.contains(p));
            if let (0, Some(before)) = (port["nodePort"].as_u64().unwrap_or(0), before) {
                port["nodePort"] = before.into();
            }
        }
    }
}

/// clusterIP is the first of clusterIPs, whichever of the two the client wrote.
fn normalize(service: &mut Value, old: Option<&Value>) {
    let single = service["spec"]["clusterIP"].as_str().unwrap_or_default().to_owned();
    let list = strings(&service["spec"]["clusterIPs"]);
    let Some(old) = old else {
        if !single.is_empty() && list.is_empty() {
            service["spec"]["clusterIPs"] = json!([single]);
        }
        return;
    };
    let old_single = old["spec"]["clusterIP"].as_str().unwrap_or_default();
    if single != old_single && list == strings(&old["spec"]["clusterIPs"]) {
        if single.is_empty() {
            meta::remove(service, &["spec", "clusterIPs"]);
        } else {
            service["spec"]["clusterIPs"] = json!([single]);
        }
    } else if !single.is_empty() && list.is_empty() {
        service["spec"]["clusterIPs"] = json!([single]);
    }
}

fn has_node_ports(service: &Value) -> bool {
    let spec = &service["spec"];
    spec["type"] == "NodePort" || (spec["type"] == "LoadBalancer" && spec["allocateLoadBalancerNodePorts"] != false)
}

fn needs_health_port(service: &Value) -> bool {
    service["spec"]["type"] == "LoadBalancer" && service["spec"]["externalTrafficPolicy"] == "Local"
}

impl ServiceAddresses {
    fn family_configured(&self, family: &str) -> bool {
        self.pool().networks().iter().any(|network| family_of(network.addr()) == family)
    }

    /// ipFamilyPolicy and ipFamilies as they will be; `false` where there is nothing to allocate or validation will refuse
    /// the Service anyway.
    fn settle_families(&self, service: &mut Value, request: &Request<'_>) -> Result<bool, Status> {
        let kind = service["spec"]["type"].as_str().unwrap_or_default().to_owned();
        if !matches!(kind.as_str(), "ClusterIP" | "NodePort" | "LoadBalancer") {
            return Ok(false);
        }
        let mut ips = strings(&service["spec"]["clusterIPs"]);
        let mut families = strings(&service["spec"]["ipFamilies"]);
        let well_formed = ips.len() <= 2
            && families.len() <= 2
            && ips.iter().all(|ip| ip == "None" || ip.parse::<IpAddr>().is_ok())
            && families.iter().all(|family| matches!(family.as_str(), "IPv4" | "IPv6"));
        if !well_formed {
            return Ok(false);
        }
        let headless = ips.first().is_some_and(|ip| ip == "None");
        let selectorless = service["spec"]["selector"].as_object().is_none_or(|selector| selector.is_empty());
        if service["spec"]["ipFamilyPolicy"].is_null() {
            let before = request.old.map_or(&Value::Null, |old| &old["spec"]["ipFamilyPolicy"]);
            service["spec"]["ipFamilyPolicy"] = match before {
                Value::String(policy) => policy.as_str().into(),
                _ if headless && selectorless => "RequireDualStack".into(),
                _ => "SingleStack".into(),
            };
        }
        let policy = service["spec"]["ipFamilyPolicy"].as_str().unwrap_or_default().to_owned();
        let refuse = |path: Path, value: Value, why: &str| Err(invalid(service, Error::invalid(&path, value, why)));
        if let Some(old) = request.old
            && policy == "SingleStack"
        {
            // Going back to one family: what was not touched is cut to its first.
            if ips.len() > 1 && ips == strings(&old["spec"]["clusterIPs"]) {
                ips.truncate(1);
            }
            if families.len() > 1 && families == strings(&old["spec"]["ipFamilies"]) {
                families.truncate(1);
            }
        }
        if policy == "SingleStack" && (ips.len() == 2 || families.len() == 2) {
            let what = if ips.len() == 2 { "cluster IPs" } else { "IP families" };
            let why = format!("must be 'RequireDualStack' or 'PreferDualStack' when multiple {what} are specified");
            return refuse(spec().child("ipFamilyPolicy"), policy.into(), &why);
        }
        for (i, ip) in ips.iter().enumerate().skip(families.len()) {
            let Ok(address) = ip.parse::<IpAddr>() else { break };
            let family = family_of(address);
            if !self.family_configured(family) {
                let path = spec().child("clusterIPs").index(i);
                return refuse(path, json!(ips), &format!("{family} is not configured on this cluster"));
            }
            families.push(family.to_owned());
        }
        let default = self.pool().networks().first().map_or("IPv4", |network| family_of(network.addr()));
        let dual = self.family_configured("IPv4") && self.family_configured("IPv6");
        let unbound = headless && selectorless;
        if !unbound {
            if policy == "RequireDualStack" && !dual {
                let why = "this cluster is not configured for dual-stack services";
                return refuse(spec().child("ipFamilyPolicy"), policy.into(), why);
            }
            for (i, family) in families.iter().enumerate() {
                if !self.family_configured(family) {
                    let path = spec().child("ipFamilies").index(i);
                    return refuse(path, family.as_str().into(), "not configured on this cluster");
                }
            }
        }
        if families.is_empty() {
            families.push(default.to_owned());
        }
        if policy != "SingleStack" && families.len() == 1 && (dual || unbound) {
            families.push(other_family(&families[0]).to_owned());
        }
        service["spec"]["ipFamilies"] = json!(families);
        if !ips.is_empty() {
            service["spec"]["clusterIPs"] = json!(ips);
        }
        Ok(true)
    }

    async fn addresses(&self, service: &mut Value, request: &Request<'_>) -> Result<(), Status> {
        let mut ips = strings(&service["spec"]["clusterIPs"]);
        if ips.first().is_some_and(|ip| ip == "None") {
            service["spec"]["clusterIP"] = "None".into();
            return Ok(());
        }
        let before = request.old.map(|old| strings(&old["spec"]["clusterIPs"])).unwrap_or_default();
        // A headless Service stays headless; validation says so when somebody tries otherwise.
        if before.first().is_some_and(|ip| ip == "None") {
            return Ok(());
        }
        for (i, family) in strings(&service["spec"]["ipFamilies"]).iter().enumerate() {
            match ips.get(i) {
                Some(ip) if before.contains(ip) => {}
                // The address of a Service that has one is not exchanged; validation refuses it.
                Some(_) if before.len() > i => {}
                Some(ip) => {
                    let Ok(address) = ip.parse::<IpAddr>() else { return Ok(()) };
                    self.take(Thing::Address(address), request).await.map_err(|why| {
                        let why = format!("failed to allocate IP {ip}: {why}");
                        invalid(service, Error::invalid(&spec().child("clusterIPs"), json!(ips), why))
                    })?;
                }
                None => {
                    let next = self.pool().next_address(
                        family == "IPv6",
                        &request.owner,
                        request.now,
                        rand::random(),
                        request.keep,
                    );
                    let address = next.map_err(|why| {
                        let named = quote(meta::name(service));
                        Status::internal_error(format!("failed to allocate a serviceIP for Service {named}: {why}"))
                    })?;
                    ips.push(address.to_string());
                }
            }
        }
        if let Some(first) = ips.first() {
            service["spec"]["clusterIP"] = first.as_str().into();
            service["spec"]["clusterIPs"] = json!(ips);
        }
        Ok(())
    }

    /// Reserves what was asked for; a holder that is gone already does not stand in the way.
    async fn take(&self, thing: Thing, request: &Request<'_>) -> Result<(), PoolError> {
        let attempt = || {
            let mut pool = self.pool();
            match thing {
                Thing::Address(address) => pool.take_address(address, &request.owner, request.now, request.keep),
                Thing::Port(port) => pool.take_port(port, &request.owner, request.now, request.keep),
            }
        };
        match attempt() {
            Err(PoolError::AddressTaken(owner) | PoolError::PortTaken(owner)) if self.is_stale(&owner, thing).await => {
                attempt()
            }
            result => result,
        }
    }

    /// Returns what this request took.
    async fn node_ports(&self, service: &mut Value, request: &Request<'_>) -> Result<Vec<u16>, Status> {
        let mut taken = Vec::new();
        if !matches!(service["spec"]["type"].as_str(), Some("NodePort" | "LoadBalancer")) {
            return Ok(taken);
        }
        let before: HashSet<u64> = request
            .old
            .map(|old| items(&old["spec"], "ports").filter_map(|p| p["nodePort"].as_u64()).collect())
            .unwrap_or_default();
        let allocates = has_node_ports(service);
        let ports: Vec<(u64, u64)> = items(&service["spec"], "ports")
            .map(|p| (p["port"].as_u64().unwrap_or(0), p["nodePort"].as_u64().unwrap_or(0)))
            .collect();
        // TCP and UDP on one service port share a node port unless the client says otherwise.
        let mut chosen: Vec<(u64, u64)> = ports.clone();
        for i in 0..ports.len() {
            let (port, wanted) = ports[i];
            if wanted != 0 {
                if !before.contains(&wanted) {
                    let narrow = u16::try_from(wanted).unwrap_or(0);
                    self.take(Thing::Port(narrow), request).await.map_err(|why| {
                        let path = spec().child("ports").index(i).child("nodePort");
                        invalid(service, Error::invalid(&path, wanted, why.to_string()))
                    })?;
                    taken.push(narrow);
                }
                continue;
            }
            if !allocates {
                continue;
            }
            let shared = (request.old.is_none())
                .then(|| chosen.iter().enumerate().find(|(j, (p, node))| *j != i && *p == port && *node != 0))
                .flatten();
            chosen[i].1 = match shared {
                Some((_, (_, node))) => *node,
                None => {
                    let used: Vec<u16> = chosen.iter().filter_map(|(_, node)| u16::try_from(*node).ok()).collect();
                    let next = self.next_port(request, &used, &taken);
                    let next =
                        next.map_err(|why| Status::internal_error(format!("failed to allocate a nodePort: {why}")))?;
                    taken.push(next);
                    u64::from(next)
                }
            };
        }
        for (port, (_, node)) in items_mut(&mut service["spec"], "ports").zip(&chosen) {
            if *node != 0 {
                port["nodePort"] = (*node).into();
            }
        }
        Ok(taken)
    }

    /// A free port; for a dry run, one that stands for it, `taken` being what the request took before.
    fn next_port(&self, request: &Request<'_>, used: &[u16], taken: &[u16]) -> Result<u16, PoolError> {
        match request.keep {
            true => self.pool().next_port(&request.owner, used, request.now, rand::random()),
            false => Ok(taken.iter().copied().max().unwrap_or(BEFORE_DUMMY_PORTS).saturating_add(1)),
        }
    }

    fn health_port(&self, service: &mut Value, request: &Request<'_>, taken: &[u16]) -> Result<(), Status> {
        if !needs_health_port(service) {
            return Ok(());
        }
        let given = service["spec"]["healthCheckNodePort"].as_u64().unwrap_or(0);
        if let Some(old) = request.old.filter(|old| needs_health_port(old)) {
            if given == 0 && !old["spec"]["healthCheckNodePort"].is_null() {
                service["spec"]["healthCheckNodePort"] = old["spec"]["healthCheckNodePort"].clone();
            }
            return Ok(());
        }
        if given != 0 {
            let port = u16::try_from(given).unwrap_or(0);
            return self.pool().take_port(port, &request.owner, request.now, request.keep).map_err(|why| {
                Status::internal_error(format!("failed to allocate requested HealthCheck NodePort {given}: {why}"))
            });
        }
        let ports = items(&service["spec"], "ports").filter_map(|p| p["nodePort"].as_u64());
        let used: Vec<u16> = ports.filter_map(|port| u16::try_from(port).ok()).collect();
        let port = self
            .next_port(request, &used, taken)
            .map_err(|why| Status::internal_error(format!("failed to allocate a HealthCheck NodePort 0: {why}")))?;
        service["spec"]["healthCheckNodePort"] = port.into();
        Ok(())
    }
}

#[cfg(test)]
mod tests;
