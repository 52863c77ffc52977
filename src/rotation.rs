//! A joined node's certificates over time: each is asked for anew, in the node's own name, when most of its life is over, and
//! taken up without a restart (upstream: client-go/util/certificate, the kubelet's rotateCertificates and serverTLSBootstrap).
//!
//! The node server reads its files when they change. For the client there is one [`kube::Client`] for everybody, which sends each
//! request through the connection of the newest certificate; older connections end with what they still carry.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use skeg_server::pki::renewal::Validity;
use tokio_util::sync::CancellationToken;

use crate::join::Identity;

/// Clocks may be set and machines sleep: nothing is waited for longer than this at once.
const LOOK: Duration = Duration::from_secs(3600);
/// After a failure; the certificate still has a tenth of its life.
const AGAIN: Duration = Duration::from_secs(60);

/// One of a node's two certificates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    Client,
    Serving,
}

/// Which are asked for now: those that cannot be read, and those whose time has come. `spread` is this node's own (0 to 1).
pub fn due(client: Option<Validity>, serving: Option<Validity>, spread: f64, now: i64) -> Vec<Which> {
    let due = |validity: Option<Validity>| validity.is_none_or(|validity| now >= validity.renewal(spread));
    let both = [(Which::Client, due(client)), (Which::Serving, due(serving))];
    both.into_iter().filter_map(|(which, due)| due.then_some(which)).collect()
}

/// A client whose requests go through whatever client is `current`.
pub fn following(current: Arc<ArcSwap<kube::Client>>) -> kube::Client {
    let service = tower::service_fn(move |request: http::Request<kube::client::Body>| {
        let client = kube::Client::clone(&current.load());
        async move { client.send(request).await }
    });
    kube::Client::new(service, "default")
}

/// Keeps both certificates good until `shutdown`.
pub async fn run(identity: Identity, current: Arc<ArcSwap<kube::Client>>, shutdown: CancellationToken) {
    let spread = rand::random::<f64>();
    let mut wait = LOOK;
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(wait) => {}
        }
        wait = match renew(&identity, &current, spread).await {
            Ok(()) => LOOK,
            Err(error) => {
                tracing::warn!("the node's certificates cannot be renewed: {error:#}");
                AGAIN
            }
        };
    }
}

async fn renew(identity: &Identity, current: &ArcSwap<kube::Client>, spread: f64) -> anyhow::Result<()> {
    let now = x509_parser::time::ASN1Time::now().timestamp();
    let (client, serving) = identity.validity();
    for which in due(client, serving, spread, now) {
        identity.ask(which, &current.load_full()).await?;
        if which == Which::Client {
            current.store(Arc::new(identity.connect().await?));
        }
        tracing::info!(?which, "the node has a new certificate");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_certificate_is_asked_for_when_its_time_has_come() {
        let of = |from, until| Some(Validity { from, until });
        let table = [
            ("all is good: nothing is done", of(0, 1000), of(0, 1000), 0.5, 799, vec![]),
            ("both at once", of(0, 1000), of(0, 1000), 0.5, 800, vec![Which::Client, Which::Serving]),
            ("an eager node", of(0, 1000), of(500, 1500), 0.0, 700, vec![Which::Client]),
            ("a patient node", of(0, 1000), of(500, 1500), 1.0, 899, vec![]),
            ("the serving one is older", of(500, 1500), of(0, 1000), 1.0, 900, vec![Which::Serving]),
            ("over already", of(0, 1000), of(0, 9000), 0.5, 2000, vec![Which::Client]),
            ("one cannot be read", None, of(0, 1000), 0.5, 0, vec![Which::Client]),
        ];
        for (name, client, serving, spread, now, wanted) in table {
            assert_eq!(due(client, serving, spread, now), wanted, "{name}");
        }
    }

    /// A client that answers everything with its own name.
    fn answering(name: &'static str) -> kube::Client {
        let service = tower::service_fn(move |_: http::Request<kube::client::Body>| async move {
            Ok::<_, std::convert::Infallible>(http::Response::new(kube::client::Body::from(name.as_bytes().to_vec())))
        });
        kube::Client::new(service, "default")
    }

    #[tokio::test]
    async fn a_request_goes_through_the_newest_client() {
        let current = Arc::new(ArcSwap::from_pointee(answering("old")));
        let client = following(current.clone());
        let ask = async || client.request_text(http::Request::get("/").body(Vec::new()).unwrap()).await.unwrap();
        assert_eq!(ask().await, "old");
        current.store(Arc::new(answering("new")));
        assert_eq!(ask().await, "new");
    }
}
