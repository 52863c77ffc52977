//! Service-account tokens bound to pods: asked for once, kept in memory, asked for again at 80% of their life or after a
//! day (upstream's pkg/kubelet/token).

use crate::pod;
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Pod, ServiceAccount};
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::api::{Api, PostParams};
use std::collections::HashMap;
use tokio::sync::Mutex;

type Key = (String, String, i64);

struct Token {
    text: String,
    refresh: Timestamp,
    expires: Timestamp,
}

/// The tokens of this node's pods.
pub struct Tokens {
    client: kube::Client,
    known: Mutex<HashMap<Key, Token>>,
}

impl Tokens {
    /// None yet.
    pub fn new(client: kube::Client) -> Self {
        Self { client, known: Mutex::default() }
    }

    /// The pod's token for an audience (empty for the API server's).
    pub async fn get(&self, pod: &Pod, audience: &str, seconds: i64) -> Result<String, String> {
        let key = (pod::uid(pod).to_string(), audience.to_string(), seconds);
        let now = Timestamp::now();
        if let Some(token) = self.known.lock().await.get(&key).filter(|t| now < t.refresh) {
            return Ok(token.text.clone());
        }
        match self.request(pod, audience, seconds).await {
            Ok(token) => {
                let text = token.text.clone();
                self.known.lock().await.insert(key, token);
                Ok(text)
            }
            // An old token is better than none while it lasts.
            Err(error) => match self.known.lock().await.get(&key).filter(|t| now < t.expires) {
                Some(token) => {
                    tracing::warn!(pod = pod::title(pod), %error, "service account token not refreshed");
                    Ok(token.text.clone())
                }
                None => Err(error),
            },
        }
    }

    async fn request(&self, pod: &Pod, audience: &str, seconds: i64) -> Result<Token, String> {
        let account = pod::spec(pod).service_account_name.as_deref().filter(|n| !n.is_empty()).unwrap_or("default");
        let request = TokenRequest {
            spec: Some(TokenRequestSpec {
                audiences: (!audience.is_empty()).then(|| vec![audience.to_string()]),
                expiration_seconds: Some(seconds),
                bound_object_ref: Some(BoundObjectReference {
                    api_version: Some("v1".into()),
                    kind: Some("Pod".into()),
                    name: pod.metadata.name.clone(),
                    uid: pod.metadata.uid.clone(),
                }),
            }),
            ..Default::default()
        };
        let api: Api<ServiceAccount> = Api::namespaced(self.client.clone(), pod::namespace(pod));
        let issued = Timestamp::now();
        let answer = api
            .create_token_request(account, &PostParams::default(), &request)
            .await
            .map_err(|e| format!("failed to fetch token: {e}"))?;
        let status = answer.status.ok_or("failed to fetch token: the answer is empty")?;
        let (Some(text), Some(expires)) = (status.token, status.expiration_timestamp.map(|t| t.0)) else {
            return Err("failed to fetch token: the answer is empty".into());
        };
        let life = expires.duration_since(issued);
        let refresh = issued + SignedDuration::from_secs((life.as_secs() * 4 / 5).min(86_400));
        Ok(Token { text, refresh, expires })
    }

    /// When the first of the pod's tokens wants to be renewed.
    pub async fn next_refresh(&self, uid: &str) -> Option<Timestamp> {
        self.known.lock().await.iter().filter(|(key, _)| key.0 == uid).map(|(_, token)| token.refresh).min()
    }

    /// Forgets a pod's tokens.
    pub async fn forget(&self, uid: &str) {
        self.known.lock().await.retain(|key, _| key.0 != uid);
    }
}
