//! The watch cache of one resource: what the storage crate's [`Cacher`] must know of objects, and the frames of recent
//! watch events, encoded once for every watcher that wants the same form. What a client may ask for is decided elsewhere.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use serde_json::Value;
use skeg_catalog::spec::{Backing, FieldValue, ResourceSpec};
use skeg_machinery::codec::json as codec;
use skeg_machinery::header::{self, Header};
use skeg_storage::cacher::{CacheOptions, Cacher, Decode};
use skeg_storage::{KeyValue, Store};

use crate::negotiate::Output;

/// A cached object: stored JSON and the few parts of it that selectors read.
#[derive(Clone)]
pub struct Item {
    pub bytes: Bytes,
    pub revision: u64,
    header: Header,
    /// Values of the computed selectable fields, where the type has any: (place, value).
    computed: Vec<(usize, String)>,
}

impl Item {
    pub fn name(&self) -> &str {
        &self.header.name
    }

    pub fn namespace(&self) -> &str {
        &self.header.namespace
    }

    pub fn label(&self, key: &str) -> Option<&str> {
        self.header.label(key)
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
        match &self.spec.selectable_fields[place].value {
            FieldValue::Path(_, absent) => match item.header.fields.get(place).map(String::as_str) {
                None | Some("") => absent,
                Some(value) => value,
            },
            FieldValue::Computed(_) => {
                item.computed.iter().find(|(i, _)| *i == place).map_or("", |(_, value)| value.as_str())
            }
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

    fn item(&self, bytes: &Bytes, revision: u64) -> Result<Item, String> {
        let paths: Vec<&str> = self.paths.iter().map(String::as_str).collect();
        let header = header::scan(bytes, &paths).map_err(|error| error.to_string())?;
        let mut tree: Option<Value> = None;
        let mut computed = Vec::new();
        for (i, field) in self.spec.selectable_fields.iter().enumerate() {
            if let FieldValue::Computed(compute) = &field.value {
                if tree.is_none() {
                    tree = Some(serde_json::from_slice(bytes).map_err(|error| error.to_string())?);
                }
                computed.push((i, compute(tree.as_ref().expect("just made"))));
            }
        }
        Ok(Item { bytes: bytes.clone(), revision, header, computed })
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
        Arc::new(Item { revision, ..Item::clone(item) })
    }

    fn size(&self, item: &Item) -> usize {
        let labels: usize = item.header.labels.iter().map(|(k, v)| k.len() + v.len() + 48).sum();
        size_of::<Item>() + item.bytes.len() + labels + 64
    }

    fn index<'a>(&self, item: &'a Item) -> Option<&'a str> {
        let place = self.0.index?;
        item.header.fields.get(place).map(String::as_str)
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
}

impl Cache {
    pub fn new(store: Arc<dyn Store>, prefix: &str, spec: &Arc<ResourceSpec>) -> Cache {
        let fields = Arc::new(Fields::of(spec));
        let decoder = Decoder(fields.clone());
        Cache {
            cacher: Cacher::new(store, Bytes::copy_from_slice(prefix.as_bytes()), decoder, CacheOptions::default()),
            fields,
            frames: Mutex::default(),
        }
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
