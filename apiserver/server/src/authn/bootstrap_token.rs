//! Bootstrap tokens: Secrets of type bootstrap.kubernetes.io/token in kube-system, with which a new node asks for its
//! certificate (upstream plugin/pkg/auth/authenticator/token/bootstrap).

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use chrono::{DateTime, Utc};
use serde_json::Value;
use skeg_machinery::gvk::GroupResource;

use super::{Authentication, Authenticator, Credentials, equal_secrets};
use crate::pki::join::BootstrapToken;
use crate::request::UserInfo;
use crate::resources::Resources;

pub const SECRET_TYPE: &str = "bootstrap.kubernetes.io/token";
pub const DEFAULT_GROUP: &str = "system:bootstrappers";

pub struct BootstrapTokens {
    pub resources: Arc<dyn Resources>,
}

#[async_trait]
impl Authenticator for BootstrapTokens {
    async fn authenticate(&self, credentials: &Credentials) -> Authentication {
        let Some(token) = credentials.bearer_token.as_deref().and_then(BootstrapToken::parse) else {
            return Authentication::Unknown;
        };
        let name = format!("bootstrap-token-{}", token.id);
        let secret = self.resources.get_cached(&GroupResource::from_static("", "secrets"), "kube-system", &name).await;
        match secret.ok().flatten().and_then(|secret| user_of(&secret, &token, Utc::now())) {
            Some(user) => Authentication::User { user, audiences: Vec::new() },
            None => Authentication::Unknown,
        }
    }
}

/// The user of `token` if `secret` allows it now.
fn user_of(secret: &Value, token: &BootstrapToken, now: DateTime<Utc>) -> Option<UserInfo> {
    let data = |key: &str| -> String {
        let bytes = secret["data"][key].as_str().and_then(|v| STANDARD.decode(v).ok()).unwrap_or_default();
        String::from_utf8(bytes).unwrap_or_default()
    };
    let good = secret["metadata"]["deletionTimestamp"].is_null()
        && secret["type"] == SECRET_TYPE
        && equal_secrets(data("token-secret").as_bytes(), token.secret.as_bytes())
        && data("token-id") == token.id
        && data("usage-bootstrap-authentication") == "true";
    if !good {
        return None;
    }
    let expiration = data("expiration");
    if !expiration.is_empty() && DateTime::parse_from_rfc3339(&expiration).ok()? <= now {
        return None;
    }
    let mut groups = vec![DEFAULT_GROUP.to_owned()];
    for group in data("auth-extra-groups").split(',').map(str::trim).filter(|g| !g.is_empty()) {
        // Only groups of this family: a Secret must not make anybody a master.
        if !is_bootstrap_group(group) {
            return None;
        }
        groups.push(group.to_owned());
    }
    groups.sort();
    groups.dedup();
    Some(UserInfo {
        name: format!("system:bootstrap:{}", token.id),
        uid: String::new(),
        groups,
        extra: BTreeMap::new(),
    })
}

fn is_bootstrap_group(group: &str) -> bool {
    let Some(rest) = group.strip_prefix("system:bootstrappers:") else { return false };
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b':' || b == b'-';
    let last = rest.bytes().last().is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    rest.len() <= 256 && rest.bytes().all(inner) && last
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn secret(changes: &[(&str, &str)]) -> Value {
        let mut secret = json!({"metadata": {}, "type": SECRET_TYPE, "data": {}});
        let given = [
            ("token-id", "abcdef"),
            ("token-secret", "0123456789abcdef"),
            ("usage-bootstrap-authentication", "true"),
            ("auth-extra-groups", "system:bootstrappers:workers"),
        ];
        for (key, value) in given.iter().chain(changes) {
            secret["data"][*key] = STANDARD.encode(value).into();
        }
        secret
    }

    #[test]
    fn a_good_token_is_a_bootstrapper() {
        let token = BootstrapToken::parse("abcdef.0123456789abcdef").unwrap();
        let user = user_of(&secret(&[]), &token, Utc::now()).unwrap();
        assert_eq!(user.name, "system:bootstrap:abcdef");
        assert_eq!(user.groups, ["system:bootstrappers", "system:bootstrappers:workers"]);
    }

    #[test]
    fn wrong_expired_unusable_and_overreaching_tokens_are_nobody() {
        let token = BootstrapToken::parse("abcdef.0123456789abcdef").unwrap();
        for (key, value) in [
            ("token-secret", "0123456789abcdeX"),
            ("token-id", "other1"),
            ("usage-bootstrap-authentication", "false"),
            ("expiration", "2020-01-01T00:00:00Z"),
            ("auth-extra-groups", "system:masters"),
        ] {
            assert_eq!(user_of(&secret(&[(key, value)]), &token, Utc::now()), None, "{key}={value}");
        }
        assert!(user_of(&secret(&[("expiration", "2999-01-01T00:00:00Z")]), &token, Utc::now()).is_some());
    }
}
