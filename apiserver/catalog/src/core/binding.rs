//! Bindings: write-only, of a pod to a node.

use crate::builder::Def;
use crate::rules::Rules;
use crate::spec::{ResourceSpec, Verb};

pub fn spec() -> ResourceSpec {
    Def::new("", "v1", "bindings", "Binding").verbs(&[Verb::Create]).not_stored().rules(Rules::PLAIN).build()
}
