//! The shell around a control loop: workers that take keys from a queue and reconcile them.

use std::fmt::Debug;
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;

use crate::api::{Error, chain};
use crate::queue::WorkQueue;

/// What a successful reconcile asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing until something changes.
    Done,
    /// Look again after this time.
    After(Duration),
    /// Look again with back-off, as after an error.
    Again,
}

/// A control loop: observes stores, plans, performs.
#[async_trait]
pub trait Controller: Send + Sync + 'static {
    type Key: Hash + Eq + Clone + Debug + Send + Sync + 'static;

    /// As it appears in logs and Events.
    fn name(&self) -> &'static str;
    /// Returns when the stores it reads are complete.
    async fn synced(&self);
    /// Brings what the key names to its desired state. Must be safe to repeat at any time.
    async fn reconcile(&self, key: &Self::Key) -> Result<Outcome, Error>;
}

/// Runs `workers` workers until `shutdown`; returns when the last reconcile in hand has ended.
pub async fn run_controller<C: Controller>(
    controller: Arc<C>,
    queue: Arc<WorkQueue<C::Key>>,
    workers: usize,
    shutdown: CancellationToken,
) {
    tokio::select! {
        () = shutdown.cancelled() => return,
        () = controller.synced() => {}
    }
    tracing::debug!(controller = controller.name(), "running");
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..workers {
        let (controller, queue) = (controller.clone(), queue.clone());
        tasks.spawn(async move {
            while let Some(key) = queue.get().await {
                work(&*controller, &queue, key).await;
            }
        });
    }
    shutdown.cancelled().await;
    queue.close();
    while let Some(ended) = tasks.join_next().await {
        if let Err(error) = ended {
            tracing::error!(controller = controller.name(), %error, "worker failed");
        }
    }
}

async fn work<C: Controller>(controller: &C, queue: &WorkQueue<C::Key>, key: C::Key) {
    let outcome = controller.reconcile(&key).await;
    match outcome {
        Ok(Outcome::Done) => queue.forget(&key),
        Ok(Outcome::After(wait)) => {
            queue.forget(&key);
            queue.add_after(key.clone(), wait);
        }
        Ok(Outcome::Again) => queue.add_rate_limited(key.clone()),
        Err(error) => {
            let (name, text) = (controller.name(), chain(&error));
            if error.is_conflict() || error.is_already_exists() || queue.failures(&key) < 3 {
                tracing::debug!(controller = name, ?key, error = text, "will retry");
            } else {
                tracing::warn!(controller = name, ?key, error = text, "will retry");
            }
            queue.add_rate_limited(key.clone());
        }
    }
    queue.done(&key);
}
