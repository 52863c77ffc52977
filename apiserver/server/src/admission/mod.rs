//! Admission: plug-ins that change or refuse a write after it is authorized and before it is stored.

use async_trait::async_trait;
use serde_json::Value;
use skeg_machinery::gvk::{GroupVersionKind, GroupVersionResource};
use skeg_machinery::status::Status;

use crate::request::UserInfo;

#[cfg(test)]
pub mod fake;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    Create,
    Update,
    Delete,
    Connect,
}

/// One write, as a plug-in sees it. `object` is of the request's version.
pub struct Attributes<'a> {
    pub operation: Operation,
    pub kind: GroupVersionKind,
    pub resource: GroupVersionResource,
    pub subresource: &'a str,
    pub namespace: &'a str,
    pub name: &'a str,
    pub user: &'a UserInfo,
    pub dry_run: bool,
    pub old_object: Option<&'a Value>,
    /// Create, update, patch or delete options.
    pub options: &'a Value,
    pub warnings: &'a std::sync::Mutex<Vec<String>>,
}

#[async_trait]
pub trait Plugin: Send + Sync + 'static {
    fn name(&self) -> &'static str;
    async fn mutate(&self, _attributes: &Attributes<'_>, _object: &mut Value) -> Result<(), Status> {
        Ok(())
    }
    async fn validate(&self, _attributes: &Attributes<'_>, _object: Option<&Value>) -> Result<(), Status> {
        Ok(())
    }
}
