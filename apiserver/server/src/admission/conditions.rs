//! What an expression of admission sees, and the match conditions of webhooks and policies
//! (apiserver/pkg/admission/plugin/webhook/matchconditions).

use std::sync::Arc;

use futures::FutureExt;
use serde_json::{Value as Json, json};
use skeg_cel::admission::{MATCH_CONDITIONS, Scope};
use skeg_cel::authorizer::{self, Check, Subject};
use skeg_cel::{Activation, Budget, EvalError, Program, Type, Value, schema};
use skeg_machinery::gvk::GroupVersionKind;
use skeg_machinery::labels;
use skeg_machinery::schema::Schema;

use super::webhooks::review::Question;
use super::{aggregate, items};
use crate::authz::{Authorizer, Decision};
use crate::request::{RequestInfo, UserInfo};

/// The conditions of one webhook or policy, by their expressions.
#[derive(Default)]
pub struct Conditions(Vec<(String, Result<Program, String>)>);

/// An evaluation's error with the expression that it is of.
pub fn failure(expression: &str, error: &EvalError) -> String {
    format!("expression '{expression}' resulted in error: {error}")
}

/// What the conditions came to.
#[derive(Debug, PartialEq, Eq)]
pub enum Matched {
    Yes,
    No,
    /// None was false, and some could not be evaluated.
    Unclear(String),
}

impl Conditions {
    /// From `matchConditions`.
    pub fn compile(spec: &Json, scope: &Scope) -> Conditions {
        let compiled = |condition: &Json| {
            let text = |field: &str| condition[field].as_str().unwrap_or_default();
            (text("expression").to_owned(), scope.compile(text("expression"), &[Type::Bool]))
        };
        Conditions(items(spec, "matchConditions").map(compiled).collect())
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn matched<'a>(&'a self, seen: &Activation<'a>) -> Matched {
        let mut budget = Budget::new(MATCH_CONDITIONS);
        let mut problems = Vec::new();
        for (expression, program) in &self.0 {
            let result = match program {
                Ok(program) => program.eval(seen, &mut budget).map_err(|error| failure(expression, &error)),
                Err(why) => Err(why.clone()),
            };
            match result {
                Ok(Value::Bool(false)) => return Matched::No,
                Ok(_) => {}
                Err(why) => problems.push(why),
            }
        }
        if problems.is_empty() { Matched::Yes } else { Matched::Unclear(aggregate(&problems)) }
    }
}

/// What expressions see of one request. Owns what is made for them; [`Sight::activation`] borrows it.
pub struct Sight<'a> {
    question: &'a Question<'a>,
    request: Json,
    params: Option<&'a Json>,
    namespace: Option<Json>,
    authorizer: &'a Arc<dyn Authorizer>,
}

static NULL: Json = Json::Null;

impl<'a> Sight<'a> {
    pub fn new(
        question: &'a Question<'a>,
        params: Option<&'a Json>,
        namespace: Option<&Json>,
        authorizer: &'a Arc<dyn Authorizer>,
    ) -> Sight<'a> {
        let mut request = question.request();
        for field in ["uid", "object", "oldObject"] {
            request.as_object_mut().map(|request| request.shift_remove(field));
        }
        Sight { question, request, params, namespace: namespace.map(exposed), authorizer }
    }

    pub fn activation<'b>(&'b self) -> Activation<'b> {
        let mut activation = Activation::default();
        let attributes = self.question.attributes;
        activation.set("object", Value::from_json(self.question.object.unwrap_or(&NULL)));
        activation.set("oldObject", Value::from_json(self.question.old.unwrap_or(&NULL)));
        activation.set("request", Value::from_json(&self.request));
        activation.set("params", Value::from_json(self.params.unwrap_or(&NULL)));
        activation.set("namespaceObject", Value::from_json(self.namespace.as_ref().unwrap_or(&NULL)));
        let resource = &attributes.resource;
        activation.set(
            "authorizer.requestResource",
            authorizer::resource_check(Check {
                subject: Subject::Requester,
                path: String::new(),
                group: resource.group.to_string(),
                resource: resource.resource.to_string(),
                subresource: attributes.subresource.to_owned(),
                namespace: attributes.seen_namespace().to_owned(),
                name: attributes.name.to_owned(),
                field_selector: String::new(),
                label_selector: String::new(),
                verb: String::new(),
            }),
        );
        let answer = move |check: &Check| authorized(&**self.authorizer, attributes.user, check);
        activation.set_authorizer(Subject::Requester, Box::new(answer));
        activation
    }
}

/// The parts of a namespace that expressions may see.
fn exposed(namespace: &Json) -> Json {
    let metadata = &namespace["metadata"];
    let mut shown = json!({});
    let fields = [
        "name",
        "generateName",
        "namespace",
        "labels",
        "annotations",
        "creationTimestamp",
        "deletionGracePeriodSeconds",
        "deletionTimestamp",
        "generation",
        "resourceVersion",
        "finalizers",
    ];
    for field in fields.into_iter().filter(|field| !metadata[*field].is_null()) {
        shown[field] = metadata[field].clone();
    }
    shown["UID"] = metadata["uid"].clone();
    json!({
        "metadata": shown, "spec": {"finalizers": namespace["spec"]["finalizers"]},
        "status": {"phase": namespace["status"]["phase"]},
    })
}

fn authorized(authorizer: &dyn Authorizer, requester: &UserInfo, check: &Check) -> (bool, String) {
    let account;
    let user = match &check.subject {
        Subject::Requester => requester,
        Subject::ServiceAccount { namespace, name } => {
            account = UserInfo {
                name: crate::authn::service_account::username(namespace, name),
                groups: vec![
                    "system:serviceaccounts".to_owned(),
                    format!("system:serviceaccounts:{namespace}"),
                    "system:authenticated".to_owned(),
                ],
                ..UserInfo::default()
            };
            &account
        }
    };
    let info = match check.path.is_empty() {
        false => RequestInfo { path: check.path.clone(), verb: check.verb.clone(), ..RequestInfo::default() },
        true => RequestInfo {
            is_resource_request: true,
            verb: check.verb.clone(),
            api_group: check.group.clone(),
            api_version: "*".to_owned(),
            resource: check.resource.clone(),
            subresource: check.subresource.clone(),
            namespace: check.namespace.clone(),
            name: check.name.clone(),
            field_selector: Some(check.field_selector.clone()).filter(|text| !text.is_empty()),
            label_selector: Some(check.label_selector.clone())
                .filter(|text| labels::Selector::parse(text).is_ok_and(|s| !s.is_empty())),
            ..RequestInfo::default()
        },
    };
    // Authorizers decide from what is in memory: they are never pending.
    match authorizer.authorize(user, &info).now_or_never() {
        Some(Decision::Allow(reason)) => (true, reason),
        Some(Decision::Deny(reason) | Decision::NoOpinion(reason)) => (false, reason),
        None => (false, "the authorizer could not answer at once".to_owned()),
    }
}

/// The type of a built-in kind, for checking expressions about it.
pub fn built_in(kind: &GroupVersionKind) -> Option<Type> {
    Schema::kubernetes().lookup(kind).map(|ty| schema::from_table(&ty))
}
