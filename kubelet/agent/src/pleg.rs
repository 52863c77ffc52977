//! From runtime events to pod workers.
//!
//! Task: reads the runtime's event stream and wakes the worker that an event concerns. After a gap in the stream every
//! worker is woken, because events may be lost; as a safety net the runtime is relisted now and then.

use crate::agent::{Agent, Wake};
use crate::labels;
use futures::StreamExt;
use skeg_cri::{EventKind, EventStream, RuntimeEvent, v1};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Between two relists while events flow.
const RELIST: Duration = Duration::from_secs(300);
/// Between two attempts to get events.
const RECONNECT: Duration = Duration::from_millis(500);

/// Runs until `shutdown`.
pub async fn run(agent: Arc<Agent>, shutdown: CancellationToken) {
    let mut states = HashMap::new();
    loop {
        let stream = tokio::select! {
            () = shutdown.cancelled() => return,
            stream = agent.runtime.events() => stream,
        };
        match stream {
            Ok(stream) => {
                relist(&agent, &mut states).await;
                tokio::select! {
                    () = shutdown.cancelled() => return,
                    () = follow(&agent, stream, &mut states) => {}
                }
            }
            Err(error) => tracing::debug!(%error, "no runtime events"),
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(RECONNECT) => {}
        }
    }
}

async fn follow(agent: &Arc<Agent>, mut stream: EventStream, states: &mut HashMap<String, i32>) {
    let mut relists = tokio::time::interval(RELIST);
    relists.tick().await;
    loop {
        tokio::select! {
            event = stream.next() => match event {
                Some(Ok(event)) => handle(agent, &event).await,
                Some(Err(error)) => return tracing::debug!(%error, "runtime events ended"),
                None => return,
            },
            _ = relists.tick() => relist(agent, states).await,
        }
    }
}

fn find(agent: &Agent, id: &str) -> Option<Wake> {
    agent.index.read().unwrap_or_else(std::sync::PoisonError::into_inner).get(id).cloned()
}

async fn handle(agent: &Arc<Agent>, event: &RuntimeEvent) {
    let wake = match find(agent, &event.id) {
        Some(wake) => Some(wake),
        // Created by a worker that has not observed it yet, or not ours.
        None => by_label(agent, &event.id).await,
    };
    let Some(wake) = wake else { return };
    if event.kind == EventKind::Stopped {
        wake.ended.lock().unwrap_or_else(std::sync::PoisonError::into_inner).insert(event.id.clone());
    }
    wake.notify.notify_one();
}

async fn by_label(agent: &Agent, id: &str) -> Option<Wake> {
    let filter = v1::ContainerFilter { id: id.into(), ..Default::default() };
    let mut labels = agent.runtime.list_containers(filter).await.ok()?.pop().map(|c| c.labels);
    if labels.is_none() {
        let filter = v1::PodSandboxFilter { id: id.into(), ..Default::default() };
        labels = agent.runtime.list_pod_sandboxes(filter).await.ok()?.pop().map(|s| s.labels);
    }
    find(agent, labels?.get(labels::POD_UID)?)
}

/// Compares all states with those of the last time and wakes whom a change concerns.
async fn relist(agent: &Arc<Agent>, states: &mut HashMap<String, i32>) {
    let sandboxes = agent.runtime.list_pod_sandboxes(Default::default()).await;
    let containers = agent.runtime.list_containers(Default::default()).await;
    let (Ok(sandboxes), Ok(containers)) = (sandboxes, containers) else { return };
    let sandboxes = sandboxes.into_iter().map(|s| (s.id, s.state));
    let now: HashMap<String, i32> = sandboxes.chain(containers.into_iter().map(|c| (c.id, c.state))).collect();
    let changed = now.iter().filter(|(id, state)| states.get(*id) != Some(state)).map(|(id, _)| id);
    let vanished = states.keys().filter(|id| !now.contains_key(*id));
    for wake in changed.chain(vanished).filter_map(|id| find(agent, id)) {
        wake.notify.notify_one();
    }
    *states = now;
}
