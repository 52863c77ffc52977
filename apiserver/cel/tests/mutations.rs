//! Short random runs over the CEL reader and evaluator. The machinery's tests have the mutations.
#![allow(clippy::unwrap_used)]

#[path = "../../machinery/tests/mutate/mod.rs"]
mod mutate;
mod property;

#[test]
fn expressions_compile_and_end_or_say_why() {
    mutate::fuzz(&property::SEEDS, property::check);
}
