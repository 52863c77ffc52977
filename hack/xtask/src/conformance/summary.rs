//! The table and the page that people read. Pure: outcomes in, text out.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::ratchet::Ratchet;
use super::results::{Outcome, State};
use super::specs::sig;

#[derive(Default, Clone, Copy)]
struct Row {
    passed: usize,
    failed: usize,
    not_run: usize,
    seconds: f64,
}

impl Row {
    fn add(&mut self, outcome: &Outcome) {
        match outcome.state {
            State::Passed => self.passed += 1,
            State::Failed => self.failed += 1,
            State::NotRun => self.not_run += 1,
        }
        self.seconds += outcome.seconds;
    }

    fn print(self, text: &mut String, name: &str) {
        let Self { passed, failed, not_run, seconds } = self;
        let _ = writeln!(text, "| {name:<21} | {passed:>6} | {failed:>6} | {not_run:>7} | {:>8} |", clock(seconds));
    }
}

/// Minutes and seconds.
pub fn clock(seconds: f64) -> String {
    let whole = seconds.round() as u64;
    format!("{}:{:02}", whole / 60, whole % 60)
}

/// A row per special interest group and one for all. The time of a row is the sum of its tests' times.
pub fn table(outcomes: &[Outcome]) -> String {
    let mut rows: BTreeMap<&str, Row> = BTreeMap::new();
    let mut all = Row::default();
    for outcome in outcomes {
        rows.entry(sig(&outcome.name)).or_default().add(outcome);
        all.add(outcome);
    }
    let mut text = String::from("| area                  | passed | failed | not run |     time |\n");
    text.push_str("|-----------------------|-------:|-------:|--------:|---------:|\n");
    for (name, row) in rows {
        row.print(&mut text, name);
    }
    all.print(&mut text, "all");
    text
}

/// What a run was.
pub struct Run<'a> {
    /// E.g. the version of the server.
    pub title: &'a str,
    /// From the first test's start to the last one's end.
    pub wall_seconds: f64,
    pub procs: usize,
    pub outcomes: &'a [Outcome],
    pub ratchet: &'a Ratchet,
    /// Further sections, ready to print.
    pub more: &'a str,
}

/// The page.
pub fn page(run: &Run<'_>) -> String {
    let mut text = format!("# Conformance: {}\n\n", run.title);
    let passed = run.outcomes.iter().filter(|o| o.state == State::Passed).count();
    let _ = writeln!(
        text,
        "{passed} of {} tests passed in {} with {} at once.\n",
        run.outcomes.len(),
        clock(run.wall_seconds),
        run.procs
    );
    text.push_str(&table(run.outcomes));
    list(&mut text, "Left conformance/passing.txt", run.ratchet.left.iter().map(|name| name.to_string()));
    for (title, state) in [("Failed", State::Failed), ("Not run", State::NotRun)] {
        let of = run.outcomes.iter().filter(|o| o.state == state);
        list(&mut text, title, of.map(|o| format!("{} ({}){}", o.name, clock(o.seconds), reason(&o.message))));
    }
    list(&mut text, "Not in conformance/passing.txt yet", run.ratchet.new.iter().map(|name| name.to_string()));
    let mut slow: Vec<&Outcome> = run.outcomes.iter().filter(|o| o.state == State::Passed).collect();
    slow.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
    list(&mut text, "Slowest that passed", slow.iter().take(10).map(|o| format!("{} {}", clock(o.seconds), o.name)));
    text.push_str(run.more);
    text
}

fn list(text: &mut String, title: &str, entries: impl Iterator<Item = String>) {
    for (i, entry) in entries.enumerate() {
        if i == 0 {
            let _ = write!(text, "\n## {title}\n\n");
        }
        let _ = writeln!(text, "- {entry}");
    }
}

/// The first line that says something, short enough for a list.
fn reason(message: &str) -> String {
    let Some(line) = message.lines().map(str::trim).find(|line| !line.is_empty()) else { return String::new() };
    let short: String = line.chars().take(200).collect();
    format!(": {short}")
}

#[cfg(test)]
mod tests {
    use super::super::{ratchet, results, sample, specs};
    use super::*;

    #[test]
    fn the_page_has_a_row_per_area_and_every_test_that_did_not_pass() {
        let scope = specs::conformance_specs(&sample::report());
        let outcomes = results::outcomes(&scope, &sample::report(), &[]);
        let ratchet = ratchet::compare(&[sample::FAILED.to_string()], &outcomes);
        let run = Run { title: "v1", wall_seconds: 61.0, procs: 2, outcomes: &outcomes, ratchet: &ratchet, more: "" };
        let expected = "\
# Conformance: v1

1 of 4 tests passed in 1:01 with 2 at once.

| area                  | passed | failed | not run |     time |
|-----------------------|-------:|-------:|--------:|---------:|
| sig-apps              |      1 |      0 |       0 |     0:04 |
| sig-network           |      0 |      1 |       0 |     0:00 |
| sig-node              |      0 |      1 |       1 |     5:00 |
| all                   |      1 |      2 |       1 |     5:04 |

## Left conformance/passing.txt

- [sig-network] Services should have (session) affinity [LinuxOnly] [Conformance]

## Failed

- [sig-network] Services should have (session) affinity [LinuxOnly] [Conformance] (0:00): expected
- [sig-node] Timeouts should end [Slow] [Conformance] (5:00): A spec timeout occurred

## Not run

- [sig-node] Sysctls should be kept out [Conformance] (0:00): Only supported for providers [gce]

## Not in conformance/passing.txt yet

- [sig-apps] Job with successPolicy should succeed [Conformance]

## Slowest that passed

- 0:04 [sig-apps] Job with successPolicy should succeed [Conformance]
";
        assert_eq!(page(&run), expected);
    }
}
