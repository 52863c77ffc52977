//! Compiles the protocol definitions with a compiler written in Rust, so that building needs no `protoc`.

use std::{fs, io};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let mut files = fs::read_dir("proto")?.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>, io::Error>>()?;
    files.sort();
    let descriptors = protox::compile(&files, ["proto"])?;
    tonic_prost_build::configure()
        .build_server(false)
        .build_transport(false)
        // Values that may be secret never reach a log by way of `{:?}`; `redact.rs` has their Debug.
        .skip_debug(["runtime.v1.AuthConfig", "runtime.v1.KeyValue"])
        .compile_fds(descriptors)?;
    Ok(())
}
