//! kube-apiserver's layout of an etcd, so that either server can go on with what the other wrote: objects of built-in types
//! in protobuf, definitions, API services and custom resources in JSON, all beneath a prefix that can be chosen.
//!
//! [`Layout`] stands between the server and an engine. Above it values are JSON and keys begin with `/registry`, whatever
//! is below. Which keys there are is the registry's affair, whose names are upstream's already.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use serde_json::Value;
use skeg_catalog::spec::{Backing, ResourceSpec, Strategy};
use skeg_machinery::codec::{default, json, protobuf};
use skeg_machinery::gvk::{GroupVersion, GroupVersionKind};
use skeg_machinery::schema::{Schema, TypeRef};
use skeg_storage::{
    Committed, Event, KeyValue, Op, RangeRequest, RangeResponse, Revision, Store, StoreError, Watch, WatchMessage,
};

mod definition;

/// What keys begin with above the layout, and upstream's default for below.
const ABOVE: &str = "/registry";

/// An engine that is laid out as kube-apiserver lays it out.
pub struct Layout {
    store: Arc<dyn Store>,
    form: Form,
}

impl Layout {
    /// `prefix` is what keys begin with in `store`; upstream's default is `/registry`.
    pub fn new(store: Arc<dyn Store>, prefix: &str) -> Layout {
        let path: Vec<&str> = prefix.split('/').filter(|part| !part.is_empty()).collect();
        Layout { store, form: Form { prefix: format!("/{}", path.join("/")), strategies: strategies() } }
    }
}

/// Types that upstream stores in an older version, which has the same fields: the version above, the kind, that below.
const OLDER: [(&str, &str, &str); 2] = [
    ("admissionregistration.k8s.io/v1", "MutatingAdmissionPolicy", "admissionregistration.k8s.io/v1beta1"),
    ("admissionregistration.k8s.io/v1", "MutatingAdmissionPolicyBinding", "admissionregistration.k8s.io/v1beta1"),
];

/// Both directions between what is above and what is below.
#[derive(Clone)]
struct Form {
    prefix: String,
    strategies: Strategies,
}

/// By version and kind, of what is stored: upstream does not store all defaults, but adds them when it reads.
type Strategies = Arc<HashMap<(String, String), Arc<dyn Strategy>>>;

fn strategies() -> Strategies {
    let of = |spec: ResourceSpec| {
        let group_version = GroupVersion::new(spec.group.clone(), spec.storage_version.clone());
        ((group_version.to_string(), spec.kind.to_string()), spec.strategy)
    };
    let stored = skeg_catalog::all().into_iter().filter(|spec| matches!(spec.backing, Backing::Stored));
    Arc::new(stored.map(of).collect())
}

impl Form {
    fn lower_key(&self, key: &[u8]) -> Bytes {
        match key.strip_prefix(ABOVE.as_bytes()) {
            Some(rest) if self.prefix != ABOVE => [self.prefix.as_bytes(), rest].concat().into(),
            _ => Bytes::copy_from_slice(key),
        }
    }

    fn raise_key(&self, key: Bytes) -> Bytes {
        match key.strip_prefix(self.prefix.as_bytes()) {
            Some(rest) if self.prefix != ABOVE => [ABOVE.as_bytes(), rest].concat().into(),
            _ => key,
        }
    }

    fn raise(&self, kv: KeyValue) -> Result<KeyValue, StoreError> {
        let value = self.raise_value(&kv.key, kv.value)?;
        Ok(KeyValue { key: self.raise_key(kv.key), value, ..kv })
    }

    fn raise_event(&self, event: Event) -> Result<Event, StoreError> {
        let value = if event.value.is_empty() { event.value } else { self.raise_value(&event.key, event.value)? };
        let previous = event.previous.map(|kv| self.raise(kv)).transpose()?;
        Ok(Event { key: self.raise_key(event.key), value, previous, ..event })
    }

    fn raise_message(&self, message: WatchMessage) -> Result<WatchMessage, StoreError> {
        Ok(match message {
            WatchMessage::Progress(revision) => WatchMessage::Progress(revision),
            WatchMessage::Events(events) => {
                WatchMessage::Events(events.into_iter().map(|event| self.raise_event(event)).collect::<Result<_, _>>()?)
            }
        })
    }

    fn lower(&self, op: Op) -> Op {
        match op {
            Op::Put { key, value, pre, ttl } => {
                Op::Put { key: self.lower_key(&key), value: lower_value(value), pre, ttl }
            }
            Op::Delete { key, pre } => Op::Delete { key: self.lower_key(&key), pre },
        }
    }
}

/// The type of objects that are stored in protobuf. Upstream's servers for definitions and for API services store JSON.
fn protobuf_type(api_version: &str, kind: &str) -> Option<TypeRef> {
    let gvk = GroupVersionKind::parse(api_version, kind).ok()?;
    let in_json = matches!(&*gvk.group, "apiextensions.k8s.io" | "apiregistration.k8s.io");
    if in_json { None } else { Schema::kubernetes().lookup(&gvk) }
}

fn lower_value(value: Bytes) -> Bytes {
    let Ok((version, kind)) = json::interpret(&value) else { return value };
    let Ok(mut tree) = serde_json::from_slice::<Value>(&value) else { return value };
    if let Some(ty) = protobuf_type(&version, &kind) {
        if let Some((.., below)) = OLDER.iter().find(|(above, k, _)| *above == version && *k == kind) {
            tree["apiVersion"] = (*below).into();
        }
        return protobuf::encode(&tree, &ty);
    }
    match (version.as_str(), kind.as_str()) {
        (definition::V1, definition::KIND) => document(&definition::to_v1beta1(tree)),
        _ if is_built_in(&version, &kind) => document(&tree),
        // Upstream knows the fields of a custom resource by their names only.
        _ => document(&sorted(tree)),
    }
}

fn is_built_in(api_version: &str, kind: &str) -> bool {
    GroupVersionKind::parse(api_version, kind).is_ok_and(|gvk| Schema::kubernetes().lookup(&gvk).is_some())
}

/// A document as Go writes it: some characters escaped, and a newline at its end.
fn document(tree: &Value) -> Bytes {
    let mut out = String::with_capacity(256);
    for c in tree.to_string().chars() {
        match c {
            // They occur in strings only.
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('\n');
    out.into()
}

fn sorted(tree: Value) -> Value {
    match tree {
        Value::Array(items) => items.into_iter().map(sorted).collect(),
        Value::Object(map) => {
            let fields: BTreeMap<String, Value> = map.into_iter().map(|(name, value)| (name, sorted(value))).collect();
            fields.into_iter().collect()
        }
        value => value,
    }
}

impl Form {
    fn raise_value(&self, key: &Bytes, value: Bytes) -> Result<Bytes, StoreError> {
        let damaged = |reason: &dyn std::fmt::Display| StoreError::Corrupt {
            what: format!("value of {} cannot be decoded: {reason}", String::from_utf8_lossy(key)),
        };
        let known = |version: &str, kind: &str| {
            let gvk = GroupVersionKind::parse(version, kind).ok();
            let ty = gvk.and_then(|gvk| Schema::kubernetes().lookup(&gvk));
            ty.ok_or_else(|| damaged(&format!("no kind {kind:?} in version {version:?}")))
        };
        let (version, ty, mut tree) = if value.starts_with(&protobuf::PREFIX) {
            let envelope = protobuf::open(&value).map_err(|error| damaged(&error))?;
            let (version, kind) = (&envelope.api_version, &envelope.kind);
            let older = OLDER.iter().find(|(_, k, below)| below == version && k == kind);
            let version = older.map_or(version.clone(), |(above, ..)| (*above).to_owned());
            let ty = known(&version, kind)?;
            let tree = protobuf::decode(&value, &ty, usize::MAX).map_err(|error| damaged(&error))?;
            (version, ty, tree)
        } else {
            let told = json::interpret(&value).unwrap_or_default();
            if (told.0.as_str(), told.1.as_str()) != (definition::V1BETA1, definition::KIND) {
                return Ok(value.slice(..value.trim_ascii_end().len()));
            }
            let tree = serde_json::from_slice(&value).map_err(|error| damaged(&error))?;
            (definition::V1.to_owned(), known(definition::V1, definition::KIND)?, definition::to_v1(tree))
        };
        tree["apiVersion"] = version.clone().into();
        let kind = tree["kind"].as_str().unwrap_or_default().to_owned();
        if let Some(strategy) = self.strategies.get(&(version.clone(), kind)) {
            default::apply(&mut tree, &ty);
            strategy.default(version.rsplit('/').next().unwrap_or_default(), &mut tree);
        }
        Ok(json::encode(&tree, &ty))
    }
}

#[async_trait]
impl Store for Layout {
    async fn get(&self, key: &[u8], revision: Option<Revision>) -> Result<(Option<KeyValue>, Revision), StoreError> {
        let (kv, at) = self.store.get(&self.form.lower_key(key), revision).await?;
        Ok((kv.map(|kv| self.form.raise(kv)).transpose()?, at))
    }

    async fn range(&self, request: RangeRequest) -> Result<RangeResponse, StoreError> {
        let request = RangeRequest {
            prefix: self.form.lower_key(&request.prefix),
            start_after: request.start_after.map(|key| self.form.lower_key(&key)),
            ..request
        };
        let response = self.store.range(request).await?;
        let kvs = response.kvs.into_iter().map(|kv| self.form.raise(kv)).collect::<Result<_, _>>()?;
        Ok(RangeResponse { kvs, ..response })
    }

    async fn count(&self, prefix: &[u8]) -> Result<u64, StoreError> {
        self.store.count(&self.form.lower_key(prefix)).await
    }

    async fn apply(&self, op: Op) -> Result<Committed, StoreError> {
        let raise = |kv: KeyValue| self.form.raise(kv);
        match self.store.apply(self.form.lower(op)).await {
            Ok(Committed::Put { revision, previous }) => {
                Ok(Committed::Put { revision, previous: previous.map(raise).transpose()? })
            }
            Ok(Committed::Delete { revision, previous }) => {
                Ok(Committed::Delete { revision, previous: raise(previous)? })
            }
            Err(StoreError::Conflict { current: Some(current), revision }) => {
                Err(StoreError::Conflict { current: Some(Box::new(raise(*current)?)), revision })
            }
            Err(error) => Err(error),
        }
    }

    async fn watch(&self, prefix: Bytes, after: Revision) -> Result<Watch, StoreError> {
        let watch = self.store.watch(self.form.lower_key(&prefix), after).await?;
        let progress = watch.progress();
        let form = self.form.clone();
        Ok(Watch::new(watch.map(move |message| form.raise_message(message?)).boxed(), progress))
    }

    async fn current_revision(&self) -> Result<Revision, StoreError> {
        self.store.current_revision().await
    }

    async fn compacted_revision(&self) -> Result<Revision, StoreError> {
        self.store.compacted_revision().await
    }

    async fn compact(&self, revision: Revision) -> Result<(), StoreError> {
        self.store.compact(revision).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn form() -> Form {
        Form { prefix: "/registry".into(), strategies: strategies() }
    }

    #[test]
    fn what_upstream_leaves_out_is_defaulted_when_it_is_read() {
        let claim =
            r#"{"kind":"PersistentVolumeClaim","apiVersion":"v1","metadata":{"name":"c"},"spec":{},"status":{}}"#;
        let raised = form().raise_value(&key(), lower_value(Bytes::from(claim))).unwrap();
        let raised: Value = serde_json::from_slice(&raised).unwrap();
        assert_eq!(raised["status"]["phase"], "Pending");
        let job = r#"{"kind":"Job","apiVersion":"batch/v1","metadata":{"name":"j","uid":"u"},"spec":{"template":{"metadata":{"labels":{"job-name":"j"}},"spec":{"containers":[]}}}}"#;
        let raised = form().raise_value(&key(), lower_value(Bytes::from(job))).unwrap();
        let raised: Value = serde_json::from_slice(&raised).unwrap();
        assert_eq!(raised["metadata"]["labels"]["job-name"], "j");
    }

    #[test]
    fn policies_that_change_objects_are_stored_in_v1beta1() {
        let binding = r#"{"kind":"MutatingAdmissionPolicyBinding","apiVersion":"admissionregistration.k8s.io/v1","metadata":{"name":"b"},"spec":{"policyName":"p"}}"#;
        let lowered = lower_value(Bytes::from(binding));
        assert_eq!(protobuf::open(&lowered).unwrap().api_version, "admissionregistration.k8s.io/v1beta1");
        let raised: Value = serde_json::from_slice(&form().raise_value(&key(), lowered).unwrap()).unwrap();
        assert_eq!(
            (&raised["apiVersion"], &raised["spec"]["policyName"]),
            (&"admissionregistration.k8s.io/v1".into(), &"p".into())
        );
    }

    fn key() -> Bytes {
        Bytes::from_static(b"/registry/x")
    }

    #[test]
    fn built_in_types_are_protobuf_and_the_rest_is_json() {
        for (object, in_protobuf) in [
            (r#"{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"c"},"data":{"a":"b"}}"#, true),
            (r#"{"kind":"Deployment","apiVersion":"apps/v1","metadata":{"name":"d"}}"#, true),
            (r#"{"kind":"Widget","apiVersion":"example.com/v1","metadata":{"name":"w"},"spec":{"n":1}}"#, false),
            (
                r#"{"kind":"CustomResourceDefinition","apiVersion":"apiextensions.k8s.io/v1","metadata":{},"spec":{}}"#,
                false,
            ),
            (r#"{"kind":"APIService","apiVersion":"apiregistration.k8s.io/v1","metadata":{"name":"v1."}}"#, false),
        ] {
            let lowered = lower_value(Bytes::from(object));
            assert_eq!(lowered.starts_with(b"k8s\0"), in_protobuf, "{object}");
            let raised: Value = serde_json::from_slice(&form().raise_value(&key(), lowered).unwrap()).unwrap();
            let wanted: Value = serde_json::from_str(object).unwrap();
            assert_eq!((&raised["kind"], &raised["apiVersion"]), (&wanted["kind"], &wanted["apiVersion"]));
            assert_eq!(raised["data"], wanted["data"]);
        }
    }

    #[test]
    fn documents_are_those_that_go_writes() {
        let lowered = lower_value(Bytes::from(r#"{"kind":"Widget","apiVersion":"example.com/v1","z":"<&>","a":[1]}"#));
        let wanted =
            "{\"a\":[1],\"apiVersion\":\"example.com/v1\",\"kind\":\"Widget\",\"z\":\"\\u003c\\u0026\\u003e\"}\n";
        assert_eq!(lowered, wanted);
        let definition = r#"{"kind":"CustomResourceDefinition","apiVersion":"apiextensions.k8s.io/v1","spec":{}}"#;
        assert!(
            lower_value(Bytes::from(definition))
                .starts_with(br#"{"kind":"CustomResourceDefinition","apiVersion":"apiextensions.k8s.io/v1beta1""#)
        );
    }

    #[test]
    fn what_cannot_be_read_is_damage_with_its_key() {
        for value in [&b"k8s\0\xff"[..], b"k8s\0\x0a\x08\x0a\x02v1\x12\x02No\x12\x00"] {
            let error = form().raise_value(&key(), Bytes::copy_from_slice(value)).unwrap_err();
            assert!(error.to_string().contains("/registry/x"), "{error}");
        }
        assert_eq!(form().raise_value(&key(), Bytes::from_static(b"{}\n")).unwrap(), "{}");
    }

    #[test]
    fn keys_move_to_the_chosen_prefix_and_back() {
        let form = Form { prefix: "/a/b".into(), ..form() };
        assert_eq!(form.lower_key(b"/registry/pods/"), "/a/b/pods/");
        assert_eq!(form.raise_key("/a/b/pods/x".into()), "/registry/pods/x");
        assert_eq!(self::form().lower_key(b"/registry/pods/"), "/registry/pods/");
    }
}
