//! Objects for the server's own parts (RBAC, admission, binding, eviction, bootstrap): the contract, not the doing.
//!
//! Reads and `modify` see objects in the storage version with `metadata.resourceVersion` set, without authorization and
//! admission. `create`, `update` and `delete` are the ordinary write path on behalf of `user`, admission included, again in
//! the storage version. `namespace` is empty for cluster-scoped resources.

use std::sync::Arc;

use async_trait::async_trait;
use futures::stream::BoxStream;
use serde_json::Value;
pub use skeg_machinery::gvk::GroupResource;
use skeg_machinery::status::Status;

use crate::request::UserInfo;

#[derive(Clone, Debug, Default)]
pub struct WriteOptions {
    pub dry_run: bool,
    pub field_manager: String,
}

/// What an informer hears. `Restart` comes before every (re)list, `Synced` after its last object.
#[derive(Clone, Debug)]
pub enum Change {
    Restart,
    Applied(Value),
    Deleted(Value),
    Synced,
}

/// What [`Resources::modify`] calls with the live object, again for each attempt.
pub type Edit<'a> = &'a mut (dyn FnMut(&mut Value) -> Result<(), Status> + Send);

#[async_trait]
pub trait Resources: Send + Sync + 'static {
    /// The newest state, read from the store. 404 as a Status.
    async fn get(&self, resource: &GroupResource, namespace: &str, name: &str) -> Result<Value, Status>;

    /// From the watch cache: may lag by moments, costs no store read, and mostly no decoding either. `None` when absent.
    async fn get_cached(
        &self,
        resource: &GroupResource,
        namespace: &str,
        name: &str,
    ) -> Result<Option<Arc<Value>>, Status>;

    /// From the watch cache at the newest revision; `namespace` "" lists all of them.
    async fn list(&self, resource: &GroupResource, namespace: &str) -> Result<Vec<Arc<Value>>, Status>;

    async fn create(
        &self,
        user: &UserInfo,
        resource: &GroupResource,
        namespace: &str,
        object: Value,
        options: &WriteOptions,
    ) -> Result<Value, Status>;

    /// `subresource` is "" or an Update subresource such as "status".
    async fn update(
        &self,
        user: &UserInfo,
        resource: &GroupResource,
        subresource: &str,
        object: Value,
        options: &WriteOptions,
    ) -> Result<Value, Status>;

    /// Server-side apply of the status in `object`, in the name of `manager` and against all others.
    async fn apply_status(
        &self,
        user: &UserInfo,
        resource: &GroupResource,
        object: Value,
        manager: &str,
    ) -> Result<Value, Status>;

    /// `options` is a meta/v1 DeleteOptions object (`{}` for none). Returns the object or a Status, as a client sees it.
    async fn delete(
        &self,
        user: &UserInfo,
        resource: &GroupResource,
        namespace: &str,
        name: &str,
        options: &Value,
    ) -> Result<Value, Status>;

    /// Read, edit, compare-and-swap, with retries when another write wins. No admission, strategy or validation: the
    /// edit is trusted. Returns the stored object.
    async fn modify(
        &self,
        resource: &GroupResource,
        namespace: &str,
        name: &str,
        dry_run: bool,
        edit: Edit<'_>,
    ) -> Result<Value, Status>;

    /// Every object, then every change, for as long as it is polled; lists again by itself after an error.
    fn follow(&self, resource: &GroupResource) -> BoxStream<'static, Change>;

    /// The same for the objects in which a selectable field is set: what has none yet, or has none any more, costs nothing or is
    /// reported as deleted.
    fn follow_having(&self, resource: &GroupResource, _field: &'static str) -> BoxStream<'static, Change> {
        self.follow(resource)
    }
}
