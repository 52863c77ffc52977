//! A target out of the properties that the tests mutate at random. The first byte of an input says which of them the rest is for.
#![allow(dead_code)]

#[path = "../../../apiserver/machinery/tests/modules/mod.rs"]
pub mod modules;
#[path = "../../../apiserver/machinery/tests/properties/mod.rs"]
pub mod properties;

/// Writes good inputs into the folder that $SKEG_FUZZ_SEEDS names, for libFuzzer to begin with.
pub fn seed(seeds: impl Iterator<Item = Vec<u8>>) {
    let Some(folder) = std::env::var_os("SKEG_FUZZ_SEEDS") else { return };
    for (n, bytes) in seeds.enumerate() {
        std::fs::write(std::path::Path::new(&folder).join(format!("seed-{n}")), bytes)
            .expect("a folder to write seeds to");
    }
}

macro_rules! target {
    ($properties:path) => {
        static PROPERTIES: std::sync::LazyLock<Vec<common::properties::Property>> = std::sync::LazyLock::new($properties);

        libfuzzer_sys::fuzz_target!(
            init: common::seed(PROPERTIES.iter().enumerate().flat_map(|(n, property)| {
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
