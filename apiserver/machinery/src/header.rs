//! Reading an object's header straight from its bytes, in one pass and without a tree: metadata and the few fields that
//! selectors and lists need. Also puts the resourceVersion into stored bytes, which carry none.

use bytes::Bytes;

use crate::codec::json::lexer::{Fault, Lexer};

/// Bytes that are not a JSON object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("object is not JSON")]
pub struct HeaderError;

impl From<Fault> for HeaderError {
    fn from(_: Fault) -> Self {
        Self
    }
}

/// What the API server keeps parsed of an object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Header {
    pub name: String,
    pub namespace: String,
    pub uid: String,
    /// "" in stored bytes.
    pub resource_version: String,
    pub generation: i64,
    pub creation_timestamp: String,
    /// "" while the object is not being deleted.
    pub deletion_timestamp: String,
    pub labels: Vec<(String, String)>,
    pub finalizers: bool,
    /// The requested paths, in the order asked; absent ones are "", other scalars are their JSON text.
    pub fields: Vec<String>,
    /// Where [`splice_at`] puts the resourceVersion.
    pub splice: Splice,
}

/// The place for `"resourceVersion":"…"` within the bytes of an object.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Splice {
    pub at: usize,
    comma_before: bool,
    comma_after: bool,
    /// The object has no metadata at all.
    wrap: bool,
}

impl Header {
    pub fn label(&self, key: &str) -> Option<&str> {
        self.labels.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str())
    }
}

/// Scans the bytes of one object. `paths` are dotted, e.g. `spec.nodeName`; they lead through objects, not lists.
pub fn scan(bytes: &[u8], paths: &[&str]) -> Result<Header, HeaderError> {
    let mut header = Header { fields: vec![String::new(); paths.len()], ..Header::default() };
    let wanted: Vec<(&str, usize)> = paths.iter().enumerate().map(|(index, path)| (*path, index)).collect();
    let mut lexer = Lexer::new(bytes, 250);
    header.splice = Splice { at: 1, comma_after: true, wrap: true, ..Splice::default() };
    let mut members = 0;
    let scanned = lexer.each_member(|lexer, key| {
        members += 1;
        if key == "metadata" {
            return metadata(lexer, &mut header, &wanted, bytes);
        }
        descend(lexer, key, &wanted, &mut header.fields)
    })?;
    if !scanned {
        return Err(HeaderError);
    }
    lexer.end()?;
    if members == 0 {
        header.splice.comma_after = false;
    }
    if header.splice.wrap {
        header.splice.at = bytes.iter().position(|byte| *byte == b'{').map_or(1, |at| at + 1);
    }
    Ok(header)
}

/// Reads what is wanted at or below one member.
fn descend(lexer: &mut Lexer<'_>, key: &str, wanted: &[(&str, usize)], fields: &mut [String]) -> Result<(), Fault> {
    let mut below: Vec<(&str, usize)> = Vec::new();
    let mut here = None;
    for (path, index) in wanted {
        match path.strip_prefix(key) {
            Some("") => here = Some(*index),
            Some(rest) if rest.starts_with('.') => below.push((&rest[1..], *index)),
            _ => {}
        }
    }
    if let Some(index) = here {
        let start = lexer.at;
        fields[index] = match lexer.peek()? {
            b'"' => lexer.string()?.into_owned(),
            first => {
                lexer.skip()?;
                if first == b'n' { String::new() } else { lexer.text_from(start) }
            }
        };
        return Ok(());
    }
    if below.is_empty() {
        return lexer.skip();
    }
    if !lexer.each_member(|lexer, key| descend(lexer, key, &below, fields))? {
        lexer.skip()?;
    }
    Ok(())
}

fn metadata(lexer: &mut Lexer<'_>, header: &mut Header, wanted: &[(&str, usize)], bytes: &[u8]) -> Result<(), Fault> {
    let below: Vec<(&str, usize)> =
        wanted.iter().filter_map(|(path, index)| Some((path.strip_prefix("metadata.")?, *index))).collect();
    lexer.peek()?;
    let mut splice = Splice { at: lexer.at + 1, comma_after: true, ..Splice::default() };
    let mut members = 0;
    let scanned = lexer.each_member(|lexer, key| {
        members += 1;
        let text = |lexer: &mut Lexer<'_>| match lexer.peek()? {
            b'"' => Ok(lexer.string()?.into_owned()),
            _ => lexer.skip().map(|()| String::new()),
        };
        let value = match key {
            "name" | "namespace" | "uid" | "resourceVersion" | "creationTimestamp" | "deletionTimestamp" => {
                text(lexer)?
            }
            "generateName" | "selfLink" => text(lexer)?,
            "generation" => {
                let start = lexer.at;
                lexer.skip()?;
                lexer.text_from(start)
            }
            "labels" => return labels(lexer, &mut header.labels),
            "finalizers" => {
                header.finalizers = false;
                let list = lexer.each_element(|lexer, _| {
                    header.finalizers = true;
                    lexer.skip()
                })?;
                return if list { Ok(()) } else { lexer.skip() };
            }
            _ => return descend(lexer, key, &below, &mut header.fields),
        };
        if let Some((_, index)) = below.iter().find(|(path, _)| *path == key) {
            header.fields[*index] = value.clone();
        }
        match key {
            "name" => header.name = value,
            "namespace" => header.namespace = value,
            "uid" => header.uid = value,
            "resourceVersion" => header.resource_version = value,
            "creationTimestamp" => header.creation_timestamp = value,
            "deletionTimestamp" => header.deletion_timestamp = value,
            "generation" => header.generation = value.parse().unwrap_or(0),
            _ => {}
        }
        // Members before resourceVersion in Go's order.
        if matches!(key, "name" | "generateName" | "namespace" | "selfLink" | "uid") {
            splice = Splice { at: lexer.at, comma_before: true, ..Splice::default() };
        }
        Ok(())
    })?;
    if !scanned {
        return lexer.skip();
    }
    if members == 0 {
        splice.comma_after = false;
    }
    debug_assert!(splice.at <= bytes.len());
    header.splice = splice;
    Ok(())
}

fn labels(lexer: &mut Lexer<'_>, labels: &mut Vec<(String, String)>) -> Result<(), Fault> {
    labels.clear();
    let scanned = lexer.each_member(|lexer, key| {
        let value = match lexer.peek()? {
            b'"' => lexer.string()?.into_owned(),
            _ => lexer.skip().map(|()| String::new())?,
        };
        labels.push((key.to_owned(), value));
        Ok(())
    })?;
    if scanned { Ok(()) } else { lexer.skip() }
}

/// Bytes with their resourceVersion, in one copy. Bytes that are no object come back as they are.
pub fn splice_resource_version(bytes: &[u8], resource_version: u64) -> Bytes {
    match find_splice(bytes) {
        Some(splice) => splice_at(bytes, splice, resource_version),
        None => Bytes::copy_from_slice(bytes),
    }
}

/// The same where the header is at hand.
pub fn splice_at(bytes: &[u8], splice: Splice, resource_version: u64) -> Bytes {
    let mut out = Vec::with_capacity(bytes.len() + 48);
    splice_into(&mut out, bytes, splice, resource_version);
    Bytes::from(out)
}

/// The same, appended to a list that is being built.
pub fn splice_into(out: &mut Vec<u8>, bytes: &[u8], splice: Splice, resource_version: u64) {
    splice_after(out, bytes, 0, splice, resource_version);
}

/// The same without the first `from` bytes, which must lie before the splice.
pub fn splice_after(out: &mut Vec<u8>, bytes: &[u8], from: usize, splice: Splice, resource_version: u64) {
    use std::io::Write;
    let at = splice.at.min(bytes.len());
    out.extend_from_slice(&bytes[from.min(at)..at]);
    if splice.comma_before {
        out.push(b',');
    }
    if splice.wrap {
        out.extend_from_slice(b"\"metadata\":{");
    }
    write!(out, "\"resourceVersion\":\"{resource_version}\"").expect("a Vec takes every write");
    if splice.wrap {
        out.push(b'}');
    }
    if splice.comma_after {
        out.push(b',');
    }
    out.extend_from_slice(&bytes[at..]);
}

/// Where the resourceVersion goes, looking only as far as it must.
pub fn find_splice(bytes: &[u8]) -> Option<Splice> {
    let mut header = Header::default();
    let mut lexer = Lexer::new(bytes, 250);
    let mut found = false;
    // Ends at the metadata: what follows is not read.
    let scanned = lexer.each_member(|lexer, key| {
        if key != "metadata" {
            return lexer.skip();
        }
        let read = metadata(lexer, &mut header, &[], bytes);
        found = read.is_ok();
        Err(Fault::Syntax)
    });
    match scanned {
        _ if found => Some(header.splice),
        Ok(true) => scan(bytes, &[]).ok().map(|header| header.splice),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POD: &str = r#"{"kind":"Pod","apiVersion":"v1","metadata":{"name":"a","namespace":"n","uid":"u","generation":2,"creationTimestamp":"t","labels":{"x":"1","y":"\u003c"},"finalizers":["f"],"annotations":{"k":"v"}},"spec":{"nodeName":"node","containers":[{"name":"metadata"}],"hostNetwork":true},"status":{"phase":"Running","nominated":null}}"#;

    #[test]
    fn a_header_has_metadata_and_the_fields_asked_for() {
        let paths =
            ["spec.nodeName", "status.phase", "spec.hostNetwork", "spec.none", "status.nominated", "metadata.name"];
        let header = scan(POD.as_bytes(), &paths).unwrap();
        assert_eq!((header.name.as_str(), header.namespace.as_str(), header.uid.as_str()), ("a", "n", "u"));
        assert_eq!((header.generation, header.finalizers), (2, true));
        assert_eq!(header.labels, [("x".into(), "1".into()), ("y".into(), "<".into())]);
        assert_eq!(header.fields, ["node", "Running", "true", "", "", "a"]);
        assert_eq!(scan(b"[]", &[]), Err(HeaderError));
        assert_eq!(scan(b"{\"a\":1", &[]), Err(HeaderError));
    }

    #[test]
    fn the_resource_version_goes_behind_the_uid() {
        for (input, expected) in [
            (
                r#"{"metadata":{"name":"a","uid":"u","generation":1}}"#,
                r#"{"metadata":{"name":"a","uid":"u","resourceVersion":"7","generation":1}}"#,
            ),
            (r#"{"metadata":{"name":"a"},"x":1}"#, r#"{"metadata":{"name":"a","resourceVersion":"7"},"x":1}"#),
            (r#"{"kind":"A","metadata":{},"x":1}"#, r#"{"kind":"A","metadata":{"resourceVersion":"7"},"x":1}"#),
            (r#"{"metadata":{"labels":{}}}"#, r#"{"metadata":{"resourceVersion":"7","labels":{}}}"#),
            (r#"{"kind":"A"}"#, r#"{"metadata":{"resourceVersion":"7"},"kind":"A"}"#),
            ("{}", r#"{"metadata":{"resourceVersion":"7"}}"#),
            ("[]", "[]"),
        ] {
            assert_eq!(splice_resource_version(input.as_bytes(), 7), expected, "{input}");
            if let Ok(header) = scan(input.as_bytes(), &[]) {
                assert_eq!(splice_at(input.as_bytes(), header.splice, 7), expected, "{input}");
            }
        }
        let spliced = splice_resource_version(POD.as_bytes(), 42);
        assert_eq!(scan(&spliced, &[]).unwrap().resource_version, "42");
    }
}
