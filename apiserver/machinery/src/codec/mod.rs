//! Between bytes and values: JSON and protobuf by the schema, the defaults that it declares, and YAML as JSON.

pub mod default;
pub mod json;
pub mod protobuf;
pub mod yaml;
