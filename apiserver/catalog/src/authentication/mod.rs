//! The authentication.k8s.io group: questions that the server answers at once, nothing is stored.

use crate::builder::Def;
use crate::rules::Rules;
use crate::spec::{ResourceSpec, Verb};

pub const GROUP: &str = "authentication.k8s.io";

fn review(resource: &'static str, kind: &'static str) -> ResourceSpec {
    Def::new(GROUP, "v1", resource, kind)
        .cluster()
        .verbs(&[Verb::Create])
        .not_stored()
        .rules(Rules { name: crate::names::any, ..Rules::PLAIN })
        .build()
}

pub fn self_subject_review() -> ResourceSpec {
    review("selfsubjectreviews", "SelfSubjectReview")
}

pub fn token_review() -> ResourceSpec {
    review("tokenreviews", "TokenReview")
}
