//! Which tests there are, and which of them a run is about. Owns names; knows nothing of results.

use std::path::Path;

use anyhow::{Context, Result, bail};
use regex::Regex;
use serde::Deserialize;

/// A test in scope: every conformance test of the suite is one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spec {
    /// As upstream's lists have it: containers and leaf, joined by blanks.
    pub name: String,
}

/// What marks a conformance test in its name.
pub const CONFORMANCE: &str = "[Conformance]";

/// The special interest group that answers for a test, e.g. `sig-node`: its name begins with it.
pub fn sig(name: &str) -> &str {
    name.strip_prefix('[').and_then(|rest| rest.split_once(']')).map_or("other", |(sig, _)| sig)
}

/// One suite of ginkgo's JSON report, as far as it is read here.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Suite {
    #[serde(default)]
    pub spec_reports: Vec<SpecReport>,
}

/// One node of ginkgo's JSON report.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct SpecReport {
    #[serde(default)]
    container_hierarchy_texts: Option<Vec<String>>,
    #[serde(default)]
    leaf_node_text: String,
    #[serde(default)]
    leaf_node_type: String,
    #[serde(default)]
    pub state: String,
    /// Nanoseconds.
    #[serde(default)]
    pub run_time: u64,
    #[serde(default)]
    pub failure: Option<Failure>,
}

/// Why a test did not pass.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Failure {
    #[serde(default)]
    pub message: String,
}

impl SpecReport {
    /// The test's name; none for what a suite does before and after its tests.
    pub fn name(&self) -> Option<String> {
        let containers = self.container_hierarchy_texts.iter().flatten().map(String::as_str);
        let texts = containers.chain([self.leaf_node_text.as_str()]).filter(|text| !text.is_empty());
        (self.leaf_node_type == "It").then(|| texts.collect::<Vec<_>>().join(" "))
    }
}

/// Reads a report of ginkgo.
pub fn read_report(path: &Path) -> Result<Vec<SpecReport>> {
    let text = std::fs::read(path).with_context(|| format!("read {}", path.display()))?;
    let suites: Vec<Suite> = serde_json::from_slice(&text).with_context(|| format!("parse {}", path.display()))?;
    Ok(suites.into_iter().flat_map(|suite| suite.spec_reports).collect())
}

/// The conformance tests of a report, in the order of their names. A dry run's report holds all of the suite.
pub fn conformance_specs(reports: &[SpecReport]) -> Vec<Spec> {
    let mut names: Vec<String> =
        reports.iter().filter_map(SpecReport::name).filter(|n| n.contains(CONFORMANCE)).collect();
    names.sort();
    names.dedup();
    names.into_iter().map(|name| Spec { name }).collect()
}

/// Those of `all` whose names match the focus.
pub fn matching(all: &[Spec], focus: &str) -> Result<Vec<Spec>> {
    let focus = Regex::new(focus).with_context(|| format!("the focus {focus:?}"))?;
    Ok(all.iter().filter(|spec| focus.is_match(&spec.name)).cloned().collect())
}

/// Those of `all` that a list names, which must not name anything else.
pub fn named(all: &[Spec], list: &[String]) -> Result<Vec<Spec>> {
    if let Some(unknown) = list.iter().find(|name| !all.iter().any(|spec| spec.name == **name)) {
        bail!("no such conformance test: {unknown}");
    }
    Ok(all.iter().filter(|spec| list.contains(&spec.name)).cloned().collect())
}

/// What ginkgo is to focus on, so that it runs exactly `chosen`.
pub fn focus(all: &[Spec], chosen: &[Spec]) -> String {
    if all == chosen {
        return regex::escape(CONFORMANCE);
    }
    let names: Vec<String> = chosen.iter().map(|spec| regex::escape(&spec.name)).collect();
    format!("(?:{})$", names.join("|"))
}

/// The names of a list file: one a line; blank lines and `#` comments do not count.
pub fn read_list(path: &Path) -> Result<Vec<String>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    Ok(lines(&text))
}

fn lines(text: &str) -> Vec<String> {
    text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')).map(Into::into).collect()
}

#[cfg(test)]
mod tests {
    use super::super::sample;
    use super::*;

    fn spec(name: &str) -> Spec {
        Spec { name: name.into() }
    }

    #[test]
    fn only_conformance_tests_are_in_scope_and_setup_is_no_test() {
        let specs = conformance_specs(&sample::report());
        let names: Vec<&str> = specs.iter().map(|s| s.name.as_str()).collect();
        assert_eq!(names, [sample::PASSED, sample::FAILED, sample::SKIPPED, sample::SLOW]);
        assert_eq!(sig(&specs[0].name), "sig-apps");
    }

    #[test]
    fn a_focus_for_some_tests_matches_them_and_no_other() -> Result<()> {
        let all =
            [spec("[sig-a] x [Conformance]"), spec("[sig-a] x (y) [Conformance]"), spec("[sig-b] z [Conformance]")];
        let focus = Regex::new(&focus(&all, &all[1..2]))?;
        let hit: Vec<bool> = all.iter().map(|s| focus.is_match(&format!("Kubernetes e2e suite {}", s.name))).collect();
        assert_eq!(hit, [false, true, false]);
        Ok(())
    }

    #[test]
    fn lists_with_unknown_names_are_refused() {
        let all = [spec("[sig-a] x [Conformance]")];
        assert!(named(&all, &lines("# why\n\n[sig-a] x [Conformance]\n")).is_ok_and(|s| s.len() == 1));
        assert!(named(&all, &lines("[sig-a] gone [Conformance]")).is_err());
    }
}
