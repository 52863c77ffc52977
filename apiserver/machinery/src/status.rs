//! `Status`: the one API error, and the success answer of deletes. Messages, reasons, codes and details follow
//! apimachinery/pkg/api/errors; what a failure means is decided by whoever makes one.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::field::ErrorList;
use crate::gvk::{GroupKind, GroupResource};
use crate::text::quote;

/// metav1.Status as JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    #[serde(default)]
    pub kind: String,
    #[serde(default)]
    pub api_version: String,
    #[serde(default)]
    pub metadata: StatusMeta,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub status: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub details: Option<StatusDetails>,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub code: u16,
}

/// metav1.ListMeta, empty on nearly every Status.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StatusMeta {
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub resource_version: String,
    #[serde(default, rename = "continue", skip_serializing_if = "String::is_empty")]
    pub continue_token: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StatusDetails {
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub group: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub kind: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub uid: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub causes: Vec<StatusCause>,
    #[serde(default, skip_serializing_if = "is_zero_i32")]
    pub retry_after_seconds: i32,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusCause {
    #[serde(default, rename = "reason", skip_serializing_if = "String::is_empty")]
    pub cause_type: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub field: String,
}

fn is_zero(code: &u16) -> bool {
    *code == 0
}

fn is_zero_i32(seconds: &i32) -> bool {
    *seconds == 0
}

/// metav1.StatusReason values.
pub mod reason {
    pub const UNAUTHORIZED: &str = "Unauthorized";
    pub const FORBIDDEN: &str = "Forbidden";
    pub const NOT_FOUND: &str = "NotFound";
    pub const ALREADY_EXISTS: &str = "AlreadyExists";
    pub const CONFLICT: &str = "Conflict";
    pub const GONE: &str = "Gone";
    pub const INVALID: &str = "Invalid";
    pub const SERVER_TIMEOUT: &str = "ServerTimeout";
    pub const TIMEOUT: &str = "Timeout";
    pub const TOO_MANY_REQUESTS: &str = "TooManyRequests";
    pub const BAD_REQUEST: &str = "BadRequest";
    pub const METHOD_NOT_ALLOWED: &str = "MethodNotAllowed";
    pub const NOT_ACCEPTABLE: &str = "NotAcceptable";
    pub const REQUEST_ENTITY_TOO_LARGE: &str = "RequestEntityTooLarge";
    pub const UNSUPPORTED_MEDIA_TYPE: &str = "UnsupportedMediaType";
    pub const INTERNAL_ERROR: &str = "InternalError";
    pub const EXPIRED: &str = "Expired";
    pub const SERVICE_UNAVAILABLE: &str = "ServiceUnavailable";
}

/// metav1.CauseType values that are not field errors.
pub mod cause {
    pub const RESOURCE_VERSION_TOO_LARGE: &str = "ResourceVersionTooLarge";
    pub const FIELD_MANAGER_CONFLICT: &str = "FieldManagerConflict";
    pub const UNEXPECTED_SERVER_RESPONSE: &str = "UnexpectedServerResponse";
    pub const NAMESPACE_TERMINATING: &str = "NamespaceTerminating";
    pub const DISRUPTION_BUDGET: &str = "DisruptionBudget";
}

impl Status {
    /// A failure with nothing but code, reason and message.
    pub fn failure(code: u16, reason: &str, message: impl Into<String>) -> Self {
        Self {
            kind: "Status".into(),
            api_version: "v1".into(),
            metadata: StatusMeta::default(),
            status: "Failure".into(),
            message: message.into(),
            reason: reason.into(),
            details: None,
            code,
        }
    }

    /// The answer to a delete that leaves nothing to show: `status: Success` and which object it was.
    pub fn success(resource: &GroupResource, name: &str, uid: &str) -> Self {
        let mut status = Self::failure(0, "", "");
        status.status = "Success".into();
        status.details = Some(StatusDetails {
            name: name.into(),
            group: resource.group.to_string(),
            kind: resource.resource.to_string(),
            uid: uid.into(),
            ..StatusDetails::default()
        });
        status
    }

    fn about(mut self, group: &str, kind: &str, name: &str) -> Self {
        let details = self.details.get_or_insert_default();
        details.group = group.into();
        details.kind = kind.into();
        details.name = name.into();
        self
    }

    pub fn not_found(resource: &GroupResource, name: &str) -> Self {
        Self::failure(404, reason::NOT_FOUND, format!("{resource} {} not found", quote(name))).about(
            &resource.group,
            &resource.resource,
            name,
        )
    }

    pub fn already_exists(resource: &GroupResource, name: &str) -> Self {
        Self::failure(409, reason::ALREADY_EXISTS, format!("{resource} {} already exists", quote(name))).about(
            &resource.group,
            &resource.resource,
            name,
        )
    }

    /// Every attempt to find a free name from `generateName` failed.
    pub fn generate_name_conflict(resource: &GroupResource, name: &str, retry_after_seconds: i32) -> Self {
        let message = format!(
            "{resource} {} already exists, the server was not able to generate a unique name for the object",
            quote(name)
        );
        Self::failure(409, reason::ALREADY_EXISTS, message)
            .about(&resource.group, &resource.resource, name)
            .with_retry_after(retry_after_seconds)
    }

    /// An optimistic-locking or precondition conflict; `why` is what follows the colon.
    pub fn conflict(resource: &GroupResource, name: &str, why: impl fmt::Display) -> Self {
        let message = format!("Operation cannot be fulfilled on {resource} {}: {why}", quote(name));
        Self::failure(409, reason::CONFLICT, message).about(&resource.group, &resource.resource, name)
    }

    /// Server-side apply met fields of other managers.
    pub fn apply_conflict(causes: Vec<StatusCause>, message: impl Into<String>) -> Self {
        let mut status = Self::failure(409, reason::CONFLICT, message);
        status.details = Some(StatusDetails { causes, ..StatusDetails::default() });
        status
    }

    pub fn invalid(kind: &GroupKind, name: &str, errors: &ErrorList) -> Self {
        let subject = format!("{kind} {} is invalid", quote(name));
        let message = match errors.aggregate() {
            Some(all) => format!("{subject}: {all}"),
            None => subject,
        };
        let mut status = Self::failure(422, reason::INVALID, message).about(&kind.group, &kind.kind, name);
        status.details.get_or_insert_default().causes = errors.iter().map(crate::field::Error::to_cause).collect();
        status
    }

    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::failure(400, reason::BAD_REQUEST, message)
    }

    /// `message` is why, e.g. `User "x" cannot get resource "pods" …`.
    pub fn forbidden(resource: &GroupResource, name: &str, message: impl fmt::Display) -> Self {
        let text = if resource.is_empty() {
            format!("forbidden: {message}")
        } else if name.is_empty() {
            format!("{resource} is forbidden: {message}")
        } else {
            format!("{resource} {} is forbidden: {message}", quote(name))
        };
        Self::failure(403, reason::FORBIDDEN, text).about(&resource.group, &resource.resource, name)
    }

    /// "" reads as upstream's default text.
    pub fn unauthorized(message: &str) -> Self {
        Self::failure(401, reason::UNAUTHORIZED, if message.is_empty() { "not authorized" } else { message })
    }

    pub fn method_not_supported(resource: &GroupResource, action: &str) -> Self {
        let message = format!("{action} is not supported on resources of kind {}", quote(&resource.to_string()));
        Self::failure(405, reason::METHOD_NOT_ALLOWED, message).about(&resource.group, &resource.resource, "")
    }

    /// The body's media type is none of `supported`.
    pub fn unsupported_media_type(supported: &[&str]) -> Self {
        let message = format!(
            "the body of the request was in an unknown format - accepted media types include: {}",
            supported.join(", ")
        );
        Self::failure(415, reason::UNSUPPORTED_MEDIA_TYPE, message)
    }

    /// Nothing that the client accepts is among `supported`.
    pub fn not_acceptable(supported: &[&str]) -> Self {
        let message = format!("only the following media types are accepted: {}", supported.join(", "));
        Self::failure(406, reason::NOT_ACCEPTABLE, message)
    }

    /// The client accepts no media type that the path's routes produce; the router of upstream says it so.
    pub fn not_available(produced: &[&str]) -> Self {
        let message = format!("406: Not Acceptable\n\nAvailable representations: {}", produced.join(", "));
        Self { details: Some(StatusDetails::default()), ..Self::failure(406, reason::NOT_ACCEPTABLE, message) }
    }

    pub fn gone(message: impl Into<String>) -> Self {
        Self::failure(410, reason::GONE, message)
    }

    /// 410 with reason `Expired`: the revision asked for is compacted.
    pub fn expired(message: impl Into<String>) -> Self {
        Self::failure(410, reason::EXPIRED, message)
    }

    /// The same as [`Status::expired`], under upstream's constructor name.
    pub fn resource_expired(message: impl Into<String>) -> Self {
        Self::expired(message)
    }

    /// 504 `Timeout: …`.
    pub fn timeout(message: impl fmt::Display, retry_after_seconds: i32) -> Self {
        Self::failure(504, reason::TIMEOUT, format!("Timeout: {message}")).with_retry_after(retry_after_seconds)
    }

    /// The resourceVersion asked for lies in the future.
    pub fn too_large_resource_version(minimum: u64, current: u64, retry_after_seconds: i32) -> Self {
        let text = format!("Too large resource version: {minimum}, current: {current}");
        let mut status = Self::timeout(text, retry_after_seconds);
        status.details.get_or_insert_default().causes = vec![StatusCause {
            cause_type: cause::RESOURCE_VERSION_TOO_LARGE.into(),
            message: "Too large resource version".into(),
            field: String::new(),
        }];
        status
    }

    pub fn server_timeout(resource: &GroupResource, operation: &str, retry_after_seconds: i32) -> Self {
        let message = format!(
            "The {operation} operation against {resource} could not be completed at this time, please try again."
        );
        Self::failure(500, reason::SERVER_TIMEOUT, message)
            .about(&resource.group, &resource.resource, operation)
            .with_retry_after(retry_after_seconds)
    }

    pub fn too_many_requests(message: impl Into<String>, retry_after_seconds: i32) -> Self {
        let mut status = Self::failure(429, reason::TOO_MANY_REQUESTS, message);
        status.details = Some(StatusDetails { retry_after_seconds, ..StatusDetails::default() });
        status
    }

    pub fn service_unavailable(message: impl Into<String>) -> Self {
        Self::failure(503, reason::SERVICE_UNAVAILABLE, message)
    }

    pub fn request_entity_too_large(message: impl fmt::Display) -> Self {
        Self::failure(413, reason::REQUEST_ENTITY_TOO_LARGE, format!("Request entity too large: {message}"))
    }

    pub fn internal_error(error: impl fmt::Display) -> Self {
        let mut status = Self::failure(500, reason::INTERNAL_ERROR, format!("Internal error occurred: {error}"));
        status.details = Some(StatusDetails {
            causes: vec![StatusCause { message: error.to_string(), ..StatusCause::default() }],
            ..StatusDetails::default()
        });
        status
    }

    /// A code with no reason of its own at the server: what upstream's `NewGenericServerResponse` makes of it.
    pub fn generic(code: u16, verb: &str, resource: &GroupResource, name: &str, server_message: &str) -> Self {
        let (reason, mut message) = generic_reason(code, verb, server_message);
        let verb = verb.to_lowercase();
        if !resource.is_empty() && !name.is_empty() {
            message = format!("{message} ({verb} {resource} {name})");
        } else if !resource.is_empty() {
            message = format!("{message} ({verb} {resource})");
        }
        Self::failure(code, reason, message).about(&resource.group, &resource.resource, name)
    }

    pub fn with_retry_after(mut self, seconds: i32) -> Self {
        self.details.get_or_insert_default().retry_after_seconds = seconds;
        self
    }

    pub fn with_cause(mut self, cause: StatusCause) -> Self {
        self.details.get_or_insert_default().causes.push(cause);
        self
    }

    pub fn is_not_found(&self) -> bool {
        self.reason == reason::NOT_FOUND
    }

    pub fn is_already_exists(&self) -> bool {
        self.reason == reason::ALREADY_EXISTS
    }

    pub fn is_conflict(&self) -> bool {
        self.reason == reason::CONFLICT
    }

    pub fn is_expired(&self) -> bool {
        self.reason == reason::EXPIRED || self.reason == reason::GONE
    }

    pub fn retry_after_seconds(&self) -> Option<i32> {
        self.details.as_ref().map(|details| details.retry_after_seconds).filter(|seconds| *seconds > 0)
    }

    /// The JSON body.
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a Status has only strings and numbers")
    }
}

fn generic_reason(code: u16, verb: &str, server_message: &str) -> (&'static str, String) {
    let (reason, message) = match code {
        409 if verb == "POST" => (reason::ALREADY_EXISTS, "the server reported a conflict"),
        409 => (reason::CONFLICT, "the server reported a conflict"),
        404 => (reason::NOT_FOUND, "the server could not find the requested resource"),
        400 => (reason::BAD_REQUEST, "the server rejected our request for an unknown reason"),
        401 => (reason::UNAUTHORIZED, "the server has asked for the client to provide credentials"),
        403 => (reason::FORBIDDEN, server_message),
        406 if server_message.is_empty() || server_message == "unknown" => {
            (reason::NOT_ACCEPTABLE, "the server was unable to respond with a content type that the client supports")
        }
        406 => (reason::NOT_ACCEPTABLE, server_message),
        415 => (reason::UNSUPPORTED_MEDIA_TYPE, server_message),
        405 => (reason::METHOD_NOT_ALLOWED, "the server does not allow this method on the requested resource"),
        422 => (reason::INVALID, "the server rejected our request due to an error in our request"),
        503 => (reason::SERVICE_UNAVAILABLE, "the server is currently unable to handle the request"),
        504 => (
            reason::TIMEOUT,
            "the server was unable to return a response in the time allotted, but may still be processing the request",
        ),
        429 => {
            (reason::TOO_MANY_REQUESTS, "the server has received too many requests and has asked us to try again later")
        }
        code if code >= 500 => {
            let text =
                format!("an error on the server ({}) has prevented the request from succeeding", quote(server_message));
            return (reason::INTERNAL_ERROR, text);
        }
        code => {
            let text = format!("the server responded with the status code {code} but did not return more information");
            return ("", text);
        }
    };
    (reason, message.to_owned())
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Status {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::field::{Error, Path};
    use serde_json::json;

    fn check(status: &Status, expected: serde_json::Value) {
        assert_eq!(serde_json::to_value(status).unwrap(), expected);
    }

    #[test]
    fn not_found_reads_as_upstream() {
        check(
            &Status::not_found(&GroupResource::from_static("apps", "deployments"), "web"),
            json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
                "message": "deployments.apps \"web\" not found", "reason": "NotFound",
                "details": {"name": "web", "group": "apps", "kind": "deployments"}, "code": 404}),
        );
    }

    #[test]
    fn invalid_lists_every_cause_and_aggregates_the_message() {
        let errors: ErrorList = vec![
            Error::required(&Path::new("spec").child("containers"), ""),
            Error::invalid(&Path::new("metadata").child("name"), json!("A"), "bad"),
        ]
        .into();
        check(
            &Status::invalid(&GroupKind::from_static("", "Pod"), "A", &errors),
            json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
                "message": "Pod \"A\" is invalid: [spec.containers: Required value, metadata.name: Invalid value: \"A\": bad]",
                "reason": "Invalid",
                "details": {"name": "A", "kind": "Pod", "causes": [
                    {"reason": "FieldValueRequired", "message": "Required value", "field": "spec.containers"},
                    {"reason": "FieldValueInvalid", "message": "Invalid value: \"A\": bad", "field": "metadata.name"}]},
                "code": 422}),
        );
    }

    #[test]
    fn forbidden_names_what_it_can() {
        let pods = GroupResource::from_static("", "pods");
        for (resource, name, expected) in [
            (&pods, "a", "pods \"a\" is forbidden: no"),
            (&pods, "", "pods is forbidden: no"),
            (&GroupResource::default(), "", "forbidden: no"),
        ] {
            assert_eq!(Status::forbidden(resource, name, "no").message, expected);
        }
    }

    #[test]
    fn a_future_resource_version_carries_its_cause() {
        let status = Status::too_large_resource_version(9, 5, 1);
        assert_eq!(status.message, "Timeout: Too large resource version: 9, current: 5");
        assert_eq!(status.details.as_ref().unwrap().causes[0].cause_type, "ResourceVersionTooLarge");
        assert_eq!((status.code, status.retry_after_seconds()), (504, Some(1)));
    }
}
