//! Objects of a custom resource between the store and one served version: any version may be stored, each was written
//! against its own schema, and the schema may have changed since.

use std::sync::Arc;

use serde_json::Value;
use skeg_machinery::codec::default;
use skeg_machinery::codec::json::{self as codec, FieldValidation, Limits};
use skeg_machinery::schema::TypeRef;
use skeg_machinery::{GroupVersionKind, meta};

use crate::spec::StoredForm;

/// Turns an object of one version into another, its apiVersion included. May take its time: a webhook is asked.
pub trait Convert: Send + Sync + 'static {
    fn convert(&self, object: Value, to: &GroupVersionKind) -> Result<Value, String>;

    /// The same of many, in their order.
    fn convert_all(&self, objects: Vec<Value>, to: &GroupVersionKind) -> Result<Vec<Value>, String> {
        objects.into_iter().map(|object| self.convert(object, to)).collect()
    }
}

/// Conversion strategy None: all versions have one shape.
pub struct SameShape;

impl Convert for SameShape {
    fn convert(&self, mut object: Value, to: &GroupVersionKind) -> Result<Value, String> {
        meta::set(&mut object, &["apiVersion"], to.api_version().as_ref());
        Ok(object)
    }
}

pub(super) struct OneVersion {
    pub gvk: GroupVersionKind,
    pub schema: TypeRef,
}

/// All versions of a definition, as one of them sees the store.
pub(super) struct Versions {
    pub all: Arc<[OneVersion]>,
    pub own: usize,
    pub storage: usize,
    pub convert: Arc<dyn Convert>,
}

impl Versions {
    pub fn own(&self) -> &OneVersion {
        &self.all[self.own]
    }

    fn converted(&self, object: Value, to: &OneVersion) -> Result<Value, String> {
        prune(&self.convert.convert(object, &to.gvk)?, &to.schema)
    }
}

fn prune(object: &Value, schema: &TypeRef) -> Result<Value, String> {
    let decoded = codec::decode_value(object, schema, FieldValidation::Ignore).map_err(|error| error.to_string())?;
    Ok(decoded.value)
}

impl Versions {
    /// An object as it is stored, and whether it is of the own version.
    fn stored(&self, bytes: &[u8]) -> Result<(Value, bool), String> {
        let (api_version, _) = codec::interpret(bytes).map_err(|error| error.to_string())?;
        let stored = self.all.iter().position(|version| version.gvk.api_version() == api_version);
        let from = &self.all[stored.unwrap_or(self.own)];
        let decoded = codec::decode(bytes, &from.schema, FieldValidation::Ignore, Limits::default());
        let mut object = decoded.map_err(|error| error.to_string())?.value;
        default::apply(&mut object, &from.schema);
        if meta::generation(&object) == 0 {
            meta::set_generation(&mut object, 1);
        }
        Ok((object, stored == Some(self.own)))
    }
}

impl StoredForm for Versions {
    fn read(&self, bytes: &[u8]) -> Result<Value, String> {
        match self.stored(bytes)? {
            (object, true) => Ok(object),
            (object, false) => self.converted(object, self.own()),
        }
    }

    fn read_all(&self, all: &[&[u8]]) -> Vec<Result<Value, String>> {
        let mut results = Vec::with_capacity(all.len());
        let mut others = Vec::new();
        for bytes in all {
            match self.stored(bytes) {
                Ok((object, true)) => results.push(Ok(object)),
                Ok((object, false)) => {
                    others.push((results.len(), object));
                    results.push(Ok(Value::Null));
                }
                Err(why) => results.push(Err(why)),
            }
        }
        let (places, objects): (Vec<usize>, Vec<Value>) = others.into_iter().unzip();
        match self.convert.convert_all(objects, &self.own().gvk) {
            Ok(converted) => {
                for (place, object) in places.into_iter().zip(converted) {
                    results[place] = prune(&object, &self.own().schema);
                }
            }
            Err(why) => places.into_iter().for_each(|place| results[place] = Err(why.clone())),
        }
        results
    }

    fn convert(&self, object: Value) -> Result<Value, String> {
        self.converted(object, self.own())
    }

    fn write(&self, object: &Value) -> Result<Value, String> {
        if self.own == self.storage {
            return Ok(object.clone());
        }
        self.converted(object.clone(), &self.all[self.storage])
    }

    fn storage_version(&self) -> &str {
        &self.all[self.storage].gvk.version
    }
}
