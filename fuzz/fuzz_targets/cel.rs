#![no_main]
#[path = "../../apiserver/cel/tests/property/mod.rs"]
mod property;
#[path = "common/seeds.rs"]
mod seeds;

libfuzzer_sys::fuzz_target!(
    init: seeds::write(property::SEEDS.iter().map(|seed| seed.to_vec())),
    |bytes: &[u8]| property::check(bytes)
);
