//! Short random runs over everything that reads what clients send: bytes are made from good ones by mutation, and no property may
//! fail or take long. Each run begins where the last one did; SKEG_FUZZ_SECONDS makes a run longer, SKEG_FUZZ_SEED makes it
//! another one. What was found stands as a test where it was mended. `hack/fuzz` searches longer and better.
#![allow(clippy::unwrap_used)]

mod modules;
mod mutate;
mod properties;

use properties::Property;

fn run(properties: Vec<Property>) {
    assert!(!properties.is_empty());
    for property in &properties {
        let seeds: Vec<&[u8]> = property.seeds.iter().map(Vec::as_slice).collect();
        mutate::fuzz(&seeds, |bytes| property.check(bytes));
    }
}

#[test]
fn json_bodies_decode_or_say_why() {
    run(properties::json());
}

#[test]
fn protobuf_bodies_decode_or_say_why() {
    run(properties::protobuf());
}

#[test]
fn yaml_bodies_are_read_as_they_are_written() {
    run(properties::yaml());
}

#[test]
fn patches_apply_or_say_why() {
    run(properties::patches());
}

#[test]
fn applied_configurations_merge_or_say_why() {
    run(properties::applied());
}

#[test]
fn recorded_fields_are_read_or_refused() {
    run(properties::recorded());
}

#[test]
fn selectors_are_read_as_they_are_written() {
    run(properties::selectors());
}

#[test]
fn quantities_are_read_as_they_are_written() {
    run(properties::quantities());
}
