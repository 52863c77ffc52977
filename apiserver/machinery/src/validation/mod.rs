//! Whether names, numbers and addresses are well formed, with the messages of apimachinery/pkg/util/validation. An
//! empty result is fine. What a whole object must satisfy belongs to the catalog, but for its metadata and selectors.

mod ip;
mod object;

pub use ip::{
    is_valid_cidr, is_valid_cidr_legacy, is_valid_interface_address, is_valid_ip, is_valid_ip_legacy,
    parse_cidr_sloppy, parse_ip_sloppy,
};
pub use object::{
    annotations, dry_run, field_manager, field_validation, finalizers, immutable_field, label_selector, labels,
    managed_fields, nonnegative, object_meta, object_meta_update, owner_references, standard_finalizers,
};

use crate::field::{Error, ErrorList, Path};

pub const FIELD_IMMUTABLE: &str = "field is immutable";
pub const TOTAL_ANNOTATION_SIZE: usize = 256 * 1024;

const LABEL: &str = "[a-z0-9]([-a-z0-9]*[a-z0-9])?";
const SUBDOMAIN: &str = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*";
const SUBDOMAIN_MESSAGE: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character";
const QUALIFIED: &str = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]";

/// `must be no more than N characters`
pub fn max_len_error(length: usize) -> String {
    format!("must be no more than {length} characters")
}

/// `must be no more than N bytes`: label keys and values count so.
fn max_bytes_error(length: usize) -> String {
    format!("must be no more than {length} bytes")
}

/// The message for a value that misses a pattern, with examples of ones that meet it.
pub fn regex_error(message: &str, pattern: &str, examples: &[&str]) -> String {
    if examples.is_empty() {
        return format!("{message} (regex used for validation is '{pattern}')");
    }
    let examples: Vec<String> = examples.iter().map(|example| format!("'{example}', ")).collect();
    format!("{message} (e.g. {}regex used for validation is '{pattern}')", examples.join(" or "))
}

/// `must be between LO and HI, inclusive`
pub fn inclusive_range_error(low: i64, high: i64) -> String {
    format!("must be between {low} and {high}, inclusive")
}

fn lower(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit()
}

/// `first` at both ends, `inner` between, not empty.
fn framed(text: &str, first: fn(u8) -> bool, inner: fn(u8) -> bool) -> bool {
    let bytes = text.as_bytes();
    match (bytes.first(), bytes.last()) {
        (Some(start), Some(end)) => first(*start) && first(*end) && bytes.iter().all(|byte| inner(*byte)),
        _ => false,
    }
}

fn dns_label(text: &str) -> bool {
    framed(text, lower, |byte| lower(byte) || byte == b'-')
}

fn dns_subdomain(text: &str) -> bool {
    text.split('.').all(dns_label)
}

fn qualified_part(text: &str) -> bool {
    framed(text, |byte| byte.is_ascii_alphanumeric(), |byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
}

pub fn is_dns1123_label(value: &str) -> Vec<String> {
    let mut errors = too_long(value, 63);
    if !dns_label(value) {
        if dns_subdomain(value) {
            errors.push("must not contain dots".into());
        } else {
            let message = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character";
            errors.push(regex_error(message, LABEL, &["my-name", "123-abc"]));
        }
    }
    errors
}

pub fn is_dns1123_subdomain(value: &str) -> Vec<String> {
    let mut errors = too_long(value, 253);
    if !dns_subdomain(value) {
        errors.push(regex_error(SUBDOMAIN_MESSAGE, SUBDOMAIN, &["example.com"]));
    }
    errors
}

pub fn is_dns1123_subdomain_with_underscore(value: &str) -> Vec<String> {
    let label = |text: &str| {
        let text = text.strip_prefix('_').unwrap_or(text);
        framed(text, lower, |byte| lower(byte) || byte == b'-' || byte == b'_')
    };
    let mut errors = too_long(value, 253);
    if !value.split('.').all(label) {
        let message = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '_', '-' or '.', and must start and end with an alphanumeric character";
        let pattern = r"_?[a-z0-9]([-_a-z0-9]*[a-z0-9])?(\._?[a-z0-9]([-_a-z0-9]*[a-z0-9])?)*";
        errors.push(regex_error(message, pattern, &["example.com"]));
    }
    errors
}

pub fn is_dns1035_label(value: &str) -> Vec<String> {
    let mut errors = too_long(value, 63);
    if !(dns_label(value) && value.as_bytes()[0].is_ascii_lowercase()) {
        let message = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character";
        errors.push(regex_error(message, "[a-z]([-a-z0-9]*[a-z0-9])?", &["my-name", "abc-123"]));
    }
    errors
}

pub fn is_wildcard_dns1123_subdomain(value: &str) -> Vec<String> {
    let mut errors = too_long(value, 253);
    if !value.strip_prefix("*.").is_some_and(dns_subdomain) {
        let message = "a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS subdomain, which must consist of lower case alphanumeric characters, '-' or '.' and end with an alphanumeric character";
        errors.push(regex_error(message, &format!(r"\*\.{SUBDOMAIN}"), &["*.example.com"]));
    }
    errors
}

fn too_long(value: &str, max: usize) -> Vec<String> {
    if value.len() > max { vec![max_len_error(max)] } else { Vec::new() }
}

/// A label or annotation key: an optional DNS prefix, a slash and a name.
pub fn is_qualified_name(value: &str) -> Vec<String> {
    let mut errors = Vec::new();
    let message = "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character";
    let examples = ["MyName", "my.name", "123-abc"];
    let parts: Vec<&str> = value.split('/').collect();
    let name = match parts[..] {
        [name] => name,
        [prefix, name] => {
            if prefix.is_empty() {
                errors.push("prefix part must be non-empty".into());
            } else {
                let faults = is_dns1123_subdomain(prefix).into_iter();
                let faults = faults.map(|fault| if fault == max_len_error(253) { max_bytes_error(253) } else { fault });
                errors.extend(faults.map(|fault| format!("prefix part {fault}")));
            }
            name
        }
        _ => {
            let text = regex_error(&format!("a valid label key {message}"), QUALIFIED, &examples);
            errors.push(format!("{text} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')"));
            return errors;
        }
    };
    if name.is_empty() {
        errors.push("name part must be non-empty".into());
    } else if name.len() > 63 {
        errors.push(format!("name part {}", max_bytes_error(63)));
    }
    if !qualified_part(name) {
        errors.push(format!("name part {}", regex_error(message, QUALIFIED, &examples)));
    }
    errors
}

pub fn is_valid_label_value(value: &str) -> Vec<String> {
    let mut errors = if value.len() > 63 { vec![max_bytes_error(63)] } else { Vec::new() };
    if !value.is_empty() && !qualified_part(value) {
        let message = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character";
        errors.push(regex_error(message, &format!("({QUALIFIED})?"), &["MyValue", "my_value", "12345"]));
    }
    errors
}

pub fn is_c_identifier(value: &str) -> Vec<String> {
    let start = value.bytes().next().is_some_and(|byte| byte.is_ascii_alphabetic() || byte == b'_');
    if start && value.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
        return Vec::new();
    }
    let message = "a valid C identifier must start with alphabetic character or '_', followed by a string of alphanumeric characters or '_'";
    vec![regex_error(message, "[A-Za-z_][A-Za-z0-9_]*", &["my_name", "MY_NAME", "MyName"])]
}

pub fn is_env_var_name(value: &str) -> Vec<String> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    let start = value.bytes().next().is_some_and(|byte| allowed(byte) && !byte.is_ascii_digit());
    let mut errors = Vec::new();
    if !(start && value.bytes().all(allowed)) {
        let message = "a valid environment variable name must consist of alphabetic characters, digits, '_', '-', or '.', and must not start with a digit";
        errors.push(regex_error(message, "[-._a-zA-Z][-._a-zA-Z0-9]*", &["my.env-name", "MY_ENV.NAME", "MyEnvName1"]));
    }
    errors.extend(has_ch_dir_prefix(value));
    errors
}

pub fn is_relaxed_env_var_name(value: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if value.is_empty() {
        errors.push("environment variable name must be non-empty".into());
    }
    if value.bytes().any(|byte| !(b' '..=b'~').contains(&byte) || byte == b'=') {
        errors.push(
            "a valid environment variable name must consist only of printable ASCII characters other than '='".into(),
        );
    }
    errors
}

pub fn is_config_map_key(value: &str) -> Vec<String> {
    let mut errors = too_long(value, 253);
    if value.is_empty() || !value.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte)) {
        let message = "a valid config key must consist of alphanumeric characters, '-', '_' or '.'";
        errors.push(regex_error(message, "[-._a-zA-Z0-9]+", &["key.name", "KEY_NAME", "key-name"]));
    }
    errors.extend(has_ch_dir_prefix(value));
    errors
}

fn has_ch_dir_prefix(value: &str) -> Option<String> {
    match value {
        "." => Some("must not be '.'".into()),
        ".." => Some("must not be '..'".into()),
        value if value.starts_with("..") => Some("must not start with '..'".into()),
        _ => None,
    }
}

pub fn is_valid_port_num(port: i64) -> Vec<String> {
    is_in_range(port, 1, 65535)
}

pub fn is_in_range(value: i64, min: i64, max: i64) -> Vec<String> {
    if (min..=max).contains(&value) { Vec::new() } else { vec![inclusive_range_error(min, max)] }
}

pub fn is_valid_group_id(id: i64) -> Vec<String> {
    is_in_range(id, 0, i64::from(i32::MAX))
}

pub fn is_valid_user_id(id: i64) -> Vec<String> {
    is_in_range(id, 0, i64::from(i32::MAX))
}

pub fn is_valid_port_name(port: &str) -> Vec<String> {
    let mut errors = too_long(port, 15);
    if port.is_empty() || !port.bytes().all(|byte| lower(byte) || byte == b'-') {
        errors.push("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)".into());
    }
    if !port.bytes().any(|byte| byte.is_ascii_lowercase()) {
        errors.push("must contain at least one letter (a-z)".into());
    }
    if port.contains("--") {
        errors.push("must not contain consecutive hyphens".into());
    }
    if port.starts_with('-') || port.ends_with('-') {
        errors.push("must not begin or end with a hyphen".into());
    }
    errors
}

pub fn is_valid_percent(value: &str) -> Vec<String> {
    let digits = value.strip_suffix('%').unwrap_or("");
    if !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Vec::new();
    }
    let message = "a valid percent string must be a numeric string followed by an ending '%'";
    vec![regex_error(message, "[0-9]+%", &["1%", "93%"])]
}

pub fn is_http_header_name(value: &str) -> Vec<String> {
    if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') {
        return Vec::new();
    }
    let message = "a valid HTTP header must consist of alphanumeric characters or '-'";
    vec![regex_error(message, "[-A-Za-z0-9]+", &["X-Header-Name"])]
}

/// A domain of at least three segments, e.g. a signer name.
pub fn is_fully_qualified_name(path: &Path, name: &str) -> ErrorList {
    if name.is_empty() {
        return vec![Error::required(path, "")].into();
    }
    let errors = is_dns1123_subdomain(name);
    if !errors.is_empty() {
        return vec![Error::invalid(path, name, errors.join(","))].into();
    }
    if name.split('.').count() < 3 {
        let detail = "should be a domain with at least three segments separated by dots";
        return vec![Error::invalid(path, name, detail)].into();
    }
    ErrorList::new()
}

/// A domain of at least two segments, with or without the final dot.
pub fn is_fully_qualified_domain_name(path: &Path, name: &str) -> ErrorList {
    if name.is_empty() {
        return vec![Error::required(path, "")].into();
    }
    let name = name.strip_suffix('.').unwrap_or(name);
    let errors = is_dns1123_subdomain(name);
    if !errors.is_empty() {
        return vec![Error::invalid(path, name, errors.join(","))].into();
    }
    if name.split('.').count() < 2 {
        let detail = "should be a domain with at least two segments separated by dots";
        return vec![Error::invalid(path, name, detail)].into();
    }
    for label in name.split('.') {
        let errors = is_dns1123_label(label);
        if !errors.is_empty() {
            return vec![Error::invalid(path, label, errors.join(","))].into();
        }
    }
    ErrorList::new()
}

/// `acme.io/foo`
pub fn is_domain_prefixed_path(path: &Path, value: &str) -> ErrorList {
    if value.is_empty() {
        return vec![Error::required(path, "")].into();
    }
    let Some((host, rest)) = value.split_once('/').filter(|(host, rest)| !host.is_empty() && !rest.is_empty()) else {
        let detail = "must be a domain-prefixed path (such as \"acme.io/foo\")";
        return vec![Error::invalid(path, value, detail)].into();
    };
    let mut errors: ErrorList =
        is_dns1123_subdomain(host).into_iter().map(|message| Error::invalid(path, host, message)).collect();
    if !rest.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/-._~%!$&'()*+,;=:".contains(&byte)) {
        let message = regex_error("Invalid path", r"[A-Za-z0-9/\-._~%!$&'()*+,;=:]+", &[]);
        errors.push(Error::invalid(path, rest, message));
    }
    errors
}

/// `acme.io/foo` as a key.
pub fn is_domain_prefixed_key(path: &Path, key: &str) -> ErrorList {
    if key.is_empty() {
        return vec![Error::required(path, "")].into();
    }
    let errors: ErrorList =
        is_qualified_name(key).into_iter().map(|message| Error::invalid(path, key, message)).collect();
    if errors.is_empty() && key.split('/').count() != 2 {
        return vec![Error::invalid(path, key, "must be a domain-prefixed key (such as \"acme.io/foo\")")].into();
    }
    errors
}

/// Upstream's way to check a prefix: the last two characters give way to a letter if a dash ends the name.
fn mask_trailing_dash(name: &str) -> String {
    match name.len() {
        length if length > 1 && name.ends_with('-') && name.is_char_boundary(length - 2) => {
            format!("{}a", &name[..length - 2])
        }
        _ => name.to_owned(),
    }
}

fn masked(name: &str, prefix: bool, check: fn(&str) -> Vec<String>) -> Vec<String> {
    if prefix { check(&mask_trailing_dash(name)) } else { check(name) }
}

pub fn name_is_dns_subdomain(name: &str, prefix: bool) -> Vec<String> {
    masked(name, prefix, is_dns1123_subdomain)
}

pub fn name_is_dns_label(name: &str, prefix: bool) -> Vec<String> {
    masked(name, prefix, is_dns1123_label)
}

pub fn name_is_dns1035_label(name: &str, prefix: bool) -> Vec<String> {
    masked(name, prefix, is_dns1035_label)
}

/// Names that only have to fit into a URL path, such as those of RBAC objects.
pub fn name_is_path_segment(name: &str, prefix: bool) -> Vec<String> {
    let mut errors = Vec::new();
    if !prefix {
        for refused in [".", ".."] {
            if name == refused {
                return vec![format!("may not be '{refused}'")];
            }
        }
    }
    for refused in ["/", "%"] {
        if name.contains(refused) {
            errors.push(format!("may not contain '{refused}'"));
        }
    }
    errors
}

#[cfg(test)]
mod tests;
