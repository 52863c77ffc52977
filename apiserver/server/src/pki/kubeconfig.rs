//! Writes kubeconfig files with everything embedded, for people and for components in processes of their own.

use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::{Issued, PkiError, files};

/// A kubeconfig with one cluster, user and context, all named `name`.
pub fn kubeconfig(name: &str, server: &str, ca_pem: &str, user: &Issued) -> String {
    render(
        name,
        server,
        ca_pem,
        json!({
            "client-certificate-data": STANDARD.encode(&user.certificate_pem),
            "client-key-data": STANDARD.encode(&user.key_pem),
        }),
    )
}

/// The same for a bearer token.
pub fn token_kubeconfig(name: &str, server: &str, ca_pem: &str, token: &str) -> String {
    render(name, server, ca_pem, json!({ "token": token }))
}

fn render(name: &str, server: &str, ca_pem: &str, user: Value) -> String {
    let config = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{ "name": name, "cluster": {
            "certificate-authority-data": STANDARD.encode(ca_pem),
            "server": server,
        }}],
        "contexts": [{ "name": name, "context": { "cluster": name, "user": name } }],
        "current-context": name,
        "preferences": {},
        "users": [{ "name": name, "user": user }],
    });
    serde_yaml_ng::to_string(&config).expect("a JSON value is YAML")
}

/// Replaces the file at once; only its owner can read it. Left alone when it already says the same.
pub fn write(path: &Path, text: &str) -> Result<(), PkiError> {
    if files::read(path)?.as_deref() == Some(text) {
        return Ok(());
    }
    files::write(path, text, 0o600, false)
}

#[cfg(test)]
mod tests {
    use super::super::{Authority, Profile};
    use super::*;

    #[test]
    fn a_client_library_reads_the_kubeconfig_back() {
        let ca = Authority::create("ca").unwrap();
        let admin = ca.issue(&Profile::client("system:admin", &["system:masters"])).unwrap();
        let text = kubeconfig("skeg", "https://127.0.0.1:6443", &ca.certificate_pem, &admin);
        let read = kube::config::Kubeconfig::from_yaml(&text).unwrap();
        assert_eq!(read.current_context.as_deref(), Some("skeg"));
        let cluster = read.clusters[0].cluster.as_ref().unwrap();
        assert_eq!(cluster.server.as_deref(), Some("https://127.0.0.1:6443"));
        assert!(read.auth_infos[0].auth_info.as_ref().unwrap().client_key_data.is_some());
    }
}
