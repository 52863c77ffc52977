//! Who is asking: client certificates, bearer tokens, request headers. Does not decide what they may do.
//!
//! ```text
//! request parts ─ Credentials::of ─> RequestAuthenticator ─ first authenticator that knows them ─> UserInfo
//!                                        └ none knows them: system:anonymous
//! UserInfo + Impersonate-* headers ─ impersonation::impersonate (asks the authorizer) ─> UserInfo
//! ```

use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use async_trait::async_trait;
use base64::Engine;
use http::HeaderMap;
use http::header::{AUTHORIZATION, SEC_WEBSOCKET_PROTOCOL};
use http::request::Parts;
use rustls_pki_types::CertificateDer;
use skeg_machinery::status::Status;

use self::request_header::RemoteHeaders;
use crate::request::UserInfo;

pub mod bootstrap_token;
pub mod impersonation;
pub mod request_header;
pub mod service_account;
pub mod static_token;
pub mod token_cache;
pub mod x509;

pub const ALL_AUTHENTICATED: &str = "system:authenticated";
pub const ALL_UNAUTHENTICATED: &str = "system:unauthenticated";
pub const ANONYMOUS: &str = "system:anonymous";

/// The client's end of one TLS connection. [`crate::serving`] puts an `Arc<Peer>` among each request's extensions.
#[derive(Debug, Default)]
pub struct Peer {
    /// Leaf first. The handshake proved that the client holds the leaf's key; nobody has verified the chain yet.
    pub certificates: Vec<CertificateDer<'static>>,
    /// What [`x509`] found, kept for the connection: the user, and how long the chain is good.
    pub(crate) identity: ArcSwapOption<(UserInfo, x509::Standing)>,
    /// That [`request_header`] found the chain to be that of a front proxy, and how long it is good.
    pub(crate) front_proxy: ArcSwapOption<x509::Standing>,
}

impl Peer {
    pub fn new(certificates: Vec<CertificateDer<'static>>) -> Self {
        Peer { certificates, ..Default::default() }
    }
}

/// What a connection and a request offer as credentials.
#[derive(Clone, Debug, Default)]
pub struct Credentials {
    pub peer: Option<Arc<Peer>>,
    pub bearer_token: Option<String>,
    /// The headers in which a front proxy names a user; empty when it names none.
    pub remote: HeaderMap,
    /// Audiences that a token must be meant for; empty: the API server's own.
    pub audiences: Vec<String>,
}

impl Credentials {
    pub fn of(parts: &Parts, remote: &RemoteHeaders) -> Self {
        Credentials {
            peer: parts.extensions.get::<Arc<Peer>>().cloned(),
            bearer_token: bearer_token(&parts.headers),
            remote: remote.of(&parts.headers),
            audiences: Vec::new(),
        }
    }

    /// Only a token, as a TokenReview asks about it.
    pub fn token(token: &str, audiences: Vec<String>) -> Self {
        Credentials { bearer_token: Some(token.to_owned()), audiences, ..Default::default() }
    }
}

/// `Authorization: Bearer T`, or the WebSocket subprotocol that browsers use instead.
fn bearer_token(headers: &HeaderMap) -> Option<String> {
    if let Some(value) = headers.get(AUTHORIZATION).and_then(|v| v.to_str().ok()) {
        let mut words = value.trim().splitn(3, ' ');
        if words.next().is_some_and(|scheme| scheme.eq_ignore_ascii_case("bearer")) {
            return words.next().filter(|token| !token.is_empty()).map(str::to_owned);
        }
        return None;
    }
    let protocol = headers.get(SEC_WEBSOCKET_PROTOCOL)?.to_str().ok()?;
    let encoded = protocol.split(',').find_map(|p| p.trim().strip_prefix("base64url.bearer.authorization.k8s.io."))?;
    let token = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(encoded).ok()?;
    String::from_utf8(token).ok().filter(|token| !token.is_empty())
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Authentication {
    User {
        user: UserInfo,
        audiences: Vec<String>,
    },
    /// No credential of a kind that this authenticator knows.
    Unknown,
    /// A credential that is wrong or expired: 401.
    Rejected(String),
}

#[async_trait]
pub trait Authenticator: Send + Sync + 'static {
    async fn authenticate(&self, credentials: &Credentials) -> Authentication;
}

/// The first authenticator that knows the user wins; a rejection counts only when none does.
pub struct Union(pub Vec<Arc<dyn Authenticator>>);

#[async_trait]
impl Authenticator for Union {
    async fn authenticate(&self, credentials: &Credentials) -> Authentication {
        let mut rejections = Vec::new();
        for authenticator in &self.0 {
            match authenticator.authenticate(credentials).await {
                user @ Authentication::User { .. } => return user,
                Authentication::Rejected(why) => rejections.push(why),
                Authentication::Unknown => {}
            }
        }
        match rejections.len() {
            0 => Authentication::Unknown,
            1 => Authentication::Rejected(rejections.remove(0)),
            _ => Authentication::Rejected(format!("[{}]", rejections.join(", "))),
        }
    }
}

/// Turns a request into a user: what the handler chain calls first.
pub struct RequestAuthenticator {
    pub authenticator: Arc<dyn Authenticator>,
    /// Whether a request without credentials is system:anonymous rather than a 401.
    pub anonymous: bool,
    /// Where a front proxy names users.
    pub remote: RemoteHeaders,
}

impl RequestAuthenticator {
    /// The user behind `parts`, before impersonation; 401 for credentials that are wrong. Removes the credentials from
    /// the headers, so that nothing behind the API server ever sees them.
    pub async fn authenticate(&self, parts: &mut Parts) -> Result<UserInfo, Status> {
        let credentials = Credentials::of(parts, &self.remote);
        let user = match self.authenticator.authenticate(&credentials).await {
            Authentication::User { user, .. } => with_authenticated_group(user),
            Authentication::Rejected(why) => {
                tracing::debug!(why, "unable to authenticate the request");
                return Err(Status::unauthorized("Unauthorized"));
            }
            // A token that nobody knows is a wrong token.
            Authentication::Unknown if credentials.bearer_token.is_some() || !self.anonymous => {
                return Err(Status::unauthorized("Unauthorized"));
            }
            Authentication::Unknown => anonymous_user(),
        };
        parts.headers.remove(AUTHORIZATION);
        self.remote.remove(&mut parts.headers);
        Ok(user)
    }
}

pub fn anonymous_user() -> UserInfo {
    UserInfo {
        name: ANONYMOUS.into(),
        uid: String::new(),
        groups: vec![ALL_UNAUTHENTICATED.into()],
        extra: BTreeMap::new(),
    }
}

/// Every user but the anonymous one is in system:authenticated.
pub fn with_authenticated_group(mut user: UserInfo) -> UserInfo {
    let listed = |group: &str| user.groups.iter().any(|g| g == group);
    if user.name != ANONYMOUS && !listed(ALL_AUTHENTICATED) && !listed(ALL_UNAUTHENTICATED) {
        user.groups.push(ALL_AUTHENTICATED.into());
    }
    user
}

/// Whether two secrets are equal, in a time that does not tell where they differ.
pub(crate) fn equal_secrets(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |different, (x, y)| different | (x ^ y)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fixed(Authentication);

    #[async_trait]
    impl Authenticator for Fixed {
        async fn authenticate(&self, _: &Credentials) -> Authentication {
            self.0.clone()
        }
    }

    fn parts(headers: &[(&str, &str)]) -> Parts {
        let mut request = http::Request::builder();
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    fn named(name: &str) -> Authentication {
        Authentication::User { user: UserInfo { name: name.into(), ..Default::default() }, audiences: vec![] }
    }

    #[tokio::test]
    async fn a_request_without_credentials_is_anonymous_and_a_wrong_token_is_refused() {
        let chain = RequestAuthenticator {
            authenticator: Arc::new(Union(vec![])),
            anonymous: true,
            remote: RemoteHeaders::default(),
        };
        let user = chain.authenticate(&mut parts(&[])).await.unwrap();
        assert_eq!((user.name.as_str(), user.groups), (ANONYMOUS, vec![ALL_UNAUTHENTICATED.to_owned()]));
        let refused = chain.authenticate(&mut parts(&[("authorization", "Bearer nobody")])).await.unwrap_err();
        assert_eq!((refused.code, refused.message.as_str()), (401, "Unauthorized"));
    }

    #[tokio::test]
    async fn a_rejection_counts_only_when_no_authenticator_knows_the_user() {
        let rejected = || Arc::new(Fixed(Authentication::Rejected("expired".into()))) as Arc<dyn Authenticator>;
        let union = Union(vec![rejected(), Arc::new(Fixed(named("alice")))]);
        assert_eq!(union.authenticate(&Credentials::default()).await, named("alice"));
        let union = Union(vec![rejected(), rejected()]);
        let both = Authentication::Rejected("[expired, expired]".into());
        assert_eq!(union.authenticate(&Credentials::default()).await, both);
    }

    #[tokio::test]
    async fn credentials_do_not_travel_further_than_authentication() {
        let chain = RequestAuthenticator {
            authenticator: Arc::new(Fixed(named("alice"))),
            anonymous: false,
            remote: RemoteHeaders::default(),
        };
        let mut parts = parts(&[("authorization", "Bearer abc"), ("x-remote-user", "eve")]);
        let user = chain.authenticate(&mut parts).await.unwrap();
        assert_eq!(user.groups, vec![ALL_AUTHENTICATED.to_owned()]);
        assert!(parts.headers.is_empty());
    }

    #[test]
    fn a_websocket_may_carry_its_token_as_a_subprotocol() {
        let parts =
            parts(&[("sec-websocket-protocol", "v5.channel.k8s.io, base64url.bearer.authorization.k8s.io.YWJj")]);
        assert_eq!(Credentials::of(&parts, &RemoteHeaders::default()).bearer_token.as_deref(), Some("abc"));
    }
}
