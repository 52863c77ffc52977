//! Storage of the API server: one ordered key space with revisions, as etcd has it.
//!
//! Owns: the [`Store`] trait and its promises, the embedded engine ([`embedded`]), etcd as an engine
//! ([`etcd`]), the watch cache ([`cacher`]) and the
//! suite that every engine must pass ([`suite`]). Does not own: what keys and values mean. Nothing here knows Kubernetes.
//!
//! ```text
//! apply ──> writer thread ── check, batch, fsync ──> publish (revision order) ──> acknowledge
//!                                                        │
//!                       Cacher <── Watch (one per resource prefix)
//!                         │  decode once, share by Arc
//!                         └──> lists, and any number of client watches
//! ```
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod cacher;
pub mod embedded;
pub mod etcd;
pub mod store;
#[cfg(feature = "suite")]
pub mod suite;

pub use embedded::{Embedded, Options};
pub use etcd::{Etcd, EtcdOptions};
pub use store::{
    Committed, Event, EventKind, KeyValue, Op, Precondition, ProgressRequest, RangeRequest, RangeResponse, Revision,
    Store, StoreError, Watch, WatchMessage,
};
