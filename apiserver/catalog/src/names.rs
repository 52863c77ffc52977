//! Name rules: messages about a name (or, with `prefix`, a generateName), empty when it is good.

pub use skeg_machinery::validation::{
    name_is_dns_label as label, name_is_dns_subdomain as subdomain, name_is_path_segment as path_segment,
};

/// Any name.
pub fn any(_: &str, _: bool) -> Vec<String> {
    Vec::new()
}
