//! The authorization.k8s.io group: questions that the server answers at once; here is which ones make sense.

use serde_json::Value;
use skeg_machinery::field::{ErrorList, Path};

use crate::builder::Def;
use crate::check::Report;
use crate::json::Read;
use crate::rules::Rules;
use crate::spec::{ResourceSpec, Verb};

fn review(resource: &'static str, kind: &'static str, check: fn(&Value) -> ErrorList) -> Def {
    Def::new("authorization.k8s.io", "v1", resource, kind).verbs(&[Verb::Create]).not_stored().rules(Rules {
        name: crate::names::any,
        check,
        ..Rules::PLAIN
    })
}

pub fn local_subject_access_review() -> ResourceSpec {
    review("localsubjectaccessreviews", "LocalSubjectAccessReview", |review| {
        let mut e = ErrorList::new();
        subject(&mut e, review);
        empty_metadata(&mut e, review, &["namespace"], "must be empty except for namespace");
        let namespace = review.text("metadata.namespace");
        let asked = review.text("spec.resourceAttributes.namespace");
        if review.has("spec.resourceAttributes") && asked != namespace {
            let at = Path::new("spec.resourceAttributes.namespace");
            e.invalid(&at, asked, "must match metadata.namespace");
        }
        if review.has("spec.nonResourceAttributes") {
            let value = review.at("spec.nonResourceAttributes").clone();
            e.invalid(&Path::new("spec.nonResourceAttributes"), value, "disallowed on this kind of request");
        }
        e
    })
    .build()
}

pub fn self_subject_access_review() -> ResourceSpec {
    review("selfsubjectaccessreviews", "SelfSubjectAccessReview", |review| {
        let mut e = ErrorList::new();
        attributes(&mut e, review);
        empty_metadata(&mut e, review, &[], "must be empty");
        e
    })
    .cluster()
    .build()
}

pub fn self_subject_rules_review() -> ResourceSpec {
    review("selfsubjectrulesreviews", "SelfSubjectRulesReview", |_| ErrorList::new()).cluster().build()
}

pub fn subject_access_review() -> ResourceSpec {
    review("subjectaccessreviews", "SubjectAccessReview", |review| {
        let mut e = ErrorList::new();
        subject(&mut e, review);
        empty_metadata(&mut e, review, &[], "must be empty");
        e
    })
    .cluster()
    .build()
}

fn attributes(e: &mut ErrorList, review: &Value) {
    let path = Path::new("spec");
    let other = review.at("spec.nonResourceAttributes");
    match (review.has("spec.resourceAttributes"), !other.is_null()) {
        (true, true) => {
            let detail = "cannot be specified in combination with resourceAttributes";
            e.invalid(&path.child("nonResourceAttributes"), other.clone(), detail);
        }
        (false, false) => {
            let detail = "exactly one of nonResourceAttributes or resourceAttributes must be specified";
            e.invalid(&path.child("resourceAttributes"), Value::Null, detail);
        }
        _ => {}
    }
}

fn subject(e: &mut ErrorList, review: &Value) {
    attributes(e, review);
    if review.text("spec.user").is_empty() && review.list("spec.groups").is_empty() {
        e.invalid(&Path::new("spec").child("user"), "", "at least one of user or group must be specified");
    }
}

fn empty_metadata(e: &mut ErrorList, review: &Value, allowed: &[&str], detail: &str) {
    // What the write path fills in is not the client's.
    let filled = ["managedFields", "uid", "creationTimestamp"];
    let said = review
        .entries("metadata")
        .any(|(key, value)| !value.is_null() && !allowed.contains(&key) && !filled.contains(&key));
    if said {
        e.invalid(&Path::new("metadata"), review.at("metadata").clone(), detail);
    }
}
