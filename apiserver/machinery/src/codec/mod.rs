//! Between bytes and values, by the schema: JSON, protobuf, and the defaults that the schema itself declares.

pub mod default;
pub mod json;
pub mod protobuf;
