//! The watch cache of one resource: what the storage crate's [`Cacher`] must know of objects, and the frames of recent
//! watch events, encoded once for every watcher that wants the same form. What a client may ask for is decided elsewhere.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use bytes::Bytes;
use serde_json::Value;
use skeg_catalog::spec::{Backing, FieldValue, ResourceSpec};
use skeg_machinery::codec::json as codec;
use skeg_machinery::header::{self, Splice};
use skeg_machinery::status::Status;
use skeg_storage::cacher::{CacheOptions, Cacher, Decode, Entry};
use skeg_storage::{KeyValue, Store};

use crate::negotiate::Output;
use crate::object;
use crate::texts::Texts;

/// A cached object: stored JSON and the few parts of it that selectors read.
pub struct Item {
    pub bytes: Bytes,
    pub revision: u64,
    /// Name, namespace, the selectable fields, then keys and values of the labels.
    texts: Texts,
    /// How many selectable fields there are.
    fields: usize,
    splice: Splice,
    /// The object as a protobuf message of the storage version, once a list asked for it and while there is room.
    message: OnceLock<Bytes>,
}

const NAME: usize = 0;
const NAMESPACE: usize = 1;
/// The first selectable field.
const FIELDS: usize = 2;

/// So many bytes of messages are kept for each resource.
const KEPT_MESSAGES: usize = 32 << 20;

/// Bytes that are given back to the room for them when the last reader is gone.
struct Kept {
    bytes: Box<[u8]>,
    used: Arc<AtomicUsize>,
}

impl AsRef<[u8]> for Kept {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.used.fetch_sub(self.bytes.len(), Ordering::Relaxed);
    }
}

impl Item {
    pub fn name(&self) -> &str {
        self.texts.get(NAME)
    }

    pub fn namespace(&self) -> &str {
        self.texts.get(NAMESPACE)
    }

    pub fn label(&self, key: &str) -> Option<&str> {
        let labels = (FIELDS + self.fields..self.texts.len()).step_by(2);
        labels.into_iter().find(|at| self.texts.get(*at) == key).map(|at| self.texts.get(at + 1))
    }

    /// The value of a selectable field, "" where the object has none.
    fn field(&self, place: usize) -> &str {
        self.texts.get(FIELDS + place)
    }

    /// Appends the stored JSON from the byte `from` on, with its resourceVersion.
    pub fn write_json(&self, from: usize, out: &mut Vec<u8>) {
        header::splice_after(out, &self.bytes, from, self.splice, self.revision);
    }
}

/// The selectable fields of a type, as [`Item`]s keep them.
pub struct Fields {
    spec: Arc<ResourceSpec>,
    /// Paths for the scanner, one per selectable field; a computed one has a path that nothing has.
    paths: Vec<String>,
    /// Which field many watchers each want a share of: a pod's node.
    index: Option<usize>,
}

impl Fields {
    fn of(spec: &Arc<ResourceSpec>) -> Fields {
        let path = |value: &FieldValue| match value {
            FieldValue::Path(path, _) => path.to_string(),
            FieldValue::Computed(_) => String::new(),
        };
        Fields {
            paths: spec.selectable_fields.iter().map(|field| path(&field.value)).collect(),
            index: spec.selectable_fields.iter().position(|field| field.label == "spec.nodeName"),
            spec: spec.clone(),
        }
    }

    pub fn index(&self) -> Option<usize> {
        self.index
    }

    /// The value of the `place`th selectable field of `item`.
    pub fn value<'a>(&'a self, item: &'a Item, place: usize) -> &'a str {
        match (&self.spec.selectable_fields[place].value, item.field(place)) {
            (FieldValue::Path(_, absent), "") => absent,
            (_, value) => value,
        }
    }

    fn decode(&self, bytes: &Bytes, revision: u64) -> Result<Item, String> {
        match &self.spec.backing {
            // Once here, for every reader: converted, pruned and defaulted.
            Backing::Custom(form) => self.item(&self.encode(&form.read(bytes)?), revision),
            _ => self.item(bytes, revision),
        }
    }

    fn decode_all(&self, kvs: &[KeyValue]) -> Vec<Result<Item, String>> {
        let Backing::Custom(form) = &self.spec.backing else {
            return kvs.iter().map(|kv| self.decode(&kv.value, kv.mod_revision)).collect();
        };
        let all: Vec<&[u8]> = kvs.iter().map(|kv| &kv.value[..]).collect();
        let read = form.read_all(&all).into_iter().zip(kvs);
        read.map(|(object, kv)| self.item(&self.encode(&object?), kv.mod_revision)).collect()
    }

    fn encode(&self, custom: &Value) -> Bytes {
        codec::encode(custom, &self.spec.versions[0].schema)
    }

    /// An object that is stored nowhere, as selectors see it.
    pub fn read(&self, bytes: &Bytes) -> Result<Item, String> {
        self.item(bytes, 0)
    }

    fn item(&self, bytes: &Bytes, revision: u64) -> Result<Item, String> {
        let paths: Vec<&str> = self.paths.iter().map(String::as_str).collect();
        let mut header = header::scan(bytes, &paths).map_err(|error| error.to_string())?;
        let mut tree: Option<Value> = None;
        for (i, field) in self.spec.selectable_fields.iter().enumerate() {
            if let FieldValue::Computed(compute) = &field.value {
                if tree.is_none() {
                    tree = Some(serde_json::from_slice(bytes).map_err(|error| error.to_string())?);
                }
                header.fields[i] = compute(tree.as_ref().expect("just made"));
            }
        }
        let fields = header.fields.iter().map(String::as_str);
        let labels = header.labels.iter().flat_map(|(key, value)| [key.as_str(), value.as_str()]);
        let texts = [header.name.as_str(), header.namespace.as_str()].into_iter().chain(fields).chain(labels);
        Ok(Item {
            bytes: bytes.clone(),
            revision,
            texts: Texts::of(texts),
            fields: header.fields.len(),
            splice: header.splice,
            message: OnceLock::new(),
        })
    }
}

/// What the cacher calls.
pub struct Decoder(Arc<Fields>);

impl Decode for Decoder {
    type Object = Item;

    fn decode(&self, kv: &KeyValue) -> Result<Arc<Item>, String> {
        self.0.decode(&kv.value, kv.mod_revision).map(Arc::new)
    }

    fn decode_all(&self, kvs: &[KeyValue]) -> Vec<Result<Arc<Item>, String>> {
        self.0.decode_all(kvs).into_iter().map(|item| item.map(Arc::new)).collect()
    }

    fn at_revision(&self, item: &Arc<Item>, revision: u64) -> Arc<Item> {
        Arc::new(Item {
            bytes: item.bytes.clone(),
            revision,
            texts: item.texts.clone(),
            fields: item.fields,
            splice: item.splice,
            message: OnceLock::new(),
        })
    }

    fn size(&self, item: &Item) -> usize {
        size_of::<Item>() + item.bytes.len() + item.texts.size() + 64
    }

    fn index<'a>(&self, item: &'a Item) -> Option<&'a str> {
        self.0.index.map(|place| item.field(place))
    }
}

/// How many encoded events are kept for watchers that have not come to them yet.
const RECENT_FRAMES: usize = 128;

/// Which bytes an event is on the wire: its revision and type, the version and the form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FrameKey {
    pub revision: u64,
    pub kind: &'static str,
    pub version: usize,
    pub output: Output,
    /// Whether a Table carries its columns.
    pub first: bool,
}

pub struct Cache {
    pub cacher: Cacher<Decoder>,
    pub fields: Arc<Fields>,
    frames: Mutex<VecDeque<(FrameKey, Bytes)>>,
    trees: Mutex<Trees>,
    /// Bytes of messages that items keep.
    messages: Arc<AtomicUsize>,
}

/// So much stored JSON has its decoded trees kept, in each resource.
const TREES_OF: usize = 128 << 10;

/// What the server itself looks at with each request: the namespace, the service account.
#[derive(Default)]
struct Trees {
    by_key: HashMap<Bytes, (u64, Arc<Value>)>,
    /// Of the JSON that they were decoded from.
    bytes: usize,
}

impl Cache {
    pub fn new(store: Arc<dyn Store>, prefix: &str, spec: &Arc<ResourceSpec>) -> Cache {
        let fields = Arc::new(Fields::of(spec));
        let decoder = Decoder(fields.clone());
        Cache {
            cacher: Cacher::new(store, Bytes::copy_from_slice(prefix.as_bytes()), decoder, CacheOptions::default()),
            fields,
            frames: Mutex::default(),
            trees: Mutex::default(),
            messages: Arc::default(),
        }
    }

    /// The item's protobuf message, which `encode` makes when it is not kept.
    pub fn message<E>(&self, item: &Item, encode: impl FnOnce() -> Result<Bytes, E>) -> Result<Bytes, E> {
        if let Some(message) = item.message.get() {
            return Ok(message.clone());
        }
        let message = encode()?;
        let size = message.len();
        if self.messages.fetch_add(size, Ordering::Relaxed) + size > KEPT_MESSAGES {
            self.messages.fetch_sub(size, Ordering::Relaxed);
            return Ok(message);
        }
        let kept = Kept { bytes: message.as_ref().into(), used: self.messages.clone() };
        Ok(item.message.get_or_init(|| Bytes::from_owner(kept)).clone())
    }

    /// The object as a tree, with its resourceVersion; decoded once for many readers.
    pub fn tree(&self, item: &Entry<Item>) -> Result<Arc<Value>, Status> {
        let lock = || self.trees.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some((revision, tree)) = lock().by_key.get(&item.key)
            && *revision == item.object.revision
        {
            return Ok(tree.clone());
        }
        let tree = Arc::new(object::decode_stored(&item.bytes, item.object.revision)?);
        let mut trees = lock();
        if trees.bytes + item.bytes.len() > TREES_OF {
            *trees = Trees::default();
        }
        trees.bytes += item.bytes.len();
        trees.by_key.insert(item.key.clone(), (item.object.revision, tree.clone()));
        Ok(tree)
    }

    /// The frame under `key`, made when nobody made it yet.
    pub fn frame<E>(&self, key: FrameKey, make: impl FnOnce() -> Result<Bytes, E>) -> Result<Bytes, E> {
        let lock = || self.frames.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some((_, frame)) = lock().iter().rev().find(|(k, _)| *k == key) {
            return Ok(frame.clone());
        }
        let frame = make()?;
        let mut frames = lock();
        if frames.len() >= RECENT_FRAMES {
            frames.pop_front();
        }
        frames.push_back((key, frame.clone()));
        Ok(frame)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use skeg_machinery::gvk::GroupVersionKind;

    fn fixture() -> (Cache, Item, tempfile::TempDir) {
        let spec = skeg_catalog::all().into_iter().find(|spec| spec.resource == "configmaps").unwrap();
        let dir = tempfile::tempdir().unwrap();
        let store = Arc::new(skeg_storage::Embedded::open(dir.path(), Default::default()).unwrap());
        let cache = Cache::new(store, "/registry/configmaps/", &Arc::new(spec));
        let kind = GroupVersionKind::from_static("", "v1", "ConfigMap");
        let ty = skeg_machinery::schema::Schema::kubernetes().lookup(&kind).unwrap();
        let object = json!({"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": "a", "uid": "u"}});
        let item = cache.fields.decode(&codec::encode(&object, &ty), 7).unwrap();
        (cache, item, dir)
    }

    #[test]
    fn a_message_is_made_once_and_its_room_given_back() {
        let (cache, item, _dir) = fixture();
        let made = |bytes: &'static [u8]| move || Ok::<_, ()>(Bytes::from_static(bytes));
        assert_eq!(cache.message(&item, made(b"first")).unwrap(), "first");
        assert_eq!(cache.message(&item, made(b"second")).unwrap(), "first");
        assert_eq!(cache.messages.load(Ordering::Relaxed), 5);
        let reader = cache.message(&item, made(b"third")).unwrap();
        drop(item);
        assert_eq!(cache.messages.load(Ordering::Relaxed), 5, "a reader holds it");
        drop(reader);
        assert_eq!(cache.messages.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn without_room_messages_are_made_each_time() {
        let (cache, item, _dir) = fixture();
        cache.messages.store(KEPT_MESSAGES, Ordering::Relaxed);
        let made = |bytes: &'static [u8]| move || Ok::<_, ()>(Bytes::from_static(bytes));
        assert_eq!(cache.message(&item, made(b"first")).unwrap(), "first");
        assert_eq!(cache.message(&item, made(b"second")).unwrap(), "second");
        assert_eq!(cache.messages.load(Ordering::Relaxed), KEPT_MESSAGES);
    }

    #[test]
    fn a_tree_is_of_its_revision() {
        let (cache, item, _dir) = fixture();
        let entry = |item: Arc<Item>| Entry { key: Bytes::from_static(b"k"), revision: item.revision, object: item };
        let newer = Decoder(cache.fields.clone()).at_revision(&Arc::new(fixture().1), 9);
        let entries = [entry(Arc::new(item)), entry(newer)];
        for (entry, revision) in entries.iter().zip(["7", "9"]) {
            let tree = cache.tree(entry).unwrap();
            assert_eq!(tree["metadata"]["resourceVersion"], revision);
            assert!(Arc::ptr_eq(&tree, &cache.tree(entry).unwrap()), "kept");
        }
    }

    #[test]
    fn json_is_written_from_any_byte_before_the_resource_version() {
        let (_, item, _dir) = fixture();
        let mut whole = Vec::new();
        item.write_json(0, &mut whole);
        assert_eq!(whole, header::splice_resource_version(&item.bytes, 7));
        let mut tail = Vec::new();
        item.write_json(20, &mut tail);
        assert_eq!(tail, &whole[20..]);
    }
}
