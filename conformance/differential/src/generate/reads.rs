//! Gets, lists and watches.

use super::Maker;
use crate::request::Request;

pub const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io";
pub const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";

/// What answers may be asked as.
const FORMS: [(&str, &str); 14] = [
    ("json", "application/json"),
    ("yaml", "application/yaml"),
    ("protobuf", PROTOBUF),
    ("table", TABLE),
    ("table v1beta1", "application/json;as=Table;v=v1beta1;g=meta.k8s.io"),
    ("table v2", "application/json;as=Table;v=v2;g=meta.k8s.io"),
    ("table or json", "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"),
    ("table protobuf", "application/vnd.kubernetes.protobuf;as=Table;v=v1;g=meta.k8s.io"),
    ("metadata", "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io"),
    ("metadata list", "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io"),
    ("metadata protobuf", "application/vnd.kubernetes.protobuf;as=PartialObjectMetadata;v=v1;g=meta.k8s.io"),
    ("any", "*/*"),
    ("html", "text/html"),
    ("protobuf or json", "application/vnd.kubernetes.protobuf,application/json"),
];

/// What lists may be asked with.
const LISTS: [(&str, &str); 39] = [
    ("limit 1", "limit=1"),
    ("limit 500", "limit=500"),
    ("limit negative", "limit=-1"),
    ("limit text", "limit=many"),
    ("limit at 0", "limit=1&resourceVersion=0"),
    ("at 0", "resourceVersion=0"),
    ("at 1", "resourceVersion=1&resourceVersionMatch=Exact"),
    ("at text", "resourceVersion=now"),
    ("at negative", "resourceVersion=-1"),
    ("not older than 0", "resourceVersion=0&resourceVersionMatch=NotOlderThan"),
    ("exactly 0", "resourceVersion=0&resourceVersionMatch=Exact"),
    ("match without version", "resourceVersionMatch=Exact"),
    ("match unknown", "resourceVersion=0&resourceVersionMatch=Newest"),
    ("at the object", "resourceVersion=${rv}"),
    ("exactly the object", "resourceVersion=${rv}&resourceVersionMatch=Exact"),
    ("not older than the object", "resourceVersion=${rv}&resourceVersionMatch=NotOlderThan"),
    ("continue garbage", "continue=garbage"),
    ("continue with version", "continue=eyJ2Ijoi&resourceVersion=1"),
    ("continue with match", "continue=eyJ2Ijoi&resourceVersionMatch=Exact"),
    ("labels none", "labelSelector=judge=none"),
    ("labels set", "labelSelector=judge+in+(a,b),!other"),
    ("labels exists", "labelSelector=app"),
    ("labels invalid", "labelSelector=a+b+c"),
    ("labels invalid key", "labelSelector=-a=b"),
    ("labels invalid value", "labelSelector=a=-b"),
    ("labels operator", "labelSelector=a+among+(b)"),
    ("fields name", "fieldSelector=metadata.name=missing"),
    ("fields not name", "fieldSelector=metadata.name!=missing"),
    ("fields namespace", "fieldSelector=metadata.namespace=default"),
    ("fields unknown", "fieldSelector=spec.judge=x"),
    ("fields invalid", "fieldSelector=metadata.name"),
    ("fields two", "fieldSelector=metadata.name=missing,metadata.name=other"),
    ("initial events", "sendInitialEvents=true"),
    ("timeout text", "timeoutSeconds=soon"),
    ("pretty", "pretty=true"),
    ("unknown option", "judge=true"),
    ("two of an option", "limit=1&limit=2"),
    ("bookmarks", "allowWatchBookmarks=true"),
    ("empty options", "limit=&resourceVersion=&labelSelector=&fieldSelector="),
];

const WATCHES: [(&str, &str); 14] = [
    ("", ""),
    ("text", "&watch=perhaps"),
    ("at 0", "&resourceVersion=0"),
    ("at 1", "&resourceVersion=1"),
    ("at text", "&resourceVersion=now"),
    ("at the object", "&resourceVersion=${rv}"),
    ("with bookmarks", "&allowWatchBookmarks=true"),
    ("initial events", "&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true"),
    ("initial events without match", "&sendInitialEvents=true&allowWatchBookmarks=true"),
    ("no initial events", "&sendInitialEvents=false&resourceVersionMatch=NotOlderThan"),
    ("match", "&resourceVersionMatch=NotOlderThan"),
    ("limit", "&limit=1"),
    ("labels none", "&labelSelector=judge=none"),
    ("fields unknown", "&fieldSelector=spec.judge=x"),
];

impl Maker<'_> {
    pub(super) fn reads(&self) -> Vec<Request> {
        let resource = self.resource;
        let (collection, object) = (resource.collection(), resource.object());
        let mut made = vec![self.ask("get", "GET", &object).remembered()];
        if !resource.can("create") {
            made.clear();
        }
        made.push(self.ask("get missing", "GET", format!("{collection}/missing")));
        made.push(self.ask("get pretty", "GET", format!("{object}?pretty=true")));
        made.push(self.ask("get at 0", "GET", format!("{object}?resourceVersion=0")));
        made.push(self.ask("get at text", "GET", format!("{object}?resourceVersion=now")));
        made.push(self.ask("get an invalid name", "GET", format!("{collection}/Not%20Valid")));
        made.push(self.ask("get an unknown subresource", "GET", format!("{object}/judge")));
        made.push(self.ask("head", "HEAD", &object));
        made.push(self.ask("options", "OPTIONS", &object));
        for (form, accept) in FORMS {
            made.push(self.ask(&format!("get as {form}"), "GET", &object).accept(accept));
            made.push(self.ask(&format!("list as {form}"), "GET", format!("{collection}?limit=500")).accept(accept));
        }
        for include in ["None", "Metadata", "Object", "Judge"] {
            let ask = |what: &str, path: &str| {
                self.ask(&format!("{what} table with {include}"), "GET", format!("{path}?includeObject={include}"))
                    .accept(TABLE)
            };
            made.push(ask("get", &object));
            made.push(ask("list", &collection));
        }
        made.push(self.ask("list", "GET", &collection));
        for (case, query) in LISTS {
            made.push(self.ask(&format!("list {case}"), "GET", format!("{collection}?{query}")));
        }
        let selected = format!("{collection}?fieldSelector=metadata.name={}", resource.object_name());
        made.push(self.ask("list by name", "GET", &selected));
        if resource.namespaced {
            let all = format!("{}/{}", resource.root(), resource.plural);
            made.push(self.ask("list everywhere none", "GET", format!("{all}?labelSelector=judge=none")));
            let query = format!("fieldSelector=metadata.namespace={}", resource.namespace());
            made.push(self.ask("list everywhere of the namespace", "GET", format!("{all}?{query}")));
            made.push(self.ask("list everywhere as table", "GET", format!("{all}?{query}")).accept(TABLE));
            made.push(self.ask("create everywhere", "POST", &all).json(&resource.valid()));
            made.push(self.ask("get everywhere", "GET", format!("{all}/{}", resource.object_name())));
        } else {
            let within = format!("{}/namespaces/default/{}", resource.root(), resource.plural);
            made.push(self.ask("list within a namespace", "GET", &within));
        }
        made
    }

    /// Each ends by itself after a second.
    pub(super) fn watches(&self) -> Vec<Request> {
        let resource = self.resource;
        if !resource.can("watch") {
            return Vec::new();
        }
        let only = format!("fieldSelector=metadata.name={}", resource.object_name());
        let collection = resource.collection();
        let mut made = Vec::new();
        for (case, query) in WATCHES {
            let selected = if query.contains("fieldSelector") { "watch=true" } else { &only };
            let path = format!("{collection}?{selected}&watch=true&timeoutSeconds=1{query}");
            made.push(self.ask(format!("watch {case}").trim_end(), "GET", path));
        }
        let path = format!("{collection}?{only}&watch=true&timeoutSeconds=1&resourceVersion=0");
        made.push(self.ask("watch as table", "GET", &path).accept(TABLE));
        made.push(
            self.ask("watch as metadata", "GET", &path)
                .accept("application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io"),
        );
        made.push(self.ask("watch as yaml", "GET", &path).accept("application/yaml"));
        let old = collection.replacen("/v1/", "/v1/watch/", 1).replacen("/v2/", "/v2/watch/", 1);
        made.push(self.ask("watch by the old path", "GET", format!("{old}?{only}&timeoutSeconds=1&resourceVersion=0")));
        let name = resource.object_name();
        made.push(self.ask(
            "watch one by the old path",
            "GET",
            format!("{old}/{name}?timeoutSeconds=1&resourceVersion=0"),
        ));
        made
    }
}
