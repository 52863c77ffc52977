//! managedFields: who owns which field after a write, and server-side apply. The algorithm is the machinery's.

use serde_json::Value;
use skeg_machinery::status::Status;

use super::{Write, patch};

/// Records in `new` what this write owns, against the live object before it.
pub fn track(_write: &Write<'_>, _live: Option<&Value>, _new: &mut Value) {}

/// A write that changed nothing but the times in managedFields changes nothing.
pub fn keep_times_of_no_change(_new: &mut Value, _old: &Value) {}

/// The live object with `applied` applied to it, decoded and defaulted.
pub fn apply(write: &Write<'_>, _live: Option<&Value>, _applied: &Value) -> Result<Value, Status> {
    let _ = write;
    Err(Status::unsupported_media_type(&[patch::JSON, patch::MERGE, patch::STRATEGIC]))
}
