//! What every control loop stands on: watch → store → queue → plan → perform.
//!
//! ```text
//!  Reflector ── one watch per type and process ──▶ Store<T> ── handlers ──▶ WorkQueue ──▶ Controller::reconcile
//!      ▲                                              ▲  │ lookups by key and index          │
//!      └────────────── Kubernetes API ◀── Api ────────┴──┴───────────────── writes ──────────┘
//! ```
//!
//! A write goes through the [`Store`] of its type, which remembers the answer: a loop always reads its own writes, so a
//! late watch never makes it act twice. Stores hold projections (the few fields that plans read), never whole objects.
//!
//! This crate knows the Kubernetes API through [`kube::Client`] and nothing of who serves it; it decides nothing.
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod api;
pub mod backoff;
pub mod clock;
pub mod controller;
pub mod diff;
pub mod events;
pub mod interned;
pub mod lease;
pub mod meta;
pub mod objects;
pub mod quantity;
pub mod queue;
pub mod reflector;
mod replacing;
pub mod resource;
pub mod selector;
pub mod store;
pub mod stores;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
mod unexpected;

pub use api::{Api, DeleteOptions, Error, PatchKind, Propagation};
pub use clock::{Clock, SystemClock};
pub use controller::{Controller, Outcome, run_controller};
pub use events::{EventKind, EventRecorder, Events};
pub use interned::Str;
pub use k8s_openapi::jiff::{SignedDuration, Timestamp};
pub use meta::{Meta, Owner, Pairs};
pub use queue::WorkQueue;
pub use resource::{Obj, Object, ObjectRef, Resource, Spec};
pub use selector::Selector;
pub use store::{Change, Key, Store, key, split_key};
pub use stores::Stores;
