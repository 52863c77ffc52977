//! Tells the program which commit it is built from, in `SKEG_GIT_COMMIT` and `SKEG_BUILD_DATE`: what is set outside, else
//! what git knows of this checkout. Neither is needed: a source archive has none.

use std::process::Command;

fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).env("TZ", "UTC").output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?.trim().to_owned();
    (output.status.success() && !text.is_empty()).then_some(text)
}

fn main() {
    // The log of HEAD grows with every commit and checkout; a build in between has nothing to look at again.
    if let Some(log) = git(&["rev-parse", "--git-path", "logs/HEAD"]) {
        println!("cargo:rerun-if-changed={log}");
    }
    println!("cargo:rerun-if-changed=build.rs");
    let date = ["log", "-1", "--date=format-local:%Y-%m-%dT%H:%M:%SZ", "--format=%cd"];
    for (name, arguments) in [("SKEG_GIT_COMMIT", &["rev-parse", "HEAD"][..]), ("SKEG_BUILD_DATE", &date)] {
        println!("cargo:rerun-if-env-changed={name}");
        if let Some(value) = std::env::var(name).ok().or_else(|| git(arguments)) {
            println!("cargo:rustc-env={name}={value}");
        }
    }
}
