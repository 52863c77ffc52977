//! Mirrors Endpoints that people write themselves into slices (upstream: pkg/controller/endpointslicemirroring).

use std::net::IpAddr;
use std::sync::Arc;

use async_trait::async_trait;
use serde_json::{Value, json};
use skeg_controller_runtime::objects::{
    EndpointAddress, EndpointConditions, EndpointSlice, Endpoints, Service, SliceEndpoint,
};
use skeg_controller_runtime::{Controller, Error, Object, Outcome, Store, Str, WorkQueue, run_controller, split_key};

use crate::context::Context;
use crate::endpoints::plan as v1;
use crate::endpointslice::plan::{Groups, MANAGED_BY, SERVICE_NAME, Wanted, pack, prefix};
use crate::endpointslice::{index, ours, perform};

const CONTROLLER: &str = "endpointslicemirroring-controller.k8s.io";
const SKIP: &str = "endpointslice.kubernetes.io/skip-mirror";
const LEADER: &str = "control-plane.alpha.kubernetes.io/leader";
const NOT_COPIED: &[&str] =
    &["endpoints.kubernetes.io/last-change-trigger-time", "kubectl.kubernetes.io/last-applied-configuration"];
const PER_SUBSET: usize = 1000;

struct Mirroring {
    services: Arc<Store<Service>>,
    endpoints: Arc<Store<Endpoints>>,
    slices: Arc<Store<EndpointSlice>>,
}

pub(crate) async fn run(context: Context) {
    let queue = Arc::new(WorkQueue::new());
    let services = context.stores.get::<Service>();
    let endpoints = context.stores.get::<Endpoints>();
    let slices = context.stores.get::<EndpointSlice>();
    index(&slices);
    let line = queue.clone();
    endpoints.subscribe(move |change| line.add(change.object().metadata.key()));
    let line = queue.clone();
    services.subscribe(move |change| line.add(change.object().metadata.key()));
    let line = queue.clone();
    slices.subscribe(move |change| {
        let meta = change.object().meta();
        if meta.label(MANAGED_BY) == Some(CONTROLLER)
            && let Some(service) = meta.label(SERVICE_NAME)
        {
            line.add(skeg_controller_runtime::key(&meta.namespace, service));
        }
    });
    run_controller(Arc::new(Mirroring { services, endpoints, slices }), queue, 2, context.shutdown).await;
}

fn mirrored(endpoints: &Endpoints, service: &Service) -> bool {
    let meta = &endpoints.metadata;
    service.spec.selector.is_empty()
        && !v1::is_ours(&meta.labels)
        && meta.label(SKIP) != Some("true")
        && meta.annotation(LEADER).is_none()
        && !meta.deleting()
}

/// The slices that say what these Endpoints say.
fn wanted(endpoints: &Endpoints) -> Wanted {
    let mut groups = Groups::new();
    for subset in &endpoints.subsets {
        let mut ports = subset.ports.clone();
        ports.sort();
        let ready = subset.addresses.iter().map(|a| (a, true));
        let all = ready.chain(subset.not_ready_addresses.iter().map(|a| (a, false)));
        for (address, ready) in all.take(PER_SUBSET) {
            let Ok(ip) = address.ip.parse::<IpAddr>() else { continue };
            let kind = if ip.is_ipv6() { "IPv6" } else { "IPv4" };
            groups.entry((kind, ports.clone())).or_default().push(endpoint(address, ready));
        }
    }
    let meta = &endpoints.metadata;
    let mut labels = meta.labels.to_json();
    labels[SERVICE_NAME] = json!(meta.name);
    labels[MANAGED_BY] = json!(CONTROLLER);
    let annotations: serde_json::Map<String, Value> = meta
        .annotations
        .iter()
        .filter(|(k, _)| !NOT_COPIED.contains(k))
        .map(|(k, v)| (k.to_owned(), json!(v)))
        .collect();
    Wanted { groups, address_types: Vec::new(), labels, annotations: Value::Object(annotations), prefix: prefix(meta) }
}

fn endpoint(address: &EndpointAddress, ready: bool) -> SliceEndpoint {
    SliceEndpoint {
        addresses: vec![address.ip.clone()],
        conditions: EndpointConditions { ready: Some(ready), serving: None, terminating: None },
        hostname: address.hostname.clone(),
        target_ref: address.target_ref.clone(),
        node_name: address.node_name.clone(),
        ..SliceEndpoint::default()
    }
}

#[async_trait]
impl Controller for Mirroring {
    type Key = Str;
    fn name(&self) -> &'static str {
        "endpointslice-mirroring-controller"
    }
    async fn synced(&self) {
        self.services.synced().await;
        self.endpoints.synced().await;
        self.slices.synced().await;
    }
    async fn reconcile(&self, key: &Str) -> Result<Outcome, Error> {
        let existing = ours(&self.slices, key, CONTROLLER);
        let (endpoints, service) = (self.endpoints.get(key), self.services.get(key));
        let source = endpoints.zip(service).filter(|(e, s)| mirrored(e, s)).map(|(e, _)| e);
        let (owner, wanted) = match &source {
            Some(endpoints) => (endpoints.controller_ref(), wanted(endpoints)),
            None if existing.is_empty() => return Ok(Outcome::Done),
            None => (Default::default(), wanted(&Endpoints::default())),
        };
        let (namespace, _) = split_key(key);
        match perform(&self.slices, namespace, &existing, &owner, pack(&wanted, &existing)).await {
            Err(error) if error.is_namespace_terminating() => Ok(Outcome::Done),
            other => other.map(|()| Outcome::Done),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_hand_written_endpoints_of_services_without_selectors_are_mirrored() {
        let endpoints = |labels: Value| -> Endpoints {
            serde_json::from_value(json!({"metadata": {"name": "s", "labels": labels}})).unwrap()
        };
        let service = |selector: Value| -> Service {
            serde_json::from_value(json!({"metadata": {"name": "s"}, "spec": {"selector": selector}})).unwrap()
        };
        for (name, endpoints, service, expected) in [
            ("hand-written", endpoints(json!({})), service(json!({})), true),
            ("with a selector", endpoints(json!({})), service(json!({"a": "b"})), false),
            ("told to skip", endpoints(json!({SKIP: "true"})), service(json!({})), false),
            (
                "made by the controller",
                endpoints(json!({v1::MANAGED_BY: "endpoint-controller"})),
                service(json!({})),
                false,
            ),
        ] {
            assert_eq!(mirrored(&endpoints, &service), expected, "{name}");
        }
    }

    #[test]
    fn subsets_become_slices_by_family_and_ports() {
        let endpoints: Endpoints = serde_json::from_value(json!({"metadata": {"name": "s"}, "subsets": [
            {"addresses": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}], "notReadyAddresses": [{"ip": "10.0.0.2"}],
             "ports": [{"name": "a", "port": 1, "protocol": "TCP"}]}]}))
        .unwrap();
        assert_eq!(pack(&wanted(&endpoints), &[]).len(), 2);
    }
}
