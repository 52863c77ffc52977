//! Selectors of devices: the expressions of DeviceClasses and claims of dynamic resource allocation
//! (dynamic-resource-allocation/cel/compile.go). What the variable `device` is, and what a selector may cost.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use crate::program::{Env, Program, compile_over};
use crate::schema::Declared;
use crate::types::Type;

/// The longest expression, in bytes.
pub const MAX_LENGTH: usize = 10 << 10;
/// What an expression may cost at most (CELSelectorExpressionMaxCost).
const MAX_COST: u64 = 1_000_000;

/// Limits of resource.k8s.io on what describes a device.
const DOMAIN: u64 = 63;
const ID: u64 = 32;
const DRIVER: u64 = 63;
const ATTRIBUTE: u64 = 64;
/// Of attributes and capacities together.
const ENTRIES: u64 = 32;

/// What is wrong with a selector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Problem {
    /// The detail of a field error.
    Invalid(String),
    TooComplex,
}

static DEVICE: LazyLock<(Env, Declared)> = LazyLock::new(|| {
    // Domain to name to what the driver says of it.
    let table = |value: Declared| Declared::map(DOMAIN, Declared::map(ID, value, ENTRIES), ENTRIES);
    let fields = [
        ("driver", Declared::simple(Type::String, DRIVER, 0)),
        ("allowMultipleAllocations", Declared::simple(Type::Bool, 1, 0)),
        ("attributes", table(Declared::simple(Type::Any, ATTRIBUTE, 0))),
        ("capacity", table(Declared::simple(Type::Opaque("kubernetes.Quantity"), 0, 0))),
    ];
    let fields: BTreeMap<_, _> = fields.map(|(name, field)| (name.to_owned(), Arc::new(field))).into();
    let device = Declared { variable: Some("device"), ..Declared::object("kubernetes.DRADevice", fields) };
    (Env::default().with("device", device.ty.clone()).with_bindings(), device)
});

/// Compiles a selector, which must come to a bool or to an attribute, whose type only a device tells.
pub fn compile(expression: &str) -> Result<Program, Problem> {
    let (env, device) = &*DEVICE;
    let (program, cost) = compile_over(expression, env, device)
        .map_err(|error| Problem::Invalid(format!("compilation failed: {error}")))?;
    match program.result() {
        Type::Bool | Type::Any => {}
        other => {
            let other = other.full_name();
            return Err(Problem::Invalid(format!("must evaluate to bool or the unknown type, not {other}")));
        }
    }
    if cost > MAX_COST { Err(Problem::TooComplex) } else { Ok(program) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Activation, Budget, PER_CALL};

    /// Upstream's own expectations (compile_test.go).
    const COSTS: &[(&str, u64)] = &[
        (r#"device.attributes["nothing.at.all"].nothing.isGreaterThan(quantity("0"))"#, 6),
        (r#""nothing.at.all" in device.attributes"#, 3),
        (r#""gpu.example.com" in device.attributes"#, 3),
        (r#"device.driver == """#, 2),
        (r#"device.driver == "gpu.example.com""#, 4),
        (r#"device.attributes["gpu.example.com"].name"#, 4),
        (r#"device.attributes["gpu.example.com"]["name"]"#, 4),
        (r#"cel.bind(gpu, device.attributes["gpu.example.com"], gpu.name)"#, 15),
        (r#"device.attributes["gpu.example.com"].name > 0"#, 5),
        (r#"device.attributes["gpu.example.com"].name == "tall""#, 5),
        (r#"device.attributes["gpu.example.com"].name.isGreaterThan(semver("0.0.1"))"#, 6),
        (
            r#"device.attributes["gpu.example.com"].name.isGreaterThan(semver("v0.0.1", true)) && isSemver("v1.0.0", true)"#,
            7,
        ),
        (r#"device.capacity["gpu.example.com"].name.isGreaterThan(quantity("1Ki"))"#, 6),
        (
            r#""name" in device.capacity["gpu.example.com"] && device.capacity["gpu.example.com"].name.isGreaterThan(quantity("1Ki"))"#,
            10,
        ),
        (
            r#"!("name" in device.capacity["gpu.example.com"]) || device.capacity["gpu.example.com"].name.isGreaterThan(quantity("1Ki"))"#,
            11,
        ),
        (
            r#"device.attributes["gpu.example.com"].a && device.attributes["gpu.example.com"].b && device.attributes["gpu.example.com"].c"#,
            12,
        ),
        (r#"device.attributes.exists_one(x, x == "gpu.example.com")"#, 164),
        (r#"device.attributes["gpu.example.com"].exists_one(x, x == "features")"#, 133),
        (r#"device.attributes["gpu.example.com"].features.split("feature").size() >= 2"#, 19),
        (r#"device.attributes["gpu.example.com"].features.matches("[^b]+xyz")"#, 18),
        (r#"device.capacity.exists_one(x, x == "gpu.example.com")"#, 164),
        (r#"device.capacity["gpu.example.com"].exists_one(x, x == "mebytes")"#, 133),
        (r#"device.allowMultipleAllocations == true"#, 3),
        (r#"device.allowMultipleAllocations == false"#, 3),
    ];

    fn cost(expression: &str) -> u64 {
        compile_over(expression, &DEVICE.0, &DEVICE.1).map_or_else(|error| panic!("{error}"), |(_, cost)| cost)
    }

    #[test]
    fn selectors_cost_what_upstreams_tests_expect() {
        for (expression, expected) in COSTS {
            assert_eq!(cost(expression), *expected, "{expression}");
        }
    }

    #[test]
    fn a_selector_comes_to_a_bool_or_to_an_attribute() {
        let problem = |expression: &str| compile(expression).err();
        let invalid = |detail: &str| Some(Problem::Invalid(detail.to_owned()));
        for expression in
            ["true", r#"device.attributes["d"].ready"#, r#"cel.bind(d, device.attributes["d"], d.a || d.b)"#]
        {
            assert_eq!(problem(expression), None, "{expression}");
        }
        assert_eq!(problem("1"), invalid("must evaluate to bool or the unknown type, not int"));
        assert_eq!(problem("dyn(true)"), invalid("must evaluate to bool or the unknown type, not dyn"));
        assert_eq!(
            problem("device.attributes.d"),
            invalid("must evaluate to bool or the unknown type, not map(string, google.protobuf.Any)")
        );
        assert_eq!(
            problem("device.nothing == 1"),
            invalid(
                "compilation failed: ERROR: <input>:1:7: undefined field 'nothing'\n | device.nothing == 1\n | ......^"
            )
        );
        let text = |expression: &str| match problem(expression) {
            Some(Problem::Invalid(text)) => text,
            other => panic!("{other:?}"),
        };
        assert!(text("?!").contains("Syntax error"));
        assert!(text("").starts_with("compilation failed: ERROR: <input>:1:0: Syntax error: mismatched input '<EOF>'"));
        assert!(!text("").contains('\n'));
        let after = "mismatched input 'Valid' expecting <EOF>\n | Not Valid!\n | ....^";
        assert!(text("Not Valid!").ends_with(after), "{}", text("Not Valid!"));
        assert!(text(r#"device.attributes["d"].name.includes("fish")"#).contains("undeclared reference to 'includes'"));
        assert!(text(r#"[device.attributes["d"].a, 1][0] == 1"#).contains("expected type 'any' but found 'int'"));
        assert!(text(r#"cel.bind(1, true, true)"#).contains("cel.bind() variable names must be simple identifiers"));
        assert!(
            text(r#"device.attributes["d"].list.exists(x, x > 0)"#)
                .contains("expression of type 'any' cannot be range")
        );
    }

    #[test]
    fn a_selector_that_may_cost_too_much_is_refused() {
        let nested = r#"device.attributes.all(a, device.attributes.all(b, device.attributes.all(c, device.attributes.all(d, a + b == c + d))))"#;
        assert_eq!(compile(nested).err(), Some(Problem::TooComplex));
        let types = r#"type(device.attributes["d"].a) == bool"#;
        assert_eq!(compile(types).err(), Some(Problem::TooComplex), "the size of types is not known");
    }

    #[test]
    fn what_is_bound_is_wrong_only_where_it_is_used() {
        let result = |expression: &str| {
            let program = crate::compile(expression, &DEVICE.0).unwrap();
            let outcome = program.eval(&Activation::default(), &mut Budget::new(PER_CALL));
            outcome.map_or_else(|error| error.to_string(), |value| value.to_json().unwrap().to_string())
        };
        assert_eq!(result("cel.bind(a, 2, cel.bind(b, a * a, a + b)) == 6"), "true");
        assert_eq!(result("cel.bind(a, 1 / 0, true)"), "true");
        assert_eq!(result("cel.bind(a, 1 / 0, a == 1)"), "division by zero");
    }

    #[test]
    fn nothing_but_a_selector_may_bind() {
        let error = crate::compile("cel.bind(a, 1, a == 1)", &Env::default()).err().unwrap();
        assert!(error.0.contains("undeclared reference to 'cel'"), "{error}");
    }
}
