//! Acting as somebody else: the Impersonate-* headers, each of whose values the requestor must be allowed to
//! impersonate (upstream apiserver/pkg/endpoints/filters/impersonation).

use std::collections::BTreeMap;

use http::HeaderMap;
use percent_encoding::percent_decode_str;
use skeg_machinery::status::Status;
use skeg_machinery::text::quote;

use super::service_account::{groups as account_groups, split_username};
use super::{ALL_AUTHENTICATED, ALL_UNAUTHENTICATED, ANONYMOUS};
use crate::authz::{Authorizer, Decision, forbidden};
use crate::request::{RequestInfo, UserInfo};

const USER: &str = "impersonate-user";
const GROUP: &str = "impersonate-group";
const UID: &str = "impersonate-uid";
const EXTRA_PREFIX: &str = "impersonate-extra-";

/// Whom the headers ask to be, and what must be allowed for it.
struct Wanted {
    user: UserInfo,
    checks: Vec<RequestInfo>,
}

/// The user that a request acts as: `requestor`, or whom its headers name. Removes the headers.
pub async fn impersonate(
    requestor: UserInfo,
    headers: &mut HeaderMap,
    authorizer: &dyn Authorizer,
) -> Result<UserInfo, Status> {
    let Some(wanted) = read(headers)? else { return Ok(requestor) };
    for check in &wanted.checks {
        match authorizer.authorize(&requestor, check).await {
            Decision::Allow(_) => {}
            Decision::Deny(reason) | Decision::NoOpinion(reason) => return Err(forbidden(&requestor, check, &reason)),
        }
    }
    let names: Vec<_> = headers.keys().filter(|name| is_ours(name.as_str())).cloned().collect();
    for name in names {
        headers.remove(name);
    }
    Ok(wanted.user)
}

/// A user without a name as Go shows one.
fn nameless(uid: &str, groups: &[String], extra: &BTreeMap<String, Vec<String>>) -> String {
    let list = |items: &[String]| {
        let quoted: Vec<String> = items.iter().map(|item| quote(item)).collect();
        format!("[]string{{{}}}", quoted.join(", "))
    };
    let groups = if groups.is_empty() { "[]string(nil)".to_owned() } else { list(groups) };
    let pairs: Vec<String> = extra.iter().map(|(key, values)| format!("{}:{}", quote(key), list(values))).collect();
    let extra = if pairs.is_empty() { "(nil)".to_owned() } else { format!("{{{}}}", pairs.join(", ")) };
    format!("&user.DefaultInfo{{Name:\"\", UID:{}, Groups:{groups}, Extra:map[string][]string{extra}}}", quote(uid))
}

fn is_ours(name: &str) -> bool {
    matches!(name, USER | GROUP | UID) || name.starts_with(EXTRA_PREFIX)
}

fn read(headers: &HeaderMap) -> Result<Option<Wanted>, Status> {
    if !headers.keys().any(|name| is_ours(name.as_str())) {
        return Ok(None);
    }
    let text = |name: &str| headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned();
    let (name, uid) = (text(USER), text(UID));
    let mut groups: Vec<String> =
        headers.get_all(GROUP).iter().filter_map(|v| v.to_str().ok().map(str::to_owned)).collect();
    let mut extra: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (header, value) in headers {
        if let (Some(key), Ok(value)) = (header.as_str().strip_prefix(EXTRA_PREFIX), value.to_str()) {
            let key = percent_decode_str(key).decode_utf8_lossy().into_owned();
            extra.entry(key).or_default().push(value.to_owned());
        }
    }
    if name.is_empty() {
        if groups.is_empty() && extra.is_empty() && uid.is_empty() {
            return Ok(None);
        }
        let wanted = nameless(&uid, &groups, &extra);
        return Err(Status::bad_request(format!("requested {wanted} without impersonating a user name")));
    }
    let mut checks = Vec::new();
    if let Some((namespace, account)) = split_username(&name) {
        checks.push(RequestInfo { namespace: namespace.into(), ..check("", "serviceaccounts", "", account) });
    } else {
        checks.push(check("", "users", "", &name));
    }
    checks.extend(groups.iter().map(|group| check("", "groups", "", group)));
    for (key, values) in &extra {
        checks.extend(values.iter().map(|value| check("authentication.k8s.io", "userextras", key, value)));
    }
    if !uid.is_empty() {
        checks.push(check("authentication.k8s.io", "uids", "", &uid));
    }
    if let (Some((namespace, _)), true) = (split_username(&name), groups.is_empty()) {
        groups = account_groups(namespace);
    }
    let has = |groups: &[String], group: &str| groups.iter().any(|g| g == group);
    if name == ANONYMOUS {
        if !has(&groups, ALL_UNAUTHENTICATED) {
            groups.push(ALL_UNAUTHENTICATED.into());
        }
    } else if !has(&groups, ALL_AUTHENTICATED) && !has(&groups, ALL_UNAUTHENTICATED) {
        groups.push(ALL_AUTHENTICATED.into());
    }
    Ok(Some(Wanted { user: UserInfo { name, uid, groups, extra }, checks }))
}

fn check(group: &str, resource: &str, subresource: &str, name: &str) -> RequestInfo {
    RequestInfo {
        is_resource_request: true,
        verb: "impersonate".into(),
        api_group: group.into(),
        api_version: "v1".into(),
        resource: resource.into(),
        subresource: subresource.into(),
        name: name.into(),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authz::Rule;
    use async_trait::async_trait;

    /// Allows to impersonate what is listed as `resource/name`.
    struct Only(&'static [&'static str]);

    #[async_trait]
    impl Authorizer for Only {
        async fn authorize(&self, _: &UserInfo, request: &RequestInfo) -> Decision {
            let asked = format!("{}/{}", request.resource, request.name);
            if self.0.contains(&asked.as_str()) { Decision::Allow("".into()) } else { Decision::NoOpinion("".into()) }
        }
        async fn rules_for(&self, _: &UserInfo, _: &str) -> Result<Vec<Rule>, String> {
            Ok(vec![])
        }
    }

    async fn ask(headers: &[(&'static str, &str)], allowed: &'static [&'static str]) -> Result<UserInfo, Status> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, value.parse().unwrap());
        }
        let requestor = UserInfo { name: "alice".into(), ..Default::default() };
        let user = impersonate(requestor, &mut map, &Only(allowed)).await?;
        assert!(map.is_empty());
        Ok(user)
    }

    #[tokio::test]
    async fn every_part_must_be_allowed() {
        let headers = [("impersonate-user", "bob"), ("impersonate-group", "dev"), ("impersonate-extra-scopes", "view")];
        let user = ask(&headers, &["users/bob", "groups/dev", "userextras/view"]).await.unwrap();
        assert_eq!(
            (user.name.as_str(), user.groups.len(), user.extra["scopes"].as_slice()),
            ("bob", 2, &["view".to_owned()][..])
        );
        let refused = ask(&headers, &["users/bob", "userextras/view"]).await.unwrap_err();
        assert_eq!(refused.code, 403);
        assert!(
            refused.message.contains("User \"alice\" cannot impersonate resource \"groups\""),
            "{}",
            refused.message
        );
    }

    #[tokio::test]
    async fn a_service_account_brings_its_groups() {
        let user =
            ask(&[("impersonate-user", "system:serviceaccount:ns:robot")], &["serviceaccounts/robot"]).await.unwrap();
        assert_eq!(user.groups, ["system:serviceaccounts", "system:serviceaccounts:ns", "system:authenticated"]);
    }

    #[tokio::test]
    async fn a_group_without_a_user_is_a_bad_request() {
        assert_eq!(ask(&[("impersonate-group", "dev")], &["groups/dev"]).await.unwrap_err().code, 400);
    }
}
