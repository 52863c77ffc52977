//! Requests in JSON, by path.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};
use kube::config::{KubeConfigOptions, Kubeconfig};
use serde_json::Value;
use tokio::time::{Instant, sleep};

/// How long anything may take to come about. Nothing takes a tenth of it on an idle machine.
const PATIENCE: Duration = Duration::from_secs(90);

/// A client.
#[derive(Clone)]
pub struct Cluster(kube::Client);

impl Cluster {
    pub async fn connect(kubeconfig: &Path) -> anyhow::Result<Self> {
        let read = Kubeconfig::read_from(kubeconfig)?;
        let config = kube::Config::from_custom_kubeconfig(read, &KubeConfigOptions::default()).await?;
        Ok(Cluster(kube::Client::try_from(config)?))
    }

    async fn send(&self, method: &str, path: &str, kind: &str, body: &Value) -> Result<Value, kube::Error> {
        let text = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
        let request = http::Request::builder().method(method).uri(path).header("Content-Type", kind).body(text);
        self.0.request(request.map_err(kube::Error::HttpError)?).await
    }

    /// The object or list, `None` where there is none.
    pub async fn get(&self, path: &str) -> anyhow::Result<Option<Value>> {
        match self.send("GET", path, "application/json", &Value::Null).await {
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(None),
            answer => Ok(Some(answer.with_context(|| format!("get {path}"))?)),
        }
    }

    pub async fn list(&self, path: &str) -> anyhow::Result<Vec<Value>> {
        let list = self.get(path).await?;
        Ok(list.and_then(|mut list| list["items"].as_array_mut().map(std::mem::take)).unwrap_or_default())
    }

    pub async fn create(&self, path: &str, body: &Value) -> anyhow::Result<Value> {
        let answer = self.send("POST", path, "application/json", body).await;
        answer.with_context(|| format!("create {} in {path}", body["metadata"]["name"]))
    }

    /// A merge patch.
    pub async fn patch(&self, path: &str, body: &Value) -> anyhow::Result<Value> {
        let answer = self.send("PATCH", path, "application/merge-patch+json", body).await;
        answer.with_context(|| format!("patch {path} with {body}"))
    }

    pub async fn delete(&self, path: &str, options: &Value) -> anyhow::Result<()> {
        match self.send("DELETE", path, "application/json", options).await {
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            answer => answer.map(drop).with_context(|| format!("delete {path}")),
        }
    }

    /// Waits until what is at `path` (null: nothing) is as it should be.
    pub async fn until(&self, path: &str, what: &str, good: impl Fn(&Value) -> bool) -> anyhow::Result<Value> {
        let begun = Instant::now();
        loop {
            let found = self.get(path).await?.unwrap_or_default();
            if good(&found) {
                return Ok(found);
            }
            if begun.elapsed() > PATIENCE {
                bail!("{path} never came to be {what}: {found}");
            }
            sleep(Duration::from_millis(150)).await;
        }
    }
}
