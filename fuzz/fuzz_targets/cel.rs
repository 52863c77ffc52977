#![no_main]
#[path = "../../apiserver/cel/tests/property/mod.rs"]
mod property;

fn seed() {
    let Some(folder) = std::env::var_os("SKEG_FUZZ_SEEDS") else { return };
    for (n, seed) in property::SEEDS.iter().enumerate() {
        std::fs::write(std::path::Path::new(&folder).join(format!("seed-{n}")), seed)
            .expect("a folder to write seeds to");
    }
}

libfuzzer_sys::fuzz_target!(init: seed(), |bytes: &[u8]| property::check(bytes));
