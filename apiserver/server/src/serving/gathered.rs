//! Writes of one connection, put together before they are encrypted. Owns what was written and not yet handed to TLS; does not
//! know what is written.
//!
//! HTTP/2 flushes each of its frames, 9 bytes and up to 16 KiB: alone, such a frame is two TLS records (the second of 9 bytes) and
//! a system call, on both sides of the connection. So a flush by the protocol only promises that all is written once the
//! connection's task was polled to the end, and [`Writes::poll_flush`], which that task calls then, keeps the promise.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// So much is gathered at most: four whole TLS records.
const GATHERED: usize = 64 << 10;

/// A buffer beyond this is given back when it is empty, so that idle connections stay small.
const KEPT: usize = 4 << 10;

struct State<S> {
    stream: S,
    gather: bool,
    buffer: Vec<u8>,
    /// How much of the buffer the stream has taken.
    taken: usize,
}

impl<S: AsyncWrite + Unpin> State<S> {
    /// Until the stream has taken the buffer; then it is empty.
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.taken < self.buffer.len() {
            match ready!(Pin::new(&mut self.stream).poll_write(cx, &self.buffer[self.taken..]))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                taken => self.taken += taken,
            }
        }
        self.buffer.clear();
        self.taken = 0;
        Poll::Ready(Ok(()))
    }

    /// Until the buffer has room.
    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.buffer.len() < GATHERED { Poll::Ready(Ok(())) } else { self.poll_drain(cx) }
    }

    fn take(&mut self, bytes: &[u8]) -> usize {
        let taken = bytes.len().min(GATHERED.saturating_sub(self.buffer.len()));
        self.buffer.extend_from_slice(&bytes[..taken]);
        taken
    }
}

/// What the protocol reads from and writes to.
pub struct Gathered<S>(Arc<Mutex<State<S>>>);

/// The other end of a [`Gathered`], for the task that polls the protocol.
pub struct Writes<S>(Arc<Mutex<State<S>>>);

/// With `gather` false all is passed on as it comes: for protocols that hand the stream to others.
pub fn gathered<S>(stream: S, gather: bool) -> (Gathered<S>, Writes<S>) {
    let state = Arc::new(Mutex::new(State { stream, gather, buffer: Vec::new(), taken: 0 }));
    (Gathered(state.clone()), Writes(state))
}

fn lock<S>(state: &Mutex<State<S>>) -> MutexGuard<'_, State<S>> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<S: AsyncWrite + Unpin> Writes<S> {
    /// Writes what was gathered. To be called after each poll of the protocol, by the same task.
    pub fn poll_flush(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut state = lock(&self.0);
        if !state.gather {
            return Poll::Ready(Ok(()));
        }
        ready!(state.poll_drain(cx))?;
        if state.buffer.capacity() > KEPT {
            state.buffer = Vec::new();
        }
        Pin::new(&mut state.stream).poll_flush(cx)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Gathered<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut lock(&self.0).stream).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Gathered<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let mut state = lock(&self.0);
        if !state.gather {
            return Pin::new(&mut state.stream).poll_write(cx, bytes);
        }
        ready!(state.poll_room(cx))?;
        Poll::Ready(Ok(state.take(bytes)))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut state = lock(&self.0);
        if state.gather { Poll::Ready(Ok(())) } else { Pin::new(&mut state.stream).poll_flush(cx) }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut state = lock(&self.0);
        ready!(state.poll_drain(cx))?;
        Pin::new(&mut state.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut state = lock(&self.0);
        if !state.gather {
            return Pin::new(&mut state.stream).poll_write_vectored(cx, slices);
        }
        ready!(state.poll_room(cx))?;
        Poll::Ready(Ok(slices.iter().map(|slice| state.take(slice)).sum()))
    }

    fn is_write_vectored(&self) -> bool {
        let state = lock(&self.0);
        state.gather || state.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::task::Waker;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    fn context() -> Context<'static> {
        Context::from_waker(Waker::noop())
    }

    /// Each write that the stream saw.
    #[derive(Default)]
    struct Recorded(Vec<Vec<u8>>);

    impl AsyncWrite for Recorded {
        fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            self.0.push(bytes.to_vec());
            Poll::Ready(Ok(bytes.len()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[tokio::test]
    async fn flushed_writes_go_out_together_when_the_task_says_so() {
        let (mut stream, writes) = gathered(Recorded::default(), true);
        for text in ["frame one", "frame two"] {
            stream.write_all(text.as_bytes()).await.unwrap();
            stream.flush().await.unwrap();
        }
        assert!(lock(&writes.0).stream.0.is_empty());
        assert!(writes.poll_flush(&mut context()).is_ready());
        assert_eq!(lock(&writes.0).stream.0, [b"frame oneframe two".to_vec()]);
    }

    #[tokio::test]
    async fn without_gathering_each_write_goes_out_at_once() {
        let (mut stream, writes) = gathered(Recorded::default(), false);
        stream.write_all(b"one").await.unwrap();
        stream.write_all(b"two").await.unwrap();
        assert_eq!(lock(&writes.0).stream.0, [b"one".to_vec(), b"two".to_vec()]);
    }

    #[tokio::test]
    async fn a_shutdown_writes_what_was_gathered_first() {
        let (mut stream, writes) = gathered(Recorded::default(), true);
        stream.write_all(b"goodbye").await.unwrap();
        stream.shutdown().await.unwrap();
        assert_eq!(lock(&writes.0).stream.0, [b"goodbye".to_vec()]);
    }

    #[tokio::test]
    async fn no_more_is_gathered_than_fits_and_nothing_is_lost_or_changed() {
        let (client, mut server) = tokio::io::duplex(1000);
        let (mut stream, writes) = gathered(client, true);
        let sent: Vec<u8> = (0..5 * GATHERED / 2).map(|i| (i % 251) as u8).collect();
        let mut next = 0;
        // Nobody reads: what is taken is bounded.
        while let Poll::Ready(taken) = Pin::new(&mut stream).poll_write(&mut context(), &sent[next..]) {
            next += taken.unwrap();
        }
        assert!(next <= GATHERED + 1000, "{next}");
        let writing = async {
            while next < sent.len() {
                let slices = [IoSlice::new(&sent[next..next + 1]), IoSlice::new(&sent[next + 1..])];
                next +=
                    std::future::poll_fn(|cx| Pin::new(&mut stream).poll_write_vectored(cx, &slices)).await.unwrap();
            }
            std::future::poll_fn(|cx| writes.poll_flush(cx)).await.unwrap();
            assert_eq!(lock(&writes.0).buffer.capacity(), 0, "the buffer is given back");
        };
        let mut received = vec![0; sent.len()];
        let (read, ()) = tokio::join!(server.read_exact(&mut received), writing);
        read.unwrap();
        assert!(received == sent);
    }
}
