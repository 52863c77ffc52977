//! Who is asking: client certificates, bearer tokens, request headers. Does not decide what they may do.

use async_trait::async_trait;

use crate::request::UserInfo;

/// What a connection and a request offer as credentials.
#[derive(Clone, Debug, Default)]
pub struct Credentials {
    /// DER, leaf first, verified by nobody yet (TLS only asked for it).
    pub peer_certificates: Vec<Vec<u8>>,
    pub bearer_token: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Authentication {
    User { user: UserInfo, audiences: Vec<String> },
    /// No credential of a kind that this authenticator knows.
    Unknown,
    /// A credential that is wrong or expired: 401.
    Rejected(String),
}

#[async_trait]
pub trait Authenticator: Send + Sync + 'static {
    async fn authenticate(&self, credentials: &Credentials) -> Authentication;
}
