//! Create, update, patch, delete and deletecollection over HTTP.

use axum::response::Response;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use http::StatusCode;
use skeg_machinery::codec::json::Limits;
use skeg_machinery::gvk::GroupVersionKind;
use skeg_machinery::meta;
use skeg_machinery::schema::Schema;
use skeg_machinery::status::{Status, StatusDetails};
use skeg_machinery::text::quote;

use super::{Target, list};
use crate::negotiate;
use crate::object;
use crate::query::{DeleteOptions, ListOptions, WriteKind, WriteParameters};
use crate::respond;
use crate::write::patch::Patch;
use crate::write::update::Change;

/// How many objects of a collection are deleted at once.
const DELETE_WORKERS: usize = 16;

pub async fn create(target: &mut Target) -> Result<Response, Status> {
    let output = target.output()?;
    negotiate::input(target.headers())?;
    let body = target.body().await?;
    let parameters = WriteParameters::from_query(&target.call.query, WriteKind::Create)?;
    let value = target.decode(body, &parameters)?;
    let stored = target.write("", &parameters).create(value).await?;
    target.answer(StatusCode::CREATED, &output, &stored)
}

pub async fn update(target: &mut Target) -> Result<Response, Status> {
    let output = target.output()?;
    let body = target.body().await?;
    let parameters = WriteParameters::from_query(&target.call.query, WriteKind::Update)?;
    let value = target.decode(body, &parameters)?;
    let updated = target.write(target.name(), &parameters).update(&Change::Replace(value)).await?;
    let code = if updated.created { StatusCode::CREATED } else { StatusCode::OK };
    target.answer(code, &output, &updated.stored)
}

pub async fn patch(target: &mut Target) -> Result<Response, Status> {
    let output = target.output()?;
    let content_type = negotiate::content_type(target.headers()).to_owned();
    let body = target.body().await?;
    let patch = Patch::read(&content_type, body, target.resource.custom)?;
    let parameters = WriteParameters::from_query(&target.call.query, patch.kind())?;
    let updated = target.write(target.name(), &parameters).update(&Change::Patch(patch)).await?;
    let code = if updated.created { StatusCode::CREATED } else { StatusCode::OK };
    target.answer(code, &output, &updated.stored)
}

/// DeleteOptions are in the body or, when there is none, in the query.
async fn delete_options(target: &mut Target) -> Result<DeleteOptions, Status> {
    let body = target.body().await?;
    if body.is_empty() {
        return DeleteOptions::from_query(&target.call.query);
    }
    let json = object::body_json(body, negotiate::input(target.headers())?, "DeleteOptions")?;
    let value = skeg_machinery::codec::json::parse(&json, Limits::default())
        .map_err(|error| Status::bad_request(format!("couldn't get version/kind; json parse error: {error}")))?;
    match value.get("kind").and_then(|kind| kind.as_str()) {
        None | Some("" | "DeleteOptions") => DeleteOptions::from_value(value),
        Some(kind) => {
            let version = value.get("apiVersion").and_then(|version| version.as_str()).unwrap_or_default();
            let known = GroupVersionKind::parse(version, kind).ok().and_then(|gvk| Schema::kubernetes().lookup(&gvk));
            Err(Status::bad_request(match known {
                Some(_) => "decoded object cannot be converted to DeleteOptions".to_owned(),
                None => format!(
                    "no kind {} is registered for version {} in scheme \"pkg/runtime/scheme.go:111\"",
                    quote(kind),
                    quote(version)
                ),
            }))
        }
    }
}

/// Dependents that stay behind may surprise.
fn warn_of_default(target: &Target, options: &DeleteOptions) {
    if options.propagation_policy.is_none() && options.orphan_dependents.is_none() {
        target.call.warn(target.resource.spec.strategy.delete_warning());
    }
}

pub async fn delete(target: &mut Target) -> Result<Response, Status> {
    let output = target.output()?;
    let options = delete_options(target).await?;
    let mut parameters = WriteParameters::internal("", options.dry_run, WriteKind::Update);
    parameters.options = options.raw.clone();
    let write = target.write(target.name(), &parameters);
    warn_of_default(target, &options);
    let deleted = write.delete(&options).await?;
    let waits = matches!(deleted, crate::write::delete::Deleted::Waiting(_));
    let code = if waits && options.orphan_dependents == Some(false) { StatusCode::ACCEPTED } else { StatusCode::OK };
    match write.delete_answer(&deleted) {
        Ok(stored) => target.answer(code, &output, stored),
        Err(status) => Ok(respond::value(code, &output, &status)),
    }
}

/// One object of a collection; one that is gone already is as good as deleted.
async fn delete_one(
    target: &Target,
    entry: &list::Entry,
    parameters: &WriteParameters,
    options: &DeleteOptions,
) -> Result<(), Status> {
    let tree = object::decode_stored(&entry.bytes, entry.revision)?;
    let mut write = target.write(meta::name(&tree), parameters);
    write.namespace = if target.resource.namespaced() { meta::namespace(&tree) } else { "" };
    match write.delete(options).await {
        Err(status) if !status.is_not_found() => Err(status),
        _ => Ok(()),
    }
}

pub async fn delete_collection(target: &mut Target) -> Result<Response, Status> {
    let output = target.output()?;
    let options = ListOptions::from_query(&target.call.query, false)?;
    let delete_options = delete_options(target).await?;
    let page = list::collect(target, &options).await?;
    warn_of_default(target, &delete_options);
    let mut parameters = WriteParameters::internal("", delete_options.dry_run, WriteKind::Update);
    parameters.options = delete_options.raw.clone();

    let mut deletes = FuturesUnordered::new();
    for entry in &page.entries {
        if deletes.len() >= DELETE_WORKERS
            && let Some(result) = deletes.next().await
        {
            result?;
        }
        deletes.push(delete_one(target, entry, &parameters, &delete_options));
    }
    while let Some(result) = deletes.next().await {
        result?;
    }
    drop(deletes);

    // Upstream answers with the list of what was deleted; a Status only when there is no list.
    if page.entries.is_empty() && !output.is_plain_json() {
        let mut status = Status::failure(200, "", "");
        status.status = "Success".into();
        status.details = Some(StatusDetails { kind: target.resource.spec.kind.to_string(), ..Default::default() });
        return Ok(respond::value(StatusCode::OK, &output, &status));
    }
    list::answer(target, &output, page)
}
