//! Query parameters and the option objects read from them, with upstream's conversions. Does not act on any of them.

use percent_encoding::percent_decode_str;
use serde_json::{Value, json};
use skeg_machinery::field::{self, ErrorList, Path};
use skeg_machinery::gvk::GroupKind;
use skeg_machinery::status::Status;
use skeg_machinery::text::quote;

/// The parameters of a query in order, decoded.
#[derive(Clone, Debug, Default)]
pub struct Query(Vec<(String, String)>);

impl Query {
    pub fn parse(raw: &str) -> Query {
        let decode = |s: &str| percent_decode_str(&s.replace('+', " ")).decode_utf8_lossy().into_owned();
        Query(
            raw.split('&')
                .filter(|pair| !pair.is_empty())
                .map(|pair| {
                    let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
                    (decode(name), decode(value))
                })
                .collect(),
        )
    }

    /// The first value of `name`.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(n, _)| n == name).map(|(_, v)| v.as_str())
    }
}

/// A boolean parameter as apimachinery converts it: present and neither "false" nor "0".
pub fn go_bool(value: Option<&str>) -> bool {
    value.is_some_and(|v| !v.eq_ignore_ascii_case("false") && v != "0")
}

fn go_int(value: Option<&str>) -> Result<Option<i64>, Status> {
    let Some(value) = value else { return Ok(None) };
    value
        .parse()
        .map(Some)
        .map_err(|_| Status::bad_request(format!("strconv.ParseInt: parsing {}: invalid syntax", quote(value))))
}

/// A resourceVersion, or what Go says about a text that is none.
pub fn parse_uint(text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| format!("strconv.ParseUint: parsing {}: invalid syntax", quote(text)))
}

/// meta/v1 ListOptions, validated (apimachinery/pkg/apis/meta/internalversion/validation).
#[derive(Clone, Debug, Default)]
pub struct ListOptions {
    pub label_selector: String,
    pub field_selector: String,
    pub watch: bool,
    pub allow_watch_bookmarks: bool,
    pub resource_version: String,
    pub resource_version_match: String,
    pub timeout_seconds: Option<i64>,
    pub limit: i64,
    pub continue_token: String,
    pub send_initial_events: Option<bool>,
}

impl ListOptions {
    /// `forced_watch` is for the deprecated `/watch/` paths.
    pub fn from_query(query: &Query, forced_watch: bool) -> Result<ListOptions, Status> {
        let text = |name| query.get(name).unwrap_or_default().to_owned();
        let mut options = ListOptions {
            label_selector: text("labelSelector"),
            field_selector: text("fieldSelector"),
            watch: forced_watch || go_bool(query.get("watch")),
            allow_watch_bookmarks: go_bool(query.get("allowWatchBookmarks")),
            resource_version: text("resourceVersion"),
            resource_version_match: text("resourceVersionMatch"),
            timeout_seconds: go_int(query.get("timeoutSeconds"))?,
            limit: go_int(query.get("limit"))?.unwrap_or(0),
            continue_token: text("continue"),
            send_initial_events: query.get("sendInitialEvents").map(|v| go_bool(Some(v))),
        };
        options.default();
        let errors = options.problems();
        if errors.is_empty() {
            return Ok(options);
        }
        Err(Status::invalid(&meta_kind("ListOptions"), "", &errors))
    }

    /// A watch from "" or "0" without further say starts with initial events.
    fn default(&mut self) {
        let unset = self.send_initial_events.is_none() && self.resource_version_match.is_empty();
        if unset && self.watch && matches!(self.resource_version.as_str(), "" | "0") {
            self.send_initial_events = Some(true);
            self.resource_version_match = NOT_OLDER_THAN.into();
        }
    }

    fn problems(&self) -> ErrorList {
        let mut errors = ErrorList::new();
        let rv_match = Path::new("resourceVersionMatch");
        let mut forbid = |path: &Path, why: &str| errors.push(field::Error::forbidden(path, why));
        let matching = self.resource_version_match.as_str();
        if self.watch {
            if self.send_initial_events.is_some() && matching != NOT_OLDER_THAN {
                forbid(&rv_match, "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan");
            }
            if !matching.is_empty() {
                if self.send_initial_events.is_none() {
                    forbid(
                        &rv_match,
                        "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
                    );
                }
                if matching != NOT_OLDER_THAN {
                    errors.push(field::Error::not_supported(&rv_match, matching, &[NOT_OLDER_THAN]));
                }
                if !self.continue_token.is_empty() {
                    errors.push(field::Error::forbidden(
                        &rv_match,
                        "resourceVersionMatch is forbidden when continue is provided",
                    ));
                }
            }
            return errors;
        }
        if !matching.is_empty() {
            if self.resource_version.is_empty() {
                forbid(&rv_match, "resourceVersionMatch is forbidden unless resourceVersion is provided");
            }
            if !self.continue_token.is_empty() {
                forbid(&rv_match, "resourceVersionMatch is forbidden when continue is provided");
            }
            if matching != EXACT && matching != NOT_OLDER_THAN {
                errors.push(field::Error::not_supported(&rv_match, matching, &[EXACT, NOT_OLDER_THAN, ""]));
            }
            if matching == EXACT && self.resource_version == "0" {
                errors.push(field::Error::forbidden(
                    &rv_match,
                    "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"",
                ));
            }
        }
        if self.send_initial_events.is_some() {
            errors.push(field::Error::forbidden(
                &Path::new("sendInitialEvents"),
                "sendInitialEvents is forbidden for list",
            ));
        }
        errors
    }
}

pub const EXACT: &str = "Exact";
pub const NOT_OLDER_THAN: &str = "NotOlderThan";

fn meta_kind(kind: &'static str) -> GroupKind {
    GroupKind::from_static("meta.k8s.io", kind)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldValidation {
    Ignore,
    Warn,
    Strict,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteKind {
    Create,
    Update,
    Patch,
    Apply,
}

impl WriteKind {
    fn options_kind(self) -> &'static str {
        match self {
            WriteKind::Create => "CreateOptions",
            WriteKind::Update => "UpdateOptions",
            WriteKind::Patch | WriteKind::Apply => "PatchOptions",
        }
    }
}

/// Create-, Update- and PatchOptions (apimachinery/pkg/apis/meta/v1/validation).
#[derive(Clone, Debug)]
pub struct WriteParameters {
    pub dry_run: bool,
    pub field_manager: String,
    pub field_validation: FieldValidation,
    pub force: bool,
    /// The options object as admission sees it.
    pub options: Value,
}

impl WriteParameters {
    pub fn from_query(query: &Query, kind: WriteKind) -> Result<WriteParameters, Status> {
        let dry_run: Vec<&str> = query.all("dryRun").collect();
        let manager = query.get("fieldManager").unwrap_or_default().to_owned();
        let validation = query.get("fieldValidation").unwrap_or_default();
        let force = query.get("force").map(|v| go_bool(Some(v)));

        let mut errors = ErrorList::new();
        if kind == WriteKind::Apply && manager.is_empty() {
            errors.push(field::Error::required(&Path::new("fieldManager"), "is required for apply patch"));
        }
        if kind == WriteKind::Patch && force.is_some() {
            errors.push(field::Error::forbidden(&Path::new("force"), "may not be specified for non-apply patch"));
        }
        manager_problems(&manager, &mut errors);
        dry_run_problems(&dry_run, &mut errors);
        let field_validation = match validation {
            "" | "Warn" => FieldValidation::Warn,
            "Ignore" => FieldValidation::Ignore,
            "Strict" => FieldValidation::Strict,
            other => {
                errors.push(field::Error::not_supported(
                    &Path::new("fieldValidation"),
                    other,
                    &["", "Ignore", "Strict", "Warn"],
                ));
                FieldValidation::Warn
            }
        };
        if !errors.is_empty() {
            return Err(Status::invalid(&meta_kind(kind.options_kind()), "", &errors));
        }
        let mut options = json!({"kind": kind.options_kind(), "apiVersion": "meta.k8s.io/v1"});
        if !dry_run.is_empty() {
            options["dryRun"] = json!(dry_run);
        }
        if let Some(force) = force {
            options["force"] = json!(force);
        }
        if !manager.is_empty() {
            options["fieldManager"] = json!(manager);
        }
        if !validation.is_empty() {
            options["fieldValidation"] = json!(validation);
        }
        Ok(WriteParameters {
            dry_run: !dry_run.is_empty(),
            field_manager: manager,
            field_validation,
            force: force.unwrap_or(false),
            options,
        })
    }

    /// For writes from inside the server.
    pub fn internal(field_manager: &str, dry_run: bool, kind: WriteKind) -> WriteParameters {
        WriteParameters {
            dry_run,
            field_manager: field_manager.to_owned(),
            field_validation: FieldValidation::Ignore,
            force: false,
            options: json!({"kind": kind.options_kind(), "apiVersion": "meta.k8s.io/v1"}),
        }
    }
}

fn manager_problems(manager: &str, errors: &mut ErrorList) {
    let path = Path::new("fieldManager");
    if manager.len() > 128 {
        errors.push(field::Error::too_long(&path, 128));
    }
    for (i, c) in manager.char_indices() {
        if c.is_control() {
            errors.push(field::Error::invalid(
                &path,
                manager,
                format!("invalid character U+{:04X} (at position {i})", c as u32),
            ));
        }
    }
}

fn dry_run_problems(dry_run: &[&str], errors: &mut ErrorList) {
    for value in dry_run {
        if *value != "All" {
            errors.push(field::Error::not_supported(&Path::new("dryRun"), dry_run.to_vec(), &["All"]));
            return;
        }
    }
}

/// meta/v1 DeleteOptions from the body or the query.
#[derive(Clone, Debug, Default)]
pub struct DeleteOptions {
    pub grace_period_seconds: Option<i64>,
    pub uid: Option<String>,
    pub resource_version: Option<String>,
    pub orphan_dependents: Option<bool>,
    pub propagation_policy: Option<String>,
    pub dry_run: bool,
    pub raw: Value,
}

impl DeleteOptions {
    pub fn from_query(query: &Query) -> Result<DeleteOptions, Status> {
        let mut raw = json!({});
        if let Some(seconds) = go_int(query.get("gracePeriodSeconds"))? {
            raw["gracePeriodSeconds"] = json!(seconds);
        }
        if let Some(orphan) = query.get("orphanDependents") {
            raw["orphanDependents"] = json!(go_bool(Some(orphan)));
        }
        if let Some(policy) = query.get("propagationPolicy") {
            raw["propagationPolicy"] = json!(policy);
        }
        let dry_run: Vec<&str> = query.all("dryRun").collect();
        if !dry_run.is_empty() {
            raw["dryRun"] = json!(dry_run);
        }
        Self::from_value(raw)
    }

    pub fn from_value(mut raw: Value) -> Result<DeleteOptions, Status> {
        let wrong = |field: &str, go: &str, found: &Value| {
            let found = match found {
                Value::Array(_) => "array",
                Value::Object(_) => "object",
                Value::String(_) => "string",
                Value::Bool(_) => "bool",
                _ => "number",
            };
            Status::bad_request(format!(
                "json: cannot unmarshal {found} into Go struct field DeleteOptions.{field} of type {go}"
            ))
        };
        let object = raw
            .as_object_mut()
            .ok_or_else(|| Status::bad_request("decoded object cannot be converted to DeleteOptions"))?;
        object.insert("kind".into(), json!("DeleteOptions"));
        object.insert("apiVersion".into(), json!("meta.k8s.io/v1"));
        let present = |value: &Value| !value.is_null();
        let text = |value: Option<&Value>, name: &str| match value.filter(|v| present(v)) {
            None => Ok(None),
            Some(Value::String(s)) => Ok(Some(s.clone())),
            Some(found) => Err(wrong(name, "v1.DeletionPropagation", found)),
        };
        let grace_period_seconds = match object.get("gracePeriodSeconds").filter(|v| present(v)) {
            None => None,
            Some(v) => Some(v.as_i64().ok_or_else(|| wrong("gracePeriodSeconds", "int64", v))?),
        };
        let orphan_dependents = match object.get("orphanDependents").filter(|v| present(v)) {
            None => None,
            Some(v) => Some(v.as_bool().ok_or_else(|| wrong("orphanDependents", "bool", v))?),
        };
        let propagation_policy = text(object.get("propagationPolicy"), "propagationPolicy")?;
        let preconditions = object.get("preconditions").cloned().unwrap_or(Value::Null);
        let uid = text(preconditions.get("uid"), "uid")?;
        let resource_version = text(preconditions.get("resourceVersion"), "resourceVersion")?;
        let dry_run: Vec<String> = match object.get("dryRun").filter(|v| present(v)) {
            None => Vec::new(),
            Some(v) => serde_json::from_value(v.clone()).map_err(|_| wrong("dryRun", "[]string", v))?,
        };

        let mut errors = ErrorList::new();
        let path = Path::new("propagationPolicy");
        if orphan_dependents.is_some() && propagation_policy.is_some() {
            errors.push(field::Error::invalid(
                &path,
                propagation_policy.clone().unwrap_or_default(),
                "orphanDependents and deletionPropagation cannot be both set",
            ));
        }
        if let Some(policy) = &propagation_policy
            && !matches!(policy.as_str(), "Foreground" | "Background" | "Orphan")
        {
            errors.push(field::Error::not_supported(
                &path,
                policy.as_str(),
                &["Foreground", "Background", "Orphan", "nil"],
            ));
        }
        dry_run_problems(&dry_run.iter().map(String::as_str).collect::<Vec<_>>(), &mut errors);
        if !errors.is_empty() {
            return Err(Status::invalid(&meta_kind("DeleteOptions"), "", &errors));
        }
        Ok(DeleteOptions {
            grace_period_seconds,
            uid,
            resource_version,
            orphan_dependents,
            propagation_policy,
            dry_run: !dry_run.is_empty(),
            raw,
        })
    }
}
