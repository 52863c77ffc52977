//! A request passed on to the server behind an APIService, in the name of whoever made it
//! (kube-aggregator/pkg/apiserver/handler_proxy.go).

use axum::body::Body;
use axum::response::Response;
use http::{HeaderName, HeaderValue, Request, StatusCode};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use rustls_pki_types::ServerName;
use skeg_machinery::status::Status;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::{Aggregation, Remote};
use crate::request::UserInfo;
use crate::respond;
use crate::streaming::tunnel;
use crate::webhook::dial;

/// What may stand in a header's name as it is.
const IN_NAME: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

fn unavailable(why: &str) -> Response {
    respond::plain(StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n"))
}

impl Aggregation {
    /// A TLS connection to an endpoint of the service.
    pub(super) async fn connect(&self, remote: &Remote) -> Result<TlsStream<TcpStream>, String> {
        let endpoint = self.resolver.endpoint(&remote.namespace, &remote.service, remote.port).await;
        let endpoint = endpoint.map_err(|status| status.message)?;
        let stream = dial::connect(&endpoint).await?;
        let name = format!("{}.{}.svc", remote.service, remote.namespace);
        let name = ServerName::try_from(name).map_err(|error| error.to_string())?;
        let connector = TlsConnector::from(remote.tls.clone()?);
        connector.connect(name, stream).await.map_err(|error| dial::reason(&error))
    }

    /// Answers with whatever the other server answers.
    pub async fn pass(&self, remote: &Remote, user: &UserInfo, mut request: Request<Body>) -> Result<Response, Status> {
        if !remote.available {
            return Ok(unavailable("service unavailable"));
        }
        let io = match self.connect(remote).await {
            Ok(io) => io,
            Err(why) => {
                tracing::warn!(apiservice = remote.name, why, "an aggregated API could not be reached");
                return Ok(unavailable("service unavailable"));
            }
        };
        let authority = format!("{}.{}.svc", remote.service, remote.namespace);
        let path = request.uri().path_and_query().map_or("/", |path| path.as_str()).to_owned();
        let client = tunnel::wants_upgrade(request.headers()).then(|| hyper::upgrade::on(&mut request));
        let (parts, body) = request.into_parts();
        let forward = tunnel::forwarded(&parts.method, &path, &authority, &parts.headers)?;
        let mut forward = forward.body(body).map_err(Status::internal_error)?;
        name_user(forward.headers_mut(), user);
        tunnel::pass(io, forward, client).await
    }
}

/// Replaces whatever the client said of itself by who it is.
pub(super) fn name_user(headers: &mut http::HeaderMap, user: &UserInfo) {
    let own: Vec<HeaderName> = headers.keys().filter(|name| name.as_str().starts_with("x-remote-")).cloned().collect();
    for name in own {
        headers.remove(name);
    }
    let mut add = |name: &str, value: &str| {
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::from_str(value)) {
            headers.append(name, value);
        }
    };
    add("x-remote-user", &user.name);
    if !user.uid.is_empty() {
        add("x-remote-uid", &user.uid);
    }
    for group in &user.groups {
        add("x-remote-group", group);
    }
    for (key, values) in &user.extra {
        let name =
            format!("x-remote-extra-{}", utf8_percent_encode(&key.to_lowercase(), IN_NAME).to_string().to_lowercase());
        for value in values {
            add(&name, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_server_says_who_asks() {
        let mut headers = http::HeaderMap::new();
        headers.insert("x-remote-group", HeaderValue::from_static("system:masters"));
        let mut user = UserInfo { name: "alice".into(), groups: vec!["a".into(), "b".into()], ..UserInfo::default() };
        user.extra.insert("example.com/Key".into(), vec!["v".into()]);
        name_user(&mut headers, &user);
        assert_eq!(headers["x-remote-user"], "alice");
        assert_eq!(headers.get_all("x-remote-group").iter().collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(headers["x-remote-extra-example.com%2fkey"], "v");
    }
}
