//! What must hold of an expression, whatever its text is: it compiles, or says why not, and ends within its budget.
#![allow(clippy::unwrap_used)]

use serde_json::json;
use skeg_cel::{Activation, Budget, Env, Type, Value, compile};

pub const SEEDS: [&[u8]; 6] = [
    b"object.spec.items.all(i, i.n > 0 && object.spec.name.matches('^[a-z-]+$'))",
    b"object.spec.items.map(i, i.n * 2).filter(n, n % 2 == 0).size() < 10 ? 'a' + string(1.5) : \"b\"",
    b"has(object.spec.labels.x) || object.spec.labels.exists_one(k, k in ['x', 'y'])",
    b"quantity('1.5Gi').compareTo(quantity('1Gi')) > 0 && isURL('https://a/b?c=d') && ip('::1').family() == 6",
    b"[1, 2, 3].sum() == 6 && duration('1h') < duration('2h') && timestamp('2026-01-01T00:00:00Z').getFullYear() == 2026",
    b"object.spec.name.split('-').join('').replace('a', 'b', 1).format([1]) == 'x'.lowerAscii()",
];

pub fn check(bytes: &[u8]) {
    let object = json!({"spec": {"replicas": 3, "items": [{"n": 1}, {"n": 2}], "name": "a-b", "labels": {"x": "y"}}});
    let env = Env::default().with("object", Type::Dyn);
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Ok(program) = compile(text, &env) else { return };
    let mut activation = Activation::default();
    activation.set("object", Value::from_json(&object));
    let _ = program.eval(&activation, &mut Budget::new(skeg_cel::PER_CALL)).map(|value| value.to_json());
}
