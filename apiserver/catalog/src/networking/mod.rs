//! The networking.k8s.io group.

pub mod addresses;
pub mod ingress;
pub mod network_policy;

pub const GROUP: &str = "networking.k8s.io";
