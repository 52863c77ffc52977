//! Runs upstream's conformance tests against a cluster and tells the truth about it. The scope is every test that the suite
//! itself marks as one for conformance; one that did not run is counted as not run.
//!
//! ```text
//! e2e.test --dry-run ─▶ specs ─▶ chosen ─▶ ginkgo ─▶ log, report.json, junit.xml
//!                                                       │
//!                passing.txt ─▶ ratchet ◀─ results ◀────┘ ─▶ results.json, summary.md, table, exit code
//! ```

mod latency;
mod ratchet;
mod results;
mod run;
#[cfg(test)]
mod sample;
mod specs;
mod summary;

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result, bail};

use results::{Outcome, State};
use specs::Spec;

/// Not every test in scope passed.
const NOT_ALL_PASSED: u8 = 1;
/// One of those that did not pass is one that used to.
const LEFT_PASSING: u8 = 3;

#[derive(clap::Args)]
pub struct Args {
    /// Only the tests whose names match this regular expression
    focus: Option<String>,
    /// Print the tests that would run, and run none
    #[arg(long)]
    list: bool,
    /// Only the tests that did not pass in the last run
    #[arg(long)]
    rerun_failed: bool,
    /// Only the tests of conformance/quick.txt
    #[arg(long)]
    quick: bool,
    /// Add the tests that passed to conformance/passing.txt
    #[arg(long)]
    update_passing: bool,
    /// How many tests run at once; serial ones run alone, at the end
    #[arg(long)]
    procs: Option<usize>,
    /// Measure pod start, service programming and DNS meanwhile, as in a run of all
    #[arg(long)]
    latency: bool,
    /// The cluster is of upstream's components: hack/conformance has seen to it
    #[arg(long)]
    peer: bool,
    /// Where e2e.test, ginkgo and kubectl are
    #[arg(long, hide = true)]
    bin: PathBuf,
    #[arg(long, hide = true)]
    kubeconfig: PathBuf,
    /// Where passing.txt and quick.txt are
    #[arg(long, hide = true)]
    lists: PathBuf,
    /// Where the results go
    #[arg(long, hide = true)]
    results: PathBuf,
    /// What is tested, for the summary
    #[arg(long, hide = true, default_value = "Skeg")]
    title: String,
}

/// Returns the exit code.
pub fn main(args: &Args) -> Result<u8> {
    let all = run::specs(&args.bin)?;
    let chosen = choose(args, &all)?;
    if args.list {
        chosen.iter().for_each(|spec| println!("{}", spec.name));
        return Ok(0);
    }
    if chosen.is_empty() {
        bail!("no conformance test matches");
    }
    std::fs::create_dir_all(&args.results).with_context(|| format!("make {}", args.results.display()))?;
    let procs = args.procs.unwrap_or_else(default_procs);
    let ginkgo = run::Ginkgo { bin: &args.bin, kubeconfig: &args.kubeconfig, results: &args.results, procs };
    let prober =
        (args.latency || chosen.len() == all.len()).then(|| latency::Prober::start(&args.bin, &args.kubeconfig));
    let begun = Instant::now();
    let outcomes = ginkgo.run(&all, &chosen);
    let wall_seconds = begun.elapsed().as_secs_f64();
    let latency = match prober {
        Some(Ok(prober)) => latency::section(&prober.end()),
        Some(Err(error)) => format!("\nLatencies were not measured: {error:#}\n"),
        None => String::new(),
    };
    let outcomes = outcomes?;
    results::write(&args.results.join("results.json"), &outcomes)?;
    // passing.txt is about Skeg.
    let passing = if args.peer { Vec::new() } else { specs::read_list(&args.lists.join("passing.txt"))? };
    let ratchet = ratchet::compare(&passing, &outcomes);
    let run = summary::Run {
        title: &args.title,
        wall_seconds,
        procs,
        outcomes: &outcomes,
        ratchet: &ratchet,
        more: &latency,
    };
    conclude(args, &all, &passing, &run)
}

fn choose(args: &Args, all: &[Spec]) -> Result<Vec<Spec>> {
    let mut chosen = all.to_vec();
    if args.quick {
        chosen = specs::named(all, &specs::read_list(&args.lists.join("quick.txt"))?)?;
    }
    if args.rerun_failed {
        let last = results::read(&args.results.join("results.json"))?;
        chosen.retain(|spec| last.iter().any(|o| o.name == spec.name && o.state != State::Passed));
    }
    args.focus.as_deref().map_or(Ok(chosen.clone()), |focus| specs::matching(&chosen, focus))
}

/// Tests wait most of their time: several of them fit on a core.
fn default_procs() -> usize {
    (std::thread::available_parallelism().map_or(1, usize::from) * 4).clamp(4, 24)
}

/// Writes and prints what came out.
fn conclude(args: &Args, all: &[Spec], passing: &[String], run: &summary::Run<'_>) -> Result<u8> {
    let page = args.results.join("summary.md");
    std::fs::write(&page, summary::page(run)).with_context(|| format!("write {}", page.display()))?;
    println!("\n{}{}", summary::table(run.outcomes), run.more);
    println!("{} in all; the rest is in {}", summary::clock(run.wall_seconds), page.display());
    let list = args.lists.join("passing.txt");
    if args.update_passing && !args.peer {
        std::fs::write(&list, ratchet::with_new(passing, &run.ratchet.new))?;
        println!("{} tests are new in {}", run.ratchet.new.len(), list.display());
    }
    let failing = ratchet::listed(&std::fs::read_to_string(args.lists.join("failing.md"))?);
    let misplaced = ratchet::misplaced(all, &specs::read_list(&list)?, &failing);
    if run.outcomes.len() == all.len() && !misplaced.is_empty() {
        println!("{} tests stand neither in passing.txt nor in failing.md, or in both", misplaced.len());
    }
    for name in &run.ratchet.left {
        println!("left passing.txt: {name}");
    }
    Ok(verdict(run.outcomes, run.ratchet))
}

fn verdict(outcomes: &[Outcome], ratchet: &ratchet::Ratchet) -> u8 {
    match outcomes.iter().all(|outcome| outcome.state == State::Passed) {
        true => 0,
        false if ratchet.left.is_empty() => NOT_ALL_PASSED,
        false => LEFT_PASSING,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_run_in_which_everything_passed_succeeds() {
        let outcome = |state| Outcome { name: "a".into(), state, seconds: 0.0, message: String::new() };
        for (state, listed, expected) in [
            (State::Passed, true, 0),
            (State::Failed, false, NOT_ALL_PASSED),
            (State::NotRun, false, NOT_ALL_PASSED),
            (State::Failed, true, LEFT_PASSING),
            (State::NotRun, true, LEFT_PASSING),
        ] {
            let passing = if listed { vec!["a".to_string()] } else { vec![] };
            let run = [outcome(state)];
            assert_eq!(verdict(&run, &ratchet::compare(&passing, &run)), expected, "{state:?}, listed: {listed}");
        }
    }
}
