//! Authorization checks (apiserver/pkg/cel/library/authz.go). What is asked is put together here; who answers is given.

use std::any::Any;
use std::sync::Arc;

use super::Args;
use super::net::extension;
use crate::eval::{Outcome, no_overload};
use crate::program::Activation;
use crate::value::{Extension, Value};

/// Who is asked about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    /// Whoever made the request.
    Requester,
    ServiceAccount {
        namespace: String,
        name: String,
    },
}

/// One question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    pub subject: Subject,
    /// For paths that are no resource; then all but the verb is empty.
    pub path: String,
    pub group: String,
    pub resource: String,
    pub subresource: String,
    pub namespace: String,
    pub name: String,
    pub field_selector: String,
    pub label_selector: String,
    pub verb: String,
}

#[derive(PartialEq)]
struct Authorizer(Check);
#[derive(PartialEq)]
struct PathCheck(Check);
#[derive(PartialEq)]
struct GroupCheck(Check);
#[derive(PartialEq)]
struct ResourceCheck(Check);
#[derive(PartialEq)]
struct Decision(bool, String);

extension!(Authorizer, "kubernetes.authorization.Authorizer", |_| None);
extension!(PathCheck, "kubernetes.authorization.PathCheck", |_| None);
extension!(GroupCheck, "kubernetes.authorization.GroupCheck", |_| None);
extension!(ResourceCheck, "kubernetes.authorization.ResourceCheck", |_| None);
extension!(Decision, "kubernetes.authorization.Decision", |_| None);

fn value<'a>(extension: impl Extension) -> Value<'a> {
    Value::Extension(Arc::new(extension))
}

/// The variable `authorizer`.
pub fn root<'a>(subject: Subject) -> Value<'a> {
    let empty = String::new;
    value(Authorizer(Check {
        subject,
        path: empty(),
        group: empty(),
        resource: empty(),
        subresource: empty(),
        namespace: empty(),
        name: empty(),
        field_selector: empty(),
        label_selector: empty(),
        verb: empty(),
    }))
}

/// `authorizer.requestResource`: a check of the resource that the request is for.
pub fn resource_check<'a>(check: Check) -> Value<'a> {
    value(ResourceCheck(check))
}

pub fn call<'a>(name: &str, member: bool, args: &Args<'a>, activation: &Activation<'a>) -> Option<Outcome<'a>> {
    let (receiver, rest) = args.split_first()?;
    if !member {
        return None;
    }
    let texts: Vec<String> = rest.iter().filter_map(Value::as_str).map(str::to_owned).collect();
    if texts.len() != rest.len() {
        return None;
    }
    if let Some(Decision(allowed, reason)) = receiver.extension() {
        return Some(Ok(match name {
            "allowed" => Value::Bool(*allowed),
            "reason" => Value::text(reason.as_str()),
            "errored" => Value::Bool(false),
            "error" => Value::text(""),
            _ => return None,
        }));
    }
    if let Some(Authorizer(check)) = receiver.extension() {
        let check = check.clone();
        return Some(Ok(match (name, texts.as_slice()) {
            ("path", [path]) => value(PathCheck(Check { path: path.clone(), ..check })),
            ("group", [group]) => value(GroupCheck(Check { group: group.clone(), ..check })),
            ("serviceAccount", [namespace, name]) => {
                let subject = Subject::ServiceAccount { namespace: namespace.clone(), name: name.clone() };
                value(Authorizer(Check { subject, ..check }))
            }
            _ => return None,
        }));
    }
    if let Some(GroupCheck(check)) = receiver.extension() {
        let [resource] = texts.as_slice() else { return None };
        return (name == "resource")
            .then(|| Ok(value(ResourceCheck(Check { resource: resource.clone(), ..check.clone() }))));
    }
    if let Some(ResourceCheck(check)) = receiver.extension() {
        let [text] = texts.as_slice() else { return None };
        let mut check = check.clone();
        match name {
            "subresource" => check.subresource = text.clone(),
            "namespace" => check.namespace = text.clone(),
            "name" => check.name = text.clone(),
            "fieldSelector" => check.field_selector = text.clone(),
            "labelSelector" => check.label_selector = text.clone(),
            "check" => return Some(ask(Check { verb: text.clone(), ..check }, activation)),
            _ => return None,
        }
        return Some(Ok(value(ResourceCheck(check))));
    }
    let PathCheck(check) = receiver.extension()?;
    let [verb] = texts.as_slice() else { return None };
    (name == "check").then(|| ask(Check { verb: verb.clone(), ..check.clone() }, activation))
}

fn ask<'a>(check: Check, activation: &Activation<'a>) -> Outcome<'a> {
    let Some(authorize) = &activation.authorize else { return no_overload() };
    let (allowed, reason) = authorize(&check);
    Ok(value(Decision(allowed, reason)))
}
