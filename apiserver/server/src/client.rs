//! A `kube::Client` over the server as a tower service: no socket and no TLS, the same authorization and admission.

use std::sync::Arc;

use axum::body::Body;
use http::header::{Entry, USER_AGENT};
use http::{HeaderValue, Request};
use kube::client::Body as KubeBody;
use tower::ServiceExt;

use crate::request::UserInfo;
use crate::server::{LocalUser, Server};

impl Server {
    /// A client that acts as `user`.
    pub fn client(self: &Arc<Self>, user: UserInfo) -> kube::Client {
        let program = HeaderValue::from_str(program(&user.name)).unwrap_or(HeaderValue::from_static("skeg"));
        let service = self.service().map_request(move |request: Request<KubeBody>| {
            let mut request = request.map(Body::new);
            // Who writes is told by the program, as upstream's components tell it.
            if let Entry::Vacant(agent) = request.headers_mut().entry(USER_AGENT) {
                agent.insert(program.clone());
            }
            request.extensions_mut().insert(LocalUser(user.clone()));
            request
        });
        kube::Client::new(service, "default")
    }
}

/// The program that acts as a user of the control plane or as a node.
fn program(user: &str) -> &str {
    match user.strip_prefix("system:") {
        Some(node) if node.starts_with("node:") => "kubelet",
        Some(component) => component,
        None => "skeg",
    }
}

#[cfg(test)]
mod tests {
    use super::program;

    #[test]
    fn writes_are_told_by_the_program_as_upstream_names_it() {
        assert_eq!(program("system:kube-controller-manager"), "kube-controller-manager");
        assert_eq!(program("system:node:a"), "kubelet");
        assert_eq!(program("alice"), "skeg");
    }
}
