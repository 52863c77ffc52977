//! AdmissionReview: the question put to a webhook and what counts as an answer
//! (apiserver/pkg/admission/plugin/webhook/request/admissionreview.go).

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use skeg_machinery::gvk::{GroupVersionKind, GroupVersionResource};
use skeg_machinery::status::Status;

use crate::admission::Attributes;
use crate::served::Served;

const GROUP: &str = "admission.k8s.io";

/// What a webhook is asked about, in the version that it wants.
pub struct Question<'a> {
    pub attributes: &'a Attributes<'a>,
    pub served: &'a Served,
    pub object: Option<&'a Value>,
    pub old: Option<&'a Value>,
}

/// What it said.
#[derive(Debug)]
pub struct Answer {
    pub allowed: bool,
    /// A JSON patch.
    pub patch: Vec<u8>,
    pub result: Option<Value>,
    pub warnings: Vec<String>,
}

/// The first version of AdmissionReview that both sides speak.
pub fn version(accepted: &[String]) -> Option<&str> {
    accepted.iter().map(String::as_str).find(|version| matches!(*version, "v1" | "v1beta1"))
}

fn kind_json(kind: &GroupVersionKind) -> Value {
    json!({"group": kind.group, "version": kind.version, "kind": kind.kind})
}

fn resource_json(resource: &GroupVersionResource) -> Value {
    json!({"group": resource.group, "version": resource.version, "resource": resource.resource})
}

impl Question<'_> {
    pub fn review(&self, version: &str, uid: &str) -> Value {
        let mut request = self.request();
        request["uid"] = json!(uid);
        json!({"kind": "AdmissionReview", "apiVersion": format!("{GROUP}/{version}"), "request": request})
    }

    /// An AdmissionRequest with an empty uid and the objects.
    pub fn request(&self) -> Value {
        let attributes = self.attributes;
        let mut request = json!({
            "uid": "",
            "kind": kind_json(&self.served.kind),
            "resource": resource_json(&self.served.resource),
        });
        let text = |request: &mut Value, field: &str, text: &str| {
            if !text.is_empty() {
                request[field] = json!(text);
            }
        };
        text(&mut request, "subResource", attributes.subresource);
        request["requestKind"] = kind_json(&attributes.kind);
        request["requestResource"] = resource_json(&attributes.resource);
        text(&mut request, "requestSubResource", attributes.subresource);
        text(&mut request, "name", attributes.name);
        text(&mut request, "namespace", attributes.seen_namespace());
        request["operation"] = json!(attributes.operation.word());
        request["userInfo"] = attributes.user.to_json();
        request["object"] = self.object.cloned().unwrap_or_default();
        request["oldObject"] = self.old.cloned().unwrap_or_default();
        request["dryRun"] = json!(attributes.dry_run);
        request["options"] = attributes.options.clone();
        request
    }
}

/// Reads a review that came back; `Err` says what is wrong with it.
pub fn read(mut review: Value, version: &str, uid: &str, mutating: bool) -> Result<Answer, String> {
    let text = |value: &Value, field: &str| value[field].as_str().unwrap_or_default().to_owned();
    let mut response = review["response"].take();
    if !response.is_object() {
        return Err("webhook response was absent".to_owned());
    }
    let patch = STANDARD.decode(text(&response, "patch"));
    let patch = patch.map_err(|error| format!("illegal base64 data in response.patch: {error}"))?;
    let patch_type = response["patchType"].as_str().map(str::to_owned);
    if version == "v1" {
        let answered = text(&response, "uid");
        if answered != uid {
            return Err(format!("expected response.uid={uid:?}, got {answered:?}"));
        }
        let expected = GroupVersionKind::from_static(GROUP, "v1", "AdmissionReview");
        let got = GroupVersionKind::parse(&text(&review, "apiVersion"), &text(&review, "kind")).unwrap_or_default();
        if got != expected {
            return Err(format!("expected webhook response of {expected}, got {got}"));
        }
        check_patch(&patch, patch_type.as_deref(), mutating)?;
    }
    let warnings = match response["warnings"].take() {
        Value::Array(warnings) => warnings.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
        _ => Vec::new(),
    };
    let result = Some(response["status"].take()).filter(Value::is_object);
    Ok(Answer {
        allowed: response["allowed"].as_bool().unwrap_or(false),
        patch: if mutating { patch } else { Vec::new() },
        result,
        warnings,
    })
}

fn check_patch(patch: &[u8], patch_type: Option<&str>, mutating: bool) -> Result<(), String> {
    let wrong = match (mutating, patch.is_empty(), patch_type) {
        (true, false, None) => "webhook returned response.patch but not response.patchType",
        (true, true, Some(_)) => "webhook returned response.patchType but not response.patch",
        (true, false, Some("")) => "webhook returned invalid response.patchType of \"\"",
        (true, false, Some(other)) if other != "JSONPatch" => return Err(format!("unsupported patch type {other:?}")),
        (false, false, _) => "validating webhook may not return response.patch",
        (false, true, Some(_)) => "validating webhook may not return response.patchType",
        _ => return Ok(()),
    };
    Err(wrong.to_owned())
}

/// What the client of a denied request is told.
pub fn denial(webhook: &str, result: Option<Value>) -> Status {
    let denied = format!("admission webhook {webhook:?} denied the request");
    let mut status = result
        .and_then(|mut result| {
            // Status decodes with its members' own defaults; these two are never absent.
            result["kind"] = json!("Status");
            result["apiVersion"] = json!("v1");
            serde_json::from_value::<Status>(result).ok()
        })
        .unwrap_or_else(|| Status::failure(0, "", ""));
    status.code = status.code.max(400);
    if matches!(&*status.status, "" | "Success") {
        status.status = "Failure".into();
    }
    status.message = if !status.message.is_empty() {
        format!("{denied}: {}", status.message)
    } else if !status.reason.is_empty() {
        format!("{denied}: {}", status.reason)
    } else {
        format!("{denied} without explanation")
    };
    status
}
