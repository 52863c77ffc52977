//! The task that keeps a cacher current: load, follow, and start over when the watch of the store breaks.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use futures::StreamExt;

use super::{Decode, Inner, Phase};
use crate::store::{RangeRequest, Revision, StoreError, Watch, WatchMessage};

const PAGE: usize = 5000;
const BACKOFF: Duration = Duration::from_millis(200);

pub(super) async fn run<D: Decode>(cacher: Arc<Inner<D>>) {
    loop {
        let error = match load(&cacher).await {
            Ok((watch, revision)) => {
                cacher.phase.send_replace(Phase::Ready(revision));
                follow(&cacher, watch).await
            }
            Err(error) => error,
        };
        *cacher.progress.lock().unwrap_or_else(PoisonError::into_inner) = None;
        let prefix = String::from_utf8_lossy(&cacher.prefix);
        if matches!(error, StoreError::Closed) {
            cacher.phase.send_replace(Phase::Failed(error));
            cacher.write_state().watchers.terminate();
            return;
        }
        tracing::warn!(error = &error as &dyn std::error::Error, %prefix, "watch cache starts over");
        let patient = matches!(error, StoreError::Lagged | StoreError::Compacted { .. });
        cacher.phase.send_replace(if patient { Phase::Loading } else { Phase::Failed(error) });
        cacher.write_state().watchers.terminate();
        if !patient {
            tokio::time::sleep(BACKOFF).await;
        }
    }
}

/// Reads everything at one revision and starts to watch behind it.
async fn load<D: Decode>(cacher: &Inner<D>) -> Result<(Watch, Revision), StoreError> {
    let mut objects = BTreeMap::new();
    let mut page = RangeRequest { prefix: cacher.prefix.clone(), start_after: None, limit: Some(PAGE), revision: None };
    let revision = loop {
        let response = cacher.store.range(page.clone()).await?;
        page.revision = Some(response.revision);
        page.start_after = response.kvs.last().map(|kv| kv.key.clone());
        objects.extend(cacher.entries(&response.kvs)?.into_iter().map(|entry| (entry.key.clone(), entry)));
        if !response.more {
            break response.revision;
        }
    };
    let watch = cacher.store.watch(cacher.prefix.clone(), revision).await?;
    cacher.write_state().reset(objects, revision);
    // Not sooner: what it says is newest is of this state.
    let progress = watch.progress();
    if progress.newest().is_some_and(|newest| newest > revision) {
        // The store moved on meanwhile; whether it concerns this prefix, only the watch can say.
        progress.send();
    }
    *cacher.progress.lock().unwrap_or_else(PoisonError::into_inner) = Some(progress);
    Ok((watch, revision))
}

/// Applies messages until the watch ends; returns why it did.
async fn follow<D: Decode>(cacher: &Inner<D>, mut watch: Watch) -> StoreError {
    loop {
        let revision = match watch.next().await {
            None => return StoreError::Closed,
            Some(Err(error)) => return error,
            Some(Ok(WatchMessage::Progress(revision))) => {
                let mut state = cacher.write_state();
                state.revision = state.revision.max(revision);
                let revision = state.revision;
                state.watchers.bookmark(revision);
                revision
            }
            Some(Ok(WatchMessage::Events(events))) => {
                let mut reached = 0;
                for event in &events {
                    let known = cacher.read_state().objects.get(&event.key).cloned();
                    let change = match super::watcher::change(cacher, event, known) {
                        Ok(change) => change,
                        Err(error) => return error,
                    };
                    reached = event.revision;
                    let options = &cacher.options;
                    cacher.write_state().apply(&cacher.decode, change, options.window_events, options.window_bytes);
                }
                reached
            }
        };
        cacher.phase.send_replace(Phase::Ready(revision));
    }
}
