//! What a new cluster has before anybody asks for it.
pub mod aggregation;
pub mod cluster;
pub mod policy;
