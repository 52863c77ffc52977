//! The API server: catalog and storage to HTTPS.
//!
//! ```text
//! serving (TLS) ─┐
//! client (in-process kube::Client) ─┴─> server: audit id ─ authn ─ impersonation ─ in-flight limit ─ authz ─ deadline
//!    ├─ discovery, openapi, health                         from the registry
//!    ├─ handlers: get, list, watch                         cache (one per resource) or store
//!    ├─ handlers -> write: create, update, patch, delete   the write path, through admission, into the store
//!    └─ special: exec, log, binding, reviews …             SpecialHandler per (group, resource, subresource)
//! ```
//!
//! Errors are `Status` values all the way; `respond` makes the HTTP answer.
#![cfg_attr(test, allow(clippy::unwrap_used))]
// A Status is an answer, made once per failed request; boxing it would be noise in every signature.
#![allow(clippy::result_large_err)]

pub mod admission;
pub mod aggregation;
pub mod authn;
pub mod authz;
pub mod bootstrap;
mod cache;
pub mod client;
mod crd;
mod discovery;
mod handlers;
mod health;
pub mod layout;
mod metrics;
mod negotiate;
mod object;
mod openapi;
pub mod pki;
mod priority;
mod protobuf;
mod query;
pub mod registry;
pub mod request;
mod resource_access;
pub mod resources;
mod respond;
mod selection;
pub mod served;
pub mod server;
pub mod serving;
pub mod special;
pub mod standard;
pub mod streaming;
mod texts;
pub mod trust;
pub mod webhook;
mod write;

pub use health::GIT_VERSION;
