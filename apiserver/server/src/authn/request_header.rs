//! A front proxy (an aggregating API server) that says in headers who its caller is. It is believed only over a
//! connection whose certificate chains to the front-proxy CA and has an allowed name.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use http::HeaderMap;
use percent_encoding::percent_decode_str;
use rustls_pki_types::CertificateDer;

use super::x509::{BundleError, ChainVerifier, Standing, user_of};
use super::{Authentication, Authenticator, Credentials, Peer};
use crate::request::UserInfo;

pub const USER: &str = "x-remote-user";
pub const UID: &str = "x-remote-uid";
pub const GROUP: &str = "x-remote-group";
pub const EXTRA_PREFIX: &str = "x-remote-extra-";

/// The headers in which a front proxy names a user, in lower case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteHeaders {
    pub users: Vec<String>,
    pub uids: Vec<String>,
    pub groups: Vec<String>,
    pub extra_prefixes: Vec<String>,
}

impl Default for RemoteHeaders {
    fn default() -> Self {
        let one = |name: &str| vec![name.to_owned()];
        RemoteHeaders { users: one(USER), uids: one(UID), groups: one(GROUP), extra_prefixes: one(EXTRA_PREFIX) }
    }
}

impl RemoteHeaders {
    fn holds(&self, name: &str) -> bool {
        let listed = [&self.users, &self.uids, &self.groups].into_iter().flatten().any(|known| known == name);
        listed || self.extra_prefixes.iter().any(|prefix| name.starts_with(prefix.as_str()))
    }

    /// What a request says about a remote user; nothing when it names none.
    pub fn of(&self, headers: &HeaderMap) -> HeaderMap {
        let mut remote = HeaderMap::new();
        if self.users.iter().any(|name| headers.contains_key(name.as_str())) {
            let held = headers.iter().filter(|(name, _)| self.holds(name.as_str()));
            held.for_each(|(name, value)| {
                remote.append(name.clone(), value.clone());
            });
        }
        remote
    }

    /// Takes the headers off a request, whoever sent them; the usual ones as well, which servers behind this one believe.
    pub fn remove(&self, headers: &mut HeaderMap) {
        let goes = |name: &&http::HeaderName| name.as_str().starts_with("x-remote-") || self.holds(name.as_str());
        let names: Vec<_> = headers.keys().filter(goes).cloned().collect();
        for name in names {
            headers.remove(name);
        }
    }

    fn user(&self, headers: &HeaderMap) -> Option<UserInfo> {
        let text = |names: &[String]| {
            let values = names.iter().filter_map(|name| headers.get(name.as_str())?.to_str().ok());
            values.map(str::trim).find(|value| !value.is_empty()).unwrap_or_default().to_owned()
        };
        let name = text(&self.users);
        if name.is_empty() {
            return None;
        }
        let groups = self.groups.iter().flat_map(|name| headers.get_all(name.as_str()));
        let groups = groups.filter_map(|value| value.to_str().ok().map(str::to_owned)).collect();
        let mut extra: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (header, value) in headers {
            let key = self.extra_prefixes.iter().find_map(|prefix| header.as_str().strip_prefix(prefix.as_str()));
            if let (Some(key), Ok(value)) = (key, value.to_str()) {
                let key = percent_decode_str(key).decode_utf8_lossy().into_owned();
                extra.entry(key).or_default().push(value.to_owned());
            }
        }
        Some(UserInfo { name, uid: text(&self.uids), groups, extra })
    }
}

pub struct RequestHeader {
    headers: RemoteHeaders,
    verifier: ChainVerifier,
    /// Common names that may act as a front proxy; empty allows all of the CA.
    allowed_names: Vec<String>,
}

impl RequestHeader {
    pub fn new(
        front_proxy_ca: &[CertificateDer<'static>],
        allowed_names: Vec<String>,
        headers: RemoteHeaders,
    ) -> Result<Self, BundleError> {
        Ok(RequestHeader { verifier: ChainVerifier::new(front_proxy_ca)?, allowed_names, headers })
    }

    /// From now on only these authorities vouch for front proxies.
    pub fn replace(&self, front_proxy_ca: &[CertificateDer<'static>]) -> Result<(), BundleError> {
        self.verifier.replace(front_proxy_ca)
    }

    fn check(&self, chain: &[CertificateDer<'static>]) -> Option<Standing> {
        let standing = self.verifier.verify(chain).ok()?;
        let name = user_of(chain.first()?)?.name;
        (self.allowed_names.is_empty() || self.allowed_names.contains(&name)).then_some(standing)
    }

    fn is_proxy(&self, peer: &Peer) -> bool {
        if peer.front_proxy.load().as_deref().is_some_and(|standing| self.verifier.stands(standing)) {
            return true;
        }
        let found = self.check(&peer.certificates);
        peer.front_proxy.store(found.map(Arc::new));
        found.is_some()
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
        if !self.is_proxy(peer) {
            return Authentication::Unknown;
        }
        match self.headers.user(&credentials.remote) {
            Some(user) => Authentication::User { user, audiences: Vec::new() },
            None => Authentication::Unknown,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Peer;
    use super::*;
    use crate::pki::{Authority, Profile};

    #[tokio::test]
    async fn only_an_allowed_front_proxy_may_name_another_user() {
        let ca = Authority::create("front-proxy-ca").unwrap();
        let names = vec!["front-proxy-client".into()];
        let proxy = RequestHeader::new(&[ca.certificate_der()], names, RemoteHeaders::default()).unwrap();
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

    #[test]
    fn headers_may_have_other_names() {
        let headers = RemoteHeaders {
            users: vec!["x-user".into(), "x-other".into()],
            uids: vec![],
            groups: vec!["x-group".into()],
            extra_prefixes: vec!["x-more-".into()],
        };
        let mut sent = HeaderMap::new();
        for (name, value) in [("x-other", "alice"), ("x-group", "dev"), ("x-more-a", "b"), ("x-remote-user", "eve")] {
            sent.append(name, value.parse().unwrap());
        }
        let user = headers.user(&headers.of(&sent)).unwrap();
        assert_eq!((user.name.as_str(), user.groups, user.extra["a"].len()), ("alice", vec!["dev".to_owned()], 1));
        headers.remove(&mut sent);
        assert!(sent.is_empty(), "{sent:?}");
    }
}
