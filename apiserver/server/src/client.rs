//! A `kube::Client` over the server as a tower service: no socket and no TLS, the same authorization and admission.

use std::sync::Arc;

use axum::body::Body;
use http::Request;
use kube::client::Body as KubeBody;
use tower::ServiceExt;

use crate::request::UserInfo;
use crate::server::{LocalUser, Server};

impl Server {
    /// A client that acts as `user`.
    pub fn client(self: &Arc<Self>, user: UserInfo) -> kube::Client {
        let service = self.service().map_request(move |request: Request<KubeBody>| {
            let mut request = request.map(Body::new);
            request.extensions_mut().insert(LocalUser(user.clone()));
            request
        });
        kube::Client::new(service, "default")
    }
}
