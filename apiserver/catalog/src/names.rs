//! Name rules: messages about a name (or, with `prefix`, a generateName), empty when it is good.

pub use skeg_machinery::validation::{
    name_is_dns_label as label, name_is_dns_subdomain as subdomain, name_is_path_segment as path_segment,
};

/// A subdomain where upstream's rule is a declarative one, which knows nothing of prefixes.
pub fn declared_subdomain(name: &str, prefix: bool) -> Vec<String> {
    if prefix {
        return path_segment(name, true);
    }
    // It counts in bytes, and says so.
    subdomain(name, false).into_iter().map(|problem| problem.replace("253 characters", "253 bytes")).collect()
}

/// Any name.
pub fn any(_: &str, _: bool) -> Vec<String> {
    Vec::new()
}
