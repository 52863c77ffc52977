//! The node server's certificate, read again when its files change, and who may be asked to prove himself by one.

use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio_rustls::TlsAcceptor;

use crate::Error;
use crate::config::ServerTls;

pub(super) struct Reloading {
    files: Option<ServerTls>,
    read_at: Option<[SystemTime; 3]>,
    acceptor: TlsAcceptor,
}

impl Reloading {
    /// With no files: a certificate made now, that nobody can check, and no client certificates.
    pub fn new(files: Option<ServerTls>, node_name: &str) -> Result<Self, Error> {
        let (config, read_at) = match &files {
            Some(files) => (load(files)?, changed_at(files)),
            None => (self_signed(node_name)?, None),
        };
        Ok(Self { files, read_at, acceptor: TlsAcceptor::from(Arc::new(config)) })
    }

    /// For the next connection. A set of files that cannot be used leaves the last good one in place.
    pub fn acceptor(&mut self) -> TlsAcceptor {
        if let Some(files) = &self.files {
            let now = changed_at(files);
            if now != self.read_at {
                match load(files) {
                    Ok(config) => self.acceptor = TlsAcceptor::from(Arc::new(config)),
                    Err(error) => tracing::warn!(%error, "the node server keeps its old certificate"),
                }
                self.read_at = now;
            }
        }
        self.acceptor.clone()
    }
}

fn changed_at(files: &ServerTls) -> Option<[SystemTime; 3]> {
    let time = |path: &Path| std::fs::metadata(path).and_then(|m| m.modified()).ok();
    Some([time(&files.certificate)?, time(&files.key)?, time(&files.client_ca)?])
}

fn bad(what: &str, error: impl std::fmt::Display) -> Error {
    Error::Server(format!("{what}: {error}"))
}

fn load(files: &ServerTls) -> Result<ServerConfig, Error> {
    let certificates = |path: &Path| -> Result<Vec<CertificateDer<'static>>, Error> {
        CertificateDer::pem_file_iter(path).and_then(Iterator::collect).map_err(|e| bad(&path.display().to_string(), e))
    };
    let mut roots = RootCertStore::empty();
    for authority in certificates(&files.client_ca)? {
        roots.add(authority).map_err(|e| bad("the client CA", e))?;
    }
    let verifier = WebPkiClientVerifier::builder(Arc::new(roots))
        .allow_unauthenticated()
        .build()
        .map_err(|e| bad("the client CA", e))?;
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(|e| bad(&files.key.display().to_string(), e))?;
    ServerConfig::builder()
        .with_client_cert_verifier(verifier)
        .with_single_cert(certificates(&files.certificate)?, key)
        .map(with_protocols)
        .map_err(|e| bad("the node server's certificate", e))
}

fn self_signed(node_name: &str) -> Result<ServerConfig, Error> {
    let made = rcgen::generate_simple_self_signed(vec![node_name.to_owned()]).map_err(|e| bad("a certificate", e))?;
    let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key.into())
        .map(with_protocols)
        .map_err(|e| bad("a certificate", e))
}

fn with_protocols(mut config: ServerConfig) -> ServerConfig {
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config
}
