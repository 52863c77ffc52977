//! Answers: a Status, an object, bytes. The one place where an error becomes an HTTP response.

use std::io::Write;

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE, RETRY_AFTER, VARY, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderMap, HeaderValue, StatusCode};
use serde::Serialize;
use serde_json::Value;
use skeg_machinery::status::Status;

use crate::negotiate::{Media, Output};
use crate::protobuf;

/// Bodies below this stay uncompressed (upstream's threshold).
pub const GZIP_FROM: usize = 128 * 1024;

/// A Status as an answer, with its code and Retry-After.
pub fn status(status: &Status, output: &Output) -> Response {
    let code = StatusCode::from_u16(status.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let (media, body) = encode_json(status.to_json().into(), output);
    let mut response = bytes(code, media, body);
    if let Some(seconds) = status.retry_after_seconds() {
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

/// An object that was made here and has no schema to follow.
pub fn value(code: StatusCode, output: &Output, object: &impl Serialize) -> Response {
    let json = serde_json::to_vec(object).expect("a JSON tree serializes");
    let (media, body) = encode_json(json.into(), output);
    bytes(code, media, body)
}

/// Finished JSON in the wanted representation.
pub fn json(code: StatusCode, output: &Output, json: Bytes, gzip: bool) -> Response {
    let (media, body) = encode_json(json, output);
    body_in(code, media, body, gzip)
}

/// A finished body.
pub fn body_in(code: StatusCode, media: Media, body: Bytes, gzip: bool) -> Response {
    if gzip && body.len() >= GZIP_FROM {
        let mut response = bytes(code, media, compress(&body));
        response.headers_mut().insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        response.headers_mut().append(VARY, HeaderValue::from_static("Accept-Encoding"));
        return response;
    }
    bytes(code, media, body)
}

fn compress(body: &[u8]) -> Bytes {
    let mut encoder = GzEncoder::new(Vec::with_capacity(body.len() / 4), Compression::new(1));
    encoder.write_all(body).expect("a Vec takes everything");
    encoder.finish().expect("a Vec takes everything").into()
}

fn bytes(code: StatusCode, media: Media, body: Bytes) -> Response {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = code;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(media.content_type()));
    response
}

/// JSON to what `output` wants: itself with a newline, indented, YAML, or protobuf for a kind that has it.
pub fn encode_json(json: Bytes, output: &Output) -> (Media, Bytes) {
    let tree = |json: &[u8]| -> Value { serde_json::from_slice(json).expect("what the server encodes is JSON") };
    match output.media {
        Media::Protobuf => match protobuf::from_json(&json) {
            Some(body) => (Media::Protobuf, body),
            None => (Media::Json, json),
        },
        Media::Yaml => {
            let mut tree = tree(&json);
            tree.sort_all_objects();
            let text = skeg_machinery::codec::yaml::write(&tree);
            (Media::Yaml, text.into())
        }
        Media::Json if output.pretty => {
            let text = serde_json::to_string_pretty(&tree(&json)).expect("a JSON tree serializes");
            (Media::Json, text.into())
        }
        Media::Json => match json.try_into_mut() {
            Ok(mut own) => {
                own.extend_from_slice(b"\n");
                (Media::Json, own.freeze())
            }
            Err(shared) => (Media::Json, [&shared[..], b"\n"].concat().into()),
        },
    }
}

/// A text that browsers are told to leave one, as Go's `http.Error` writes it.
pub fn plain(code: StatusCode, text: impl Into<Body>) -> Response {
    let mut response = bare_text(code, text);
    nosniff(response.headers_mut());
    response
}

/// Says that a body is what its Content-Type says.
pub fn nosniff(headers: &mut HeaderMap) {
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
}

/// A text and nothing said of it.
pub fn bare_text(code: StatusCode, text: impl Into<Body>) -> Response {
    let mut response = Response::new(text.into());
    *response.status_mut() = code;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}
