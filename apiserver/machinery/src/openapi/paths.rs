//! The `paths` of a document: one item per URL of a resource, with what clients look for in operations: the kind, the
//! parameters and the media types. What parameters say is `parameters`'s.

use serde_json::{Map, Value, json};

use super::parameters::{Options, in_path, share};
use super::{Information, META, PATCH, ResourcePaths, SubresourcePaths};
use crate::gvk::{GroupVersion, GroupVersionKind};

type Model<'a> = &'a dyn Fn(&GroupVersionKind) -> Option<String>;

const MEDIA_TYPES: [&str; 3] = ["application/json", "application/yaml", "application/vnd.kubernetes.protobuf"];
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
pub(super) fn paths(
    gv: &GroupVersion,
    resources: &[ResourcePaths],
    model: Model<'_>,
    options: &Options<'_>,
) -> Map<String, Value> {
    let base = if gv.group.is_empty() { "/api".to_owned() } else { format!("/apis/{}", gv.group) };
    let root = format!("{base}/{}", gv.version);
    let names = Names::new(gv);
    let id = format!("get{}APIResources", names.prefix);
    let answer = responses_as(&MEDIA_TYPES, Some(&format!("{META}APIResourceList")), &["200"]);
    let mut all = told(format!("{root}/"), "get available resources", &id, answer, &names.tag);
    for resource in resources {
        Writer { gv, resource, model, names: &names, root: &root, options }.write(&mut all);
    }
    all
}

/// What is told about the API itself, and the model that it is told in.
pub(super) fn information(of: &Information) -> (Map<String, Value>, Option<&'static str>) {
    const VERSIONS: &str = "get available API versions";
    let meta = |path: &str, description: &str, id: &str, model: &'static str, tag: &str| {
        let answer = responses_as(&MEDIA_TYPES, Some(model), &["200"]);
        (told(path.to_owned(), description, id, answer, tag), Some(model))
    };
    let text = |path: &str, description: &str, id: &str, media: &str, tag: &str| {
        let mut answer = responses_as(&[], None, &["200"]);
        answer["200"]["content"][media] = json!({"schema": {"type": "string"}});
        (told(path.to_owned(), description, id, answer, tag), None)
    };
    match of {
        Information::Core => {
            meta("/api/", VERSIONS, "getCoreAPIVersions", "io.k8s.apimachinery.pkg.apis.meta.v1.APIVersions", "core")
        }
        Information::Groups => {
            meta("/apis/", VERSIONS, "getAPIVersions", "io.k8s.apimachinery.pkg.apis.meta.v1.APIGroupList", "apis")
        }
        Information::Group(group) => {
            let (prefix, tag) = group_names(group);
            let (path, id) = (format!("/apis/{group}/"), format!("get{prefix}APIGroup"));
            let model = "io.k8s.apimachinery.pkg.apis.meta.v1.APIGroup";
            meta(&path, "get information of a group", &id, model, &tag)
        }
        Information::Version => {
            let model = "io.k8s.apimachinery.pkg.version.Info";
            let answer = responses_as(&MEDIA_TYPES[..1], Some(model), &["200"]);
            let description = "get the version information for this server";
            (told("/version/".to_owned(), description, "getCodeVersion", answer, "version"), Some(model))
        }
        Information::Issuer => text(
            "/.well-known/openid-configuration/",
            "get service account issuer OpenID configuration, also known as the 'OIDC discovery doc'",
            "getServiceAccountIssuerOpenIDConfiguration",
            "application/json",
            "WellKnown",
        ),
        Information::IssuerKeys => text(
            "/openid/v1/jwks/",
            "get service account issuer OpenID JSON Web Key Set (contains public token verification keys)",
            "getServiceAccountIssuerOpenIDKeyset",
            "application/jwk-set+json",
            "openid",
        ),
    }
}

/// A path that is only read.
fn told(path: String, description: &str, id: &str, responses: Value, tag: &str) -> Map<String, Value> {
    let get = json!({"description": description, "operationId": id, "responses": responses, "tags": [tag]});
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
    options: &'a Options<'a>,
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
        let (resource, namespaced) = (&self.resource.resource, self.resource.namespaced);
        let scope = if namespaced { "/namespaces/{namespace}" } else { "" };
        let collection = format!("{}{scope}/{resource}", self.root);
        let object = format!("{collection}/{{name}}");
        self.insert(all, &collection, self.collection(&kind), namespaced, None);
        self.insert(all, &object, self.object(&kind), namespaced, Some(&kind.kind));
        if namespaced && self.has("list") {
            let item = Map::from_iter([("get".to_owned(), self.list(&kind, "ForAllNamespaces"))]);
            self.insert(all, &format!("{}/{resource}", self.root), item, false, None);
        }
        for sub in &self.resource.subresources {
            let path = format!("{object}/{}", sub.name);
            self.insert(all, &path, self.subresource(sub), namespaced, Some(&sub.gvk.kind));
            if sub.name == "proxy" {
                let below = self.connect(sub, "WithPath", &[in_path("path", "path to the resource")]);
                self.insert(all, &format!("{path}/{{path}}"), below, namespaced, Some(&sub.gvk.kind));
            }
        }
        if self.has("watch") && self.resource.custom.is_none() {
            let watch = format!("{}/watch", self.root);
            let at = |below: &str| format!("{watch}{scope}/{resource}{below}");
            self.insert(all, &at(""), self.watch(&kind, true, ""), namespaced, None);
            self.insert(all, &at("/{name}"), self.watch(&kind, false, ""), namespaced, Some(&kind.kind));
            if namespaced {
                let everywhere = self.watch(&kind, true, "ForAllNamespaces");
                self.insert(all, &format!("{watch}/{resource}"), everywhere, false, None);
            }
        }
    }

    fn has(&self, verb: &str) -> bool {
        self.resource.verbs.iter().any(|has| has == verb)
    }

    /// Adds an item with the parameters of its path, if it has operations. `named` is the kind of what `{name}` names.
    fn insert(
        &self,
        all: &mut Map<String, Value>,
        path: &str,
        mut item: Map<String, Value>,
        namespaced: bool,
        named: Option<&str>,
    ) {
        if item.is_empty() {
            return;
        }
        let mut placed: Vec<Value> =
            named.map(|kind| in_path("name", &format!("name of the {kind}"))).into_iter().collect();
        if namespaced {
            placed.push(in_path("namespace", "object name and auth scope, such as for teams and projects"));
        }
        for operation in item.values_mut() {
            let mut own = operation.get_mut("parameters").map(Value::take).unwrap_or_else(|| json!([]));
            if let Value::Array(own) = &mut own {
                own.extend(placed.iter().cloned());
                own.extend((operation["x-kubernetes-action"] != "connect").then(|| self.options.pretty.clone()));
            }
            operation["parameters"] = own;
        }
        share(&mut item);
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
        let schema = schema_of(&self.reference(gvk)?);
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
            description: format!(
                "list {}objects of kind {}",
                if self.has("watch") { "or watch " } else { "" },
                kind.kind
            ),
            gvk: kind,
            parameters: self.options.list.clone(),
            body: None,
            answer: self.reference(&list),
            codes: &["200"],
        });
        let streams = self.resource.custom.is_none();
        if let (true, Some(Value::Object(content))) = (streams, operation.pointer_mut("/responses/200/content")) {
            let schema = content[MEDIA_TYPES[0]].clone();
            content.extend(WATCH_TYPES.map(|media| (media.to_owned(), schema.clone())));
        }
        operation
    }

    /// The deprecated paths of watches, of one object or of a list of them.
    fn watch(&self, kind: &GroupVersionKind, list: bool, tail: &str) -> Map<String, Value> {
        const INSTEAD: &str = "deprecated: use the 'watch' parameter with a list operation instead";
        let (action, description) = match list {
            true => ("watchlist", format!("watch individual changes to a list of {}. {INSTEAD}.", kind.kind)),
            false => (
                "watch",
                format!(
                    "watch changes to an object of kind {}. {INSTEAD}, filtered to a single item with the 'fieldSelector' parameter.",
                    kind.kind
                ),
            ),
        };
        let listed = if list { "List" } else { "" };
        let id = match tail {
            "" => self.id("watch", "", listed),
            tail => format!("watch{}{}{listed}{tail}", self.names.prefix, kind.kind),
        };
        let media: Vec<&str> = MEDIA_TYPES.into_iter().chain(WATCH_TYPES).collect();
        let mut operation = self.operation(Operation {
            id,
            action,
            description,
            gvk: kind,
            parameters: self.options.list.clone(),
            body: None,
            answer: None,
            codes: &["200"],
        });
        operation["responses"] = responses_as(&media, Some(&format!("{META}WatchEvent")), &["200"]);
        Map::from_iter([("get".to_owned(), operation)])
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
            let (id, options) = (self.id("create", "", ""), self.options.create.clone());
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
            let options = self.options.delete_collection.clone();
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
                parameters: self.options.delete.clone(),
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
        let description = format!("{} of {}", sub.name, one(&self.resource.kind));
        if has("create") {
            let operation = self.operation(Operation {
                id: self.id("create", "", &tail),
                action: "post",
                description: format!("create {description}"),
                gvk: &sub.gvk,
                parameters: self.options.create.clone(),
                body: self.body(&sub.gvk),
                answer: self.reference(&sub.gvk),
                codes: &["200", "201", "202"],
            });
            item.insert("post".into(), operation);
        }
        if sub.name == "log"
            && let Some(get) = item.get_mut("get")
        {
            self.read_as_text(get);
        }
        item.extend(self.connect(sub, "", &[]));
        item
    }

    /// Logs are no objects: what may be asked of them is, and their answer is text whatever the client accepts.
    fn read_as_text(&self, get: &mut Value) {
        get["parameters"] = self.options.of(&GroupVersionKind::new("", "v1", "PodLogOptions")).into();
        let media = ["text/plain"].into_iter().chain(MEDIA_TYPES);
        let content: Map<String, Value> =
            media.map(|media| (media.to_owned(), json!({"schema": {"type": "string"}}))).collect();
        get["responses"]["200"]["content"] = Value::Object(content);
    }

    /// What passes a connection on; `more` are parameters besides the subresource's own.
    fn connect(&self, sub: &SubresourcePaths, end: &str, more: &[Value]) -> Map<String, Value> {
        let mut item = Map::new();
        if !sub.verbs.iter().any(|has| has == "connect") {
            return item;
        }
        for method in connect_methods(&sub.name) {
            let tail = format!("{}{end}", capital(&sub.name));
            let upper = method.to_uppercase();
            let mut operation = self.operation(Operation {
                id: self.id("connect", &capital(method), &tail),
                action: "connect",
                description: format!("connect {upper} requests to {} of {}", sub.name, self.resource.kind),
                gvk: &sub.gvk,
                parameters: self.options.of(&sub.gvk).into_iter().chain(more.iter().cloned()).collect(),
                body: None,
                answer: None,
                codes: &["200"],
            });
            operation["responses"]["200"]["content"] = json!({"*/*": {"schema": {"type": "string"}}});
            item.insert((*method).into(), operation);
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
            let (id, options) = (self.id("replace", "", tail), self.options.update.clone());
            item.insert("put".into(), operation(id, "put", "replace", options, self.body(gvk), &["200", "201"]));
        }
        if has("patch") {
            let patch = || json!({"schema": schema_of(PATCH)});
            let types = if self.resource.custom.is_some() { &PATCH_TYPES[..3] } else { &PATCH_TYPES[..] };
            let content: Map<String, Value> = types.iter().map(|media| ((*media).to_owned(), patch())).collect();
            let body = Some(json!({"content": content, "required": true}));
            let options = self.options.patch.clone();
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
            "responses": responses_as(self.media_types(), operation.answer.as_deref(), operation.codes),
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

fn schema_of(model: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{model}")})
}

fn status() -> String {
    format!("{META}Status")
}

fn delete_body() -> Option<Value> {
    let schema = schema_of(&format!("{META}DeleteOptions"));
    Some(json!({"content": {"*/*": {"schema": schema}}}))
}

fn responses_as(media_types: &[&str], model: Option<&str>, codes: &[&str]) -> Value {
    let mut all = Map::new();
    for code in codes {
        let description = match *code {
            "201" => "Created",
            "202" => "Accepted",
            _ => "OK",
        };
        let mut response = json!({"description": description});
        if let Some(model) = model {
            let content: Map<String, Value> =
                media_types.iter().map(|media| ((*media).to_owned(), json!({"schema": schema_of(model)}))).collect();
            response["content"] = content.into();
        }
        all.insert((*code).to_owned(), response);
    }
    all.insert("401".into(), json!({"description": "Unauthorized"}));
    Value::Object(all)
}
