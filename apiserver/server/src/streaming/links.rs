//! Links in what is proxied: a page that a pod serves names its neighbours by paths of its own, which a client behind the
//! proxy reaches only with the proxy's path before them. Rewrites `Location` and the links of HTML (upstream's
//! apimachinery/pkg/util/proxy/transport.go), as the answer passes. Owns no connection.

use std::io::{self, Write};

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use flate2::Compression;
use flate2::write::{DeflateDecoder, DeflateEncoder, GzDecoder, GzEncoder};
use futures::StreamExt;
use http::{HeaderValue, header};

/// From where to where links are rewritten.
#[derive(Clone, Debug)]
pub struct Links {
    /// The proxy's path, without a slash at its end.
    pub prefix: String,
    /// The host and port that was dialled.
    pub backend: String,
    /// The host that the client asked.
    pub asked: String,
}

impl Links {
    /// The link as a client of the proxy must write it; None if it is right already.
    fn rewrite(&self, link: &str) -> Option<String> {
        let parts = split(link)?;
        let other_host = parts.host.is_some_and(|h| !h.is_empty() && h != self.backend && h != self.asked);
        if other_host || !parts.path.starts_with('/') {
            return None;
        }
        // A link to the host that the client asked keeps naming it.
        let origin = if parts.host == Some(self.asked.as_str()) { &link[..parts.origin] } else { "" };
        if parts.path.starts_with(&self.prefix) {
            return Some(format!("{origin}{}{}", parts.path, parts.rest));
        }
        let path = parts.path.trim_start_matches('/');
        Some(format!("{origin}{}/{path}{}", self.prefix, parts.rest))
    }

    /// The answer with its links rewritten.
    pub fn pass(self, mut answer: Response) -> Response {
        if let Some(location) = answer.headers().get(header::LOCATION) {
            let changed = location.to_str().ok().and_then(|l| self.rewrite(l));
            if let Some(value) = changed.and_then(|l| HeaderValue::from_str(&l).ok()) {
                answer.headers_mut().insert(header::LOCATION, value);
            }
            return answer;
        }
        let text = |name| answer.headers().get(name).and_then(|v| v.to_str().ok()).unwrap_or("");
        if text(header::CONTENT_TYPE).split(';').next().unwrap_or("").trim() != "text/html" {
            return answer;
        }
        let Some(mut coding) = Coding::new(text(header::CONTENT_ENCODING)) else {
            tracing::debug!("links of a page in an unknown encoding stay as they are");
            return answer;
        };
        answer.headers_mut().remove(header::CONTENT_LENGTH);
        answer.map(|body| {
            let mut page = Page::new(self);
            let chunks = body.into_data_stream().map(Some).chain(futures::stream::iter([None]));
            let rewritten = chunks.map(move |chunk| -> Result<Bytes, axum::Error> {
                let piece = match chunk.transpose()? {
                    Some(bytes) => coding.decode(&bytes).and_then(|plain| coding.encode(&page.push(&plain))),
                    None => coding.last(&mut page),
                };
                piece.map(Bytes::from).map_err(axum::Error::new)
            });
            Body::from_stream(rewritten)
        })
    }
}

struct Parts<'a> {
    host: Option<&'a str>,
    /// Where scheme and host end.
    origin: usize,
    path: &'a str,
    /// Query and fragment.
    rest: &'a str,
}

/// Splits a reference (RFC 3986); None if it cannot be one.
fn split(link: &str) -> Option<Parts<'_>> {
    if link.bytes().any(|b| b.is_ascii_control() || b == b' ') {
        return None;
    }
    let end = link.find(['?', '#']).unwrap_or(link.len());
    let (before, rest) = link.split_at(end);
    let is_scheme = |s: &str| {
        s.starts_with(|c: char| c.is_ascii_alphabetic())
            && s.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c))
    };
    let scheme = before.find(':').filter(|at| is_scheme(&before[..*at])).map_or(0, |at| at + 1);
    let Some(after) = before[scheme..].strip_prefix("//") else {
        return Some(Parts { host: None, origin: scheme, path: &before[scheme..], rest });
    };
    let host_end = after.find('/').unwrap_or(after.len());
    let host = after[..host_end].rsplit('@').next().unwrap_or("");
    Some(Parts { host: Some(host), origin: scheme + 2 + host_end, path: &after[host_end..], rest })
}

/// A decoder and an encoder.
type Both<D, E> = Box<(D, E)>;

/// The content encoding of a page, both ways.
enum Coding {
    Plain,
    Gzip(Both<GzDecoder<Vec<u8>>, GzEncoder<Vec<u8>>>),
    Deflate(Both<DeflateDecoder<Vec<u8>>, DeflateEncoder<Vec<u8>>>),
}

impl Coding {
    fn new(name: &str) -> Option<Self> {
        let level = Compression::default();
        match name {
            "" => Some(Self::Plain),
            "gzip" => Some(Self::Gzip(Box::new((GzDecoder::new(vec![]), GzEncoder::new(vec![], level))))),
            "deflate" => {
                Some(Self::Deflate(Box::new((DeflateDecoder::new(vec![]), DeflateEncoder::new(vec![], level)))))
            }
            _ => None,
        }
    }

    fn decode(&mut self, bytes: &[u8]) -> io::Result<Vec<u8>> {
        match self {
            Self::Plain => Ok(bytes.to_vec()),
            Self::Gzip(both) => write(&mut both.0, bytes, GzDecoder::get_mut),
            Self::Deflate(both) => write(&mut both.0, bytes, DeflateDecoder::get_mut),
        }
    }

    fn decode_end(&mut self) -> io::Result<Vec<u8>> {
        match self {
            Self::Plain => Ok(vec![]),
            Self::Gzip(both) => both.0.try_finish().map(|()| std::mem::take(both.0.get_mut())),
            Self::Deflate(both) => both.0.try_finish().map(|()| std::mem::take(both.0.get_mut())),
        }
    }

    fn encode(&mut self, bytes: &[u8]) -> io::Result<Vec<u8>> {
        match self {
            Self::Plain => Ok(bytes.to_vec()),
            Self::Gzip(both) => write(&mut both.1, bytes, GzEncoder::get_mut),
            Self::Deflate(both) => write(&mut both.1, bytes, DeflateEncoder::get_mut),
        }
    }

    /// What is left when the body has ended.
    fn last(&mut self, page: &mut Page) -> io::Result<Vec<u8>> {
        let plain = page.push(&self.decode_end()?);
        let mut out = self.encode(&[plain, page.end()].concat())?;
        out.extend(self.encode_end()?);
        Ok(out)
    }

    fn encode_end(&mut self) -> io::Result<Vec<u8>> {
        match self {
            Self::Plain => Ok(vec![]),
            Self::Gzip(both) => both.1.try_finish().map(|()| std::mem::take(both.1.get_mut())),
            Self::Deflate(both) => both.1.try_finish().map(|()| std::mem::take(both.1.get_mut())),
        }
    }
}

/// Writes to a coder and takes what came out of it; flushed, so that a page that is served in pieces arrives in pieces.
fn write<C: Write>(coder: &mut C, bytes: &[u8], out: impl Fn(&mut C) -> &mut Vec<u8>) -> io::Result<Vec<u8>> {
    if bytes.is_empty() {
        return Ok(vec![]);
    }
    coder.write_all(bytes)?;
    coder.flush()?;
    Ok(std::mem::take(out(coder)))
}

/// A tag that is longer than this is passed as it is.
const LONGEST_TAG: usize = 64 * 1024;

/// Elements whose content is text and never tags.
const RAW: [&str; 10] =
    ["script", "style", "textarea", "title", "xmp", "iframe", "noembed", "noframes", "noscript", "plaintext"];

/// A page on its way through. Everything but the links it rewrites leaves as it came.
struct Page {
    links: Links,
    /// What cannot be decided yet: the beginning of a tag or comment.
    pending: Vec<u8>,
    /// The element whose text is passed unread.
    raw: Option<&'static str>,
    comment: bool,
}

impl Page {
    fn new(links: Links) -> Self {
        Self { links, pending: Vec::new(), raw: None, comment: false }
    }

    fn push(&mut self, bytes: &[u8]) -> Vec<u8> {
        self.pending.extend_from_slice(bytes);
        let pending = std::mem::take(&mut self.pending);
        let mut out = Vec::with_capacity(pending.len());
        let mut rest = &pending[..];
        while let Some(taken) = self.step(rest, &mut out) {
            rest = &rest[taken..];
        }
        if rest.len() > LONGEST_TAG {
            out.extend_from_slice(rest);
        } else {
            self.pending = rest.to_vec();
        }
        out
    }

    fn end(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.pending)
    }

    /// Passes the next piece and says how long it was; None if more must come first.
    fn step(&mut self, rest: &[u8], out: &mut Vec<u8>) -> Option<usize> {
        if rest.is_empty() {
            return None;
        }
        if self.comment {
            let end = find(rest, b"-->").map(|at| at + 3);
            self.comment = end.is_none();
            return pass(rest, end.unwrap_or(rest.len().saturating_sub(2)), out);
        }
        let start = rest.iter().position(|b| *b == b'<').unwrap_or(rest.len());
        if start > 0 {
            return pass(rest, start, out);
        }
        if let Some(name) = self.raw {
            let close = format!("</{name}");
            if rest.len() < close.len() && close.as_bytes()[..rest.len()].eq_ignore_ascii_case(rest) {
                return None;
            }
            if rest.get(..close.len()).is_none_or(|b| !b.eq_ignore_ascii_case(close.as_bytes())) {
                return pass(rest, 1, out);
            }
            self.raw = None;
        }
        if b"<!--".starts_with(&rest[..rest.len().min(4)]) && rest.len() < 4 {
            return None;
        }
        if rest.starts_with(b"<!--") {
            self.comment = true;
            return pass(rest, 4, out);
        }
        match rest.get(1)? {
            b'a'..=b'z' | b'A'..=b'Z' => self.tag(rest, out),
            b'/' | b'!' | b'?' => {
                let end = rest.iter().position(|b| *b == b'>')?;
                pass(rest, end + 1, out)
            }
            _ => pass(rest, 1, out),
        }
    }

    /// Passes a start tag.
    fn tag(&mut self, rest: &[u8], out: &mut Vec<u8>) -> Option<usize> {
        let (end, attributes) = attributes(rest)?;
        let name_end = rest.iter().position(|b| b.is_ascii_whitespace() || *b == b'/' || *b == b'>')?;
        let name = String::from_utf8_lossy(&rest[1..name_end]).to_ascii_lowercase();
        if rest[..end].ends_with(b"/>") {
            self.raw = None;
        } else {
            self.raw = RAW.into_iter().find(|raw| *raw == name);
        }
        let urls = url_attributes(&name);
        let mut done = 0;
        for (key, value) in attributes {
            let key = String::from_utf8_lossy(&rest[key]).to_ascii_lowercase();
            if !urls.contains(&&*key) {
                continue;
            }
            let Ok(text) = std::str::from_utf8(&rest[value.clone()]) else { continue };
            let Some(link) = self.links.rewrite(&text.replace("&amp;", "&")) else { continue };
            out.extend_from_slice(&rest[done..value.start]);
            out.extend_from_slice(escape(&link).as_bytes());
            done = value.end;
        }
        pass(&rest[done..], end - done, out);
        Some(end)
    }
}

fn pass(rest: &[u8], count: usize, out: &mut Vec<u8>) -> Option<usize> {
    out.extend_from_slice(&rest[..count]);
    (count > 0).then_some(count)
}

fn find(text: &[u8], what: &[u8]) -> Option<usize> {
    text.windows(what.len()).position(|w| w == what)
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('"', "&#34;").replace('\'', "&#39;").replace('<', "&lt;").replace('>', "&gt;")
}

type Range = std::ops::Range<usize>;

/// The end of a start tag, and its attributes as (name, value) without quotes; None if the tag does not end here.
fn attributes(tag: &[u8]) -> Option<(usize, Vec<(Range, Range)>)> {
    let mut found = Vec::new();
    let while_at = |mut at: usize, test: &dyn Fn(u8) -> bool| -> Option<usize> {
        while test(*tag.get(at)?) {
            at += 1;
        }
        Some(at)
    };
    let space = |b: u8| b.is_ascii_whitespace();
    let mut at = while_at(1, &|b| !space(b) && b != b'/' && b != b'>')?;
    loop {
        at = while_at(at, &|b| space(b) || b == b'/')?;
        if tag[at] == b'>' {
            return Some((at + 1, found));
        }
        // A name may begin with an equals sign.
        let name_end = while_at(at + 1, &|b| !space(b) && !matches!(b, b'/' | b'>' | b'='))?;
        let name = at..name_end;
        at = while_at(name_end, &space)?;
        if tag[at] != b'=' {
            found.push((name, name_end..name_end));
            continue;
        }
        at = while_at(at + 1, &space)?;
        let value = match tag[at] {
            quote @ (b'"' | b'\'') => {
                let end = while_at(at + 1, &|b| b != quote)?;
                at += 1;
                let value = at..end;
                at = end + 1;
                value
            }
            _ => {
                let end = while_at(at, &|b| !space(b) && b != b'>')?;
                let value = at..end;
                at = end;
                value
            }
        };
        found.push((name, value));
    }
}

/// The attributes of an element that are URLs (HTML 4 and 5, index of attributes).
fn url_attributes(element: &str) -> &'static [&'static str] {
    match element {
        "a" | "area" | "base" | "link" => &["href"],
        "applet" => &["codebase"],
        "audio" | "embed" | "script" | "source" => &["src"],
        "blockquote" | "del" | "ins" | "q" => &["cite"],
        "body" => &["background"],
        "button" => &["formaction"],
        "command" => &["icon"],
        "form" => &["action"],
        "frame" | "iframe" => &["longdesc", "src"],
        "head" => &["profile"],
        "html" => &["manifest"],
        "img" => &["longdesc", "src", "usemap"],
        "input" => &["src", "usemap", "formaction"],
        "object" => &["classid", "codebase", "data", "usemap"],
        "video" => &["poster", "src"],
        _ => &[],
    }
}

#[cfg(test)]
#[path = "links_tests.rs"]
mod tests;
