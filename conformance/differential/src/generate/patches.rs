//! Each kind of patch, and server-side apply.

use serde_json::{Value, json};

use super::Maker;
use crate::request::Request;

pub const MERGE: &str = "application/merge-patch+json";
pub const STRATEGIC: &str = "application/strategic-merge-patch+json";
pub const JSON: &str = "application/json-patch+json";
pub const APPLY: &str = "application/apply-patch+yaml";

/// The kinds that take an object as patch.
pub const KINDS: [(&str, &str); 2] = [("merge patch", MERGE), ("strategic patch", STRATEGIC)];

impl Maker<'_> {
    pub(super) fn patches(&self) -> Vec<Request> {
        let resource = self.resource;
        if !resource.can("patch") {
            return Vec::new();
        }
        let object = resource.object();
        let dry = format!("{object}?dryRun=All");
        let ask =
            |case: &str, kind: &str, body: &str| self.ask(&format!("patch {case}"), "PATCH", &dry).body(kind, body);
        let mut made = Vec::new();
        for (what, kind) in KINDS {
            for (case, body) in [
                ("of nothing", "{}"),
                ("labels", r#"{"metadata":{"labels":{"judge":"patched"}}}"#),
                ("removes labels", r#"{"metadata":{"labels":null}}"#),
                ("name", r#"{"metadata":{"name":"other"}}"#),
                ("namespace", r#"{"metadata":{"namespace":"other"}}"#),
                ("uid", r#"{"metadata":{"uid":"3c2a1b00-0000-4000-8000-000000000009"}}"#),
                ("version", r#"{"metadata":{"resourceVersion":"1"}}"#),
                ("kind", r#"{"kind":"Judge"}"#),
                ("unknown", r#"{"judge":{"a":1}}"#),
                ("unknown in metadata", r#"{"metadata":{"judge":1}}"#),
                ("metadata null", r#"{"metadata":null}"#),
                ("wrong type", r#"{"metadata":{"labels":{"judge":1}}}"#),
                ("wrong shape", r#"{"metadata":[]}"#),
                ("a finalizer", r#"{"metadata":{"finalizers":["judge.example.com/hold"]}}"#),
                ("a list", "[]"),
                ("a text", "\"judge\""),
                ("half", "{\"metadata\":"),
                ("null", "null"),
                ("$patch replace", r#"{"metadata":{"labels":{"$patch":"replace","judge":"x"}}}"#),
                ("$patch delete", r#"{"metadata":{"labels":{"$patch":"delete"}}}"#),
                ("$patch unknown", r#"{"metadata":{"labels":{"$patch":"judge"}}}"#),
                ("$retainKeys", r#"{"metadata":{"labels":{"$retainKeys":["judge"],"judge":"x"}}}"#),
                ("$deleteFromPrimitiveList", r#"{"metadata":{"$deleteFromPrimitiveList/finalizers":["judge"]}}"#),
            ] {
                made.push(ask(&format!("{what} {case}"), kind, body));
            }
            let strict = self.ask(&format!("patch {what} strict"), "PATCH", format!("{dry}&fieldValidation=Strict"));
            made.push(strict.body(kind, r#"{"judge":{"a":1},"metadata":{"judge":1}}"#));
            let duplicate =
                self.ask(&format!("patch {what} duplicate"), "PATCH", format!("{dry}&fieldValidation=Strict"));
            made.push(duplicate.body(kind, r#"{"metadata":{"labels":{"a":"b","a":"c"}}}"#));
            let missing = format!("{}/missing?dryRun=All", resource.collection());
            made.push(self.ask(&format!("patch {what} missing"), "PATCH", missing).body(kind, "{}"));
            let real = self.ask(&format!("patch {what} real"), "PATCH", format!("{object}?fieldManager=patcher"));
            made.push(real.body(kind, json!({"metadata": {"labels": {"by": what.replace(' ', "-")}}}).to_string()));
            made.push(ask(&format!("{what} forced"), kind, "{}"));
            let forced = self.ask(&format!("patch {what} with force"), "PATCH", format!("{dry}&force=true"));
            made.push(forced.body(kind, "{}"));
        }
        for (case, body) in [
            ("add", r#"[{"op":"add","path":"/metadata/annotations","value":{"judge":"x"}}]"#),
            ("replace", r#"[{"op":"replace","path":"/metadata/labels","value":{"judge":"x"}}]"#),
            ("remove missing", r#"[{"op":"remove","path":"/metadata/judge"}]"#),
            ("replace missing", r#"[{"op":"replace","path":"/judge/a","value":1}]"#),
            ("test fails", r#"[{"op":"test","path":"/kind","value":"Judge"}]"#),
            ("test holds", r#"[{"op":"test","path":"/metadata/name","value":"example"}]"#),
            ("unknown operation", r#"[{"op":"judge","path":"/metadata/name"}]"#),
            ("without path", r#"[{"op":"add","value":1}]"#),
            ("without value", r#"[{"op":"add","path":"/metadata/labels"}]"#),
            ("name", r#"[{"op":"replace","path":"/metadata/name","value":"other"}]"#),
            ("unknown", r#"[{"op":"add","path":"/judge","value":1}]"#),
            ("copy", r#"[{"op":"copy","from":"/metadata/name","path":"/metadata/labels/judge"}]"#),
            ("move missing", r#"[{"op":"move","from":"/metadata/judge","path":"/metadata/labels/judge"}]"#),
            ("of nothing", "[]"),
            ("an object", "{}"),
            ("half", "["),
            ("remove the kind", r#"[{"op":"remove","path":"/kind"}]"#),
            ("wrong type", r#"[{"op":"replace","path":"/metadata/labels","value":"x"}]"#),
        ] {
            made.push(ask(&format!("json {case}"), JSON, body));
        }
        for (case, kind) in
            [("plain json", "application/json"), ("unknown type", "application/judge"), ("yaml", "application/yaml")]
        {
            made.push(ask(case, kind, "{}"));
        }
        made.push(self.ask("patch without a type", "PATCH", &dry));
        made.extend(self.applies());
        made
    }

    fn applies(&self) -> Vec<Request> {
        let object = self.resource.object();
        let valid = self.resource.valid();
        let ask = |case: &str, query: &str, body: &Value| {
            self.ask(&format!("apply {case}"), "PATCH", format!("{object}?{query}")).body(APPLY, body.to_string())
        };
        let head = |change: Value| {
            let mut body = json!({"apiVersion": valid["apiVersion"], "kind": valid["kind"], "metadata": {"name": valid["metadata"]["name"]}});
            if let (Some(metadata), Some(change)) = (body["metadata"].as_object_mut(), change.as_object()) {
                metadata.extend(change.clone());
            }
            body
        };
        let dry = "dryRun=All&fieldManager=applier";
        let nameless = json!({"apiVersion": valid["apiVersion"], "kind": valid["kind"]});
        let unknown = {
            let mut body = head(json!({}));
            body["judge"] = json!({"a": 1});
            body
        };
        let create = format!(
            "{}/{}-applied?dryRun=All&fieldManager=applier",
            self.resource.collection(),
            self.resource.object_name()
        );
        let mut fresh = valid.clone();
        fresh["metadata"]["name"] = format!("{}-applied", self.resource.object_name()).into();
        vec![
            ask("without a manager", "dryRun=All", &valid),
            ask("the whole", dry, &valid),
            ask("the whole with force", &format!("{dry}&force=true"), &valid),
            ask("a label", dry, &head(json!({"labels": {"applied": "x"}}))),
            ask("a label real", "fieldManager=applier", &head(json!({"labels": {"applied": "x"}}))),
            ask(
                "the label's change by another",
                "dryRun=All&fieldManager=second",
                &head(json!({"labels": {"applied": "y"}})),
            ),
            ask(
                "the label's change by force",
                "dryRun=All&fieldManager=second&force=true",
                &head(json!({"labels": {"applied": "y"}})),
            ),
            ask("the label's same value by another", "fieldManager=second", &head(json!({"labels": {"applied": "x"}}))),
            ask("nothing real", "fieldManager=applier", &head(json!({}))),
            ask(
                "managed fields",
                dry,
                &head(json!({"managedFields": [{"manager": "x", "operation": "Apply", "apiVersion": "v1"}]})),
            ),
            ask("another name", dry, &head(json!({"name": "other"}))),
            ask("an old version", dry, &head(json!({"resourceVersion": "1"}))),
            ask("another uid", dry, &head(json!({"uid": "3c2a1b00-0000-4000-8000-000000000009"}))),
            ask("without metadata", dry, &nameless),
            ask("an empty object", dry, &json!({})),
            ask("another kind", dry, &json!({"apiVersion": "v1", "kind": "Judge", "metadata": {"name": "example"}})),
            ask(
                "another version",
                dry,
                &json!({"apiVersion": "judge.example.com/v1", "kind": valid["kind"], "metadata": {"name": "example"}}),
            ),
            ask("unknown", dry, &unknown),
            ask("unknown strict", &format!("{dry}&fieldValidation=Strict"), &unknown),
            ask("unknown ignored", &format!("{dry}&fieldValidation=Ignore"), &unknown),
            ask("a wrong type", dry, &head(json!({"labels": {"judge": 1}}))),
            ask("a list of labels", dry, &head(json!({"labels": []}))),
            self.ask("apply a text", "PATCH", format!("{object}?{dry}")).body(APPLY, "judge"),
            self.ask("apply invalid yaml", "PATCH", format!("{object}?{dry}")).body(APPLY, "a: b: c"),
            self.ask("apply a duplicate", "PATCH", format!("{object}?{dry}&fieldValidation=Strict")).body(
                APPLY,
                format!(
                    "apiVersion: {}\nkind: {}\nmetadata:\n  name: {}\n  labels:\n    a: b\n    a: c\n",
                    valid["apiVersion"], valid["kind"], valid["metadata"]["name"]
                ),
            ),
            self.ask("apply creates", "PATCH", &create).body(APPLY, fresh.to_string()),
            self.ask("apply creates strict", "PATCH", format!("{create}&fieldValidation=Strict"))
                .body(APPLY, fresh.to_string()),
            self.ask("get after patches", "GET", &object).remembered(),
        ]
    }
}
