//! What a request is about, read from its method, path and query, and who sent it. Parsing only.

use std::collections::BTreeMap;

use http::Method;
use percent_encoding::percent_decode_str;
use serde_json::{Map, Value, json};

use crate::query::{Query, go_bool};

/// Who a request is from, as authentication found it (impersonation applied).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UserInfo {
    pub name: String,
    pub uid: String,
    pub groups: Vec<String>,
    pub extra: BTreeMap<String, Vec<String>>,
}

impl UserInfo {
    /// As authentication.k8s.io/v1 writes it: what is empty is left out, but the name.
    pub fn to_json(&self) -> Value {
        let mut out = Map::new();
        out.insert("username".into(), json!(self.name));
        if !self.uid.is_empty() {
            out.insert("uid".into(), json!(self.uid));
        }
        if !self.groups.is_empty() {
            out.insert("groups".into(), json!(self.groups));
        }
        if !self.extra.is_empty() {
            out.insert("extra".into(), json!(self.extra));
        }
        Value::Object(out)
    }

    /// The server itself: system:apiserver in system:masters, as upstream's loopback client.
    pub fn loopback() -> Self {
        UserInfo {
            name: "system:apiserver".into(),
            uid: String::new(),
            groups: vec!["system:masters".into(), "system:authenticated".into()],
            extra: BTreeMap::new(),
        }
    }
}

/// Upstream's RequestInfo (apiserver/pkg/endpoints/request/requestinfo.go).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RequestInfo {
    pub is_resource_request: bool,
    /// The request path, for non-resource rules.
    pub path: String,
    /// get, list, watch, create, update, patch, delete, deletecollection, or the lower-case method.
    pub verb: String,
    /// "api" or "apis".
    pub api_prefix: String,
    pub api_group: String,
    pub api_version: String,
    pub namespace: String,
    pub resource: String,
    pub subresource: String,
    pub name: String,
    /// Path segments from the resource on.
    pub parts: Vec<String>,
    pub field_selector: Option<String>,
    pub label_selector: Option<String>,
}

const NAMESPACE_SUBRESOURCES: [&str; 2] = ["status", "finalize"];

impl RequestInfo {
    /// `Err` is for a path such as `/api/v1/watch` that names a special verb and nothing else.
    pub fn parse(method: &Method, raw_path: &str, query: &Query) -> Result<RequestInfo, String> {
        let path = percent_decode_str(raw_path).decode_utf8_lossy().into_owned();
        let mut info =
            RequestInfo { verb: method.as_str().to_ascii_lowercase(), path: path.clone(), ..Default::default() };
        let trimmed = path.trim_matches('/');
        let parts: Vec<&str> = if trimmed.is_empty() { Vec::new() } else { trimmed.split('/').collect() };
        if parts.len() < 3 || !matches!(parts[0], "api" | "apis") {
            return Ok(info);
        }
        info.api_prefix = parts[0].into();
        let mut rest = &parts[1..];
        if parts[0] == "apis" {
            if rest.len() < 3 {
                return Ok(info);
            }
            info.api_group = rest[0].into();
            rest = &rest[1..];
        }
        info.is_resource_request = true;
        info.api_version = rest[0].into();
        rest = &rest[1..];

        let verb_in_path = matches!(rest[0], "proxy" | "watch");
        if verb_in_path {
            if rest.len() < 2 {
                return Err(format!("unable to determine kind and namespace from url, {path}"));
            }
            info.verb = rest[0].into();
            rest = &rest[1..];
        } else {
            info.verb = match *method {
                Method::POST => "create",
                Method::GET | Method::HEAD => "get",
                Method::PUT => "update",
                Method::PATCH => "patch",
                Method::DELETE => "delete",
                _ => "",
            }
            .into();
        }
        if rest[0] == "namespaces" && rest.len() > 1 {
            info.namespace = rest[1].into();
            if rest.len() > 2 && !NAMESPACE_SUBRESOURCES.contains(&rest[2]) {
                rest = &rest[2..];
            }
        }
        info.parts = rest.iter().map(|s| s.to_string()).collect();
        if rest.len() >= 3 && info.verb != "proxy" {
            info.subresource = rest[2].into();
        }
        if rest.len() >= 2 {
            info.name = rest[1].into();
        }
        info.resource = rest[0].into();
        info.read_query(query, verb_in_path);
        Ok(info)
    }

    fn read_query(&mut self, query: &Query, verb_in_path: bool) {
        if self.name.is_empty() && self.verb == "get" {
            self.verb = if go_bool(query.get("watch")) { "watch" } else { "list" }.into();
            if let Some(name) = query.get("fieldSelector").and_then(exact_name)
                && is_path_segment(&name)
            {
                self.name = name;
            }
        }
        if self.name.is_empty() && self.verb == "delete" {
            self.verb = "deletecollection".into();
        }
        if !verb_in_path && matches!(self.verb.as_str(), "list" | "watch" | "deletecollection") {
            self.field_selector = query.get("fieldSelector").map(str::to_owned);
            self.label_selector = query.get("labelSelector").map(str::to_owned);
        }
    }
}

/// The name that a field selector pins down with `metadata.name=NAME`.
fn exact_name(selector: &str) -> Option<String> {
    selector.split(',').find_map(|term| {
        let value = term.strip_prefix("metadata.name=")?;
        let value = value.strip_prefix('=').unwrap_or(value);
        (!value.is_empty() && !value.contains('\\')).then(|| value.to_owned())
    })
}

/// Whether `name` can be a segment of a path (apimachinery/pkg/api/validate/content).
pub fn is_path_segment(name: &str) -> bool {
    !matches!(name, "." | "..") && !name.contains(['/', '%'])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(method: &str, url: &str, expect: &str) {
        let (path, query) = url.split_once('?').unwrap_or((url, ""));
        let info = RequestInfo::parse(&method.parse().unwrap(), path, &Query::parse(query)).unwrap();
        let got = [
            info.verb,
            info.api_prefix,
            info.api_group,
            info.api_version,
            info.namespace,
            info.resource,
            info.subresource,
            info.name,
        ]
        .join("|");
        assert_eq!(got, expect, "{method} {url}");
    }

    #[test]
    fn paths_are_read_as_upstream_reads_them() {
        check("GET", "/api/v1/namespaces", "list|api||v1||namespaces||");
        check("GET", "/api/v1/namespaces/other", "get|api||v1|other|namespaces||other");
        check("GET", "/api/v1/namespaces/other/pods", "list|api||v1|other|pods||");
        check("GET", "/api/v1/namespaces/other/pods/foo", "get|api||v1|other|pods||foo");
        check("HEAD", "/api/v1/namespaces/other/pods/foo", "get|api||v1|other|pods||foo");
        check("GET", "/api/v1/pods?watch=true", "watch|api||v1||pods||");
        check("GET", "/api/v1/pods?watch=false", "list|api||v1||pods||");
        check("GET", "/api/v1/pods?watch", "watch|api||v1||pods||");
        check("GET", "/api/v1/watch/namespaces/other/pods", "watch|api||v1|other|pods||");
        check("GET", "/api/v1/namespaces/other/pods/foo/status", "get|api||v1|other|pods|status|foo");
        check("PUT", "/api/v1/namespaces/other/finalize", "update|api||v1|other|namespaces|finalize|other");
        check("DELETE", "/api/v1/namespaces/other/pods", "deletecollection|api||v1|other|pods||");
        check("POST", "/apis/apps/v1/namespaces/a/deployments", "create|apis|apps|v1|a|deployments||");
        check("PATCH", "/apis/apps/v1/namespaces/a/deployments/d", "patch|apis|apps|v1|a|deployments||d");
        check("GET", "/api/v1/pods?fieldSelector=metadata.name%3Dfoo", "list|api||v1||pods||foo");
        check("GET", "/apis/apps/v1", "get|apis||||||");
        check("GET", "/healthz", "get|||||||");
    }

    #[test]
    fn a_special_verb_with_nothing_after_it_is_an_error() {
        assert!(RequestInfo::parse(&Method::GET, "/api/v1/watch", &Query::parse("")).is_err());
    }
}
