//! Name rules: messages about a name (or, with `prefix`, a generateName), empty when it is good.

pub use skeg_machinery::validation::{
    name_is_dns_label as label, name_is_dns_subdomain as subdomain, name_is_path_segment as path_segment,
};

/// A subdomain where upstream's rule is a declarative one, which knows nothing of prefixes and counts bytes.
pub fn declared_subdomain(name: &str, prefix: bool) -> Vec<String> {
    if prefix {
        return path_segment(name, true);
    }
    let in_bytes = |problem: String| problem.replace("no more than 253 characters", "no more than 253 bytes");
    subdomain(name, false).into_iter().map(in_bytes).collect()
}

/// Any name.
pub fn any(_: &str, _: bool) -> Vec<String> {
    Vec::new()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_declared_name_is_counted_in_bytes() {
        let long = "x".repeat(254);
        assert_eq!(declared_subdomain(&long, false), ["must be no more than 253 bytes"]);
        assert_eq!(subdomain(&long, false), ["must be no more than 253 characters"]);
        assert!(declared_subdomain(&long, true).is_empty());
    }
}
