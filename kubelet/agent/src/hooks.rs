//! Actions in or on a container, for lifecycle hooks and probes: exec, httpGet, tcpSocket, sleep.

use crate::http::{self, Target};
use k8s_openapi::api::core::v1::{Container, HTTPGetAction, LifecycleHandler, TCPSocketAction};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use skeg_cri::RuntimeService;
use std::time::Duration;

/// Runs a hook to its end.
pub async fn run(
    runtime: &dyn RuntimeService,
    container: &Container,
    id: &str,
    pod_ip: &str,
    handler: &LifecycleHandler,
    timeout: Duration,
) -> Result<(), String> {
    if let Some(exec) = &handler.exec {
        let command = exec.command.clone().unwrap_or_default();
        let shown = command.join(" ");
        let answer = runtime.exec_sync(id, command, timeout).await.map_err(|e| e.to_string())?;
        if answer.exit_code != 0 {
            let output = [answer.stdout, answer.stderr].concat();
            return Err(format!(
                "command '{shown}' exited with {}: {}",
                answer.exit_code,
                String::from_utf8_lossy(&output)
            ));
        }
        return Ok(());
    }
    if let Some(get) = &handler.http_get {
        let target = http_target(container, get, pod_ip)?;
        let timeout = if timeout.is_zero() { Duration::from_secs(30) } else { timeout };
        let answer = http::get(&target, timeout).await?;
        if answer.status >= 400 {
            return Err(format!("HTTP hook failed with statuscode: {}", answer.status));
        }
        return Ok(());
    }
    if let Some(sleep) = &handler.sleep {
        let wanted = Duration::from_secs(u64::try_from(sleep.seconds).unwrap_or(0));
        tokio::time::sleep(if timeout.is_zero() { wanted } else { wanted.min(timeout) }).await;
        return Ok(());
    }
    if let Some(socket) = &handler.tcp_socket {
        let (host, port) = tcp_target(container, socket, pod_ip)?;
        return http::connect(&host, port).await.map(|_| ());
    }
    Err(format!("invalid handler: {handler:?}"))
}

/// The number of a port that may be given by name.
pub fn port(container: &Container, port: &IntOrString) -> Result<u16, String> {
    let number = match port {
        IntOrString::Int(number) => *number,
        IntOrString::String(name) => match name.parse() {
            Ok(number) => number,
            Err(_) => container
                .ports
                .iter()
                .flatten()
                .find(|p| p.name.as_deref() == Some(name))
                .map(|p| p.container_port)
                .ok_or_else(|| format!("couldn't find port: {name:?} in container {:?}", container.name))?,
        },
    };
    u16::try_from(number).ok().filter(|n| *n > 0).ok_or_else(|| format!("invalid port number: {number}"))
}

/// Where an httpGet goes.
pub fn http_target(container: &Container, get: &HTTPGetAction, pod_ip: &str) -> Result<Target, String> {
    let host = get.host.as_deref().filter(|h| !h.is_empty()).unwrap_or(pod_ip).to_string();
    let path = get.path.as_deref().unwrap_or_default();
    Ok(Target {
        tls: get.scheme.as_deref().is_some_and(|s| s.eq_ignore_ascii_case("https")),
        host,
        port: port(container, &get.port)?,
        path: if path.starts_with('/') { path.to_string() } else { format!("/{path}") },
        headers: get.http_headers.iter().flatten().map(|h| (h.name.clone(), h.value.clone())).collect(),
    })
}

/// Where a tcpSocket goes.
pub fn tcp_target(container: &Container, socket: &TCPSocketAction, pod_ip: &str) -> Result<(String, u16), String> {
    let host = socket.host.as_deref().filter(|h| !h.is_empty()).unwrap_or(pod_ip).to_string();
    Ok((host, port(container, &socket.port)?))
}
