//! LIST: which state to read (upstream's rules for resourceVersion, its match, limit and continue), which objects of it
//! are selected, and a body that is written as it is sent, never held whole as a tree.

use std::sync::Arc;

use axum::body::Body;
use axum::response::Response;
use base64::alphabet::URL_SAFE;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig, URL_SAFE_NO_PAD};
use base64::{DecodeError, Engine};
use bytes::Bytes;
use http::HeaderValue;
use http::StatusCode;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE, VARY};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use skeg_machinery::codec::json;
use skeg_machinery::field::{self, Path};
use skeg_machinery::meta;
use skeg_machinery::status::Status;
use skeg_storage::StoreError;
use skeg_storage::cacher::{ListRequest, Read};

use super::Target;
use super::table::Pieces;
use crate::cache::Item;
use crate::negotiate::{self, Media, Output, Transform};
use crate::protobuf;
use crate::query::{EXACT, ListOptions, NOT_OLDER_THAN, parse_uint};
use crate::respond;
use crate::selection::Selection;
use crate::write::store_failure;

/// One object of a list.
pub type Entry = Arc<Item>;

pub struct Page {
    pub revision: u64,
    pub entries: Vec<Entry>,
    pub continue_token: String,
    pub remaining: Option<u64>,
}

/// A resourceVersion parameter: `None` when absent.
pub fn parse_revision(text: &str) -> Result<Option<u64>, Status> {
    if text.is_empty() {
        return Ok(None);
    }
    let invalid = |why| Status::bad_request(format!("invalid resource version: {}", invalid_revision(text, why)));
    parse_uint(text).map(Some).map_err(invalid)
}

/// What upstream says of a resourceVersion that is no number.
pub fn invalid_revision(text: &str, why: String) -> String {
    field::Error::invalid(&Path::new("resourceVersion"), text, why).to_string()
}

pub async fn serve(target: &Target) -> Result<Response, Status> {
    let output = target.output()?;
    let options = ListOptions::from_query(&target.call.query, false)?;
    let page = collect(target, &options).await?;
    answer(target, &output, page)
}

/// The selected objects of the wanted state.
pub async fn collect(target: &Target, options: &ListOptions) -> Result<Page, Status> {
    let resource = &target.resource;
    let selection = Selection::of(resource, options, target.name())?;
    let prefix = resource.list_prefix(target.namespace());
    let (read, after) = starting_point(options)?;
    if let Some(key) = selection.single(&prefix).filter(|_| after.is_none()) {
        let (item, revision) = resource
            .cache
            .cacher
            .get(key.as_bytes(), read)
            .await
            .map_err(|error| store_failure(resource, "list", error))?;
        let entries = item.into_iter().map(|entry| entry.object).filter(|item| selection.matches(item)).collect();
        return Ok(Page { revision, entries, continue_token: String::new(), remaining: None });
    }
    let request = ListRequest {
        prefix: Bytes::copy_from_slice(prefix.as_bytes()),
        start_after: after.as_ref().map(|after| Bytes::from(format!("{prefix}{after}"))),
        // From the cache "at any revision" upstream never pages.
        limit: usize::try_from(options.limit).ok().filter(|limit| *limit > 0 && read != Read::Any),
        read,
    };
    let list = match resource.cache.cacher.list(&request, |item| selection.matches(item)).await {
        Ok(list) => list,
        Err(StoreError::Compacted { .. }) if after.is_some() => return Err(expired_continue(after.as_deref())),
        Err(error) => return Err(store_failure(resource, "list", error)),
    };
    let continue_token = match list.items.last() {
        Some(last) if list.more => {
            encode_continue(list.revision as i64, &String::from_utf8_lossy(&last.key[prefix.len()..]))
        }
        _ => String::new(),
    };
    Ok(Page {
        revision: list.revision,
        entries: list.items.into_iter().map(|entry| entry.object).collect(),
        continue_token,
        remaining: list.remaining.filter(|_| list.more && selection.is_everything()),
    })
}

/// Which state to read, and after which key (relative to the prefix) to go on.
fn starting_point(options: &ListOptions) -> Result<(Read, Option<String>), Status> {
    let version = options.resource_version.as_str();
    if !options.continue_token.is_empty() {
        let (revision, after) = decode_continue(&options.continue_token)?;
        if !matches!(version, "" | "0") {
            return Err(Status::bad_request("specifying resource version is not allowed when using continue"));
        }
        return Ok((revision.map_or(Read::Consistent, Read::Exact), Some(after)));
    }
    let read = match (parse_revision(version)?, options.resource_version_match.as_str()) {
        (None, _) => Read::Consistent,
        (Some(revision), EXACT) => Read::Exact(revision),
        (Some(0), _) => Read::Any,
        (Some(revision), NOT_OLDER_THAN) => Read::AtLeast(revision),
        // Without a match, a limit asks for exactly this state.
        (Some(revision), _) if options.limit > 0 => Read::Exact(revision),
        (Some(revision), _) => Read::AtLeast(revision),
    };
    Ok((read, None))
}

#[derive(Serialize, Deserialize)]
struct ContinueToken {
    #[serde(default)]
    v: String,
    #[serde(default)]
    rv: i64,
    #[serde(default)]
    start: String,
}

/// Upstream's token: after `last`, at `revision`; -1 is "whatever is newest".
fn encode_continue(revision: i64, last: &str) -> String {
    let token = ContinueToken { v: "meta.k8s.io/v1".into(), rv: revision, start: format!("{last}\0") };
    URL_SAFE_NO_PAD.encode(serde_json::to_vec(&token).expect("strings and a number serialize"))
}

/// Go's decoder does not mind bits that are left over.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &URL_SAFE,
    GeneralPurposeConfig::new()
        .with_encode_padding(false)
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(DecodePaddingMode::RequireNone),
);

/// The revision to read at (`None`: the newest) and the last key of the page before.
fn decode_continue(token: &str) -> Result<(Option<u64>, String), Status> {
    let bad = |why: &str| Status::bad_request(format!("invalid continue token: continue key is not valid{why}"));
    let bytes = LENIENT.decode(token).map_err(|error| {
        let at = match error {
            DecodeError::InvalidByte(at, _) | DecodeError::InvalidLastSymbol(at, _) => at,
            DecodeError::InvalidLength(length) => length.saturating_sub(1),
            DecodeError::InvalidPadding => token.len(),
        };
        bad(&format!(": illegal base64 data at input byte {at}"))
    })?;
    let token = json::parse(&bytes, json::Limits::default()).map_err(|error| bad(&format!(": {error}")))?;
    let token: ContinueToken = serde_json::from_value(token).map_err(|error| bad(&format!(": {error}")))?;
    if token.v != "meta.k8s.io/v1" {
        return Err(bad(&format!(": server does not recognize this encoded version {}", token.v)));
    }
    if token.rv == 0 {
        return Err(bad(": incorrect encoded start resourceVersion (version meta.k8s.io/v1)"));
    }
    if token.start.is_empty() {
        return Err(bad(": encoded start key empty (version meta.k8s.io/v1)"));
    }
    let start = token.start.trim_start_matches('/');
    let climbs = start.split('/').any(|part| matches!(part, "" | "." | ".."));
    let start = start.strip_suffix('\0').unwrap_or(start);
    if climbs || start.is_empty() {
        return Err(bad(&format!(": {}", token.start)));
    }
    Ok((u64::try_from(token.rv).ok(), start.to_owned()))
}

fn expired_continue(after: Option<&str>) -> Status {
    let mut status = Status::expired(
        "The provided continue parameter is too old to display a consistent list result. You can start a new list \
         without the continue parameter, or use the continue token in this response to retrieve the remainder of the \
         results. Continuing with the provided token results in an inconsistent list - objects that were created, \
         modified, or deleted between the time the first chunk was returned and now may show up in the list.",
    );
    status.metadata.continue_token = encode_continue(-1, after.unwrap_or_default());
    status
}

/// Bodies are sent in pieces of about this size.
const CHUNK: usize = 64 * 1024;

/// The list as the client wants it.
pub fn answer(target: &Target, output: &Output, mut page: Page) -> Result<Response, Status> {
    target.check_transform(output)?;
    if matches!(output.transform, Transform::Table { .. }) {
        in_row_order(target.resource.spec.rows_by, &mut page.entries);
    }
    let pieces = Pieces::of_list(&target.resource, target.version(), output.transform, &page, target.call.server.now());
    let gzip = negotiate::accepts_gzip(target.headers());
    if output.media == Media::Protobuf {
        return protobuf(&pieces, &page.entries, gzip);
    }
    if output.media != Media::Json || output.pretty {
        let mut json = Vec::new();
        pieces.write_all(&page.entries, &mut json)?;
        return Ok(respond::json(StatusCode::OK, output, json.into(), gzip));
    }
    let size: usize = page.entries.iter().map(|entry| entry.bytes.len()).sum();
    if size < CHUNK {
        let mut json = Vec::with_capacity(size + 64 * page.entries.len() + 256);
        pieces.write_all(&page.entries, &mut json)?;
        return Ok(respond::json(StatusCode::OK, output, json.into(), gzip));
    }
    let mut next = 0;
    let write = move |out: &mut Vec<u8>| {
        if next == 0 {
            out.extend_from_slice(&pieces.head);
        } else if next < page.entries.len() {
            out.push(b',');
        }
        match page.entries.get(next) {
            Some(entry) => pieces.write(entry, out)?,
            None => {
                out.extend_from_slice(&pieces.tail);
                out.push(b'\n');
            }
        }
        next += 1;
        Ok(next <= page.entries.len())
    };
    Ok(streamed(Media::Json, gzip && size >= respond::GZIP_FROM, write))
}

/// Sorts what a table shows by a number in it, where its type has one for that.
fn in_row_order(path: &str, entries: &mut [Entry]) {
    if path.is_empty() {
        return;
    }
    let steps: Vec<&str> = path.split('.').collect();
    entries.sort_by_cached_key(|entry| {
        let tree: Value = serde_json::from_slice(&entry.bytes).unwrap_or_default();
        meta::get(&tree, &steps).and_then(Value::as_i64).unwrap_or_default()
    });
}

/// The list in protobuf: its length stands before it, so every item is encoded, or found so, before the first is sent.
fn protobuf(pieces: &Pieces, entries: &[Entry], gzip: bool) -> Result<Response, Status> {
    let messages = entries.iter().map(|entry| pieces.message(entry)).collect::<Result<Vec<_>, _>>()?;
    let (head, tail) = pieces.protobuf_around(&messages)?;
    let size: usize = messages.iter().map(Bytes::len).sum();
    if size < CHUNK {
        let mut body = Vec::with_capacity(size + 8 * messages.len() + head.len() + tail.len());
        body.extend_from_slice(&head);
        messages.iter().for_each(|message| protobuf::put_bytes(&mut body, 2, message));
        body.extend_from_slice(&tail);
        return Ok(respond::body_in(StatusCode::OK, Media::Protobuf, body.into(), gzip));
    }
    let mut messages = messages.into_iter();
    let mut head = Some(head);
    let write = move |out: &mut Vec<u8>| {
        if let Some(head) = head.take() {
            out.extend_from_slice(&head);
            return Ok(true);
        }
        let Some(message) = messages.next() else {
            out.extend_from_slice(&tail);
            return Ok(false);
        };
        protobuf::put_bytes(out, 2, &message);
        Ok(true)
    };
    Ok(streamed(Media::Protobuf, gzip && size >= respond::GZIP_FROM, write))
}

/// An answer whose pieces `write` appends one by one, while it returns that there are more.
fn streamed(
    media: Media,
    compress: bool,
    write: impl FnMut(&mut Vec<u8>) -> Result<bool, Status> + Send + 'static,
) -> Response {
    let mut response = Response::new(stream(write, compress));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(media.content_type()));
    if compress {
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        headers.append(VARY, HeaderValue::from_static("Accept-Encoding"));
    }
    response
}

/// Writes the next pieces only when the connection takes them.
fn stream(write: impl FnMut(&mut Vec<u8>) -> Result<bool, Status> + Send + 'static, compress: bool) -> Body {
    let encoder = compress.then(|| flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(1)));
    let chunks = futures::stream::try_unfold((write, encoder, true), |(mut write, mut encoder, mut more)| async move {
        if !more {
            return Ok::<_, std::io::Error>(None);
        }
        let mut out = Vec::with_capacity(CHUNK + CHUNK / 4);
        while more && out.len() < CHUNK {
            more = write(&mut out).map_err(|status| std::io::Error::other(status.message))?;
        }
        if let Some(gzip) = &mut encoder {
            use std::io::Write;
            gzip.write_all(&out)?;
            if !more {
                gzip.try_finish()?;
            }
            out = std::mem::take(gzip.get_mut());
        }
        Ok(Some((Bytes::from(out), (write, encoder, more))))
    });
    Body::from_stream(chunks)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_continue_token_comes_back_as_it_was() {
        let token = encode_continue(7, "default/a");
        assert_eq!(decode_continue(&token).unwrap(), (Some(7), "default/a".to_owned()));
        assert_eq!(decode_continue(&encode_continue(-1, "a")).unwrap(), (None, "a".to_owned()));
    }

    #[test]
    fn a_continue_token_cannot_climb_out_of_its_prefix() {
        for start in ["../secrets/x", "a/../../b", "", "/"] {
            let token = URL_SAFE_NO_PAD.encode(format!(r#"{{"v":"meta.k8s.io/v1","rv":7,"start":"{start}"}}"#));
            assert_eq!(decode_continue(&token).unwrap_err().code, 400, "{start}");
        }
        assert_eq!(decode_continue("!").unwrap_err().code, 400);
    }
}
