//! Another server decides: each question is a SubjectAccessReview that is posted to it (upstream
//! apiserver/plugin/pkg/authorizer/webhook). Answers are kept for a while; without an answer there is no opinion.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE};
use http::{Method, Request};
use http_body_util::{BodyExt, Full, Limited};
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};

use super::{Authorizer, Decision, Rule};
use crate::pki::Issued;
use crate::request::{RequestInfo, UserInfo};
use crate::serving::tls::OwnCertificate;
use crate::webhook::{dial, tls};

/// Upstream's timeout of one question.
const TIMEOUT: Duration = Duration::from_secs(30);
const MOST_ANSWER: usize = 1 << 20;
/// Answers that are kept; more start over.
const MOST_KEPT: usize = 8192;

/// Where the server is, and what it knows this one by.
#[derive(Clone, Debug, Default)]
pub struct WebhookOptions {
    pub url: String,
    /// PEM; empty trusts what the system trusts.
    pub ca_bundle: Vec<u8>,
    pub insecure: bool,
    pub client: Option<Issued>,
    pub token: Option<String>,
    /// Of SubjectAccessReview: `v1` or `v1beta1`.
    pub version: String,
    /// How long answers are kept.
    pub allowed_for: Duration,
    pub denied_for: Duration,
}

#[derive(Debug, thiserror::Error)]
#[error("authorization webhook {url}")]
pub struct WebhookError {
    url: String,
    #[source]
    source: rustls::Error,
}

pub struct Webhook {
    options: WebhookOptions,
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    known: Mutex<HashMap<String, (Instant, Decision)>>,
}

impl Webhook {
    pub fn new(options: WebhookOptions) -> Result<Webhook, WebhookError> {
        let failed = |source| WebhookError { url: options.url.clone(), source };
        let own = OwnCertificate::new(options.client.as_ref()).map_err(failed)?;
        let config = tls::client(&options.ca_bundle, options.insecure, &own).map_err(failed)?;
        let connector =
            hyper_rustls::HttpsConnectorBuilder::new().with_tls_config(config).https_or_http().enable_http1().build();
        let client = Client::builder(TokioExecutor::new()).build(connector);
        Ok(Webhook { options, client, known: Mutex::default() })
    }

    async fn ask(&self, spec: &Value) -> Result<Decision, String> {
        let version = format!("authorization.k8s.io/{}", self.options.version);
        let review = json!({"kind": "SubjectAccessReview", "apiVersion": version, "spec": spec});
        let mut request = Request::builder().method(Method::POST).uri(&self.options.url);
        request = request.header(CONTENT_TYPE, "application/json").header(ACCEPT, "application/json, */*");
        if let Some(token) = &self.options.token {
            request = request.header(AUTHORIZATION, format!("Bearer {token}"));
        }
        let body = Full::new(Bytes::from(review.to_string()));
        let request = request.body(body).map_err(|error| error.to_string())?;
        let exchange = async {
            let answer = self.client.request(request).await.map_err(|error| dial::reason(&error))?;
            let code = answer.status();
            let body = Limited::new(answer.into_body(), MOST_ANSWER).collect().await;
            Ok::<_, String>((code, body.map_err(|error| error.to_string())?.to_bytes()))
        };
        let answer = tokio::time::timeout(TIMEOUT, exchange).await;
        let (code, body) = answer.map_err(|_| "context deadline exceeded".to_owned())??;
        if !code.is_success() {
            return Err(format!("the webhook answered {code}"));
        }
        let review: Value = serde_json::from_slice(&body).map_err(|error| error.to_string())?;
        decision(&review["status"])
    }

    fn kept(&self, question: &str) -> Option<Decision> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(question).filter(|(until, _)| Instant::now() < *until).map(|(_, decision)| decision.clone())
    }

    fn keep(&self, question: String, decision: &Decision) {
        let allowed = matches!(decision, Decision::Allow(_));
        let until = Instant::now() + if allowed { self.options.allowed_for } else { self.options.denied_for };
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MOST_KEPT {
            known.clear();
        }
        known.insert(question, (until, decision.clone()));
    }
}

fn decision(status: &Value) -> Result<Decision, String> {
    let reason = status["reason"].as_str().unwrap_or_default().to_owned();
    match (status["allowed"] == true, status["denied"] == true) {
        (true, true) => Err("webhook subject access review returned both allow and deny response".to_owned()),
        (true, false) => Ok(Decision::Allow(reason)),
        (false, true) => Ok(Decision::Deny(reason)),
        (false, false) => Ok(Decision::NoOpinion(reason)),
    }
}

/// The question in the words of a version of SubjectAccessReview.
fn spec(user: &UserInfo, request: &RequestInfo, version: &str) -> Value {
    let mut spec = serde_json::Map::new();
    let filled = |fields: &[(&str, &str)]| -> Value {
        let fields = fields.iter().filter(|(_, value)| !value.is_empty());
        fields.map(|(name, value)| ((*name).to_owned(), json!(value))).collect::<serde_json::Map<_, _>>().into()
    };
    if request.is_resource_request {
        let attributes = filled(&[
            ("namespace", &request.namespace),
            ("verb", &request.verb),
            ("group", &request.api_group),
            ("version", &request.api_version),
            ("resource", &request.resource),
            ("subresource", &request.subresource),
            ("name", &request.name),
        ]);
        spec.insert("resourceAttributes".into(), attributes);
    } else {
        spec.insert("nonResourceAttributes".into(), filled(&[("path", &request.path), ("verb", &request.verb)]));
    }
    spec.insert("user".into(), json!(user.name));
    if !user.groups.is_empty() {
        spec.insert(if version == "v1beta1" { "group" } else { "groups" }.into(), json!(user.groups));
    }
    if !user.extra.is_empty() {
        spec.insert("extra".into(), json!(user.extra));
    }
    if !user.uid.is_empty() {
        spec.insert("uid".into(), json!(user.uid));
    }
    spec.into()
}

#[async_trait]
impl Authorizer for Webhook {
    async fn authorize(&self, user: &UserInfo, request: &RequestInfo) -> Decision {
        let spec = spec(user, request, &self.options.version);
        let question = spec.to_string();
        if let Some(decision) = self.kept(&question) {
            return decision;
        }
        match self.ask(&spec).await {
            Ok(decision) => {
                self.keep(question, &decision);
                decision
            }
            Err(why) => {
                tracing::warn!(url = self.options.url, why, "the authorization webhook gave no answer");
                Decision::NoOpinion(String::new())
            }
        }
    }

    async fn rules_for(&self, _: &UserInfo, _: &str) -> Result<Vec<Rule>, String> {
        Err("webhook authorizer does not support user rule resolution".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read_as_decisions() {
        let read = |status: Value| decision(&status);
        assert_eq!(read(json!({"allowed": true, "reason": "ok"})), Ok(Decision::Allow("ok".into())));
        assert_eq!(read(json!({"allowed": false})), Ok(Decision::NoOpinion(String::new())));
        assert_eq!(read(json!({"denied": true})), Ok(Decision::Deny(String::new())));
        assert!(read(json!({"allowed": true, "denied": true})).is_err());
    }

    #[test]
    fn questions_have_the_fields_of_their_version() {
        let user = UserInfo { name: "alice".into(), groups: vec!["dev".into()], ..Default::default() };
        let request = RequestInfo {
            is_resource_request: true,
            verb: "get".into(),
            api_version: "v1".into(),
            resource: "pods".into(),
            namespace: "default".into(),
            ..Default::default()
        };
        let attributes = json!({"namespace": "default", "verb": "get", "version": "v1", "resource": "pods"});
        assert_eq!(
            spec(&user, &request, "v1"),
            json!({"resourceAttributes": attributes, "user": "alice", "groups": ["dev"]})
        );
        assert_eq!(spec(&user, &request, "v1beta1")["group"], json!(["dev"]));
        let path = RequestInfo { path: "/metrics".into(), verb: "get".into(), ..Default::default() };
        assert_eq!(spec(&user, &path, "v1")["nonResourceAttributes"], json!({"path": "/metrics", "verb": "get"}));
    }

    #[tokio::test]
    async fn a_webhook_that_does_not_answer_has_no_opinion() {
        let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let options = WebhookOptions { url: format!("http://{closed}/"), version: "v1".into(), ..Default::default() };
        let webhook = Webhook::new(options).unwrap();
        let decision = webhook.authorize(&UserInfo::default(), &RequestInfo::default()).await;
        assert_eq!(decision, Decision::NoOpinion(String::new()));
    }
}
