//! The cluster's keys and certificates: made on first start, renewed when they near their end, never overwritten while
//! good. Owns the files of one directory. Does not own TLS ([`crate::serving`]) nor who is trusted for what ([`crate::authn`]).
//!
//! ```text
//! pki/ca.{crt,key}                 cluster CA: serving and client certificates
//! pki/front-proxy-ca.{crt,key}     signs front-proxy-client, the aggregator's certificate
//! pki/sa.{key,pub}                 signs service-account tokens
//! pki/NAME.{crt,key}               one leaf per component
//! ```

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use sha2::{Digest, Sha256};
use time::OffsetDateTime;

pub mod authority;
pub mod files;
pub mod join;
pub mod kubeconfig;
pub mod renewal;

pub use authority::{Authority, Issued, Profile};

#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    #[error("{action} {path}")]
    File {
        action: &'static str,
        path: String,
        #[source]
        source: std::io::Error,
    },
    #[error("make certificate {0}")]
    Make(String, #[source] rcgen::Error),
    #[error("{0} is not usable: {1}")]
    Damaged(String, String),
}

/// What the serving certificate and the component certificates are made for.
#[derive(Clone, Debug)]
pub struct PkiOptions {
    pub dir: PathBuf,
    /// This machine's node name; the kubelet's certificate names it.
    pub node_name: String,
    /// Further names and addresses of the serving certificate, beside the standard ones.
    pub sans: Vec<String>,
    pub addresses: Vec<IpAddr>,
    /// The first address of each service CIDR, which the `kubernetes` service has.
    pub service_addresses: Vec<IpAddr>,
    pub cluster_domain: String,
}

/// Everything that the server and the components of its process need.
pub struct Pki {
    pub dir: PathBuf,
    pub ca: Authority,
    pub front_proxy_ca: Authority,
    pub serving: Issued,
    /// O=system:masters.
    pub admin: Issued,
    pub controller_manager: Issued,
    pub scheduler: Issued,
    pub kubelet: Issued,
    pub kubelet_serving: Issued,
    pub kube_proxy: Issued,
    /// The API server as the kubelets' client.
    pub apiserver_kubelet_client: Issued,
    pub front_proxy_client: Issued,
    /// PKCS#8 PEM of the key that signs service-account tokens.
    pub service_account_key: String,
}

impl Pki {
    /// Reads what is there, makes what is missing, renews leaves that are no longer right or near their end.
    pub fn load_or_create(options: &PkiOptions) -> Result<Pki, PkiError> {
        Self::load_or_create_at(options, OffsetDateTime::now_utc())
    }

    /// The same, as if it were `now`.
    pub fn load_or_create_at(options: &PkiOptions, now: OffsetDateTime) -> Result<Pki, PkiError> {
        let dir = &options.dir;
        files::create_dir(dir)?;
        let ca = Authority::load_or_create(dir, "ca", &format!("skeg-ca-{}", short_id()))?;
        let front_proxy_ca = Authority::load_or_create(dir, "front-proxy-ca", "skeg-front-proxy-ca")?;
        let leaf = |name: &str, profile: Profile| ca.leaf(dir, name, &profile, now);
        let masters = &["system:masters"][..];
        let node = format!("system:node:{}", options.node_name);
        let mut node_sans = vec![options.node_name.clone(), "localhost".into()];
        node_sans.dedup();
        Ok(Pki {
            serving: leaf("apiserver", serving_profile(options))?,
            admin: leaf("admin", Profile::client("system:admin", masters))?,
            controller_manager: leaf(
                "kube-controller-manager",
                Profile::client("system:kube-controller-manager", &[]),
            )?,
            scheduler: leaf("kube-scheduler", Profile::client("system:kube-scheduler", &[]))?,
            kubelet: leaf("kubelet", Profile::client(&node, &["system:nodes"]))?,
            kubelet_serving: leaf(
                "kubelet-serving",
                Profile {
                    groups: vec!["system:nodes".into()],
                    ..Profile::server(&node, &node_sans, &loopback_and(&options.addresses))
                },
            )?,
            kube_proxy: leaf("kube-proxy", Profile::client("system:kube-proxy", &[]))?,
            apiserver_kubelet_client: leaf(
                "apiserver-kubelet-client",
                Profile::client("kube-apiserver-kubelet-client", masters),
            )?,
            front_proxy_client: front_proxy_ca.leaf(
                dir,
                "front-proxy-client",
                &Profile::client("front-proxy-client", &[]),
                now,
            )?,
            service_account_key: service_account_key(dir)?,
            dir: dir.clone(),
            ca,
            front_proxy_ca,
        })
    }

    /// The pin of the cluster CA in a join token: lower-case hex SHA-256 of the PEM file, as k3s's tokens have it.
    pub fn ca_hash(&self) -> String {
        hex(&Sha256::digest(self.ca.certificate_pem.as_bytes()))
    }
}

fn serving_profile(options: &PkiOptions) -> Profile {
    let domain = &options.cluster_domain;
    let mut names = vec![
        "localhost".to_owned(),
        "kubernetes".to_owned(),
        "kubernetes.default".to_owned(),
        "kubernetes.default.svc".to_owned(),
        format!("kubernetes.default.svc.{domain}"),
        options.node_name.clone(),
    ];
    let mut addresses = loopback_and(&options.addresses);
    addresses.extend(&options.service_addresses);
    for san in &options.sans {
        match san.parse() {
            Ok(address) => addresses.push(address),
            Err(_) => names.push(san.clone()),
        }
    }
    names.sort();
    names.dedup();
    addresses.sort();
    addresses.dedup();
    Profile::server("kube-apiserver", &names, &addresses)
}

fn loopback_and(addresses: &[IpAddr]) -> Vec<IpAddr> {
    let mut all = vec![IpAddr::from([127, 0, 0, 1]), IpAddr::from(std::net::Ipv6Addr::LOCALHOST)];
    all.extend(addresses);
    all.sort();
    all.dedup();
    all
}

/// The key of a directory that signs service-account tokens, made when there is none.
pub fn service_account_key(dir: &Path) -> Result<String, PkiError> {
    let path = dir.join("sa.key");
    if let Some(pem) = files::read(&path)? {
        return Ok(pem);
    }
    let key = authority::new_key("sa")?;
    let pem = key.serialize_pem();
    files::write(&path, &pem, 0o600, true)?;
    files::write(&dir.join("sa.pub"), &key.public_key_pem(), 0o644, false)?;
    Ok(pem)
}

fn short_id() -> String {
    format!("{:08x}", rand::random::<u32>())
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// DER out of a PEM text, all blocks labelled `label`.
pub(crate) fn pem_blocks(pem: &str, label: &str) -> Vec<Vec<u8>> {
    let (begin, end) = (format!("-----BEGIN {label}-----"), format!("-----END {label}-----"));
    let mut blocks = Vec::new();
    let mut rest = pem;
    while let Some(start) = rest.find(&begin) {
        let body = &rest[start + begin.len()..];
        let Some(stop) = body.find(&end) else { break };
        let text: String = body[..stop].chars().filter(|c| !c.is_ascii_whitespace()).collect();
        if let Ok(der) = STANDARD.decode(text) {
            blocks.push(der);
        }
        rest = &body[stop + end.len()..];
    }
    blocks
}

/// Every certificate of a PEM bundle.
pub fn certificates(pem: &str) -> Vec<CertificateDer<'static>> {
    pem_blocks(pem, "CERTIFICATE").into_iter().map(CertificateDer::from).collect()
}

/// The first private key of a PEM text, PKCS#8, SEC1 or PKCS#1.
pub fn private_key(pem: &str) -> Option<PrivateKeyDer<'static>> {
    let first = |label: &str| pem_blocks(pem, label).into_iter().next();
    if let Some(der) = first("PRIVATE KEY") {
        return Some(PrivateKeyDer::Pkcs8(der.into()));
    }
    if let Some(der) = first("EC PRIVATE KEY") {
        return Some(PrivateKeyDer::Sec1(der.into()));
    }
    first("RSA PRIVATE KEY").map(|der| PrivateKeyDer::Pkcs1(der.into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    pub fn options(dir: &Path) -> PkiOptions {
        PkiOptions {
            dir: dir.to_owned(),
            node_name: "node-a".into(),
            sans: vec!["skeg.example".into(), "192.0.2.9".into()],
            addresses: vec!["192.0.2.1".parse().unwrap()],
            service_addresses: vec!["10.43.0.1".parse().unwrap()],
            cluster_domain: "cluster.local".into(),
        }
    }

    fn scratch(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("skeg-pki-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        dir
    }

    #[test]
    fn a_second_start_keeps_every_key_and_certificate() {
        let dir = scratch("keep");
        let first = Pki::load_or_create(&options(&dir)).unwrap();
        let second = Pki::load_or_create(&options(&dir)).unwrap();
        assert_eq!(first.ca.certificate_pem, second.ca.certificate_pem);
        assert_eq!(first.serving.certificate_pem, second.serving.certificate_pem);
        assert_eq!(first.admin.key_pem, second.admin.key_pem);
        assert_eq!(first.apiserver_kubelet_client, second.apiserver_kubelet_client);
        assert_eq!(first.service_account_key, second.service_account_key);
        assert_eq!(first.ca_hash().len(), 64);
        for entry in std::fs::read_dir(&dir).unwrap() {
            let entry = entry.unwrap();
            if entry.file_name().to_string_lossy().ends_with(".key") {
                assert_eq!(entry.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{entry:?}");
            }
        }
        std::fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn leaves_are_renewed_when_three_quarters_of_their_life_are_over() {
        let dir = scratch("old");
        let first = Pki::load_or_create(&options(&dir)).unwrap();
        let at = |days: i64| {
            Pki::load_or_create_at(&options(&dir), OffsetDateTime::now_utc() + time::Duration::days(days)).unwrap()
        };
        let early = at(270);
        assert_eq!((&first.serving, &first.front_proxy_client), (&early.serving, &early.front_proxy_client));
        let late = at(275);
        for (old, new) in [
            (&first.serving, &late.serving),
            (&first.admin, &late.admin),
            (&first.kubelet_serving, &late.kubelet_serving),
            (&first.apiserver_kubelet_client, &late.apiserver_kubelet_client),
            (&first.front_proxy_client, &late.front_proxy_client),
        ] {
            assert_ne!(old, new);
        }
        assert_eq!(
            (&first.ca.certificate_pem, &first.service_account_key),
            (&late.ca.certificate_pem, &late.service_account_key)
        );
        // The new ones live as long again.
        assert_eq!(late.serving, at(275 + 270).serving);
        std::fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn a_new_address_renews_the_serving_certificate_and_nothing_else() {
        let dir = scratch("renew");
        let first = Pki::load_or_create(&options(&dir)).unwrap();
        let mut moved = options(&dir);
        moved.addresses = vec!["192.0.2.77".parse().unwrap()];
        let second = Pki::load_or_create(&moved).unwrap();
        assert_ne!(first.serving.certificate_pem, second.serving.certificate_pem);
        assert_eq!(first.admin.certificate_pem, second.admin.certificate_pem);
        assert_eq!(first.ca.certificate_pem, second.ca.certificate_pem);
        std::fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn a_damaged_leaf_is_made_again_and_a_damaged_authority_is_an_error() {
        let dir = scratch("damage");
        let first = Pki::load_or_create(&options(&dir)).unwrap();
        std::fs::write(dir.join("admin.crt"), "half a file").unwrap();
        let second = Pki::load_or_create(&options(&dir)).unwrap();
        assert_ne!(first.admin.certificate_pem, second.admin.certificate_pem);
        std::fs::write(dir.join("ca.crt"), "half a file").unwrap();
        assert!(matches!(Pki::load_or_create(&options(&dir)), Err(PkiError::Damaged(..))));
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
