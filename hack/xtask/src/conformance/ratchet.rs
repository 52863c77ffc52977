//! The tests that are known to pass. One of them that does not pass any more is a regression; new ones are added on request,
//! and nothing is ever taken out by a program.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use super::results::{Outcome, State};
use super::specs::Spec;

/// How a run compares with the list.
#[derive(Debug, PartialEq)]
pub struct Ratchet {
    /// Listed, in scope, and not passed.
    pub left: Vec<String>,
    /// Passed, and not listed yet.
    pub new: Vec<String>,
}

pub fn compare(passing: &[String], outcomes: &[Outcome]) -> Ratchet {
    let listed: BTreeSet<&str> = passing.iter().map(String::as_str).collect();
    let names = |wanted: fn(&Outcome, bool) -> bool| {
        outcomes.iter().filter(|o| wanted(o, listed.contains(o.name.as_str()))).map(|o| o.name.clone()).collect()
    };
    Ratchet {
        left: names(|outcome, listed| listed && outcome.state != State::Passed),
        new: names(|outcome, listed| !listed && outcome.state == State::Passed),
    }
}

/// The tests that stand in none of the two lists, or in both: each must stand in one of them.
pub fn misplaced(all: &[Spec], passing: &[String], failing: &[String]) -> Vec<String> {
    let names = all.iter().map(|spec| &spec.name);
    names.filter(|name| passing.contains(name) == failing.contains(name)).cloned().collect()
}

/// The tests that a page in Markdown lists: `- [sig-…] …`.
pub fn listed(page: &str) -> Vec<String> {
    page.lines()
        .filter_map(|line| line.strip_prefix("- "))
        .filter(|name| name.starts_with("[sig-"))
        .map(Into::into)
        .collect()
}

/// The text of the list with the new ones in it, sorted.
pub fn with_new(passing: &[String], new: &[String]) -> String {
    let all: BTreeSet<&String> = passing.iter().chain(new).collect();
    all.iter().fold(String::new(), |mut text, name| {
        let _ = writeln!(text, "{name}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(name: &str, state: State) -> Outcome {
        Outcome { name: name.into(), state, seconds: 1.0, message: String::new() }
    }

    #[test]
    fn a_listed_test_that_fails_or_does_not_run_has_left_the_list() {
        let passing = ["b".to_string(), "c".into(), "d".into(), "outside of this run".into()];
        let run = [
            outcome("a", State::Passed),
            outcome("b", State::Passed),
            outcome("c", State::Failed),
            outcome("d", State::NotRun),
        ];
        let ratchet = compare(&passing, &run);
        assert_eq!(ratchet, Ratchet { left: vec!["c".into(), "d".into()], new: vec!["a".into()] });
        assert_eq!(with_new(&passing, &ratchet.new), "a\nb\nc\nd\noutside of this run\n");
    }

    #[test]
    fn every_test_stands_in_one_of_the_two_lists() {
        let all = ["[sig-a] 1", "[sig-a] 2", "[sig-a] 3", "[sig-a] 4"].map(|name| Spec { name: name.into() });
        let failing = listed("# Why\n\n- a cause\n- [sig-a] 2\n- [sig-a] 3\n");
        let misplaced = misplaced(&all, &["[sig-a] 1".into(), "[sig-a] 3".into()], &failing);
        assert_eq!(misplaced, ["[sig-a] 3", "[sig-a] 4"]);
    }
}
