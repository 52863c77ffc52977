//! Remembers for some seconds what a token was worth, as upstream does (10 s for a good token): a signature and several
//! lookups per request otherwise. Bounded; keyed by the token's hash, so that no token lies about in memory.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use sha2::{Digest, Sha256};

use super::{Authentication, Authenticator, Credentials};

const KEPT_FOR: Duration = Duration::from_secs(10);
const MOST: usize = 1024;

pub struct TokenCache {
    inner: Arc<dyn Authenticator>,
    known: Mutex<HashMap<[u8; 32], (Authentication, Instant)>>,
}

impl TokenCache {
    pub fn new(inner: Arc<dyn Authenticator>) -> Self {
        TokenCache { inner, known: Mutex::default() }
    }

    fn lookup(&self, key: &[u8; 32]) -> Option<Authentication> {
        let known = self.known.lock().expect("no panic while the cache is locked");
        known.get(key).filter(|(_, since)| since.elapsed() < KEPT_FOR).map(|(answer, _)| answer.clone())
    }

    fn keep(&self, key: [u8; 32], answer: Authentication) {
        let mut known = self.known.lock().expect("no panic while the cache is locked");
        if known.len() >= MOST {
            known.retain(|_, (_, since)| since.elapsed() < KEPT_FOR);
            if known.len() >= MOST {
                known.clear();
            }
        }
        known.insert(key, (answer, Instant::now()));
    }
}

#[async_trait]
impl Authenticator for TokenCache {
    async fn authenticate(&self, credentials: &Credentials) -> Authentication {
        let Some(token) = &credentials.bearer_token else { return Authentication::Unknown };
        if !credentials.audiences.is_empty() {
            return self.inner.authenticate(credentials).await;
        }
        let key: [u8; 32] = Sha256::digest(token.as_bytes()).into();
        if let Some(answer) = self.lookup(&key) {
            return answer;
        }
        let answer = self.inner.authenticate(credentials).await;
        // A refusal is not kept: what a token is bound to may be on its way into the caches.
        if matches!(answer, Authentication::User { .. }) {
            self.keep(key, answer.clone());
        }
        answer
    }
}
