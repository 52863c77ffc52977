//! How a webhook's certificate is trusted: by its caBundle, or by what the machine trusts.

use std::sync::{Arc, OnceLock};

use crate::serving::tls::OwnCertificate;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// A client that trusts the certificates of a PEM bundle, or the system's where it is empty.
pub fn trusting(bundle: &[u8]) -> Result<ClientConfig, Error> {
    client(bundle, false, &OwnCertificate::default())
}

/// The same, for one that shows a certificate of its own, or takes any.
pub fn client(bundle: &[u8], insecure: bool, own: &OwnCertificate) -> Result<ClientConfig, Error> {
    let roots: Vec<CertificateDer<'static>> = match bundle.is_empty() {
        true => system().to_vec(),
        false => rustls_pemfile::certs(&mut &bundle[..]).filter_map(Result::ok).collect(),
    };
    let verifier: Arc<dyn ServerCertVerifier> = match insecure {
        true => Arc::new(crate::serving::tls::Anyone::default()),
        false => Arc::new(Verifier::new(roots)?),
    };
    let builder = ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions()?;
    let builder = builder.dangerous().with_custom_certificate_verifier(verifier);
    Ok(builder.with_client_cert_resolver(Arc::new(own.clone())))
}

fn system() -> &'static [CertificateDer<'static>] {
    static SYSTEM: OnceLock<Vec<CertificateDer<'static>>> = OnceLock::new();
    SYSTEM.get_or_init(|| rustls_native_certs::load_native_certs().certs)
}

/// The usual verification, and one thing more that Go's does: a certificate that is itself in the bundle is trusted
/// though it calls itself an authority, as self-signed ones made by hand do.
#[derive(Debug)]
struct Verifier {
    roots: Vec<CertificateDer<'static>>,
    /// None where nothing is trusted.
    chains: Option<Arc<WebPkiServerVerifier>>,
}

impl Verifier {
    fn new(roots: Vec<CertificateDer<'static>>) -> Result<Verifier, Error> {
        let mut store = RootCertStore::empty();
        store.add_parsable_certificates(roots.iter().cloned());
        if store.is_empty() {
            return Ok(Verifier { roots, chains: None });
        }
        let chains = WebPkiServerVerifier::builder_with_provider(Arc::new(store), provider()).build();
        Ok(Verifier { roots, chains: Some(chains.map_err(|error| Error::General(error.to_string()))?) })
    }
}

fn is_current(certificate: &CertificateDer<'_>, now: UnixTime) -> bool {
    let Ok((_, parsed)) = x509_parser::parse_x509_certificate(certificate) else { return false };
    let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    let validity = parsed.validity();
    (validity.not_before.timestamp()..=validity.not_after.timestamp()).contains(&now)
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if self.roots.iter().any(|root| root == leaf) {
            rustls::client::verify_server_name(&ParsedCertificate::try_from(leaf)?, name)?;
            return match is_current(leaf, now) {
                true => Ok(ServerCertVerified::assertion()),
                false => Err(CertificateError::Expired.into()),
            };
        }
        match &self.chains {
            // What rustls has no word for, such as a foreign authority used as a server, has no issuer that we trust.
            Some(chains) => {
                chains.verify_server_cert(leaf, intermediates, name, ocsp, now).map_err(|error| match error {
                    Error::InvalidCertificate(CertificateError::Other(_)) => CertificateError::UnknownIssuer.into(),
                    error => error,
                })
            }
            None => Err(CertificateError::UnknownIssuer.into()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = provider().signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, &algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = provider().signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, &algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}
