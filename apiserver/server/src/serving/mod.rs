//! The TLS listener: from a TCP port to a tower service. Owns handshakes, limits and draining. Does not know what is served.
//!
//! ```text
//! accept ─ permit ─ TLS handshake (10 s) ─ ALPN h2 | http/1.1 ─ greeting and headers (32 s) ─ requests, each with Extension(Arc<Peer>)
//! cancelled: no more accepts; each connection ends after the requests it has; what is left after `drain` is cut off
//! ```

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use axum::body::Body;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::{Service, ServiceExt};

use self::gathered::Writes;
use self::tls::LiveConfig;
use crate::authn::Peer;

mod gathered;
mod greeting;
pub mod tls;

#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error("listen on {address}")]
    Listen {
        address: SocketAddr,
        #[source]
        source: std::io::Error,
    },
    #[error("serving certificate")]
    Tls(#[source] rustls::Error),
}

#[derive(Clone, Debug)]
pub struct Limits {
    pub connections: usize,
    pub handshake: Duration,
    /// How long a client may take to send the head of a request (HTTP/1.1).
    pub header: Duration,
    /// Requests at once on one HTTP/2 connection.
    pub streams: u32,
    /// How long requests may go on after the end was asked for.
    pub drain: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            connections: 10_000,
            handshake: Duration::from_secs(10),
            header: Duration::from_secs(32),
            streams: 250,
            drain: Duration::from_secs(10),
        }
    }
}

/// Where a request came from.
#[derive(Clone, Copy, Debug)]
pub struct RemoteAddress(pub SocketAddr);

/// Binds, so that a port that is taken is known before anything else starts.
pub async fn listen(address: SocketAddr) -> Result<TcpListener, ServeError> {
    TcpListener::bind(address).await.map_err(|source| ServeError::Listen { address, source })
}

/// Serves until `shutdown`, then drains.
pub async fn serve<S>(
    listener: TcpListener,
    config: LiveConfig,
    service: S,
    limits: Limits,
    shutdown: CancellationToken,
) where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
{
    let permits = Arc::new(Semaphore::new(limits.connections));
    let connections = TaskTracker::new();
    let cut_off = CancellationToken::new();
    loop {
        let permit = tokio::select! {
            permit = permits.clone().acquire_owned() => permit.expect("the semaphore is never closed"),
            () = shutdown.cancelled() => break,
        };
        let (stream, address) = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Out of descriptors, or the client is gone already: neither ends the server.
                    tracing::warn!(%error, "accept failed");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            },
            () = shutdown.cancelled() => break,
        };
        let connection = Connection {
            acceptor: TlsAcceptor::from(config.load_full()),
            service: service.clone(),
            limits: limits.clone(),
            shutdown: shutdown.clone(),
            address,
        };
        let cut_off = cut_off.clone();
        connections.spawn(async move {
            tokio::select! {
                () = connection.run(stream) => {}
                () = cut_off.cancelled() => {}
            }
            drop(permit);
        });
    }
    drop(listener);
    connections.close();
    if tokio::time::timeout(limits.drain, connections.wait()).await.is_err() {
        cut_off.cancel();
        connections.wait().await;
    }
}

struct Connection<S> {
    acceptor: TlsAcceptor,
    service: S,
    limits: Limits,
    shutdown: CancellationToken,
    address: SocketAddr,
}

impl<S> Connection<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
{
    async fn run(self, stream: TcpStream) {
        let _ = stream.set_nodelay(true);
        let address = self.address;
        let stream = match tokio::time::timeout(self.limits.handshake, self.acceptor.accept(stream)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return tracing::debug!(%address, %error, "TLS handshake error"),
            Err(_) => return tracing::debug!(%address, "TLS handshake timed out"),
        };
        let certificates = stream.get_ref().1.peer_certificates().unwrap_or_default();
        let peer = Arc::new(Peer::new(certificates.iter().map(|c| c.clone().into_owned()).collect()));
        // Of HTTP/1.1, an upgraded connection goes on in other tasks than ours.
        let gather = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        self.serve(stream, gather, peer).await;
    }

    async fn serve(self, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, gather: bool, peer: Arc<Peer>) {
        let (address, service) = (RemoteAddress(self.address), self.service.clone());
        let service = hyper::service::service_fn(move |request: Request<Incoming>| {
            let mut request = request.map(Body::new);
            request.extensions_mut().insert(peer.clone());
            request.extensions_mut().insert(address);
            service.clone().oneshot(request)
        });
        let (stream, writes) = gathered::gathered(stream, gather);
        let greeted = greeting::Greeted::new(stream, self.limits.header);
        let builder = builder(&self.limits);
        let mut connection = pin!(builder.serve_connection_with_upgrades(TokioIo::new(greeted), service));
        let ended = tokio::select! {
            ended = flushing(connection.as_mut(), &writes) => ended,
            () = self.shutdown.cancelled() => {
                connection.as_mut().graceful_shutdown();
                flushing(connection.as_mut(), &writes).await
            }
        };
        if let Err(error) = ended {
            tracing::debug!(address = %self.address, %error, "connection ended with an error");
        }
    }
}

/// The connection, with what it writes handed on after each time that it was polled.
async fn flushing<C, E, S>(mut connection: Pin<&mut C>, writes: &Writes<S>) -> Result<(), E>
where
    C: Future<Output = Result<(), E>>,
    E: From<std::io::Error>,
    S: AsyncWrite + Unpin,
{
    std::future::poll_fn(|cx| {
        let polled = connection.as_mut().poll(cx);
        match writes.poll_flush(cx) {
            Poll::Ready(Err(error)) if polled.is_pending() => Poll::Ready(Err(error.into())),
            _ => polled,
        }
    })
    .await
}

fn builder(limits: &Limits) -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(limits.header);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.streams)
        // A client that opens and resets streams without end (CVE-2023-44487) is cut off.
        .max_pending_accept_reset_streams(Some(20))
        .max_local_error_reset_streams(Some(256))
        .max_header_list_size(1 << 20)
        .initial_stream_window_size(256 << 10)
        .initial_connection_window_size(1 << 20)
        .max_frame_size(64 << 10)
        .max_send_buf_size(256 << 10)
        .keep_alive_interval(Some(Duration::from_secs(30)))
        .keep_alive_timeout(Duration::from_secs(20));
    builder
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pki::{Authority, Issued, Profile};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    struct Running {
        address: SocketAddr,
        ca: Authority,
        config: LiveConfig,
        shutdown: CancellationToken,
        task: tokio::task::JoinHandle<()>,
    }

    /// Answers with the number of certificates that the client showed; `/slow` after 200 ms.
    async fn start(limits: Limits) -> Running {
        let ca = Authority::create("ca").unwrap();
        let serving = ca.issue(&Profile::server("s", &["localhost".into()], &["127.0.0.1".parse().unwrap()])).unwrap();
        let config = tls::live_config(&serving, &[ca.certificate_der()]).unwrap();
        let listener = listen("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = listener.local_addr().unwrap();
        let shutdown = CancellationToken::new();
        let service = tower::service_fn(|request: Request<Body>| async move {
            if request.uri().path() == "/slow" {
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
            let peer = request.extensions().get::<Arc<Peer>>().expect("the listener adds the peer");
            Ok::<_, Infallible>(Response::new(Body::from(peer.certificates.len().to_string())))
        });
        let task = tokio::spawn(serve(listener, config.clone(), service, limits, shutdown.clone()));
        Running { address, ca, config, shutdown, task }
    }

    async fn get(running: &Running, path: &str, client: Option<Issued>) -> Result<String, String> {
        let config = tls::client_config(&[running.ca.certificate_der()], client.as_ref()).unwrap();
        let stream = TcpStream::connect(running.address).await.map_err(|e| e.to_string())?;
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        let name = rustls_pki_types::ServerName::try_from("localhost").unwrap();
        let mut stream = connector.connect(name, stream).await.map_err(|e| e.to_string())?;
        let head = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        stream.write_all(head.as_bytes()).await.map_err(|e| e.to_string())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.map_err(|e| e.to_string())?;
        Ok(answer)
    }

    #[tokio::test]
    async fn a_client_may_come_with_a_certificate_or_without_one() {
        let running = start(Limits::default()).await;
        assert!(get(&running, "/", None).await.unwrap().ends_with("\r\n0"));
        let alice = running.ca.issue(&Profile::client("alice", &[])).unwrap();
        assert!(get(&running, "/", Some(alice)).await.unwrap().ends_with("\r\n1"));
        // A certificate of another authority passes TLS too: authentication refuses it, with a Status.
        let eve = Authority::create("ca").unwrap().issue(&Profile::client("eve", &[])).unwrap();
        assert!(get(&running, "/", Some(eve)).await.unwrap().ends_with("\r\n1"));
        running.shutdown.cancel();
        running.task.await.unwrap();
    }

    /// The certificate that a new connection is shown.
    async fn shown(running: &Running) -> Vec<u8> {
        let stream = connect(running, b"h2").await;
        stream.get_ref().1.peer_certificates().unwrap()[0].to_vec()
    }

    #[tokio::test]
    async fn another_certificate_is_shown_from_the_next_handshake_on() {
        let running = start(Limits::default()).await;
        let mut open = connect(&running, b"http/1.1").await;
        let old = shown(&running).await;
        let names = ["localhost".to_owned()];
        let new = running.ca.issue(&Profile::server("s", &names, &["127.0.0.1".parse().unwrap()])).unwrap();
        running.config.store(Arc::new(tls::server_config(&new, &[running.ca.certificate_der()]).unwrap()));
        assert_ne!(old, new.certificate_der().to_vec());
        assert_eq!(shown(&running).await, new.certificate_der().to_vec());
        // A connection from before goes on.
        open.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        open.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        running.shutdown.cancel();
        running.task.await.unwrap();
    }

    #[tokio::test]
    async fn shutdown_lets_a_request_finish_and_takes_no_more() {
        let running = start(Limits::default()).await;
        let (answer, ()) = tokio::join!(get(&running, "/slow", None), async {
            tokio::time::sleep(Duration::from_millis(80)).await;
            running.shutdown.cancel();
        });
        assert!(answer.unwrap().starts_with("HTTP/1.1 200"));
        assert!(get(&running, "/", None).await.is_err());
        running.task.await.unwrap();
    }

    #[tokio::test]
    async fn a_handshake_that_stalls_is_hung_up_on() {
        let running = start(Limits { handshake: Duration::from_millis(50), ..Limits::default() }).await;
        // Nothing at all, and the first bytes of a ClientHello of 512.
        for said in [&b""[..], b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"] {
            let mut silent = TcpStream::connect(running.address).await.unwrap();
            silent.write_all(said).await.unwrap();
            let mut buffer = [0; 16];
            let ended = tokio::time::timeout(Duration::from_secs(20), silent.read(&mut buffer)).await;
            assert!(matches!(ended, Ok(Ok(0) | Err(_))), "after {} bytes: {ended:?}", said.len());
        }
        running.shutdown.cancel();
        running.task.await.unwrap();
    }

    /// A connection past its handshake, on which nothing was said yet.
    async fn connect(running: &Running, protocol: &[u8]) -> tokio_rustls::client::TlsStream<TcpStream> {
        let mut config = tls::client_config(&[running.ca.certificate_der()], None).unwrap();
        config.alpn_protocols = vec![protocol.to_vec()];
        let stream = TcpStream::connect(running.address).await.unwrap();
        let name = rustls_pki_types::ServerName::try_from("localhost").unwrap();
        tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap()
    }

    #[tokio::test]
    async fn slow_headers_are_hung_up_on() {
        let running = start(Limits { header: Duration::from_millis(100), ..Limits::default() }).await;
        let greetings: [(&[u8], &[u8]); 5] = [
            (b"http/1.1", b""),
            (b"h2", b""),
            (b"h2", b"PRI * HT"),
            (b"http/1.1", b"PUT"),
            (b"http/1.1", b"GET / HTTP/1.1\r\nHost: localhost\r\nX: "),
        ];
        for (protocol, said) in greetings {
            let mut stream = connect(&running, protocol).await;
            stream.write_all(said).await.unwrap();
            stream.flush().await.unwrap();
            let ended = tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut Vec::new())).await;
            assert!(ended.is_ok(), "{:?} is waited for", String::from_utf8_lossy(said));
        }
        running.shutdown.cancel();
        running.task.await.unwrap();
    }

    #[tokio::test]
    async fn a_flood_of_resets_is_cut_off() {
        let running = start(Limits::default()).await;
        let stream = connect(&running, b"h2").await;
        // The preface, empty settings, then streams that are opened and reset at once: HEADERS (GET / by the static table) and
        // RST_STREAM with CANCEL.
        let mut said = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec();
        for stream in (1_u32..40_000).step_by(2) {
            said.extend([0, 0, 14, 1, 5]);
            said.extend(stream.to_be_bytes());
            said.extend([0x82, 0x87, 0x84, 0x41, 9]);
            said.extend(b"localhost");
            said.extend([0, 0, 4, 3, 0]);
            said.extend(stream.to_be_bytes());
            said.extend([0, 0, 0, 8]);
        }
        let (mut read, mut write) = tokio::io::split(stream);
        let writing = tokio::spawn(async move { write.write_all(&said).await });
        let mut answer = Vec::new();
        let ended = tokio::time::timeout(Duration::from_secs(60), read.read_to_end(&mut answer)).await;
        assert!(ended.is_ok(), "the connection goes on");
        // GOAWAY with ENHANCE_YOUR_CALM.
        let calm = answer.windows(17).any(|frame| frame[3] == 7 && frame[13..17] == [0, 0, 0, 11]);
        assert!(calm, "no GOAWAY in {} bytes", answer.len());
        writing.abort();
        assert!(get(&running, "/", None).await.unwrap().starts_with("HTTP/1.1 200"));
        running.shutdown.cancel();
        running.task.await.unwrap();
    }

    #[tokio::test]
    async fn both_protocols_are_offered() {
        let running = start(Limits::default()).await;
        let mut config = tls::client_config(&[running.ca.certificate_der()], None).unwrap();
        config.alpn_protocols = vec![b"h2".to_vec()];
        let stream = TcpStream::connect(running.address).await.unwrap();
        let name = rustls_pki_types::ServerName::try_from("localhost").unwrap();
        let stream = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake::<_, _, Body>(TokioExecutor::new(), TokioIo::new(stream))
                .await
                .unwrap();
        tokio::spawn(connection);
        let request = Request::get("https://localhost/").body(Body::empty()).unwrap();
        assert_eq!(sender.send_request(request).await.unwrap().status(), 200);
        running.shutdown.cancel();
    }
}
