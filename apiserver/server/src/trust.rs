//! Whom the server believes, and what it shows to others: certificates and keys as PEM texts, wherever they came from.
//! Does not read files, nor make certificates ([`crate::pki`]).

use crate::authn::request_header::RemoteHeaders;
use crate::pki::{Issued, Pki};

/// Everything that tells the server who is who.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Trust {
    /// Authorities of client certificates; `None`: nobody is known by a certificate.
    pub client_ca: Option<String>,
    /// Who may name other users in headers; `None`: nobody.
    pub front_proxy: Option<FrontProxy>,
    /// What aggregated API servers and webhooks know this server by.
    pub proxy_client: Option<Issued>,
    pub kubelets: KubeletTrust,
    /// Signs service-account tokens: an ECDSA or RSA private key.
    pub signing_key: String,
    /// Verify such tokens beside the signing key: PEM texts of public or private keys or certificates.
    pub verifying_keys: Vec<String>,
    /// For machines that join, at `/cacerts`.
    pub cluster_ca: Option<String>,
}

/// A front proxy's authority, its names, and the headers in which it names users.
#[derive(Clone, Debug, PartialEq)]
pub struct FrontProxy {
    pub ca: String,
    /// Common names; empty allows all of the authority.
    pub allowed_names: Vec<String>,
    pub headers: RemoteHeaders,
}

/// How kubelets are reached.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct KubeletTrust {
    /// Authorities of their serving certificates; `None`: any certificate is taken.
    pub ca: Option<String>,
    /// What they know this server by.
    pub client: Option<Issued>,
    /// Which kinds of node addresses are dialled, the best first; empty: the internal address, then upstream's order.
    pub address_types: Vec<String>,
}

impl Trust {
    /// What a cluster's own certificates say.
    pub fn of(pki: &Pki) -> Trust {
        Trust {
            client_ca: Some(pki.ca.certificate_pem.clone()),
            front_proxy: Some(FrontProxy {
                ca: pki.front_proxy_ca.certificate_pem.clone(),
                allowed_names: vec!["front-proxy-client".to_owned()],
                headers: RemoteHeaders::default(),
            }),
            proxy_client: Some(pki.front_proxy_client.clone()),
            kubelets: KubeletTrust {
                ca: Some(pki.ca.certificate_pem.clone()),
                client: Some(pki.apiserver_kubelet_client.clone()),
                address_types: Vec::new(),
            },
            signing_key: pki.service_account_key.clone(),
            verifying_keys: Vec::new(),
            cluster_ca: Some(pki.ca.certificate_pem.clone()),
        }
    }
}
