//! For tests: objects in memory behind [`Resources`], and writes to show to plug-ins.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use futures::StreamExt;
use futures::stream::BoxStream;
use serde_json::{Value, json};
use skeg_machinery::gvk::{GroupResource, GroupVersionKind, GroupVersionResource};
use skeg_machinery::schema::{Schema, TypeRef};
use skeg_machinery::status::Status;

use super::{Attributes, Operation};
use crate::request::UserInfo;
use crate::resources::{Change, Edit, Resources, WriteOptions};
use crate::served::{Served, Types};

type Key = (String, String, String, String);

/// Objects by (group, resource, namespace, name). No watch: `follow` lists once and ends.
#[derive(Default)]
pub struct Memory {
    objects: Mutex<BTreeMap<Key, Value>>,
}

fn text(object: &Value, name: &str) -> String {
    object["metadata"][name].as_str().unwrap_or_default().to_owned()
}

impl Memory {
    pub fn with(objects: Vec<(&str, &str, Value)>) -> Memory {
        let memory = Memory::default();
        for (group, resource, object) in objects {
            memory.put(group, resource, object);
        }
        memory
    }

    pub fn put(&self, group: &str, resource: &str, object: Value) {
        // Nodes and the like have no namespace, whatever a test's template says.
        let namespace =
            if matches!(resource, "nodes" | "namespaces") { String::new() } else { text(&object, "namespace") };
        let key = (group.to_owned(), resource.to_owned(), namespace, text(&object, "name"));
        self.objects.lock().unwrap().insert(key, object);
    }

    /// Removes every object of a type.
    pub fn remove(&self, group: &str, resource: &str) {
        self.objects.lock().unwrap().retain(|key, _| key.0 != group || key.1 != resource);
    }

    fn key(resource: &GroupResource, namespace: &str, name: &str) -> Key {
        (resource.group.to_string(), resource.resource.to_string(), namespace.into(), name.into())
    }

    fn missing(resource: &GroupResource, name: &str) -> Status {
        Status::not_found(resource, name)
    }
}

#[async_trait]
impl Resources for Memory {
    async fn get(&self, resource: &GroupResource, namespace: &str, name: &str) -> Result<Value, Status> {
        let objects = self.objects.lock().unwrap();
        objects.get(&Self::key(resource, namespace, name)).cloned().ok_or_else(|| Self::missing(resource, name))
    }

    async fn get_cached(
        &self,
        resource: &GroupResource,
        namespace: &str,
        name: &str,
    ) -> Result<Option<Arc<Value>>, Status> {
        Ok(self.objects.lock().unwrap().get(&Self::key(resource, namespace, name)).cloned().map(Arc::new))
    }

    async fn list(&self, resource: &GroupResource, namespace: &str) -> Result<Vec<Arc<Value>>, Status> {
        let objects = self.objects.lock().unwrap();
        let wanted = |key: &Key| {
            key.0 == resource.group && key.1 == resource.resource && (namespace.is_empty() || key.2 == namespace)
        };
        Ok(objects.iter().filter(|(key, _)| wanted(key)).map(|(_, object)| Arc::new(object.clone())).collect())
    }

    async fn create(
        &self,
        _: &UserInfo,
        resource: &GroupResource,
        namespace: &str,
        mut object: Value,
        options: &WriteOptions,
    ) -> Result<Value, Status> {
        if !namespace.is_empty() {
            object["metadata"]["namespace"] = namespace.into();
        }
        let mut objects = self.objects.lock().unwrap();
        let key = Self::key(resource, namespace, &text(&object, "name"));
        if objects.contains_key(&key) {
            return Err(Status::already_exists(resource, &key.3));
        }
        if !options.dry_run {
            objects.insert(key, object.clone());
        }
        Ok(object)
    }

    async fn update(
        &self,
        _: &UserInfo,
        resource: &GroupResource,
        _: &str,
        object: Value,
        _: &WriteOptions,
    ) -> Result<Value, Status> {
        self.put(&resource.group, &resource.resource, object.clone());
        Ok(object)
    }

    async fn apply_status(
        &self,
        _: &UserInfo,
        resource: &GroupResource,
        object: Value,
        _: &str,
    ) -> Result<Value, Status> {
        let (namespace, name) = (text(&object, "namespace"), text(&object, "name"));
        let edit = &mut |live: &mut Value| {
            live["status"] = object["status"].clone();
            Ok(())
        };
        self.modify(resource, &namespace, &name, false, edit).await
    }

    async fn delete(
        &self,
        _: &UserInfo,
        resource: &GroupResource,
        namespace: &str,
        name: &str,
        _: &Value,
    ) -> Result<Value, Status> {
        let removed = self.objects.lock().unwrap().remove(&Self::key(resource, namespace, name));
        removed.ok_or_else(|| Self::missing(resource, name))
    }

    async fn modify(
        &self,
        resource: &GroupResource,
        namespace: &str,
        name: &str,
        dry_run: bool,
        edit: Edit<'_>,
    ) -> Result<Value, Status> {
        let mut object = self.get(resource, namespace, name).await?;
        edit(&mut object)?;
        if !dry_run {
            self.objects.lock().unwrap().insert(Self::key(resource, namespace, name), object.clone());
        }
        Ok(object)
    }

    fn follow(&self, resource: &GroupResource) -> BoxStream<'static, Change> {
        let objects = self.objects.lock().unwrap();
        let listed = objects.iter().filter(|(key, _)| key.0 == resource.group && key.1 == resource.resource);
        let mut changes = vec![Change::Restart];
        changes.extend(listed.map(|(_, object)| Change::Applied(object.clone())));
        changes.push(Change::Synced);
        futures::stream::iter(changes).boxed()
    }
}

/// One write, owning what [`Attributes`] borrows.
pub struct Write {
    pub operation: Operation,
    pub kind: GroupVersionKind,
    pub resource: GroupVersionResource,
    pub subresource: String,
    pub namespace: String,
    pub name: String,
    pub user: UserInfo,
    pub dry_run: bool,
    pub object: Value,
    pub old: Option<Value>,
    pub options: Value,
    pub warnings: Mutex<Vec<String>>,
}

impl Write {
    pub fn create(group: &str, version: &str, resource: &str, namespace: &str, object: Value) -> Write {
        let kind = object["kind"].as_str().unwrap_or_default().to_owned();
        Write {
            operation: Operation::Create,
            kind: GroupVersionKind::new(group.to_owned(), version.to_owned(), kind),
            resource: GroupVersionResource::new(group.to_owned(), version.to_owned(), resource.to_owned()),
            subresource: String::new(),
            namespace: namespace.into(),
            name: text(&object, "name"),
            user: UserInfo { name: "alice".into(), ..Default::default() },
            dry_run: false,
            object,
            old: None,
            options: json!({}),
            warnings: Mutex::default(),
        }
    }

    pub fn pod(namespace: &str, object: Value) -> Write {
        Write::create("", "v1", "pods", namespace, object)
    }

    pub fn update(mut self, old: Value) -> Write {
        self.operation = Operation::Update;
        self.old = Some(old);
        self
    }

    pub fn delete(mut self) -> Write {
        self.operation = Operation::Delete;
        self
    }

    pub fn subresource(mut self, subresource: &str) -> Write {
        self.subresource = subresource.into();
        self
    }

    pub fn user(mut self, name: &str, groups: &[&str]) -> Write {
        self.user = UserInfo {
            name: name.into(),
            groups: groups.iter().map(|g| g.to_string()).collect(),
            ..Default::default()
        };
        self
    }

    pub fn attributes(&self) -> Attributes<'_> {
        Attributes {
            operation: self.operation,
            kind: self.kind.clone(),
            resource: self.resource.clone(),
            subresource: &self.subresource,
            namespace: &self.namespace,
            name: &self.name,
            user: &self.user,
            dry_run: self.dry_run,
            old_object: self.old.as_ref(),
            options: &self.options,
            warnings: &self.warnings,
            reinvocation: Default::default(),
        }
    }
}

/// Types without schemas: objects convert by changing their apiVersion, and are whole as they are.
#[derive(Default)]
pub struct Kinds(Vec<Served>);

impl Kinds {
    pub fn with(
        mut self,
        group: &'static str,
        versions: &[&'static str],
        resource: &'static str,
        kind: &'static str,
    ) -> Self {
        self.0.extend(versions.iter().map(|version| Served {
            resource: GroupVersionResource::new(group, *version, resource),
            kind: GroupVersionKind::new(group, *version, kind),
        }));
        self
    }
}

#[async_trait]
impl Types for Kinds {
    fn equivalents(&self, resource: &GroupVersionResource, _: &str) -> Vec<Served> {
        let same = |served: &&Served| served.resource.group_resource() == resource.group_resource();
        self.0.iter().filter(same).cloned().collect()
    }

    async fn convert(&self, mut object: Value, _: &Served, to: &Served) -> Result<Value, Status> {
        object["apiVersion"] = json!(to.kind.api_version());
        Ok(object)
    }

    fn complete(&self, object: &Value, _: &Served) -> Result<Value, Status> {
        Ok(object.clone())
    }

    fn schema(&self, kind: &GroupVersionKind) -> Option<TypeRef> {
        Schema::kubernetes().lookup(kind)
    }

    fn resource_of(&self, kind: &GroupVersionKind) -> Option<(GroupVersionResource, bool)> {
        let found = self.0.iter().find(|served| served.kind == *kind)?;
        Some((found.resource.clone(), true))
    }
}
