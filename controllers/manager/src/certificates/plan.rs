//! Which certificate requests are recognized, what a signer accepts, and the certificate it issues
//! (upstream: pkg/controller/certificates).

use rcgen::{
    CertificateParams, CertificateSigningRequestParams, DnType, DnValue, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, SanType, SerialNumber,
};
use skeg_controller_runtime::Timestamp;

use crate::config::Signing;

pub const KUBELET_CLIENT: &str = "kubernetes.io/kube-apiserver-client-kubelet";
pub const KUBELET_SERVING: &str = "kubernetes.io/kubelet-serving";
pub const CLIENT: &str = "kubernetes.io/kube-apiserver-client";

/// What a request asks for, besides its usages.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Subject {
    pub common_name: String,
    pub organizations: Vec<String>,
    /// DNS names and addresses.
    pub names: usize,
    /// E-mail addresses and URIs.
    pub other_names: usize,
}

/// The request's subject, if its PEM is a valid, self-signed request.
pub fn subject(pem: &str) -> Result<(CertificateSigningRequestParams, Subject), rcgen::Error> {
    let request = CertificateSigningRequestParams::from_pem(pem)?;
    let mut subject = Subject::default();
    for (kind, value) in request.params.distinguished_name.iter() {
        let text = match value {
            DnValue::Utf8String(text) => text.clone(),
            DnValue::PrintableString(text) => text.as_str().to_owned(),
            DnValue::Ia5String(text) => text.as_str().to_owned(),
            DnValue::TeletexString(text) => text.as_str().to_owned(),
            _ => String::new(),
        };
        match kind {
            DnType::CommonName => subject.common_name = text,
            DnType::OrganizationName => subject.organizations.push(text),
            _ => {}
        }
    }
    for name in &request.params.subject_alt_names {
        match name {
            SanType::DnsName(_) | SanType::IpAddress(_) => subject.names += 1,
            _ => subject.other_names += 1,
        }
    }
    Ok((request, subject))
}

fn usages_are(usages: &[String], required: &[&str], optional: &[&str]) -> bool {
    required.iter().all(|r| usages.iter().any(|u| u == r))
        && usages.iter().all(|u| required.contains(&u.as_str()) || optional.contains(&u.as_str()))
}

/// Why the signer refuses; `None`: it signs.
pub fn refusal(signer: &str, subject: &Subject, usages: &[String]) -> Option<&'static str> {
    let node = subject.common_name.starts_with("system:node:");
    let nodes = subject.organizations == ["system:nodes"];
    let digital = &["digital signature", "key encipherment"];
    match signer {
        KUBELET_CLIENT if !nodes => Some("subject organization is not system:nodes"),
        KUBELET_CLIENT if subject.names + subject.other_names > 0 => Some("subjectAltNames are not allowed"),
        KUBELET_CLIENT if !node => Some("subject common name does not begin with system:node:"),
        KUBELET_CLIENT => (!usages_are(usages, &["digital signature", "client auth"], &["key encipherment"]))
            .then_some("usages did not match"),
        KUBELET_SERVING if !nodes => Some("subject organization is not system:nodes"),
        KUBELET_SERVING if subject.other_names > 0 => Some("email or URI subjectAltNames are not allowed"),
        KUBELET_SERVING if subject.names == 0 => Some("DNS or IP subjectAltName is required"),
        KUBELET_SERVING if !node => Some("subject common name does not begin with system:node:"),
        KUBELET_SERVING => (!usages_are(usages, &["digital signature", "server auth"], &["key encipherment"]))
            .then_some("usages did not match"),
        CLIENT => (!usages_are(usages, &["client auth"], digital)).then_some("usages did not match"),
        _ => Some("unrecognized signer"),
    }
}

/// Whether the node client approver knows this kind of request; `own`: it may come from the node itself.
pub fn is_node_client(signer: &str, subject: &Subject, usages: &[String]) -> bool {
    signer == KUBELET_CLIENT && refusal(signer, subject, usages).is_none()
}

/// The addresses a serving certificate of the node would hold; `None` if it would also name something else.
pub fn own_addresses(request: &CertificateSigningRequestParams, node: &str) -> Option<Vec<std::net::IpAddr>> {
    let mut addresses = Vec::new();
    for name in &request.params.subject_alt_names {
        match name {
            SanType::DnsName(name) if name.as_str() == node => {}
            SanType::IpAddress(address) if !address.is_loopback() => addresses.push(*address),
            _ => return None,
        }
    }
    Some(addresses)
}

/// The signing key, in PKCS#8.
fn key(pem: &str) -> Result<KeyPair, rcgen::Error> {
    KeyPair::from_pem(pem)
}

/// Fails if the authority's certificate and key cannot sign.
pub fn authority(signing: &Signing) -> Result<Issuer<'static, KeyPair>, rcgen::Error> {
    Issuer::from_ca_cert_pem(&signing.ca_cert_pem, key(&signing.ca_key_pem)?)
}

/// The certificate (PEM) for a request, valid from five minutes ago.
pub fn sign(
    now: Timestamp,
    signing: &Signing,
    mut request: CertificateSigningRequestParams,
    usages: &[String],
    asked_seconds: Option<i64>,
) -> Result<String, rcgen::Error> {
    let issuer = authority(signing)?;
    let longest = i64::try_from(signing.duration.as_secs()).unwrap_or(i64::MAX);
    let seconds = asked_seconds.map_or(longest, |s| s.clamp(600, longest));
    let time =
        |seconds: i64| time::OffsetDateTime::from_unix_timestamp(seconds).unwrap_or(time::OffsetDateTime::UNIX_EPOCH);
    let mut params = CertificateParams::default();
    params.not_before = time(now.as_second() - 300);
    params.not_after =
        time(now.as_second().saturating_add(seconds)).min(expiry(&signing.ca_cert_pem).unwrap_or(time(i64::MAX)));
    params.distinguished_name = std::mem::take(&mut request.params.distinguished_name);
    params.subject_alt_names = std::mem::take(&mut request.params.subject_alt_names);
    params.is_ca = IsCa::ExplicitNoCa;
    params.use_authority_key_identifier_extension = true;
    let mut serial: [u8; 16] = rand::random();
    serial[0] &= 0x7f;
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    for usage in usages {
        match usage.as_str() {
            "digital signature" => params.key_usages.push(KeyUsagePurpose::DigitalSignature),
            "key encipherment" => params.key_usages.push(KeyUsagePurpose::KeyEncipherment),
            "client auth" => params.extended_key_usages.push(ExtendedKeyUsagePurpose::ClientAuth),
            "server auth" => params.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth),
            _ => {}
        }
    }
    request.params = params;
    Ok(request.signed_by(&issuer)?.pem())
}

/// Until when the authority itself is valid.
fn expiry(pem: &str) -> Option<time::OffsetDateTime> {
    let (_, pem) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).ok()?;
    let certificate = pem.parse_x509().ok()?;
    Some(certificate.validity().not_after.to_datetime())
}
