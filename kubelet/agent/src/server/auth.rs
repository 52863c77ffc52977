//! Who may ask the node: by client certificate or token, and then whether they may, by asking the API server
//! (upstream: webhook authentication and authorization of the kubelet, KEP-2862 for the finer subresources).

use http::{HeaderMap, Method, Request, StatusCode, header};
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, UserInfo};
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use kube::api::PostParams;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::{Node, Refusal};

/// Returns when the request may go on.
pub(super) async fn admit<B>(node: &Node, peer: Option<&[u8]>, request: &Request<B>) -> Result<(), Refusal> {
    let user = match peer.and_then(by_certificate) {
        Some(user) => user,
        None => by_token(node, request.headers()).await?,
    };
    if user.groups.iter().flatten().any(|group| group == "system:masters") {
        return Ok(());
    }
    let verb = verb(request.method());
    let subresources = subresources(request.uri().path());
    for subresource in subresources {
        if allowed(node, &user, verb, subresource).await? {
            return Ok(());
        }
    }
    let text = format!(
        "Forbidden (user={}, verb={verb}, resource=nodes, subresource(s)={subresources:?})\n",
        user.username.unwrap_or_default()
    );
    Err(Refusal::new(StatusCode::FORBIDDEN, text))
}

fn verb(method: &Method) -> &'static str {
    match method.as_str() {
        "POST" => "create",
        "PUT" => "update",
        "PATCH" => "patch",
        "DELETE" => "delete",
        _ => "get",
    }
}

/// The subresources of the node of which one must be allowed.
fn subresources(path: &str) -> &'static [&'static str] {
    let first = path.trim_start_matches('/').split('/').next().unwrap_or("");
    match first {
        "stats" => &["stats"],
        "metrics" => &["metrics"],
        "logs" => &["log"],
        "checkpoint" => &["checkpoint"],
        "healthz" => &["healthz", "proxy"],
        "pods" | "runningpods" => &["pods", "proxy"],
        "configz" => &["configz", "proxy"],
        _ => &["proxy"],
    }
}

/// The name and organizations of a certificate that the TLS layer has checked against the client CA.
fn by_certificate(der: &[u8]) -> Option<UserInfo> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let subject = certificate.subject();
    let name = subject.iter_common_name().next()?.as_str().ok()?.to_owned();
    let groups = subject.iter_organization().filter_map(|o| o.as_str().ok().map(str::to_owned)).collect();
    Some(UserInfo { username: Some(name), groups: Some(groups), ..Default::default() })
}

async fn by_token(node: &Node, headers: &HeaderMap) -> Result<UserInfo, Refusal> {
    let unauthorized = || Refusal::new(StatusCode::UNAUTHORIZED, "Unauthorized");
    let token = headers
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.strip_prefix("Bearer "))
        .ok_or_else(unauthorized)?;
    let review =
        TokenReview { spec: TokenReviewSpec { token: token.trim().to_owned(), audiences: None }, ..Default::default() };
    let api: kube::Api<TokenReview> = kube::Api::all(node.client.clone());
    let answer = api.create(&PostParams::default(), &review).await.map_err(ask_failed)?;
    let status = answer.status.unwrap_or_default();
    status.user.filter(|_| status.authenticated == Some(true)).ok_or_else(unauthorized)
}

async fn allowed(node: &Node, user: &UserInfo, verb: &str, subresource: &str) -> Result<bool, Refusal> {
    let attributes = ResourceAttributes {
        verb: Some(verb.to_owned()),
        version: Some("v1".to_owned()),
        resource: Some("nodes".to_owned()),
        subresource: Some(subresource.to_owned()),
        name: Some(node.name.clone()),
        ..Default::default()
    };
    let review = SubjectAccessReview {
        spec: SubjectAccessReviewSpec {
            user: user.username.clone(),
            groups: user.groups.clone(),
            uid: user.uid.clone(),
            extra: user.extra.clone(),
            resource_attributes: Some(attributes),
            non_resource_attributes: None,
        },
        ..Default::default()
    };
    let api: kube::Api<SubjectAccessReview> = kube::Api::all(node.client.clone());
    let answer = api.create(&PostParams::default(), &review).await.map_err(ask_failed)?;
    Ok(answer.status.is_some_and(|status| status.allowed))
}

fn ask_failed(error: kube::Error) -> Refusal {
    Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, format!("Authorization error: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_ask_for_the_node_subresource_that_upstream_asks_for() {
        let table = [
            ("/exec/ns/p/c", &["proxy"][..]),
            ("/containerLogs/ns/p/c", &["proxy"]),
            ("/stats/summary", &["stats"]),
            ("/metrics/cadvisor", &["metrics"]),
            ("/logs/", &["log"]),
            ("/pods", &["pods", "proxy"]),
            ("/healthz", &["healthz", "proxy"]),
        ];
        for (path, wanted) in table {
            assert_eq!(subresources(path), wanted, "{path}");
        }
    }
}
