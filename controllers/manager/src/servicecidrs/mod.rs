//! Keeps ServiceCIDRs while services have addresses of them, and says that they are ready (upstream:
//! pkg/controller/servicecidrs). Giving the addresses is the API server's.

mod plan;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde::Deserialize;
use serde_json::json;
use skeg_controller_runtime::clock::rfc3339;
use skeg_controller_runtime::objects::Condition;
use skeg_controller_runtime::{
    Clock, Controller, Error, EventRecorder, Meta, Object, Outcome, Resource, Store, Str, WorkQueue, run_controller,
};

use crate::context::Context;
use plan::{Action, BLOCKED, READY, Range, plan};

const FINALIZER: &str = "networking.k8s.io/service-cidr-finalizer";
/// While a ServiceCIDR cannot go, the addresses and what else contains them are looked at again: they are not watched.
const AGAIN: Duration = Duration::from_secs(2);

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct ServiceCidr {
    metadata: Meta,
    spec: Spec,
    status: Status,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Spec {
    cidrs: Vec<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Status {
    conditions: Option<Vec<Condition>>,
}

impl Object for ServiceCidr {
    const RESOURCE: Resource = Resource::new("networking.k8s.io", "v1", "ServiceCIDR", "servicecidrs", false);
    fn meta(&self) -> &Meta {
        &self.metadata
    }
}

/// Only its name is of interest: the address.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct IpAddress {
    metadata: Meta,
}

const ADDRESSES: Resource = Resource::new("networking.k8s.io", "v1", "IPAddress", "ipaddresses", false);
const OF_SERVICES: &str = "labelSelector=ipaddress.kubernetes.io%2Fmanaged-by%3Dipallocator.k8s.io";

struct ServiceCidrs {
    ranges: Arc<Store<ServiceCidr>>,
    clock: Arc<dyn Clock>,
    events: EventRecorder,
}

pub(crate) async fn run(context: Context) {
    let queue = Arc::new(WorkQueue::new());
    let ranges = context.stores.get::<ServiceCidr>();
    let line = queue.clone();
    ranges.subscribe(move |change| line.add(change.object().metadata.key()));
    let events = context.recorder("service-cidr-controller");
    let controller = ServiceCidrs { ranges, clock: context.clock.clone(), events };
    run_controller(Arc::new(controller), queue, 1, context.shutdown).await;
}

#[async_trait]
impl Controller for ServiceCidrs {
    type Key = Str;
    fn name(&self) -> &'static str {
        "service-cidr-controller"
    }
    async fn synced(&self) {
        self.ranges.synced().await;
    }
    async fn reconcile(&self, key: &Str) -> Result<Outcome, Error> {
        let Some(object) = self.ranges.get(key) else { return Ok(Outcome::Done) };
        let range = self.range(&object);
        let mut addresses = Vec::new();
        if range.deleting.is_some() {
            let stored = self.ranges.api().list::<IpAddress>(&ADDRESSES, "", OF_SERVICES).await?;
            addresses = stored.iter().filter_map(|ip| ip.metadata.name.parse::<IpAddr>().ok()).collect();
        }
        let all: Vec<Range> = self.ranges.list().iter().map(|range| self.range(range)).collect();
        match plan(&range, &all, &addresses) {
            Action::Keep { add_finalizer: true } => {
                let finalizers: Vec<&str> =
                    object.metadata.finalizers.iter().map(|name| &**name).chain([FINALIZER]).collect();
                let object = self.ranges.patch_exact(&object.metadata, "", finalizers_of(&finalizers)).await?;
                self.ready(&object).await
            }
            Action::Keep { add_finalizer: false } => self.ready(&object).await,
            Action::Block => {
                self.say(&object, "False", "Terminating", BLOCKED).await?;
                Ok(Outcome::After(AGAIN))
            }
            Action::Wait(left) => Ok(Outcome::After(left)),
            Action::Release => {
                let own = object.metadata.finalizers.iter().map(|name| &**name);
                let finalizers: Vec<&str> = own.filter(|name| *name != FINALIZER).collect();
                match self.ranges.patch_exact(&object.metadata, "", finalizers_of(&finalizers)).await {
                    Err(error) if !error.is_not_found() => Err(error),
                    _ => Ok(Outcome::Done),
                }
            }
            Action::Nothing => Ok(Outcome::Done),
        }
    }
}

fn finalizers_of(names: &[&str]) -> serde_json::Value {
    json!({"metadata": {"finalizers": names}})
}

impl ServiceCidrs {
    fn range(&self, object: &ServiceCidr) -> Range {
        let meta = &object.metadata;
        Range {
            name: meta.name.to_string(),
            networks: object.spec.cidrs.iter().filter_map(|cidr| cidr.parse().ok()).collect(),
            has_finalizer: meta.has_finalizer(FINALIZER),
            deleting: meta
                .deleted
                .map(|at| Duration::try_from(self.clock.now().duration_since(at)).unwrap_or_default()),
        }
    }

    async fn ready(&self, object: &ServiceCidr) -> Result<Outcome, Error> {
        // Another condition is of another's making: the server's, for the range that it is started with.
        let mut conditions = object.status.conditions.iter().flatten();
        if conditions.any(|c| c.kind == "Ready" && c.status == "True") {
            return Ok(Outcome::Done);
        }
        if let Err(error) = self.say(object, "True", "", READY).await {
            let message = "The ServiceCIDR Status can not be set to Ready=True".to_owned();
            self.events.warning(&object.object_ref(), "KubernetesServiceCIDRError", message);
            return Err(error);
        }
        Ok(Outcome::Done)
    }

    /// The condition Ready, if it is not so already.
    async fn say(&self, object: &ServiceCidr, status: &str, reason: &str, message: &str) -> Result<(), Error> {
        let conditions = object.status.conditions.as_deref().unwrap_or_default();
        if conditions.iter().any(|c| c.kind == "Ready" && c.status == status && c.reason == reason) {
            return Ok(());
        }
        let ready = json!({"type": "Ready", "status": status, "reason": reason, "message": message,
            "lastTransitionTime": rfc3339(self.clock.now())});
        self.ranges.patch_exact(&object.metadata, "status", json!({"status": {"conditions": [ready]}})).await?;
        Ok(())
    }
}
