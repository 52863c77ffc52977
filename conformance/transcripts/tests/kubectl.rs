//! Runs the transcripts, one after the other: they share a cluster.
use std::path::PathBuf;
use std::time::Duration;

fn main() {
    let kubectl = PathBuf::from(std::env::var("SKEG_KUBECTL").expect("SKEG_KUBECTL names the kubectl to run"));
    let kubeconfig = std::env::var("KUBECONFIG").expect("KUBECONFIG names the cluster's kubeconfig");
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let shell = PathBuf::from("/bin/sh");
    let only = std::env::var("SKEG_TRANSCRIPT").unwrap_or_else(|_| "*".into());
    let mut transcripts: Vec<PathBuf> = std::fs::read_dir(&folder)
        .expect("the folder of transcripts")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|e| e == "md"))
        .filter(|path| only == "*" || path.file_stem().is_some_and(|stem| stem == only.as_str()))
        .collect();
    transcripts.sort();
    assert!(!transcripts.is_empty(), "no transcript named {only}");
    let path = format!(
        "{}:{}",
        kubectl.parent().expect("kubectl's folder").display(),
        std::env::var("PATH").unwrap_or_default()
    );
    for transcript in &transcripts {
        let cases = trycmd::TestCases::new();
        cases
            .env("KUBECONFIG", &kubeconfig)
            .env("PATH", &path)
            .timeout(Duration::from_secs(180))
            .register_bin("kubectl", &kubectl)
            .register_bin("sh", &shell)
            .case(transcript);
        drop(cases);
    }
    let count = transcripts.len();
    println!("{count} passed, 0 failed");
}
