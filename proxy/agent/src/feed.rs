//! One watch per type for the whole agent: Services, EndpointSlices and Nodes become events of projections.
//!
//! Tasks: one per type. Input: the API. Output: each subscriber's bounded channel, in the order of the watch. After a
//! relist, what is no longer there is reported as deleted.

use std::collections::{HashMap, HashSet};
use std::fmt::Debug;
use std::sync::Arc;

use futures::StreamExt;
use k8s_openapi::api::core::v1::{self as core, Node};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::ApiResource;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::model::{NodeView, ObjectKey, Service, ServiceView, SliceView};

/// A type that is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    Services,
    Slices,
    Nodes,
}

/// A change of the cluster; None is a deletion.
#[derive(Clone, Debug)]
pub enum Event {
    Service(ObjectKey, Option<Arc<ServiceView>>),
    Slice {
        service: ObjectKey,
        name: Arc<str>,
        slice: Option<Arc<SliceView>>,
    },
    Node(Arc<str>, Option<Arc<NodeView>>),
    /// Every object of the type has been reported.
    Synced(Source),
}

/// The senders of the channels of those who want events.
pub type Subscribers = Vec<mpsc::Sender<Event>>;

/// Starts the watches.
pub fn spawn(tasks: &mut JoinSet<()>, client: &Client, subscribers: Subscribers, shutdown: &CancellationToken) {
    let service = |service: &Service| Some(((), ServiceView::project(service)));
    let service_event =
        |key: &ObjectKey, (): &(), view: Option<ServiceView>| Event::Service(key.clone(), view.map(Arc::new));
    tasks.spawn(watch(
        Api::all_with(client.clone(), &ApiResource::erase::<core::Service>(&())),
        Source::Services,
        service,
        service_event,
        subscribers.clone(),
        shutdown.clone(),
    ));

    let slice = |slice: &EndpointSlice| SliceView::project(slice).map(|view| (view.service.clone(), view));
    let slice_event = |key: &ObjectKey, service: &Arc<str>, view: Option<SliceView>| Event::Slice {
        service: ObjectKey { namespace: key.namespace.clone(), name: service.clone() },
        name: key.name.clone(),
        slice: view.map(Arc::new),
    };
    tasks.spawn(watch(
        Api::all(client.clone()),
        Source::Slices,
        slice,
        slice_event,
        subscribers.clone(),
        shutdown.clone(),
    ));

    let node = |node: &Node| Some(((), NodeView::project(node)));
    let node_event =
        |key: &ObjectKey, (): &(), view: Option<NodeView>| Event::Node(key.name.clone(), view.map(Arc::new));
    tasks.spawn(watch(Api::all(client.clone()), Source::Nodes, node, node_event, subscribers, shutdown.clone()));
}

/// Watches one type; `I` is what must be remembered of an object to report its deletion.
async fn watch<K, I, V>(
    api: Api<K>,
    source: Source,
    project: impl Fn(&K) -> Option<(I, V)>,
    event: impl Fn(&ObjectKey, &I, Option<V>) -> Event,
    mut subscribers: Subscribers,
    shutdown: CancellationToken,
) where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
    I: PartialEq,
{
    let mut known: HashMap<ObjectKey, I> = HashMap::new();
    let mut listed: HashSet<ObjectKey> = HashSet::new();
    let stream = watcher(api, watcher::Config::default()).default_backoff();
    let mut stream = std::pin::pin!(stream);
    loop {
        let next = tokio::select! {
            () = shutdown.cancelled() => return,
            next = stream.next() => next,
        };
        let mut out = Vec::new();
        match next {
            None => return,
            Some(Err(e)) => {
                tracing::warn!(?source, error = %crate::chain(&e), "watch failed, will retry");
                continue;
            }
            Some(Ok(watcher::Event::Init)) => listed.clear(),
            Some(Ok(watcher::Event::InitDone)) => {
                known.retain(|key, id| {
                    let there = listed.contains(key);
                    if !there {
                        out.push(event(key, id, None));
                    }
                    there
                });
                listed = HashSet::new();
                out.push(Event::Synced(source));
            }
            Some(Ok(watcher::Event::Delete(object))) => {
                let key = key_of(&object);
                out.extend(known.remove(&key).map(|id| event(&key, &id, None)));
            }
            Some(Ok(watcher::Event::InitApply(object))) => {
                let key = key_of(&object);
                out = apply(&mut known, &key, project(&object), &event);
                listed.insert(key);
            }
            Some(Ok(watcher::Event::Apply(object))) => {
                out = apply(&mut known, &key_of(&object), project(&object), &event);
            }
        }
        for event in out {
            let mut gone = Vec::new();
            for (i, subscriber) in subscribers.iter().enumerate() {
                if subscriber.send(event.clone()).await.is_err() {
                    gone.push(i);
                }
            }
            gone.into_iter().rev().for_each(|i| drop(subscribers.remove(i)));
        }
    }
}

fn key_of<K: Resource>(object: &K) -> ObjectKey {
    ObjectKey::new(&object.namespace().unwrap_or_default(), object.meta().name.as_deref().unwrap_or_default())
}

fn apply<I: PartialEq, V>(
    known: &mut HashMap<ObjectKey, I>,
    key: &ObjectKey,
    projected: Option<(I, V)>,
    event: &impl Fn(&ObjectKey, &I, Option<V>) -> Event,
) -> Vec<Event> {
    let mut out = Vec::new();
    if let Some(old) = known.remove(key)
        && projected.as_ref().is_none_or(|(id, _)| *id != old)
    {
        out.push(event(key, &old, None));
    }
    if let Some((id, view)) = projected {
        out.push(event(key, &id, Some(view)));
        known.insert(key.clone(), id);
    }
    out
}
