//! A target out of the properties that the tests mutate at random. The first byte of an input says which of them the rest is for.
#![allow(dead_code)]

#[path = "../../../apiserver/machinery/tests/modules/mod.rs"]
pub mod modules;
#[path = "../../../apiserver/machinery/tests/properties/mod.rs"]
pub mod properties;

pub mod seeds;

macro_rules! target {
    ($properties:path) => {
        static PROPERTIES: std::sync::LazyLock<Vec<common::properties::Property>> = std::sync::LazyLock::new($properties);

        libfuzzer_sys::fuzz_target!(
            init: common::seeds::write(PROPERTIES.iter().enumerate().flat_map(|(n, property)| {
                property.seeds.iter().map(move |seed| [&[n as u8], seed.as_slice()].concat())
            })),
            |bytes: &[u8]| {
                let Some((which, rest)) = bytes.split_first() else { return };
                PROPERTIES[usize::from(*which) % PROPERTIES.len()].check(rest);
            }
        );
    };
}
pub(crate) use target;
