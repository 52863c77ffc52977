//! Who may depend on whom, read from `cargo metadata`.
use std::collections::HashMap;
use std::process::Command;

use serde_json::Value;

#[test]
fn components_know_the_cluster_only_through_its_api() {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("metadata is JSON");
    let mut dependencies: HashMap<&str, Vec<&str>> = HashMap::new();
    for package in metadata["packages"].as_array().expect("packages") {
        let list = package["dependencies"].as_array().expect("dependencies").iter();
        let normal = list.filter(|d| d["kind"].is_null()).filter_map(|d| d["name"].as_str());
        dependencies.insert(package["name"].as_str().expect("a name"), normal.collect());
    }
    let components = [
        "skeg-controller-runtime",
        "skeg-controllers",
        "skeg-scheduler",
        "skeg-cri",
        "skeg-kubelet",
        "skeg-nft",
        "skeg-proxy",
    ];
    let server = ["skeg-machinery", "skeg-catalog", "skeg-storage", "skeg-server", "skeg-testserver"];
    for component in components {
        let found = dependencies.get(component).unwrap_or_else(|| panic!("{component} is a crate"));
        for forbidden in server {
            assert!(!found.contains(&forbidden), "{component} depends on {forbidden}");
        }
    }
}
