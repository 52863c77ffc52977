//! The client of one of the two servers: asks, reads the answer to its end, and remembers the object's revision.

use std::time::Duration;

use anyhow::Context;
use serde_json::Value;

use crate::request::{Answer, Known, Request};

pub struct Side {
    pub name: &'static str,
    base: String,
    token: String,
    client: reqwest::Client,
}

impl Side {
    pub fn new(name: &'static str, base: &str, token: &str) -> anyhow::Result<Self> {
        let client = reqwest::Client::builder()
            .tls_danger_accept_invalid_certs(true) // both are processes of this machine that we have started
            .redirect(reqwest::redirect::Policy::none())
            .timeout(Duration::from_secs(20))
            .build()?;
        Ok(Self { name, base: base.trim_end_matches('/').to_owned(), token: token.to_owned(), client })
    }

    pub async fn ask(&self, request: &Request, known: &Known) -> anyhow::Result<Answer> {
        let url = format!("{}{}", self.base, known.fill(&request.path));
        let method = reqwest::Method::from_bytes(request.method.as_bytes())?;
        let mut asked = self.client.request(method, &url).bearer_auth(&self.token);
        for (name, value) in &request.headers {
            asked = asked.header(name, value);
        }
        let body = request.filled(known);
        if !body.is_empty() {
            asked = asked.body(body);
        }
        let told = || format!("{}: {} {}", self.name, request.method, request.path);
        let answer = asked.send().await.with_context(told)?;
        let status = answer.status().as_u16();
        let header = |(name, value): (&reqwest::header::HeaderName, &reqwest::header::HeaderValue)| {
            (name.as_str().to_owned(), String::from_utf8_lossy(value.as_bytes()).into_owned())
        };
        let headers = answer.headers().iter().map(header).collect();
        let body = answer.bytes().await.with_context(told)?.to_vec();
        Ok(Answer { status, headers, body })
    }

    /// The answer's JSON, of a request that must succeed.
    pub async fn read(&self, path: &str, accept: &str) -> anyhow::Result<Value> {
        let request = Request::new("", "", "GET", path).accept(accept);
        let answer = self.ask(&request, &Known::default()).await?;
        anyhow::ensure!(answer.status == 200, "{}: {path} answers {}", self.name, answer.status);
        Ok(serde_json::from_slice(&answer.body)?)
    }
}

/// What later requests of a scenario fill in, after this answer.
pub fn remember(known: &mut Known, answer: &Answer) {
    let Ok(object) = serde_json::from_slice::<Value>(&answer.body) else { return };
    if answer.status < 300
        && let (Some(rv), Some(uid)) = (
            object.pointer("/metadata/resourceVersion").and_then(Value::as_str),
            object.pointer("/metadata/uid").and_then(Value::as_str),
        )
    {
        known.rv = rv.to_owned();
        known.uid = uid.to_owned();
    }
}
