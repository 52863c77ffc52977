//! SPDY/3.1 as a client of the kubelet: opens streams, carries their bytes, tells when they end. No server push, no
//! priorities; windows are not kept, as the servers that speak this keep none. The peer's headers are not read.

use std::collections::HashMap;
use std::io;

use bytes::Bytes;
use flate2::{Compress, Compression, FlushCompress};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;

const SYN_STREAM: u16 = 1;
const RST_STREAM: u16 = 3;
const PING: u16 = 6;
const GOAWAY: u16 = 7;
const FIN: u8 = 1;
/// A frame may hold 16 MiB; nothing that we talk to sends near so much.
const LARGEST: usize = 1 << 20;
const WAITING: usize = 64;

/// What is to be sent.
#[derive(Debug)]
enum Out {
    Open { id: u32, headers: Vec<(String, String)>, fin: bool },
    Data { id: u32, data: Bytes, fin: bool },
    Pong(u32),
}

/// One stream's end that reads. Ends when the peer has closed the stream, or reset it, or is gone.
pub struct Receiver(mpsc::Receiver<Bytes>);

impl Receiver {
    pub async fn next(&mut self) -> Option<Bytes> {
        self.0.recv().await
    }
}

/// One stream's end that writes.
#[derive(Clone)]
pub struct Sender {
    id: u32,
    out: mpsc::Sender<Out>,
}

impl Sender {
    /// False: the connection is gone.
    pub async fn send(&self, data: Bytes) -> bool {
        self.out.send(Out::Data { id: self.id, data, fin: false }).await.is_ok()
    }
    /// Says that nothing more will come; what the peer sends is still read.
    pub async fn finish(&self) -> bool {
        self.out.send(Out::Data { id: self.id, data: Bytes::new(), fin: true }).await.is_ok()
    }
}

/// A connection with its streams; dropped, it closes once the streams are dropped too.
pub struct Connection {
    out: mpsc::Sender<Out>,
    next_id: u32,
    open: std::sync::Arc<std::sync::Mutex<HashMap<u32, mpsc::Sender<Bytes>>>>,
}

impl Connection {
    /// Starts the connection's two tasks over `io`.
    pub fn new<I: AsyncRead + AsyncWrite + Send + 'static>(io: I) -> Self {
        let (reader, writer) = tokio::io::split(io);
        let (out, queue) = mpsc::channel(WAITING);
        let open = std::sync::Arc::default();
        tokio::spawn(write(writer, queue));
        tokio::spawn(read(reader, std::sync::Arc::clone(&open), out.downgrade()));
        Self { out, next_id: 1, open }
    }

    /// Opens a stream.
    pub async fn stream(&mut self, headers: &[(&str, &str)]) -> (Sender, Receiver) {
        let id = self.next_id;
        self.next_id += 2;
        let (sender, receiver) = mpsc::channel(WAITING);
        self.open.lock().expect("no panic while the table is locked").insert(id, sender);
        let headers = headers.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        // A connection that is gone shows in the receiver, which then ends at once.
        let _ = self.out.send(Out::Open { id, headers, fin: false }).await;
        (Sender { id, out: self.out.clone() }, Receiver(receiver))
    }
}

fn control(kind: u16, flags: u8, body: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(8 + body.len());
    frame.extend((0x8003u16).to_be_bytes());
    frame.extend(kind.to_be_bytes());
    frame.extend(length(flags, body.len()));
    frame.extend(body);
    frame
}

/// Flags and a 24-bit length.
fn length(flags: u8, length: usize) -> [u8; 4] {
    let [_, a, b, c] = u32::try_from(length).expect("frames are short").to_be_bytes();
    [flags, a, b, c]
}

/// The name/value block of a SYN_STREAM. One compressor serves the connection's whole life; a zlib stream that names no
/// dictionary is one that needs none.
fn header_block(compress: &mut Compress, headers: &[(String, String)]) -> io::Result<Vec<u8>> {
    let mut plain = Vec::new();
    let number = |n: usize| u32::try_from(n).map(u32::to_be_bytes).map_err(io::Error::other);
    plain.extend(&number(headers.len())?);
    for (name, value) in headers {
        plain.extend(&number(name.len())?);
        plain.extend(name.to_ascii_lowercase().as_bytes());
        plain.extend(&number(value.len())?);
        plain.extend(value.as_bytes());
    }
    let mut block = Vec::with_capacity(plain.len() + 64);
    compress.compress_vec(&plain, &mut block, FlushCompress::Sync)?;
    Ok(block)
}

async fn write(mut io: impl AsyncWrite + Unpin, mut queue: mpsc::Receiver<Out>) {
    let mut compress = Compress::new(Compression::fast(), true);
    while let Some(out) = queue.recv().await {
        let written = match out {
            Out::Open { id, headers, fin } => match header_block(&mut compress, &headers) {
                Ok(block) => {
                    let mut body = Vec::with_capacity(10 + block.len());
                    body.extend(id.to_be_bytes());
                    body.extend([0u8; 6]);
                    body.extend(block);
                    io.write_all(&control(SYN_STREAM, if fin { FIN } else { 0 }, &body)).await
                }
                Err(error) => Err(error),
            },
            Out::Data { id, data, fin } => write_data(&mut io, id, &data, fin).await,
            Out::Pong(id) => io.write_all(&control(PING, 0, &id.to_be_bytes())).await,
        };
        if written.is_err() || io.flush().await.is_err() {
            return;
        }
    }
    let _ = io.shutdown().await;
}

async fn write_data(io: &mut (impl AsyncWrite + Unpin), id: u32, data: &[u8], fin: bool) -> io::Result<()> {
    let mut pieces = data.chunks(64 * 1024).peekable();
    if pieces.peek().is_none() {
        io.write_all(&id.to_be_bytes()).await?;
        return io.write_all(&length(if fin { FIN } else { 0 }, 0)).await;
    }
    while let Some(piece) = pieces.next() {
        let flags = if fin && pieces.peek().is_none() { FIN } else { 0 };
        io.write_all(&id.to_be_bytes()).await?;
        io.write_all(&length(flags, piece.len())).await?;
        io.write_all(piece).await?;
    }
    Ok(())
}

type Open = std::sync::Arc<std::sync::Mutex<HashMap<u32, mpsc::Sender<Bytes>>>>;

async fn read(mut io: impl AsyncRead + Unpin, open: Open, out: mpsc::WeakSender<Out>) {
    let end = |id: u32| open.lock().expect("no panic while the table is locked").remove(&id);
    loop {
        let mut head = [0u8; 8];
        if io.read_exact(&mut head).await.is_err() {
            break;
        }
        let size = u32::from_be_bytes([0, head[5], head[6], head[7]]) as usize;
        if size > LARGEST {
            break;
        }
        let mut body = vec![0; size];
        if io.read_exact(&mut body).await.is_err() {
            break;
        }
        let first = |body: &[u8]| body.first_chunk::<4>().map(|b| u32::from_be_bytes(*b) & 0x7fff_ffff);
        if head[0] & 0x80 == 0 {
            let id = u32::from_be_bytes([head[0], head[1], head[2], head[3]]);
            let to = open.lock().expect("no panic while the table is locked").get(&id).cloned();
            if let Some(to) = to.filter(|_| !body.is_empty()) {
                // A reader that is gone wants no more of this stream; the others go on.
                let _ = to.send(body.into()).await;
            }
            if head[4] & FIN != 0 {
                end(id);
            }
            continue;
        }
        match (u16::from_be_bytes([head[2], head[3]]), first(&body)) {
            (RST_STREAM, Some(id)) => {
                end(id);
            }
            (PING, Some(id)) => {
                if let Some(out) = out.upgrade() {
                    let _ = out.send(Out::Pong(id)).await;
                }
            }
            (GOAWAY, _) => break,
            // A reply to our SYN_STREAM may end the peer's half at once.
            (2, Some(id)) if head[4] & FIN != 0 => {
                end(id);
            }
            _ => {}
        }
    }
    open.lock().expect("no panic while the table is locked").clear();
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::{Decompress, FlushDecompress};

    #[tokio::test]
    async fn a_stream_is_opened_written_and_read() {
        let (ours, mut theirs) = tokio::io::duplex(64 * 1024);
        let mut connection = Connection::new(ours);
        let (sender, mut receiver) = connection.stream(&[("streamType", "stdin")]).await;
        assert!(sender.send(Bytes::from_static(b"hello")).await);
        assert!(sender.finish().await);

        let mut head = [0u8; 8];
        theirs.read_exact(&mut head).await.unwrap();
        assert_eq!(&head[..5], &[0x80, 3, 0, 1, 0]);
        let mut body = vec![0; usize::from(head[7])];
        theirs.read_exact(&mut body).await.unwrap();
        assert_eq!(&body[..4], &[0, 0, 0, 1]);
        let mut plain = Vec::with_capacity(256);
        Decompress::new(true).decompress_vec(&body[10..], &mut plain, FlushDecompress::Sync).unwrap();
        assert_eq!(plain, b"\0\0\0\x01\0\0\0\x0astreamtype\0\0\0\x05stdin");

        let mut data = [0u8; 8 + 5 + 8];
        theirs.read_exact(&mut data).await.unwrap();
        assert_eq!(&data[..13], b"\0\0\0\x01\0\0\0\x05hello");
        assert_eq!(&data[13..], &[0, 0, 0, 1, FIN, 0, 0, 0]);

        theirs.write_all(b"\0\0\0\x01\x01\0\0\x03bye").await.unwrap();
        assert_eq!(receiver.next().await.unwrap(), "bye");
        assert_eq!(receiver.next().await, None);
    }

    #[tokio::test]
    async fn a_ping_is_answered_and_a_lost_peer_ends_every_stream() {
        let (ours, mut theirs) = tokio::io::duplex(1024);
        let mut connection = Connection::new(ours);
        theirs.write_all(&control(PING, 0, &7u32.to_be_bytes())).await.unwrap();
        let mut pong = [0u8; 12];
        theirs.read_exact(&mut pong).await.unwrap();
        assert_eq!(pong, *control(PING, 0, &7u32.to_be_bytes()));
        let (_sender, mut receiver) = connection.stream(&[]).await;
        drop(theirs);
        assert_eq!(receiver.next().await, None);
    }
}
