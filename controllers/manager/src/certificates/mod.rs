//! Approves the certificate requests of nodes, signs approved ones, and removes old ones
//! (upstream: pkg/controller/certificates/{approver,signer,cleaner}).

mod plan;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::{Value, json};
use skeg_controller_runtime::objects::{Condition, condition};
use skeg_controller_runtime::{
    Clock, Controller, DeleteOptions, Error, Obj, Outcome, Resource, Spec, Store, Str, Timestamp, WorkQueue, clock,
    run_controller,
};

use crate::config::Signing;
use crate::context::Context;

/// A certificate signing request.
type Request = Obj<RequestSpec>;

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct RequestSpec {
    request: String,
    signer_name: String,
    username: String,
    uid: String,
    groups: Vec<String>,
    extra: Option<Value>,
    usages: Vec<String>,
    expiration_seconds: Option<i64>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct RequestStatus {
    conditions: Vec<Condition>,
    certificate: Option<String>,
}

impl Spec for RequestSpec {
    type Status = RequestStatus;
    const RESOURCE: Resource =
        Resource::new("certificates.k8s.io", "v1", "CertificateSigningRequest", "certificatesigningrequests", false);
}

impl RequestSpec {
    fn pem(&self) -> Option<String> {
        String::from_utf8(STANDARD.decode(&self.request).ok()?).ok()
    }
}

fn has(request: &Request, kind: &str) -> bool {
    condition(&request.status.conditions, kind).is_some_and(Condition::is_true)
}

/// Fails if the authority cannot sign.
pub(crate) fn check(signing: &Signing) -> Result<(), rcgen::Error> {
    plan::authority(signing).map(|_| ())
}

fn subscribe(requests: &Store<Request>) -> Arc<WorkQueue<Str>> {
    let queue = Arc::new(WorkQueue::new());
    let line = queue.clone();
    requests.subscribe(move |change| {
        if !change.is_deleted() {
            line.add(change.object().metadata.key());
        }
    });
    queue
}

pub(crate) async fn run_approver(context: Context) {
    let requests = context.stores.get::<Request>();
    let queue = subscribe(&requests);
    let serving = context.config.approve_kubelet_serving;
    let approver = Approver { requests, clock: context.clock.clone(), serving };
    run_controller(Arc::new(approver), queue, 2, context.shutdown).await;
}

pub(crate) async fn run_signer(context: Context) {
    let Some(signing) = context.config.signing.clone() else { return };
    let requests = context.stores.get::<Request>();
    let queue = subscribe(&requests);
    let signer = Signer { requests, clock: context.clock.clone(), signing };
    run_controller(Arc::new(signer), queue, 2, context.shutdown).await;
}

pub(crate) async fn run_cleaner(context: Context) {
    let requests = context.stores.get::<Request>();
    let queue = subscribe(&requests);
    let cleaner = Cleaner { requests, clock: context.clock.clone() };
    run_controller(Arc::new(cleaner), queue, 1, context.shutdown).await;
}

struct Approver {
    requests: Arc<Store<Request>>,
    clock: Arc<dyn Clock>,
    serving: bool,
}

#[async_trait]
impl Controller for Approver {
    type Key = Str;
    fn name(&self) -> &'static str {
        "certificatesigningrequest-approving-controller"
    }
    async fn synced(&self) {
        self.requests.synced().await;
    }
    async fn reconcile(&self, key: &Str) -> Result<Outcome, Error> {
        let Some(request) = self.requests.get(key) else { return Ok(Outcome::Done) };
        let spec = &request.spec;
        if request.status.certificate.is_some() || has(&request, "Approved") || has(&request, "Denied") {
            return Ok(Outcome::Done);
        }
        let parsed = spec.pem().and_then(|pem| plan::subject(&pem).ok());
        let Some((parameters, subject)) = parsed else { return Ok(Outcome::Done) };
        if self.serving && self.is_own_serving(spec, &parameters, &subject).await? {
            self.approve(&request, "Auto approving kubelet serving certificate for the node's own name and address.")
                .await?;
            return Ok(Outcome::Done);
        }
        if !plan::is_node_client(&spec.signer_name, &subject, &spec.usages) {
            return Ok(Outcome::Done);
        }
        let mut kinds = vec![("nodeclient", "Auto approving kubelet client certificate after SubjectAccessReview.")];
        if spec.username == subject.common_name {
            kinds.insert(
                0,
                ("selfnodeclient", "Auto approving self kubelet client certificate after SubjectAccessReview."),
            );
        }
        for (subresource, message) in kinds {
            if self.may(spec, subresource).await? {
                self.approve(&request, message).await?;
                return Ok(Outcome::Done);
            }
        }
        // The permission may still be granted.
        Ok(Outcome::Again)
    }
}

const NODES: Resource = Resource::new("", "v1", "Node", "nodes", false);
const REVIEW: Resource =
    Resource::new("authorization.k8s.io", "v1", "SubjectAccessReview", "subjectaccessreviews", false);

impl Approver {
    async fn approve(&self, request: &Request, message: &str) -> Result<(), Error> {
        let now = clock::rfc3339(self.clock.now());
        let mut conditions: Vec<Value> =
            request.status.conditions.iter().map(crate::replicaset::plan::condition_json).collect();
        conditions.push(json!({"type": "Approved", "status": "True", "reason": "AutoApproved", "message": message,
            "lastUpdateTime": now, "lastTransitionTime": now}));
        let body = json!({"status": {"conditions": conditions}});
        self.requests.patch_exact(&request.metadata, "approval", body).await.map(|_| ())
    }

    /// Whether a node asks for a serving certificate of nothing but itself: its name, and addresses that no other Node has.
    async fn is_own_serving(
        &self,
        spec: &RequestSpec,
        parameters: &rcgen::CertificateSigningRequestParams,
        subject: &plan::Subject,
    ) -> Result<bool, Error> {
        let from_itself = spec.username == subject.common_name && spec.groups.iter().any(|g| g == "system:nodes");
        let node = subject.common_name.strip_prefix("system:node:");
        let (Some(node), true) = (node, from_itself && spec.signer_name == plan::KUBELET_SERVING) else {
            return Ok(false);
        };
        if plan::refusal(&spec.signer_name, subject, &spec.usages).is_some() {
            return Ok(false);
        }
        let Some(addresses) = plan::own_addresses(parameters, node) else { return Ok(false) };
        let nodes: Vec<Value> = self.requests.api().list(&NODES, "", "").await?;
        let taken = nodes.iter().filter(|other| other["metadata"]["name"] != node).any(|other| {
            let others = other["status"]["addresses"].as_array().into_iter().flatten();
            others.filter_map(|a| a["address"].as_str()?.parse().ok()).any(|address| addresses.contains(&address))
        });
        Ok(!taken)
    }

    async fn may(&self, spec: &RequestSpec, subresource: &str) -> Result<bool, Error> {
        let mut body = json!({"spec": {"user": spec.username, "uid": spec.uid, "groups": spec.groups,
            "resourceAttributes": {"group": "certificates.k8s.io", "resource": "certificatesigningrequests",
                "verb": "create", "subresource": subresource, "version": "*"}}});
        if let Some(extra) = &spec.extra {
            body["spec"]["extra"] = extra.clone();
        }
        let answer: Value = self.requests.api().create(&REVIEW, "", &body).await?;
        Ok(answer.pointer("/status/allowed").and_then(Value::as_bool).unwrap_or(false))
    }
}

struct Signer {
    requests: Arc<Store<Request>>,
    clock: Arc<dyn Clock>,
    signing: Signing,
}

#[async_trait]
impl Controller for Signer {
    type Key = Str;
    fn name(&self) -> &'static str {
        "certificatesigningrequest-signing-controller"
    }
    async fn synced(&self) {
        self.requests.synced().await;
    }
    async fn reconcile(&self, key: &Str) -> Result<Outcome, Error> {
        let Some(request) = self.requests.get(key) else { return Ok(Outcome::Done) };
        let spec = &request.spec;
        let known = [plan::CLIENT, plan::KUBELET_CLIENT, plan::KUBELET_SERVING].contains(&spec.signer_name.as_str());
        let ended = request.status.certificate.is_some() || has(&request, "Denied") || has(&request, "Failed");
        if !known || ended || !has(&request, "Approved") {
            return Ok(Outcome::Done);
        }
        let parsed = spec
            .pem()
            .ok_or("request is not PEM".to_owned())
            .and_then(|pem| plan::subject(&pem).map_err(|e| e.to_string()));
        let now = self.clock.now();
        let signed =
            parsed.and_then(|(params, subject)| match plan::refusal(&spec.signer_name, &subject, &spec.usages) {
                Some(why) => Err(why.to_owned()),
                None => plan::sign(now, &self.signing, params, &spec.usages, spec.expiration_seconds)
                    .map_err(|e| e.to_string()),
            });
        let status = match signed {
            Ok(pem) => json!({"certificate": STANDARD.encode(pem)}),
            Err(why) => {
                let at = clock::rfc3339(now);
                let mut conditions: Vec<Value> =
                    request.status.conditions.iter().map(crate::replicaset::plan::condition_json).collect();
                conditions.push(json!({"type": "Failed", "status": "True", "reason": "SignerValidationFailure",
                    "message": why, "lastUpdateTime": at, "lastTransitionTime": at}));
                json!({"conditions": conditions})
            }
        };
        self.requests.patch_exact(&request.metadata, "status", json!({"status": status})).await?;
        Ok(Outcome::Done)
    }
}

struct Cleaner {
    requests: Arc<Store<Request>>,
    clock: Arc<dyn Clock>,
}

/// When a request has outlived its use: a day if nobody decided, an hour after a decision.
fn expires(request: &Request) -> Option<Timestamp> {
    const PENDING: i64 = 24 * 3600;
    const DECIDED: i64 = 3600;
    let decided = ["Denied", "Failed", "Approved"]
        .iter()
        .filter_map(|kind| condition(&request.status.conditions, kind))
        .filter_map(|c| c.last_update_time.or(c.last_transition_time))
        .min();
    match decided {
        Some(at) => Some(clock::after(at, DECIDED)),
        None => Some(clock::after(request.metadata.created?, PENDING)),
    }
}

#[async_trait]
impl Controller for Cleaner {
    type Key = Str;
    fn name(&self) -> &'static str {
        "certificatesigningrequest-cleaner-controller"
    }
    async fn synced(&self) {
        self.requests.synced().await;
    }
    async fn reconcile(&self, key: &Str) -> Result<Outcome, Error> {
        let Some(request) = self.requests.get(key) else { return Ok(Outcome::Done) };
        let Some(due) = expires(&request) else { return Ok(Outcome::Done) };
        match clock::until(self.clock.now(), due) {
            Duration::ZERO => {
                self.requests.delete(&request.metadata, &DeleteOptions::uid(&request.metadata.uid)).await?;
                Ok(Outcome::Done)
            }
            wait => Ok(Outcome::After(wait)),
        }
    }
}
