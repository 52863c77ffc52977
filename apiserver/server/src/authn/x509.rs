//! Client certificates: a chain to the client CA, CN is the user and each O a group (upstream
//! apiserver/pkg/authentication/request/x509). TLS has already proved possession of the key.

use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use async_trait::async_trait;
use rustls::RootCertStore;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls_pki_types::{CertificateDer, UnixTime};
use sha2::{Digest, Sha256};

use super::{Authentication, Authenticator, Credentials};
use crate::request::UserInfo;

/// Why the certificates of a bundle cannot serve as roots.
#[derive(Debug, thiserror::Error)]
#[error("client CA bundle: {0}")]
pub struct BundleError(String);

/// Verifies chains against a CA bundle, which can be replaced: signature, validity and the client-auth usage.
pub struct ChainVerifier(ArcSwap<Roots>);

struct Roots {
    certificates: Vec<CertificateDer<'static>>,
    verifier: Arc<dyn ClientCertVerifier>,
    generation: u64,
}

/// How long a verdict on a chain holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// The leaf's end of validity in Unix seconds.
    until: i64,
    /// The bundle's, which it was verified against.
    generation: u64,
}

impl Roots {
    fn new(roots: &[CertificateDer<'static>], generation: u64) -> Result<Self, BundleError> {
        let mut store = RootCertStore::empty();
        for root in roots {
            store.add(root.clone()).map_err(|e| BundleError(e.to_string()))?;
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let built = WebPkiClientVerifier::builder_with_provider(Arc::new(store), provider).build();
        let verifier = built.map_err(|e| BundleError(e.to_string()))?;
        Ok(Roots { certificates: roots.to_vec(), verifier, generation })
    }
}

impl ChainVerifier {
    pub fn new(roots: &[CertificateDer<'static>]) -> Result<Self, BundleError> {
        Ok(ChainVerifier(ArcSwap::from_pointee(Roots::new(roots, 0)?)))
    }

    /// From now on chains must end at one of these, those of open connections too. Verdicts stand where nothing changes.
    pub fn replace(&self, roots: &[CertificateDer<'static>]) -> Result<(), BundleError> {
        let old = self.0.load();
        if old.certificates != roots {
            self.0.store(Arc::new(Roots::new(roots, old.generation + 1)?));
        }
        Ok(())
    }

    /// Until when the chain is good, or why it is not.
    pub fn verify(&self, chain: &[CertificateDer<'static>]) -> Result<Standing, String> {
        let (leaf, intermediates) = chain.split_first().ok_or("no certificate")?;
        let roots = self.0.load();
        roots.verifier.verify_client_cert(leaf, intermediates, UnixTime::now()).map_err(|e| e.to_string())?;
        let (_, parsed) = x509_parser::parse_x509_certificate(leaf).map_err(|e| e.to_string())?;
        Ok(Standing { until: parsed.validity().not_after.timestamp(), generation: roots.generation })
    }

    /// Whether a verdict still holds.
    pub fn stands(&self, standing: &Standing) -> bool {
        standing.generation == self.0.load().generation && chrono::Utc::now().timestamp() <= standing.until
    }
}

pub struct X509 {
    verifier: ChainVerifier,
}

impl X509 {
    pub fn new(client_ca: &[CertificateDer<'static>]) -> Result<Self, BundleError> {
        Ok(X509 { verifier: ChainVerifier::new(client_ca)? })
    }

    /// From now on only certificates of these authorities name users.
    pub fn replace(&self, client_ca: &[CertificateDer<'static>]) -> Result<(), BundleError> {
        self.verifier.replace(client_ca)
    }
}

#[async_trait]
impl Authenticator for X509 {
    async fn authenticate(&self, credentials: &Credentials) -> Authentication {
        let Some(peer) = credentials.peer.as_ref().filter(|peer| !peer.certificates.is_empty()) else {
            return Authentication::Unknown;
        };
        if let Some((user, standing)) = peer.identity.load().as_deref()
            && self.verifier.stands(standing)
        {
            return Authentication::User { user: user.clone(), audiences: Vec::new() };
        }
        let standing = match self.verifier.verify(&peer.certificates) {
            Ok(standing) => standing,
            Err(why) => return Authentication::Rejected(format!("verifying certificate: {why}")),
        };
        match user_of(&peer.certificates[0]) {
            Some(user) => {
                peer.identity.store(Some(Arc::new((user.clone(), standing))));
                Authentication::User { user, audiences: Vec::new() }
            }
            None => Authentication::Unknown,
        }
    }
}

/// The user that a certificate names; `None` without a common name.
pub fn user_of(certificate: &CertificateDer<'_>) -> Option<UserInfo> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
    let subject = parsed.subject();
    let name = subject.iter_common_name().last()?.as_str().ok()?.to_owned();
    if name.is_empty() {
        return None;
    }
    let groups = subject.iter_organization().filter_map(|o| o.as_str().ok().map(str::to_owned)).collect();
    let hash: String = Sha256::digest(certificate).iter().map(|b| format!("{b:02x}")).collect();
    let extra =
        BTreeMap::from([("authentication.kubernetes.io/credential-id".to_owned(), vec![format!("X509SHA256={hash}")])]);
    Some(UserInfo { name, uid: String::new(), groups, extra })
}

#[cfg(test)]
mod tests {
    use super::super::Peer;
    use super::*;
    use crate::pki::{Authority, Profile};

    fn peer(authority: &Authority, profile: Profile) -> Credentials {
        let issued = authority.issue(&profile).unwrap();
        Credentials { peer: Some(Arc::new(Peer::new(vec![issued.certificate_der()]))), ..Default::default() }
    }

    #[tokio::test]
    async fn the_common_name_is_the_user_and_organizations_are_groups() {
        let ca = Authority::create("test-ca").unwrap();
        let x509 = X509::new(&[ca.certificate_der()]).unwrap();
        let credentials = peer(&ca, Profile::client("system:node:a", &["system:nodes"]));
        for _ in 0..2 {
            let Authentication::User { user, .. } = x509.authenticate(&credentials).await else { panic!("refused") };
            assert_eq!(
                (user.name.as_str(), user.groups.as_slice()),
                ("system:node:a", &["system:nodes".to_owned()][..])
            );
            assert!(user.extra["authentication.kubernetes.io/credential-id"][0].starts_with("X509SHA256="));
        }
    }

    #[tokio::test]
    async fn another_authority_a_server_certificate_and_an_expired_one_are_refused() {
        let (ca, other) = (Authority::create("test-ca").unwrap(), Authority::create("test-ca").unwrap());
        let x509 = X509::new(&[ca.certificate_der()]).unwrap();
        let refused = |credentials: Credentials| {
            let x509 = &x509;
            async move { matches!(x509.authenticate(&credentials).await, Authentication::Rejected(_)) }
        };
        assert!(refused(peer(&other, Profile::client("eve", &[]))).await);
        assert!(refused(peer(&ca, Profile::server("eve", &["localhost".into()], &[]))).await);
        let expired = Profile { lifetime: time::Duration::seconds(-60), ..Profile::client("eve", &[]) };
        assert!(refused(peer(&ca, expired)).await);
        assert_eq!(x509.authenticate(&Credentials::default()).await, Authentication::Unknown);
    }

    #[tokio::test]
    async fn another_bundle_holds_for_open_connections_too() {
        let (old, new) = (Authority::create("ca").unwrap(), Authority::create("ca").unwrap());
        let x509 = X509::new(&[old.certificate_der()]).unwrap();
        let (alice, bob) = (peer(&old, Profile::client("alice", &[])), peer(&new, Profile::client("bob", &[])));
        let known = async |who: &Credentials| matches!(x509.authenticate(who).await, Authentication::User { .. });
        assert!(known(&alice).await && !known(&bob).await);
        x509.replace(&[old.certificate_der(), new.certificate_der()]).unwrap();
        assert!(known(&alice).await && known(&bob).await);
        let verdict = |who: &Credentials| who.peer.as_ref().unwrap().identity.load_full().unwrap();
        let found = verdict(&alice);
        assert!(x509.verifier.stands(&found.1));
        x509.replace(&[old.certificate_der(), new.certificate_der()]).unwrap();
        assert!(known(&alice).await && Arc::ptr_eq(&found, &verdict(&alice)));
        x509.replace(&[new.certificate_der()]).unwrap();
        assert!(!known(&alice).await && known(&bob).await);
        assert!(x509.replace(&[CertificateDer::from(vec![1, 2, 3])]).is_err());
        assert!(known(&bob).await, "a bundle that cannot be read changes nothing");
    }
}
