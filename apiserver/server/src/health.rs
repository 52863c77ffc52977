//! /healthz, /livez, /readyz with their single checks, /version and /metrics.

use axum::response::Response;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, StatusCode};
use serde_json::json;

use crate::negotiate::Output;
use crate::query::Query;
use crate::respond;
use crate::server::{Build, Server};

/// The Kubernetes version that clients are told.
pub const MAJOR: &str = "1";
pub const MINOR: &str = "36";
pub const GIT_VERSION: &str = "v1.36.3+skeg";

/// Answers a health, version or metrics path; `None` when `path` is none.
pub async fn serve(server: &Server, path: &str, query: &Query) -> Option<Response> {
    match path {
        "/version" => return Some(version(&server.build)),
        "/metrics" => return Some(respond::bare_text(StatusCode::OK, server.metrics.render())),
        _ => {}
    }
    let mut parts = path.trim_start_matches('/').splitn(2, '/');
    let endpoint = parts.next().filter(|name| matches!(*name, "healthz" | "livez" | "readyz"))?;
    let excluded: Vec<&str> = query.all("exclude").collect();
    let results: Vec<(String, Result<(), String>)> = checks(server, endpoint).await;
    if let Some(one) = parts.next() {
        let (_, result) = results.into_iter().find(|(name, _)| name == one)?;
        return Some(match result {
            Ok(()) => respond::bare_text(StatusCode::OK, "ok"),
            Err(why) => respond::plain(StatusCode::INTERNAL_SERVER_ERROR, format!("internal server error: {why}\n")),
        });
    }
    let mut report = String::new();
    let mut failed = false;
    for (name, result) in &results {
        let line = match result {
            _ if excluded.contains(&name.as_str()) => format!("[+]{name} excluded: ok\n"),
            Ok(()) => format!("[+]{name} ok\n"),
            Err(why) => {
                failed = true;
                tracing::debug!(endpoint, check = name, why, "health check failed");
                format!("[-]{name} failed: reason withheld\n")
            }
        };
        report.push_str(&line);
    }
    if failed {
        report.push_str(&format!("{endpoint} check failed\n"));
        return Some(respond::plain(StatusCode::INTERNAL_SERVER_ERROR, report));
    }
    if query.get("verbose").is_some() {
        report.push_str(&format!("{endpoint} check passed\n"));
        return Some(respond::plain(StatusCode::OK, report));
    }
    Some(respond::plain(StatusCode::OK, "ok"))
}

/// The names of an endpoint's checks.
pub fn names(server: &Server, endpoint: &str) -> impl Iterator<Item = String> {
    let mut names: Vec<String> = OWN.map(str::to_owned).into();
    if endpoint != "livez" {
        names.extend(server.installed().into_iter().flat_map(|chain| chain.ready.iter().map(|(name, _)| name.clone())));
    }
    if endpoint == "readyz" {
        names.push(SHUTDOWN.to_owned());
    }
    names.into_iter()
}

const OWN: [&str; 3] = ["ping", "log", "etcd"];
const SHUTDOWN: &str = "shutdown";

async fn checks(server: &Server, endpoint: &str) -> Vec<(String, Result<(), String>)> {
    let store = server.store.current_revision().await.map(|_| ()).map_err(|error| error.to_string());
    let mut results: Vec<_> = OWN.map(str::to_owned).into_iter().zip([Ok(()), Ok(()), store]).collect();
    if endpoint == "livez" {
        return results;
    }
    if let Some(chain) = server.installed() {
        results.extend(chain.ready.iter().map(|(name, check)| (name.clone(), check())));
    }
    if endpoint == "readyz" {
        let ending = server.shutdown.is_cancelled();
        results.push((SHUTDOWN.into(), if ending { Err("process is shutting down".into()) } else { Ok(()) }));
    }
    results
}

fn version(build: &Build) -> Response {
    let pretty = Output { pretty: true, ..Output::JSON };
    let mut response = respond::value(
        StatusCode::OK,
        &pretty,
        &json!({
            "major": MAJOR,
            "minor": MINOR,
            "emulationMajor": MAJOR,
            "emulationMinor": MINOR,
            "minCompatibilityMajor": MAJOR,
            "minCompatibilityMinor": "35",
            "gitVersion": GIT_VERSION,
            "gitCommit": build.commit,
            "gitTreeState": "clean",
            "buildDate": build.date,
            "goVersion": "",
            "compiler": "rustc",
            "platform": format!("{}/{}", std::env::consts::OS, go_arch()),
        }),
    );
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

fn go_arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
