//! Gives every pending pod a node.
//!
//! ```text
//!  watches (pods, nodes, volumes, budgets, …)  ──▶ State { Snapshot, Queue } ──▶ cycle::schedule (pure)
//!                                                     ▲                               │ Bind / Unfit + preempt
//!                                                     └── assumed until bound ◀── shell: binding, status, events
//! ```
//!
//! A decision looks at every node: no sampling. A pod is counted on its node from the moment of the decision, so the next
//! decision does not wait for the write. Claims that wait for their first pod get their volume, or a request for one, between
//! the decision and the binding.
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod cycle;
pub mod filter;
pub mod objects;
pub mod preemption;
mod queue;
pub mod resources;
mod score;
mod shell;
pub mod snapshot;
mod spread;
mod state;
#[cfg(test)]
mod tests;
mod volumes;

use std::sync::Arc;

use skeg_controller_runtime::lease::{Election, lead};
use skeg_controller_runtime::{Api, Clock, SystemClock};
use tokio_util::sync::CancellationToken;

/// What the scheduler is told.
#[derive(Clone)]
pub struct Config {
    /// Pods that name this in spec.schedulerName are its own.
    pub name: String,
    /// Bindings under way at once.
    pub binders: usize,
    pub clock: Arc<dyn Clock>,
    /// --leader-elect and its tuning; `None`: always run.
    pub election: Option<Election>,
}

impl Default for Config {
    fn default() -> Self {
        Self { name: "default-scheduler".to_owned(), binders: 64, clock: Arc::new(SystemClock), election: None }
    }
}

/// Schedules until `shutdown`; then lets the bindings in hand end. `false`: another scheduler leads now.
pub async fn run(mut config: Config, client: kube::Client, shutdown: CancellationToken) -> bool {
    let Some(election) = config.election.take() else {
        shell::run(config, client, shutdown).await;
        return true;
    };
    let (api, clock) = (Api::new(client.clone()), config.clock.clone());
    lead(api, election, &*clock, &shutdown, |stop| shell::run(config, client, stop)).await
}
