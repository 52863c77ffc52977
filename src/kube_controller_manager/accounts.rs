//! A service account for each controller (`--use-service-account-credentials`): clients whose token is asked for with the
//! controller manager's own credentials, and asked for again before it ends (upstream:
//! controller-manager/pkg/clientbuilder, an hour's tokens).

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::{HeaderValue, Request, header};
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::Api;
use kube::api::{ObjectMeta, PostParams};
use kube::client::{Body, ClientBuilder};
use skeg_controllers::Accounts;
use tokio::sync::Mutex as AsyncMutex;
use tokio::time::Instant;
use tower::BoxError;
use tower::buffer::BufferLayer;
use tower::filter::{AsyncFilterLayer, AsyncPredicate};

const NAMESPACE: &str = "kube-system";
const VALID: Duration = Duration::from_secs(3600);
/// Requests that may wait for their turn.
const WAITING: usize = 1024;
/// A token is used for this part of its time.
const USED: f64 = 0.8;

/// Clients for the accounts of one cluster.
pub struct ServiceAccounts {
    own: kube::Client,
    /// How the server is reached, without credentials.
    connection: kube::Config,
    known: Mutex<HashMap<String, kube::Client>>,
}

impl ServiceAccounts {
    /// `own` may ask for tokens; `connection` is how it reaches the server.
    pub fn new(own: kube::Client, mut connection: kube::Config) -> anyhow::Result<Self> {
        connection.auth_info = Default::default();
        // So that nothing that is wrong with the connection is found only when a controller starts.
        ClientBuilder::try_from(connection.clone())?;
        Ok(ServiceAccounts { own, connection, known: Mutex::default() })
    }
}

impl Accounts for ServiceAccounts {
    fn client(&self, account: &str) -> kube::Client {
        let mut known = self.known.lock().expect("nothing panics with the clients locked");
        let make = || {
            let token = Token { api: Api::namespaced(self.own.clone(), NAMESPACE), name: account.to_owned() };
            let layer = AsyncFilterLayer::new(Bearer(Arc::new(Source { token, held: AsyncMutex::default() })));
            let builder = ClientBuilder::try_from(self.connection.clone()).expect("it was tried before");
            // What a request goes to may be called from several requests that wait for a token.
            builder.with_layer(&BufferLayer::new(WAITING)).with_layer(&layer).build()
        };
        known.entry(account.to_owned()).or_insert_with(make).clone()
    }
}

/// Puts the token into each request.
#[derive(Clone)]
struct Bearer(Arc<Source>);

impl AsyncPredicate<Request<Body>> for Bearer {
    type Future = std::pin::Pin<Box<dyn Future<Output = Result<Request<Body>, BoxError>> + Send>>;
    type Request = Request<Body>;

    fn check(&mut self, mut request: Request<Body>) -> Self::Future {
        let source = self.0.clone();
        Box::pin(async move {
            request.headers_mut().insert(header::AUTHORIZATION, source.current().await?);
            Ok(request)
        })
    }
}

/// The token in use, and when the next is due.
struct Source {
    token: Token,
    held: AsyncMutex<Option<(HeaderValue, Instant)>>,
}

impl Source {
    async fn current(&self) -> Result<HeaderValue, BoxError> {
        let mut held = self.held.lock().await;
        if let Some((value, until)) = &*held
            && Instant::now() < *until
        {
            return Ok(value.clone());
        }
        let mut value = HeaderValue::try_from(format!("Bearer {}", self.token.request().await?))?;
        value.set_sensitive(true);
        *held = Some((value.clone(), Instant::now() + VALID.mul_f64(USED)));
        Ok(value)
    }
}

struct Token {
    api: Api<ServiceAccount>,
    name: String,
}

impl Token {
    /// A token of the account, which is made if it is not there.
    async fn request(&self) -> kube::Result<String> {
        let spec =
            TokenRequestSpec { expiration_seconds: i64::try_from(VALID.as_secs()).ok(), ..TokenRequestSpec::default() };
        let request = TokenRequest { spec: Some(spec), ..TokenRequest::default() };
        let params = PostParams::default();
        let answer = match self.api.create_token_request(&self.name, &params, &request).await {
            Err(kube::Error::Api(status)) if status.code == 404 => {
                let metadata = ObjectMeta { name: Some(self.name.clone()), ..ObjectMeta::default() };
                let account = ServiceAccount { metadata, ..ServiceAccount::default() };
                match self.api.create(&params, &account).await {
                    Err(kube::Error::Api(status)) if status.code == 409 => {}
                    other => drop(other?),
                }
                self.api.create_token_request(&self.name, &params, &request).await?
            }
            other => other?,
        };
        Ok(answer.status.and_then(|status| status.token).unwrap_or_default())
    }
}
