//! Every built-in resource, declared once, one file each. No IO.
pub mod spec;
