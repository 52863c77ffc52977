//! One HTTP request to a container, for probes and hooks: no proxy, no verification of certificates, no connection kept.

use http_body_util::{BodyExt, Empty, Limited};
use hyper::Request;
use hyper_util::rt::TokioIo;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, SignatureScheme};
use std::sync::{Arc, LazyLock};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

/// Most of a body that is read.
const MAX_BODY: usize = 10 << 10;
const MAX_REDIRECTS: usize = 10;

/// Where a request goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// TLS or not.
    pub tls: bool,
    /// Address or name.
    pub host: String,
    /// Port.
    pub port: u16,
    /// Path and query.
    pub path: String,
    /// Headers.
    pub headers: Vec<(String, String)>,
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Status code.
    pub status: u16,
    /// The start of the body.
    pub body: String,
    /// A redirect that led to another host and was not followed.
    pub redirected_away: bool,
}

impl Target {
    fn url(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        format!("{}://{host}:{}{}", if self.tls { "https" } else { "http" }, self.port, self.path)
    }
}

/// Sends a GET, following redirects within the host. The error is in the words of Go's client.
pub async fn get(target: &Target, timeout: Duration) -> Result<Answer, String> {
    let url = target.url();
    match tokio::time::timeout(timeout, follow(target.clone())).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(format!("Get \"{url}\": {error}")),
        Err(_) => {
            Err(format!("Get \"{url}\": context deadline exceeded (Client.Timeout exceeded while awaiting headers)"))
        }
    }
}

async fn follow(mut target: Target) -> Result<Answer, String> {
    for _ in 0..=MAX_REDIRECTS {
        let (answer, location) = once(&target).await?;
        let Some(location) = location.filter(|_| (300..400).contains(&answer.status)) else { return Ok(answer) };
        match redirect(&target, &location) {
            Some(next) => target = next,
            None => return Ok(Answer { redirected_away: true, ..answer }),
        }
    }
    Err(format!("stopped after {MAX_REDIRECTS} redirects"))
}

/// The target of a redirect, if it is on the same host.
fn redirect(from: &Target, location: &str) -> Option<Target> {
    let mut next = from.clone();
    let rest = if let Some(rest) = location.strip_prefix("https://") {
        next.tls = true;
        rest
    } else if let Some(rest) = location.strip_prefix("http://") {
        next.tls = false;
        rest
    } else {
        next.path = if location.starts_with('/') { location.to_string() } else { format!("/{location}") };
        return Some(next);
    };
    let (authority, path) = rest.split_once('/').map_or((rest, String::from("/")), |(a, p)| (a, format!("/{p}")));
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, port.parse().ok()?),
        _ => (authority, if next.tls { 443 } else { 80 }),
    };
    let host = host.trim_matches(['[', ']']);
    if host != from.host {
        return None;
    }
    next.port = port;
    next.path = path;
    Some(next)
}

async fn once(target: &Target) -> Result<(Answer, Option<String>), String> {
    let stream = connect(&target.host, target.port).await?;
    if target.tls {
        let name = ServerName::try_from(target.host.clone()).map_err(|e| e.to_string())?;
        let stream = tokio_rustls::TlsConnector::from(ANY_CERTIFICATE.clone())
            .connect(name, stream)
            .await
            .map_err(|e| e.to_string())?;
        send(target, stream).await
    } else {
        send(target, stream).await
    }
}

/// Connects; the error names the address as Go does.
pub async fn connect(host: &str, port: u16) -> Result<TcpStream, String> {
    let shown = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
    TcpStream::connect((host, port)).await.map_err(|error| {
        let why = match error.kind() {
            std::io::ErrorKind::ConnectionRefused => "connect: connection refused".to_string(),
            std::io::ErrorKind::TimedOut => "i/o timeout".to_string(),
            std::io::ErrorKind::HostUnreachable => "connect: no route to host".to_string(),
            _ => error.to_string(),
        };
        format!("dial tcp {shown}: {why}")
    })
}

async fn send(
    target: &Target,
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
) -> Result<(Answer, Option<String>), String> {
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| e.to_string())?;
    let driver = tokio::spawn(connection);
    let mut request = Request::get(&target.path);
    let has = |name: &str| target.headers.iter().any(|(n, _)| n.eq_ignore_ascii_case(name));
    if !has("host") {
        let host = if target.host.contains(':') { format!("[{}]", target.host) } else { target.host.clone() };
        request = request.header("Host", format!("{host}:{}", target.port));
    }
    if !has("user-agent") {
        request = request.header("User-Agent", "kube-probe/1.36");
    }
    if !has("accept") {
        request = request.header("Accept", "*/*");
    }
    request = request.header("Connection", "close");
    for (name, value) in target.headers.iter().filter(|(_, v)| !v.is_empty()) {
        request = request.header(name, value);
    }
    let request = request.body(Empty::<bytes::Bytes>::new()).map_err(|e| e.to_string())?;
    let result = async {
        let response = sender
            .send_request(request)
            .await
            .map_err(|e| if e.is_incomplete_message() { "EOF".into() } else { e.to_string() })?;
        let status = response.status().as_u16();
        let location = response.headers().get("location").and_then(|l| l.to_str().ok()).map(str::to_string);
        let body =
            Limited::new(response.into_body(), MAX_BODY).collect().await.map(|b| b.to_bytes()).unwrap_or_default();
        let body = String::from_utf8_lossy(&body).into_owned();
        Ok((Answer { status, body, redirected_away: false }, location))
    }
    .await;
    driver.abort();
    result
}

static ANY_CERTIFICATE: LazyLock<Arc<rustls::ClientConfig>> = LazyLock::new(|| {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .expect("ring has the default protocol versions")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
        .with_no_client_auth();
    Arc::new(config)
});

/// Probes check that something answers, not who: containers' certificates are their own.
#[derive(Debug)]
struct AnyCertificate(Arc<rustls::crypto::CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_stay_on_their_host() {
        let from = Target { tls: false, host: "10.0.0.1".into(), port: 80, path: "/a".into(), headers: Vec::new() };
        assert_eq!(redirect(&from, "/b").unwrap().path, "/b");
        assert_eq!(redirect(&from, "https://10.0.0.1/c").unwrap().port, 443);
        assert!(redirect(&from, "http://169.254.169.254/latest").is_none());
    }
}
