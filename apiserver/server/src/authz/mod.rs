//! What a user may do. Rules only; who the user is was settled by `authn`.

use async_trait::async_trait;

use crate::request::{RequestInfo, UserInfo};

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
