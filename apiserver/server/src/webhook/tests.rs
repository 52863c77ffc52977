use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::admission::fake::Memory;

/// A server that answers every request with `answer` after `delay`, and the PEM of its certificate, which is its own
/// issuer.
async fn server(name: &str, answer: &'static str, delay: Duration) -> (u16, String) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let issuer = CertifiedIssuer::self_signed(params, key).unwrap();
    let pem = issuer.pem();
    let key = rustls_pki_types::PrivateKeyDer::try_from(issuer.key().serialize_der()).unwrap();
    let config = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![issuer.der().clone()], key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(mut stream) = acceptor.accept(stream).await else { return };
                let mut buffer = [0; 4096];
                if stream.read(&mut buffer).await.unwrap_or(0) > 0 {
                    tokio::time::sleep(delay).await;
                    let _ = stream.write_all(answer.as_bytes()).await;
                }
            });
        }
    });
    (port, pem)
}

fn config(port: u16, pem: &str) -> ClientConfig {
    let service = json!({"namespace": "a", "name": "hook", "path": "/x", "port": 443});
    let mut config = ClientConfig::from_json(&json!({"service": service, "caBundle": STANDARD.encode(pem)}));
    if port == 0 {
        config.target = Target::Url("https://localhost:1/x".to_owned());
    }
    config
}

fn webhooks(port: u16) -> Webhooks {
    let service = json!({"metadata": {"name": "hook", "namespace": "a"}, "spec": {"ports": [{"port": 443}]}});
    let slice = json!({"metadata": {"name": "s", "namespace": "a",
        "labels": {"kubernetes.io/service-name": "hook"}}, "ports": [{"port": port}],
        "endpoints": [{"addresses": ["127.0.0.1"]}]});
    let memory = Memory::with(vec![("", "services", service), ("discovery.k8s.io", "endpointslices", slice)]);
    Webhooks::new(Arc::new(memory))
}

const SECOND: Duration = Duration::from_secs(1);
const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\n{\"a\": 1}";

#[tokio::test]
async fn a_webhook_with_a_self_signed_authority_as_certificate_is_called() {
    let (port, pem) = server("hook.a.svc", OK, Duration::ZERO).await;
    let answer = webhooks(port).call(&config(port, &pem), &json!({}), SECOND).await.unwrap();
    assert_eq!(answer, json!({"a": 1}));
}

#[tokio::test]
async fn failures_are_worded_as_upstream_words_them() {
    const BROKEN: &str = "HTTP/1.1 500 Oops\r\ncontent-length: 3\r\n\r\nbad";
    let post = |why: &str| format!("Post \"https://hook.a.svc:443/x?timeout=1s\": {why}");
    let table = [
        (
            "other.a.svc",
            OK,
            0,
            true,
            post("tls: failed to verify certificate: x509: certificate is valid for other.a.svc, not hook.a.svc"),
        ),
        (
            "hook.a.svc",
            OK,
            0,
            false,
            post("tls: failed to verify certificate: x509: certificate signed by unknown authority"),
        ),
        ("hook.a.svc", OK, 5000, true, post("context deadline exceeded")),
        (
            "hook.a.svc",
            BROKEN,
            0,
            true,
            "an error on the server (\"bad\") has prevented the request from succeeding".to_owned(),
        ),
    ];
    for (name, answer, delay, trusted, wanted) in table {
        let (port, pem) = server(name, answer, Duration::from_millis(delay)).await;
        let pem = if trusted { pem } else { String::new() };
        let error = webhooks(port).call(&config(port, &pem), &json!({}), SECOND).await.unwrap_err();
        assert_eq!(error.to_string(), wanted);
    }
    let error = webhooks(1).call(&config(0, ""), &json!({}), SECOND).await.unwrap_err().to_string();
    assert!(error.ends_with("dial tcp localhost:1: connect: connection refused"), "{error}");
}
