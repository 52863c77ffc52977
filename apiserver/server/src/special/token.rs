//! serviceaccounts/token: TokenRequest (KEP-1205; upstream: registry/core/serviceaccount/storage/token.go).

use std::sync::Arc;

use async_trait::async_trait;
use axum::response::Response;
use http::StatusCode;
use serde_json::{Value, json};
use skeg_machinery::field::{Error as FieldError, ErrorList, Path};
use skeg_machinery::gvk::{GroupKind, GroupResource};
use skeg_machinery::status::Status;

use crate::admission::Operation;
use crate::authn::service_account::{Bound, Claims, Ref, TokenIssuer, username};
use crate::resources::Resources;
use crate::special::{SpecialHandler, SpecialRequest};
use crate::streaming::kubelet::core;

const LEAST_SECONDS: i64 = 600;
const MOST_SECONDS: i64 = 1 << 32;
/// A pod that asks for this (what the ServiceAccount plug-in asks for) gets a year, and a warning in the token after it.
const WARN_ONLY_SECONDS: i64 = 3607;
const EXTENDED_SECONDS: i64 = 365 * 24 * 3600;

pub struct Token {
    pub issuer: Arc<TokenIssuer>,
}

fn text<'a>(value: &'a Value, path: &[&str]) -> &'a str {
    path.iter().fold(value, |v, key| &v[*key]).as_str().unwrap_or("")
}

fn reference(object: &Value) -> Ref {
    Ref { name: text(object, &["metadata", "name"]).to_owned(), uid: text(object, &["metadata", "uid"]).to_owned() }
}

fn invalid(errors: ErrorList) -> Status {
    let kind = GroupKind { group: "authentication.k8s.io".into(), kind: "TokenRequest".into() };
    Status::invalid(&kind, "", &errors)
}

#[async_trait]
impl SpecialHandler for Token {
    async fn handle(&self, mut request: SpecialRequest) -> Result<Response, Status> {
        let mut body = request.object().await?;
        let (namespace, name) = (request.info.namespace.clone(), request.info.name.clone());
        let account = request.resources.get(&core("serviceaccounts"), &namespace, &name).await?;
        let (asked, uid) = (text(&body, &["metadata", "uid"]), text(&account, &["metadata", "uid"]));
        if !asked.is_empty() && asked != uid {
            let kind = GroupResource { group: "authentication.k8s.io".into(), resource: "TokenRequest".into() };
            let why =
                format!("the UID in the token request ({asked}) does not match the UID of the service account ({uid})");
            return Err(Status::conflict(&kind, &name, why));
        }
        if body["spec"]["audiences"].as_array().is_none_or(Vec::is_empty) {
            body["spec"]["audiences"] = json!(self.issuer.audiences);
        }
        let seconds = body["spec"]["expirationSeconds"].as_i64().unwrap_or(3600);
        body["spec"]["expirationSeconds"] = json!(seconds);
        check(seconds)?;
        let now = chrono::Utc::now();
        body["metadata"] = json!({
            "name": name, "namespace": namespace, "uid": uid,
            "creationTimestamp": now.to_rfc3339_opts(chrono::SecondsFormat::Secs, true),
        });
        request.admit(Operation::Create, None, Some(&mut body), request.dry_run()).await?;
        let mut bound = Bound { namespace: namespace.clone(), serviceaccount: reference(&account), ..Bound::default() };
        bind(&*request.resources, &name, &body["spec"]["boundObjectRef"], &mut bound).await?;
        let audiences: Vec<String> =
            serde_json::from_value(body["spec"]["audiences"].clone()).map_err(Status::internal_error)?;
        let ours = audiences.iter().all(|a| self.issuer.audiences.contains(a));
        let mut lasts = seconds;
        if bound.pod.is_some() && seconds == WARN_ONLY_SECONDS && ours {
            bound.warnafter = Some(now.timestamp() + seconds);
            lasts = EXTENDED_SECONDS;
        }
        let claims = Claims {
            aud: audiences,
            exp: now.timestamp() + lasts,
            iat: now.timestamp(),
            nbf: now.timestamp(),
            jti: uuid::Uuid::new_v4().to_string(),
            sub: username(&namespace, &name),
            kubernetes: bound,
            ..Claims::default()
        };
        let token =
            self.issuer.sign(claims).map_err(|e| Status::internal_error(format!("failed to generate token: {e}")))?;
        let expires = now + chrono::TimeDelta::seconds(seconds);
        body["status"] = json!({
            "token": token, "expirationTimestamp": expires.to_rfc3339_opts(chrono::SecondsFormat::Secs, true),
        });
        request.respond(StatusCode::CREATED, &body)
    }
}

fn check(seconds: i64) -> Result<(), Status> {
    let path = Path::new("spec").child("expirationSeconds");
    let mut errors = ErrorList::default();
    if seconds < LEAST_SECONDS {
        errors.push(FieldError::invalid(&path, seconds, "may not specify a duration less than 10 minutes"));
    }
    if seconds > MOST_SECONDS {
        errors.push(FieldError::invalid(&path, seconds, "may not specify a duration larger than 2^32 seconds"));
    }
    if errors.is_empty() { Ok(()) } else { Err(invalid(errors)) }
}

/// The object whose end is the token's end; `account` is the service account's name.
async fn bind(resources: &dyn Resources, account: &str, wanted: &Value, bound: &mut Bound) -> Result<(), Status> {
    if !wanted.is_object() {
        return Ok(());
    }
    let (version, kind, name) = (text(wanted, &["apiVersion"]), text(wanted, &["kind"]), text(wanted, &["name"]));
    let namespace = bound.namespace.clone();
    let found = match (version, kind) {
        ("v1", "Pod") => {
            let pod = resources.get(&core("pods"), &namespace, name).await?;
            if text(&pod, &["spec", "serviceAccountName"]) != account {
                let why = format!(
                    "cannot bind token for serviceaccount {account:?} to pod running with different serviceaccount name."
                );
                return Err(Status::bad_request(why));
            }
            let node = text(&pod, &["spec", "nodeName"]);
            if !node.is_empty() {
                let object = resources.get_cached(&core("nodes"), "", node).await?;
                let unknown = || Ref { name: node.to_owned(), uid: String::new() };
                bound.node = Some(object.map_or_else(unknown, |node| reference(&node)));
            }
            bound.pod = Some(reference(&pod));
            pod
        }
        ("v1", "Node") => {
            let node = resources.get(&core("nodes"), "", name).await?;
            bound.node = Some(reference(&node));
            node
        }
        ("v1", "Secret") => {
            let secret = resources.get(&core("secrets"), &namespace, name).await?;
            bound.secret = Some(reference(&secret));
            secret
        }
        _ => return Err(Status::bad_request(format!("cannot bind token to object of type {version}, Kind={kind}"))),
    };
    let (asked, uid) = (text(wanted, &["uid"]), text(&found, &["metadata", "uid"]));
    if !asked.is_empty() && asked != uid {
        let resource = GroupResource { group: String::new().into(), resource: kind.to_owned().into() };
        let why = format!(
            "the UID in the bound object reference ({asked}) does not match the UID in record. \
             The object might have been deleted and then recreated"
        );
        return Err(Status::conflict(&resource, name, why));
    }
    Ok(())
}
