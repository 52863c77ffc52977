//! GET of one object or of an Update subresource, which shows its parent.

use axum::response::Response;
use http::StatusCode;
use skeg_machinery::status::Status;
use skeg_machinery::text::quote;
use skeg_storage::cacher::Read;

use super::Target;
use super::list::parse_revision;
use crate::write::store_failure;

pub async fn get(target: &Target) -> Result<Response, Status> {
    let output = target.output()?;
    let resource = &target.resource;
    let key = resource.key(target.namespace(), target.name());
    let version = target.call.query.get("resourceVersion").unwrap_or("");
    // The cache of upstream gives the error as it is, and so it is one of the server's; what expires has no cache there.
    let parsed = parse_revision(version).map_err(|status| {
        if resource.ttl.is_some() {
            return status;
        }
        let why = crate::query::parse_uint(version).err().unwrap_or_default();
        Status::failure(500, "", format!("resourceVersion: Invalid value: {}: {why}", quote(version)))
    });
    let found = match parsed? {
        None => {
            let (found, _) = target
                .call
                .server
                .store
                .get(key.as_bytes(), None)
                .await
                .map_err(|error| store_failure(resource, "get", error))?;
            match found {
                Some(kv) => Some((resource.cached(kv.value)?, kv.mod_revision)),
                None => None,
            }
        }
        Some(revision) => {
            let read = if revision == 0 { Read::Any } else { Read::AtLeast(revision) };
            let found = resource.cache.cacher.get(key.as_bytes(), read).await;
            let (found, _) = found.map_err(|error| store_failure(resource, "get", error))?;
            found.map(|item| (item.bytes.clone(), item.object.revision))
        }
    };
    let Some((bytes, revision)) = found else {
        return Err(Status::not_found(&resource.group_resource, target.name()));
    };
    let json = resource.render(target.version(), &bytes, revision)?;
    target.answer_json(StatusCode::OK, &output, json)
}
