//! managedFields: who owns which field after a write, and server-side apply. The algorithm is the machinery's; which
//! fields a write cannot set is decided here.

use serde_json::Value;
use skeg_catalog::spec::Subresource;
use skeg_machinery::apply::{self, Writer};
use skeg_machinery::codec::json::{FieldValidation, decode_value};
use skeg_machinery::gvk::GroupVersionKind;
use skeg_machinery::meta;
use skeg_machinery::schema::TypeRef;
use skeg_machinery::status::Status;

use super::{Write, timestamp};
use crate::object;

fn with_writer<T>(write: &Write<'_>, f: impl FnOnce(&Writer<'_>) -> T) -> T {
    let gvk: GroupVersionKind = write.kind();
    let now = timestamp(write.server.now());
    let subresource = write.subresource_name();
    let reset_fields = match write.subresource.map(|part| &part.behaviour) {
        None => write.resource.spec.strategy.reset_fields(),
        Some(Subresource::Update(part)) => part.reset_fields(),
        Some(_) => &[],
    };
    f(&Writer {
        manager: &write.manager,
        gvk: &gvk,
        subresource,
        now: now.as_str().unwrap_or_default(),
        reset_fields,
        in_version: Some(&|object, api_version| in_version(write, object, api_version)),
    })
}

/// An object of the request's version as another version of a built-in type has it. The versions of a custom resource would
/// have to be asked of its webhook.
fn in_version(write: &Write<'_>, object: &Value, api_version: &str) -> Option<(Value, TypeRef)> {
    let resource = write.resource;
    if resource.custom {
        return None;
    }
    let versions = &resource.spec.versions;
    let version = versions.iter().find(|version| resource.kind(&version.version).api_version() == api_version)?;
    let stored = resource.to_storage(write.version, object.clone()).ok()?;
    Some((resource.from_storage(version, stored).ok()?, version.schema.clone()))
}

/// Records in `new` what this write owns, against the live object before it.
pub fn track(write: &Write<'_>, live: Option<&Value>, new: &mut Value) {
    if let (None, Some(default)) = (live, write.resource.spec.strategy.late_defaults()) {
        let mut seen = new.clone();
        default(&mut seen);
        with_writer(write, |writer| apply::track_update(None, &mut seen, &write.version.schema, writer));
        meta::remove(new, &["metadata", "managedFields"]);
        if let Some(managed) = meta::get(&seen, &["metadata", "managedFields"]) {
            meta::set(new, &["metadata", "managedFields"], managed.clone());
        }
        return;
    }
    with_writer(write, |writer| match (live, write.scale()) {
        (Some(live), Some(scale)) => apply::track_scale(live, new, &scale.replicas(), writer),
        _ => apply::track_update(live, new, &write.version.schema, writer),
    });
}

/// The live object with `applied` applied to it, decoded and defaulted.
pub fn apply(write: &Write<'_>, live: Option<&Value>, applied: &Value) -> Result<Value, Status> {
    let ty = &write.version.schema;
    let force = write.parameters.force;
    let value = with_writer(write, |writer| apply::apply(live, applied, ty, writer, force))?;
    let decoded = decode_value(&value, ty, FieldValidation::Ignore)
        .map_err(|error| error.to_status(Some(&write.kind()), &write.resource.spec.kind, &[]))?;
    let mut value = decoded.value;
    object::set_kind(&mut value, &write.kind());
    write.resource.default(write.version, &mut value);
    Ok(value)
}

/// A write that changed nothing but the times in managedFields changes nothing.
pub fn keep_times_of_no_change(new: &mut Value, old: &Value) {
    let (now, before) = (meta::managed_fields(new), meta::managed_fields(old));
    let same_entry = |a: &Value, b: &Value| match (a, b) {
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(key, value)| key == "time" || b.get(key) == Some(value))
        }
        _ => false,
    };
    if now == before || now.len() != before.len() || !now.iter().zip(before).all(|(a, b)| same_entry(a, b)) {
        return;
    }
    let (Value::Object(a), Value::Object(b)) = (&*new, old) else { return };
    let rest_is_same = a.len() == b.len()
        && a.iter().all(|(key, value)| match (key.as_str(), value, b.get(key)) {
            ("metadata", Value::Object(a), Some(Value::Object(b))) => {
                a.len() == b.len() && a.iter().all(|(key, value)| key == "managedFields" || b.get(key) == Some(value))
            }
            (_, value, other) => other == Some(value),
        });
    if rest_is_same {
        let kept = before.to_vec();
        object::metadata(new).insert("managedFields".into(), Value::Array(kept));
    }
}
