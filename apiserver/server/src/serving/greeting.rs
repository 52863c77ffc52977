//! A connection that must say in time which protocol it speaks. Owns the time until then; what comes after it, the protocols'
//! own timers watch.
//!
//! Both protocols are offered on one port, so the first bytes are read before either's timers run: a client that sends none, or
//! half of HTTP/2's greeting, would be waited for without end.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

/// How a client begins that speaks HTTP/2.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub struct Greeted<S> {
    stream: S,
    /// How much of the preface came; `None` once it is known what the client speaks.
    greeting: Option<(usize, Pin<Box<Sleep>>)>,
}

impl<S> Greeted<S> {
    pub fn new(stream: S, limit: Duration) -> Self {
        Greeted { stream, greeting: Some((0, Box::pin(tokio::time::sleep(limit)))) }
    }
}

/// How much of the preface there is after these bytes; `None` when it is whole, or cannot be it any more.
fn progress(before: usize, bytes: &[u8]) -> Option<usize> {
    let rest = &PREFACE[before..];
    (bytes.len() < rest.len() && rest.starts_with(bytes)).then_some(before + bytes.len())
}

impl<S: AsyncRead + Unpin> AsyncRead for Greeted<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let Some((before, limit)) = &mut this.greeting else {
            return Pin::new(&mut this.stream).poll_read(cx, buffer);
        };
        if limit.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client did not say what it speaks")));
        }
        let filled = buffer.filled().len();
        ready!(Pin::new(&mut this.stream).poll_read(cx, buffer))?;
        match progress(*before, &buffer.filled()[filled..]) {
            Some(progress) => *before = progress,
            None => this.greeting = None,
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Greeted<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
