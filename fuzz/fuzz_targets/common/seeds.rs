//! Good inputs for libFuzzer to begin with.

/// Writes good inputs into the folder that $SKEG_FUZZ_SEEDS names, for libFuzzer to begin with.
pub fn write(seeds: impl Iterator<Item = Vec<u8>>) {
    let Some(folder) = std::env::var_os("SKEG_FUZZ_SEEDS") else { return };
    for (n, bytes) in seeds.enumerate() {
        std::fs::write(std::path::Path::new(&folder).join(format!("seed-{n}")), bytes)
            .expect("a folder to write seeds to");
    }
}
