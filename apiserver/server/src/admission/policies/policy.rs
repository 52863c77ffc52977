//! Policies and their bindings as they are evaluated: parsed and compiled once, kept up with the stored objects.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use futures::StreamExt;
use serde_json::Value;
use skeg_cel::admission::Scope;
use skeg_cel::{Program, Type};
use skeg_machinery::gvk::{GroupResource, GroupVersionKind};
use skeg_machinery::meta;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::admission::conditions::Conditions;
use crate::admission::items;
use crate::admission::matching::{Rule, Selectors};
use crate::resources::{Change, Resources};

const GROUP: &str = "admissionregistration.k8s.io";
const WAIT: Duration = Duration::from_secs(10);

/// `matchConstraints` of a policy, `matchResources` of a binding.
pub struct Matching {
    pub rules: Vec<Rule>,
    pub excluded: Vec<Rule>,
    pub equivalent: bool,
    pub selectors: Selectors,
}

impl Matching {
    pub fn from_json(value: &Value) -> Matching {
        Matching {
            rules: items(value, "resourceRules").map(Rule::from_json).collect(),
            excluded: items(value, "excludeResourceRules").map(Rule::from_json).collect(),
            equivalent: value["matchPolicy"] != "Exact",
            selectors: Selectors::from_json(value),
        }
    }
}

pub struct Validation {
    pub expression: String,
    pub program: Program,
    pub message: String,
    pub message_program: Option<Program>,
    pub reason: String,
}

/// With its expression, which errors name.
pub enum Mutation {
    Apply(String, Program),
    JsonPatch(String, Program),
}

/// What a policy does.
#[derive(Default)]
pub struct Rules {
    pub conditions: Conditions,
    pub variables: Vec<(String, Program)>,
    pub validations: Vec<Validation>,
    /// Values of audit annotations: published nowhere, but an error of one is an error of the policy.
    pub audits: Vec<(String, Program)>,
    pub mutations: Vec<Mutation>,
}

pub struct Policy {
    pub name: String,
    pub fails_open: bool,
    pub matching: Matching,
    pub param_kind: Option<GroupVersionKind>,
    /// `Err`: an expression that does not compile, which only an older server can have let in.
    pub rules: Result<Rules, String>,
    pub reinvoked: bool,
}

pub struct Binding {
    pub name: String,
    pub policy: String,
    /// Deny, Warn, Audit.
    pub actions: Vec<String>,
    pub param_ref: Value,
    pub matching: Option<Matching>,
}

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field].as_str().unwrap_or_default()
}

/// The kind that parameters are of.
pub fn param_kind(spec: &Value) -> Option<GroupVersionKind> {
    let kind = spec.get("paramKind").filter(|kind| kind.is_object())?;
    GroupVersionKind::parse(text(kind, "apiVersion"), text(kind, "kind")).ok()
}

impl Policy {
    pub fn from_json(policy: &Value) -> Policy {
        let spec = &policy["spec"];
        Policy {
            name: meta::name(policy).to_owned(),
            fails_open: spec["failurePolicy"] == "Ignore",
            matching: Matching::from_json(&spec["matchConstraints"]),
            param_kind: param_kind(spec),
            rules: compile(spec),
            reinvoked: spec["reinvocationPolicy"] == "IfNeeded",
        }
    }
}

fn compile(spec: &Value) -> Result<Rules, String> {
    let mut scope = Scope::new(spec["paramKind"].is_object());
    let conditions = Conditions::compile(spec, &scope);
    let mut variables = Vec::new();
    for variable in items(spec, "variables") {
        let program = scope.compile(text(variable, "expression"), &[])?;
        scope.declare(text(variable, "name"), program.result());
        variables.push((text(variable, "name").to_owned(), program));
    }
    let messages = Scope { authorizer: false, ..scope.clone() };
    let mut validations = Vec::new();
    for validation in items(spec, "validations") {
        let message = text(validation, "messageExpression");
        validations.push(Validation {
            expression: text(validation, "expression").trim().to_owned(),
            program: scope.compile(text(validation, "expression"), &[Type::Bool])?,
            message: text(validation, "message").trim().to_owned(),
            message_program: match message.is_empty() {
                true => None,
                false => Some(messages.compile(message, &[Type::String])?),
            },
            reason: text(validation, "reason").to_owned(),
        });
    }
    let mut audits = Vec::new();
    for audit in items(spec, "auditAnnotations") {
        let program = scope.compile(text(audit, "valueExpression"), &[Type::String, Type::Null])?;
        audits.push((text(audit, "valueExpression").to_owned(), program));
    }
    let mutating = Scope { mutation: true, ..scope };
    let mutation = |mutation: &Value| {
        let json_patch = mutation["patchType"] == "JSONPatch";
        let expression = text(&mutation[if json_patch { "jsonPatch" } else { "applyConfiguration" }], "expression");
        let program = mutating.compile(expression, &[])?;
        let expression = expression.to_owned();
        Ok(if json_patch { Mutation::JsonPatch(expression, program) } else { Mutation::Apply(expression, program) })
    };
    let mutations = items(spec, "mutations").map(mutation).collect::<Result<_, String>>()?;
    Ok(Rules { conditions, variables, validations, audits, mutations })
}

fn binding_of(binding: &Value) -> Binding {
    let spec = &binding["spec"];
    Binding {
        name: meta::name(binding).to_owned(),
        policy: text(spec, "policyName").to_owned(),
        actions: items(spec, "validationActions").filter_map(Value::as_str).map(str::to_owned).collect(),
        param_ref: spec["paramRef"].clone(),
        matching: spec["matchResources"].is_object().then(|| Matching::from_json(&spec["matchResources"])),
    }
}

/// A policy and its bindings, which are of no effect without each other.
pub struct Bound {
    pub policy: Arc<Policy>,
    pub bindings: Vec<Arc<Binding>>,
}

/// All policies of one kind, in the order of their names.
pub struct Policies {
    policies: GroupResource,
    bindings: GroupResource,
    current: ArcSwap<Vec<Bound>>,
    synced: watch::Sender<bool>,
}

impl Policies {
    pub fn new(policies: &'static str, bindings: &'static str) -> Policies {
        Policies {
            policies: GroupResource::from_static(GROUP, policies),
            bindings: GroupResource::from_static(GROUP, bindings),
            current: ArcSwap::default(),
            synced: watch::Sender::new(false),
        }
    }

    /// What is in force; `None` when it could not be read in time.
    pub async fn current(&self) -> Option<Arc<Vec<Bound>>> {
        if !*self.synced.borrow() {
            let mut synced = self.synced.subscribe();
            tokio::time::timeout(WAIT, synced.wait_for(|synced| *synced)).await.ok()?.ok()?;
        }
        Some(self.current.load_full())
    }

    /// Follows policies and bindings until the shutdown.
    pub async fn run(&self, resources: Arc<dyn Resources>, shutdown: CancellationToken) {
        let policies = resources.follow(&self.policies).map(|change| (true, change));
        let mut changes = futures::stream::select(policies, resources.follow(&self.bindings).map(|c| (false, c)));
        let mut found: BTreeMap<String, Arc<Policy>> = BTreeMap::new();
        let mut bindings: BTreeMap<String, Arc<Binding>> = BTreeMap::new();
        let mut listed = [false, false];
        loop {
            let (is_policy, change) = tokio::select! {
                Some(change) = changes.next() => change,
                () = shutdown.cancelled() => return,
            };
            match (is_policy, change) {
                (_, Change::Synced) => listed[usize::from(is_policy)] = true,
                (true, Change::Restart) => {
                    found.clear();
                    listed[1] = false;
                }
                (false, Change::Restart) => {
                    bindings.clear();
                    listed[0] = false;
                }
                (true, Change::Applied(policy)) => {
                    found.insert(meta::name(&policy).to_owned(), Arc::new(Policy::from_json(&policy)));
                }
                (false, Change::Applied(binding)) => {
                    bindings.insert(meta::name(&binding).to_owned(), Arc::new(binding_of(&binding)));
                }
                (true, Change::Deleted(policy)) => {
                    found.remove(meta::name(&policy));
                }
                (false, Change::Deleted(binding)) => {
                    bindings.remove(meta::name(&binding));
                }
            }
            if listed == [true, true] {
                self.publish(&found, &bindings);
            }
        }
    }

    fn publish(&self, policies: &BTreeMap<String, Arc<Policy>>, bindings: &BTreeMap<String, Arc<Binding>>) {
        let bound = policies.values().map(|policy| Bound {
            policy: policy.clone(),
            bindings: bindings.values().filter(|binding| binding.policy == policy.name).cloned().collect(),
        });
        self.current.store(Arc::new(bound.filter(|bound| !bound.bindings.is_empty()).collect()));
        self.synced.send_replace(true);
    }

    #[cfg(test)]
    pub fn set(&self, policies: &[Value], bindings: &[Value]) {
        let named = |policy: &Value| (meta::name(policy).to_owned(), Arc::new(Policy::from_json(policy)));
        let bound = |binding: &Value| (meta::name(binding).to_owned(), Arc::new(binding_of(binding)));
        self.publish(&policies.iter().map(named).collect(), &bindings.iter().map(bound).collect());
    }
}
