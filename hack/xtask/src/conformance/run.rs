//! Runs e2e.test and ginkgo. Owns their command lines and the progress on the terminal.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};

use super::results::{self, Outcome, Printed, State};
use super::specs::{self, Spec};
use super::summary::clock;

/// Longer than any run takes; ginkgo's own limit is an hour.
const TIME_LIMIT: &str = "12h";

/// Every conformance test of the suite, from a dry run of it. Kept beside the suite, as the dry run takes some seconds.
pub fn specs(bin: &Path) -> Result<Vec<Spec>> {
    let suite = bin.join("e2e.test");
    let kept = bin.join("specs.txt");
    let modified = |path: &Path| fs::metadata(path).and_then(|m| m.modified()).ok();
    if modified(&kept).is_none_or(|time| modified(&suite).is_none_or(|suite| suite > time)) {
        let report = bin.join("dry-run.json");
        let output = Command::new(&suite)
            .arg("--ginkgo.dry-run")
            .arg(format!("--ginkgo.focus={}", regex::escape(specs::CONFORMANCE)))
            .arg(format!("--ginkgo.json-report={}", report.display()))
            .args(["--provider=local", "--kubeconfig=/dev/null"])
            .output()
            .with_context(|| format!("run {}", suite.display()))?;
        if !output.status.success() {
            bail!("the dry run failed: {}", String::from_utf8_lossy(&output.stdout));
        }
        let found = specs::conformance_specs(&specs::read_report(&report)?);
        let text: String = found.iter().map(|spec| format!("{}\n", spec.name)).collect();
        fs::write(&kept, text).with_context(|| format!("write {}", kept.display()))?;
        fs::remove_file(&report).with_context(|| format!("remove {}", report.display()))?;
    }
    Ok(specs::read_list(&kept)?.into_iter().map(|name| Spec { name }).collect())
}

/// A run to be.
pub struct Ginkgo<'a> {
    pub bin: &'a Path,
    pub kubeconfig: &'a Path,
    pub results: &'a Path,
    pub procs: usize,
}

impl Ginkgo<'_> {
    /// Runs `chosen`, of `all` that there are, and says what became of each.
    pub fn run(&self, all: &[Spec], chosen: &[Spec]) -> Result<Vec<Outcome>> {
        let report = self.results.join("report.json");
        for file in ["report.json", "junit.xml"] {
            // What a former run left must not pass for this one's.
            match fs::remove_file(self.results.join(file)) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(error).context("remove the last report");
                }
                _ => {}
            }
        }
        let mut child = self.command(&specs::focus(all, chosen)).spawn().context("run ginkgo")?;
        let printed = child.stdout.take().context("ginkgo prints")?;
        let ended = self.follow(BufReader::new(printed), chosen)?;
        // Its exit status says only what the report says better.
        child.wait().context("wait for ginkgo")?;
        let reports = if report.exists() { specs::read_report(&report)? } else { Vec::new() };
        if reports.is_empty() {
            println!("ginkgo left no report; this is told by what it printed, see {}", self.log().display());
        }
        Ok(results::outcomes(chosen, &reports, &ended))
    }

    fn log(&self) -> std::path::PathBuf {
        self.results.join("log.txt")
    }

    fn command(&self, focus: &str) -> Command {
        let mut command = Command::new(self.bin.join("ginkgo"));
        command
            .arg(format!("--procs={}", self.procs))
            .arg(format!("--timeout={TIME_LIMIT}"))
            .args(["-v", "--no-color", "--keep-going", "--output-interceptor-mode=none"])
            .args(["--json-report=report.json", "--junit-report=junit.xml"])
            .arg(format!("--output-dir={}", self.results.display()))
            .arg(format!("--focus={focus}"))
            .arg(self.bin.join("e2e.test"))
            .args(["--", "--provider=local", "--dump-logs-on-failure=false"])
            .arg(format!("--kubeconfig={}", self.kubeconfig.display()))
            .arg(format!("--kubectl-path={}", self.bin.join("kubectl").display()))
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        command
    }

    /// Keeps all that ginkgo prints, and prints a line for each test that ends.
    fn follow(&self, printed: impl BufRead, chosen: &[Spec]) -> Result<Vec<Outcome>> {
        let mut log = fs::File::create(self.log()).with_context(|| format!("write {}", self.log().display()))?;
        let (mut parser, begun, mut ended) = (Printed::default(), Instant::now(), Vec::new());
        let mut failed = 0;
        for line in printed.split(b'\n') {
            let line = line.context("read what ginkgo prints")?;
            log.write_all(&line).and_then(|()| log.write_all(b"\n")).context("write the log")?;
            let Some(outcome) = parser.line(chosen, &String::from_utf8_lossy(&line)) else { continue };
            failed += usize::from(outcome.state == State::Failed);
            ended.push(outcome);
            let (Outcome { name, state, seconds, .. }, time) =
                (&ended[ended.len() - 1], clock(begun.elapsed().as_secs_f64()));
            println!("{:>4}/{} {time:>6} {:<7} {seconds:>6.1}s {name}", ended.len(), chosen.len(), state.word());
        }
        println!("{} ended, {failed} of them failed", ended.len());
        Ok(ended)
    }
}
