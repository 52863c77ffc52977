//! What a user may do. Rules only; who the user is was settled by `authn`.
//!
//! ```text
//! Union: system:masters ─> Node authorizer ─> RBAC      the first Allow or Deny wins, no opinion of anybody is a 403
//! ```

use std::sync::Arc;

use async_trait::async_trait;
use skeg_machinery::gvk::GroupResource;
use skeg_machinery::status::Status;
use skeg_machinery::text::quote;

use crate::request::{RequestInfo, UserInfo};

pub mod escalation;
pub mod node;
pub mod node_graph;
pub mod rbac;
pub mod rules;
pub mod webhook;

pub const MASTERS: &str = "system:masters";

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    Allow(String),
    Deny(String),
    NoOpinion(String),
}

/// A resource rule or non-resource rule that a user holds, for SelfSubjectRulesReview and escalation checks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rule {
    pub verbs: Vec<String>,
    pub api_groups: Vec<String>,
    pub resources: Vec<String>,
    pub resource_names: Vec<String>,
    pub non_resource_urls: Vec<String>,
}

#[async_trait]
pub trait Authorizer: Send + Sync + 'static {
    async fn authorize(&self, user: &UserInfo, request: &RequestInfo) -> Decision;
    async fn rules_for(&self, user: &UserInfo, namespace: &str) -> Result<Vec<Rule>, String>;
}

/// Members of system:masters may do everything, whatever RBAC says.
pub struct Masters;

pub fn is_master(user: &UserInfo) -> bool {
    user.groups.iter().any(|group| group == MASTERS)
}

#[async_trait]
impl Authorizer for Masters {
    async fn authorize(&self, user: &UserInfo, _: &RequestInfo) -> Decision {
        if is_master(user) { Decision::Allow(String::new()) } else { Decision::NoOpinion(String::new()) }
    }

    /// Nothing: who asks what they may is told of roles, and this is none.
    async fn rules_for(&self, _: &UserInfo, _: &str) -> Result<Vec<Rule>, String> {
        Ok(Vec::new())
    }
}

/// Allows everything (`AlwaysAllow`).
pub struct Everybody;

#[async_trait]
impl Authorizer for Everybody {
    async fn authorize(&self, _: &UserInfo, _: &RequestInfo) -> Decision {
        Decision::Allow(String::new())
    }

    async fn rules_for(&self, _: &UserInfo, _: &str) -> Result<Vec<Rule>, String> {
        Ok(rules::everything())
    }
}

/// Allows nothing (`AlwaysDeny`): no opinion, with upstream's reason.
pub struct Nobody;

#[async_trait]
impl Authorizer for Nobody {
    async fn authorize(&self, _: &UserInfo, _: &RequestInfo) -> Decision {
        Decision::NoOpinion("Everything is forbidden.".to_owned())
    }

    async fn rules_for(&self, _: &UserInfo, _: &str) -> Result<Vec<Rule>, String> {
        Ok(Vec::new())
    }
}

/// Authorizers in order; reasons of those without an opinion are joined.
pub struct Union(pub Vec<Arc<dyn Authorizer>>);

#[async_trait]
impl Authorizer for Union {
    async fn authorize(&self, user: &UserInfo, request: &RequestInfo) -> Decision {
        let mut reasons = Vec::new();
        for authorizer in &self.0 {
            match authorizer.authorize(user, request).await {
                Decision::NoOpinion(reason) if reason.is_empty() => {}
                Decision::NoOpinion(reason) => reasons.push(reason),
                settled => return settled,
            }
        }
        Decision::NoOpinion(reasons.join("\n"))
    }

    /// What is known even when some of it failed is not lost: errors count only when there are no rules at all.
    async fn rules_for(&self, user: &UserInfo, namespace: &str) -> Result<Vec<Rule>, String> {
        let (mut rules, mut errors) = (Vec::new(), Vec::new());
        for authorizer in &self.0 {
            match authorizer.rules_for(user, namespace).await {
                Ok(more) => rules.extend(more),
                Err(error) => errors.push(error),
            }
        }
        if rules.is_empty() && !errors.is_empty() { Err(errors.join(", ")) } else { Ok(rules) }
    }
}

/// The 403 for a request that nobody allowed, in upstream's words (endpoints/handlers/responsewriters/errors.go).
pub fn forbidden(user: &UserInfo, request: &RequestInfo, reason: &str) -> Status {
    let (name, verb) = (quote(&user.name), &request.verb);
    let mut message = if !request.is_resource_request {
        format!("User {name} cannot {verb} path {}", quote(&request.path))
    } else {
        let resource = if request.subresource.is_empty() {
            quote(&request.resource)
        } else {
            quote(&format!("{}/{}", request.resource, request.subresource))
        };
        let scope = if request.namespace.is_empty() {
            "at the cluster scope".to_owned()
        } else {
            format!("in the namespace {}", quote(&request.namespace))
        };
        format!("User {name} cannot {verb} resource {resource} in API group {} {scope}", quote(&request.api_group))
    };
    if !reason.is_empty() {
        message = format!("{message}: {reason}");
    }
    let resource = GroupResource::new(request.api_group.clone(), request.resource.clone());
    Status::forbidden(&resource, &request.name, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_reads_as_upstream_writes_it() {
        let user = UserInfo { name: "alice".into(), ..Default::default() };
        let request = RequestInfo {
            is_resource_request: true,
            verb: "list".into(),
            namespace: "default".into(),
            resource: "pods".into(),
            ..Default::default()
        };
        let status = forbidden(&user, &request, "");
        assert_eq!(
            status.message,
            "pods is forbidden: User \"alice\" cannot list resource \"pods\" in API group \"\" in the namespace \"default\""
        );
        let path = RequestInfo { path: "/metrics".into(), verb: "get".into(), ..Default::default() };
        assert!(forbidden(&user, &path, "").message.ends_with("User \"alice\" cannot get path \"/metrics\""));
    }
}
