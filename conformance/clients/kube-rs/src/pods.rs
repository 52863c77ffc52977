//! A pod and its streams: exec, port-forward, logs.

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use futures::AsyncBufReadExt;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::{AttachParams, LogParams, PostParams};
use kube::runtime::{conditions, wait::await_condition};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{Cluster, DEADLINE, IMAGE, expect};

/// The pod of this run; the first part that needs it starts it.
async fn running(cluster: &Cluster) -> Result<Api<Pod>> {
    let pods: Api<Pod> = Api::namespaced(cluster.client.clone(), &cluster.namespace);
    if pods.get_opt("pod").await?.is_none() {
        let container = json!({"name": "main", "image": IMAGE, "args": ["netexec", "--http-port=8080"]});
        let spec = json!({"containers": [container], "terminationGracePeriodSeconds": 0});
        let pod = serde_json::from_value(json!({"metadata": {"name": "pod"}, "spec": spec}))?;
        pods.create(&PostParams::default(), &pod).await?;
        let runs = await_condition(pods.clone(), "pod", conditions::is_pod_running());
        tokio::time::timeout(DEADLINE, runs).await.context("the pod does not run")??;
    }
    Ok(pods)
}

/// Input that ends, both outputs, and the exit code.
pub async fn executing(cluster: Cluster) -> Result<()> {
    let pods = running(&cluster).await?;
    let params = AttachParams::default().stdin(true);
    let mut process =
        pods.exec("pod", ["sh", "-c", "read line; echo out $line; echo err >&2; exit 3"], &params).await?;
    let mut stdin = process.stdin().context("no stdin")?;
    stdin.write_all(b"hello\n").await?;
    stdin.flush().await?;
    let (mut out, mut fault) = (String::new(), String::new());
    let (mut stdout, mut stderr) = (process.stdout().context("no stdout")?, process.stderr().context("no stderr")?);
    tokio::try_join!(stdout.read_to_string(&mut out), stderr.read_to_string(&mut fault))?;
    expect("both outputs", (out.as_str(), fault.as_str()), ("out hello\n", "err\n"))?;
    let status = process.take_status().context("no status")?.await.context("the status did not come")?;
    let code = status.details.and_then(|details| details.causes?.into_iter().next()?.message);
    expect("the exit code", (status.reason.as_deref(), code.as_deref()), (Some("NonZeroExitCode"), Some("3")))?;

    let params = AttachParams::default().stderr(false);
    let mut process = pods.exec("pod", ["head", "-c", "3000000", "/dev/zero"], &params).await?;
    let mut all = Vec::new();
    process.stdout().context("no stdout")?.read_to_end(&mut all).await?;
    expect("the length of what was printed", all.len(), 3_000_000)
}

pub async fn forwarding(cluster: Cluster) -> Result<()> {
    let pods = running(&cluster).await?;
    let mut forwarder = pods.portforward("pod", &[8080]).await?;
    let mut stream = forwarder.take_stream(8080).context("no stream")?;
    stream.write_all(b"GET /echo?msg=through HTTP/1.1\r\nHost: pod\r\nConnection: close\r\n\r\n").await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    drop(stream);
    ensure!(answer.starts_with("HTTP/1.1 200 OK") && answer.ends_with("through"), "the port answered {answer:?}");
    // Both sides close at once, and the library makes an error of whose close is second: there is nothing to join.
    forwarder.abort();
    Ok(())
}

pub async fn logs(cluster: Cluster) -> Result<()> {
    let pods = running(&cluster).await?;
    let begun = Instant::now();
    let all = loop {
        let all = pods.logs("pod", &LogParams::default()).await?;
        if all.matches("Started").count() == 2 && all.contains("GET /echo") {
            break all;
        }
        ensure!(begun.elapsed() < DEADLINE, "the log is {all:?}");
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    };
    let last = pods.logs("pod", &LogParams { tail_lines: Some(1), ..LogParams::default() }).await?;
    expect("the last line", Some(last.as_str()), all.split_inclusive('\n').next_back())?;
    let mut followed = pods.log_stream("pod", &LogParams { follow: true, ..LogParams::default() }).await?;
    let mut first = String::new();
    followed.read_line(&mut first).await?;
    expect("the first line that is followed", Some(first.as_str()), all.split_inclusive('\n').next())
}
