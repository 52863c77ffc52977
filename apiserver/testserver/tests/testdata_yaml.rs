//! Every kind under k8s.io/api/testdata means the same in YAML as in JSON: read as upstream wrote it, and as we write it.
#![allow(clippy::unwrap_used)]

#[path = "../../machinery/tests/modules/mod.rs"]
mod modules;

use serde_json::Value;
use skeg_server::yaml;

#[test]
fn every_kind_round_trips_its_yaml() {
    let (mut count, mut faults) = (0, Vec::new());
    for release in ["HEAD", "v1.33.0", "v1.34.0", "v1.35.0"] {
        for entry in std::fs::read_dir(modules::directory("k8s.io/api").join("testdata").join(release)).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_none_or(|extension| extension != "yaml") {
                continue;
            }
            let json: Value = serde_json::from_slice(&std::fs::read(path.with_extension("json")).unwrap()).unwrap();
            let read = yaml::parse(&std::fs::read(&path).unwrap());
            if read.as_ref() != Ok(&json) || yaml::parse(yaml::write(&json).as_bytes()).as_ref() != Ok(&json) {
                faults.push(format!("{}: {:?}", path.display(), read.err()));
            }
            count += 1;
        }
    }
    assert!(faults.is_empty(), "{} of {count} differ:\n{}", faults.len(), faults.join("\n"));
    assert!(count > 700, "only {count} files");
}
