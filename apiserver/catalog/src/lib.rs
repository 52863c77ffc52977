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

pub mod admissionregistration;
pub mod apiextensions;
pub mod apiregistration;
pub mod apps;
pub mod authentication;
pub mod authorization;
pub mod autoscaling;
pub mod batch;
mod builder;
pub mod certificates;
mod check;
pub mod columns;
pub mod coordination;
pub mod core;
pub mod custom;
mod described;
pub mod discovery;
pub mod flowcontrol;
mod json;
mod names;
mod net;
pub mod networking;
pub mod node;
pub mod policy;
pub mod rbac;
pub mod resource;
mod rules;
pub mod scheduling;
pub mod spec;
pub mod storage;

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
        admissionregistration::policies::mutating_policy(),
        admissionregistration::policies::mutating_binding(),
        admissionregistration::webhooks::mutating(),
        admissionregistration::policies::validating_policy(),
        admissionregistration::policies::validating_binding(),
        admissionregistration::webhooks::validating(),
        apiextensions::custom_resource_definition(),
        apiregistration::api_service(),
        authentication::self_subject_review(),
        authentication::token_review(),
        authorization::local_subject_access_review(),
        authorization::self_subject_access_review(),
        authorization::self_subject_rules_review(),
        authorization::subject_access_review(),
        autoscaling::horizontal_pod_autoscaler(),
        batch::cron_job::spec(),
        batch::job::spec(),
        certificates::certificate_signing_request(),
        coordination::lease(),
        discovery::endpoint_slice(),
        flowcontrol::flow_schema(),
        flowcontrol::priority_level_configuration(),
        networking::ingress::ingress_class(),
        networking::ingress::ingress(),
        networking::addresses::ip_address(),
        networking::network_policy::spec(),
        networking::addresses::service_cidr(),
        node::runtime_class(),
        policy::pod_disruption_budget(),
        rbac::bindings::cluster_role_binding(),
        rbac::roles::cluster_role(),
        rbac::bindings::role_binding(),
        rbac::roles::role(),
        resource::claims::device_class(),
        resource::claims::claim(),
        resource::claims::template(),
        resource::slices::slice(),
        scheduling::priority_class(),
        storage::csi::driver(),
        storage::csi::node(),
        storage::csi::storage_capacity(),
        storage::storage_class::storage_class(),
        storage::volume_attachment::spec(),
        storage::storage_class::volume_attributes_class(),
    ]
}

#[cfg(test)]
mod invalid;
#[cfg(test)]
mod tests;
