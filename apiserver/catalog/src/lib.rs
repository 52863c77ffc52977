//! Every built-in resource type, declared once: its names, versions, verbs, subresources, selectable fields, table
//! columns, defaults and rules. `all()` is the whole list; the server routes, describes and stores by it. No IO.
//!
//! ```text
//! Def (builder) + Rules (strategy functions) + Table (columns)  ->  ResourceSpec  ->  all()
//! ```
//!
//! Rules work on `serde_json::Value` of the storage version, decoded against the schema. A rule never panics on an
//! object that fits the schema.
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod apps;
mod builder;
mod check;
mod columns;
pub mod coordination;
pub mod core;
pub mod discovery;
mod json;
mod names;
mod net;
pub mod rbac;
mod rules;
pub mod spec;

use spec::ResourceSpec;

/// Every built-in type.
pub fn all() -> Vec<ResourceSpec> {
    vec![
        core::binding::spec(),
        core::component_status::spec(),
        core::config_map::spec(),
        core::endpoints::spec(),
        core::event::spec(),
        core::limit_range::spec(),
        core::namespace::spec(),
        core::node::spec(),
        core::persistent_volume::spec(),
        core::persistent_volume_claim::spec(),
        core::pod::spec(),
        core::pod_template::spec(),
        core::replication_controller::spec(),
        core::resource_quota::spec(),
        core::secret::spec(),
        core::service::spec(),
        core::service_account::spec(),
        apps::controller_revision::spec(),
        apps::daemon_set::spec(),
        apps::deployment::spec(),
        apps::replica_set::spec(),
        apps::stateful_set::spec(),
        core::event::events_spec(),
        rbac::bindings::cluster_role_binding(),
        rbac::roles::cluster_role(),
        rbac::bindings::role_binding(),
        rbac::roles::role(),
        coordination::lease(),
        discovery::endpoint_slice(),
    ]
}
