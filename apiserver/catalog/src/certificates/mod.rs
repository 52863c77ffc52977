//! The certificates.k8s.io group: CertificateSigningRequests. Who may approve or sign is admission's question.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use skeg_machinery::field::{ErrorList, Path};
use skeg_machinery::validation as rules;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::pem::Pem;
use x509_parser::prelude::FromDer;

use crate::builder::{Def, READ_WRITE};
use crate::check::Report;
use crate::columns::{AGE, NAME, Row, Table, human, name, or, text};
use crate::json::{Read, Write, same};
use crate::names;
use crate::rules::{Part, Rules};
use crate::spec::{Context, Generation, ResourceSpec};

const USAGES: &[&str] = &[
    "any",
    "cert sign",
    "client auth",
    "code signing",
    "content commitment",
    "crl sign",
    "data encipherment",
    "decipher only",
    "digital signature",
    "email protection",
    "encipher only",
    "ipsec end system",
    "ipsec tunnel",
    "ipsec user",
    "key agreement",
    "key encipherment",
    "microsoft sgc",
    "netscape sgc",
    "ocsp signing",
    "s/mime",
    "server auth",
    "signing",
    "timestamping",
];

pub fn certificate_signing_request() -> ResourceSpec {
    Def::new("certificates.k8s.io", "v1", "certificatesigningrequests", "CertificateSigningRequest")
        .cluster()
        .short(&["csr"])
        .part(
            "approval",
            READ_WRITE,
            Part {
                metadata_checks: (1, 1),
                resets: &["spec", "status.certificate"],
                prepare: |ctx, request, old| {
                    timestamps(ctx, request, old);
                    let conditions = request.at("status.conditions").clone();
                    request.copy_from("status", old);
                    request.set("status.conditions", conditions);
                },
                check: |request, old| check_update(request, old, Open::Approval),
                ..Part::STATUS
            },
        )
        .status(Part {
            metadata_checks: (1, 1),
            resets: &["spec", "status.conditions"],
            prepare: |ctx, request, old| {
                for kind in ["Approved", "Denied"] {
                    keep_conditions(request, old, kind);
                }
                timestamps(ctx, request, old);
            },
            check: |request, old| check_update(request, old, Open::Certificate),
            ..Part::STATUS
        })
        .fields(&[("spec.signerName", "")])
        .columns(Table {
            columns: const {
                &[NAME, AGE, text("SignerName"), text("Requestor"), text("RequestedDuration"), text("Condition")]
            },
            cells,
        })
        .rules(Rules {
            name: names::path_segment,
            create,
            check,
            update: |_, request, old| request.copy_from("spec", old),
            check_update: |request, old| check_update(request, old, Open::Nothing),
            generation: Generation::Never,
            resets: &["spec", "status"],
            metadata_checks: (1, 1),
            ..Rules::BASE
        })
        .build()
}

/// Who asks is what authentication says, not what the body says.
fn create(ctx: &Context<'_>, request: &mut Value) {
    for member in ["username", "uid", "groups", "extra"] {
        request.remove(&format!("spec.{member}"));
    }
    if !ctx.user.is_empty() {
        request.set("spec.username", ctx.user);
    }
    if !ctx.uid.is_empty() {
        request.set("spec.uid", ctx.uid);
    }
    if !ctx.groups.is_empty() {
        request.set("spec.groups", ctx.groups.to_vec());
    }
    if !ctx.extra.is_empty() {
        request.set("spec.extra", json!(ctx.extra));
    }
    request.set("status", json!({}));
}

fn keep_conditions(request: &mut Value, old: &Value, kind: &str) {
    let of = |object: &Value| -> Vec<Value> {
        let all = object.list("status.conditions").iter();
        all.filter(|condition| condition.text("type") == kind).cloned().collect()
    };
    let (new, before) = (of(request), of(old));
    if new.len() == before.len() {
        let mut before = before.into_iter();
        request.each("status.conditions", |condition| {
            if condition.text("type") == kind
                && let Some(before) = before.next()
            {
                *condition = before;
            }
        });
    }
}

fn timestamps(ctx: &Context<'_>, request: &mut Value, old: &Value) {
    let now = ctx.now.to_rfc3339_opts(chrono::SecondsFormat::Secs, true);
    let before = old.list("status.conditions").to_vec();
    request.each("status.conditions", |condition| {
        condition.default_to("lastUpdateTime", now.clone());
        let same_state = before.iter().find(|before| {
            before.text("type") == condition.text("type")
                && before.text("status") == condition.text("status")
                && before.has("lastTransitionTime")
        });
        let moved = same_state.map_or(&*now, |before| before.text("lastTransitionTime")).to_owned();
        condition.default_to("lastTransitionTime", moved);
    });
}

/// The request's PEM, if it is one.
fn parse(request: &Value) -> Result<(), String> {
    let bytes = STANDARD.decode(request.text("spec.request")).unwrap_or_default();
    let pem = Pem::iter_from_buffer(&bytes).next().and_then(Result::ok);
    let Some(pem) = pem.filter(|pem| pem.label == "CERTIFICATE REQUEST") else {
        return Err("PEM block type must be CERTIFICATE REQUEST".into());
    };
    let (_, parsed) =
        X509CertificationRequest::from_der(&pem.contents).map_err(|error| format!("asn1: structure error: {error}"))?;
    parsed.verify_signature().map_err(|error| format!("x509: {error}"))
}

fn check(request: &Value) -> ErrorList {
    let mut e = ErrorList::new();
    let path = Path::new("spec");
    let spec = request.at("spec");
    if let Err(problem) = parse(request) {
        e.invalid(&path.child("request"), spec.at("request").clone(), problem);
    }
    let usages = spec.texts("usages");
    if usages.is_empty() {
        e.required(&path.child("usages"), "");
    }
    for (index, usage) in usages.iter().enumerate() {
        e.one_of_set(&path.child("usages").index(index), Some(usage), USAGES);
    }
    for (index, usage) in usages.iter().enumerate().filter(|(index, usage)| usages[..*index].contains(usage)) {
        e.duplicate(&path.child("usages").index(index), *usage);
    }
    signer(&mut e, &path.child("signerName"), spec.text("signerName"));
    if let Some(seconds) = spec.opt_int("expirationSeconds").filter(|seconds| *seconds < 600) {
        let detail = "may not specify a duration less than 600 seconds (10 minutes)";
        e.invalid(&path.child("expirationSeconds"), seconds, detail);
    }
    conditions(&mut e, request);
    e
}

fn signer(e: &mut ErrorList, path: &Path, name: &str) {
    if name == "kubernetes.io/legacy-unknown" {
        e.invalid(path, name, "the legacy signerName is not allowed via this API version");
        return;
    }
    if !e.need(path, name) {
        return;
    }
    let Some((domain, rest)) = name.split_once('/').filter(|(_, rest)| !rest.contains('/')) else {
        e.invalid(path, name, "must be a fully qualified domain and path of the form 'example.com/signer-name'");
        return;
    };
    for message in rules::is_dns1123_subdomain(domain) {
        e.invalid(path, domain, format!("validating label {domain:?}: {message}"));
    }
    if domain.split('.').count() < 2 {
        e.invalid(path, domain, "should be a domain with at least two segments separated by dots");
    }
    for message in names::subdomain(rest, false) {
        e.invalid(path, rest, format!("validating label {rest:?}: {message}"));
    }
}

fn conditions(e: &mut ErrorList, request: &Value) {
    let path = Path::new("status").child("conditions");
    let all = request.list("status.conditions");
    let mut decided = None;
    for (index, condition) in all.iter().enumerate() {
        let at = path.index(index);
        let (kind, status) = (condition.text("type"), condition.text("status"));
        e.need(&at.child("type"), kind);
        let known: &[&str] =
            if matches!(kind, "Approved" | "Denied" | "Failed") { &["True"] } else { &["False", "True", "Unknown"] };
        e.one_of(&at.child("status"), status, known);
        if matches!(kind, "Approved" | "Denied") {
            if decided.is_some_and(|decided| decided != kind) {
                e.invalid(&path, kind, "Approved and Denied conditions are mutually exclusive");
            }
            decided = Some(kind);
        }
        if all[..index].iter().any(|other| other.text("type") == kind) {
            e.duplicate(&at.child("type"), kind);
        }
    }
}

/// What a subresource may change.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Open {
    Nothing,
    Approval,
    Certificate,
}

fn check_update(request: &Value, old: &Value, open: Open) -> ErrorList {
    let mut e = check(request);
    let path = Path::new("status");
    let at = path.child("conditions");
    let of = |object: &Value, kind: &str| -> Vec<Value> {
        let all = object.list("status.conditions").iter();
        all.filter(|condition| condition.text("type") == kind).cloned().collect()
    };
    for kind in ["Approved", "Denied", "Failed"] {
        if of(request, kind).len() < of(old, kind).len() {
            e.forbidden(&at, format!("updates may not remove a condition of type \"{kind}\""));
        }
    }
    if open != Open::Approval {
        for kind in ["Approved", "Denied"] {
            let (new, before) = (of(request, kind), of(old, kind));
            if new.len() > before.len() {
                e.forbidden(&at, format!("updates may not add a condition of type \"{kind}\""));
            } else if new.len() == before.len() && !same(&json!(new), &json!(before)) {
                e.forbidden(&at, format!("updates may not modify a condition of type \"{kind}\"\n"));
            }
        }
    }
    let (new, before) = (request.text("status.certificate"), old.text("status.certificate"));
    if new != before {
        let at = path.child("certificate");
        if open != Open::Certificate {
            e.forbidden(&at, "updates may not set certificate content");
        } else if !before.is_empty() {
            e.forbidden(&at, "updates may not modify existing certificate content");
        } else if let Err(problem) = certificates(new) {
            e.invalid(&at, "<certificate data>", problem);
        }
    }
    e
}

fn certificates(text: &str) -> Result<(), String> {
    let bytes = STANDARD.decode(text).unwrap_or_default();
    let mut blocks = 0;
    for pem in Pem::iter_from_buffer(&bytes) {
        let Ok(pem) = pem else { break };
        if pem.label != "CERTIFICATE" {
            return Err(format!("only CERTIFICATE PEM blocks are allowed, found {:?}", pem.label));
        }
        pem.parse_x509().map_err(|error| format!("x509: malformed certificate: {error}"))?;
        blocks += 1;
    }
    if blocks == 0 { Err("must contain at least one CERTIFICATE PEM block".into()) } else { Ok(()) }
}

fn cells(request: &Value, row: &Row) -> Vec<Value> {
    let has = |kind: &str| request.list("status.conditions").iter().any(|condition| condition.text("type") == kind);
    let mut status = match (has("Denied"), has("Approved")) {
        (true, _) => "Denied".to_owned(),
        (false, true) => "Approved".to_owned(),
        (false, false) => "Pending".to_owned(),
    };
    if has("Failed") {
        status.push_str(",Failed");
    }
    if !request.text("status.certificate").is_empty() {
        status.push_str(",Issued");
    }
    let duration = request
        .opt_int("spec.expirationSeconds")
        .and_then(chrono::TimeDelta::try_seconds)
        .map_or("<none>".into(), human);
    vec![
        name(request),
        row.age(request),
        or(request, "spec.signerName", "<none>"),
        request.text("spec.username").into(),
        duration.into(),
        status.into(),
    ]
}
