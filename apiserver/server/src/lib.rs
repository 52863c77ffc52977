//! The API server: catalog and storage to HTTPS.
pub mod admission;
pub mod authn;
pub mod authz;
pub mod request;
