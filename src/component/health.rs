//! The port of a component that serves nothing else: whether it lives. Metrics are not served.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use anyhow::Context;
use http::StatusCode;
use skeg_server::pki::{Authority, Profile};
use skeg_server::serving;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::service_fn;

use super::CertificateFiles;
use super::flags::Given;

/// Serves `/healthz`, `/livez` and `/readyz` at `--bind-address` and `--secure-port`, which may be 0 for none.
pub async fn serve_health(
    given: &Given,
    component: &str,
    default_port: u16,
    tasks: &TaskTracker,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    let bind = given.address("bind-address")?.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
    let port = given.number("secure-port")?.unwrap_or(default_port);
    if port == 0 {
        return Ok(());
    }
    let issued = match CertificateFiles::of(given, "tls-cert-file", "tls-private-key-file")? {
        Some(files) => files.read()?,
        None => {
            let names = ["localhost".to_owned()];
            let profile = Profile::server(component, &names, &[IpAddr::from([127, 0, 0, 1])]);
            Authority::create(&format!("{component}-ca"))?.issue(&profile)?
        }
    };
    let address = SocketAddr::new(bind, port);
    let listener = serving::listen(address).await;
    let listener =
        listener.with_context(|| format!("failed to listen on {address}: --secure-port chooses another port"))?;
    let tls = serving::tls::live_config(&issued, &[])?;
    let service = service_fn(|request: http::Request<axum_core::body::Body>| async move {
        let (code, text) = answer(request.uri().path());
        let mut response = http::Response::new(axum_core::body::Body::from(text));
        *response.status_mut() = code;
        Ok::<_, std::convert::Infallible>(response)
    });
    tasks.spawn(serving::serve(listener, tls, service, serving::Limits::default(), stop.clone()));
    Ok(())
}

fn answer(path: &str) -> (StatusCode, &'static str) {
    let first = path.split('/').nth(1).unwrap_or_default();
    match first {
        "healthz" | "livez" | "readyz" => (StatusCode::OK, "ok"),
        _ => (StatusCode::NOT_FOUND, "404 page not found\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_health_is_answered() {
        for (path, code) in [("/healthz", 200), ("/livez", 200), ("/readyz/ping", 200), ("/metrics", 404), ("/", 404)] {
            assert_eq!(answer(path).0.as_u16(), code, "{path}");
        }
    }
}
