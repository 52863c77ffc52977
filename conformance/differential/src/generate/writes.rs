//! Creates, updates and deletes that every type takes alike, and the ways in which a request for them is wrong.

use serde_json::{Value, json};

use super::reads::PROTOBUF;
use super::{Maker, fresh};
use crate::request::Request;

/// Metadata that is changed or wrong, by JSON pointer under the object.
fn metadata() -> Vec<(&'static str, &'static str, Value)> {
    let owner = |kind: &str, extra: Value| {
        let mut owner =
            json!({"apiVersion": "v1", "kind": kind, "name": "owner", "uid": "3c2a1b00-0000-4000-8000-000000000009"});
        if let (Some(owner), Some(extra)) = (owner.as_object_mut(), extra.as_object()) {
            owner.extend(extra.clone());
        }
        owner
    };
    vec![
        ("labels", "labels", json!({"judge": "x"})),
        ("a label's value", "labels", json!({"judge": "not valid"})),
        ("a label's key", "labels", json!({"not valid": "x"})),
        ("a label's type", "labels", json!({"judge": 1})),
        ("an annotation's key", "annotations", json!({"not valid": "x"})),
        ("an annotation's type", "annotations", json!({"judge": true})),
        ("annotations too large", "annotations", json!({"judge": "x".repeat(262_145)})),
        ("an owner", "ownerReferences", json!([owner("ConfigMap", json!({}))])),
        (
            "an owner without uid",
            "ownerReferences",
            json!([{"apiVersion": "v1", "kind": "ConfigMap", "name": "owner"}]),
        ),
        ("an owner that is an event", "ownerReferences", json!([owner("Event", json!({}))])),
        (
            "two controllers",
            "ownerReferences",
            json!([
                owner("ConfigMap", json!({"controller": true})),
                owner("Secret", json!({"controller": true, "name": "b"}))
            ]),
        ),
        (
            "the same owner twice",
            "ownerReferences",
            json!([owner("ConfigMap", json!({})), owner("ConfigMap", json!({}))]),
        ),
        ("a finalizer", "finalizers", json!(["judge.example.com/hold"])),
        ("a finalizer without domain", "finalizers", json!(["hold"])),
        ("an invalid finalizer", "finalizers", json!(["not valid"])),
        ("two opposed finalizers", "finalizers", json!(["orphan", "foregroundDeletion"])),
        ("a generation", "generation", json!(7)),
        ("a uid", "uid", json!("3c2a1b00-0000-4000-8000-000000000009")),
        ("a creation time", "creationTimestamp", json!("2030-01-02T03:04:05Z")),
        ("a deletion time", "deletionTimestamp", json!("2030-01-02T03:04:05Z")),
        ("a grace period", "deletionGracePeriodSeconds", json!(30)),
        ("a self link", "selfLink", json!("/judge")),
        ("a resource version", "resourceVersion", json!("7")),
        ("a resource version that is text", "resourceVersion", json!("now")),
        ("managed fields", "managedFields", json!([])),
        ("invalid managed fields", "managedFields", json!([{"operation": "Judge", "apiVersion": "v1"}])),
        ("an unknown member", "judge", json!("x")),
        ("another namespace", "namespace", json!("elsewhere")),
    ]
}

impl Maker<'_> {
    /// The object's path where the API server itself works on objects of the type behind their requests.
    fn settling(&self) -> Option<String> {
        matches!(&*self.resource.plural, "customresourcedefinitions" | "apiservices" | "flowschemas")
            .then(|| self.resource.object())
    }

    pub(super) fn creates(&self) -> Vec<Request> {
        let resource = self.resource;
        let (collection, valid) = (resource.collection(), resource.valid());
        let dry = format!("{collection}?dryRun=All");
        let ask = |case: &str, path: &str| self.ask(&format!("create {case}"), "POST", path);
        let changed = |change: &dyn Fn(&mut Value)| {
            let mut object = valid.clone();
            change(&mut object);
            object
        };
        let mut made = vec![
            ask("dry", &dry).json(&valid),
            ask("dry, answer protobuf", &dry).json(&valid).accept(PROTOBUF),
            ask("dry, answer table", &dry).json(&valid).accept(super::reads::TABLE),
            ask("dry, strict", &format!("{dry}&fieldValidation=Strict&fieldManager=judge")).json(&valid),
            ask("", &format!("{collection}?fieldManager=judge")).json(&valid).remembered().settles(self.settling()),
            ask("again", &collection).json(&valid),
            ask("again dry", &dry).json(&valid),
            ask("of another kind", &dry).json(&changed(&|object| object["kind"] = "Judge".into())),
            ask("of another version", &dry)
                .json(&changed(&|object| object["apiVersion"] = "judge.example.com/v1".into())),
            ask("without kind", &dry)
                .json(&changed(&|object| drop(object.as_object_mut().map(|map| map.remove("kind"))))),
            ask("without version", &dry)
                .json(&changed(&|object| drop(object.as_object_mut().map(|map| map.remove("apiVersion"))))),
            ask("without metadata", &dry)
                .json(&changed(&|object| drop(object.as_object_mut().map(|map| map.remove("metadata"))))),
            ask("without a body", &dry),
            ask("of a text", &dry).body("application/json", "judge"),
            ask("of a list", &dry).body("application/json", "[]"),
            ask("of half a body", &dry).body("application/json", "{\"apiVersion\":"),
            ask("of null", &dry).body("application/json", "null"),
            ask("as form", &dry).body("application/x-www-form-urlencoded", valid.to_string()),
            ask("as yaml", &dry).body("application/yaml", valid.to_string()),
            ask("as invalid yaml", &dry).body("application/yaml", "a: b: c"),
            ask("as protobuf that is json", &dry).body(PROTOBUF, valid.to_string()),
            ask("of an unknown dry run", &format!("{collection}?dryRun=Some")).json(&valid),
            ask("of an unknown validation", &format!("{dry}&fieldValidation=Maybe")).json(&valid),
            ask("by a long manager", &format!("{dry}&fieldManager={}", "x".repeat(129))).json(&valid),
            ask("by a manager with a tab", &format!("{dry}&fieldManager=a%09b")).json(&valid),
            self.ask("put the collection", "PUT", &collection).json(&valid),
            self.ask("patch the collection", "PATCH", &collection).body(super::patches::MERGE, "{}"),
            self.ask("post the object", "POST", resource.object()).json(&valid),
            ask(
                "in a namespace that is missing",
                &format!("{}/namespaces/missing/{}", resource.root(), resource.plural),
            )
            .json(&changed(&|object| object["metadata"]["namespace"] = "missing".into())),
        ];
        for (case, name) in [
            ("empty", ""),
            ("upper", "Not-Valid"),
            ("spaced", "not valid"),
            ("dotted", "a..b"),
            ("slashed", "a/b"),
            ("percent", "a%b"),
            ("dots", ".."),
        ] {
            made.push(
                ask(&format!("named {case}"), &dry).json(&changed(&|object| object["metadata"]["name"] = name.into())),
            );
        }
        made.push(
            ask("named too long", &dry).json(&changed(&|object| object["metadata"]["name"] = "x".repeat(254).into())),
        );
        made.push(ask("with a generated name", &dry).json(&changed(&|object| {
            object["metadata"].as_object_mut().map(|map| map.remove("name"));
            object["metadata"]["generateName"] = "judge-".into();
        })));
        made.push(ask("with an invalid generated name", &dry).json(&changed(&|object| {
            object["metadata"].as_object_mut().map(|map| map.remove("name"));
            object["metadata"]["generateName"] = "Not Valid-".into();
        })));
        for (case, key, value) in metadata() {
            made.push(ask(&format!("with {case}"), &dry).json(&changed(&|object| {
                if !matches!(&*resource.plural, "customresourcedefinitions" | "apiservices") {
                    object["metadata"]["name"] = fresh(resource).into();
                }
                object["metadata"][key] = value.clone();
            })));
        }
        made
    }

    pub(super) fn updates(&self) -> Vec<Request> {
        let resource = self.resource;
        if !resource.can("update") {
            return Vec::new();
        }
        let (object, valid) = (resource.object(), resource.valid());
        let dry = format!("{object}?dryRun=All");
        let ask = |case: &str, path: &str| self.ask(&format!("update {case}"), "PUT", path);
        let with = |key: &str, value: Value| {
            let mut object = valid.clone();
            object["metadata"]["resourceVersion"] = "${rv}".into();
            object["metadata"][key] = value;
            object
        };
        let mut made = vec![
            ask("without a version", &dry).json(&valid),
            ask("that changes nothing", &object).json(&with("resourceVersion", "${rv}".into())).remembered(),
            ask("labels", &object).json(&with("labels", json!({"judge": "updated"}))).remembered(),
            ask("by another manager", &format!("{object}?fieldManager=other"))
                .json(&with("annotations", json!({"judge": "x"})))
                .remembered(),
            ask("at an old version", &dry).json(&with("resourceVersion", "1".into())),
            ask("of another name", &dry).json(&with("name", "other".into())),
            ask("of no name", &dry).json(&with("name", "".into())),
            ask("of another uid", &dry).json(&with("uid", "3c2a1b00-0000-4000-8000-000000000009".into())),
            ask("of the same uid", &dry).json(&with("uid", "${uid}".into())),
            ask("without a body", &dry),
            ask("of a list", &dry).body("application/json", "[]"),
            ask("as form", &dry).body("text/plain", "x"),
            ask("of an unknown dry run", &format!("{object}?dryRun=Some")).json(&valid),
            ask("answer table", &dry).json(&with("labels", json!({"judge": "x"}))).accept(super::reads::TABLE),
            ask("of one that is missing", &format!("{}/missing?dryRun=All", resource.collection())).json(&{
                let mut object = valid.clone();
                object["metadata"]["name"] = "missing".into();
                object
            }),
            ask("of one that is missing at a version", &format!("{}/missing?dryRun=All", resource.collection())).json(
                &{
                    let mut object = with("resourceVersion", "1".into());
                    object["metadata"]["name"] = "missing".into();
                    object
                },
            ),
        ];
        for (case, key, value) in metadata() {
            made.push(ask(&format!("with {case}"), &dry).json(&with(key, value)));
        }
        made.push(self.ask("get after updates", "GET", &object).remembered());
        made
    }

    pub(super) fn deletes(&self) -> Vec<Request> {
        let resource = self.resource;
        if !resource.can("delete") {
            return Vec::new();
        }
        let (collection, object) = (resource.collection(), resource.object());
        let dry = format!("{object}?dryRun=All");
        let ask = |case: &str, path: &str| self.ask(&format!("delete {case}"), "DELETE", path);
        let options = |extra: Value| {
            let mut options = json!({"kind": "DeleteOptions", "apiVersion": "v1", "dryRun": ["All"]});
            if let (Some(options), Some(extra)) = (options.as_object_mut(), extra.as_object()) {
                options.extend(extra.clone());
            }
            options
        };
        let mut made = vec![
            self.ask("get before delete", "GET", &object).remembered(),
            ask("of one that is missing", &format!("{collection}/missing")),
            ask("dry", &dry),
            ask("dry, answer protobuf", &dry).accept(PROTOBUF),
            ask("of an unknown dry run", &format!("{object}?dryRun=Some")),
            ask("with a text as grace", &format!("{dry}&gracePeriodSeconds=soon")),
            ask("with a grace", &format!("{dry}&gracePeriodSeconds=5")),
            ask("with a negative grace", &format!("{dry}&gracePeriodSeconds=-1")),
            ask("with a policy", &format!("{dry}&propagationPolicy=Foreground")),
            ask("with an unknown policy", &format!("{dry}&propagationPolicy=Sideways")),
            ask("with orphans", &format!("{dry}&orphanDependents=true")),
            ask("with a policy and orphans", &format!("{dry}&orphanDependents=true&propagationPolicy=Orphan")),
            ask("with a body that is no options", &dry).json(&json!({"kind": "Judge", "apiVersion": "v1"})),
            ask("with half a body", &dry).body("application/json", "{\"kind\":"),
            ask("with options of another version", &object)
                .json(&options(json!({"apiVersion": "judge.example.com/v1"}))),
        ];
        for (case, extra) in [
            ("options", json!({})),
            ("another uid", json!({"preconditions": {"uid": "3c2a1b00-0000-4000-8000-000000000009"}})),
            ("the uid", json!({"preconditions": {"uid": "${uid}"}})),
            ("another version", json!({"preconditions": {"resourceVersion": "1"}})),
            ("the version", json!({"preconditions": {"resourceVersion": "${rv}"}})),
            ("policy background", json!({"propagationPolicy": "Background"})),
            ("policy orphan", json!({"propagationPolicy": "Orphan"})),
            ("an invalid policy", json!({"propagationPolicy": "Sideways"})),
            ("a negative grace", json!({"gracePeriodSeconds": -1})),
            ("a grace", json!({"gracePeriodSeconds": 1})),
            ("an invalid dry run", json!({"dryRun": ["Some"]})),
            ("an unknown member", json!({"judge": true})),
            ("a wrong type", json!({"gracePeriodSeconds": "1"})),
        ] {
            made.push(ask(&format!("with {case} in the body"), &object).json(&options(extra)));
        }
        if resource.can("deletecollection") {
            let all = |case: &str, query: &str| ask(&format!("collection {case}"), &format!("{collection}?{query}"));
            made.push(all("dry of none", "dryRun=All&labelSelector=judge=none"));
            made.push(all("with invalid labels", "dryRun=All&labelSelector=a+b+c"));
            made.push(all("with unknown fields", "dryRun=All&fieldSelector=spec.judge=x"));
            let name = resource.object_name();
            made.push(all("dry by name", &format!("dryRun=All&fieldSelector=metadata.name={name}")));
        }
        made.push(ask("", &format!("{object}?gracePeriodSeconds=0")).settles(self.settling()));
        made.push(ask("again", &object));
        made.push(self.ask("get after delete", "GET", &object));
        made.push(self.ask("create once more", "POST", &collection).json(&resource.valid()).settles(self.settling()));
        if resource.can("deletecollection") {
            let name = resource.object_name();
            let all = format!("{collection}?gracePeriodSeconds=0&fieldSelector=metadata.name={name}");
            made.push(ask("collection", &all).settles(self.settling()));
        } else {
            made.push(ask("once more", &format!("{object}?propagationPolicy=Background")));
        }
        made.push(self.ask(
            "list after delete",
            "GET",
            format!("{collection}?fieldSelector=metadata.name={}", resource.object_name()),
        ));
        made
    }
}
