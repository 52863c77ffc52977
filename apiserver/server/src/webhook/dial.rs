//! TCP connections to webhooks, for the pooled client: a service's name is resolved each time, so that a new connection
//! goes to an endpoint that is there now.

use std::error::Error;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::Uri;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::resolve::Resolver;

const CONNECT: Duration = Duration::from_secs(30);

/// Connects to the host of a URL, or to the service that the client is for.
#[derive(Clone)]
pub struct Dialer {
    pub resolver: Arc<Resolver>,
    /// Namespace and name.
    pub service: Option<(String, String)>,
}

#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct DialError(String);

type Dialing = Pin<Box<dyn Future<Output = Result<TokioIo<TcpStream>, DialError>> + Send>>;

impl tower::Service<Uri> for Dialer {
    type Response = TokioIo<TcpStream>;
    type Error = DialError;
    type Future = Dialing;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), DialError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Dialing {
        let dialer = self.clone();
        Box::pin(async move { dialer.dial(&uri).await.map(TokioIo::new) })
    }
}

impl Dialer {
    async fn dial(&self, uri: &Uri) -> Result<TcpStream, DialError> {
        let port = uri.port_u16().unwrap_or(if uri.scheme_str() == Some("http") { 80 } else { 443 });
        let authority = match &self.service {
            Some((namespace, name)) => {
                self.resolver.endpoint(namespace, name, port).await.map_err(|status| DialError(status.message))?
            }
            None => format!("{}:{port}", uri.host().unwrap_or_default()),
        };
        connect(&authority).await.map_err(DialError)
    }
}

/// A connection to `host:port`, or why there is none, as Go words it.
pub async fn connect(authority: &str) -> Result<TcpStream, String> {
    let failed = |why: &dyn std::fmt::Display| format!("dial tcp {authority}: {why}");
    match tokio::time::timeout(CONNECT, TcpStream::connect(authority)).await {
        Ok(Ok(stream)) => {
            let _ = stream.set_nodelay(true);
            Ok(stream)
        }
        Ok(Err(error)) if error.kind() == std::io::ErrorKind::ConnectionRefused => {
            Err(failed(&"connect: connection refused"))
        }
        Ok(Err(error)) => Err(failed(&error)),
        Err(_) => Err(failed(&"i/o timeout")),
    }
}

/// What went wrong at the bottom of a client's error, in Go's words where clients may know them.
pub fn reason(error: &(dyn Error + 'static)) -> String {
    let mut at = Some(error);
    let mut last = error.to_string();
    while let Some(error) = at {
        if let Some(dial) = error.downcast_ref::<DialError>() {
            return dial.0.clone();
        }
        if let Some(tls) = error.downcast_ref::<rustls::Error>() {
            return go_tls(tls);
        }
        // An io::Error that wraps another shows that one as its own, not as its source.
        let inner = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        last = error.to_string();
        at = match inner {
            Some(inner) => Some(inner),
            None => error.source(),
        };
    }
    if last.contains("connection closed before message completed") { "EOF".into() } else { last }
}

fn go_tls(error: &rustls::Error) -> String {
    use rustls::CertificateError as Certificate;
    let rustls::Error::InvalidCertificate(certificate) = error else { return format!("tls: {error}") };
    let why = match certificate {
        Certificate::UnknownIssuer => "certificate signed by unknown authority".to_owned(),
        Certificate::Expired | Certificate::ExpiredContext { .. } => {
            "certificate has expired or is not yet valid".to_owned()
        }
        Certificate::NotValidForName => "certificate is not valid for the name".to_owned(),
        Certificate::NotValidForNameContext { expected, presented } => {
            // rustls shows them as `DnsName("a.b")`.
            let names: Vec<&str> = presented.iter().filter_map(|name| name.split('"').nth(1)).collect();
            format!("certificate is valid for {}, not {}", names.join(", "), expected.to_str())
        }
        other => other.to_string(),
    };
    format!("tls: failed to verify certificate: x509: {why}")
}
