//! Service accounts.

use crate::builder::Def;
use crate::columns::NAME_AGE;
use crate::rules::Rules;
use crate::spec::{ResourceSpec, Verb};

pub fn spec() -> ResourceSpec {
    Def::new("", "v1", "serviceaccounts", "ServiceAccount")
        .short(&["sa"])
        .special("token", &[Verb::Create], Some(("authentication.k8s.io", "v1", "TokenRequest")))
        .columns(NAME_AGE)
        .rules(Rules { metadata_checks: (1, 1), ..Rules::PLAIN })
        .build()
}
