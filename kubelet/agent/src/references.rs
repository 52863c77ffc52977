//! ConfigMaps and Secrets that pods of this node refer to: one watch for each object that is referred to, none else, and
//! only its data is kept.
//!
//! Task per object: reads a watch, writes a state channel; ends when nobody holds the object any more.

use crate::env::{Lookup, Values};
use async_trait::async_trait;
use futures::StreamExt;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret};
use kube::api::Api;
use kube::runtime::watcher;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::pin::pin;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;
use tokio::sync::{Notify, watch};

/// Kinds of object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// ConfigMap.
    ConfigMap,
    /// Secret.
    Secret,
}

/// An object referred to.
pub type Key = (Kind, String, String);

#[derive(Clone)]
enum State {
    /// Not heard of yet.
    Unknown,
    /// It does not exist.
    Missing,
    Present(Values),
}

/// A watched object. Dropping the last one ends its watch.
pub struct Watched {
    state: watch::Receiver<State>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The watched objects.
pub struct References {
    client: kube::Client,
    known: Mutex<HashMap<Key, Weak<Watched>>>,
}

/// How long a first answer is waited for.
const PATIENCE: Duration = Duration::from_secs(10);

impl References {
    /// None yet.
    pub fn new(client: kube::Client) -> Self {
        Self { client, known: Mutex::default() }
    }

    fn watched(&self, key: &Key) -> Arc<Watched> {
        let mut known = self.known.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(watched) = known.get(key).and_then(Weak::upgrade) {
            return watched;
        }
        known.retain(|_, weak| weak.strong_count() > 0);
        let (tx, rx) = watch::channel(State::Unknown);
        let (_, namespace, name) = key;
        let task = match key.0 {
            Kind::ConfigMap => {
                let api: Api<ConfigMap> = Api::namespaced(self.client.clone(), namespace);
                tokio::spawn(follow(api, name.clone(), tx, config_map_values))
            }
            Kind::Secret => {
                let api: Api<Secret> = Api::namespaced(self.client.clone(), namespace);
                tokio::spawn(follow(api, name.clone(), tx, secret_values))
            }
        };
        let watched = Arc::new(Watched { state: rx, task });
        known.insert(key.clone(), Arc::downgrade(&watched));
        watched
    }

    /// Holds on to everything a pod refers to; `changed` is notified whenever any of it changes.
    pub fn hold(self: &Arc<Self>, pod: &Pod, changed: &Arc<Notify>) -> Held {
        let mut tasks = tokio::task::JoinSet::new();
        let mut watched = Vec::new();
        for key in keys(pod) {
            let one = self.watched(&key);
            let mut state = one.state.clone();
            let changed = changed.clone();
            // The first state is what set-up itself waits for.
            tasks.spawn(async move {
                let _ = state.wait_for(|s| !matches!(s, State::Unknown)).await;
                while state.changed().await.is_ok() {
                    changed.notify_one();
                }
            });
            watched.push(one);
        }
        Held { _watched: watched, _tasks: tasks }
    }

    async fn get(&self, key: Key) -> Result<Option<Values>, String> {
        let watched = self.watched(&key);
        let mut state = watched.state.clone();
        let known = tokio::time::timeout(PATIENCE, state.wait_for(|s| !matches!(s, State::Unknown))).await;
        match known {
            Ok(Ok(state)) => Ok(match &*state {
                State::Present(values) => Some(values.clone()),
                _ => None,
            }),
            _ => Err(format!(
                "failed to sync {} cache: timed out waiting for the condition",
                match key.0 {
                    Kind::ConfigMap => "configmap",
                    Kind::Secret => "secret",
                }
            )),
        }
    }
}

/// What a pod refers to, kept watched.
pub struct Held {
    _watched: Vec<Arc<Watched>>,
    _tasks: tokio::task::JoinSet<()>,
}

#[async_trait]
impl Lookup for References {
    async fn config_map(&self, namespace: &str, name: &str) -> Result<Option<Values>, String> {
        self.get((Kind::ConfigMap, namespace.into(), name.into())).await
    }

    async fn secret(&self, namespace: &str, name: &str) -> Result<Option<Values>, String> {
        self.get((Kind::Secret, namespace.into(), name.into())).await
    }
}

fn config_map_values(object: ConfigMap) -> Values {
    let mut values: BTreeMap<String, Vec<u8>> =
        object.data.unwrap_or_default().into_iter().map(|(k, v)| (k, v.into_bytes())).collect();
    values.extend(object.binary_data.unwrap_or_default().into_iter().map(|(k, v)| (k, v.0)));
    Arc::new(values)
}

fn secret_values(object: Secret) -> Values {
    Arc::new(object.data.unwrap_or_default().into_iter().map(|(k, v)| (k, v.0)).collect())
}

async fn follow<K>(api: Api<K>, name: String, state: watch::Sender<State>, values: fn(K) -> Values)
where
    K: kube::Resource + Clone + serde::de::DeserializeOwned + std::fmt::Debug + Send + 'static,
{
    let config = watcher::Config::default().fields(&format!("metadata.name={name}"));
    let backoff = watcher::DefaultBackoff::default();
    let mut events = pin!(kube::runtime::WatchStreamExt::backoff(watcher(api, config), backoff));
    let mut found = None;
    while let Some(event) = events.next().await {
        match event {
            Ok(watcher::Event::Init) => found = None,
            Ok(watcher::Event::InitApply(object)) => found = Some(values(object)),
            Ok(watcher::Event::InitDone) => {
                let now = found.take().map_or(State::Missing, State::Present);
                state.send_if_modified(|old| replace(old, now));
            }
            Ok(watcher::Event::Apply(object)) => {
                let now = State::Present(values(object));
                state.send_if_modified(|old| replace(old, now));
            }
            Ok(watcher::Event::Delete(_)) => {
                state.send_if_modified(|old| replace(old, State::Missing));
            }
            Err(error) => tracing::debug!(name, %error, "watch of a referenced object"),
        }
    }
}

fn replace(old: &mut State, new: State) -> bool {
    let same = match (&*old, &new) {
        (State::Missing, State::Missing) => true,
        (State::Present(a), State::Present(b)) => a == b,
        _ => false,
    };
    *old = new;
    !same
}

/// Everything a pod refers to by name.
pub fn keys(pod: &Pod) -> HashSet<Key> {
    let namespace = crate::pod::namespace(pod).to_string();
    let spec = crate::pod::spec(pod);
    let mut keys = HashSet::new();
    let mut add = |kind: Kind, name: Option<&str>| {
        if let Some(name) = name.filter(|n| !n.is_empty()) {
            keys.insert((kind, namespace.clone(), name.to_string()));
        }
    };
    for volume in spec.volumes.iter().flatten() {
        add(Kind::ConfigMap, volume.config_map.as_ref().map(|s| s.name.as_str()));
        add(Kind::Secret, volume.secret.as_ref().and_then(|s| s.secret_name.as_deref()));
        for part in volume.projected.iter().flat_map(|p| p.sources.iter().flatten()) {
            add(Kind::ConfigMap, part.config_map.as_ref().map(|s| s.name.as_str()));
            add(Kind::Secret, part.secret.as_ref().map(|s| s.name.as_str()));
        }
    }
    for container in spec.containers.iter().chain(crate::pod::init_containers(pod)) {
        for source in container.env_from.iter().flatten() {
            add(Kind::ConfigMap, source.config_map_ref.as_ref().map(|s| s.name.as_str()));
            add(Kind::Secret, source.secret_ref.as_ref().map(|s| s.name.as_str()));
        }
        for source in container.env.iter().flatten().filter_map(|e| e.value_from.as_ref()) {
            add(Kind::ConfigMap, source.config_map_key_ref.as_ref().map(|s| s.name.as_str()));
            add(Kind::Secret, source.secret_key_ref.as_ref().map(|s| s.name.as_str()));
        }
    }
    for secret in spec.image_pull_secrets.iter().flatten() {
        add(Kind::Secret, Some(secret.name.as_str()));
    }
    keys
}
