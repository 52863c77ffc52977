//! What became of the tests of a run, from ginkgo's report or, where it was cut off, from what it printed. A test that is
//! in neither did not run.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::specs::{Spec, SpecReport};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    Passed,
    Failed,
    #[serde(rename = "not run")]
    NotRun,
}

impl State {
    pub fn word(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Failed => "failed",
            Self::NotRun => "not run",
        }
    }

    /// Everything that is not known to be a success or a skip is a failure.
    fn from_ginkgo(state: &str) -> Self {
        match state {
            "passed" => Self::Passed,
            "skipped" | "pending" | "" => Self::NotRun,
            _ => Self::Failed,
        }
    }
}

/// What became of one test.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    pub name: String,
    pub state: State,
    pub seconds: f64,
    /// Why it did not pass.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
}

/// One outcome for each test in scope, in the order of the scope.
pub fn outcomes(scope: &[Spec], reports: &[SpecReport], printed: &[Outcome]) -> Vec<Outcome> {
    let mut known: BTreeMap<String, Outcome> = printed.iter().map(|o| (o.name.clone(), o.clone())).collect();
    for report in reports {
        let Some(name) = report.name() else { continue };
        let state = State::from_ginkgo(&report.state);
        let message = report.failure.as_ref().map(|failure| failure.message.clone()).unwrap_or_default();
        // A report of one process lists what another one ran as skipped.
        if state == State::NotRun && known.get(&name).is_some_and(|o| o.state != State::NotRun) {
            continue;
        }
        known.insert(name.clone(), Outcome { name, state, seconds: report.run_time as f64 / 1e9, message });
    }
    let not_run =
        |spec: &Spec| Outcome { name: spec.name.clone(), state: State::NotRun, seconds: 0.0, message: String::new() };
    scope.iter().map(|spec| known.get(&spec.name).cloned().unwrap_or_else(|| not_run(spec))).collect()
}

/// Reads what ginkgo prints, line by line, and tells of each test that has ended.
#[derive(Default)]
pub struct Printed {
    ended: Option<(State, f64)>,
}

impl Printed {
    /// `Some` when this line names a test in scope, after the line that told how it ended.
    pub fn line(&mut self, scope: &[Spec], line: &str) -> Option<Outcome> {
        if let Some((state, seconds)) = self.ended.take() {
            let name = line.replacen(" [It] ", " ", 1);
            // Labels follow the name.
            let spec = scope
                .iter()
                .find(|s| name.strip_prefix(&s.name).is_some_and(|r| r.is_empty() || r.starts_with(" [")))?;
            return Some(Outcome { name: spec.name.clone(), state, seconds, message: String::new() });
        }
        self.ended = header(line);
        None
    }
}

/// Parses `• [1.234 seconds]`, `• [FAILED] [1.234 seconds]`, `S [SKIPPED] [0.001 seconds]`.
fn header(line: &str) -> Option<(State, f64)> {
    let (mark, rest) = line.split_once(" [")?;
    let rest = rest.strip_suffix(" seconds]")?;
    let (word, seconds) =
        rest.rsplit_once('[').map_or(("", rest), |(word, seconds)| (word.trim_end_matches("] "), seconds));
    let state = match (mark, word) {
        ("•", "") => State::Passed,
        ("•", _) => State::Failed,
        ("S", "SKIPPED") => State::NotRun,
        _ => return None,
    };
    Some((state, seconds.parse().ok()?))
}

/// The outcomes of a former run.
pub fn read(path: &Path) -> Result<Vec<Outcome>> {
    let text = std::fs::read(path).with_context(|| format!("no results of a former run: read {}", path.display()))?;
    Ok(serde_json::from_slice(&text)?)
}

pub fn write(path: &Path, outcomes: &[Outcome]) -> Result<()> {
    std::fs::write(path, serde_json::to_vec_pretty(outcomes)?).with_context(|| format!("write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::super::{sample, specs};
    use super::*;

    #[test]
    fn a_test_that_the_report_does_not_have_did_not_run() {
        let mut scope = specs::conformance_specs(&sample::report());
        scope.push(Spec { name: "[sig-x] never heard of [Conformance]".into() });
        let states: Vec<State> = outcomes(&scope, &sample::report(), &[]).iter().map(|o| o.state).collect();
        assert_eq!(states, [State::Passed, State::Failed, State::NotRun, State::Failed, State::NotRun]);
    }

    #[test]
    fn a_run_that_was_cut_off_is_told_by_what_it_printed() {
        let scope = specs::conformance_specs(&sample::report());
        let mut printed = Printed::default();
        let ended: Vec<Outcome> = sample::PRINTED.lines().filter_map(|line| printed.line(&scope, line)).collect();
        let told: Vec<(&str, State, f64)> = ended.iter().map(|o| (o.name.as_str(), o.state, o.seconds)).collect();
        let expected = [
            (sample::PASSED, State::Passed, 4.182),
            (sample::FAILED, State::Failed, 0.016),
            (sample::SKIPPED, State::NotRun, 0.25),
        ];
        assert_eq!(told, expected);
        let states: Vec<State> = outcomes(&scope, &[], &ended).iter().map(|o| o.state).collect();
        assert_eq!(states, [State::Passed, State::Failed, State::NotRun, State::NotRun]);
    }

    #[test]
    fn what_a_suite_does_before_its_tests_is_no_test() {
        assert_eq!(header("[ReportBeforeSuite] PASSED [0.001 seconds]"), None);
        assert_eq!(header("• [PANICKED] [2.5 seconds]"), Some((State::Failed, 2.5)));
    }
}
