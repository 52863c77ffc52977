//! pods/exec and pods/attach.

use std::sync::Arc;

use async_trait::async_trait;
use axum::response::Response;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};
use skeg_machinery::status::Status;

use super::kubelet::Kubelets;
use super::remotecommand::{self, Streams};
use super::{spdy, tunnel, websocket};
use crate::admission::Operation;
use crate::query::Query;
use crate::special::{SpecialHandler, SpecialRequest};

const V5: &str = "v5.channel.k8s.io";

/// Serves `exec` or `attach`.
pub struct Exec {
    pub kubelets: Arc<Kubelets>,
    /// The kubelet's word for it, which is the subresource's name.
    pub what: &'static str,
}

#[async_trait]
impl SpecialHandler for Exec {
    async fn handle(&self, mut request: SpecialRequest) -> Result<Response, Status> {
        let (namespace, name) = (request.info.namespace.clone(), request.info.name.clone());
        let (pod, node) = self.kubelets.pod(&namespace, &name).await?;
        let text = request.request.uri().query().unwrap_or("").to_owned();
        let query = Query::parse(&text);
        let container = container(&pod, query.get("container").unwrap_or(""))?;
        let yes = |key: &str| matches!(query.get(key), Some("1" | "t" | "T" | "true" | "True" | "TRUE"));
        let streams = Streams { stdin: yes("stdin"), stdout: yes("stdout"), stderr: yes("stderr"), tty: yes("tty") };
        let command: Vec<&str> = query.all("command").collect();
        self.check(&pod, &streams, &command)?;
        let kind = if self.what == "exec" { "PodExecOptions" } else { "PodAttachOptions" };
        let mut options = json!({
            "kind": kind, "apiVersion": "v1", "stdin": streams.stdin, "stdout": streams.stdout,
            "stderr": streams.stderr, "tty": streams.tty, "container": container, "command": command,
        });
        request.admit(Operation::Connect, None, Some(&mut options), false).await?;
        let path = self.path(&namespace, &name, &container, &streams, &command);
        let (io, authority) = self.kubelets.connect(&node).await?;
        let headers = request.request.headers().clone();
        if websocket::is_websocket(&headers) && websocket::offered(&headers).iter().any(|p| p == V5) {
            let protocols = ["v4.channel.k8s.io"];
            let backend = tunnel::upgrade_to_spdy(io, &authority, &path, &protocols).await?;
            let answer = websocket::accept(&headers, V5)?;
            let upgrade = hyper::upgrade::on(&mut request.request);
            tokio::spawn(async move {
                if let Ok(upgraded) = upgrade.await {
                    let socket = websocket::socket(upgraded).await;
                    remotecommand::carry(socket, spdy::Connection::new(backend), streams).await;
                }
            });
            return Ok(answer);
        }
        if !tunnel::wants_upgrade(&headers) {
            return Err(Status::bad_request("Upgrade request required"));
        }
        let forward = tunnel::forwarded(request.request.method(), &path, &authority, &headers)?;
        let forward = forward.body(axum::body::Body::empty()).map_err(Status::internal_error)?;
        let client = hyper::upgrade::on(&mut request.request);
        tunnel::pass(io, forward, Some(client)).await
    }
}

impl Exec {
    fn check(&self, pod: &Value, streams: &Streams, command: &[&str]) -> Result<(), Status> {
        if !(streams.stdin || streams.stdout || streams.stderr) {
            return Err(Status::bad_request("you must specify at least one of stdin, stdout, stderr"));
        }
        if self.what == "exec" && command.is_empty() {
            return Err(Status::bad_request("you must specify at least one command for the container"));
        }
        let phase = pod["status"]["phase"].as_str().unwrap_or("");
        if phase == "Succeeded" || phase == "Failed" {
            let text = format!("cannot {} a container in a completed pod; current phase is {phase}", self.verb());
            return Err(Status::bad_request(text));
        }
        Ok(())
    }

    fn verb(&self) -> &'static str {
        if self.what == "exec" { "exec into" } else { "attach" }
    }

    fn path(&self, namespace: &str, pod: &str, container: &str, streams: &Streams, command: &[&str]) -> String {
        let mut path = format!("/{}/{namespace}/{pod}/{container}?", self.what);
        let flags =
            [("input", streams.stdin), ("output", streams.stdout), ("error", streams.stderr), ("tty", streams.tty)];
        for (name, _) in flags.iter().filter(|(_, on)| *on) {
            path.push_str(&format!("{name}=1&"));
        }
        for word in command {
            path.push_str(&format!("command={}&", utf8_percent_encode(word, NON_ALPHANUMERIC)));
        }
        path.truncate(path.len() - 1);
        path
    }
}

/// The container that is meant: the one named, or the pod's only one (upstream: podutils and registry/core/pod
/// `LogLocation`, `ExecLocation`).
pub fn container(pod: &Value, named: &str) -> Result<String, Status> {
    let pod_name = pod["metadata"]["name"].as_str().unwrap_or("");
    let names = |field: &str| -> Vec<String> {
        let list = pod["spec"][field].as_array().map(Vec::as_slice).unwrap_or_default();
        list.iter().filter_map(|c| c["name"].as_str().map(str::to_owned)).collect()
    };
    let (plain, init) = (names("containers"), names("initContainers"));
    if named.is_empty() {
        return match plain.as_slice() {
            [only] => Ok(only.clone()),
            [] => Err(Status::bad_request(format!("a container name must be specified for pod {pod_name}"))),
            all => {
                let mut text = format!(
                    "a container name must be specified for pod {pod_name}, choose one of: [{}]",
                    all.join(" ")
                );
                if !init.is_empty() {
                    text.push_str(&format!(" or one of the init containers: [{}]", init.join(" ")));
                }
                Err(Status::bad_request(text))
            }
        };
    }
    let known = plain.iter().chain(&init).chain(&names("ephemeralContainers")).any(|name| name == named);
    if known {
        Ok(named.to_owned())
    } else {
        Err(Status::bad_request(format!("container {named} is not valid for pod {pod_name}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_with_several_containers_asks_which() {
        let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "a"}, {"name": "b"}], "initContainers": [{"name": "i"}]}});
        let table = [
            ("a", Ok("a")),
            ("i", Ok("i")),
            ("x", Err("container x is not valid for pod p")),
            (
                "",
                Err(
                    "a container name must be specified for pod p, choose one of: [a b] or one of the init containers: [i]",
                ),
            ),
        ];
        for (named, wanted) in table {
            let got = container(&pod, named).map_err(|status| status.message);
            assert_eq!(got.as_deref().map_err(String::as_str), wanted, "{named}");
        }
    }
}
