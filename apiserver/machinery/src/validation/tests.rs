use serde_json::json;

use super::*;

fn check(got: Vec<String>, expected: &[&str]) {
    assert_eq!(got, expected);
}

fn shown(errors: ErrorList) -> Vec<String> {
    errors.iter().map(ToString::to_string).collect()
}

#[test]
fn names_are_judged_as_upstream() {
    let label = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
    let subdomain = r"a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
    check(is_dns1123_label("a-1"), &[]);
    check(is_dns1123_label("A"), &[label]);
    check(is_dns1123_label("-a"), &[label]);
    check(is_dns1123_label(""), &[label]);
    check(is_dns1123_label("a.b"), &["must not contain dots"]);
    check(is_dns1123_label(&"a".repeat(64)), &["must be no more than 63 characters"]);
    check(is_dns1123_subdomain("a.b-c.1"), &[]);
    check(is_dns1123_subdomain("a..b"), &[subdomain]);
    check(is_dns1123_subdomain("web_1"), &[subdomain]);
    assert!(
        is_dns1035_label("a1").is_empty() && !is_dns1035_label("1a").is_empty() && !is_dns1035_label("").is_empty()
    );
    assert!(is_wildcard_dns1123_subdomain("*.a.b").is_empty() && !is_wildcard_dns1123_subdomain("a.b").is_empty());
    check(name_is_path_segment("a/b%", false), &["may not contain '/'", "may not contain '%'"]);
    check(name_is_path_segment("..", false), &["may not be '..'"]);
    assert!(name_is_dns_label("web-", true).is_empty() && !name_is_dns_label("web-", false).is_empty());
}

#[test]
fn label_keys_and_values_are_judged_as_upstream() {
    let name = "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
    check(is_qualified_name("app.kubernetes.io/name"), &[]);
    check(is_qualified_name("/x"), &["prefix part must be non-empty"]);
    check(is_qualified_name("a b"), &[name]);
    check(is_qualified_name("x/"), &["name part must be non-empty", name]);
    assert!(
        is_qualified_name("a/b/c")[0]
            .ends_with("with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')")
    );
    check(is_valid_label_value(""), &[]);
    assert_eq!(is_valid_label_value("a b").len(), 1);
    assert_eq!(is_valid_label_value(&"a".repeat(64)), ["must be no more than 63 bytes"]);
    let long = format!("{}/x", "a".repeat(254));
    check(is_qualified_name(&long), &["prefix part must be no more than 253 bytes"]);
}

#[test]
fn small_values_are_judged_as_upstream() {
    check(is_valid_port_name("http"), &[]);
    check(is_valid_port_name("80"), &["must contain at least one letter (a-z)"]);
    check(
        is_valid_port_name("a--b-"),
        &["must not contain consecutive hyphens", "must not begin or end with a hyphen"],
    );
    check(is_valid_port_num(0), &["must be between 1 and 65535, inclusive"]);
    check(is_config_map_key(".."), &["must not be '..'"]);
    check(is_config_map_key("..a"), &["must not start with '..'"]);
    assert!(is_config_map_key("a/b")[0].starts_with("a valid config key must consist of"));
    assert!(is_env_var_name("1A").len() == 1 && is_env_var_name("A.b-C").is_empty());
    assert!(is_relaxed_env_var_name("1 A").is_empty() && is_relaxed_env_var_name("a=b").len() == 1);
    assert!(is_valid_percent("10%").is_empty() && is_valid_percent("%").len() == 1 && is_valid_percent("1").len() == 1);
    assert!(is_http_header_name("X-A").is_empty() && is_http_header_name("X A").len() == 1);
    assert!(is_c_identifier("_a1").is_empty() && is_c_identifier("1a").len() == 1);
}

#[test]
fn addresses_are_judged_as_upstream() {
    let at = Path::new("ip");
    for (value, expected) in [
        ("10.0.0.1", None),
        ("2001:db8::1", None),
        ("10.0.0.01", Some("must not have leading 0s")),
        ("::ffff:1.2.3.4", Some("must not be an IPv4-mapped IPv6 address")),
        ("2001:DB8::1", Some("must be in canonical form (\"2001:db8::1\")")),
        ("1.2.3", Some("must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)")),
    ] {
        let expected: Vec<String> =
            expected.iter().map(|detail| format!("ip: Invalid value: \"{value}\": {detail}")).collect();
        assert_eq!(shown(is_valid_ip(&at, value)), expected);
    }
    for (value, expected) in [
        ("10.0.0.0/8", None),
        ("10.0.0.1/8", Some("must not have bits set beyond the prefix length")),
        ("10.0.0.0/08", Some("must not have leading 0s in IP or prefix length")),
        ("10.0.0.0/33", Some("must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)")),
    ] {
        let expected: Vec<String> =
            expected.iter().map(|detail| format!("ip: Invalid value: \"{value}\": {detail}")).collect();
        assert_eq!(shown(is_valid_cidr(&at, value)), expected);
    }
    assert!(is_valid_ip_legacy(&at, "010.0.0.1", false, &[]).is_empty());
}

#[test]
fn metadata_of_a_new_object_lists_every_fault() {
    let meta = json!({"name": "A", "namespace": "x y", "labels": {"a b": "c d"}, "annotations": {"K/": "v"},
        "finalizers": ["x"], "ownerReferences": [{"apiVersion": "v1", "kind": "Event", "name": "e", "uid": "u"}]});
    let fields: Vec<String> =
        object_meta(&meta, true, name_is_dns_subdomain, &Path::new("metadata")).into_iter().map(|e| e.field).collect();
    assert_eq!(
        fields,
        [
            "metadata.name",
            "metadata.namespace",
            "metadata.labels",
            "metadata.labels",
            "metadata.annotations",
            "metadata.annotations",
            "metadata.ownerReferences"
        ]
    );
    let none = object_meta(&json!({}), false, name_is_dns_subdomain, &Path::new("metadata"));
    assert_eq!(shown(none), ["metadata.name: Required value: name or generateName is required"]);
}

#[test]
fn updates_keep_what_is_immutable() {
    let old = json!({"name": "a", "uid": "1", "resourceVersion": "1", "generation": 2, "deletionTimestamp": "t", "finalizers": ["a/b"]});
    let mut new = old.clone();
    assert!(object_meta_update(&new, &old, &Path::new("metadata")).is_empty());
    new["uid"] = json!("2");
    new["generation"] = json!(1);
    new["resourceVersion"] = json!("");
    new["finalizers"] = json!(["a/b", "c/d"]);
    assert_eq!(
        shown(object_meta_update(&new, &old, &Path::new("metadata"))),
        [
            "metadata.finalizers: Forbidden: no new finalizers can be added if the object is being deleted, found new finalizers []string{\"c/d\"}",
            "metadata.resourceVersion: Invalid value: \"\": must be specified for an update",
            "metadata.generation: Invalid value: 1: must not be decremented",
            "metadata.uid: Invalid value: \"2\": field is immutable",
        ]
    );
}

#[test]
fn label_selectors_are_judged_as_upstream() {
    let selector = json!({"matchExpressions": [
        {"key": "a", "operator": "In"}, {"key": "a", "operator": "Exists", "values": ["b"]}, {"key": "a", "operator": "Gt"}]});
    assert_eq!(
        shown(label_selector(&selector, false, &Path::new("s"))),
        [
            "s.matchExpressions[0].values: Required value: must be specified when `operator` is 'In' or 'NotIn'",
            "s.matchExpressions[1].values: Forbidden: may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
            "s.matchExpressions[2].operator: Invalid value: \"Gt\": not a valid selector operator",
        ]
    );
}
