//! A front proxy (an aggregating API server) that says in headers who its caller is. It is believed only over a
//! connection whose certificate chains to the front-proxy CA and has an allowed name.

use std::collections::BTreeMap;

use async_trait::async_trait;
use http::HeaderMap;
use percent_encoding::percent_decode_str;
use rustls_pki_types::CertificateDer;

use super::x509::{BundleError, ChainVerifier, user_of};
use super::{Authentication, Authenticator, Credentials};
use crate::request::UserInfo;

pub const USER: &str = "x-remote-user";
pub const UID: &str = "x-remote-uid";
pub const GROUP: &str = "x-remote-group";
pub const EXTRA_PREFIX: &str = "x-remote-extra-";

pub struct RequestHeader {
    verifier: ChainVerifier,
    /// Common names that may act as a front proxy; empty allows all of the CA.
    allowed_names: Vec<String>,
}

impl RequestHeader {
    pub fn new(front_proxy_ca: &[CertificateDer<'static>], allowed_names: Vec<String>) -> Result<Self, BundleError> {
        Ok(RequestHeader { verifier: ChainVerifier::new(front_proxy_ca)?, allowed_names })
    }

    fn check(&self, chain: &[CertificateDer<'static>]) -> Option<i64> {
        let until = self.verifier.verify(chain).ok()?;
        let name = user_of(chain.first()?)?.name;
        (self.allowed_names.is_empty() || self.allowed_names.contains(&name)).then_some(until)
    }
}

#[async_trait]
impl Authenticator for RequestHeader {
    async fn authenticate(&self, credentials: &Credentials) -> Authentication {
        let (Some(peer), false) = (&credentials.peer, credentials.remote.is_empty()) else {
            return Authentication::Unknown;
        };
        if peer.certificates.is_empty() {
            return Authentication::Unknown;
        }
        match peer.front_proxy.get_or_init(|| self.check(&peer.certificates)) {
            Some(until) if chrono::Utc::now().timestamp() <= *until => {}
            _ => return Authentication::Unknown,
        }
        match user(&credentials.remote) {
            Some(user) => Authentication::User { user, audiences: Vec::new() },
            None => Authentication::Unknown,
        }
    }
}

fn user(headers: &HeaderMap) -> Option<UserInfo> {
    let text = |name: &str| headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned();
    let name = text(USER);
    if name.is_empty() {
        return None;
    }
    let groups = headers.get_all(GROUP).iter().filter_map(|v| v.to_str().ok().map(str::to_owned)).collect();
    let mut extra: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (header, value) in headers {
        if let (Some(key), Ok(value)) = (header.as_str().strip_prefix(EXTRA_PREFIX), value.to_str()) {
            let key = percent_decode_str(key).decode_utf8_lossy().into_owned();
            extra.entry(key).or_default().push(value.to_owned());
        }
    }
    Some(UserInfo { name, uid: text(UID), groups, extra })
}

/// Takes the headers off a request, whoever sent them.
pub fn remove_headers(headers: &mut HeaderMap) {
    let names: Vec<_> = headers.keys().filter(|name| name.as_str().starts_with("x-remote-")).cloned().collect();
    for name in names {
        headers.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::Peer;
    use super::*;
    use crate::pki::{Authority, Profile};

    #[tokio::test]
    async fn only_an_allowed_front_proxy_may_name_another_user() {
        let ca = Authority::create("front-proxy-ca").unwrap();
        let proxy = RequestHeader::new(&[ca.certificate_der()], vec!["front-proxy-client".into()]).unwrap();
        let ask = |name: &str| {
            let issued = ca.issue(&Profile::client(name, &[])).unwrap();
            let mut remote = HeaderMap::new();
            remote.insert(USER, "alice".parse().unwrap());
            remote.append(GROUP, "dev".parse().unwrap());
            remote.append(GROUP, "ops".parse().unwrap());
            remote.insert("x-remote-extra-example.com%2fscopes", "view".parse().unwrap());
            let peer = Some(Arc::new(Peer::new(vec![issued.certificate_der()])));
            Credentials { peer, remote, ..Default::default() }
        };
        let Authentication::User { user, .. } = proxy.authenticate(&ask("front-proxy-client")).await else {
            panic!("refused")
        };
        assert_eq!((user.name.as_str(), user.groups.len()), ("alice", 2));
        assert_eq!(user.extra["example.com/scopes"], vec!["view".to_owned()]);
        assert_eq!(proxy.authenticate(&ask("someone")).await, Authentication::Unknown);
    }
}
