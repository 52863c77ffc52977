//! Watches and what the library builds of them: both ways to fill a cache.

use std::collections::BTreeSet;
use std::pin::pin;

use anyhow::{Context, Result, bail};
use futures::{Stream, TryStreamExt};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::ResourceExt;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams};
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt, reflector};
use serde_json::json;

use crate::{Cluster, DEADLINE, config_map, expect};

/// Makes, changes and removes one object.
async fn write(cluster: &Cluster, name: &str, kind: &str) -> Result<()> {
    let maps = cluster.config_maps();
    maps.create(&PostParams::default(), &config_map(name, json!({"a": "1"}), kind)?).await?;
    maps.patch(name, &PatchParams::default(), &Patch::Merge(json!({"data": {"a": "2"}}))).await?;
    maps.delete(name, &DeleteParams::default()).await?;
    Ok(())
}

/// A watch from the revision of a list.
pub async fn watching(cluster: Cluster) -> Result<()> {
    let maps = cluster.config_maps();
    let begin = maps.list(&ListParams::default()).await?.metadata.resource_version.context("a list has a revision")?;
    write(&cluster, "seen", "watch").await?;
    let mut events = pin!(maps.watch(&WatchParams::default().labels("kind=watch"), &begin).await?);
    let mut seen = Vec::new();
    while seen.len() < 3 {
        let value = |map: ConfigMap| map.data.unwrap_or_default().remove("a").unwrap_or_default();
        seen.push(match events.try_next().await?.context("the watch ended")? {
            WatchEvent::Added(map) => format!("added {}", value(map)),
            WatchEvent::Modified(map) => format!("modified {}", value(map)),
            WatchEvent::Deleted(map) => format!("deleted {}", value(map)),
            WatchEvent::Bookmark(_) => continue,
            WatchEvent::Error(status) => bail!("the watch says {status:?}"),
        });
    }
    expect("the events", seen, vec!["added 1".into(), "modified 2".into(), "deleted 2".into()])
}

/// A reflector fills its store by a list and a watch, and by a watch alone.
pub async fn reflecting(cluster: Cluster) -> Result<()> {
    for (kind, config) in [
        ("listed", watcher::Config::default().page_size(2)),
        ("streamed", watcher::Config::default().streaming_lists()),
    ] {
        for number in 0..5 {
            let map = config_map(&format!("{kind}-{number}"), json!({}), kind)?;
            cluster.config_maps().create(&PostParams::default(), &map).await?;
        }
        // A streamed list begins with what the server's cache holds (resourceVersion 0); this makes it hold all of them.
        cluster.config_maps().list(&ListParams::default()).await?;
        let (reader, writer) = reflector::store();
        let watched = watcher::watcher(cluster.config_maps(), config.labels(&format!("kind={kind}")));
        let events = reflector(writer, watched).default_backoff();
        let told = tokio::time::timeout(DEADLINE, tell(&cluster, kind, events));
        told.await.with_context(|| format!("not all events of {kind} objects came"))?.context(kind)?;
        expect("the number of objects in the store", reader.state().len(), 5)?;
    }
    Ok(())
}

/// Follows the events until the cache is full, and then through the life of one more object.
async fn tell(
    cluster: &Cluster,
    kind: &str,
    events: impl Stream<Item = watcher::Result<Event<ConfigMap>>>,
) -> Result<()> {
    let mut events = pin!(events);
    let mut initial = BTreeSet::new();
    let name = format!("{kind}-more");
    let mut applied = false;
    while let Some(event) = events.try_next().await? {
        match event {
            Event::Init => initial.clear(),
            Event::InitApply(map) => _ = initial.insert(map.name_any()),
            Event::InitDone => {
                expect("the initial objects", initial.len(), 5)?;
                write(cluster, &name, kind).await?;
            }
            Event::Apply(map) => applied |= map.name_any() == name,
            Event::Delete(map) => {
                expect("what was deleted, and seen before", (map.name_any(), applied), (name, true))?;
                return Ok(());
            }
        }
    }
    bail!("the events ended")
}
