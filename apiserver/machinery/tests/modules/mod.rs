//! Finds published Go modules through the generator's module; their files are not in the repository.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The directory of a Go module, downloaded if it must be.
pub fn directory(name: &str) -> PathBuf {
    let mut above = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().map(|folder| folder.join("hack/schema-gen"));
    let module = above.find(|folder| folder.exists()).expect("a checkout of the whole project");
    let go = |arguments: &[&str]| {
        let output = Command::new("go").args(arguments).current_dir(&module).output();
        let output = output.unwrap_or_else(|error| panic!("the Go tool is needed to find {name}: {error}"));
        let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        (text, String::from_utf8_lossy(&output.stderr).trim().to_owned())
    };
    let find = || go(&["list", "-m", "-f", "{{.Dir}}", name]);
    let (mut directory, _) = find();
    if directory.is_empty() {
        let (_, fault) = go(&["mod", "download", name]);
        directory = find().0;
        assert!(!directory.is_empty(), "go mod download {name} in {} failed: {fault}", module.display());
    }
    PathBuf::from(directory)
}
