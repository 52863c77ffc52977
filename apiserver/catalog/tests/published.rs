//! Every kind that is served is among those that upstream publishes examples of, and so among those whose codecs the machinery's
//! tests judge by them.
#![allow(clippy::unwrap_used)]

#[path = "../../machinery/tests/modules/mod.rs"]
mod modules;

use std::collections::BTreeSet;

/// Served kinds without an example: kube-aggregator publishes none, the differential judge compares them instead.
const WITHOUT: [&str; 1] = ["apiregistration.k8s.io.v1.APIService"];

#[test]
fn every_served_kind_has_an_example_in_all_three_forms() {
    let directories = [
        modules::directory("k8s.io/api").join("testdata/HEAD"),
        modules::directory("k8s.io/apiextensions-apiserver").join("pkg/apis/testdata/HEAD"),
    ];
    let name = |group: &str, version: &str, kind: &str| {
        format!("{}.{version}.{kind}", if group.is_empty() { "core" } else { group })
    };
    let mut served = BTreeSet::new();
    for spec in skeg_catalog::all() {
        for version in &spec.versions {
            served.insert(name(&spec.group, &version.version, &spec.kind));
        }
        let bodies = spec.subresources.iter().filter_map(|subresource| subresource.body.as_ref());
        served.extend(bodies.map(|(group, version, kind)| name(group, version, kind)));
    }
    let published = |kind: &String| {
        directories.iter().any(|directory| {
            ["json", "yaml", "pb"].iter().all(|form| directory.join(format!("{kind}.{form}")).is_file())
        })
    };
    let without: Vec<&String> = served.iter().filter(|kind| !published(kind)).collect();
    assert_eq!(without, WITHOUT.iter().collect::<Vec<_>>());
    assert!(served.len() > 70, "only {} kinds", served.len());
}
