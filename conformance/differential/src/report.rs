//! What is told of a run: a table for people, and files with every difference for who mends them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use crate::compare::Difference;
use crate::known::List;
use crate::request::{Answer, Request};
use crate::run::Outcome;

pub struct Told {
    pub text: String,
    /// Differences that no entry of the list lets stand.
    pub open: usize,
}

/// The line that patterns of the list are matched with.
pub fn line(request: &Request, difference: &Difference) -> String {
    let told = format!(
        "{} {}: {}: {} | {}",
        request.resource, request.case, difference.aspect, difference.skeg, difference.upstream
    );
    told.replace('\n', "\\n")
}

/// Writes the files and returns the summary.
pub fn write(outcome: &Outcome, list: &List, whole: bool, dir: &Path) -> anyhow::Result<Told> {
    fs::create_dir_all(dir)?;
    let (mut open, mut listed, mut details) = (String::new(), String::new(), String::new());
    let mut rows: BTreeMap<&str, BTreeMap<&str, (usize, usize)>> = BTreeMap::new();
    let (mut all, mut unlisted) = (0, 0);
    for case in &outcome.cases {
        let mut shown = false;
        for difference in &case.differences {
            let line = line(&case.request, difference);
            let entry = list.find(&line);
            let cell = rows.entry(&case.request.resource).or_default().entry(difference.kind()).or_default();
            all += 1;
            if let Some(entry) = entry {
                cell.1 += 1;
                writeln!(listed, "{line}\n    {}", entry.reason)?;
                continue;
            }
            cell.0 += 1;
            unlisted += 1;
            writeln!(open, "{line}")?;
            shown = true;
        }
        if shown {
            describe(&mut details, &case.request, &case.skeg, &case.upstream)?;
        }
    }
    fs::write(dir.join("differences.txt"), open)?;
    fs::write(dir.join("listed.txt"), listed)?;
    fs::write(dir.join("details.txt"), details)?;
    let mut text = table(outcome, &rows)?;
    if whole {
        for pattern in list.unused() {
            writeln!(text, "matches nothing any more: {pattern}")?;
        }
    }
    writeln!(
        text,
        "{} requests, {} distinct; {} differ in {all} places: {} listed, {unlisted} not",
        outcome.asked,
        outcome.distinct.len(),
        outcome.cases.len(),
        all - unlisted,
    )?;
    fs::write(dir.join("summary.txt"), &text)?;
    Ok(Told { text, open: unlisted })
}

/// One row for each resource with differences: open ones, and in brackets those of the list.
fn table(outcome: &Outcome, rows: &BTreeMap<&str, BTreeMap<&str, (usize, usize)>>) -> anyhow::Result<String> {
    let kinds: BTreeSet<&str> = rows.values().flat_map(|row| row.keys().copied()).collect();
    let mut text = format!("{:<62} {:>6}", "resource", "asked");
    for kind in &kinds {
        write!(text, " {kind:>12}")?;
    }
    text.push('\n');
    for (name, asked) in &outcome.resources {
        write!(text, "{name:<62} {asked:>6}")?;
        for kind in &kinds {
            let told = match rows.get(&**name).and_then(|row| row.get(kind)) {
                None => String::new(),
                Some((open, 0)) => open.to_string(),
                Some((open, listed)) => format!("{open} ({listed})"),
            };
            write!(text, " {told:>12}")?;
        }
        text.push('\n');
    }
    Ok(text)
}

fn describe(text: &mut String, request: &Request, skeg: &Answer, upstream: &Answer) -> anyhow::Result<()> {
    writeln!(text, "### {} | {}\n{} {}", request.resource, request.case, request.method, request.path)?;
    for (name, value) in &request.headers {
        writeln!(text, "{name}: {value}")?;
    }
    writeln!(text, "\n{}", body(&request.body))?;
    for (name, answer) in [("skeg", skeg), ("upstream", upstream)] {
        writeln!(text, "--- {name} {}", answer.status)?;
        for (name, value) in &answer.headers {
            writeln!(text, "{name}: {value}")?;
        }
        writeln!(text, "{}", body(&answer.body))?;
    }
    Ok(())
}

fn body(bytes: &[u8]) -> String {
    const LONG: usize = 6_000;
    let text = String::from_utf8_lossy(bytes);
    match text.char_indices().nth(LONG) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.trim_end().to_owned(),
    }
}
