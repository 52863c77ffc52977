//! The rbac.authorization.k8s.io group. What a user may grant is the server's question.

pub mod bindings;
pub mod roles;

pub const GROUP: &str = "rbac.authorization.k8s.io";
