//! The `paths` of a document: one item per URL of a resource, with what clients look for in operations: the kind, the
//! query parameters and the patch types.

use serde_json::{Map, Value, json};

use super::{Discovery, ResourcePaths, SubresourcePaths};
use crate::gvk::{GroupVersion, GroupVersionKind};

type Model<'a> = &'a dyn Fn(&GroupVersionKind) -> Option<String>;

const MEDIA_TYPES: [&str; 3] = ["application/json", "application/vnd.kubernetes.protobuf", "application/yaml"];
/// Custom resources have no protobuf and no strategic merge.
const CUSTOM_MEDIA_TYPES: [&str; 2] = ["application/json", "application/yaml"];
/// What lists are answered as besides, when they are watches.
const WATCH_TYPES: [&str; 2] = ["application/json;stream=watch", "application/vnd.kubernetes.protobuf;stream=watch"];
const PATCH_TYPES: [&str; 4] = [
    "application/apply-patch+yaml",
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
];
const LIST_OPTIONS: [(&str, &str); 10] = [
    ("allowWatchBookmarks", "boolean"),
    ("continue", "string"),
    ("fieldSelector", "string"),
    ("labelSelector", "string"),
    ("limit", "integer"),
    ("resourceVersion", "string"),
    ("resourceVersionMatch", "string"),
    ("sendInitialEvents", "boolean"),
    ("timeoutSeconds", "integer"),
    ("watch", "boolean"),
];
const WRITE_OPTIONS: [(&str, &str); 3] =
    [("dryRun", "string"), ("fieldManager", "string"), ("fieldValidation", "string")];
const DELETE_OPTIONS: [(&str, &str); 5] = [
    ("dryRun", "string"),
    ("gracePeriodSeconds", "integer"),
    ("ignoreStoreReadErrorWithClusterBreakingPotential", "boolean"),
    ("orphanDependents", "boolean"),
    ("propagationPolicy", "string"),
];

pub(super) fn paths(gv: &GroupVersion, resources: &[ResourcePaths], model: Model<'_>) -> Map<String, Value> {
    let root =
        if gv.group.is_empty() { format!("/api/{}", gv.version) } else { format!("/apis/{}/{}", gv.group, gv.version) };
    let names = Names::new(gv);
    let id = format!("get{}APIResources", names.prefix);
    let mut all = information(format!("{root}/"), "get available resources", &id, "APIResourceList", &names.tag);
    for resource in resources {
        Writer { gv, resource, model, names: &names, root: &root }.write(&mut all);
    }
    all
}

/// What there is above the versions.
pub(super) fn discovery(of: &Discovery) -> (Map<String, Value>, &'static str) {
    let (path, description, id, model, tag) = match of {
        Discovery::Core => (
            "/api/".to_owned(),
            "get available API versions",
            "getCoreAPIVersions".to_owned(),
            "APIVersions",
            "core".into(),
        ),
        Discovery::Groups => (
            "/apis/".to_owned(),
            "get available API versions",
            "getAPIVersions".to_owned(),
            "APIGroupList",
            "apis".into(),
        ),
        Discovery::Group(group) => {
            let (prefix, tag) = group_names(group);
            let id = format!("get{prefix}APIGroup");
            (format!("/apis/{group}/"), "get information of a group", id, "APIGroup", tag)
        }
    };
    (information(path, description, &id, model, &tag), model)
}

/// The one path of what tells about the API itself.
fn information(path: String, description: &str, id: &str, model: &str, tag: &str) -> Map<String, Value> {
    let answer = format!("io.k8s.apimachinery.pkg.apis.meta.v1.{model}");
    let get = json!({"description": description, "operationId": id,
        "responses": responses(Some(answer), &["200"]), "tags": [tag]});
    Map::from_iter([(path, json!({"get": get}))])
}

/// `RbacAuthorization` and `rbacAuthorization`
fn group_names(group: &str) -> (String, String) {
    let group = group.strip_suffix(".k8s.io").unwrap_or(group);
    let group = if group.is_empty() { "core" } else { group };
    let (first, rest) = group.split_once('.').unwrap_or((group, ""));
    let rest: String = rest.split('.').map(capital).collect();
    (format!("{}{rest}", capital(first)), format!("{first}{rest}"))
}

/// How operations of a group and version are called.
struct Names {
    /// `AppsV1`, `CoreV1`, `RbacAuthorizationV1`
    prefix: String,
    /// `apps_v1`
    tag: String,
}

impl Names {
    fn new(gv: &GroupVersion) -> Self {
        let (prefix, tag) = group_names(&gv.group);
        Self { prefix: format!("{prefix}{}", capital(&gv.version)), tag: format!("{tag}_{}", gv.version) }
    }
}

fn capital(word: &str) -> String {
    let mut chars = word.chars();
    chars.next().map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
}

struct Writer<'a> {
    gv: &'a GroupVersion,
    resource: &'a ResourcePaths,
    model: Model<'a>,
    names: &'a Names,
    root: &'a str,
}

/// One operation to write.
struct Operation<'a> {
    id: String,
    action: &'a str,
    description: String,
    gvk: &'a GroupVersionKind,
    parameters: Vec<Value>,
    body: Option<Value>,
    answer: Option<String>,
    codes: &'a [&'a str],
}

impl Writer<'_> {
    fn write(&self, all: &mut Map<String, Value>) {
        let kind = self.gv.kind(self.resource.kind.clone());
        let resource = &self.resource.resource;
        let scope = if self.resource.namespaced { "/namespaces/{namespace}" } else { "" };
        let collection = format!("{}{scope}/{resource}", self.root);
        self.insert(all, &collection, self.collection(&kind), false);
        let object = format!("{collection}/{{name}}");
        self.insert(all, &object, self.object(&kind), true);
        if self.resource.namespaced && self.has("list") {
            let mut item = Map::new();
            item.insert("get".into(), self.list(&kind, "ForAllNamespaces"));
            item.insert("parameters".into(), query(&LIST_OPTIONS).into());
            all.insert(format!("{}/{resource}", self.root), Value::Object(item));
        }
        for sub in &self.resource.subresources {
            self.insert(all, &format!("{object}/{}", sub.name), self.subresource(sub), true);
        }
    }

    fn has(&self, verb: &str) -> bool {
        self.resource.verbs.iter().any(|has| has == verb)
    }

    /// Adds an item with its path parameters, if it has operations.
    fn insert(&self, all: &mut Map<String, Value>, path: &str, mut item: Map<String, Value>, named: bool) {
        if item.is_empty() {
            return;
        }
        let mut parameters = Vec::new();
        let path_parameter = |name: &str, description: String| {
            json!({"description": description, "in": "path", "name": name, "required": true,
                "schema": {"type": "string", "uniqueItems": true}})
        };
        if named {
            parameters.push(path_parameter("name", format!("name of the {}", self.resource.kind)));
        }
        if self.resource.namespaced {
            let text = "object name and auth scope, such as for teams and projects";
            parameters.push(path_parameter("namespace", text.to_owned()));
        }
        parameters.extend(query(&[("pretty", "string")]));
        item.insert("parameters".into(), parameters.into());
        all.insert(path.to_owned(), Value::Object(item));
    }

    /// `createAppsV1NamespacedDeployment`
    fn id(&self, verb: &str, middle: &str, tail: &str) -> String {
        let scope = if self.resource.namespaced { "Namespaced" } else { "" };
        format!("{verb}{}{middle}{scope}{}{tail}", self.names.prefix, self.resource.kind)
    }

    fn media_types(&self) -> &'static [&'static str] {
        if self.resource.custom.is_some() { &CUSTOM_MEDIA_TYPES } else { &MEDIA_TYPES }
    }

    fn reference(&self, gvk: &GroupVersionKind) -> Option<String> {
        (self.model)(gvk)
    }

    fn body(&self, gvk: &GroupVersionKind) -> Option<Value> {
        let schema = schema_of(self.reference(gvk)?);
        Some(json!({"content": {"*/*": {"schema": schema}}, "required": true}))
    }

    fn list(&self, kind: &GroupVersionKind, tail: &str) -> Value {
        let list = self.gv.kind(format!("{}List", kind.kind));
        let id = if tail.is_empty() {
            self.id("list", "", "")
        } else {
            format!("list{}{}{tail}", self.names.prefix, kind.kind)
        };
        let mut operation = self.operation(Operation {
            id,
            action: "list",
            description: format!("list or watch objects of kind {}", kind.kind),
            gvk: kind,
            parameters: if tail.is_empty() { query(&LIST_OPTIONS) } else { Vec::new() },
            body: None,
            answer: self.reference(&list),
            codes: &["200"],
        });
        let streams = self.has("watch") && self.resource.custom.is_none();
        if let (true, Some(Value::Object(content))) = (streams, operation.pointer_mut("/responses/200/content")) {
            let schema = content[MEDIA_TYPES[0]].clone();
            content.extend(WATCH_TYPES.map(|media| (media.to_owned(), schema.clone())));
            content.sort_keys();
        }
        operation
    }

    fn collection(&self, kind: &GroupVersionKind) -> Map<String, Value> {
        let mut item = Map::new();
        if self.has("list") {
            item.insert("get".into(), self.list(kind, ""));
        }
        let operation = |id, action, description, parameters, body, answer, codes| {
            self.operation(Operation { id, action, description, gvk: kind, parameters, body, answer, codes })
        };
        if self.has("create") {
            let (id, options) = (self.id("create", "", ""), query(&WRITE_OPTIONS));
            let (body, answer) = (self.body(kind), self.reference(kind));
            item.insert(
                "post".into(),
                operation(
                    id,
                    "post",
                    format!("create {}", one(&kind.kind)),
                    options,
                    body,
                    answer,
                    &["200", "201", "202"],
                ),
            );
        }
        if self.has("deletecollection") {
            let mut options = query(&DELETE_OPTIONS);
            options.extend(query(&LIST_OPTIONS[1..9]));
            options.sort_by(|a, b| a["name"].as_str().cmp(&b["name"].as_str()));
            let (id, body, answer) = (self.id("delete", "Collection", ""), delete_body(), Some(status()));
            let value = operation(
                id,
                "deletecollection",
                format!("delete collection of {}", kind.kind),
                options,
                body,
                answer,
                &["200"],
            );
            item.insert("delete".into(), value);
        }
        item
    }

    fn object(&self, kind: &GroupVersionKind) -> Map<String, Value> {
        let mut item = self.read_write(kind, "", &self.resource.verbs);
        if self.has("delete") {
            let operation = self.operation(Operation {
                id: self.id("delete", "", ""),
                action: "delete",
                description: format!("delete {}", one(&kind.kind)),
                gvk: kind,
                parameters: query(&DELETE_OPTIONS),
                body: delete_body(),
                answer: if self.resource.returns_deleted { self.reference(kind) } else { Some(status()) },
                codes: &["200", "202"],
            });
            item.insert("delete".into(), operation);
        }
        item
    }

    fn subresource(&self, sub: &SubresourcePaths) -> Map<String, Value> {
        let tail = capital(&sub.name);
        let mut item = self.read_write(&sub.gvk, &tail, &sub.verbs);
        let has = |verb: &str| sub.verbs.iter().any(|has| has == verb);
        let description = format!("{} of the specified {}", sub.name, self.resource.kind);
        if has("create") {
            let operation = self.operation(Operation {
                id: self.id("create", "", &tail),
                action: "post",
                description: format!("create {description}"),
                gvk: &sub.gvk,
                parameters: query(&WRITE_OPTIONS),
                body: self.body(&sub.gvk),
                answer: self.reference(&sub.gvk),
                codes: &["200", "201", "202"],
            });
            item.insert("post".into(), operation);
        }
        if has("connect") {
            for method in connect_methods(&sub.name) {
                let mut operation = self.operation(Operation {
                    id: self.id("connect", &capital(method), &tail),
                    action: "connect",
                    description: format!(
                        "connect {} requests to {} of {}",
                        method.to_uppercase(),
                        sub.name,
                        self.resource.kind
                    ),
                    gvk: &sub.gvk,
                    parameters: Vec::new(),
                    body: None,
                    answer: None,
                    codes: &["200"],
                });
                operation["responses"]["200"]["content"] = json!({"*/*": {"schema": {"type": "string"}}});
                item.insert((*method).into(), operation);
            }
        }
        item
    }

    /// get, update and patch of an object or of a subresource.
    fn read_write(&self, gvk: &GroupVersionKind, tail: &str, verbs: &[String]) -> Map<String, Value> {
        let mut item = Map::new();
        let has = |verb: &str| verbs.iter().any(|has| has == verb);
        let of = if tail.is_empty() { String::new() } else { format!("{} of ", tail.to_lowercase()) };
        let subject = format!("{of}the specified {}", self.resource.kind);
        let operation = |id, action, verb: &str, parameters, body, codes| {
            let (description, answer) = (format!("{verb} {subject}"), self.reference(gvk));
            self.operation(Operation { id, action, description, gvk, parameters, body, answer, codes })
        };
        if has("get") {
            item.insert("get".into(), operation(self.id("read", "", tail), "get", "read", Vec::new(), None, &["200"]));
        }
        if has("update") {
            let (id, options) = (self.id("replace", "", tail), query(&WRITE_OPTIONS));
            item.insert("put".into(), operation(id, "put", "replace", options, self.body(gvk), &["200", "201"]));
        }
        if has("patch") {
            let patch = || json!({"schema": schema_of("io.k8s.apimachinery.pkg.apis.meta.v1.Patch".into())});
            let types = if self.resource.custom.is_some() { &PATCH_TYPES[..3] } else { &PATCH_TYPES[..] };
            let content: Map<String, Value> = types.iter().map(|media| ((*media).to_owned(), patch())).collect();
            let body = Some(json!({"content": content, "required": true}));
            let mut options = query(&WRITE_OPTIONS);
            options.extend(query(&[("force", "boolean")]));
            let id = self.id("patch", "", tail);
            item.insert("patch".into(), operation(id, "patch", "partially update", options, body, &["200", "201"]));
        }
        item
    }

    fn operation(&self, operation: Operation<'_>) -> Value {
        let gvk = operation.gvk;
        let mut value = json!({
            "description": operation.description,
            "operationId": operation.id,
            "responses": responses_as(self.media_types(), operation.answer, operation.codes),
            "tags": [self.names.tag],
            "x-kubernetes-action": operation.action,
            "x-kubernetes-group-version-kind": {"group": gvk.group, "kind": gvk.kind, "version": gvk.version},
        });
        if !operation.parameters.is_empty() {
            value["parameters"] = operation.parameters.into();
        }
        if let Some(body) = operation.body {
            value["requestBody"] = body;
        }
        value
    }
}

/// A proxy passes every method on; what streams is opened with either of two.
fn connect_methods(subresource: &str) -> &'static [&'static str] {
    match subresource {
        "proxy" => &["delete", "get", "head", "options", "patch", "post", "put"],
        _ => &["get", "post"],
    }
}

/// `a Pod`, `an Event`, `Endpoints`
fn one(kind: &str) -> String {
    let article = if kind.ends_with('s') && !kind.ends_with("ss") {
        ""
    } else if kind.starts_with(['A', 'E', 'I', 'O', 'U']) {
        "an "
    } else {
        "a "
    };
    format!("{article}{kind}")
}

fn schema_of(model: String) -> Value {
    json!({"$ref": format!("#/components/schemas/{model}")})
}

fn status() -> String {
    "io.k8s.apimachinery.pkg.apis.meta.v1.Status".into()
}

fn delete_body() -> Option<Value> {
    let schema = schema_of("io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions".into());
    Some(json!({"content": {"*/*": {"schema": schema}}}))
}

fn responses(model: Option<String>, codes: &[&str]) -> Value {
    responses_as(&MEDIA_TYPES, model, codes)
}

fn responses_as(media_types: &[&str], model: Option<String>, codes: &[&str]) -> Value {
    let mut all = Map::new();
    for code in codes {
        let description = match *code {
            "201" => "Created",
            "202" => "Accepted",
            _ => "OK",
        };
        let mut response = json!({"description": description});
        if let Some(model) = &model {
            let content: Map<String, Value> = media_types
                .iter()
                .map(|media| ((*media).to_owned(), json!({"schema": schema_of(model.clone())})))
                .collect();
            response["content"] = content.into();
        }
        all.insert((*code).to_owned(), response);
    }
    all.insert("401".into(), json!({"description": "Unauthorized"}));
    Value::Object(all)
}

fn query(options: &[(&str, &str)]) -> Vec<Value> {
    let parameter = |(name, kind): &(&str, &str)| json!({"in": "query", "name": name, "schema": {"type": kind, "uniqueItems": true}});
    options.iter().map(parameter).collect()
}
