//! Expressions and what they come to.
#![allow(clippy::unwrap_used)]

use serde_json::{Value as Json, json};
use skeg_cel::{Activation, Budget, Env, ObjectType, Type, Value, compile, schema};

/// The value of an expression over `object` and `self`, or the error, as text.
fn eval(expression: &str, object: &Json) -> String {
    let env = Env::default().with("object", Type::Dyn);
    let program = match compile(expression, &env) {
        Ok(program) => program,
        Err(error) => return error.to_string().lines().next().unwrap_or_default().to_owned(),
    };
    let mut activation = Activation::default();
    activation.set("object", Value::from_json(object));
    match program.eval(&activation, &mut Budget::new(skeg_cel::PER_CALL)) {
        Ok(value) => value.to_json().map_or_else(|name| name, |json| json.to_string()),
        Err(error) => format!("error: {error}"),
    }
}

#[track_caller]
fn check(table: &[(&str, &str)]) {
    let object = json!({
        "metadata": {"name": "web", "labels": {"app": "web", "a-b": "c"}},
        "spec": {"replicas": 3, "ratio": 1.5, "ports": [80, 443], "items": [{"n": 1, "on": true}, {"n": 2}]},
    });
    for (expression, wanted) in table {
        assert_eq!(eval(expression, &object), *wanted, "{expression}");
    }
}

#[test]
fn operators() {
    check(&[
        ("1 + 2 * 3", "7"),
        ("7 / 2", "3"),
        ("-7 % 3", "-1"),
        ("1 / 0", "error: division by zero"),
        ("9223372036854775807 + 1", "error: integer overflow"),
        ("int(9.22e18) == 9220000000000000000 && uint(1.84e19) == 18400000000000000000u", "true"),
        ("int(9.3e18)", "error: integer overflow"),
        ("uint(-1.0)", "error: unsigned integer overflow"),
        ("3u - 4u", "error: unsigned integer overflow"),
        ("'a' + 'b'", "\"ab\""),
        ("[1] + [2]", "[1,2]"),
        ("1 < 2 && 2 <= 2 && 'a' < 'b'", "true"),
        ("1 == 1.0 || false", "ERROR: <input>:1:3: found no matching overload for '_==_' applied to '(int, double)'"),
        ("dyn(1) == 1.0", "true"),
        ("1 < 1.5", "true"),
        ("true ? 1 : 2", "1"),
        ("2 in [1, 2] && 'a' in {'a': 1}", "true"),
        ("[1, 2][1]", "2"),
        ("[1][1]", "error: index out of bounds: 1"),
        ("{'a': 1}['b']", "error: no such key: b"),
        ("false && 1 / 0 == 1", "false"),
        ("1 / 0 == 1 && false", "false"),
        ("1 / 0 == 1 || true", "true"),
    ]);
}

#[test]
fn fields_and_macros() {
    check(&[
        ("object.spec.replicas > 1", "true"),
        ("object.spec.nothing", "error: no such key: nothing"),
        ("has(object.spec.nothing)", "false"),
        ("has(object.spec.replicas)", "true"),
        ("object.metadata.labels['a-b']", "\"c\""),
        ("object.spec.items.all(i, i.n > 0)", "true"),
        ("object.spec.items.all(i, has(i.on) && i.on)", "false"),
        ("object.spec.items.exists(i, i.n == 2)", "true"),
        ("object.spec.items.exists_one(i, i.n == 2)", "true"),
        ("object.spec.items.map(i, i.n * 2)", "[2,4]"),
        ("object.spec.items.filter(i, i.n > 1).size()", "1"),
        ("object.spec.items.map(i, i.n > 1, i.n)", "[2]"),
        ("object.metadata.labels.exists(k, k == 'app')", "true"),
        ("object.spec.ports.all(i, p, p > i)", "true"),
        ("object.metadata.labels.transformMap(k, v, v + '!')", "{\"a-b\":\"c!\",\"app\":\"web!\"}"),
        ("object.spec.ports.transformList(i, p, p + i)", "[80,444]"),
        ("object.?spec.?nothing.orValue(5)", "5"),
        ("object.spec.?replicas.optMap(r, r + 1).value()", "4"),
        ("{'a': 1, ?'b': object.?nothing}", "{\"a\":1}"),
        ("[?object.?nothing, 1]", "[1]"),
        ("object.spec.items.sortBy(i, -i.n)[0].n", "2"),
    ]);
}

#[test]
fn text() {
    check(&[
        ("'hello'.startsWith('he') && 'hello'.matches('^h.*o$')", "true"),
        ("'a,b,c'.split(',')", "[\"a\",\"b\",\"c\"]"),
        ("'abc'.substring(1)", "\"bc\""),
        ("'abc'.replace('b', 'x').upperAscii()", "\"AXC\""),
        ("['a', 'b'].join('-')", "\"a-b\""),
        ("'%s is %d'.format([dyn('x'), 3])", "\"x is 3\""),
        ("'a1b22'.findAll('[0-9]+')", "[\"1\",\"22\"]"),
        ("'héllo'.size() == 5 && 'héllo'.indexOf('l') == 2", "true"),
        ("string(12) + string(1.5) + string(true)", "\"121.5true\""),
        ("int('12') + int(2.9)", "14"),
        ("int('x')", "error: strconv.ParseInt: parsing \"x\": invalid syntax"),
        ("'wants ' + object.spec.replicas", "error: no such overload"),
        ("'x'.matches('[')", "ERROR: <input>:1:13: invalid matches argument"),
    ]);
}

#[test]
fn libraries() {
    check(&[
        ("duration('1h30m').getMinutes()", "90"),
        ("timestamp('2024-02-29T12:00:00Z').getDayOfMonth()", "28"),
        ("timestamp('2024-01-01T00:00:00Z') + duration('24h') == timestamp('2024-01-02T00:00:00Z')", "true"),
        ("quantity('1.5Gi').isGreaterThan(quantity('1G'))", "true"),
        ("quantity('2').add(3).asInteger()", "5"),
        ("isQuantity('x')", "false"),
        ("url('https://u@example.com:80/a/b?x=1').getHost()", "\"example.com:80\""),
        ("url('/a?x=1&x=2').getQuery()['x']", "[\"1\",\"2\"]"),
        ("isURL('../a')", "false"),
        ("ip('::1').isLoopback() && ip('10.0.0.1').family() == 4", "true"),
        ("cidr('10.0.0.0/8').containsIP('10.1.2.3') && !cidr('10.0.0.0/8').containsCIDR('11.0.0.0/16')", "true"),
        ("isIP('010.0.0.1')", "false"),
        ("semver('1.2.3').isLessThan(semver('1.10.0'))", "true"),
        ("semver('v1.0', true).minor()", "0"),
        ("format.dns1123Label().validate('a_b').hasValue()", "true"),
        ("!format.named('uuid').value().validate('7a4e1b3c-0000-4000-8000-000000000000').hasValue()", "true"),
        ("[3, 1, 2].sort() == [1, 2, 3] && [1, 2].sum() == 3 && [1, 3].max() == 3", "true"),
        ("sets.equivalent([1, 2], [2, 1]) && sets.contains([1, 2], [2])", "true"),
        ("lists.range(3)", "[0,1,2]"),
        ("type(1) == int && type('a') == string", "true"),
    ]);
}

#[test]
fn mistakes_are_told_in_the_words_of_cel_go() {
    let replicas = ObjectType { name: "Spec".into(), fields: [("replicas".to_owned(), Type::Int)].into() };
    let object = ObjectType { name: "D".into(), fields: [("spec".to_owned(), Type::Object(replicas.into()))].into() };
    let env = Env::default().with("object", Type::Object(object.into()));
    let table = [
        (
            "object.spec.replicas > '1'",
            "ERROR: <input>:1:22: found no matching overload for '_>_' applied to '(int, string)'\n | object.spec.replicas > '1'\n | .....................^",
        ),
        (
            "'a' + object.spec.replicas",
            "ERROR: <input>:1:5: found no matching overload for '_+_' applied to '(string, int)'\n | 'a' + object.spec.replicas\n | ....^",
        ),
        ("object.spec.more", "ERROR: <input>:1:12: undefined field 'more'\n | object.spec.more\n | ...........^"),
        ("nobody", "ERROR: <input>:1:1: undeclared reference to 'nobody' (in container '')\n | nobody\n | ^"),
        ("f(1)", "ERROR: <input>:1:2: undeclared reference to 'f' (in container '')\n | f(1)\n | .^"),
        (
            "1.startsWith('a')",
            "ERROR: <input>:1:13: found no matching overload for 'startsWith' applied to 'int.(string)'\n | 1.startsWith('a')\n | ............^",
        ),
        ("[1, 'a']", "ERROR: <input>:1:5: expected type 'int' but found 'string'\n | [1, 'a']\n | ....^"),
    ];
    for (expression, wanted) in table {
        assert_eq!(compile(expression, &env).err().unwrap().to_string(), wanted);
    }
    let error = compile("... [] bad expression", &env).err().unwrap().to_string();
    assert!(error.starts_with("ERROR: <input>:1:2: Syntax error: no viable alternative at input '..'\n"), "{error}");
}

#[test]
fn a_schema_types_what_it_describes() {
    let schema = json!({"type": "object", "properties": {
        "namespace": {"type": "string"}, "when": {"type": "string", "format": "date-time"},
        "for": {"type": "string", "format": "duration"}, "size": {"type": "number"},
        "free": {"x-kubernetes-preserve-unknown-fields": true},
        "tags": {"type": "object", "additionalProperties": {"type": "integer"}},
    }});
    let ty = schema::from_openapi(&schema, true).unwrap();
    let env = Env::default().with("self", ty.clone());
    let object = json!({"namespace": "n", "when": "2024-01-01T00:00:00Z", "for": "5m", "size": 2, "tags": {"a": 1},
        "free": {"x": [1]}, "metadata": {"name": "o"}});
    let table = [
        "self.__namespace__ == 'n'",
        "self.when.getFullYear() == 2024",
        "self.__for__ == duration('300s')",
        "self.size / 4.0 == 0.5",
        "self.tags['a'] + 1 == 2",
        "self.metadata.name == 'o'",
        "!has(self.metadata.generateName)",
    ];
    for expression in table {
        let program = compile(expression, &env).unwrap_or_else(|error| panic!("{error}"));
        let mut activation = Activation::default();
        activation.set("self", Value::typed(&object, &ty));
        let value = program.eval(&activation, &mut Budget::new(10_000)).unwrap();
        assert_eq!(value.as_bool(), Some(true), "{expression}");
    }
    let hidden = compile("self.free.x[0] == 1", &env).err().unwrap().to_string();
    assert!(hidden.contains("undefined field 'free'"), "what has no type is not seen: {hidden}");
}

#[test]
fn variables_are_evaluated_when_asked_for() {
    let env = Env::default().with("object", Type::Dyn).with("variables", Type::Dyn);
    let compiled = |name: &str, text: &str| (name.to_owned(), compile(text, &env).unwrap());
    let programs =
        [compiled("one", "object.n"), compiled("two", "variables.one + 1"), compiled("broken", "object.nothing")];
    let object = json!({"n": 1});
    let [good, bad] = ["variables.two * 10", "variables.broken"].map(|text| compile(text, &env).unwrap());
    let mut activation = Activation::default();
    activation.set("object", Value::from_json(&object));
    activation.set_lazy("variables", &programs);
    let value = good.eval(&activation, &mut Budget::new(1000)).unwrap();
    assert_eq!(value.to_json().unwrap(), json!(20));
    assert!(bad.eval(&activation, &mut Budget::new(1000)).is_err());
}

#[test]
fn what_an_expression_may_cost_is_bounded() {
    let text = "[1,2,3,4,5,6,7,8,9,10]".to_owned();
    let nested = (0..8).fold("true".to_owned(), |inner, depth| format!("{text}.all(v{depth}, {inner})"));
    assert_eq!(eval(&nested, &json!({})), "error: operation cancelled: actual cost limit exceeded");
}

#[test]
fn literals_with_fields_become_objects() {
    let env = Env::default().with_struct("Object");
    let text = "Object{metadata: Object.metadata{annotations: {'a': 'b'}}, spec: Object.spec{replicas: 3}}";
    let program = compile(text, &env).unwrap();
    let value = program.eval(&Activation::default(), &mut Budget::new(1000)).unwrap();
    let wanted = json!({"metadata": {"annotations": {"a": "b"}}, "spec": {"replicas": 3}});
    assert_eq!(value.to_json().unwrap(), wanted);
    assert!(compile("Other{a: 1}", &env).is_err());
}

#[test]
fn what_nests_deep_is_refused_or_evaluated_never_overflows() {
    let run = || {
        let env = Env::default();
        let nested = |open: &str, close: &str, n: usize| format!("{}1{}", open.repeat(n), close.repeat(n));
        let chain = |operator: &str, n: usize| vec!["1"; n].join(operator);
        for text in [
            nested("(", ")", 250),
            nested("[", "]", 250),
            nested("int(", ")", 250),
            chain(" + ", 2_000),
            chain(" == 1 ? 2 : ", 300),
        ] {
            if let Ok(program) = compile(&text, &env) {
                let _ = program.eval(&Activation::default(), &mut Budget::new(skeg_cel::PER_CALL));
            }
        }
        assert_eq!(compile(&nested("(", ")", 200), &env).err().map(|e| e.to_string()), None);
        let refused = compile(&nested("(", ")", 300), &env).err().unwrap();
        assert_eq!(refused.to_string(), "expression recursion limit exceeded: 250");
    };
    // As small as a worker's of the server.
    std::thread::Builder::new().stack_size(2 << 20).spawn(run).unwrap().join().unwrap();
}
