//! A certificate authority and what it issues. Keys are ECDSA P-256: microseconds to make, accepted by every client.

use std::net::IpAddr;
use std::path::Path;

use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use time::{Duration, OffsetDateTime};
use x509_parser::extensions::GeneralName;

use super::renewal::Validity;
use super::{PkiError, certificates, files, private_key};

/// A clock that is a little behind must not find a fresh certificate to be of the future.
const BACKDATED: Duration = Duration::minutes(5);
const AUTHORITY_LIFETIME: Duration = Duration::days(3650);
const LEAF_LIFETIME: Duration = Duration::days(365);
/// One process renews all of its own leaves: they need not be spread.
const OWN: f64 = 0.25;

/// What a leaf says.
#[derive(Clone, Debug)]
pub struct Profile {
    pub common_name: String,
    pub groups: Vec<String>,
    pub names: Vec<String>,
    pub addresses: Vec<IpAddr>,
    pub server: bool,
    pub lifetime: Duration,
}

impl Profile {
    pub fn client(common_name: &str, groups: &[&str]) -> Self {
        Profile {
            common_name: common_name.into(),
            groups: groups.iter().map(|g| g.to_string()).collect(),
            names: Vec::new(),
            addresses: Vec::new(),
            server: false,
            lifetime: LEAF_LIFETIME,
        }
    }

    pub fn server(common_name: &str, names: &[String], addresses: &[IpAddr]) -> Self {
        Profile {
            names: names.to_vec(),
            addresses: addresses.to_vec(),
            server: true,
            ..Profile::client(common_name, &[])
        }
    }

    fn params(&self, name: &str, now: OffsetDateTime) -> Result<CertificateParams, PkiError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        for group in &self.groups {
            params.distinguished_name.push(DnType::OrganizationName, group.as_str());
        }
        params.distinguished_name.push(DnType::CommonName, self.common_name.as_str());
        for dns in &self.names {
            let dns = Ia5String::try_from(dns.as_str()).map_err(|e| PkiError::Make(name.into(), e))?;
            params.subject_alt_names.push(SanType::DnsName(dns));
        }
        params.subject_alt_names.extend(self.addresses.iter().map(|a| SanType::IpAddress(*a)));
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![if self.server { ExtendedKeyUsagePurpose::ServerAuth } else { ExtendedKeyUsagePurpose::ClientAuth }];
        params.not_before = (now + self.lifetime).min(now) - BACKDATED;
        params.not_after = now + self.lifetime;
        params.use_authority_key_identifier_extension = true;
        Ok(params)
    }
}

/// A certificate with its key.
#[derive(Clone, Debug, PartialEq)]
pub struct Issued {
    /// Leaf, then the authority's certificate where servers must send it.
    pub certificate_pem: String,
    pub key_pem: String,
}

impl Issued {
    pub fn certificate_der(&self) -> CertificateDer<'static> {
        certificates(&self.certificate_pem).into_iter().next().expect("an issued certificate is PEM")
    }

    pub fn chain(&self) -> Vec<CertificateDer<'static>> {
        certificates(&self.certificate_pem)
    }

    pub fn key_der(&self) -> PrivateKeyDer<'static> {
        private_key(&self.key_pem).expect("an issued key is PEM")
    }
}

pub struct Authority {
    pub certificate_pem: String,
    pub key_pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// A new one, in memory only.
    pub fn create(common_name: &str) -> Result<Self, PkiError> {
        let key = new_key(common_name)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, common_name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages =
            vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment, KeyUsagePurpose::KeyCertSign];
        params.not_before = OffsetDateTime::now_utc() - BACKDATED;
        params.not_after = OffsetDateTime::now_utc() + AUTHORITY_LIFETIME;
        let certificate = params.self_signed(&key).map_err(|e| PkiError::Make(common_name.into(), e))?;
        Self::of(certificate.pem(), key.serialize_pem(), common_name)
    }

    /// An existing one.
    pub fn of(certificate_pem: String, key_pem: String, what: &str) -> Result<Self, PkiError> {
        let damaged = |e: rcgen::Error| PkiError::Damaged(what.into(), e.to_string());
        let key = KeyPair::from_pem(&key_pem).map_err(damaged)?;
        let issuer = Issuer::from_ca_cert_pem(&certificate_pem, key).map_err(damaged)?;
        Ok(Authority { certificate_pem, key_pem, issuer })
    }

    /// `NAME.crt` and `NAME.key` of `dir`, made when neither exists. One without the other is an error: making a new pair
    /// would lock out everything that the old one signed.
    pub fn load_or_create(dir: &Path, name: &str, common_name: &str) -> Result<Self, PkiError> {
        let (crt, key) = (dir.join(format!("{name}.crt")), dir.join(format!("{name}.key")));
        match (files::read(&crt)?, files::read(&key)?) {
            (Some(certificate), Some(private)) => Self::of(certificate, private, &crt.display().to_string()),
            (None, None) => {
                let authority = Self::create(common_name)?;
                files::write(&key, &authority.key_pem, 0o600, true)?;
                files::write(&crt, &authority.certificate_pem, 0o644, true)?;
                Ok(authority)
            }
            // The key is written first: a crash in between leaves a key that signed nothing.
            (None, Some(_)) => {
                std::fs::remove_file(&key).map_err(|source| PkiError::File {
                    action: "remove",
                    path: key.display().to_string(),
                    source,
                })?;
                Self::load_or_create(dir, name, common_name)
            }
            (Some(_), None) => Err(PkiError::Damaged(crt.display().to_string(), "its key file is missing".into())),
        }
    }

    pub fn certificate_der(&self) -> CertificateDer<'static> {
        certificates(&self.certificate_pem).into_iter().next().expect("an authority's certificate is PEM")
    }

    /// A fresh key and a certificate for it.
    pub fn issue(&self, profile: &Profile) -> Result<Issued, PkiError> {
        self.issue_at(profile, OffsetDateTime::now_utc())
    }

    /// The same, as if it were `now`.
    pub fn issue_at(&self, profile: &Profile, now: OffsetDateTime) -> Result<Issued, PkiError> {
        let key = new_key(&profile.common_name)?;
        let certificate = profile
            .params(&profile.common_name, now)?
            .signed_by(&key, &self.issuer)
            .map_err(|e| PkiError::Make(profile.common_name.clone(), e))?;
        Ok(Issued { certificate_pem: certificate.pem(), key_pem: key.serialize_pem() })
    }

    /// The leaf `NAME` of `dir`: the one on disk when it still says what `profile` says and is not due `now`.
    pub fn leaf(&self, dir: &Path, name: &str, profile: &Profile, now: OffsetDateTime) -> Result<Issued, PkiError> {
        let (crt, key) = (dir.join(format!("{name}.crt")), dir.join(format!("{name}.key")));
        if let (Some(certificate_pem), Some(key_pem)) = (files::read(&crt)?, files::read(&key)?) {
            let kept = Issued { certificate_pem, key_pem };
            if self.still_good(&kept, profile, now) {
                return Ok(kept);
            }
        }
        let issued = self.issue_at(profile, now)?;
        files::write(&key, &issued.key_pem, 0o600, false)?;
        files::write(&crt, &issued.certificate_pem, 0o644, false)?;
        Ok(issued)
    }

    fn still_good(&self, issued: &Issued, profile: &Profile, now: OffsetDateTime) -> bool {
        let (Some(der), Ok(key)) =
            (certificates(&issued.certificate_pem).into_iter().next(), KeyPair::from_pem(&issued.key_pem))
        else {
            return false;
        };
        let Ok((_, parsed)) = x509_parser::parse_x509_certificate(&der) else { return false };
        let ca = self.certificate_der();
        let Ok((_, issuer)) = x509_parser::parse_x509_certificate(&ca) else { return false };
        let subject = parsed.subject();
        let name = subject.iter_common_name().next().and_then(|n| n.as_str().ok());
        let groups: Vec<&str> = subject.iter_organization().filter_map(|o| o.as_str().ok()).collect();
        name == Some(&profile.common_name)
            && groups == profile.groups
            && same_sans(&parsed, profile)
            && now.unix_timestamp() < Validity::of(&parsed).renewal(OWN)
            && parsed.public_key().subject_public_key.data.as_ref() == key.public_key_raw()
            && parsed.issuer().as_raw() == issuer.subject().as_raw()
            && parsed.verify_signature(Some(issuer.public_key())).is_ok()
    }
}

fn same_sans(certificate: &x509_parser::certificate::X509Certificate<'_>, profile: &Profile) -> bool {
    let (mut names, mut addresses) = (Vec::new(), Vec::new());
    if let Ok(Some(extension)) = certificate.subject_alternative_name() {
        for san in &extension.value.general_names {
            match san {
                GeneralName::DNSName(name) => names.push(name.to_string()),
                GeneralName::IPAddress(bytes) => match bytes.len() {
                    4 => addresses.extend(<[u8; 4]>::try_from(*bytes).map(IpAddr::from)),
                    _ => addresses.extend(<[u8; 16]>::try_from(*bytes).map(IpAddr::from)),
                },
                _ => return false,
            }
        }
    }
    names == profile.names && addresses == profile.addresses
}

pub(super) fn new_key(what: &str) -> Result<KeyPair, PkiError> {
    KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(|e| PkiError::Make(what.into(), e))
}
