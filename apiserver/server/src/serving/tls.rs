//! rustls configurations: the server's, which can be replaced while it runs, and those of clients.

use std::sync::Arc;

use arc_swap::{ArcSwap, ArcSwapOption};
use rustls::client::ResolvesClientCert;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::sign::CertifiedKey;
use rustls::{
    ClientConfig, DigitallySignedStruct, DistinguishedName, Error, RootCertStore, ServerConfig, SignatureScheme,
};
use rustls_pki_types::{CertificateDer, UnixTime};

use super::ServeError;
use crate::pki::Issued;

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// What a listener serves with; what replaces it takes effect at the next handshake.
pub type LiveConfig = Arc<ArcSwap<ServerConfig>>;

/// A configuration that can be replaced by another [`server_config`].
pub fn live_config(certificate: &Issued, hints: &[CertificateDer<'static>]) -> Result<LiveConfig, ServeError> {
    Ok(Arc::new(ArcSwap::from_pointee(server_config(certificate, hints)?)))
}

/// What this server shows of itself where it is a client, if anything; what replaces it is shown on the next connection.
#[derive(Clone, Debug, Default)]
pub struct OwnCertificate(Arc<ArcSwapOption<CertifiedKey>>);

impl OwnCertificate {
    pub fn new(issued: Option<&Issued>) -> Result<Self, Error> {
        let own = OwnCertificate::default();
        own.replace(issued)?;
        Ok(own)
    }

    pub fn replace(&self, issued: Option<&Issued>) -> Result<(), Error> {
        let certified = |issued: &Issued| CertifiedKey::from_der(issued.chain(), issued.key_der(), &provider());
        self.0.store(issued.map(certified).transpose()?.map(Arc::new));
        Ok(())
    }
}

impl ResolvesClientCert for OwnCertificate {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.0.load_full()
    }

    fn has_certs(&self) -> bool {
        self.0.load().is_some()
    }
}

/// TLS 1.2 and 1.3, h2 and HTTP/1.1, client certificates asked for and taken as they come. `hints` are the authorities
/// whose names the client is told.
pub fn server_config(certificate: &Issued, hints: &[CertificateDer<'static>]) -> Result<ServerConfig, ServeError> {
    let provider = provider();
    let verifier = ProofOfPossession {
        algorithms: provider.signature_verification_algorithms,
        hints: hints.iter().filter_map(subject).collect(),
    };
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(ServeError::Tls)?
        .with_client_cert_verifier(Arc::new(verifier))
        .with_single_cert(certificate.chain(), certificate.key_der())
        .map_err(ServeError::Tls)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

/// A client that trusts `roots` and may have a certificate.
pub fn client_config(roots: &[CertificateDer<'static>], client: Option<&Issued>) -> Result<ClientConfig, ServeError> {
    let mut store = RootCertStore::empty();
    for root in roots {
        store.add(root.clone()).map_err(ServeError::Tls)?;
    }
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(ServeError::Tls)?
        .with_root_certificates(store);
    match client {
        Some(client) => builder.with_client_auth_cert(client.chain(), client.key_der()).map_err(ServeError::Tls),
        None => Ok(builder.with_no_client_auth()),
    }
}

/// A client that takes any certificate: for what pods serve, which nobody vouches for.
pub fn trusting_anything() -> ClientConfig {
    trusting_anyone().with_no_client_auth()
}

/// The same with a certificate of its own: for kubelets whose authority nobody told.
pub fn trusting_anything_as(client: &Issued) -> Result<ClientConfig, ServeError> {
    trusting_anyone().with_client_auth_cert(client.chain(), client.key_der()).map_err(ServeError::Tls)
}

fn trusting_anyone() -> rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert> {
    let verifier = Arc::new(Anyone::default());
    ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .expect("the provider has TLS 1.2 and 1.3")
        .dangerous()
        .with_custom_certificate_verifier(verifier)
}

/// Takes any server certificate.
#[derive(Debug)]
pub(crate) struct Anyone(WebPkiSupportedAlgorithms);

impl Default for Anyone {
    fn default() -> Self {
        Anyone(provider().signature_verification_algorithms)
    }
}

impl rustls::client::danger::ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &rustls_pki_types::ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.0)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.0)
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.supported_schemes()
    }
}

fn subject(certificate: &CertificateDer<'static>) -> Option<DistinguishedName> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
    Some(DistinguishedName::from(parsed.subject().as_raw().to_vec()))
}

/// Checks that a client has the key of the certificate it shows, and leaves the certificate itself to authentication,
/// which answers with a Status instead of a broken connection.
#[derive(Debug)]
struct ProofOfPossession {
    algorithms: WebPkiSupportedAlgorithms,
    hints: Vec<DistinguishedName>,
}

impl ClientCertVerifier for ProofOfPossession {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.hints
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
