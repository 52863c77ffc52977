//! What a request is about, read from its method, path and query, and who sent it. Parsing only.

use std::collections::BTreeMap;

/// Who a request is from, as authentication found it (impersonation applied).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UserInfo {
    pub name: String,
    pub uid: String,
    pub groups: Vec<String>,
    pub extra: BTreeMap<String, Vec<String>>,
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
