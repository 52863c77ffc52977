//! The rules of custom resources (apiextensions-apiserver/pkg/registry/customresource): what their schema says, and the
//! little that holds for all of them.

use std::sync::Arc;

use serde_json::Value;
use skeg_machinery::field::{Error, ErrorList, ErrorType, Path};
use skeg_machinery::structural::{Node, Old};
use skeg_machinery::text::quote;
use skeg_machinery::validation::is_qualified_name;

use super::rules::{Run, Validator};
use crate::json::{Read, Write};
use crate::names;
use crate::spec::{Context, Generation, Strategy, UpdateStrategy};

#[derive(Clone)]
pub struct CustomStrategy {
    node: Arc<Node>,
    rules: Option<Arc<Validator>>,
    /// Whether status is a subresource.
    status: bool,
    scale: Option<Scale>,
}

/// The paths of the scale subresource, with their first dot.
#[derive(Clone)]
struct Scale {
    spec: String,
    status: String,
    selector: Option<String>,
}

impl CustomStrategy {
    pub fn new(node: Arc<Node>, rules: Option<Arc<Validator>>, status: bool, scale: &Value) -> Self {
        let scale = scale.is_object().then(|| Scale {
            spec: scale.text("specReplicasPath").to_owned(),
            status: scale.text("statusReplicasPath").to_owned(),
            selector: scale.opt_text("labelSelectorPath").map(str::to_owned),
        });
        Self { node, rules, status, scale }
    }

    fn check(&self, object: &Value, old: Option<&Value>) -> ErrorList {
        let root = Path::root();
        let old = old.map(|value| Old { value, node: &self.node });
        let mut errors = self.node.check(&root, object, old);
        if let Some(scale) = &self.scale {
            replicas(&mut errors, object, &scale.spec);
            scale.check_status(&mut errors, object);
        }
        errors.extend(self.node.embedded(&root, object));
        errors
    }

    /// Lists that were right before may not become wrong.
    fn lists(&self, object: &Value, old: Option<&Value>) -> ErrorList {
        let root = Path::root();
        let errors = self.node.duplicates(&root, object);
        let were_wrong = || old.is_some_and(|old| !self.node.duplicates(&root, old).is_empty());
        if errors.is_empty() || were_wrong() { ErrorList::new() } else { errors }
    }

    /// What the rules forbid; they are run on objects only that are of their schema.
    fn run_rules(&self, ctx: &Context<'_>, errors: &mut ErrorList, object: &Value, old: Option<&Value>) {
        let Some(rules) = &self.rules else { return };
        if errors.iter().any(blocks) {
            let detail = "some validation rules were not checked because the object was invalid; correct the existing errors to complete validation";
            errors.push(Error::invalid(&Path::root(), Value::Null, detail));
            return;
        }
        errors.extend(Run::check(rules, object, old.map(|old| (old, &*self.node)), ctx.warn));
    }
}

impl Strategy for CustomStrategy {
    fn name_problems(&self, name: &str, prefix: bool) -> Vec<String> {
        names::subdomain(name, prefix)
    }

    fn prepare_for_create(&self, _ctx: &Context<'_>, object: &mut Value) {
        if self.status {
            object.remove("status");
        }
    }

    fn validate(&self, ctx: &Context<'_>, object: &Value) -> ErrorList {
        let mut errors = self.check(object, None);
        errors.extend(self.lists(object, None));
        self.run_rules(ctx, &mut errors, object, None);
        errors
    }

    fn prepare_for_update(&self, _ctx: &Context<'_>, object: &mut Value, old: &Value) {
        if self.status {
            object.copy_from("status", old);
        }
    }

    fn validate_update(&self, ctx: &Context<'_>, object: &Value, old: &Value) -> ErrorList {
        let mut errors = self.check(object, Some(old));
        errors.extend(self.lists(object, Some(old)));
        self.run_rules(ctx, &mut errors, object, Some(old));
        errors
    }

    fn warnings(&self, _ctx: &Context<'_>, object: &Value, old: Option<&Value>) -> Vec<String> {
        let before = old.map(|old| old.texts("metadata.finalizers")).unwrap_or_default();
        let mut added = object.texts("metadata.finalizers");
        added.retain(|name| !before.contains(name));
        added.sort_unstable();
        added.dedup();
        added.into_iter().flat_map(finalizer_warnings).collect()
    }

    fn generation(&self) -> Generation {
        Generation::OnAnyChange
    }

    fn reset_fields(&self) -> &'static [&'static str] {
        if self.status { &["status"] } else { &[] }
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }
}

/// Whether an error is about the shape of the object, which rules count on.
fn blocks(error: &Error) -> bool {
    use ErrorType::{NotSupported, Required, TooLong, TooMany, TypeInvalid};
    matches!(error.error_type, NotSupported | Required | TooLong | TooMany | TypeInvalid)
}

fn finalizer_warnings(name: &str) -> Vec<String> {
    let about = |text: &str| format!("metadata.finalizers: {}: {text}", quote(name));
    let mut warnings: Vec<String> = is_qualified_name(name).iter().map(|text| about(text)).collect();
    let standard = matches!(name, "orphan" | "foregroundDeletion" | "kubernetes");
    if !name.contains('/') && !standard {
        let path = if name.contains('.') { " including a path (/)" } else { "" };
        warnings.push(about(&format!(
            "prefer a domain-qualified finalizer name{path} to avoid accidental conflicts with other finalizer writers"
        )));
    }
    warnings
}

impl Scale {
    fn check_status(&self, errors: &mut ErrorList, object: &Value) {
        replicas(errors, object, &self.status);
        if let Some(path) = &self.selector
            && let Err(problem) = nested(object, path, "string", |value| value.as_str())
        {
            errors.push(Error::invalid(&Path::new(path), "", problem));
        }
    }
}

fn replicas(errors: &mut ErrorList, object: &Value, path: &str) {
    let at = Path::new(path);
    match nested(object, path, "int64", |value| value.as_i64()) {
        Err(problem) => errors.push(Error::invalid(&at, 0, problem)),
        Ok(Some(count)) if count < 0 => errors.push(Error::invalid(&at, count, "should be a non-negative integer")),
        Ok(Some(count)) if count > i64::from(i32::MAX) => {
            errors.push(Error::invalid(&at, count, format!("should be less than or equal to {}", i32::MAX)));
        }
        Ok(_) => {}
    }
}

/// What is at a path of members; `Err` when something else is, in the words of unstructured's accessors.
fn nested<'a, T>(
    object: &'a Value,
    path: &str,
    expected: &str,
    read: impl Fn(&'a Value) -> Option<T>,
) -> Result<Option<T>, String> {
    let (mut value, mut so_far) = (object, String::new());
    for name in path.trim_start_matches('.').split('.') {
        let Value::Object(members) = value else {
            let (shown, kind) = go_type(value);
            return Err(format!(
                "{so_far} accessor error: {shown} is of the type {kind}, expected map[string]interface{{}}"
            ));
        };
        so_far.push('.');
        so_far.push_str(name);
        match members.get(name) {
            None => return Ok(None),
            Some(next) => value = next,
        }
    }
    if let Some(found) = read(value) {
        return Ok(Some(found));
    }
    let (shown, kind) = go_type(value);
    Err(format!("{so_far} accessor error: {shown} is of the type {kind}, expected {expected}"))
}

fn go_type(value: &Value) -> (String, &'static str) {
    let kind = match value {
        Value::Null => return ("<nil>".into(), "<nil>"),
        Value::Bool(_) => "bool",
        Value::Number(number) if number.is_f64() => "float64",
        Value::Number(_) => "int64",
        Value::String(text) => return (text.clone(), "string"),
        Value::Array(_) => "[]interface {}",
        Value::Object(_) => "map[string]interface {}",
    };
    (skeg_machinery::patch::go_map(value), kind)
}

/// A write of the status: nothing else changes, metadata included.
pub struct StatusStrategy(pub CustomStrategy);

impl UpdateStrategy for StatusStrategy {
    fn prepare(&self, _ctx: &Context<'_>, object: &mut Value, old: &Value) {
        let mut new = old.clone();
        new.copy_from("metadata.managedFields", object);
        new.copy_from("status", object);
        *object = new;
    }

    fn validate(&self, ctx: &Context<'_>, object: &Value, old: &Value) -> ErrorList {
        let Self(strategy) = self;
        let mut errors = ErrorList::new();
        let status = object.map("").and_then(|members| members.get("status"));
        if let (Some(status), Some(node)) = (status, strategy.node.property("status")) {
            let old = old.map("").and_then(|members| members.get("status")).map(|value| Old { value, node });
            errors = node.check(&Path::new("status"), status, old);
        }
        if let Some(scale) = &strategy.scale {
            scale.check_status(&mut errors, object);
        }
        errors.extend(strategy.lists(object, Some(old)));
        strategy.run_rules(ctx, &mut errors, object, Some(old));
        errors
    }

    fn reset_fields(&self) -> &'static [&'static str] {
        &["metadata", "spec"]
    }
}
