//! The review resources: asked and answered in one request, never stored (authentication.k8s.io and authorization.k8s.io).

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use axum::response::Response;
use http::StatusCode;
use serde_json::{Value, json};
use skeg_machinery::gvk::GroupKind;
use skeg_machinery::status::Status;

use crate::authn::{Authentication, Authenticator, Credentials, with_authenticated_group};
use crate::authz::{Authorizer, Decision, rules};
use crate::request::{RequestInfo, UserInfo};
use crate::special::{SpecialHandler, SpecialRequest, review_check};

/// tokenreviews.
pub struct TokenReview {
    pub authenticator: Arc<dyn Authenticator>,
    /// What tokens are for that say nothing of it.
    pub audiences: Vec<String>,
}

/// selfsubjectreviews.
pub struct SelfSubjectReview;

/// subjectaccessreviews, localsubjectaccessreviews and selfsubjectaccessreviews.
pub struct AccessReview {
    pub authorizer: Arc<dyn Authorizer>,
}

/// selfsubjectrulesreviews.
pub struct RulesReview {
    pub authorizer: Arc<dyn Authorizer>,
}

pub(super) fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field].as_str().unwrap_or("")
}

pub(super) fn strings(value: &Value) -> Vec<String> {
    let list = value.as_array().map(Vec::as_slice).unwrap_or_default();
    list.iter().filter_map(|item| item.as_str().map(str::to_owned)).collect()
}

#[async_trait]
impl SpecialHandler for TokenReview {
    async fn handle(&self, mut request: SpecialRequest) -> Result<Response, Status> {
        let mut review = request.object().await?;
        let token = text(&review["spec"], "token").to_owned();
        if token.is_empty() {
            return Err(Status::bad_request("token is required for TokenReview in authentication"));
        }
        let mut wanted = strings(&review["spec"]["audiences"]);
        if wanted.is_empty() {
            wanted.clone_from(&self.audiences);
        }
        let credentials = Credentials::token(&token, wanted.clone());
        // Of a status that was sent, what the answer does not replace stays.
        if !review["status"]["user"].is_object() {
            review["status"]["user"] = json!({});
        }
        let status = &mut review["status"];
        let answer = match self.authenticator.authenticate(&credentials).await {
            // A token that says nothing of audiences is for this server.
            Authentication::User { user, audiences } if audiences.is_empty() => {
                match wanted.into_iter().filter(|audience| self.audiences.contains(audience)).collect::<Vec<_>>() {
                    none if none.is_empty() => Authentication::Unknown,
                    audiences => Authentication::User { user, audiences },
                }
            }
            answer => answer,
        };
        match answer {
            Authentication::User { user, audiences } => {
                status["user"] = with_authenticated_group(user).to_json();
                status["authenticated"] = json!(true);
                status["audiences"] = json!(audiences);
            }
            refused => {
                if let Some(status) = status.as_object_mut() {
                    status.shift_remove("authenticated");
                }
                status["error"] = match refused {
                    Authentication::Rejected(why) => json!(why),
                    _ => json!("invalid bearer token"),
                };
            }
        }
        request.respond(StatusCode::CREATED, &review)
    }
}

#[async_trait]
impl SpecialHandler for SelfSubjectReview {
    async fn handle(&self, mut request: SpecialRequest) -> Result<Response, Status> {
        request.object().await?;
        let now = chrono::Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Secs, true);
        let review = json!({
            "kind": "SelfSubjectReview",
            "apiVersion": format!("authentication.k8s.io/{}", request.info.api_version),
            "metadata": {"creationTimestamp": now},
            "status": {"userInfo": request.user.to_json()},
        });
        request.respond(StatusCode::CREATED, &review)
    }
}

#[async_trait]
impl SpecialHandler for AccessReview {
    async fn handle(&self, mut request: SpecialRequest) -> Result<Response, Status> {
        let mut review = request.object().await?;
        let errors = review_check::faults(&request.info.resource, &review);
        if !errors.is_empty() {
            // Upstream has forgotten the kind by then, and says none.
            let kind = GroupKind { group: "authorization.k8s.io".into(), kind: "".into() };
            return Err(Status::invalid(&kind, "", &errors));
        }
        let spec = review["spec"].clone();
        let user = match request.info.resource.as_str() {
            "selfsubjectaccessreviews" => request.user.clone(),
            _ => UserInfo {
                name: text(&spec, "user").to_owned(),
                uid: text(&spec, "uid").to_owned(),
                groups: strings(&spec["groups"]),
                extra: extra(&spec["extra"]),
            },
        };
        let decision = self.authorizer.authorize(&user, &asked(&spec)).await;
        review["status"] = match decision {
            Decision::Allow(reason) => with_reason(json!({"allowed": true}), &reason),
            Decision::Deny(reason) => with_reason(json!({"allowed": false, "denied": true}), &reason),
            Decision::NoOpinion(reason) => with_reason(json!({"allowed": false}), &reason),
        };
        let unread = review_check::unread_selectors(&spec["resourceAttributes"]);
        if !unread.is_empty() {
            review["status"]["evaluationError"] = json!(unread.join("; "));
        }
        request.respond(StatusCode::CREATED, &review)
    }
}

fn with_reason(mut status: Value, reason: &str) -> Value {
    if !reason.is_empty() {
        status["reason"] = json!(reason);
    }
    status
}

fn extra(value: &Value) -> BTreeMap<String, Vec<String>> {
    let map = value.as_object().into_iter().flatten();
    map.map(|(key, values)| (key.to_lowercase(), strings(values))).collect()
}

/// The request that the review asks about.
fn asked(spec: &Value) -> RequestInfo {
    let other = &spec["nonResourceAttributes"];
    if other.is_object() {
        return RequestInfo {
            path: text(other, "path").to_owned(),
            verb: text(other, "verb").to_owned(),
            ..RequestInfo::default()
        };
    }
    let attributes = &spec["resourceAttributes"];
    let version = text(attributes, "version");
    RequestInfo {
        is_resource_request: true,
        verb: text(attributes, "verb").to_owned(),
        api_group: text(attributes, "group").to_owned(),
        api_version: if version.is_empty() { "*".to_owned() } else { version.to_owned() },
        namespace: text(attributes, "namespace").to_owned(),
        resource: text(attributes, "resource").to_owned(),
        subresource: text(attributes, "subresource").to_owned(),
        name: text(attributes, "name").to_owned(),
        ..RequestInfo::default()
    }
}

#[async_trait]
impl SpecialHandler for RulesReview {
    async fn handle(&self, mut request: SpecialRequest) -> Result<Response, Status> {
        let asked = request.object().await?;
        let namespace = text(&asked["spec"], "namespace").to_owned();
        if namespace.is_empty() {
            return Err(Status::bad_request("no namespace on request"));
        }
        let (found, problem) = match self.authorizer.rules_for(&request.user, &namespace).await {
            Ok(found) => (found, None),
            Err(problem) => (Vec::new(), Some(problem)),
        };
        let all: Vec<Value> = found.iter().map(rules::to_value).collect();
        let (other, resource): (Vec<Value>, Vec<Value>) =
            all.into_iter().partition(|r| r["nonResourceURLs"].is_array());
        let mut review = json!({
            "kind": "SelfSubjectRulesReview",
            "apiVersion": "authorization.k8s.io/v1",
            "metadata": {},
            "spec": {},
            "status": {"resourceRules": resource, "nonResourceRules": other, "incomplete": problem.is_some()},
        });
        if let Some(problem) = problem {
            review["status"]["evaluationError"] = json!(problem);
        }
        request.respond(StatusCode::CREATED, &review)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_review_asks_about_the_request_it_describes() {
        let spec =
            json!({"resourceAttributes": {"verb": "get", "resource": "pods", "subresource": "log", "namespace": "n"}});
        let info = asked(&spec);
        assert!(info.is_resource_request);
        assert_eq!((&*info.verb, &*info.resource, &*info.subresource, &*info.api_version), ("get", "pods", "log", "*"));
        let info = asked(&json!({"nonResourceAttributes": {"path": "/healthz", "verb": "get"}}));
        assert!(!info.is_resource_request);
        assert_eq!(info.path, "/healthz");
    }
}
