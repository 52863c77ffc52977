//! Nobody grants what they do not hold: checks on writes of roles and bindings (upstream
//! pkg/registry/rbac/{role,clusterrole,rolebinding,clusterrolebinding}/policybased). An admission plug-in, validating.

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::Value;
use skeg_machinery::gvk::GroupResource;
use skeg_machinery::status::Status;
use skeg_machinery::text::quote;

use super::rbac::{GROUP, Rbac, RoleRef};
use super::{Authorizer, Decision, Rule, is_master, rules};
use crate::admission::{Attributes, Operation, Plugin};
use crate::request::{RequestInfo, UserInfo};

pub struct Escalation {
    pub rbac: Arc<Rbac>,
    /// The whole chain: `escalate` and `bind` may be allowed by any authorizer.
    pub authorizer: Arc<dyn Authorizer>,
}

#[async_trait]
impl Plugin for Escalation {
    fn name(&self) -> &'static str {
        "RBACEscalation"
    }

    async fn validate(&self, attributes: &Attributes<'_>, object: Option<&Value>) -> Result<(), Status> {
        let writes = matches!(attributes.operation, Operation::Create | Operation::Update);
        let (Some(object), true, "") = (object, writes, attributes.subresource) else { return Ok(()) };
        if attributes.resource.group != GROUP || is_master(attributes.user) {
            return Ok(());
        }
        let old = attributes.old_object;
        match attributes.resource.resource.as_ref() {
            "roles" | "clusterroles" => self.check_role(attributes, object, old).await,
            "rolebindings" | "clusterrolebindings" => self.check_binding(attributes, object, old).await,
            _ => Ok(()),
        }
    }
}

impl Escalation {
    async fn check_role(&self, attributes: &Attributes<'_>, object: &Value, old: Option<&Value>) -> Result<(), Status> {
        let same = |field: &str| old.is_some_and(|old| old[field] == object[field]);
        if same("rules") && same("aggregationRule") {
            return Ok(());
        }
        if self.authorized(attributes, "escalate", &attributes.resource.resource, attributes.name).await {
            return Ok(());
        }
        let refuse = |why: String| self.refuse(attributes, object, why);
        // A role that aggregates may come to hold anything, so it takes all rights to write one.
        let aggregates = |object: &Value| !object["aggregationRule"].is_null();
        if aggregates(object) || old.is_some_and(aggregates) {
            let (held, _) = self.held(attributes.user, "");
            if !rules::uncovered(&held, &rules::everything()).is_empty() {
                return Err(refuse("must have cluster-admin privileges to use an aggregationRule".into()));
            }
        }
        self.confirm(attributes, &rules::parse(&object["rules"])).map_err(refuse)
    }

    async fn check_binding(
        &self,
        attributes: &Attributes<'_>,
        object: &Value,
        old: Option<&Value>,
    ) -> Result<(), Status> {
        let same = |field: &str| old.is_some_and(|old| old[field] == object[field]);
        if same("roleRef") && same("subjects") {
            return Ok(());
        }
        let text = |name: &str| object["roleRef"][name].as_str().unwrap_or_default().to_owned();
        let role = RoleRef { kind: text("kind"), name: text("name") };
        let resource = if role.kind == "ClusterRole" { "clusterroles" } else { "roles" };
        if self.authorized(attributes, "bind", resource, &role.name).await {
            return Ok(());
        }
        let granted = self
            .rbac
            .role_rules(attributes.namespace, &role)
            .map_err(|_| Status::not_found(&GroupResource::new(GROUP, resource), &role.name))?;
        self.confirm(attributes, &granted).map_err(|why| self.refuse(attributes, object, why))
    }

    async fn authorized(&self, attributes: &Attributes<'_>, verb: &str, resource: &str, name: &str) -> bool {
        let request = RequestInfo {
            is_resource_request: true,
            verb: verb.into(),
            api_group: GROUP.into(),
            api_version: "*".into(),
            namespace: attributes.namespace.into(),
            resource: resource.into(),
            name: name.into(),
            ..Default::default()
        };
        matches!(self.authorizer.authorize(attributes.user, &request).await, Decision::Allow(_))
    }

    fn held(&self, user: &UserInfo, namespace: &str) -> (Vec<Rule>, Vec<String>) {
        self.rbac.resolve(user, namespace)
    }

    /// `Err` tells what of `wanted` the user does not hold.
    fn confirm(&self, attributes: &Attributes<'_>, wanted: &[Rule]) -> Result<(), String> {
        let user = attributes.user;
        let (held, errors) = self.held(user, attributes.namespace);
        let missing = rules::uncovered(&held, wanted);
        if missing.is_empty() {
            return Ok(());
        }
        let mut told: Vec<String> = rules::compact(&missing).iter().map(rules::describe).collect();
        told.sort();
        told.dedup();
        let groups: Vec<String> = user.groups.iter().map(|group| quote(group)).collect();
        let mut why = format!(
            "user {} (groups=[{}]) is attempting to grant RBAC permissions not currently held:\n{}",
            quote(&user.name),
            groups.join(" "),
            told.join("\n")
        );
        if !errors.is_empty() {
            why += &format!("; resolution errors: [{}]", errors.join(" "));
        }
        Err(why)
    }

    fn refuse(&self, attributes: &Attributes<'_>, object: &Value, why: String) -> Status {
        let name = object["metadata"]["name"].as_str().unwrap_or(attributes.name);
        Status::forbidden(&attributes.resource.group_resource(), name, why)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::fake::Write;
    use serde_json::json;

    fn plugin() -> Escalation {
        let rbac = Rbac::new();
        let role = |name: &str, rules: Value| json!({"metadata": {"name": name}, "rules": rules});
        let pods = json!([{"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}]);
        let binders = json!([{"verbs": ["bind"], "apiGroups": [GROUP], "resources": ["clusterroles"], "resourceNames": ["admin"]}]);
        let all = json!([{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}]);
        let bind = |name: &str| {
            json!({"metadata": {"name": name}, "roleRef": {"kind": "ClusterRole", "name": name},
                   "subjects": [{"kind": "Group", "name": name}]})
        };
        rbac.preload([
            ("clusterroles", &role("podreader", pods)),
            ("clusterroles", &role("binder", binders)),
            ("clusterroles", &role("admin", all)),
            ("clusterrolebindings", &bind("podreader")),
            ("clusterrolebindings", &bind("binder")),
        ]);
        Escalation { authorizer: rbac.clone(), rbac }
    }

    async fn create(resource: &str, object: Value, groups: &[&str]) -> Result<(), Status> {
        let write = Write::create(GROUP, "v1", resource, "team", object).user("alice", groups);
        plugin().validate(&write.attributes(), Some(&write.object)).await
    }

    fn role(verbs: Value) -> Value {
        json!({"metadata": {"name": "r"}, "rules": [{"verbs": verbs, "apiGroups": [""], "resources": ["pods"]}]})
    }

    #[tokio::test]
    async fn a_role_may_hold_what_its_writer_holds_and_nothing_more() {
        create("roles", role(json!(["get"])), &["podreader"]).await.unwrap();
        let refused = create("roles", role(json!(["get", "delete"])), &["podreader"]).await.unwrap_err();
        assert_eq!(refused.code, 403);
        assert_eq!(
            refused.message,
            "roles.rbac.authorization.k8s.io \"r\" is forbidden: user \"alice\" (groups=[\"podreader\"]) is attempting to \
             grant RBAC permissions not currently held:\n{APIGroups:[\"\"], Resources:[\"pods\"], Verbs:[\"delete\"]}"
        );
        create("roles", role(json!(["*"])), &["system:masters"]).await.unwrap();
    }

    #[tokio::test]
    async fn binding_takes_the_rules_or_the_bind_verb() {
        let binding = |role: &str| {
            json!({"metadata": {"name": "b"}, "roleRef": {"kind": "ClusterRole", "name": role},
                   "subjects": [{"kind": "User", "name": "alice"}]})
        };
        create("rolebindings", binding("podreader"), &["podreader"]).await.unwrap();
        assert_eq!(create("rolebindings", binding("admin"), &["podreader"]).await.unwrap_err().code, 403);
        create("rolebindings", binding("admin"), &["binder"]).await.unwrap();
        assert_eq!(create("rolebindings", binding("nowhere"), &["podreader"]).await.unwrap_err().code, 404);
    }

    #[tokio::test]
    async fn aggregation_takes_all_rights() {
        let aggregating =
            json!({"metadata": {"name": "r"}, "aggregationRule": {"clusterRoleSelectors": []}, "rules": []});
        let refused = create("clusterroles", aggregating, &["podreader"]).await.unwrap_err();
        assert!(refused.message.ends_with("must have cluster-admin privileges to use an aggregationRule"));
    }
}
