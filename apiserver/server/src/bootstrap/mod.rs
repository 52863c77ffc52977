//! What a new cluster has before anybody asks for it, and how the parts of the edge are put together.
//!
//! ```text
//! Edge::new(resources, pki, options) ─ chain() ─> Server::install
//!      └ start(): follow RBAC, nodes, services ─> initial objects ─> ready
//! ```

pub mod aggregation;
pub mod edge;
pub mod flow;
pub mod initial;
pub mod keep;
pub mod objects;
pub mod oidc;
pub mod policy;
#[cfg(test)]
mod tests;

pub use edge::{Edge, EdgeOptions, Mode};
