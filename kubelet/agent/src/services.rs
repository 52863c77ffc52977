//! A lister of Services for environment variables: name, cluster address and ports, nothing else.

use crate::env::ServicePorts;
use futures::StreamExt;
use k8s_openapi::api::core::v1::{self as core, ServiceSpec};
use kube::api::{Api, ApiResource, NotUsed, Object};
use kube::runtime::watcher;
use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// A Service without its status, which may hold what typed clients cannot read, such as conditions without a time.
type Service = Object<ServiceSpec, NotUsed>;
type Map = BTreeMap<(String, String), ServicePorts>;

/// The lister.
pub struct Services {
    list: watch::Receiver<Option<Arc<Vec<ServicePorts>>>>,
}

impl Services {
    /// Starts the watch. Task: reads the API, writes the list; ends with `shutdown`.
    pub fn start(client: kube::Client, shutdown: CancellationToken, tasks: &tokio_util::task::TaskTracker) -> Self {
        let (tx, list) = watch::channel(None);
        tasks.spawn(async move {
            tokio::select! {
                () = shutdown.cancelled() => {}
                () = follow(client, tx) => {}
            }
        });
        Self { list }
    }

    /// A fixed list.
    pub fn fixed(services: Vec<ServicePorts>) -> Self {
        Self { list: watch::channel(Some(Arc::new(services))).1 }
    }

    /// Services as known now.
    pub fn snapshot(&self) -> Arc<Vec<ServicePorts>> {
        self.list.borrow().clone().unwrap_or_default()
    }

    /// Waits until they are known at all: a pod started before would lack its variables. Says whether they are.
    pub async fn ready(&self, patience: Duration) -> bool {
        let mut list = self.list.clone();
        tokio::time::timeout(patience, list.wait_for(Option::is_some)).await.is_ok_and(|r| r.is_ok())
    }
}

async fn follow(client: kube::Client, list: watch::Sender<Option<Arc<Vec<ServicePorts>>>>) {
    let api: Api<Service> = Api::all_with(client, &ApiResource::erase::<core::Service>(&()));
    let stream = watcher(api, watcher::Config::default());
    let mut events = pin!(kube::runtime::WatchStreamExt::backoff(stream, watcher::DefaultBackoff::default()));
    let mut map = Map::new();
    let mut building = Map::new();
    while let Some(event) = events.next().await {
        match event {
            Ok(watcher::Event::Init) => building = Map::new(),
            Ok(watcher::Event::InitApply(service)) => put(&mut building, &service),
            Ok(watcher::Event::InitDone) => {
                map = std::mem::take(&mut building);
                publish(&map, &list);
            }
            Ok(watcher::Event::Apply(service)) => {
                put(&mut map, &service);
                publish(&map, &list);
            }
            Ok(watcher::Event::Delete(service)) => {
                map.remove(&key(&service));
                publish(&map, &list);
            }
            Err(error) => tracing::debug!(%error, "watch of services"),
        }
    }
}

fn publish(map: &Map, list: &watch::Sender<Option<Arc<Vec<ServicePorts>>>>) {
    let new: Vec<ServicePorts> = map.values().cloned().collect();
    list.send_if_modified(|old| {
        let changed = old.as_ref().is_none_or(|old| **old != new);
        if changed {
            *old = Some(Arc::new(new));
        }
        changed
    });
}

fn key(service: &Service) -> (String, String) {
    (service.metadata.namespace.clone().unwrap_or_default(), service.metadata.name.clone().unwrap_or_default())
}

fn put(map: &mut Map, service: &Service) {
    let spec = service.spec.clone();
    match spec.cluster_ip.filter(|ip| !ip.is_empty() && ip != "None") {
        Some(ip) => {
            let ports = spec.ports.unwrap_or_default().into_iter();
            let ports = ports
                .map(|p| (p.name.unwrap_or_default(), p.port, p.protocol.unwrap_or_else(|| "TCP".into())))
                .collect();
            let (namespace, name) = key(service);
            map.insert(key(service), ServicePorts { name, namespace, ip, ports });
        }
        None => {
            map.remove(&key(service));
        }
    }
}
