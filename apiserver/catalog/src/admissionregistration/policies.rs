//! Validating and mutating admission policies and their bindings.

use serde_json::{Value, json};
use skeg_cel::Type;
use skeg_cel::admission::Scope;
use skeg_machinery::field::{ErrorList, Path};
use skeg_machinery::jsonpath::JsonPath;
use skeg_machinery::validation as rules;

use super::{GROUP, check_expression, check_match_conditions, check_rule, default_rule};
use crate::builder::Def;
use crate::check::Report;
use crate::columns::{AGE, Column, NAME, Row, Table, count, int, name, text};
use crate::json::{Read, Write};
use crate::names;
use crate::rules::{Part, Rules};
use crate::spec::{Generation, ResourceSpec};

const BINDING: &[Column] = const { &[NAME, text("PolicyName"), text("ParamRef"), AGE] };
const RULES: Rules = Rules {
    generation: Generation::OnSpecChange,
    unconditional_update: false,
    metadata_checks: (1, 0),
    ..Rules::PLAIN
};

fn def(resource: &'static str, kind: &'static str) -> Def {
    Def::new(GROUP, "v1", resource, kind).cluster().categories(&["api-extensions"])
}

pub fn validating_policy() -> ResourceSpec {
    def("validatingadmissionpolicies", "ValidatingAdmissionPolicy")
        .status(Part {
            check: |policy, _| {
                let mut e = ErrorList::new();
                check_warnings(&mut e, policy.list("status.typeChecking.expressionWarnings"));
                e.conditions(&Path::new("status").child("conditions"), policy.list("status.conditions"));
                e
            },
            metadata_checks: (0, 0),
            ..Part::STATUS_ONLY
        })
        .columns(Table {
            columns: const { &[NAME, int("Validations"), text("ParamKind"), AGE] },
            cells: |policy, row| {
                vec![name(policy), count(policy, "spec.validations"), param_kind(policy), row.age(policy)]
            },
        })
        .rules(Rules {
            defaults: |_, policy| default_policy(policy),
            resets: &["status"],
            create: |_, policy| policy.set("status", json!({})),
            check: check_validating,
            check_update: |policy, _| check_validating(policy),
            status: true,
            ..RULES
        })
        .build()
}

pub fn mutating_policy() -> ResourceSpec {
    def("mutatingadmissionpolicies", "MutatingAdmissionPolicy")
        .columns(Table {
            columns: const { &[NAME, int("Mutations"), text("ParamKind"), AGE] },
            cells: |policy, row| {
                vec![name(policy), count(policy, "spec.mutations"), param_kind(policy), row.age(policy)]
            },
        })
        .rules(Rules {
            defaults: |_, policy| default_policy(policy),
            check: check_mutating,
            check_update: |policy, _| check_mutating(policy),
            ..RULES
        })
        .build()
}

pub fn validating_binding() -> ResourceSpec {
    def("validatingadmissionpolicybindings", "ValidatingAdmissionPolicyBinding")
        .columns(Table { columns: BINDING, cells: binding_cells })
        .rules(Rules {
            defaults: |_, binding| default_match(binding, "spec.matchResources"),
            check: check_validating_binding,
            check_update: |binding, _| check_validating_binding(binding),
            ..RULES
        })
        .build()
}

pub fn mutating_binding() -> ResourceSpec {
    def("mutatingadmissionpolicybindings", "MutatingAdmissionPolicyBinding")
        .columns(Table { columns: BINDING, cells: binding_cells })
        .rules(Rules {
            defaults: |_, binding| default_match(binding, "spec.matchResources"),
            check: check_binding,
            check_update: |binding, _| check_binding(binding),
            ..RULES
        })
        .build()
}

fn check_warnings(e: &mut ErrorList, warnings: &[Value]) {
    let path = Path::new("status").child("typeChecking").child("expressionWarnings");
    for (index, warning) in warnings.iter().enumerate() {
        let at = path.index(index);
        e.need(&at.child("warning"), warning.text("warning"));
        let field = warning.text("fieldRef").trim();
        if e.need(&at.child("fieldRef"), field)
            && let Err(why) = JsonPath::parse(field)
        {
            e.invalid(&at.child("fieldRef"), field, format!("invalid JSONPath: {why}"));
        }
    }
}

fn param_kind(policy: &Value) -> Value {
    let kind = policy.at("spec.paramKind");
    match kind.is_null() {
        true => "<unset>".into(),
        false => format!("{}/{}", kind.text("apiVersion"), kind.text("kind")).into(),
    }
}

fn binding_cells(binding: &Value, row: &Row) -> Vec<Value> {
    let reference = binding.at("spec.paramRef");
    let param = match (reference.text("name"), reference.text("namespace")) {
        ("", _) if reference.has("selector") => reference.at("selector").to_string(),
        ("", _) => "<unset>".into(),
        (name, "") => format!("*/{name}"),
        (name, namespace) => format!("{namespace}/{name}"),
    };
    vec![name(binding), binding.text("spec.policyName").into(), param.into(), row.age(binding)]
}

fn default_policy(policy: &mut Value) {
    policy.default_to("spec.failurePolicy", "Fail");
    default_match(policy, "spec.matchConstraints");
}

fn default_match(object: &mut Value, path: &str) {
    if let Some(found) = object.at_mut(path) {
        found.default_to("matchPolicy", "Equivalent");
        found.default_to("namespaceSelector", json!({}));
        found.default_to("objectSelector", json!({}));
        for list in ["resourceRules", "excludeResourceRules"] {
            found.each(list, default_rule);
        }
    }
}

/// Returns what the expressions after the variables may name.
/// `operations`: those that rules may match, where not all may.
fn check_policy(e: &mut ErrorList, path: &Path, spec: &Value, operations: Option<&[&str]>) -> Scope {
    let mut scope = Scope::new(spec.has("paramKind"));
    match spec.opt_text("failurePolicy") {
        None => e.required(&path.child("failurePolicy"), ""),
        policy => e.one_of_set(&path.child("failurePolicy"), policy, &["Fail", "Ignore"]),
    }
    if spec.has("paramKind") {
        check_param_kind(e, &path.child("paramKind"), spec.at("paramKind"));
    }
    let at = path.child("matchConstraints");
    if spec.has("matchConstraints") {
        check_match(e, &at, spec.at("matchConstraints"));
        if spec.list("matchConstraints.resourceRules").is_empty() {
            e.required(&at.child("resourceRules"), "");
        }
        let at = at.child("resourceRules").child("operations");
        for rule in spec.list("matchConstraints.resourceRules").iter().filter(|_| operations.is_some()) {
            for operation in rule.texts("operations") {
                e.one_of_set(&at, Some(operation), operations.unwrap_or_default());
            }
        }
    } else {
        e.required(&at, "");
    }
    check_match_conditions(e, &path.child("matchConditions"), spec.list("matchConditions"), &scope);
    for (index, variable) in spec.list("variables").iter().enumerate() {
        let at = path.child("variables").index(index);
        let name = variable.text("name");
        if name.trim().is_empty() {
            e.required(&at.child("name"), "name is not specified");
        } else if !identifier(name) {
            e.invalid(&at.child("name"), name, "must be a valid CEL identifier");
        }
        if variable.text("expression").trim().is_empty() {
            e.required(&at.child("expression"), "expression is not specified");
        }
        check_variable(e, &at.child("expression"), variable, &mut scope);
    }
    scope
}

/// A variable that does not compile is of any type to those after it, so that it is told of once.
fn check_variable(e: &mut ErrorList, path: &Path, variable: &Value, scope: &mut Scope) {
    let expression = variable.text("expression");
    let compiled = scope.compile(expression, &[]);
    let ty = compiled.as_ref().map_or(Type::Dyn, |program| program.result().clone());
    if let (Err(detail), false) = (compiled, expression.trim().is_empty()) {
        e.invalid(path, expression, detail);
    }
    scope.declare(variable.text("name"), &ty);
}

fn identifier(name: &str) -> bool {
    let start = name.bytes().next().is_some_and(|byte| byte.is_ascii_alphabetic() || byte == b'_');
    start && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

fn check_param_kind(e: &mut ErrorList, path: &Path, kind: &Value) {
    let version = kind.text("apiVersion");
    let at = path.child("apiVersion");
    if e.need(&at, version) {
        let (group, version_only) = version.split_once('/').unwrap_or(("", version));
        let problems = if group.is_empty() { Vec::new() } else { rules::is_dns1123_subdomain(group) };
        if !problems.is_empty() {
            e.invalid(&at, group, problems.join(","));
        }
        let problems = rules::is_dns1035_label(version_only);
        if version_only.is_empty() {
            e.invalid(&at, version, "version must be specified");
        } else if !problems.is_empty() {
            e.invalid(&at, version_only, problems.join(","));
        }
    }
    let name = kind.text("kind");
    if e.need(&path.child("kind"), name) {
        let problems = rules::is_dns1035_label(&name.to_lowercase());
        if !problems.is_empty() {
            let detail = format!("may have mixed case, but should otherwise match: {}", problems.join(","));
            e.invalid(&path.child("kind"), name, detail);
        }
    }
}

fn check_match(e: &mut ErrorList, path: &Path, found: &Value) {
    match found.opt_text("matchPolicy") {
        None => e.required(&path.child("matchPolicy"), ""),
        policy => e.one_of_set(&path.child("matchPolicy"), policy, &["Equivalent", "Exact"]),
    }
    for member in ["namespaceSelector", "objectSelector"] {
        if found.has(member) {
            e.selector(&path.child(member), found.at(member));
        } else {
            e.required(&path.child(member), "");
        }
    }
    for list in ["resourceRules", "excludeResourceRules"] {
        for (index, rule) in found.list(list).iter().enumerate() {
            let at = path.child(list).index(index);
            let names = rule.texts("resourceNames");
            for (nth, name) in names.iter().enumerate() {
                e.path_segment(&at.child("resourceNames").index(nth), name);
                if names[..nth].contains(name) {
                    e.duplicate(&at.child("resourceNames").index(nth), *name);
                }
            }
            check_rule(e, &at, rule);
        }
    }
}

fn check_validating(policy: &Value) -> ErrorList {
    const ONE: &str = "validations or auditAnnotations must contain at least one item";
    let mut e = ErrorList::new();
    let path = Path::new("spec");
    let spec = policy.at("spec");
    let scope = check_policy(&mut e, &path, spec, None);
    let (validations, audits) = (spec.list("validations"), spec.list("auditAnnotations"));
    if validations.is_empty() && audits.is_empty() {
        e.required(&path.child("validations"), ONE);
        e.required(&path.child("auditAnnotations"), ONE);
    }
    for (index, validation) in validations.iter().enumerate() {
        check_validation(&mut e, &path.child("validations").index(index), validation, &scope);
    }
    if audits.len() > 20 {
        let value = spec.at("auditAnnotations").clone();
        e.invalid(&path.child("auditAnnotations"), value, "must not have more than 20 auditAnnotations");
    }
    for (index, audit) in audits.iter().enumerate() {
        let at = path.child("auditAnnotations").index(index);
        let key = audit.text("key");
        match policy.text("metadata.name") {
            "" => e.invalid(&at.child("key"), key, "requires metadata.name be non-empty"),
            name => e.qualified_name(&at.child("key"), &format!("{name}/{key}")),
        }
        if audit.text("valueExpression").trim().is_empty() {
            e.required(&at.child("valueExpression"), "valueExpression is not specified");
        }
        let texts = [Type::String, Type::Null];
        check_expression(&mut e, &at.child("valueExpression"), audit.text("valueExpression"), &scope, &texts);
        if audits[..index].iter().any(|other| other.text("key") == key) {
            e.duplicate(&at.child("key"), key);
        }
    }
    e
}

fn check_validation(e: &mut ErrorList, path: &Path, validation: &Value, scope: &Scope) {
    if validation.text("expression").trim().is_empty() {
        e.required(&path.child("expression"), "expression is not specified");
    }
    check_expression(e, &path.child("expression"), validation.text("expression"), scope, &[Type::Bool]);
    let own = Scope { authorizer: false, ..scope.clone() };
    let message = validation.text("messageExpression");
    check_expression(e, &path.child("messageExpression"), message, &own, &[Type::String]);
    for member in ["messageExpression", "message"] {
        let text = validation.text(member);
        if !text.is_empty() && text.trim().is_empty() {
            e.invalid(&path.child(member), text, "must be non-empty if specified");
        } else if member == "message" && text.trim().contains(['\n', '\r']) {
            e.invalid(&path.child(member), text, "must not contain line breaks");
        }
    }
    let known = ["Forbidden", "Invalid", "RequestEntityTooLarge"];
    e.one_of_set(&path.child("reason"), validation.opt_text("reason"), &known);
}

/// What is there is of the patch's type, and of no other.
fn check_mutation(e: &mut ErrorList, path: &Path, mutation: &Value, scope: &Scope) {
    let kind = mutation.text("patchType");
    let (member, other, expected) = match kind {
        "ApplyConfiguration" => ("applyConfiguration", "jsonPatch", Type::named("Object")),
        "JSONPatch" => ("jsonPatch", "applyConfiguration", Type::list(Type::named("JSONPatch"))),
        kind => {
            e.one_of(&path.child("patchType"), kind, &["ApplyConfiguration", "JSONPatch"]);
            return;
        }
    };
    let at = path.child(member).child("expression");
    let expression = mutation.at(member).text("expression");
    if mutation.at(member).is_null() {
        e.required(&path.child(member), &format!("must be specified when patchType is {kind}"));
    } else if expression.trim().is_empty() {
        e.required(&at, "");
    } else {
        check_expression(e, &at, expression, scope, &[expected]);
    }
    if !mutation.at(other).is_null() {
        let detail = format!("must not be specified when patchType is {kind}");
        e.invalid(&path.child(other), format!("{{{other}}}"), detail);
    }
}

/// A request that deletes has nothing to mutate.
const MUTABLE: [&str; 4] = ["*", "CONNECT", "CREATE", "UPDATE"];

fn check_mutating(policy: &Value) -> ErrorList {
    let mut e = ErrorList::new();
    let path = Path::new("spec");
    let spec = policy.at("spec");
    let scope = Scope { mutation: true, ..check_policy(&mut e, &path, spec, Some(&MUTABLE)) };
    let mutations = spec.list("mutations");
    if mutations.is_empty() {
        e.required(&path.child("mutations"), "mutations must contain at least one item");
    }
    for (index, mutation) in mutations.iter().enumerate() {
        check_mutation(&mut e, &path.child("mutations").index(index), mutation, &scope);
    }
    match spec.text("reinvocationPolicy") {
        "" => e.required(&path.child("reinvocationPolicy"), ""),
        policy => e.one_of_set(&path.child("reinvocationPolicy"), Some(policy), &["IfNeeded", "Never"]),
    }
    e
}

fn check_binding(binding: &Value) -> ErrorList {
    let mut e = ErrorList::new();
    let path = Path::new("spec");
    let spec = binding.at("spec");
    let policy = spec.text("policyName");
    if e.need(&path.child("policyName"), policy) {
        e.each(&path.child("policyName"), policy, names::subdomain(policy, false));
    }
    if spec.has("paramRef") {
        check_param_ref(&mut e, &path.child("paramRef"), spec.at("paramRef"));
    }
    if spec.has("matchResources") {
        check_match(&mut e, &path.child("matchResources"), spec.at("matchResources"));
    }
    e
}

fn check_param_ref(e: &mut ErrorList, path: &Path, reference: &Value) {
    const EXCLUSIVE: &str = "name and selector are mutually exclusive";
    let (name, selector) = (reference.text("name"), reference.has("selector"));
    if !name.is_empty() {
        e.path_segment(&path.child("name"), name);
        if selector {
            e.forbidden(&path.child("name"), EXCLUSIVE);
        }
    }
    if selector {
        e.selector(&path.child("selector"), reference.at("selector"));
        if !name.is_empty() {
            e.forbidden(&path.child("selector"), EXCLUSIVE);
        }
    }
    if name.is_empty() && !selector {
        e.required(path, "one of name or selector must be specified");
    }
    let action = reference.text("parameterNotFoundAction");
    e.one_of(&path.child("parameterNotFoundAction"), action, &["Deny", "Allow"]);
}

fn check_validating_binding(binding: &Value) -> ErrorList {
    let mut e = check_binding(binding);
    let path = Path::new("spec").child("validationActions");
    let actions = binding.texts("spec.validationActions");
    if actions.is_empty() {
        e.required(&path, "at least one validation action is required");
    }
    for (index, action) in actions.iter().enumerate() {
        e.one_of_set(&path.index(index), Some(action), &["Audit", "Deny", "Warn"]);
        if actions[..index].contains(action) {
            e.duplicate(&path.index(index), *action);
        }
    }
    if actions.contains(&"Deny") && actions.contains(&"Warn") {
        let value = binding.at("spec.validationActions").clone();
        let detail = "must not contain both Deny and Warn (repeating the same validation failure information in the API response and headers serves no purpose)";
        e.invalid(&path, value, detail);
    }
    e
}
