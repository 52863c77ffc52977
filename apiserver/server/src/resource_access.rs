//! [`Resources`] over the server's own registry, caches and write path.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use serde_json::Value;
use skeg_machinery::codec::json::{FieldValidation, decode_value};
use skeg_machinery::meta;
use skeg_machinery::status::Status;
use skeg_storage::cacher::{CacheEvent, CacheWatch, ListRequest, Read, Start, WatchKind, WatchRequest};

use crate::cache::{Decoder, Item};
use crate::object;
use crate::query::{DeleteOptions, WriteKind, WriteParameters};
use crate::registry::Resource;
use crate::request::UserInfo;
use crate::resources::{Change, Edit, GroupResource, Resources, WriteOptions};
use crate::server::Server;
use crate::write::patch::{Applied, Patch};
use crate::write::{Write, store_failure, update};

pub struct Access(pub Arc<Server>);

impl Access {
    fn find(&self, resource: &GroupResource) -> Result<Arc<Resource>, Status> {
        self.0.registry.find(&resource.group, &resource.resource).ok_or_else(crate::handlers::no_such_path)
    }
}

/// Longer lists are decoded anew each time.
const KEPT_OF_LIST: usize = 32;

fn manager(options: &WriteOptions) -> String {
    if options.field_manager.is_empty() { "skeg".into() } else { options.field_manager.clone() }
}

/// An object as a client's would be once it is read: nothing that is as good as absent, and the defaults.
fn as_sent(resource: &Resource, object: Value) -> Result<Value, Status> {
    let version = resource.storage_version();
    let kind = resource.kind(&version.version);
    let mut object = match decode_value(&object, &version.schema, FieldValidation::Ignore) {
        Ok(decoded) => decoded.value,
        Err(error) => return Err(error.to_status(Some(&kind), &kind.kind, &[])),
    };
    object::set_kind(&mut object, &kind);
    resource.default(version, &mut object);
    Ok(object)
}

#[async_trait]
impl Resources for Access {
    async fn get(&self, resource: &GroupResource, namespace: &str, name: &str) -> Result<Value, Status> {
        let resource = self.find(resource)?;
        let key = resource.key(namespace, name);
        let found = self.0.store.get(key.as_bytes(), None).await;
        let (found, _) = found.map_err(|error| store_failure(&resource, "get", error))?;
        let found = found.ok_or_else(|| Status::not_found(&resource.group_resource, name))?;
        resource.read(&found.value, found.mod_revision)
    }

    async fn get_cached(
        &self,
        resource: &GroupResource,
        namespace: &str,
        name: &str,
    ) -> Result<Option<Arc<Value>>, Status> {
        let resource = self.find(resource)?;
        let key = resource.key(namespace, name);
        let found = resource.cache.cacher.get(key.as_bytes(), Read::Any).await;
        let (found, _) = found.map_err(|error| store_failure(&resource, "get", error))?;
        found.map(|item| resource.cache.tree(&item)).transpose()
    }

    async fn list(&self, resource: &GroupResource, namespace: &str) -> Result<Vec<Arc<Value>>, Status> {
        let resource = self.find(resource)?;
        let request = ListRequest {
            prefix: Bytes::from(resource.list_prefix(namespace)),
            start_after: None,
            limit: None,
            read: Read::Consistent,
        };
        let list = resource.cache.cacher.list(&request, |_| true).await;
        let list = list.map_err(|error| store_failure(&resource, "list", error))?;
        if list.items.len() <= KEPT_OF_LIST {
            return list.items.iter().map(|item| resource.cache.tree(item)).collect();
        }
        let decode = |item: &Item| object::decode_stored(&item.bytes, item.revision).map(Arc::new);
        list.items.iter().map(|item| decode(item)).collect()
    }

    async fn create(
        &self,
        user: &UserInfo,
        resource: &GroupResource,
        namespace: &str,
        object: Value,
        options: &WriteOptions,
    ) -> Result<Value, Status> {
        let resource = self.find(resource)?;
        let version = resource.storage_version();
        let object = as_sent(&resource, object)?;
        let parameters = WriteParameters::internal(&manager(options), options.dry_run, WriteKind::Create);
        let warnings = Mutex::default();
        let write = Write {
            server: &self.0,
            resource: &resource,
            version,
            subresource: None,
            seen_as: "",
            namespace,
            name: "",
            user,
            manager: manager(options),
            parameters: &parameters,
            warnings: &warnings,
        };
        write.create(object).await.map(|stored| stored.value)
    }

    async fn update(
        &self,
        user: &UserInfo,
        resource: &GroupResource,
        subresource: &str,
        object: Value,
        options: &WriteOptions,
    ) -> Result<Value, Status> {
        let resource = self.find(resource)?;
        let version = resource.storage_version();
        let object = as_sent(&resource, object)?;
        let parameters = WriteParameters::internal(&manager(options), options.dry_run, WriteKind::Update);
        let warnings = Mutex::default();
        let (namespace, name) = (meta::namespace(&object).to_owned(), meta::name(&object).to_owned());
        let write = Write {
            server: &self.0,
            resource: &resource,
            version,
            subresource: resource.subresource(subresource),
            seen_as: "",
            namespace: &namespace,
            name: &name,
            user,
            manager: manager(options),
            parameters: &parameters,
            warnings: &warnings,
        };
        write.update(&update::Change::Replace(object)).await.map(|updated| updated.stored.value)
    }

    async fn apply_status(
        &self,
        user: &UserInfo,
        resource: &GroupResource,
        object: Value,
        manager: &str,
    ) -> Result<Value, Status> {
        let resource = self.find(resource)?;
        let mut parameters = WriteParameters::internal(manager, false, WriteKind::Apply);
        parameters.force = true;
        let warnings = Mutex::default();
        let (namespace, name) = (meta::namespace(&object).to_owned(), meta::name(&object).to_owned());
        let write = Write {
            server: &self.0,
            resource: &resource,
            version: resource.storage_version(),
            subresource: resource.subresource("status"),
            seen_as: "",
            namespace: &namespace,
            name: &name,
            user,
            manager: manager.to_owned(),
            parameters: &parameters,
            warnings: &warnings,
        };
        let patch = Patch::Apply(Applied::new(object));
        write.update(&update::Change::Patch(patch)).await.map(|updated| updated.stored.value)
    }

    async fn delete(
        &self,
        user: &UserInfo,
        resource: &GroupResource,
        namespace: &str,
        name: &str,
        options: &Value,
    ) -> Result<Value, Status> {
        let resource = self.find(resource)?;
        let options = if options.is_null() { Value::Object(Default::default()) } else { options.clone() };
        let options = DeleteOptions::from_value(options)?;
        let mut parameters = WriteParameters::internal("skeg", options.dry_run, WriteKind::Update);
        parameters.options = options.raw.clone();
        let warnings = Mutex::default();
        let write = Write {
            server: &self.0,
            resource: &resource,
            version: resource.storage_version(),
            subresource: None,
            seen_as: "",
            namespace,
            name,
            user,
            manager: "skeg".into(),
            parameters: &parameters,
            warnings: &warnings,
        };
        let deleted = write.delete(&options).await?;
        Ok(match write.delete_answer(&deleted) {
            Ok(stored) => stored.value.clone(),
            Err(status) => serde_json::to_value(status).map_err(Status::internal_error)?,
        })
    }

    async fn modify(
        &self,
        resource: &GroupResource,
        namespace: &str,
        name: &str,
        dry_run: bool,
        edit: Edit<'_>,
    ) -> Result<Value, Status> {
        let resource = self.find(resource)?;
        update::modify(&self.0, &resource, namespace, name, dry_run, edit).await.map(|stored| stored.value)
    }

    fn follow(&self, resource: &GroupResource) -> BoxStream<'static, Change> {
        Following::new(&self.0, resource, None).changes()
    }

    fn follow_having(&self, resource: &GroupResource, field: &'static str) -> BoxStream<'static, Change> {
        Following::new(&self.0, resource, Some(field)).changes()
    }
}

/// Between attempts to start a watch that the store refuses.
const RETRY: Duration = Duration::from_millis(200);

struct Following {
    server: Arc<Server>,
    /// Group and plural name.
    resource: (String, String),
    /// A selectable field that must not be empty.
    field: Option<&'static str>,
    /// What is to be delivered next, last first.
    queue: Vec<Change>,
    watch: Option<CacheWatch<Decoder>>,
}

impl Following {
    fn new(server: &Arc<Server>, resource: &GroupResource, field: Option<&'static str>) -> Self {
        let resource = (resource.group.to_string(), resource.resource.to_string());
        Following { server: server.clone(), resource, field, queue: Vec::new(), watch: None }
    }

    fn changes(self) -> BoxStream<'static, Change> {
        futures::stream::unfold(self, |mut state| async move {
            let change = state.next().await;
            Some((change, state))
        })
        .boxed()
    }

    /// Which objects are told of.
    fn matches(&self, resource: &Resource) -> Arc<dyn Fn(&Item) -> bool + Send + Sync> {
        let place = |label| resource.spec.selectable_fields.iter().position(|field| field.label == label);
        let Some(place) = self.field.and_then(place) else { return Arc::new(|_: &Item| true) };
        let fields = resource.cache.fields.clone();
        Arc::new(move |item: &Item| !fields.value(item, place).is_empty())
    }

    async fn next(&mut self) -> Change {
        loop {
            if let Some(change) = self.queue.pop() {
                return change;
            }
            let Some(watch) = &mut self.watch else {
                self.start().await;
                continue;
            };
            match watch.next().await {
                Ok(CacheEvent::Item(item)) => {
                    if let Ok(object) = object::decode_stored(&item.object.bytes, item.object.revision) {
                        return match item.kind {
                            WatchKind::Deleted => Change::Deleted(object),
                            WatchKind::Added | WatchKind::Modified => Change::Applied(object),
                        };
                    }
                }
                Ok(CacheEvent::Progress(_)) => {}
                Err(error) => {
                    tracing::debug!(resource = self.resource.1, %error, "an inner watch starts over");
                    self.watch = None;
                }
            }
        }
    }

    async fn start(&mut self) {
        let opened = match self.server.registry.find(&self.resource.0, &self.resource.1) {
            None => None,
            Some(resource) => {
                let request = WatchRequest {
                    prefix: Bytes::copy_from_slice(resource.prefix().as_bytes()),
                    start: Start::Snapshot(Read::Consistent),
                    matches: self.matches(&resource),
                    index: None,
                };
                match resource.cache.cacher.watch(request).await {
                    Ok(watch) => Some(watch),
                    Err(error) => {
                        tracing::warn!(resource = self.resource.1, %error, "an inner watch could not start");
                        None
                    }
                }
            }
        };
        let Some(mut watch) = opened else {
            tokio::time::sleep(RETRY).await;
            return;
        };
        self.queue.push(Change::Synced);
        for item in watch.take_initial().iter().rev() {
            if let Ok(object) = object::decode_stored(&item.bytes, item.object.revision) {
                self.queue.push(Change::Applied(object));
            }
        }
        self.queue.push(Change::Restart);
        self.watch = Some(watch);
    }
}
