//! One run of the load program, and what is read from the JSON object that it prints.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, bail};
use serde_json::Value;

pub struct Load {
    /// Operations per second.
    pub rate: f64,
    pub p50_ms: Option<f64>,
    pub p99_ms: Option<f64>,
    /// CPU that all processes of the server used, per operation.
    pub cpu_ms_per_op: Option<f64>,
    pub errors: u64,
    pub first_error: String,
}

/// Runs the load program against the cluster of a kubeconfig, watching the CPU of the server's processes.
pub fn run(program: &Path, kubeconfig: &Path, pids: &[(String, u32)], args: &str) -> anyhow::Result<Load> {
    let pids: Vec<String> = pids.iter().map(|(name, pid)| format!("{name}={pid}")).collect();
    let output = Command::new(program)
        .arg("-kubeconfig")
        .arg(kubeconfig)
        .args(["-pids", &pids.join(",")])
        .args(args.split(' '))
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("cannot run {}", program.display()))?;
    if !output.status.success() {
        bail!("the load program failed: {args}\n{}", String::from_utf8_lossy(&output.stdout));
    }
    let value = serde_json::from_slice(&output.stdout).context("the load program printed no JSON")?;
    Ok(parse(&value))
}

fn parse(value: &Value) -> Load {
    let number = |path: &str| value.pointer(path).and_then(Value::as_f64);
    let per_op: Vec<f64> = value["procs"]
        .as_object()
        .into_iter()
        .flat_map(|procs| procs.values())
        .filter_map(|p| p["cpu_ms_per_op"].as_f64())
        .collect();
    Load {
        rate: number("/ops_per_s").unwrap_or(0.0),
        p50_ms: number("/lat_ms/p50"),
        p99_ms: number("/lat_ms/p99"),
        cpu_ms_per_op: (!per_op.is_empty()).then(|| per_op.iter().sum()),
        errors: number("/errors").unwrap_or(0.0) as u64,
        first_error: value["first_error"].as_str().unwrap_or_default().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_of_all_processes_is_added_up() {
        let load = parse(&serde_json::json!({
            "ops_per_s": 1000.5, "errors": 2, "first_error": "boom", "lat_ms": {"p50": 1.5, "p99": 9.0},
            "procs": {"etcd": {"cpu_ms_per_op": 0.25}, "apiserver": {"cpu_ms_per_op": 0.5}},
        }));
        assert_eq!((load.rate, load.p50_ms, load.p99_ms), (1000.5, Some(1.5), Some(9.0)));
        assert_eq!((load.cpu_ms_per_op, load.errors, load.first_error.as_str()), (Some(0.75), 2, "boom"));
    }
}
