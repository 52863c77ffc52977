//! The OpenAPI v2 document of everything that is served, put together from the v3 documents: nothing is described twice.
//!
//! ```text
//! v3 document of a group version ─▶ convert ─▶ encode (JSON or protobuf) ─▶ entries by name ─▶ finish: one document
//! ```
//!
//! Each v3 tree is dropped when its entries are encoded, so that the whole never exists as a tree.

mod convert;
mod protobuf;

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::{EVERYWHERE, GVK, META};
use crate::gvk::GroupVersion;
use crate::schema::Schema;

/// How the document travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Encoding {
    Json,
    /// Message `openapi.v2.Document` of gnostic.
    Protobuf,
}

/// A document in the making.
pub struct V2 {
    encoding: Encoding,
    paths: BTreeMap<String, Vec<u8>>,
    definitions: BTreeMap<String, Vec<u8>>,
    parameters: convert::Shared,
}

impl V2 {
    pub fn new(encoding: Encoding) -> Self {
        Self { encoding, paths: BTreeMap::new(), definitions: BTreeMap::new(), parameters: convert::Shared::default() }
    }

    /// Adds the paths and the schemas of a v3 document; what is there already stays.
    pub fn add(&mut self, mut document: Value) {
        let mut entries = |pointer: &str| match document.pointer_mut(pointer).map(Value::take) {
            Some(Value::Object(entries)) => entries,
            _ => serde_json::Map::new(),
        };
        let (paths, mut schemas) = (entries("/paths"), entries("/components/schemas"));
        drop(document);
        for (path, item) in paths {
            let shared = &mut self.parameters;
            self.paths.entry(path).or_insert_with(|| match (self.encoding, convert::path_item(item, shared)) {
                (Encoding::Json, item) => json_bytes(&item),
                (Encoding::Protobuf, item) => protobuf::path_item(&item),
            });
        }
        for name in EVERYWHERE {
            if let Some(model) = schemas.get_mut(&format!("{META}{name}")) {
                model[GVK] = everywhere(name);
            }
        }
        for (name, schema) in schemas {
            self.definitions.entry(name).or_insert_with(|| match (self.encoding, convert::schema(schema)) {
                (Encoding::Json, schema) => json_bytes(&schema),
                (Encoding::Protobuf, schema) => protobuf::schema(&schema),
            });
        }
    }

    /// The encoded document.
    pub fn finish(self) -> Vec<u8> {
        let info = json!({"title": super::TITLE, "version": super::VERSION});
        match self.encoding {
            Encoding::Json => {
                let mut out = br#"{"swagger":"2.0","info":"#.to_vec();
                out.extend(json_bytes(&info));
                out.extend_from_slice(br#","paths":"#);
                json_object(&mut out, self.paths);
                out.extend_from_slice(br#","definitions":"#);
                json_object(&mut out, self.definitions);
                out.extend_from_slice(br#","parameters":"#);
                let parameters = self.parameters.0.into_iter();
                json_object(&mut out, parameters.map(|(name, parameter)| (name, json_bytes(&parameter))).collect());
                out.extend_from_slice(br#","securityDefinitions":"#);
                out.extend(json_bytes(&super::security_schemes()));
                out.extend_from_slice(br#","security":"#);
                out.extend(json_bytes(&security()));
                out.push(b'}');
                out
            }
            Encoding::Protobuf => protobuf::document(
                &json!({"swagger": "2.0", "info": info}),
                self.paths,
                self.definitions,
                &json!({"parameters": self.parameters.0, "security": security(), "securityDefinitions": super::security_schemes()}),
            ),
        }
    }
}

/// A kind in every group and version that upstream's server has types of, also where it serves none.
fn everywhere(kind: &str) -> Value {
    const UNTOLD: [&str; 2] = ["apidiscovery.k8s.io", "meta.k8s.io"];
    let schema = Schema::kubernetes();
    let known = schema.kinds().map(|(gvk, _)| gvk.group_version()).filter(|gv| !UNTOLD.contains(&&*gv.group));
    let internal =
        ["apiextensions.k8s.io", "apiregistration.k8s.io"].map(|group| GroupVersion::from_static(group, "v1beta1"));
    let all: BTreeSet<(String, String)> =
        known.chain(internal).map(|gv| (gv.group.to_string(), gv.version.to_string())).collect();
    all.into_iter().map(|(group, version)| json!({"group": group, "kind": kind, "version": version})).collect()
}

fn security() -> Value {
    json!([{"BearerToken": []}])
}

fn json_bytes(value: &Value) -> Vec<u8> {
    serde_json::to_vec(value).expect("a JSON tree serializes")
}

fn json_object(out: &mut Vec<u8>, entries: BTreeMap<String, Vec<u8>>) {
    out.push(b'{');
    for (at, (name, value)) in entries.into_iter().enumerate() {
        if at > 0 {
            out.push(b',');
        }
        out.extend(json_bytes(&Value::String(name)));
        out.push(b':');
        out.extend(value);
    }
    out.push(b'}');
}

#[cfg(test)]
mod tests;
