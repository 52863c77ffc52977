//! The review resources: asked and answered in one request, never stored (authentication.k8s.io and authorization.k8s.io).

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use axum::response::Response;
use http::StatusCode;
use serde_json::{Value, json};
use skeg_machinery::field::{Error as FieldError, ErrorList, Path};
use skeg_machinery::gvk::GroupKind;
use skeg_machinery::status::Status;

use crate::authn::{Authentication, Authenticator, Credentials, with_authenticated_group};
use crate::authz::{Authorizer, Decision, rules};
use crate::request::{RequestInfo, UserInfo};
use crate::special::{SpecialHandler, SpecialRequest};

/// tokenreviews.
pub struct TokenReview {
    pub authenticator: Arc<dyn Authenticator>,
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

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field].as_str().unwrap_or("")
}

fn strings(value: &Value) -> Vec<String> {
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
        let credentials = Credentials::token(&token, strings(&review["spec"]["audiences"]));
        review["status"] = match self.authenticator.authenticate(&credentials).await {
            Authentication::User { user, audiences } => {
                let user = with_authenticated_group(user).to_json();
                json!({"authenticated": true, "user": user, "audiences": audiences})
            }
            Authentication::Rejected(why) => json!({"user": {}, "error": why}),
            Authentication::Unknown => json!({"user": {}}),
        };
        request.respond(StatusCode::CREATED, &review)
    }
}

#[async_trait]
impl SpecialHandler for SelfSubjectReview {
    async fn handle(&self, mut request: SpecialRequest) -> Result<Response, Status> {
        let mut review = request.object().await?;
        review["status"] = json!({"userInfo": request.user.to_json()});
        review["metadata"]["creationTimestamp"] =
            json!(chrono::Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Secs, true));
        request.respond(StatusCode::CREATED, &review)
    }
}

#[async_trait]
impl SpecialHandler for AccessReview {
    async fn handle(&self, mut request: SpecialRequest) -> Result<Response, Status> {
        let mut review = request.object().await?;
        let spec = review["spec"].clone();
        check(&request, &spec)?;
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

/// Upstream: apis/authorization/validation.
fn check(request: &SpecialRequest, spec: &Value) -> Result<(), Status> {
    let root = Path::new("spec");
    let mut errors = ErrorList::default();
    let (resource, other) = (spec["resourceAttributes"].is_object(), spec["nonResourceAttributes"].is_object());
    if resource && other {
        errors.push(FieldError::invalid(
            &root.child("nonResourceAttributes"),
            spec["nonResourceAttributes"].clone(),
            "cannot be specified in combination with resourceAttributes",
        ));
    }
    if !resource && !other {
        errors.push(FieldError::invalid(
            &root.child("resourceAttributes"),
            Value::Null,
            "exactly one of nonResourceAttributes or resourceAttributes must be specified",
        ));
    }
    let own = request.info.resource == "selfsubjectaccessreviews";
    if !own && text(spec, "user").is_empty() && strings(&spec["groups"]).is_empty() {
        errors.push(FieldError::invalid(&root.child("user"), "", "at least one of user or group must be specified"));
    }
    if request.info.resource == "localsubjectaccessreviews" {
        let namespace = text(&spec["resourceAttributes"], "namespace");
        if namespace != request.info.namespace {
            let path = root.child("resourceAttributes").child("namespace");
            errors.push(FieldError::invalid(&path, namespace, "must match metadata.namespace"));
        }
        if other {
            let path = root.child("nonResourceAttributes");
            let value = spec["nonResourceAttributes"].clone();
            errors.push(FieldError::invalid(&path, value, "disallowed on this kind of request"));
        }
    }
    if errors.is_empty() {
        return Ok(());
    }
    let kind = match request.info.resource.as_str() {
        "selfsubjectaccessreviews" => "SelfSubjectAccessReview",
        "localsubjectaccessreviews" => "LocalSubjectAccessReview",
        _ => "SubjectAccessReview",
    };
    Err(Status::invalid(&GroupKind { group: "authorization.k8s.io".into(), kind: kind.into() }, "", &errors))
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
        let mut review = request.object().await?;
        let namespace = text(&review["spec"], "namespace").to_owned();
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
        review["status"] =
            json!({"resourceRules": resource, "nonResourceRules": other, "incomplete": problem.is_some()});
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
