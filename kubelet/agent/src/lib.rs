//! The node agent: a kubelet over CRI.
//!
//! Owns: pods on this node and the Node object. Does not own: the pod network and services (skeg-proxy), the runtime's
//! protocol (skeg-cri). It knows the cluster only through the Kubernetes API.
//!
//! ```text
//! API watch ─┐                        ┌─ probes ─┐
//! manifests ─┼─> pods ─> worker(pod) ─┤          ├─> plan ─> perform ─> CRI
//! runtime ───┘  (pleg)       │        └─ volumes ┘
//!                            └─> status ─> report ─> API
//! ```
//!
//! Long-lived tasks, all ended by one signal: `containerd` (supervision), `pods` (one `worker` and one `report` per pod,
//! one `probe` per probe), `pleg` (events), `node` (status and lease), `services`, `references` (watches), `upkeep`
//! (logs, garbage, eviction), `events` (recorder), `static_pods`.
//!
//! *Architecture Invariant*: nothing here decides and acts in one place. `plan`, `status`, `admission`, `resources`,
//! `security`, `dns` and `hosts` are pure; `worker`, `perform` and `kill` act. Containers without this kubelet's labels
//! are never touched.
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod admission;
pub mod agent;
mod allocation;
mod backoff;
mod cgroup;
mod config;
mod container;
pub mod containerd;
mod dns;
mod env;
mod env_file;
mod error;
mod events;
mod hooks;
mod hosts;
mod http;
mod image_volumes;
mod kill;
pub mod labels;
mod machine;
mod mounts;
mod node;
pub mod observed;
mod pause;
mod perform;
mod plan;
mod pleg;
pub mod pod;
mod pods;
mod preempt;
mod probes;
mod pull;
mod quantity;
mod references;
mod report;
mod resize;
mod resources;
mod rules;
mod run;
mod sandbox;
mod security;
mod server;
mod services;
mod static_pods;
mod stats;
mod status;
mod termination;
mod upkeep;
mod volumes;
mod worker;

pub use config::{Config, EvictionThresholds, ServerTls};
pub use containerd::teardown;
pub use error::{Error, chain};
pub use run::run;
