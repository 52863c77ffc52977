//! The control loops of a cluster (upstream: kube-controller-manager).
//!
//! Each folder is one loop: `plan.rs` decides and is pure, `mod.rs` watches and performs, `tests.rs` has the tables.
//! Loops meet the cluster only through the Kubernetes API, and share one store per type.
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod certificates;
mod claim;
mod clusterroleaggregation;
mod config;
mod context;
mod cronjob;
mod daemonset;
mod deployment;
mod discovery;
mod disruption;
mod endpoints;
mod endpointslice;
mod endpointslicemirroring;
mod ephemeralvolume;
mod garbagecollector;
mod hash;
mod history;
mod horizontalpodautoscaler;
mod job;
mod localpath;
mod namespace;
mod nodeipam;
mod nodelifecycle;
mod persistentvolume;
mod podgc;
mod pods;
mod replicaset;
mod resourcequota;
mod rootca;
mod serviceaccount;
mod servicecidrs;
mod statefulset;
mod storageprotection;
mod tainteviction;
#[cfg(test)]
mod testing;
mod tokens;
mod ttl;
mod ttlafterfinished;

pub use config::{Accounts, Config, NAMES, Signing};
pub use context::{Error, run, run_with};
/// The provisioner of storage classes whose volumes are directories of a node.
pub const LOCAL_PATH: &str = localpath::plan::NAME;
