//! The differential judge: the same requests to Skeg and to upstream's kube-apiserver, both running, and what differs in
//! their answers. Owns the requests (generated in `generate`, written under `cases/`), what is made comparable (`normal`),
//! the comparison, and the list of differences that stand (`known.txt`). Starting the servers is `hack/differential`'s.
//!
//! ```text
//! discovery + fixtures + schema ─▶ generate ─▶ Scenario ─▶ run ─▶ (Answer, Answer) ─▶ normal ─▶ compare ─▶ Difference
//! index of OpenAPI v3 ──────────▶ openapi ──────▲
//! cases/*.http ─────────────────▶ written ──────▲                                             known.txt ──▶ report
//! ```

mod compare;
mod generate;
mod known;
mod normal;
mod openapi;
mod report;
mod request;
mod resources;
mod run;
mod side;
mod written;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;

use generate::Limits;
use known::List;
use request::Scenario;
use run::Sides;
use side::Side;

#[derive(Parser)]
#[command(
    about = "Compares Skeg's API with kube-apiserver's, request by request; hack/differential starts both and calls this"
)]
struct Args {
    /// Skeg's address
    #[arg(long, default_value = "https://127.0.0.1:26543")]
    skeg: String,
    /// kube-apiserver's address
    #[arg(long, default_value = "https://127.0.0.1:26544")]
    upstream: String,
    /// The bearer token of an administrator of both
    #[arg(long, default_value = "admin-token")]
    token: String,
    /// One valid object of each type, named GROUP.RESOURCE.json
    #[arg(long, default_value = "apiserver/catalog/fixtures")]
    fixtures: PathBuf,
    /// Written requests (*.http) and the list of differences that stand (known.txt)
    #[arg(long, default_value = "conformance/differential")]
    cases: PathBuf,
    /// Where details are written
    #[arg(long, default_value = ".cluster/differential")]
    output: PathBuf,
    /// An eighth of the generated requests
    #[arg(long)]
    short: bool,
    /// Only resources whose name contains this
    #[arg(long)]
    only: Option<String>,
}

/// Differences that are printed, where the files of a run may be out of reach.
const SHOWN: usize = 20;

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<ExitCode> {
    let args = Args::parse();
    let _ = rustls::crypto::ring::default_provider().install_default();
    let sides = Sides {
        skeg: Side::new("skeg", &args.skeg, &args.token)?,
        upstream: Side::new("upstream", &args.upstream, &args.token)?,
    };
    let list = List::read(&args.cases.join("known.txt"))?;
    let scenarios = scenarios(&args, &sides.upstream).await?;
    let outcome = run::run(&sides, &scenarios).await?;
    let told = report::write(&outcome, &list, !args.short && args.only.is_none(), &args.output)?;
    print!("{}", told.text);
    if told.open > 0 {
        let file = args.output.join("differences.txt");
        for line in std::fs::read_to_string(&file)?.lines().take(SHOWN) {
            println!("  {line}");
        }
        println!("{} differences are not in the list: see {}", told.open, file.display());
    }
    Ok(if told.open == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn scenarios(args: &Args, upstream: &Side) -> anyhow::Result<Vec<Scenario>> {
    let limits = if args.short {
        Limits { create: 100, update: 40, one_in: 8 }
    } else {
        Limits { create: 300, update: 120, one_in: 1 }
    };
    let wanted = |name: &str| args.only.as_deref().is_none_or(|only| name.contains(only));
    let mut found = written(&args.cases.join("cases"))?;
    found.push(openapi::scenario(upstream).await?);
    for resource in resources::served(upstream, &args.fixtures).await? {
        found.push(generate::scenario(&resource, limits));
    }
    found.retain(|scenario| wanted(&scenario.resource));
    found.sort_by_key(|scenario| scenario.disturbs);
    Ok(found)
}

fn written(dir: &Path) -> anyhow::Result<Vec<Scenario>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))? {
        files.push(entry?.path());
    }
    files.sort();
    let mut found = Vec::new();
    for path in files.iter().filter(|path| path.extension().is_some_and(|extension| extension == "http")) {
        let name = path.file_stem().unwrap_or_default().to_string_lossy();
        found.push(written::parse(&name, &std::fs::read_to_string(path)?)?);
    }
    Ok(found)
}
