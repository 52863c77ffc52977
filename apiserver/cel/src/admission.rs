//! Expressions of admission: match conditions of webhooks and all of the admission policies
//! (apiserver/pkg/admission/plugin/cel/compile.go). Which variables each may use and what it must come to.

use std::collections::BTreeMap;

use crate::program::{Env, Program, compile};
use crate::types::{ObjectType, Type};

/// What policies may spend on one request (celconfig.RuntimeCELCostBudget).
pub const PER_REQUEST: u64 = 10_000_000;
/// What the match conditions of one webhook or policy may spend.
pub const MATCH_CONDITIONS: u64 = 2_500_000;

/// Which variables an expression of admission may name.
#[derive(Clone)]
pub struct Scope {
    pub params: Option<Type>,
    pub authorizer: bool,
    /// Whether objects and JSON patches may be made.
    pub mutation: bool,
    /// The type of `object` and `oldObject`.
    pub object: Type,
    /// The types of the fields of `variables`; see [`Scope::declare`].
    pub variables: Option<BTreeMap<String, Type>>,
}

impl Scope {
    pub fn new(params: bool) -> Scope {
        let params = params.then_some(Type::Dyn);
        Scope { params, authorizer: true, mutation: false, object: Type::Dyn, variables: None }
    }

    /// Makes `variables.NAME` of this type known to what is compiled from here on.
    pub fn declare(&mut self, name: &str, ty: &Type) {
        self.variables.get_or_insert_default().insert(name.to_owned(), ty.clone());
    }

    fn env(&self) -> Env {
        let mut env = Env::default()
            .with("object", self.object.clone())
            .with("oldObject", self.object.clone())
            .with("request", request())
            .with("namespaceObject", namespace());
        if let Some(params) = &self.params {
            env = env.with("params", params.clone());
        }
        if self.authorizer {
            env = env
                .with("authorizer", Type::Opaque("kubernetes.authorization.Authorizer"))
                .with("authorizer.requestResource", Type::Opaque("kubernetes.authorization.ResourceCheck"));
        }
        if let Some(variables) = &self.variables {
            let variables = ObjectType { name: "kubernetes.variables".to_owned(), fields: variables.clone() };
            env = env.with("variables", Type::Object(variables.into()));
        }
        if self.mutation {
            env = env.with_struct("Object").with_struct("JSONPatch");
        }
        env
    }

    /// Compiles an expression that must come to exactly one of `expected`, so that dyn is not enough; none expects
    /// anything. `Err` is the detail of a field error.
    pub fn compile(&self, expression: &str, expected: &[Type]) -> Result<Program, String> {
        let program = compile(expression, &self.env()).map_err(|error| format!("compilation failed: {error}"))?;
        let result = program.result();
        if expected.is_empty() || expected.contains(result) {
            return Ok(program);
        }
        let result = result.full_name();
        Err(match expected {
            [one] => format!("must evaluate to {one} but got {result}"),
            several => {
                let names: Vec<String> = several.iter().map(Type::to_string).collect();
                format!("must evaluate to one of [{}] but got {result}", names.join(" "))
            }
        })
    }
}

fn object(name: &str, fields: &[(&str, Type)]) -> Type {
    let fields = fields.iter().map(|(name, ty)| ((*name).to_owned(), ty.clone())).collect();
    Type::Object(ObjectType { name: name.to_owned(), fields }.into())
}

/// The variable `request`: an AdmissionRequest without its objects.
fn request() -> Type {
    let text = Type::String;
    let kind = |name: &str, last: &str| {
        object(name, &[("group", Type::String), ("version", Type::String), (last, Type::String)])
    };
    let (gvk, gvr) = (kind("kubernetes.GroupVersionKind", "kind"), kind("kubernetes.GroupVersionResource", "resource"));
    let extra = Type::map(Type::String, Type::list(Type::String));
    let user = object(
        "kubernetes.UserInfo",
        &[("username", text.clone()), ("uid", text.clone()), ("groups", Type::list(text.clone())), ("extra", extra)],
    );
    object(
        "kubernetes.AdmissionRequest",
        &[
            ("kind", gvk.clone()),
            ("resource", gvr.clone()),
            ("subResource", text.clone()),
            ("requestKind", gvk),
            ("requestResource", gvr),
            ("requestSubResource", text.clone()),
            ("name", text.clone()),
            ("namespace", text.clone()),
            ("operation", text),
            ("userInfo", user),
            ("dryRun", Type::Bool),
            ("options", Type::Dyn),
        ],
    )
}

/// The variable `namespaceObject`.
fn namespace() -> Type {
    let text = Type::String;
    let texts = Type::map(Type::String, Type::String);
    let metadata = object(
        "kubernetes.NamespaceMetadata",
        &[
            ("name", text.clone()),
            ("generateName", text.clone()),
            ("namespace", text.clone()),
            ("labels", texts.clone()),
            ("annotations", texts),
            ("UID", text.clone()),
            ("creationTimestamp", Type::Timestamp),
            ("deletionGracePeriodSeconds", Type::Int),
            ("deletionTimestamp", Type::Timestamp),
            ("generation", Type::Int),
            ("resourceVersion", text.clone()),
            ("finalizers", Type::list(text.clone())),
        ],
    );
    let spec = object("kubernetes.NamespaceSpec", &[("finalizers", Type::list(text.clone()))]);
    let status = object("kubernetes.NamespaceStatus", &[("phase", text)]);
    object("kubernetes.Namespace", &[("metadata", metadata), ("spec", spec), ("status", status)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_list_is_of_what_it_is_used_with() {
        let scope = Scope { mutation: true, ..Scope::new(false) };
        let patch = "JSONPatch{op: 'add', path: '/a', value: 1}";
        let result = |expression: &str| {
            let wanted = [Type::list(Type::named("JSONPatch"))];
            scope.compile(&expression.replace("$", patch), &wanted).err().unwrap_or_default()
        };
        for expression in [
            "[$]",
            "[] + [$]",
            "[$] + []",
            "has(object.a) ? [] : [$]",
            "has(object.a) ? [$] : []",
            "object.items.map(item, $)",
            "object.items.filter(item, item.a == 1).map(item, $) + [$]",
            "object.items.map(item, item.a == 1, $)",
        ] {
            assert_eq!(result(expression), "", "{expression}");
        }
        assert_eq!(result("[]"), "must evaluate to list(JSONPatch) but got list(dyn)");
        assert_eq!(result("[] + []"), "must evaluate to list(JSONPatch) but got list(dyn)");
        assert_eq!(result("[1] + []"), "must evaluate to list(JSONPatch) but got list(int)");
        assert_eq!(result("object.patches"), "must evaluate to list(JSONPatch) but got dyn");
        assert!(scope.compile("{} == {'a': 1} && [] == [1]", &[Type::Bool]).is_ok());
    }

    #[test]
    fn expressions_see_what_their_place_allows() {
        let mut scope = Scope::new(false);
        assert!(scope.compile("object.spec.replicas > 1 && request.operation == 'CREATE'", &[Type::Bool]).is_ok());
        assert!(scope.compile("authorizer.requestResource.check('x').allowed()", &[Type::Bool]).is_ok());
        assert!(scope.compile("namespaceObject.metadata.labels['a'] == 'b'", &[Type::Bool]).is_ok());
        let wrong = |expression: &str| scope.compile(expression, &[Type::Bool]).err().unwrap_or_default();
        assert_eq!(wrong("'text'"), "must evaluate to bool but got string");
        assert_eq!(wrong("[duration('1s')]"), "must evaluate to bool but got list(google.protobuf.Duration)");
        assert_eq!(wrong("object.spec.ready"), "must evaluate to bool but got dyn");
        assert!(wrong("params.a").contains("undeclared reference to 'params'"));
        assert!(wrong("... [] bad").starts_with("compilation failed: ERROR: <input>:1:2: Syntax error: "));
        assert!(wrong("variables.n > 1").contains("undeclared reference to 'variables'"));
        scope.declare("n", &Type::Int);
        assert!(scope.compile("variables.n > 1", &[Type::Bool]).is_ok());
    }
}
