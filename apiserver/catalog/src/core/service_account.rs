//! Service accounts.

use serde_json::Value;

use crate::builder::Def;
use crate::columns::NAME_AGE;
use crate::rules::Rules;
use crate::spec::{ResourceSpec, Verb};

pub fn spec() -> ResourceSpec {
    Def::new("", "v1", "serviceaccounts", "ServiceAccount")
        .short(&["sa"])
        .special("token", &[Verb::Create], Some(("authentication.k8s.io", "v1", "TokenRequest")))
        .columns(NAME_AGE)
        .rules(Rules {
            metadata_checks: (1, 1),
            metadata_changes_first: true,
            create: |_, object| names_only(object),
            update: |_, object, _| names_only(object),
            ..Rules::PLAIN
        })
        .build()
}

/// Of the secrets that an account lists only their names are kept (registry/core/serviceaccount/strategy.go).
fn names_only(object: &mut Value) {
    for secret in object.get_mut("secrets").and_then(Value::as_array_mut).into_iter().flatten() {
        if let Value::Object(reference) = secret {
            reference.retain(|key, _| key == "name");
        }
    }
}
