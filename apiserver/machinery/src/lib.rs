//! What every component of the API server shares, without IO: names of kinds and resources, `Status` errors, field
//! errors and validation helpers, quantities, selectors, metadata access over JSON, the schema table and everything
//! that walks it (JSON codec, defaults, patches, server-side apply, OpenAPI).
//!
//! Objects in flight are `serde_json::Value`; objects at rest and on the wire are bytes. No async, no clock, no
//! randomness: whoever calls passes them in.
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod apply;
pub mod codec;
pub mod field;
pub mod fields;
pub mod gvk;
pub mod header;
pub mod jsonpath;
pub mod labels;
pub mod meta;
pub mod openapi;
pub mod patch;
pub mod quantity;
pub mod schema;
pub mod status;
pub mod structural;
pub mod table;
pub mod text;
pub mod validation;

pub use gvk::{GroupKind, GroupResource, GroupVersion, GroupVersionKind, GroupVersionResource};
pub use status::Status;
