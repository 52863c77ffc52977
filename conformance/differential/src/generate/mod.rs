//! Requests about one type, made from its fixture and the schema: pure. What is asked of every type alike is here and in
//! `reads`, `writes` and `patches`; `mutate` makes invalid and unusual bodies.

mod mutate;
mod patches;
mod reads;
mod writes;

use serde_json::{Value, json};

use crate::request::{Request, Scenario};
use crate::resources::Resource;

/// How many mutations a type gets at most of a kind, and which part of all else: one in so many.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub create: usize,
    pub update: usize,
    pub one_in: u64,
}

impl Scenario {
    /// Keeps what later requests build on, and of the others the same part on every run.
    fn thin(&mut self, one_in: u64) {
        let kept = |request: &Request| {
            let needed = request.remember || matches!(&*request.case, "namespace" | "service account" | "delete");
            needed || request.digest().is_multiple_of(one_in)
        };
        for part in [&mut self.steps, &mut self.waiting, &mut self.teardown] {
            part.retain(kept);
        }
    }
}

/// Groups whose objects change how requests for others are answered.
const DISTURBING: [&str; 4] =
    ["admissionregistration.k8s.io", "apiextensions.k8s.io", "apiregistration.k8s.io", "flowcontrol.apiserver.k8s.io"];

pub fn scenario(resource: &Resource, limits: Limits) -> Scenario {
    let mut scenario = whole(resource, limits);
    scenario.thin(limits.one_in);
    scenario
}

fn whole(resource: &Resource, limits: Limits) -> Scenario {
    let made = Maker { resource, name: resource.name() };
    let mut scenario = Scenario {
        resource: made.name.clone(),
        disturbs: DISTURBING.contains(&&*resource.group),
        ..Scenario::default()
    };
    if resource.namespaced {
        scenario.steps.extend(made.namespace());
    }
    if !resource.can("get") {
        scenario.steps.extend(made.reviews());
        scenario.steps.extend(made.create_mutations(limits.create));
        return scenario;
    }
    if !resource.can("create") {
        scenario.steps.extend(made.reads());
        return scenario;
    }
    scenario.steps.extend(made.creates());
    scenario.steps.extend(made.reads());
    scenario.steps.extend(made.updates());
    scenario.steps.extend(made.patches());
    scenario.steps.extend(made.subresources(limits));
    scenario.steps.extend(made.create_mutations(limits.create));
    scenario.steps.extend(made.update_mutations(limits.update));
    scenario.waiting = made.watches();
    scenario.teardown = made.deletes();
    scenario
}

pub(crate) struct Maker<'a> {
    pub resource: &'a Resource,
    pub name: String,
}

impl Maker<'_> {
    pub fn ask(&self, case: &str, method: &str, path: impl Into<String>) -> Request {
        Request::new(&self.name, case, method, path)
    }

    /// A namespace with the service account that pods of it run as: controllers would make it.
    fn namespace(&self) -> Vec<Request> {
        let namespace = self.resource.namespace();
        let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}});
        let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}});
        let accounts = format!("/api/v1/namespaces/{namespace}/serviceaccounts");
        vec![
            self.ask("namespace", "POST", "/api/v1/namespaces").json(&object),
            self.ask("service account", "POST", accounts).json(&account),
        ]
    }

    /// Types that are only asked, never kept.
    fn reviews(&self) -> Vec<Request> {
        let collection = self.resource.collection();
        let object = self.resource.valid();
        vec![
            self.ask("create", "POST", &collection).json(&object),
            self.ask("create dry", "POST", format!("{collection}?dryRun=All")).json(&object),
            self.ask("create, answer protobuf", "POST", &collection)
                .json(&object)
                .accept("application/vnd.kubernetes.protobuf"),
            self.ask("list", "GET", &collection),
            self.ask("get", "GET", format!("{collection}/missing")),
            self.ask("delete", "DELETE", format!("{collection}/missing")),
        ]
    }

    fn create_mutations(&self, most: usize) -> Vec<Request> {
        let path = format!("{}?dryRun=All", self.resource.collection());
        let mut object = self.resource.valid();
        if object["metadata"].is_object() && self.resource.can("get") {
            object["metadata"]["name"] = fresh(self.resource).into();
        }
        let mut made = Vec::new();
        for mutation in mutate::sample(mutate::mutations(self.resource.ty.get(), &object), most) {
            made.push(self.validated("create", "POST", &path, &mutation));
        }
        made
    }

    fn update_mutations(&self, most: usize) -> Vec<Request> {
        if !self.resource.can("update") {
            return Vec::new();
        }
        let path = format!("{}?dryRun=All", self.resource.object());
        let mut object = self.resource.valid();
        object["metadata"]["resourceVersion"] = "${rv}".into();
        let mut made = vec![self.ask("get before updates", "GET", self.resource.object()).remembered()];
        for mutation in mutate::sample(mutate::mutations(self.resource.ty.get(), &object), most) {
            made.push(self.validated("update", "PUT", &path, &mutation));
        }
        made
    }

    /// A mutated body, with the validation of fields that its mutation is about.
    pub fn validated(&self, verb: &str, method: &str, path: &str, mutation: &mutate::Mutation) -> Request {
        let path = match mutation.validation {
            Some(validation) => format!("{path}&fieldValidation={validation}"),
            None => path.to_owned(),
        };
        let case = format!("{verb} {}", mutation.name);
        self.ask(&case, method, path).body("application/json", mutation.body.clone())
    }

    fn subresources(&self, limits: Limits) -> Vec<Request> {
        let object = self.resource.object();
        let mut made = Vec::new();
        for sub in &self.resource.subresources {
            let path = format!("{object}/{}", sub.name);
            let can = |verb: &str| sub.verbs.iter().any(|known| known == verb);
            if !can("get") || !can("update") || ["proxy", "exec", "attach"].contains(&&*sub.name) {
                continue;
            }
            let case = |what: &str| format!("{} {what}", sub.name);
            made.push(self.ask(&case("get"), "GET", &path));
            made.push(self.ask(&case("get table"), "GET", &path).accept(reads::TABLE));
            made.push(self.ask(&case("get protobuf"), "GET", &path).accept(reads::PROTOBUF));
            made.push(self.ask(&case("delete"), "DELETE", &path));
            made.push(self.ask(&case("post"), "POST", &path).json(&json!({})));
            made.push(self.ask(
                &case("get missing"),
                "GET",
                format!("{}/missing/{}", self.resource.collection(), sub.name),
            ));
            let patch = json!({"metadata": {"labels": {"judge": sub.name}}});
            for (what, kind) in patches::KINDS {
                let request = self.ask(&case(what), "PATCH", format!("{path}?dryRun=All"));
                made.push(request.body(kind, patch.to_string()));
            }
            if sub.name == "scale" {
                made.extend(self.scale(&path));
                continue;
            }
            made.extend(self.status(&sub.name, &path, limits));
        }
        made
    }

    fn scale(&self, path: &str) -> Vec<Request> {
        let namespace = self.resource.namespace();
        let scale = |spec: Value| json!({"apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": {"name": self.resource.object_name(), "namespace": namespace}, "spec": spec});
        let dry = format!("{path}?dryRun=All");
        vec![
            self.ask("scale update", "PUT", &dry).json(&scale(json!({"replicas": 3}))),
            self.ask("scale update real", "PUT", path).json(&scale(json!({"replicas": 2}))),
            self.ask("scale update negative", "PUT", &dry).json(&scale(json!({"replicas": -1}))),
            self.ask("scale update wrong type", "PUT", &dry).json(&scale(json!({"replicas": "3"}))),
            self.ask("scale update unknown", "PUT", format!("{dry}&fieldValidation=Strict"))
                .json(&scale(json!({"replica": 3}))),
            self.ask("scale patch", "PATCH", &dry).body(patches::MERGE, r#"{"spec":{"replicas":4}}"#),
            self.ask("scale patch strategic", "PATCH", &dry).body(patches::STRATEGIC, r#"{"spec":{"replicas":4}}"#),
            self.ask("scale patch json", "PATCH", &dry)
                .body(patches::JSON, r#"[{"op":"replace","path":"/spec/replicas","value":5}]"#),
            self.ask("scale patch real", "PATCH", path).body(patches::MERGE, r#"{"spec":{"replicas":1}}"#),
            self.ask("scale apply", "PATCH", format!("{path}?dryRun=All&fieldManager=scaler&force=true"))
                .body(patches::APPLY, scale(json!({"replicas": 6})).to_string()),
        ]
    }

    /// A subresource that takes the whole object: status and its like.
    fn status(&self, name: &str, path: &str, limits: Limits) -> Vec<Request> {
        let mut object = self.resource.valid();
        object["metadata"]["resourceVersion"] = "${rv}".into();
        let dry = format!("{path}?dryRun=All");
        let mut made = vec![self.ask(&format!("{name} update"), "PUT", &dry).json(&object)];
        let mut changed = object.clone();
        changed["metadata"]["labels"]["judge"] = "changed".into();
        made.push(self.ask(&format!("{name} update labels"), "PUT", &dry).json(&changed));
        if name == "status" {
            let ty = self.resource.ty.get();
            for mutation in mutate::sample(mutate::status(ty, &object), limits.update / 2) {
                made.push(self.validated("status update", "PUT", &dry, &mutation));
            }
        }
        made
    }
}

/// A name that no object of the scenario has, and that the type takes.
fn fresh(resource: &Resource) -> String {
    let name = resource.object_name();
    match (&*resource.group, &*resource.plural) {
        ("apiextensions.k8s.io" | "apiregistration.k8s.io" | "networking.k8s.io", _) => name.to_owned(),
        ("rbac.authorization.k8s.io", _) => format!("{name}:fresh"),
        _ => format!("{name}-fresh"),
    }
}
