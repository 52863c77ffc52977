//! The table: medians of samples, ratios, and the text.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::{Args, side};

#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Better {
    More,
    Less,
}

#[derive(Clone, Copy)]
pub struct Sample {
    pub value: f64,
    pub cpu_ms: Option<f64>,
    pub errors: u64,
}

impl Sample {
    pub fn plain(value: f64) -> Self {
        Self { value, cpu_ms: None, errors: 0 }
    }
}

struct Line {
    name: String,
    goal: String,
    better: Better,
    samples: BTreeMap<&'static str, Vec<Sample>>,
}

/// Rows in the order in which they were first measured.
pub struct Table {
    lines: Vec<Line>,
    notes: Vec<String>,
    failures: Vec<String>,
    compares: bool,
    /// Whole runs so far.
    pub runs: usize,
}

impl Table {
    pub fn new(compares: bool) -> Self {
        Self { lines: Vec::new(), notes: Vec::new(), failures: Vec::new(), compares, runs: 0 }
    }

    /// Something that could not be measured: `row`, or all that was still to come of this side in this run.
    pub fn fail(&mut self, side: &str, run: usize, row: &str, error: &anyhow::Error) {
        let what = if row.is_empty() { "not finished" } else { row };
        let text = format!("{side}, run {run}, {what}: {error:#}");
        eprintln!("    {text}");
        self.failures.push(text.replace('\n', " "));
    }

    pub fn note(&mut self, text: String) {
        self.notes.push(text);
    }

    pub fn add(&mut self, name: &str, goal: &str, better: Better, side: &'static str, sample: Sample) {
        let line = match self.lines.iter().position(|line| line.name == name) {
            Some(at) => &mut self.lines[at],
            None => {
                let (name, goal) = (name.to_owned(), goal.to_owned());
                self.lines.push(Line { name, goal, better, samples: BTreeMap::new() });
                self.lines.last_mut().expect("just pushed")
            }
        };
        line.samples.entry(side).or_default().push(sample);
    }

    /// Markdown: the median of each side with its span, CPU per operation, and how many times better Skeg is.
    pub fn render(&self, args: &Args) -> String {
        let mut out = String::from("# Last figures of hack/bench\n\n");
        let _ = writeln!(
            out,
            "{} runs{}, {} s of load for each row; median (least to most); CPU per operation of all server processes.\n",
            self.runs,
            if self.compares {
                ", Skeg and upstream v1.36.3 (kube-apiserver, etcd, controllers, scheduler) in turn"
            } else {
                ""
            },
            args.seconds
        );
        if args.etcd.is_some() {
            let _ = writeln!(out, "Skeg stored in etcd, whose processor time and memory count as its own.\n");
        }
        let _ = writeln!(out, "| what | Skeg | CPU ms | upstream | CPU ms | times better | goal |");
        let _ = writeln!(out, "|---|---|---|---|---|---|---|");
        for line in &self.lines {
            let [ours, theirs] =
                [side::SKEG, side::UPSTREAM].map(|s| line.samples.get(s).map(Vec::as_slice).unwrap_or(&[]));
            let ratio = times_better(line.better, ours, theirs).map(|r| format!("{r:.1}")).unwrap_or_default();
            let _ = writeln!(
                out,
                "| {} | {} | {} | {} | {} | {ratio} | {} |",
                line.name,
                span(ours),
                cpu(ours),
                span(theirs),
                cpu(theirs),
                line.goal
            );
        }
        let _ = writeln!(out, "\nBefore each run: {}.", self.notes.join("; "));
        if !self.failures.is_empty() {
            let _ = writeln!(out, "\nNot measured:");
        }
        for failure in &self.failures {
            let _ = writeln!(out, "- {failure}");
        }
        out
    }
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

fn times_better(better: Better, ours: &[Sample], theirs: &[Sample]) -> Option<f64> {
    let [ours, theirs] = [ours, theirs].map(|s| median(s.iter().map(|s| s.value).collect()));
    let (ours, theirs) = (ours?, theirs?);
    let (over, under) = if better == Better::More { (ours, theirs) } else { (theirs, ours) };
    (under > 0.0).then(|| over / under)
}

fn span(samples: &[Sample]) -> String {
    let values: Vec<f64> = samples.iter().map(|s| s.value).collect();
    let Some(mid) = median(values.clone()) else { return String::new() };
    let errors: u64 = samples.iter().map(|s| s.errors).sum();
    let least = values.iter().copied().fold(f64::INFINITY, f64::min);
    let most = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let mut text = figure(mid);
    if values.len() > 1 {
        let _ = write!(text, " ({} to {})", figure(least), figure(most));
    }
    if errors > 0 {
        let _ = write!(text, ", {errors} errors");
    }
    text
}

fn cpu(samples: &[Sample]) -> String {
    median(samples.iter().filter_map(|s| s.cpu_ms).collect()).map(|v| format!("{v:.3}")).unwrap_or_default()
}

/// Three figures that count.
fn figure(value: f64) -> String {
    match value.abs() {
        v if v >= 100.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        v if v >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(values: &[f64]) -> Vec<Sample> {
        values.iter().map(|v| Sample::plain(*v)).collect()
    }

    #[test]
    fn a_shorter_time_and_a_higher_rate_are_both_better() {
        assert_eq!(times_better(Better::Less, &samples(&[2.0, 1.0, 9.0]), &samples(&[8.0])), Some(4.0));
        assert_eq!(times_better(Better::More, &samples(&[30.0]), &samples(&[10.0])), Some(3.0));
        assert_eq!(times_better(Better::More, &samples(&[30.0]), &[]), None);
    }

    #[test]
    fn errors_are_shown_beside_the_figure() {
        let sample = Sample { value: 12.34, cpu_ms: None, errors: 3 };
        assert_eq!(span(&[sample]), "12.3, 3 errors");
        assert_eq!(span(&samples(&[1.0, 0.25, 400.0])), "1.00 (0.250 to 400)");
        assert_eq!(span(&[]), "");
    }
}
