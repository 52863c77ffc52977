//! Which representation a client wants, from Accept, Content-Type and the query. Makes no representation itself.

use http::HeaderMap;
use http::header::{ACCEPT, ACCEPT_ENCODING, CONTENT_TYPE, USER_AGENT};
use skeg_machinery::status::Status;
use skeg_machinery::text::quote;

use crate::query::Query;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Media {
    Json,
    Yaml,
    Protobuf,
}

impl Media {
    pub fn content_type(self) -> &'static str {
        match self {
            Media::Json => "application/json",
            Media::Yaml => "application/yaml",
            Media::Protobuf => "application/vnd.kubernetes.protobuf",
        }
    }

    fn of(kind: &str) -> Option<Media> {
        match kind {
            "application/json" => Some(Media::Json),
            "application/yaml" => Some(Media::Yaml),
            "application/vnd.kubernetes.protobuf" => Some(Media::Protobuf),
            _ => None,
        }
    }
}

/// What bodies and answers may be, in the server's order of preference.
pub const SUPPORTED: [&str; 3] = ["application/json", "application/yaml", "application/vnd.kubernetes.protobuf"];
pub const ALL: [Media; 3] = [Media::Json, Media::Yaml, Media::Protobuf];

/// A change of kind that `as=` asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Transform {
    None,
    Table { beta: bool, include: Include },
    Partial { beta: bool, list: bool },
}

/// How much of an object each row of a Table carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Include {
    None,
    Metadata,
    Object,
    /// Something else, see [`unknown_include`].
    Unknown,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Output {
    pub media: Media,
    pub pretty: bool,
    pub transform: Transform,
}

impl Output {
    pub const JSON: Output = Output { media: Media::Json, pretty: false, transform: Transform::None };

    /// The same bytes as are stored will do: JSON as it is.
    pub fn is_plain_json(&self) -> bool {
        *self == Output::JSON
    }
}

/// One clause of an Accept header.
#[derive(Clone, Debug, Default)]
pub struct Clause {
    pub kind: String,
    pub params: Vec<(String, String)>,
    q: f32,
}

impl Clause {
    pub fn param(&self, name: &str) -> Option<&str> {
        self.params.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    pub fn allows(&self, media: Media) -> bool {
        self.kind == "*/*" || self.kind == "application/*" || self.kind == media.content_type()
    }
}

/// The clauses of an Accept header, the most wanted first.
pub fn accept_clauses(headers: &HeaderMap) -> Vec<Clause> {
    let mut clauses: Vec<Clause> = headers
        .get(ACCEPT)
        .and_then(|value| value.to_str().ok())
        .unwrap_or("")
        .split(',')
        .filter(|clause| !clause.trim().is_empty())
        .map(|clause| {
            let mut parts = clause.split(';').map(str::trim);
            let mut parsed =
                Clause { kind: parts.next().unwrap_or("").to_ascii_lowercase(), q: 1.0, ..Default::default() };
            for part in parts {
                let (name, value) = part.split_once('=').unwrap_or((part, ""));
                let value = value.trim().trim_matches('"');
                if name.trim() == "q" {
                    parsed.q = value.parse().unwrap_or(1.0);
                } else {
                    parsed.params.push((name.trim().to_owned(), value.to_owned()));
                }
            }
            parsed
        })
        .collect();
    clauses.sort_by(|a, b| b.q.total_cmp(&a.q));
    clauses
}

/// Decides the representation; 406 where there is none.
pub fn output(headers: &HeaderMap, query: &Query) -> Result<Output, Status> {
    output_among(headers, query, &ALL)
}

/// The same for what has no columns: reviews, bindings, tokens, evictions.
pub fn output_without_tables(headers: &HeaderMap, query: &Query) -> Result<Output, Status> {
    choose(headers, query, &ALL, false)
}

/// The same for objects that are served as `offered` only: custom resources have no protobuf, but their metadata has.
pub fn output_among(headers: &HeaderMap, query: &Query, offered: &[Media]) -> Result<Output, Status> {
    choose(headers, query, offered, true)
}

fn choose(headers: &HeaderMap, query: &Query, offered: &[Media], tables: bool) -> Result<Output, Status> {
    let clauses = accept_clauses(headers);
    let pretty = wants_pretty(headers, query);
    if clauses.is_empty() {
        return Ok(Output { pretty, ..Output::JSON });
    }
    let of_metadata = [Media::Protobuf].into_iter().filter(|media| !offered.contains(media));
    let all: Vec<Media> = offered.iter().copied().chain(of_metadata).collect();
    for clause in &clauses {
        for &media in &all {
            if !clause.allows(media) || clause.param("stream").is_some_and(|s| !matches!(s, "" | "watch")) {
                continue;
            }
            if let Some(transform) = transform(clause, query) {
                // Tables have no protobuf.
                if (media == Media::Protobuf || !tables) && matches!(transform, Transform::Table { .. }) {
                    continue;
                }
                if !offered.contains(&media) && !matches!(transform, Transform::Partial { .. }) {
                    continue;
                }
                let pretty = (pretty || clause.param("pretty") == Some("1")) && media == Media::Json;
                return Ok(Output { media, pretty, transform });
            }
        }
    }
    Err(Status::not_acceptable(&offered.iter().map(|media| media.content_type()).collect::<Vec<_>>()))
}

/// 406 where no clause names a type that upstream's router has a route for; parameters do not count there.
pub fn check_available(headers: &HeaderMap, watchable: bool) -> Result<(), Status> {
    let clauses = accept_clauses(headers);
    if clauses.is_empty() || clauses.iter().any(|clause| ALL.iter().any(|media| clause.allows(*media))) {
        return Ok(());
    }
    let mut produced = SUPPORTED.to_vec();
    if watchable {
        produced.extend(["application/json;stream=watch", "application/vnd.kubernetes.protobuf;stream=watch"]);
    }
    Err(Status::not_available(&produced))
}

/// What custom resources are served as.
pub const CUSTOM: [Media; 2] = [Media::Json, Media::Yaml];

/// The representation of an error: whatever is acceptable, else JSON.
pub fn error_output(headers: &HeaderMap, query: &Query) -> Output {
    let wanted = output(headers, query).unwrap_or(Output::JSON);
    if wanted.transform == Transform::None {
        return wanted;
    }
    // What was to be transformed is not acceptable for a Status.
    let clauses = accept_clauses(headers);
    let plain = clauses.iter().filter(|clause| clause.param("as").is_none());
    let media = plain.flat_map(|clause| ALL.into_iter().filter(|media| clause.allows(*media))).next();
    Output { media: media.unwrap_or(Media::Json), transform: Transform::None, ..wanted }
}

/// `None` when the clause asks for a transformation that nobody offers.
fn transform(clause: &Clause, query: &Query) -> Option<Transform> {
    let Some(kind) = clause.param("as") else {
        let stray = clause.param("g").is_some() || clause.param("v").is_some();
        return (!stray).then_some(Transform::None);
    };
    let beta = match clause.param("v") {
        Some("v1") => false,
        Some("v1beta1") => true,
        _ => return None,
    };
    if clause.param("g") != Some("meta.k8s.io") {
        return None;
    }
    match kind {
        "Table" => Some(Transform::Table { beta, include: include(query) }),
        "PartialObjectMetadata" => Some(Transform::Partial { beta, list: false }),
        "PartialObjectMetadataList" => Some(Transform::Partial { beta, list: true }),
        _ => None,
    }
}

fn include(query: &Query) -> Include {
    match query.get("includeObject").unwrap_or("") {
        "" | "Metadata" => Include::Metadata,
        "None" => Include::None,
        "Object" => Include::Object,
        _ => Include::Unknown,
    }
}

/// What is said to an includeObject that is none, to whom there would be an answer otherwise.
pub fn unknown_include(query: &Query) -> Status {
    let found = quote(query.get("includeObject").unwrap_or_default());
    Status::bad_request(format!(
        "Unable to convert to Table as requested: includeObject: Invalid value: {found}: \
         must be 'Metadata', 'Object', 'None', or empty"
    ))
}

fn wants_pretty(headers: &HeaderMap, query: &Query) -> bool {
    if let Some(value) = query.get("pretty").filter(|v| !v.is_empty()) {
        return matches!(value, "1" | "t" | "T" | "true" | "TRUE" | "True");
    }
    let agent = headers.get(USER_AGENT).and_then(|value| value.to_str().ok()).unwrap_or("");
    ["curl", "Wget", "Mozilla/5.0"].iter().any(|browser| agent.starts_with(browser))
}

/// The media type of a body; 415 for one that is not served. No Content-Type is JSON.
pub fn input(headers: &HeaderMap) -> Result<Media, Status> {
    match content_type(headers) {
        "" => Ok(Media::Json),
        kind => Media::of(kind).ok_or_else(|| Status::unsupported_media_type(&SUPPORTED)),
    }
}

/// The Content-Type without its parameters.
pub fn content_type(headers: &HeaderMap) -> &str {
    let value = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("");
    value.split(';').next().unwrap_or("").trim()
}

pub fn accepts_gzip(headers: &HeaderMap) -> bool {
    headers
        .get(ACCEPT_ENCODING)
        .and_then(|value| value.to_str().ok())
        .is_some_and(|value| value.split(',').any(|coding| coding.trim().split(';').next() == Some("gzip")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(accept: &str, expect: Result<(Media, Transform), u16>) {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, accept.parse().unwrap());
        let got = output(&headers, &Query::default()).map(|o| (o.media, o.transform)).map_err(|s| s.code);
        assert_eq!(got, expect, "{accept}");
    }

    #[test]
    fn the_first_clause_that_can_be_served_wins() {
        let table = Transform::Table { beta: false, include: Include::Metadata };
        check("*/*", Ok((Media::Json, Transform::None)));
        check("application/yaml", Ok((Media::Yaml, Transform::None)));
        check("application/json;as=Table;v=v1;g=meta.k8s.io,application/json", Ok((Media::Json, table)));
        check("application/json;as=Table;v=v9;g=meta.k8s.io,application/json", Ok((Media::Json, Transform::None)));
        check(
            "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io",
            Ok((Media::Json, Transform::Partial { beta: false, list: true })),
        );
        check("application/xml, application/yaml;q=0.5, application/json;q=0.4", Ok((Media::Yaml, Transform::None)));
    }

    #[test]
    fn custom_resources_have_protobuf_of_their_metadata_only() {
        let partial = "application/vnd.kubernetes.protobuf;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";
        for (accept, expect) in [
            (partial, Ok((Media::Protobuf, Transform::Partial { beta: false, list: false }))),
            ("application/vnd.kubernetes.protobuf", Err(406)),
            ("application/vnd.kubernetes.protobuf,application/json", Ok((Media::Json, Transform::None))),
            ("*/*", Ok((Media::Json, Transform::None))),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(ACCEPT, accept.parse().unwrap());
            let got = output_among(&headers, &Query::default(), &CUSTOM);
            assert_eq!(got.map(|o| (o.media, o.transform)).map_err(|s| s.code), expect, "{accept}");
        }
    }

    #[test]
    fn what_has_no_columns_is_no_table() {
        let table = "application/json;as=Table;v=v1;g=meta.k8s.io";
        for (accept, expect) in
            [(table.to_owned(), Err(406)), (format!("{table},application/json"), Ok(Transform::None))]
        {
            let mut headers = HeaderMap::new();
            headers.insert(ACCEPT, accept.parse().unwrap());
            let got = output_without_tables(&headers, &Query::default()).map(|o| o.transform).map_err(|s| s.code);
            assert_eq!(got, expect, "{accept}");
        }
    }

    #[test]
    fn nothing_that_can_be_served_is_406() {
        check("application/xml", Err(406));
        check("application/json;as=Odd;v=v1;g=meta.k8s.io", Err(406));
    }
}
